//! Stopping a guest that is running: from another thread, or when its deadline has passed.
//!
//! Code looks at its instance's interrupt page in each loop and function that calls others. To interrupt is to make these pages
//! inaccessible: that costs the guest nothing while nobody does.

use crate::sys::cells::InterruptPage;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The interrupt pages of a store's instances.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    state: Mutex<State>,
    fired: AtomicBool,
    // Pages could not be made accessible again.
    stuck: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<InterruptPage>,
    // The number of the call that is going on; none is 0.
    call: u64,
    calls: u64,
    // Whether no call shall go on any more.
    cancelled: bool,
}

impl Interrupt {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the page of a new instance.
    pub(crate) fn add(&self, page: InterruptPage) {
        let mut state = self.state();
        if self.fired.load(Ordering::Relaxed) {
            stop(&page);
        }
        state.pages.push(page);
    }

    /// A call begins. Its number.
    pub(crate) fn begin(&self) -> u64 {
        let mut state = self.state();
        state.calls += 1;
        state.call = state.calls;
        if state.cancelled && !self.fired.swap(true, Ordering::Relaxed) {
            state.pages.iter().for_each(stop);
        }
        state.call
    }

    /// Stops the call that is going on, if there is one, and each that begins later.
    pub(crate) fn cancel(&self) {
        self.state().cancelled = true;
        self.fire(None);
    }

    /// The call ends; the pages are accessible again.
    pub(crate) fn end(&self) -> io::Result<()> {
        let mut state = self.state();
        state.call = 0;
        if self.fired.swap(false, Ordering::Relaxed) {
            for page in &state.pages {
                page.set(true).inspect_err(|_| self.stuck.store(true, Ordering::Relaxed))?;
            }
        }
        Ok(())
    }

    /// Whether pages may be inaccessible for ever: instances with them are of no use any more.
    pub(crate) fn stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// The store is gone: the pages are others' now.
    pub(crate) fn clear(&self) {
        self.state().pages.clear();
    }

    /// Stops the call with this number, or whichever it is, if it is still going on. Whether it is.
    pub(crate) fn fire(&self, call: Option<u64>) -> bool {
        let state = self.state();
        let going_on = state.call != 0 && call.is_none_or(|call| call == state.call);
        if going_on && !self.fired.swap(true, Ordering::Relaxed) {
            state.pages.iter().for_each(stop);
        }
        going_on
    }

    /// Whether the call that is going on shall stop.
    pub(crate) fn interrupted(&self) -> bool {
        self.fired.load(Ordering::Relaxed)
    }
}

fn stop(page: &InterruptPage) {
    // Only fails when the process has used up its mappings. Then there is no other way to stop the guest, and it must not run on.
    assert!(page.set(false).is_ok(), "can't interrupt a guest: no more mappings");
}

/// Interrupts a store's guest from any thread.
#[derive(Debug, Clone)]
pub struct InterruptHandle(pub(crate) Arc<Interrupt>);

impl InterruptHandle {
    /// Stops the call that is going on with [`TrapCode::Interrupt`](crate::TrapCode::Interrupt), at the next loop or call of the guest if
    /// its code was compiled to look. Returns whether there was a call.
    #[must_use = "a call that has not begun is not stopped"]
    pub fn interrupt(&self) -> bool {
        self.0.fire(None)
    }

    /// Stops the call that is going on, and each later one of the store as soon as it begins: for who does not know whether it has begun.
    pub fn cancel(&self) {
        self.0.cancel();
    }
}

/// A deadline that a thread watches. It is forgotten when this is dropped.
#[derive(Debug)]
pub(crate) struct Watched(Instant, u64);

/// Who waits for what: by time, and a number that no other has.
type Deadlines = BTreeMap<(Instant, u64), (Arc<Interrupt>, u64)>;

static TIMER: Mutex<Timer> = Mutex::new(Timer { deadlines: BTreeMap::new(), next: 0, running: false, wakes_at: None });
static EARLIER: Condvar = Condvar::new();

struct Timer {
    deadlines: Deadlines,
    next: u64,
    running: bool,
    // When the thread looks again by itself.
    wakes_at: Option<Instant>,
}

fn timer() -> MutexGuard<'static, Timer> {
    TIMER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fires `interrupt` for `call` at `deadline`. One thread watches all deadlines of the process; it is started with the first.
///
/// # Errors
/// When the thread can't be started.
pub(crate) fn watch(deadline: Instant, interrupt: Arc<Interrupt>, call: u64) -> io::Result<Watched> {
    let mut timer = timer();
    if !timer.running {
        std::thread::Builder::new().name("preheat-deadlines".into()).spawn(watch_all)?;
        timer.running = true;
    }
    let number = timer.next;
    timer.next += 1;
    timer.deadlines.insert((deadline, number), (interrupt, call));
    if timer.wakes_at.is_none_or(|wakes_at| deadline < wakes_at) {
        EARLIER.notify_one();
    }
    Ok(Watched(deadline, number))
}

impl Drop for Watched {
    fn drop(&mut self) {
        timer().deadlines.remove(&(self.0, self.1));
    }
}

fn watch_all() {
    let mut timer = timer();
    loop {
        let now = Instant::now();
        let earliest = timer.deadlines.first_key_value().map(|((deadline, _), _)| *deadline);
        match earliest {
            Some(deadline) if deadline <= now => {
                if let Some((_, (interrupt, call))) = timer.deadlines.pop_first() {
                    interrupt.fire(Some(call));
                }
            }
            Some(deadline) => {
                timer.wakes_at = Some(deadline);
                timer = EARLIER.wait_timeout(timer, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
            }
            None => {
                timer.wakes_at = None;
                timer = EARLIER.wait(timer).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}
