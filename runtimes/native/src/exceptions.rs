//! Exceptions of a store: where they are kept, and which are still in use.
//!
//! Code holds the address of an exception in locals, globals, tables and other exceptions, and the host in values. When there are many,
//! those whose address is nowhere on the stack, in a global, in a table or in another exception are forgotten. That is found
//! conservatively: any number on the stack that looks like an address counts. What the host has seen is kept as long as the store.

use crate::value::Slot;
use preheat_image::abi::ExceptionRecord;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// The exceptions by the addresses of their records. The first slot is the record, the others are the values.
#[derive(Debug, Default)]
pub(crate) struct Exceptions {
    all: HashMap<u64, Box<[Slot]>>,
    slots: usize,
    // Those that the host has seen.
    held: Mutex<HashSet<u64>>,
    // With how many slots unused ones are looked for.
    threshold: usize,
}

const _: () = assert!(size_of::<ExceptionRecord>() == size_of::<Slot>());

/// Never look for unused ones before there are so many slots, 1 MiB.
const LEAST: usize = 1 << 16;
/// Most slots in use, 64 MiB.
const MOST: usize = 1 << 22;

impl Exceptions {
    /// Whether it is time to look which are in use.
    pub(crate) fn many(&self) -> bool {
        self.slots >= self.threshold.max(LEAST)
    }

    /// A new one with `count` values, all zero. Its address, or `None` if there are too many.
    pub(crate) fn add(&mut self, tag: u64, count: u32) -> Option<u64> {
        let slots = usize::try_from(count).ok()?.checked_add(1)?;
        self.slots.checked_add(slots).filter(|slots| *slots <= MOST)?;
        let mut exception = vec![0; slots].into_boxed_slice();
        exception[0] = Slot::from(tag) | Slot::from(count) << 64;
        let address = exception.as_mut_ptr().expose_provenance() as u64;
        self.slots += slots;
        self.all.insert(address, exception);
        Some(address)
    }

    /// Keeps one for the host.
    pub(crate) fn hold(&self, address: u64) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(address);
    }

    /// Whether there is one at this address.
    fn has(&self, address: u64) -> bool {
        self.all.contains_key(&address)
    }

    /// The identity of an exception's tag.
    #[expect(clippy::cast_possible_truncation, reason = "the first half is what is asked for")]
    pub(crate) fn tag(&self, address: u64) -> Option<u64> {
        Some(self.all.get(&address)?[0] as u64)
    }

    /// Forgets all that `roots` do not lead to. Whatever is in the roots that is no address of one is passed over.
    pub(crate) fn keep(&mut self, roots: impl Iterator<Item = u64>) {
        let mut used = HashSet::new();
        let held: Vec<u64> = self.held.get_mut().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let mut found: Vec<u64> = roots.chain(held).filter(|root| self.has(*root)).collect();
        while let Some(address) = found.pop() {
            if used.insert(address)
                && let Some(exception) = self.all.get(&address)
            {
                #[expect(clippy::cast_possible_truncation, reason = "references have 64 bits")]
                found.extend(exception[1..].iter().map(|slot| *slot as u64).filter(|value| self.has(*value)));
            }
        }
        self.all.retain(|address, _| used.contains(address));
        self.slots = self.all.values().map(|exception| exception.len()).sum();
        self.threshold = self.slots.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reachable_is_kept() {
        let mut exceptions = Exceptions::default();
        let addresses: Vec<u64> = (0..5).map(|tag| exceptions.add(tag, 2).unwrap()).collect();
        // The first holds the second, which holds the first and the third.
        exceptions.all.get_mut(&addresses[0]).unwrap()[2] = Slot::from(addresses[1]);
        exceptions.all.get_mut(&addresses[1]).unwrap()[1] = Slot::from(addresses[0]);
        exceptions.all.get_mut(&addresses[1]).unwrap()[2] = Slot::from(addresses[2]) | 7 << 64;
        exceptions.keep([1, 2, addresses[0], addresses[0] + 1].into_iter());
        assert_eq!(addresses.iter().map(|address| exceptions.has(*address)).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!((exceptions.tag(addresses[2]), exceptions.tag(addresses[3]), exceptions.slots), (Some(2), None, 9));
        exceptions.hold(addresses[2]);
        exceptions.keep(std::iter::empty());
        assert_eq!((exceptions.all.len(), exceptions.slots, exceptions.tag(addresses[2])), (1, 3, Some(2)));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let mut exceptions = Exceptions::default();
        assert_eq!(exceptions.add(0, u32::MAX), None);
        while exceptions.add(0, 60_000).is_some() {}
        assert!(exceptions.many() && exceptions.slots > MOST - 60_001);
    }
}
