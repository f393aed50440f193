//! Slots between two uses.

use super::dirty::Scanner;
use super::slot::Slot;
use super::template::Template;
use rustix::io;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How much a pool keeps.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// How many slots there may be, in use and idle.
    pub slots: usize,
    /// How many idle slots are kept.
    pub idle: usize,
    /// How many written pages stay in memory with a slot. Restoring a page costs a tenth of what it costs to get a new one, but one that
    /// the next guest does not need is restored for nothing.
    pub pages: usize,
}

impl Default for PoolLimits {
    /// 16,384 slots (of memories: half of the address space), 1,024 of them idle with up to 2 MiB each.
    fn default() -> Self {
        Self { slots: 16_384, idle: 1_024, pages: 512 }
    }
}

/// So many slots without template are kept when images go.
const BLANK: usize = 32;

/// Slots of one size, of all images. One that is taken is as its template says; one that is given back is made so again at once, so that
/// what a guest wrote does not wait for the next.
#[derive(Debug)]
pub struct SlotPool {
    reservation: usize,
    limits: PoolLimits,
    scanner: Arc<Scanner>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    // How many there are, in use and idle.
    slots: usize,
    // By the time they were given back.
    idle: BTreeMap<u64, Slot>,
    // The same by template, oldest first.
    by_template: HashMap<u64, VecDeque<u64>>,
    // Idle slots without template.
    blank: Vec<Slot>,
    next: u64,
}

impl SlotPool {
    /// A pool of slots with `reservation` bytes of address space each.
    #[must_use]
    pub fn new(reservation: usize, limits: PoolLimits, scanner: Arc<Scanner>) -> Self {
        Self { reservation, limits, scanner, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a thread that panicked left is whole: no step in between panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves slots until `count` are idle.
    ///
    /// # Errors
    /// What the operating system says, or [`io::Errno::NOMEM`] beyond the limit.
    pub fn prepare(&self, count: usize) -> io::Result<()> {
        loop {
            let mut state = self.state();
            if state.blank.len() + state.idle.len() >= count {
                return Ok(());
            }
            if state.slots >= self.limits.slots {
                return Err(io::Errno::NOMEM);
            }
            let slot = Slot::reserve(self.reservation)?;
            state.slots += 1;
            state.blank.push(slot);
        }
    }

    /// Takes a slot that is as `template` says: an idle one of this template, else an unused one, else a new one, else the one that has
    /// been idle the longest.
    ///
    /// # Errors
    /// What the operating system says, or [`io::Errno::NOMEM`] when all slots are in use or the template is larger than a slot.
    pub fn take(&self, template: &Arc<Template>) -> io::Result<Slot> {
        if template.len() > self.reservation {
            return Err(io::Errno::NOMEM);
        }
        let mut slot = {
            let mut state = self.state();
            if let Some(slot) = state.take(template.id()) {
                return Ok(slot);
            }
            if let Some(slot) = state.blank.pop() {
                slot
            } else if state.slots < self.limits.slots {
                let slot = Slot::reserve(self.reservation)?;
                state.slots += 1;
                slot
            } else {
                state.take_oldest().ok_or(io::Errno::NOMEM)?
            }
        };
        slot.shape(template, &self.scanner).inspect_err(|_| self.state().slots -= 1)?;
        Ok(slot)
    }

    /// Makes sure that `count` idle slots are as `template` says, as far as idle ones are kept, and have the pages that guests will write.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn prepare_for(&self, template: &Arc<Template>, count: usize) -> io::Result<()> {
        let (mut slots, mut result) = (Vec::new(), Ok(()));
        while slots.len() < count.min(self.limits.idle) && result.is_ok() {
            result = self.take(template).map(|slot| slots.push(slot));
        }
        slots.iter_mut().for_each(Slot::warm);
        // Nobody has used them, so there is nothing to reset.
        let mut state = self.state();
        for slot in slots {
            if state.idle.len() + state.blank.len() < self.limits.idle {
                state.give(slot);
            } else {
                state.slots -= 1;
            }
        }
        result
    }

    /// The pages in memory of a slot that are not those of its template's files, as ascending ranges in bytes from its beginning: what was written,
    /// and what was written by another user before and restored. `None` if that can't be told.
    #[must_use]
    pub fn written(&self, slot: &Slot) -> Option<Vec<Range<usize>>> {
        let base = slot.base().as_ptr().addr();
        let mut runs = Vec::new();
        self.scanner.written(base..base + slot.open(), usize::MAX - 1, |run| runs.push(run.start - base..run.end - base))?;
        Some(runs)
    }

    /// Gives back a slot of this pool that nobody uses any more.
    pub fn give(&self, mut slot: Slot) {
        // One that can't be made what it was goes.
        let kept = slot.reset(&self.scanner, self.limits.pages).is_ok();
        let mut state = self.state();
        if kept && state.idle.len() + state.blank.len() < self.limits.idle {
            state.give(slot);
        } else {
            state.slots -= 1;
            drop(state);
        }
    }

    /// Forgets slots of a template that will not be asked for any more. A few of them are kept for other templates.
    pub fn forget(&self, template: &Template) {
        let mut slots = Vec::new();
        let mut state = self.state();
        while let Some(slot) = state.take(template.id()) {
            slots.push(slot);
        }
        let room = BLANK.saturating_sub(state.blank.len());
        drop(state);
        let (mut blank, mut gone) = (Vec::new(), 0);
        for mut slot in slots {
            if blank.len() < room && slot.blank(&self.scanner).is_ok() {
                blank.push(slot);
            } else {
                gone += 1;
            }
        }
        let mut state = self.state();
        state.slots -= gone;
        state.blank.extend(blank);
    }

    /// How many slots there are: in use and idle, and of these idle.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let state = self.state();
        (state.slots, state.idle.len() + state.blank.len())
    }
}

impl State {
    fn give(&mut self, slot: Slot) {
        match slot.template() {
            Some(template) => {
                let number = self.next;
                self.next += 1;
                self.by_template.entry(template.id()).or_default().push_back(number);
                self.idle.insert(number, slot);
            }
            None => self.blank.push(slot),
        }
    }

    /// The slot of `template` that was given back last: its pages are likeliest to be in caches.
    fn take(&mut self, template: u64) -> Option<Slot> {
        let numbers = self.by_template.get_mut(&template)?;
        let number = numbers.pop_back();
        if numbers.is_empty() {
            self.by_template.remove(&template);
        }
        self.idle.remove(&number?)
    }

    fn take_oldest(&mut self) -> Option<Slot> {
        let (_, slot) = self.idle.pop_first()?;
        let template = slot.template()?.id();
        if let Some(numbers) = self.by_template.get_mut(&template) {
            // The oldest of all is the oldest of its template.
            numbers.pop_front();
            if numbers.is_empty() {
                self.by_template.remove(&template);
            }
        }
        Some(slot)
    }
}
