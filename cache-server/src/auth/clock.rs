//! What time it is, for expiry: the system's clock, or in tests one that stands still until it is moved.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock.
#[derive(Debug, Clone, Default)]
pub(crate) enum Clock {
    /// The system's.
    #[default]
    System,
    /// A test's.
    #[cfg(test)]
    Set(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    /// Seconds since 1970.
    #[must_use]
    pub(crate) fn now(&self) -> u64 {
        match self {
            // A clock before 1970 makes everything not yet valid, which is the safe side.
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            #[cfg(test)]
            Self::Set(now) => now.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}
