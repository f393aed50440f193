//! The clock behind deadlines and cancellation: while calls run, the engine's epoch advances, and guests look up from their loops.

use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use wasmtime::Engine;

/// How often guests look up; deadlines are kept to about this precision.
const TICK: Duration = Duration::from_millis(2);
/// How many ticks without a call the thread waits before it sleeps for good. Waking it costs a call more than some ticks cost the process.
const IDLE_TICKS: u32 = 50;

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call`, a synchronous one: calls of guests in it have the thread to themselves and can't be cancelled, so that without a deadline
/// they need not look up. A clock that ticks costs even who does not read it: its thread wakes on another processor, and every change of
/// a mapping must then be told there too.
pub fn alone<T>(call: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    call()
}

/// Whether calls on this thread have it to themselves.
pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Calls that run now.
    active: usize,
    /// Whether the thread was made.
    running: bool,
    /// Whether the thread sleeps until it is woken.
    asleep: bool,
    /// Whether the engine is gone.
    ended: bool,
}

/// Makes time pass for an engine. Its thread begins with the first call and sleeps while there is none.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
}

/// While one of these lives, time passes.
pub(crate) struct Ticking {
    shared: Arc<Shared>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticker {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    pub(crate) fn start(&self, engine: &Engine) -> Ticking {
        let mut state = self.shared.lock();
        state.active += 1;
        if !state.running {
            state.running = true;
            let (shared, engine) = (Arc::clone(&self.shared), engine.weak());
            std::thread::spawn(move || tick(&shared, &engine));
        }
        let asleep = state.asleep;
        drop(state);
        if asleep {
            self.shared.changed.notify_one();
        }
        Ticking { shared: Arc::clone(&self.shared) }
    }
}

fn tick(shared: &Shared, engine: &wasmtime::EngineWeak) {
    let mut idle = 0;
    let mut state = shared.lock();
    while !state.ended {
        idle = if state.active == 0 { idle + 1 } else { 0 };
        state = if idle > IDLE_TICKS {
            state.asleep = true;
            shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
        } else {
            shared.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
        };
        state.asleep = false;
        if state.active > 0 {
            // Without the engine there is nobody left to look up, and the ticker's end is near.
            engine.upgrade().inspect(Engine::increment_epoch);
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Ticking {
    fn drop(&mut self) {
        self.shared.lock().active -= 1;
    }
}
