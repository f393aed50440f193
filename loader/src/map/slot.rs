//! Address space for one memory or table.

#![allow(unsafe_code)]

use super::areas::Areas;
use super::dirty::{Method, Scanner};
use super::region::{Access, PAGE, Region};
use super::template::Template;
use rustix::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Of a slot that loses its template, pages among the first so many bytes stay in memory: more than what a small guest begins with.
const WARM: usize = 256 * PAGE;

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

    /// Makes it one without template, whatever it was. Of its first pages those that were written stay in memory, and are zero.
    pub(super) fn blank(&mut self, scanner: &Scanner) -> io::Result<()> {
        let Some(template) = self.template.take() else { return Ok(()) };
        let mapped = template.mapped().first().map_or(usize::MAX, |window| window.at);
        let mut kept = WARM.min(self.open).min(mapped);
        let base = self.region.base().as_ptr().addr();
        // SAFETY: the pages are accessible; a slot that has no user is in nobody else's use.
        let bytes = unsafe { self.region.bytes_mut(self.open) };
        if scanner.written(base..base + kept, WARM / PAGE, |run| bytes[run.start - base..run.end - base].fill(0)).is_none() {
            kept = 0;
        }
        self.region.clear(kept..self.reach)?;
        (self.open, self.reach, self.areas) = (kept, kept, Areas::default());
        Ok(())
    }

    /// Makes it what `template` says, whatever it was.
    pub(super) fn shape(&mut self, template: &Arc<Template>, scanner: &Scanner) -> io::Result<()> {
        self.blank(scanner)?;
        // What is open is zero, as the rest will be.
        if self.open < template.len() {
            self.region.protect(self.open..template.len(), Access::ReadWrite)?;
        } else {
            self.region.protect(template.len()..self.open, Access::None)?;
        }
        (self.open, self.reach) = (template.len(), self.reach.max(template.len()));
        for window in template.mapped() {
            self.region.map_file(window.at..window.end(), window.file.file(), window.offset as u64)?;
        }
        self.copy_runs(template, &(0..template.len()));
        self.template = Some(template.clone());
        Ok(())
    }

    /// Gets the pages that guests will write, with what is in them, as if they had been written and restored before.
    pub(super) fn warm(&mut self) {
        let Some(template) = self.template.clone() else { return };
        let bytes = self.bytes_mut();
        template.written().iter().for_each(|range| template.restore(range.start, &mut bytes[range.clone()]));
    }

    /// Writes what is not mapped, or wrong where it is mapped, in `range`.
    fn copy_runs(&mut self, template: &Template, range: &Range<usize>) {
        template.copy(range, self.bytes_mut());
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
        if open > template.len() {
            self.region.protect(template.len()..open, Access::None)?;
            self.open = template.len();
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
