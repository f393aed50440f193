//! Where a guest's output goes.

use bytes::Bytes;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a guest's output goes.
#[derive(Debug, Clone, Default)]
pub enum Output {
    /// Nowhere.
    #[default]
    Discard,
    /// Into the process's own stream.
    Inherit,
    /// Into memory, see [`Output::buffer`].
    Buffer(OutputBuffer),
}

/// Output kept in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputBuffer {
    max: usize,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Output {
    /// An output that is kept in memory, and the buffer to read it from afterwards. What a guest writes beyond `max` bytes is refused with an
    /// error that it sees.
    #[must_use]
    pub fn buffer(max: usize) -> (Self, OutputBuffer) {
        let buffer = OutputBuffer { max, bytes: Arc::default() };
        (Self::Buffer(buffer.clone()), buffer)
    }
}

impl OutputBuffer {
    /// What was written so far.
    #[must_use]
    pub fn contents(&self) -> Bytes {
        Bytes::copy_from_slice(&self.lock())
    }

    /// Most bytes that it takes.
    #[must_use]
    pub fn max(&self) -> usize {
        self.max
    }

    /// The bytes themselves, for engines: they append to them, to [`OutputBuffer::max`] at most.
    #[must_use]
    pub fn shared(&self) -> &Arc<Mutex<Vec<u8>>> {
        &self.bytes
    }

    /// How many bytes it still takes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.max.saturating_sub(self.lock().len())
    }

    /// Appends what fits, and says whether that was all.
    #[must_use]
    pub fn append(&self, bytes: &[u8]) -> bool {
        let mut all = self.lock();
        let fits = bytes.len().min(self.max.saturating_sub(all.len()));
        all.extend_from_slice(&bytes[..fits]);
        fits == bytes.len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A vector of bytes has no state in between that a panic could leave.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_keeps_what_fits_and_says_that_it_is_full() {
        let (_, buffer) = Output::buffer(5);
        assert!(buffer.append(b"abc") && buffer.room() == 2);
        assert!(!buffer.append(b"def"));
        assert_eq!((&*buffer.contents(), buffer.room()), (&b"abcde"[..], 0));
    }
}
