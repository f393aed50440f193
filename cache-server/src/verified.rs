//! Remembers which chunks of which files were found whole, so that later reads need not hash them again.
//!
//! What is remembered is bound to the file's seal (inode, size, times): a file that was written since, or put there anew, is verified anew.
//! A disk can damage a file without that showing in its seal; so what is remembered is forgotten after a while.

use crate::storage::Seal;
use preheat_image::Digest;
use preheat_image::chunks::CHUNK_SIZE;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes that an entry takes beside its bits, roughly.
const ENTRY: u64 = 256;

type Key = (Digest, Seal);

/// What was verified.
pub(crate) struct Verified {
    files: Cache<Key, Arc<Chunks>, Weight>,
    max_age: Duration,
}

/// Which chunks of a file were verified.
#[derive(Debug)]
pub(crate) struct Chunks {
    since: Instant,
    words: Box<[AtomicU64]>,
}

#[derive(Debug, Clone)]
struct Weight;

impl Weighter<Key, Arc<Chunks>> for Weight {
    fn weight(&self, _: &Key, chunks: &Arc<Chunks>) -> u64 {
        ENTRY + chunks.words.len() as u64 * 8
    }
}

impl Verified {
    /// Remembers for `max_age`, in about `bytes` bytes.
    pub(crate) fn new(bytes: u64, max_age: Duration) -> Self {
        let items = usize::try_from(bytes / ENTRY).unwrap_or(usize::MAX).max(1);
        Self { files: Cache::with_weighter(items, bytes.max(ENTRY * 4), Weight), max_age }
    }

    /// What is known of the file with this content and seal: nothing, if it was not seen before or too long ago.
    pub(crate) fn of(&self, digest: &Digest, seal: &Seal) -> Arc<Chunks> {
        let key = (*digest, *seal);
        if let Some(chunks) = self.files.get(&key)
            && chunks.since.elapsed() < self.max_age
        {
            return chunks;
        }
        let count = usize::try_from(seal.size.div_ceil(CHUNK_SIZE as u64)).unwrap_or(usize::MAX).max(1);
        let chunks = Arc::new(Chunks { since: Instant::now(), words: (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() });
        self.files.insert(key, chunks.clone());
        chunks
    }
}

impl Chunks {
    /// Whether the chunk was found whole.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (index % 64)) != 0)
    }

    /// Notes that it is.
    pub(crate) fn set(&self, index: usize) {
        if let Some(word) = self.words.get(index / 64) {
            word.fetch_or(1 << (index % 64), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(inode: u64) -> Seal {
        Seal { inode, size: 100 * CHUNK_SIZE as u64, mtime: 1, ctime: 1 }
    }

    #[test]
    fn what_was_verified_counts_for_one_file_as_it_was() {
        let verified = Verified::new(1 << 20, Duration::from_secs(3600));
        let digest = Digest::of(b"x");
        verified.of(&digest, &seal(1)).set(70);
        assert!(verified.of(&digest, &seal(1)).has(70));
        assert!(!verified.of(&digest, &seal(1)).has(71));
        assert!(!verified.of(&digest, &seal(2)).has(70), "another file");
        assert!(!verified.of(&digest, &Seal { ctime: 2, ..seal(1) }).has(70), "written since");
        assert!(!verified.of(&Digest::of(b"y"), &seal(1)).has(70), "another digest");
    }

    #[test]
    fn what_is_too_old_is_verified_again() {
        let verified = Verified::new(1 << 20, Duration::ZERO);
        verified.of(&Digest::of(b"x"), &seal(1)).set(0);
        assert!(!verified.of(&Digest::of(b"x"), &seal(1)).has(0));
    }

    #[test]
    fn memory_is_bounded() {
        let verified = Verified::new(64 * 1024, Duration::from_secs(3600));
        for inode in 0..10_000 {
            verified.of(&Digest::of(b"x"), &seal(inode)).set(0);
        }
        assert!(verified.files.weight() <= 64 * 1024);
    }
}
