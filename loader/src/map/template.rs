//! How a slot begins.

use super::file::MappedFile;
use super::region::PAGE;
use super::windows;
use rustix::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Consecutive pages of a file at the beginning of a slot.
#[derive(Debug, Clone)]
pub struct Run {
    /// Where they go: bytes from the slot's beginning, a multiple of [`PAGE`].
    pub at: usize,
    /// How many bytes, a multiple of [`PAGE`].
    pub len: usize,
    /// Which file.
    pub file: Arc<MappedFile>,
    /// Where they begin in the file, a multiple of [`PAGE`].
    pub offset: usize,
}

impl Run {
    /// The byte behind it.
    pub(super) fn end(&self) -> usize {
        self.at + self.len
    }
}

/// How a slot begins: pages of files, zeros between them, and bytes over both.
#[derive(Debug)]
pub struct Template {
    id: u64,
    len: usize,
    runs: Vec<Run>,
    // What is mapped.
    windows: Vec<Run>,
    // What is not as it should be once the windows are mapped, in whole pages, ascending.
    copies: Vec<Range<usize>>,
    // Bytes over the runs, ascending.
    patches: Vec<(usize, Box<[u8]>)>,
    // What guests will write, in whole pages, ascending.
    written: Vec<Range<usize>>,
}

impl Template {
    /// A slot of which the first `len` bytes can be used (a multiple of [`PAGE`]), with `runs` and zeros between them. At most `mappings`
    /// parts of files are mapped, as few and long ones as make most of it; what they leave or get wrong is copied. The mappings of a process
    /// are limited.
    ///
    /// # Errors
    /// [`io::Errno::INVAL`] when the runs are not ascending, not in whole pages, or not within the length and their files.
    pub fn new(len: usize, runs: Vec<Run>, mappings: usize) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut end = 0;
        for run in &runs {
            let aligned = run.at.is_multiple_of(PAGE) && run.len.is_multiple_of(PAGE) && run.offset.is_multiple_of(PAGE) && run.len > 0;
            // A page that the file's last bytes only begin is zero behind them.
            let file = run.file.bytes().len().next_multiple_of(PAGE);
            let within = run.offset.checked_add(run.len).is_some_and(|contents| contents <= file);
            end =
                Some(run.at).filter(|at| aligned && within && *at >= end).and_then(|at| at.checked_add(run.len)).ok_or(io::Errno::INVAL)?;
        }
        if end > len || !len.is_multiple_of(PAGE) {
            return Err(io::Errno::INVAL);
        }
        let windows = windows::choose(&runs, mappings);
        let copies = windows::left(&runs, &windows);
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), len, runs, windows, copies, patches: Vec::new(), written: Vec::new() })
    }

    /// The same, but short windows are copied, as long as little is copied in all: to map a part of a file and to fault in its pages, the first
    /// time to be read and often a second time to be written, costs more than to copy them into pages that a slot has already.
    ///
    /// Comes before [`Self::with_patches`] and [`Self::with_written`].
    #[must_use]
    pub fn with_short_copied(mut self) -> Self {
        self.windows = windows::long(&self.runs, self.windows);
        self.copies = windows::left(&self.runs, &self.windows);
        self
    }

    /// The same with `patches` over it: bytes, and where they go. They are copied.
    ///
    /// # Errors
    /// [`io::Errno::INVAL`] when they are not ascending, overlap, or do not lie within the length.
    pub fn with_patches(mut self, patches: Vec<(usize, Box<[u8]>)>) -> io::Result<Self> {
        let mut end = 0;
        for (at, bytes) in &patches {
            end = Some(*at).filter(|at| *at >= end).and_then(|at| at.checked_add(bytes.len())).ok_or(io::Errno::INVAL)?;
        }
        if end > self.len {
            return Err(io::Errno::INVAL);
        }
        self.copied(patches.iter().map(|(at, bytes)| *at..at + bytes.len()).collect());
        self.patches = patches;
        Ok(self)
    }

    /// The same, and guests will write what is in `ranges` (bytes from the slot's beginning): a slot that is made ahead gets these pages at
    /// once. One that is made when it is needed does not: there a page of its own costs the same at once as when it is written, and not all of
    /// them will be. What lies beyond the length does not count.
    #[must_use]
    pub fn with_written(mut self, ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        self.written = whole(ranges.into_iter().map(|range| range.start.min(self.len)..range.end.min(self.len)));
        self
    }

    /// Adds ranges to what is copied.
    fn copied(&mut self, ranges: Vec<Range<usize>>) {
        self.copies = whole(ranges.into_iter().chain(self.copies.drain(..)));
    }

    /// A number that no other template of this process has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many bytes can be used at first.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing can be used at first.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many mappings a slot has with it at most: one for each part of a file that is mapped and for what is between them, and the rest.
    #[must_use]
    pub fn mappings(&self) -> usize {
        2 * self.windows.len() + 2
    }

    /// How many bytes are copied into a slot before it is used.
    #[must_use]
    pub fn copied_bytes(&self) -> usize {
        self.copies.iter().map(Range::len).sum()
    }

    /// How many parts of files are mapped.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// What guests will write, in whole pages.
    pub(super) fn written(&self) -> &[Range<usize>] {
        &self.written
    }

    /// What is mapped.
    pub(super) fn mapped(&self) -> &[Run] {
        &self.windows
    }

    /// Writes what is not right in `range` of a slot, whose bytes are `bytes`, once the windows are mapped.
    pub(super) fn copy(&self, range: &Range<usize>, bytes: &mut [u8]) {
        let first = self.copies.partition_point(|copy| copy.end <= range.start);
        for copy in self.copies[first..].iter().take_while(|copy| copy.start < range.end) {
            let part = copy.start.max(range.start)..copy.end.min(range.end);
            self.restore(part.start, &mut bytes[part]);
        }
    }

    /// Writes to `target`, the pages of a slot from byte `at` on, what they are at first.
    pub(super) fn restore(&self, at: usize, target: &mut [u8]) {
        let mut done = 0;
        let first = self.runs.partition_point(|run| run.end() <= at);
        for run in &self.runs[first..] {
            let start = run.at.max(at) - at;
            if start >= target.len() {
                break;
            }
            target[done..start].fill(0);
            let end = (run.end() - at).min(target.len());
            let from = run.offset + (at + start - run.at);
            let copied = start + run.file.copy(from, &mut target[start..end]);
            target[copied..end].fill(0);
            done = end;
        }
        target[done..].fill(0);
        let end = at + target.len();
        let first = self.patches.partition_point(|(place, bytes)| place + bytes.len() <= at);
        for (place, bytes) in self.patches[first..].iter().take_while(|(place, _)| *place < end) {
            let part = (*place).max(at)..(place + bytes.len()).min(end);
            target[part.start - at..part.end - at].copy_from_slice(&bytes[part.start - place..part.end - place]);
        }
    }
}

/// The pages that have something in them of these ranges, ascending, with those joined that touch.
fn whole(ranges: impl Iterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let ranges = ranges.filter(|range| !range.is_empty());
    let mut all: Vec<Range<usize>> = ranges.map(|range| range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE)).collect();
    all.sort_by_key(|range| range.start);
    windows::joined(all.into_iter())
}
