//! Where text is: for whoever has a program counter and can't take a lock.

use preheat_loader::map::MappedCode;
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The texts of all loaded modules.
pub(crate) static TEXTS: Registry = Registry::new();

/// Entries of the first chunk; each chunk has twice as many as the one before, so that a process with one module pays for few.
const FIRST: usize = 16;
/// Chunks: a million entries.
const CHUNKS: usize = 16;
const MOST: usize = FIRST * ((1 << CHUNKS) - 1);

/// The chunk of an entry, and its place there.
fn place(index: usize) -> (usize, usize) {
    // Chunk n begins with entry FIRST * (2^n - 1).
    let chunk = (index / FIRST + 1).ilog2() as usize;
    (chunk, index - FIRST * ((1 << chunk) - 1))
}

/// A list that is changed under a lock and read without one, also in a signal handler that has interrupted a change. Entries are reused.
#[derive(Debug)]
pub(crate) struct Registry {
    chunks: [OnceLock<Box<[Entry]>>; CHUNKS],
    // How many entries were ever used.
    used: AtomicUsize,
    free: Mutex<Vec<usize>>,
}

/// An entry. Its version is odd while it is changed; a reader that sees another version afterwards than before has seen nothing.
#[derive(Debug, Default)]
struct Entry {
    version: AtomicU64,
    start: AtomicU64,
    end: AtomicU64,
    code: AtomicPtr<MappedCode>,
}

/// What was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Addresses of the text.
    pub(crate) text: Range<u64>,
    /// The code object. It is there while code of it runs.
    pub(crate) code: *const MappedCode,
}

impl Registry {
    const fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS], used: AtomicUsize::new(0), free: Mutex::new(Vec::new()) }
    }

    /// Adds a text and returns where it is in the list; `None` if a million are there.
    pub(crate) fn add(&self, text: &Range<usize>, code: *const MappedCode) -> Option<usize> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = free.pop().or_else(|| Some(self.used.load(Ordering::Relaxed)).filter(|index| *index < MOST))?;
        let (number, at) = place(index);
        let chunk = self.chunks[number].get_or_init(|| (0..FIRST << number).map(|_| Entry::default()).collect());
        chunk[at].change(text, code);
        self.used.fetch_max(index + 1, Ordering::Release);
        Some(index)
    }

    /// Removes what [`Self::add`] put there.
    pub(crate) fn remove(&self, index: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (number, at) = place(index);
        if let Some(chunk) = self.chunks[number].get() {
            chunk[at].change(&(0..0), std::ptr::null());
            free.push(index);
        }
    }

    /// The text that has the byte at `address`.
    pub(crate) fn find(&self, address: u64) -> Option<Found> {
        let used = self.used.load(Ordering::Acquire);
        // Chunks are made one after the other.
        let entries = self.chunks.iter().map_while(OnceLock::get).flat_map(|chunk| chunk.iter());
        entries.take(used).find_map(|entry| entry.read().filter(|found| found.text.contains(&address)))
    }
}

impl Entry {
    fn change(&self, text: &Range<usize>, code: *const MappedCode) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(text.start as u64, Ordering::Relaxed);
        self.end.store(text.end as u64, Ordering::Relaxed);
        self.code.store(code.cast_mut(), Ordering::Relaxed);
        self.version.store(version + 2, Ordering::Release);
    }

    /// `None` while it is changed: text that is being added or removed does not run.
    fn read(&self) -> Option<Found> {
        let version = self.version.load(Ordering::Acquire);
        let text = self.start.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed);
        let code = self.code.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        (version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version).then_some(Found { text, code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_follow_each_other_without_a_gap() {
        let mut next = (0, 0);
        for index in 0..MOST {
            assert_eq!(place(index), next);
            next = if next.1 + 1 == FIRST << next.0 { (next.0 + 1, 0) } else { (next.0, next.1 + 1) };
        }
        assert_eq!(next, (CHUNKS, 0));
    }

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let registry = Box::new(Registry::new());
        let indices: Vec<_> = (1..1000).map(|n| registry.add(&(n * 100..n * 100 + 50), std::ptr::null()).unwrap()).collect();
        assert_eq!(registry.find(99_949).unwrap().text, 99_900..99_950);
        assert_eq!(registry.find(100).unwrap().text, 100..150);
        assert!(registry.find(99).is_none() && registry.find(150).is_none() && registry.find(100_000).is_none());
        registry.remove(indices[0]);
        assert!(registry.find(100).is_none());
        assert_eq!(registry.add(&(7..8), std::ptr::null()), Some(indices[0]));
        assert!(registry.find(7).is_some());
    }

    #[test]
    fn never_shows_half_of_a_change() {
        let registry = Box::new(Registry::new());
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The two texts have nothing in common; half of each would have everything between them.
                for round in 0..200_000u64 {
                    let at = if round % 2 == 0 { 10 } else { 1000 };
                    let index = registry.add(&(at..at + 10), std::ptr::null()).unwrap();
                    registry.remove(index);
                }
                stop.store(true, Ordering::Relaxed);
            });
            while !stop.load(Ordering::Relaxed) {
                assert!(registry.find(500).is_none());
            }
        });
    }
}
