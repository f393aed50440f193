//! What a profile says, as the compiler asks for it.
//!
//! A profile is a claim of whoever contributed: nothing here may change what code means, whatever it says. Sites are found by their offset, and
//! one that is of another kind than the instruction there says nothing.

mod growth;
mod inline;
mod order;

pub(crate) use growth::Chosen;
pub(crate) use inline::Library;
pub(crate) use order::order;

use crate::module::{Body, Module};
use crate::passes::Passes;
use preheat_image::profile::{SiteCounts, Summary};
use std::collections::HashMap;

/// A call of which one in so many goes elsewhere is expected where the others go.
const EXPECTED: u64 = 8;

/// A profile of the module that is being compiled.
#[derive(Debug)]
pub(crate) struct Guide<'p> {
    summary: &'p Summary,
    /// By offset in the Wasm.
    sites: HashMap<u32, &'p SiteCounts>,
    passes: Passes,
}

/// Where an instruction with two ways out leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Branched {
    /// How often control went the way of the branch, or into the first part of a condition.
    pub(crate) taken: u64,
    /// How often it went the other way.
    pub(crate) not_taken: u64,
}

impl<'p> Guide<'p> {
    /// A profile for the module with these bodies.
    pub(crate) fn new(summary: &'p Summary, bodies: &[Body<'_>], passes: Passes) -> Self {
        let mut sites = HashMap::new();
        for body in bodies {
            let Some(function) = summary.function(body.to_validate.index) else { continue };
            let range = body.body.range();
            for site in &function.sites {
                let place = range.start.checked_add(site.offset as usize).filter(|place| *place < range.end);
                if let Some(place) = place.and_then(|place| u32::try_from(place).ok()) {
                    sites.insert(place, &site.counts);
                }
            }
        }
        Self { summary, sites, passes }
    }

    /// How often the function with this index was called; none if nothing is known of it, which for most means that it never was.
    pub(crate) fn entries(&self, function: u32) -> Option<u64> {
        self.summary.function(function).map(|function| function.entries)
    }

    /// How often control came to the loop header or the call at this offset; none if nothing is known of it.
    pub(crate) fn reached(&self, offset: u32) -> Option<u64> {
        match self.sites.get(&offset)? {
            SiteCounts::Reached(reached) | SiteCounts::Indirect { reached, .. } => Some(*reached),
            _ => None,
        }
    }

    /// The ways that were taken at the branch at this offset.
    pub(crate) fn branch(&self, offset: u32) -> Option<Branched> {
        match self.sites.get(&offset)? {
            SiteCounts::Branch { reached, taken } => Some(Branched { taken: *taken, not_taken: reached.saturating_sub(*taken) }),
            _ => None,
        }
    }

    /// How often each way was taken at the `br_table` at this offset, the default last, if it has so many.
    pub(crate) fn table(&self, offset: u32, arms: usize) -> Option<&'p [u64]> {
        match self.sites.get(&offset)? {
            SiteCounts::Table { arms: counts } if counts.len() == arms => Some(counts),
            _ => None,
        }
    }

    /// Whether there are counts of the function with this index, so that what has none in it was not reached.
    pub(crate) fn counts(&self, function: u32) -> bool {
        self.entries(function).is_some_and(|entries| entries > 0)
    }

    /// Which passes it steers.
    pub(crate) fn passes(&self) -> Passes {
        self.passes
    }

    /// The own function of `module`, of the type with this number, that the indirect call at this offset nearly always calls.
    pub(crate) fn expected_own(&self, offset: u32, module: &Module<'_>, ty: u32) -> Option<u32> {
        let (target, count, reached) = self.expected(offset)?;
        let own = target >= module.imported().imported_functions && module.functions.get(target as usize) == Some(&ty);
        (own && count.saturating_mul(EXPECTED) > reached.saturating_mul(EXPECTED - 1)).then_some(target)
    }

    /// The function that the indirect call at this offset mostly calls, and how often it did, of how many calls.
    pub(crate) fn expected(&self, offset: u32) -> Option<(u32, u64, u64)> {
        match self.sites.get(&offset)? {
            SiteCounts::Indirect { reached, targets } => targets.first().map(|(target, count)| (*target, *count, *reached)),
            _ => None,
        }
    }

    /// The profile.
    pub(crate) fn summary(&self) -> &'p Summary {
        self.summary
    }
}
