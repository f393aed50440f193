//! Ending a call from another thread.

use preheat_native::InterruptHandle;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Ends a call from another thread, whether the guest runs or waits, or the call has not begun. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Ends the guest's waits.
    flag: Arc<AtomicBool>,
    /// Ends its loops.
    guest: Mutex<Option<InterruptHandle>>,
}

impl Cancellation {
    /// Nothing is cancelled yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels. The call ends soon with an error; its instance can't be used again.
    pub fn cancel(&self) {
        self.inner.flag.store(true, Ordering::SeqCst);
        if let Some(guest) = &*self.inner.guest.lock().unwrap_or_else(PoisonError::into_inner) {
            guest.cancel();
        }
    }

    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inner.flag)
    }

    /// From now on this guest is what ends.
    pub(crate) fn attach(&self, guest: InterruptHandle) {
        let mut place = self.inner.guest.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever cancelled before found no guest. Whoever does it from now on waits for the lock and finds this one.
        if self.inner.flag.load(Ordering::SeqCst) {
            guest.cancel();
        }
        *place = Some(guest);
    }
}
