//! Bytes in flight: so that memory follows a setting and not the number of requests.
//!
//! Whatever holds bytes of a blob holds permits for them: pieces on their way out until the connection has written them, pieces on their way
//! in until storage has them. Nobody holds one piece while waiting for another, and zstd never gets more than half, so waiting always ends.

use crate::error::ApiError;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A small piece, in bytes: one chunk of a blob.
pub(crate) const SMALL_PIECE: usize = preheat_image::chunks::CHUNK_SIZE;
/// A piece while there is room, in bytes.
pub(crate) const LARGE_PIECE: usize = 4 * SMALL_PIECE;

/// Bytes of a permit.
const UNIT: usize = 4096;
/// Buffers of each of the two sizes that are kept for the next piece.
const POOLED: usize = 32;
/// How long a request waits for its first bytes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The bytes that may be in flight.
#[derive(Debug)]
pub(crate) struct Budget {
    permits: Arc<Semaphore>,
    units: usize,
    /// Half of the budget, which is all that zstd gets: it holds memory while it waits for pieces and clients.
    coders: Arc<Semaphore>,
    small: Pool,
    large: Pool,
}

#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self, len: usize) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; len])
    }

    fn give(&self, bytes: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < POOLED {
            kept.push(bytes);
        }
    }
}

/// The permits for some bytes; they come back when it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    _coder: Option<OwnedSemaphorePermit>,
}

/// Bytes with the permits for them. What is in them at first is whatever was in them before.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    budget: Arc<Budget>,
    permit: Option<Permit>,
    /// The turn of the answer that it is a piece of: the next piece is read when this one is gone.
    turn: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of about `bytes`; of at least a MiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT as u64).unwrap_or(usize::MAX).clamp(256, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let coders = Arc::new(Semaphore::new(units / 2));
        Self { permits: Arc::new(Semaphore::new(units)), units, coders, small: Pool::default(), large: Pool::default() }
    }

    /// Bytes that are in flight.
    pub(crate) fn used(&self) -> u64 {
        (self.units.saturating_sub(self.permits.available_permits()) * UNIT) as u64
    }

    /// How large a piece should be now.
    pub(crate) fn piece(&self) -> usize {
        if self.permits.available_permits() < self.units / 2 { SMALL_PIECE } else { LARGE_PIECE }
    }

    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).clamp(1, self.units)).unwrap_or(u32::MAX)
    }

    /// Waits for permits for `bytes`; for all there are, if that is more.
    ///
    /// # Errors
    /// 503 when they do not come in a while.
    pub(crate) async fn acquire(&self, bytes: usize) -> Result<Permit, ApiError> {
        if let Some(permit) = self.try_acquire(bytes) {
            return Ok(permit);
        }
        let permit = tokio::time::timeout(PATIENCE, self.permits.clone().acquire_many_owned(self.units(bytes))).await;
        match permit {
            Ok(Ok(permit)) => Ok(Permit { _permit: permit, _coder: None }),
            _ => Err(ApiError::overloaded("too many bytes are in flight")),
        }
    }

    /// Permits for `bytes`, if they are there at once.
    pub(crate) fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        Some(Permit { _permit: self.permits.clone().try_acquire_many_owned(self.units(bytes)).ok()?, _coder: None })
    }

    /// Waits for permits for a coder that takes `bytes`, its input and its output included.
    ///
    /// # Errors
    /// 503 when they do not come in a while.
    pub(crate) async fn acquire_coder(&self, bytes: usize) -> Result<Permit, ApiError> {
        let coder = tokio::time::timeout(PATIENCE, self.coders.clone().acquire_many_owned(self.coder_units(bytes))).await;
        let Ok(Ok(coder)) = coder else { return Err(ApiError::overloaded("too many compressed uploads are under way")) };
        let permit = self.acquire(bytes).await?;
        Ok(Permit { _coder: Some(coder), ..permit })
    }

    /// Permits for a coder, if they are there at once.
    pub(crate) fn try_acquire_coder(&self, bytes: usize) -> Option<Permit> {
        let coder = self.coders.clone().try_acquire_many_owned(self.coder_units(bytes)).ok()?;
        Some(Permit { _coder: Some(coder), ..self.try_acquire(bytes)? })
    }

    fn coder_units(&self, bytes: usize) -> u32 {
        self.units(bytes).min(u32::try_from(self.units / 2).unwrap_or(u32::MAX))
    }

    /// Waits for a buffer of `len` bytes.
    ///
    /// # Errors
    /// 503 when the permits do not come in a while.
    pub(crate) async fn buffer(self: &Arc<Self>, len: usize) -> Result<Buffer, ApiError> {
        let permit = self.acquire(len).await?;
        let mut buffer = self.covered_buffer(len);
        buffer.permit = Some(permit);
        Ok(buffer)
    }

    /// A buffer of `len` bytes for which the caller holds permits already.
    pub(crate) fn covered_buffer(self: &Arc<Self>, len: usize) -> Buffer {
        let bytes = if len <= 8192 || len > LARGE_PIECE {
            // Zeroing little costs less than keeping it, and much is not asked for.
            vec![0; len]
        } else if len <= SMALL_PIECE {
            self.small.take(SMALL_PIECE)
        } else {
            self.large.take(LARGE_PIECE)
        };
        Buffer { bytes, len, budget: self.clone(), permit: None, turn: None }
    }
}

impl Buffer {
    /// Ends the turn when this buffer is gone.
    pub(crate) fn set_turn(&mut self, turn: OwnedSemaphorePermit) {
        self.turn = Some(turn);
    }

    /// Those of the bytes, without a copy.
    pub(crate) fn slice_in(self, range: std::ops::Range<usize>) -> Bytes {
        let range = range.start.min(self.len)..range.end.min(self.len);
        Bytes::from_owner(self).slice(range)
    }

    /// Keeps the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        match bytes.len() {
            SMALL_PIECE => self.budget.small.give(bytes),
            LARGE_PIECE => self.budget.large.give(bytes),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_back_when_their_buffer_is_gone() {
        let budget = Arc::new(Budget::new(1 << 20));
        let buffer = budget.buffer(LARGE_PIECE).await.unwrap();
        assert_eq!(budget.used(), LARGE_PIECE as u64);
        let bytes = bytes::Bytes::from_owner(buffer);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(budget.used(), LARGE_PIECE as u64, "a slice keeps it all");
        drop(slice);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn pieces_get_small_before_the_budget_is_gone() {
        let budget = Arc::new(Budget::new(1 << 20));
        assert_eq!(budget.piece(), LARGE_PIECE);
        let _half = budget.acquire((1 << 19) + 1).await.unwrap();
        assert_eq!(budget.piece(), SMALL_PIECE);
        assert!(budget.try_acquire(1 << 19).is_none());
    }

    #[tokio::test]
    async fn more_than_everything_is_everything() {
        let budget = Arc::new(Budget::new(1 << 20));
        let all = budget.acquire(1 << 30).await.unwrap();
        assert_eq!(budget.used(), 1 << 20);
        drop(all);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_a_refusal() {
        let budget = Arc::new(Budget::new(1 << 20));
        let _all = budget.acquire(1 << 20).await.unwrap();
        assert_eq!(budget.acquire(1).await.unwrap_err().status, http::StatusCode::SERVICE_UNAVAILABLE);
    }
}
