//! Address space for one memory or table.

#![allow(unsafe_code)]

use super::areas::Areas;
use super::dirty::{Method, Scanner};
use super::file::MappedFile;
use super::region::{Access, PAGE, Region};
use rustix::io;
use std::ops::Range;
use std::ptr::NonNull;
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

/// How a slot begins.
#[derive(Debug)]
pub struct Template {
    id: u64,
    len: usize,
    runs: Vec<Run>,
    // By position in `runs`: whether it is mapped, else copied.
    mapped: Vec<bool>,
}

impl Template {
    /// A slot of which the first `len` bytes can be used (a multiple of [`PAGE`]), with `runs` and zeros between them. At most
    /// `mappings` of the runs, the longest, are mapped; the others are copied, since the mappings of a process are limited.
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
        let mut by_length: Vec<usize> = (0..runs.len()).collect();
        by_length.sort_by_key(|index| std::cmp::Reverse(runs[*index].len));
        let mut mapped = vec![false; runs.len()];
        by_length.iter().take(mappings).for_each(|index| mapped[*index] = true);
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), len, runs, mapped })
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

    /// How many mappings a slot has with it at most: one for each run that is mapped and for what is between them, and the rest.
    #[must_use]
    pub fn mappings(&self) -> usize {
        2 * self.mapped.iter().filter(|mapped| **mapped).count() + 2
    }

    /// Writes to `target`, the pages of a slot from byte `at` on, what they are at first.
    fn restore(&self, at: usize, target: &mut [u8]) {
        let mut done = 0;
        let first = self.runs.partition_point(|run| run.at + run.len <= at);
        for run in &self.runs[first..] {
            let start = run.at.max(at) - at;
            if start >= target.len() {
                break;
            }
            target[done..start].fill(0);
            let end = (run.at + run.len - at).min(target.len());
            let from = run.offset + (at + start - run.at);
            let contents = run.file.bytes().get(from..).unwrap_or_default();
            let contents = &contents[..contents.len().min(end - start)];
            target[start..start + contents.len()].copy_from_slice(contents);
            target[start + contents.len()..end].fill(0);
            done = end;
        }
        target[done..].fill(0);
    }
}

/// Address space of which a first part can be used, as much as the guest has grown it to. Its beginning is what its template says.
#[derive(Debug)]
pub struct Slot {
    region: Region,
    template: Option<Arc<Template>>,
    // The first bytes that can be read and written.
    open: usize,
    // The first bytes that may have pages in memory.
    reach: usize,
    // Where the guests of this template wrote, if that helps.
    areas: Areas,
}

impl Slot {
    /// A slot of `reservation` bytes that has no template yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn reserve(reservation: usize) -> io::Result<Self> {
        Ok(Self { region: Region::reserve(reservation)?, template: None, open: 0, reach: 0, areas: Areas::default() })
    }

    pub(super) fn template(&self) -> Option<&Arc<Template>> {
        self.template.as_ref()
    }

    /// Makes it what `template` says, whatever it was.
    pub(super) fn shape(&mut self, template: &Arc<Template>) -> io::Result<()> {
        if self.template.take().is_some() {
            self.region.clear(0..self.reach)?;
            (self.open, self.reach, self.areas) = (0, 0, Areas::default());
        }
        self.region.protect(0..template.len, Access::ReadWrite)?;
        (self.open, self.reach) = (template.len, template.len);
        for (run, _) in template.runs.iter().zip(&template.mapped).filter(|(_, mapped)| **mapped) {
            self.region.map_file(run.at..run.at + run.len, run.file.file(), run.offset as u64)?;
        }
        self.copy_runs(template, &(0..template.len));
        self.template = Some(template.clone());
        Ok(())
    }

    /// Writes the runs that are not mapped, where they are in `range`.
    fn copy_runs(&mut self, template: &Template, range: &Range<usize>) {
        for (run, _) in template.runs.iter().zip(&template.mapped).filter(|(_, mapped)| !**mapped) {
            let part = run.at.max(range.start)..(run.at + run.len).min(range.end);
            if !part.is_empty() {
                template.restore(part.start, &mut self.bytes_mut()[part]);
            }
        }
    }

    /// Makes it what it was before it was used. Up to `keep` written pages stay in memory, those that it was grown by included: the next
    /// guest writes to them without a page fault.
    pub(super) fn reset(&mut self, scanner: &Scanner, keep: usize) -> io::Result<()> {
        let Some(template) = self.template.clone() else { return Ok(()) };
        let open = self.open;
        let places = match scanner.method() {
            Method::Scan => std::iter::once(0..open).collect(),
            Method::Pagemap => self.areas.next(open),
            Method::Remap => vec![],
        };
        let (mut left, mut whole) = (keep, true);
        // All before it is as it was.
        let mut done = 0;
        for place in places {
            self.forget(&template, done..place.start)?;
            done = place.start;
            match self.restore(&template, place.clone(), scanner, left, &mut done) {
                Some(pages) => (left, done) = (left - pages, place.end),
                None => {
                    whole = false;
                    break;
                }
            }
        }
        self.areas.end(whole);
        self.forget(&template, done..open)?;
        if open > template.len {
            self.region.protect(template.len..open, Access::None)?;
            self.open = template.len;
        }
        Ok(())
    }

    /// Restores the pages that were written in `range`, at most `most`, and says how many; `done` goes up to the end of the last one. `None`
    /// if there are more, or they can't be found: then some are restored, which come before all that are not.
    fn restore(&mut self, template: &Template, range: Range<usize>, scanner: &Scanner, most: usize, done: &mut usize) -> Option<usize> {
        let base = self.region.base().as_ptr().addr();
        // SAFETY: the pages are accessible; a slot that is being reset is in nobody else's use.
        let bytes = unsafe { self.region.bytes_mut(self.open) };
        let areas = &mut self.areas;
        scanner.written(base + range.start..base + range.end, most, |run| {
            let run = run.start - base..run.end - base;
            template.restore(run.start, &mut bytes[run.clone()]);
            *done = run.end;
            areas.note(run);
        })
    }

    /// Drops what was written in `range`, seen or not, so that it is as it was.
    fn forget(&mut self, template: &Template, range: Range<usize>) -> io::Result<()> {
        self.region.discard(range.clone())?;
        self.copy_runs(template, &range);
        Ok(())
    }

    /// The address of its first byte. It does not change while the slot lives.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.region.base()
    }

    /// How many bytes of address space it has.
    #[must_use]
    pub fn reservation(&self) -> usize {
        self.region.len()
    }

    /// How many bytes can be used, a multiple of [`PAGE`].
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Lets the first `len` bytes (a multiple of [`PAGE`]) be used, if they can't be already. What is new is zero.
    ///
    /// # Errors
    /// What the operating system says; [`io::Errno::INVAL`] beyond the reservation.
    pub fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.open {
            self.region.protect(self.open..len, Access::ReadWrite)?;
            self.open = len;
            self.reach = self.reach.max(len);
        }
        Ok(())
    }

    /// What can be used of it.
    ///
    /// No guest may be running that has the slot's address.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the first `open` bytes are accessible. Who runs guests that know the address sees to it that they don't while a
        // borrow lives; the native engine's store, which owns the slot, is mutably borrowed while its guests run.
        unsafe { self.region.bytes(self.open) }
    }

    /// What can be used of it, to be written. As [`Self::bytes`].
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { self.region.bytes_mut(self.open) }
    }
}
