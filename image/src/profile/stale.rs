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
/// `offsets_of` gives the offsets of all sites of a function of the other version, in ascending order. The first site of a function goes to the
/// first offset of the list and so on: also a body that is the same may have its instructions elsewhere, for an index that has grown takes more
/// bytes. Without a list, or with one of another length than the function has sites, those of a function that was found by its body stay where they
/// are, if the list has their offsets; one that was found by its shape is left out. The samples of one that was found by its shape are at its
/// beginning, since where they were taken is not known any more. Targets are carried over as functions are, and left out if they were not found.
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
            (_, Some(offsets)) if offsets.len() == function.sites.len() => {
                function.sites.iter_mut().zip(offsets).for_each(|(site, offset)| site.offset = offset);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Provenance;

    fn body(text: &str) -> BodyDigest {
        BodyDigest::of(text.as_bytes())
    }

    fn shape(text: &str) -> ShapeDigest {
        ShapeDigest::of(text.as_bytes())
    }

    /// Functions by index, body and shape, each with an entry more than the one before.
    fn summary(functions: &[(u32, &str, &str)]) -> Summary {
        let of = |(entries, (index, of_body, of_shape)): (u64, &(u32, &str, &str))| {
            let sites = vec![
                Site { offset: 3, counts: SiteCounts::Reached(1) },
                Site { offset: 8, counts: SiteCounts::Indirect { reached: 10, targets: vec![(1, 5), (2, 4), (90, 1)] } },
            ];
            let (body, shape) = (body(of_body), shape(of_shape));
            (*index, FunctionSummary { body, shape, first: None, entries, sites, samples: vec![(4, 2), (9, 1)] })
        };
        let functions = (1..).zip(functions).map(of).collect();
        Summary::new(Digest::of(b"old"), Provenance::default(), functions).unwrap()
    }

    fn new(functions: &[(u32, &str, &str)]) -> Vec<New> {
        functions.iter().map(|(index, of_body, of_shape)| (*index, body(of_body), shape(of_shape))).collect()
    }

    fn found(matched: &Matched) -> Vec<(u32, u32, How)> {
        matched.pairs.iter().map(|pair| (pair.old, pair.new, pair.how)).collect()
    }

    #[test]
    fn what_did_not_change_is_itself() {
        let functions = [(1, "a", "s"), (2, "b", "s"), (3, "a", "s"), (7, "c", "t")];
        let old = summary(&functions[..3]);
        let matched = match_functions(&old, &new(&functions));
        assert_eq!(found(&matched), [(1, 1, How::Same), (2, 2, How::Same), (3, 3, How::Same)]);
        assert_eq!((matched.weight, matched.total), (old.total(), old.total()));
        let again = remap(&old, &matched, old.source(), |_| Some(Vec::new())).unwrap();
        assert_eq!(again, old, "targets that are in no profile included");
    }

    #[test]
    fn by_body_then_by_shape_and_each_once() {
        let old = summary(&[(1, "a", "s"), (2, "b", "t"), (3, "c", "u"), (4, "gone", "gone")]);
        // One more in front: all moved, and one has another number in it.
        let matched = match_functions(&old, &new(&[(1, "x", "y"), (2, "a", "s"), (3, "b2", "t"), (4, "c", "u"), (5, "d", "s")]));
        assert_eq!(found(&matched), [(1, 2, How::Body), (2, 3, How::Shape), (3, 4, How::Body)]);
        assert_eq!(matched.total - matched.weight, old.weight(4));
        assert_eq!((matched.pairs[1].body, matched.pairs[1].shape), (body("b2"), shape("t")));
    }

    #[test]
    fn the_sites_of_the_same_body_are_found_by_their_order() {
        let old = summary(&[(1, "a", "s"), (2, "b", "t")]);
        let matched = match_functions(&old, &new(&[(2, "a", "s"), (3, "b", "t")]));
        let offsets = |summary: &Summary| summary.function(2).unwrap().sites.iter().map(|site| site.offset).collect::<Vec<_>>();
        let moved = remap(&old, &matched, Digest::of(b"new"), |_| Some(vec![4, 10])).unwrap();
        assert_eq!(offsets(&moved), [4, 10], "an index before them takes a byte more");
        let fewer = remap(&old, &matched, Digest::of(b"new"), |_| Some(vec![3])).unwrap();
        assert_eq!(offsets(&fewer), [3]);
    }

    #[test]
    fn of_equals_the_order_decides_or_how_far_their_neighbours_moved() {
        let old = summary(&[(1, "e", "s"), (2, "e", "s"), (3, "only", "o"), (10, "e", "s")]);
        let as_many = match_functions(&old, &new(&[(5, "e", "s"), (6, "e", "s"), (7, "e", "s"), (8, "only", "o")]));
        assert_eq!(found(&as_many), [(1, 5, How::Body), (2, 6, How::Body), (3, 8, How::Body), (10, 7, How::Body)]);
        let more = new(&[(1, "e", "s"), (6, "e", "s"), (7, "e", "s"), (8, "only", "o"), (14, "e", "s"), (15, "e", "s"), (16, "e", "s")]);
        let matched = match_functions(&old, &more);
        assert_eq!(found(&matched), [(1, 6, How::Body), (2, 7, How::Body), (3, 8, How::Body), (10, 15, How::Body)], "five further on");
        let fewer = match_functions(&old, &new(&[(2, "e", "s")]));
        assert_eq!(found(&fewer), [(1, 2, How::Body)]);
        assert!(match_functions(&old, &[]).pairs.is_empty());
    }

    #[test]
    fn sites_and_targets_are_carried_over() {
        let old = summary(&[(1, "a", "s"), (2, "b", "t"), (3, "c", "u"), (4, "d", "v")]);
        let matched = match_functions(&old, &new(&[(11, "a", "s"), (12, "b2", "t"), (13, "c2", "u"), (14, "d", "v")]));
        let offsets = |index| match index {
            12 => Some(vec![30, 80]),
            13 => Some(vec![30, 80, 90]),
            14 => Some(vec![7, 8]),
            _ => None,
        };
        let source = Digest::of(b"new");
        let summary = remap(&old, &matched, source, offsets).unwrap();
        assert_eq!((summary.source(), summary.provenance()), (source, old.provenance()));
        let offsets =
            |index: u32| summary.function(index).map(|function| function.sites.iter().map(|site| site.offset).collect::<Vec<_>>());
        assert_eq!(offsets(11), Some(vec![3, 8]), "as they were");
        assert_eq!(offsets(12), Some(vec![30, 80]), "one by one");
        assert_eq!(offsets(13), None, "not as many");
        assert_eq!(offsets(14), Some(vec![7, 8]), "one by one as well");
        let counts = SiteCounts::Indirect { reached: 10, targets: vec![(11, 5), (12, 4)] };
        assert_eq!(summary.function(11).unwrap().site(8), Some(&counts));
        assert_eq!(summary.function(11).unwrap().samples, [(4, 2), (9, 1)]);
        let function = summary.function(12).unwrap();
        assert_eq!((function.body, function.entries, function.samples.as_slice()), (body("b2"), 2, [(0, 3)].as_slice()));
        assert!(remap(&old, &matched, source, |_| Some(vec![80, 30])).is_err(), "offsets that do not ascend");
    }
}
