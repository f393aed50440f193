//! What a snapshot and its bases are together.

use super::{HeapSnapshot, PAGE};

/// Consecutive pages of a memory that come from one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Number of the first page in the memory.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// Which of the snapshots.
    pub layer: usize,
    /// Where the contents are in that snapshot's file.
    pub offset: u64,
}

impl Piece {
    fn end(&self) -> u64 {
        self.first + self.pages
    }

    /// The part of it in these pages, if there is any.
    fn part(&self, first: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.first.max(first), self.end().min(end));
        let skipped = from.checked_sub(self.first)?;
        (from < to).then(|| Self { first: from, pages: to - from, offset: self.offset + skipped * PAGE as u64, ..*self })
    }
}

/// The pages of the memory with index `memory` in the module, as the last of `layers` has it: each layer is over the one before, the first
/// over nothing. Ascending; what no piece covers is zero. A page that two layers have is the later one's.
#[must_use]
pub fn flatten(layers: &[HeapSnapshot<'_>], memory: u32) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (layer, snapshot) in layers.iter().enumerate() {
        let Ok(position) = snapshot.memories().binary_search_by_key(&memory, |memory| memory.index.get()) else {
            pieces.clear();
            continue;
        };
        // What lies behind the end is zero if the memory is larger again in a later layer.
        let size = snapshot.memories()[position].size.get() / PAGE as u64;
        let of_memory = |run: &&super::Run| usize::try_from(run.memory.get()) == Ok(position);
        let mut next = Vec::with_capacity(pieces.len());
        let mut below = pieces.iter().copied();
        let mut current = below.next();
        let mut done = 0;
        // Takes over what is below in `done..end`.
        let mut keep = |next: &mut Vec<Piece>, done: u64, end: u64| {
            while let Some(piece) = current {
                next.extend(piece.part(done, end));
                if piece.end() > end {
                    break;
                }
                current = below.next();
            }
        };
        for run in snapshot.runs().iter().filter(of_memory) {
            let (first, pages) = (run.first.get(), u64::from(run.pages.get()));
            keep(&mut next, done, first);
            if !run.is_zero() {
                next.push(Piece { first, pages, layer, offset: run.offset.get() });
            }
            done = first + pages;
        }
        keep(&mut next, done, size);
        pieces = next;
    }
    pieces
}
