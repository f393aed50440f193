//! Where written pages are looked for, when looking costs something for each page that was not written.
//!
//! Guests of one template write to the same pages most of the time. So everything is looked at once; after that only what is near the
//! pages that were found. The rest is dropped unseen: that is always right, and costs next to nothing where nothing was written. Since
//! guests change, everything is looked at again from time to time.

use super::region::PAGE;
use std::ops::Range;

/// Pages that are no farther apart are looked at together: dropping what is between and looking once more costs as much.
const NEAR: usize = 256 * PAGE;
/// How many areas there are at most.
const MOST: usize = 16;
/// How often only the areas are looked at before everything is.
const TIMES: u32 = 63;
/// No more than this is looked at, in bytes from the beginning: some 300 µs.
const REACH: usize = 256 << 20;

/// Areas of a slot in which pages were found, in bytes from its beginning.
#[derive(Debug, Default)]
pub(super) struct Areas {
    // Ascending and apart.
    found: Vec<Range<usize>>,
    // How often they are looked at before everything is.
    left: u32,
    everywhere: bool,
}

impl Areas {
    /// Where to look now in a slot of `len` bytes: ascending and apart.
    pub(super) fn next(&mut self, len: usize) -> Vec<Range<usize>> {
        self.everywhere = self.left == 0;
        if !self.everywhere {
            self.left -= 1;
            let within = |area: &Range<usize>| area.start.min(len)..area.end.min(len);
            return self.found.iter().map(within).filter(|area| !area.is_empty()).collect();
        }
        self.found.clear();
        std::iter::once(0..len.min(REACH)).collect()
    }

    /// Notes that written pages were found there. The order is ascending.
    pub(super) fn note(&mut self, run: Range<usize>) {
        if !self.everywhere {
            return;
        }
        let full = self.found.len() == MOST;
        match self.found.last_mut() {
            Some(last) if full || run.start <= last.end + NEAR => last.end = run.end,
            _ => self.found.push(run),
        }
    }

    /// Looking came to an end; `whole` if nothing was left out because there was too much.
    pub(super) fn end(&mut self, whole: bool) {
        if !whole {
            *self = Self::default();
        } else if self.everywhere {
            self.left = TIMES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn areas(pages: &[usize]) -> Areas {
        let mut areas = Areas::default();
        areas.next(REACH);
        pages.iter().for_each(|page| areas.note(page * PAGE..(page + 1) * PAGE));
        areas.end(true);
        areas
    }

    /// First page of each area, and the page behind it.
    fn pages(areas: &[Range<usize>]) -> Vec<(usize, usize)> {
        areas.iter().map(|area| (area.start / PAGE, area.end / PAGE)).collect()
    }

    #[test]
    fn only_the_neighbourhood_of_what_was_found_is_looked_at_again() {
        let mut areas = areas(&[3, 4, 200, 1000, 5000]);
        assert_eq!(pages(&areas.next(REACH)), [(3, 201), (1000, 1001), (5000, 5001)]);
        assert_eq!(pages(&areas.next(1000 * PAGE)), [(3, 201)], "the slot is shorter this time");
    }

    #[test]
    fn everything_is_looked_at_at_first_from_time_to_time_and_after_too_much() {
        let mut areas = areas(&[7]);
        for _ in 0..2 {
            for _ in 0..TIMES {
                assert_eq!(pages(&areas.next(REACH)), [(7, 8)]);
                areas.note(9 * PAGE..10 * PAGE);
                areas.end(true);
            }
            assert_eq!(pages(&areas.next(2 * REACH)), [(0, REACH / PAGE)]);
            areas.note(7 * PAGE..8 * PAGE);
            areas.end(true);
        }
        areas.end(false);
        assert_eq!(pages(&areas.next(PAGE)), [(0, 1)]);
    }

    #[test]
    fn there_are_not_many_areas() {
        let far: Vec<usize> = (0..40).map(|at| at * 1000).collect();
        let found = areas(&far).next(REACH);
        assert_eq!((found.len(), found.last().map(|last| last.end)), (MOST, Some(39_001 * PAGE)));
    }
}
