//! Waits, and how the embedder ends them.

use crate::error::{Failure, Stop};
use rustix::event::{PollFd, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a wait looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(5);

/// What ends the waits of a guest: a moment, a flag that another thread sets, both, or by default nothing.
///
/// Neither needs a thread or a timer for each guest. A wait ends at the moment, or within 5 ms after the flag is set.
#[derive(Debug, Default, Clone)]
pub struct Interrupt {
    deadline: Option<Instant>,
    flag: Option<Arc<AtomicBool>>,
}

impl Interrupt {
    /// Nothing ends waits.
    #[must_use]
    pub fn never() -> Self {
        Self::default()
    }

    /// Waits end at this moment.
    #[must_use]
    pub fn at(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Waits end when the flag is true.
    #[must_use]
    pub fn when(mut self, flag: Arc<AtomicBool>) -> Self {
        self.flag = Some(flag);
        self
    }

    /// Whether waits may end early, so that no system call must wait on its own.
    pub(crate) fn is_armed(&self) -> bool {
        self.deadline.is_some() || self.flag.is_some()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now) || self.flag.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// For the loops over what a guest counts: asks for the time once in a while, by the number of the round.
    pub(crate) fn check(&self, round: usize) -> Result<(), Failure> {
        const ROUNDS: usize = 4096;
        if round % ROUNDS == ROUNDS - 1 && self.is_armed() && self.is_due(Instant::now()) { Err(Stop::Interrupted.into()) } else { Ok(()) }
    }

    /// Between the pieces of long work.
    pub(crate) fn check_now(&self) -> Result<(), Failure> {
        if self.is_armed() && self.is_due(Instant::now()) { Err(Stop::Interrupted.into()) } else { Ok(()) }
    }

    /// Waits until one of `fds` is ready or `timeout` is over; none means forever. Sets the returned events in `fds`.
    pub(crate) fn wait(&self, fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let now = Instant::now();
            if self.is_due(now) {
                return Err(Stop::Interrupted.into());
            }
            let rest = timeout.map(|timeout| timeout.saturating_sub(now - start));
            let mut slice = rest;
            if let Some(deadline) = self.deadline {
                slice = Some(slice.map_or(deadline - now, |slice| slice.min(deadline - now)));
            }
            if self.flag.is_some() {
                slice = Some(slice.map_or(TICK, |slice| slice.min(TICK)));
            }
            // What is too long for the system's type is as good as forever.
            let time = slice.and_then(|slice| Timespec::try_from(slice).ok());
            match poll(fds, time.as_ref()) {
                Ok(0) if rest.is_some_and(|rest| slice.is_some_and(|slice| slice >= rest)) => return Ok(()),
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(interrupt: &Interrupt, timeout: Option<Duration>) -> (Duration, bool) {
        let start = Instant::now();
        let result = interrupt.wait(&mut [], timeout);
        (start.elapsed(), matches!(result, Err(Failure::Stop(Stop::Interrupted))))
    }

    #[test]
    fn a_wait_ends_at_its_timeout() {
        let (time, interrupted) = waited(&Interrupt::never(), Some(Duration::from_millis(20)));
        assert!(time >= Duration::from_millis(20) && !interrupted);
        let flag = Arc::new(AtomicBool::new(false));
        let (time, interrupted) = waited(&Interrupt::never().when(flag), Some(Duration::from_millis(20)));
        assert!(time >= Duration::from_millis(20) && !interrupted);
    }

    #[test]
    fn a_deadline_ends_a_longer_wait_and_not_a_shorter_one() {
        let interrupt = Interrupt::never().at(Instant::now() + Duration::from_millis(30));
        assert!(!waited(&interrupt, Some(Duration::from_millis(1))).1);
        assert!(waited(&interrupt, None).1);
        // The moment is over: the next wait does not begin.
        assert!(waited(&interrupt, Some(Duration::ZERO)).1);
    }

    #[test]
    fn a_flag_ends_a_wait_soon() {
        let flag = Arc::new(AtomicBool::new(false));
        let setter = std::thread::spawn({
            let flag = Arc::clone(&flag);
            move || {
                std::thread::sleep(Duration::from_millis(30));
                flag.store(true, Ordering::Relaxed);
                Instant::now()
            }
        });
        let interrupt = Interrupt::never().when(flag);
        assert!(waited(&interrupt, Some(Duration::MAX)).1);
        let late = setter.join().unwrap().elapsed();
        assert!(late < Duration::from_millis(50), "{late:?}");
    }
}
