//! Bytes in flight: so that memory follows a setting and not the number of requests.
//!
//! Whatever holds bytes of a blob holds permits for them: pieces on their way out until the connection has written them, pieces on their way
//! in until storage has them. Nobody holds one piece while waiting for another, so waiting always ends.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a permit.
const UNIT: usize = 4096;
/// Buffers that are kept for the next piece.
const POOLED: usize = 64;

/// The bytes that may be in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    units: usize,
    pool: Mutex<Vec<Vec<u8>>>,
}

/// The permits for some bytes; they come back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of about `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT as u64).unwrap_or(usize::MAX).clamp(256, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        Self { permits: Arc::new(Semaphore::new(units)), units, pool: Mutex::new(Vec::new()) }
    }

    /// Bytes that are in flight.
    pub(crate) fn used(&self) -> u64 {
        (self.units.saturating_sub(self.permits.available_permits()) * UNIT) as u64
    }

    /// Whether less than half is left: pieces should be small.
    pub(crate) fn tight(&self) -> bool {
        self.permits.available_permits() < self.units / 2
    }

    /// Waits for permits for `bytes`; for all there are, if that is more.
    pub(crate) async fn acquire(&self, bytes: usize) -> Permit {
        let units = u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.units)).unwrap_or(u32::MAX);
        loop {
            // The semaphore is never closed.
            if let Ok(permit) = self.permits.clone().acquire_many_owned(units).await {
                return Permit { _permit: permit };
            }
        }
    }

    /// Permits for `bytes`, if they are there at once.
    pub(crate) fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let units = u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.units)).ok()?;
        Some(Permit { _permit: self.permits.clone().try_acquire_many_owned(units).ok()? })
    }

    /// A buffer of `len` bytes, whatever is in them.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&self, buffer: Vec<u8>) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < POOLED {
            pool.push(buffer);
        }
    }
}
