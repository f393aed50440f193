//! What a summary of one version of a module says about another version.

use super::{BodyDigest, FunctionSummary, ProfileError, ShapeDigest, Site, SiteCounts, Summary};
use crate::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// How a function was found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum How {
    /// All functions of the summary are where they were, and as they were.
    Same,
    /// By its body.
    Body,
    /// By the shape of its body.
    Shape,
}

/// A function of the summary, and which one it is in the other version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Its index in the summary.
    pub old: u32,
    /// Its index in the other version.
    pub new: u32,
    /// How it was found.
    pub how: How,
    /// The body that it has there.
    pub body: BodyDigest,
    /// The shape that it has there.
    pub shape: ShapeDigest,
}

/// Which functions were found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// They, ordered by their index in the summary. No function is in two pairs.
    pub pairs: Vec<Pair>,
    /// The weight of those that were found.
    pub weight: u64,
    /// The weight of all.
    pub total: u64,
}

type New = (u32, BodyDigest, ShapeDigest);

/// Looks for the functions of `summary` among those of another version of the module, `new`: index and digests of each.
///
/// If all are there unchanged, each is itself. Otherwise by body, then by shape of what is left. Where several have the same digest, and as many
/// on both sides, they are the same in the order of their indices. Where it is not as many, each is the nearest to where it would be if it had
/// moved as far as the function before it that was found beyond doubt.
#[must_use]
pub fn match_functions(summary: &Summary, new: &[New]) -> Matched {
    let by_index: BTreeMap<u32, &New> = new.iter().map(|function| (function.0, function)).collect();
    let unchanged = |(index, old): (&u32, &FunctionSummary)| by_index.get(index).is_some_and(|new| new.1 == old.body && new.2 == old.shape);
    let mut pairs = BTreeMap::new();
    if summary.functions().iter().all(unchanged) {
        pairs.extend(summary.functions().keys().map(|index| (*index, (*index, How::Same))));
    } else {
        match_by(summary, &by_index, &mut pairs, How::Body, |old| old.body, |new| new.1);
        match_by(summary, &by_index, &mut pairs, How::Shape, |old| old.shape, |new| new.2);
    }
    let pairs: Vec<Pair> = pairs
        .into_iter()
        .filter_map(|(old, (new, how))| by_index.get(&new).map(|(_, body, shape)| Pair { old, new, how, body: *body, shape: *shape }))
        .collect();
    let weight = pairs.iter().map(|pair| summary.weight(pair.old)).sum();
    Matched { pairs, weight, total: summary.total() }
}

fn match_by<K: Ord>(
    summary: &Summary,
    by_index: &BTreeMap<u32, &New>,
    pairs: &mut BTreeMap<u32, (u32, How)>,
    how: How,
    key_of_old: impl Fn(&FunctionSummary) -> K,
    key_of_new: impl Fn(&New) -> K,
) {
    let found: BTreeSet<u32> = pairs.values().map(|pair| pair.0).collect();
    let mut groups: BTreeMap<K, (Vec<u32>, BTreeSet<u32>)> = BTreeMap::new();
    for (index, old) in summary.functions().iter().filter(|(index, _)| !pairs.contains_key(index)) {
        groups.entry(key_of_old(old)).or_default().0.push(*index);
    }
    for (index, new) in by_index.iter().filter(|(index, _)| !found.contains(index)) {
        if let Some(group) = groups.get_mut(&key_of_new(new)) {
            group.1.insert(*index);
        }
    }
    let (sure, unsure): (Vec<_>, Vec<_>) = groups.into_values().partition(|(old, new)| old.len() == new.len());
    pairs.extend(sure.into_iter().flat_map(|(old, new)| old.into_iter().zip(new.into_iter().map(|new| (new, how)))));
    let anchors = pairs.clone();
    for (old, mut new) in unsure {
        for old in old {
            let anchor = anchors.range(..old).next_back().or_else(|| anchors.range(old..).next());
            let moved = anchor.map_or(0, |(old, (new, _))| i64::from(*new) - i64::from(*old));
            let expected = u32::try_from((i64::from(old) + moved).max(0)).unwrap_or(u32::MAX);
            let (before, behind) = (new.range(..=expected).next_back().copied(), new.range(expected..).next().copied());
            let nearest = before.into_iter().chain(behind).min_by_key(|new| new.abs_diff(expected));
            let Some(nearest) = nearest else { break };
            new.remove(&nearest);
            pairs.insert(old, (nearest, how));
        }
    }
}

/// The summary in terms of the other version of the module, `source`.
///
/// `offsets_of` gives the offsets of all sites of a function of the other version, in ascending order. Functions that were found by their body
/// keep their offsets; if `offsets_of` has a list, sites that are not in it are left out. Of functions that were found by their shape, the first
/// site goes to the first offset of the list and so on; without a list, or with one of another length than the function has sites, the function
/// is left out. Its samples then are at its beginning, since where they were taken is not known any more. Targets are carried over as functions
/// are, and left out if they were not found.
///
/// # Errors
/// [`ProfileError::Invalid`] when the lists or the pairs are not in order.
pub fn remap(
    summary: &Summary,
    matched: &Matched,
    source: Digest,
    offsets_of: impl Fn(u32) -> Option<Vec<u32>>,
) -> Result<Summary, ProfileError> {
    let new_of: BTreeMap<u32, u32> = matched.pairs.iter().map(|pair| (pair.old, pair.new)).collect();
    let same = matched.pairs.iter().all(|pair| pair.how == How::Same);
    let target = |old: u32| if same { Some(old) } else { new_of.get(&old).copied() };
    let mut functions = BTreeMap::new();
    for pair in &matched.pairs {
        let Some(old) = summary.function(pair.old) else { continue };
        let offsets = if pair.how == How::Same { None } else { offsets_of(pair.new) };
        let mut function = old.clone();
        (function.body, function.shape) = (pair.body, pair.shape);
        match (pair.how, offsets) {
            (How::Shape, Some(offsets)) if offsets.len() == function.sites.len() => {
                function.sites.iter_mut().zip(offsets).for_each(|(site, offset)| site.offset = offset);
                let samples = function.samples.iter().map(|sample| sample.1).sum();
                function.samples = if samples > 0 { vec![(0, samples)] } else { Vec::new() };
            }
            (How::Shape, _) => continue,
            (_, Some(offsets)) => function.sites.retain(|site| offsets.binary_search(&site.offset).is_ok()),
            (_, None) => {}
        }
        function.sites.iter_mut().for_each(|site| carry_targets(site, target));
        functions.insert(pair.new, function);
    }
    Summary::new(source, *summary.provenance(), functions)
}

fn carry_targets(site: &mut Site, target: impl Fn(u32) -> Option<u32>) {
    if let SiteCounts::Indirect { targets, .. } = &mut site.counts {
        *targets = targets.iter().filter_map(|(old, count)| Some((target(*old)?, *count))).collect();
        targets.sort_by_key(|(index, count)| (std::cmp::Reverse(*count), *index));
    }
}
