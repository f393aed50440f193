//! Sums of counts, in which it leaves no trace in which order they were added.

use super::weights::BUDGET;
use super::{BodyDigest, FunctionProfile, FunctionSummary, MAX_SITES, MAX_TARGETS, ProfileError, ShapeDigest, Site, SiteCounts, SiteKind};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Most numbers that are summed up: of functions, sites, arms, targets and samples.
const MAX_SUMS: usize = 1 << 22;

/// How a contribution's counts become parts of its share.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    share: u64,
    multiplier: u64,
    shift: u32,
}

impl Scale {
    /// The scale in which all counts of a contribution, `sum`, are `share` together, or a little less. Rounding is that of each count for itself.
    pub(super) fn new(share: u64, sum: u128) -> Self {
        // The share has at most 49 bits, and what can't be shifted out of 128 stays.
        let fraction = (u128::from(share.min(BUDGET)) << 79) / sum.max(1);
        let excess = (u128::BITS - fraction.leading_zeros()).saturating_sub(u64::BITS);
        Self { share, multiplier: u64::try_from(fraction >> excess).unwrap_or(u64::MAX), shift: 79 - excess }
    }

    /// A count in this scale. What is not 0 does not become 0.
    fn of(self, count: u64) -> u64 {
        let scaled = (u128::from(count) * u128::from(self.multiplier)) >> self.shift;
        u64::try_from(scaled).unwrap_or(u64::MAX).max(u64::from(count > 0))
    }
}

/// All counts of a function, which may be more than 64 bits.
pub(super) fn sum(function: &FunctionProfile) -> u128 {
    let of_site = |site: &Site| match &site.counts {
        SiteCounts::Table { arms } => arms.iter().map(|arm| u128::from(*arm)).sum(),
        counts => u128::from(counts.total()),
    };
    u128::from(function.entries) + function.sites.iter().map(of_site).sum::<u128>()
}

/// The sums of all functions.
#[derive(Default)]
pub(super) struct Sums {
    /// By index, then ordered by digests: mostly one, unless somebody lies.
    functions: BTreeMap<u32, Vec<FunctionSums>>,
    /// Weight of all contributions that know which functions were called first.
    firsts: u64,
    numbers: usize,
}

struct FunctionSums {
    body: BodyDigest,
    shape: ShapeDigest,
    /// Weight of those who speak of it.
    weight: u64,
    entries: u64,
    firsts: Vec<Firsts>,
    /// Ordered by offset and kind: mostly one kind, unless somebody lies. Targets are ordered by index here.
    sites: Vec<SiteSums>,
}

struct SiteSums {
    weight: u64,
    site: Site,
}

/// When it was called first, as those say who say about the same.
struct Firsts {
    bucket: u32,
    weight: u64,
    /// Of what they say, times their weights.
    sum: u128,
}

/// Four buckets for each power of two.
fn bucket(first: u32) -> u32 {
    match first.checked_ilog2() {
        Some(log) if log >= 2 => 4 * (log - 1) + (first >> (log - 2) & 3),
        _ => first,
    }
}

impl Sums {
    /// Counts a contribution among those that know which functions were called first.
    pub(super) fn count_firsts(&mut self, scale: Scale) {
        self.firsts += scale.share;
    }

    /// Adds a function, with those of its sites and targets that are to be there.
    pub(super) fn add(
        &mut self,
        scale: Scale,
        function: &FunctionProfile,
        has: impl Fn(u32, SiteKind) -> bool,
        is_function: impl Fn(u32) -> bool,
    ) -> Result<(), ProfileError> {
        let variants = self.functions.entry(function.index).or_default();
        let key = (function.body, function.shape);
        let place = variants.binary_search_by_key(&key, |sums| (sums.body, sums.shape)).unwrap_or_else(|place| {
            let (body, shape) = key;
            variants.insert(place, FunctionSums { body, shape, weight: 0, entries: 0, firsts: Vec::new(), sites: Vec::new() });
            self.numbers += 1;
            place
        });
        let sums = &mut variants[place];
        sums.weight += scale.share;
        sums.entries += scale.of(function.entries);
        if let Some(first) = function.first {
            sums.add_first(first, scale.share);
        }
        self.numbers += sums.add_sites(scale, function.sites.iter().filter(|site| has(site.offset, site.counts.kind())), is_function);
        if self.numbers > MAX_SUMS || sums.sites.len() > 2 * MAX_SITES {
            return Err(ProfileError::TooMuch(format!("more than {MAX_SUMS} places, or more than {MAX_SITES} in one function")));
        }
        Ok(())
    }

    /// The functions as most of the weight has them.
    pub(super) fn finish(self) -> BTreeMap<u32, FunctionSummary> {
        let mut functions = BTreeMap::new();
        let mut order = Vec::new();
        for (index, variants) in self.functions {
            // The last of the heaviest, which has the smallest digests.
            let Some(sums) = variants.into_iter().rev().max_by_key(|sums| sums.weight) else { continue };
            if let Some(first) = sums.first(self.firsts) {
                order.push((first, index));
            }
            functions.insert(index, sums.finish());
        }
        order.sort_unstable();
        for (place, (_, index)) in (0..).zip(order) {
            if let Some(function) = functions.get_mut(&index) {
                function.first = Some(place);
            }
        }
        functions
    }
}

impl FunctionSums {
    fn add_first(&mut self, first: u32, share: u64) {
        let bucket = bucket(first);
        let place = self.firsts.binary_search_by_key(&bucket, |firsts| firsts.bucket).unwrap_or_else(|place| {
            self.firsts.insert(place, Firsts { bucket, weight: 0, sum: 0 });
            place
        });
        let firsts = &mut self.firsts[place];
        firsts.weight += share;
        firsts.sum += u128::from(first) * u128::from(share);
    }

    /// Adds sites; how many numbers are new.
    fn add_sites<'a>(&mut self, scale: Scale, sites: impl Iterator<Item = &'a Site>, is_function: impl Fn(u32) -> bool) -> usize {
        let mut new = Vec::new();
        let mut numbers = 0;
        let mut place = 0;
        for site in sites {
            let key = (site.offset, site.counts.kind());
            let key_of = |sums: &SiteSums| (sums.site.offset, sums.site.counts.kind());
            // Mostly it is the next one.
            if self.sites.get(place).is_some_and(|sums| key_of(sums) < key) {
                place += self.sites[place..].partition_point(|sums| key_of(sums) < key);
            }
            let fresh = match self.sites.get_mut(place) {
                Some(sums) if key_of(sums) == key => {
                    numbers += sums.add(scale, &site.counts, &is_function);
                    place += 1;
                    continue;
                }
                _ => nothing(&site.counts),
            };
            let mut sums = SiteSums { weight: 0, site: Site { offset: site.offset, counts: fresh } };
            numbers += 1 + sums.add(scale, &site.counts, &is_function);
            if let SiteCounts::Table { arms } = &site.counts {
                numbers += arms.len();
            }
            new.push(sums);
        }
        if !new.is_empty() {
            self.sites.append(&mut new);
            self.sites.sort_by_key(|sums| (sums.site.offset, sums.site.counts.kind()));
        }
        numbers
    }

    /// As the how-manieth it was called first, if at least half of the weight of those who know, `all`, says that it is called at all: the one
    /// in the middle of what they say, to which who is at the edges makes no difference.
    fn first(&self, all: u64) -> Option<(u32, u128)> {
        let known: u64 = self.firsts.iter().map(|firsts| firsts.weight).sum();
        if known == 0 || known < all - known {
            return None;
        }
        let mut below = 0;
        let middle = self.firsts.iter().find(|firsts| {
            below += firsts.weight;
            below >= known.div_ceil(2)
        })?;
        Some((middle.bucket, middle.sum / u128::from(middle.weight.max(1))))
    }

    fn finish(self) -> FunctionSummary {
        let mut sites: Vec<SiteSums> = Vec::with_capacity(self.sites.len());
        let mut samples = Vec::new();
        for sums in self.sites {
            if let SiteCounts::Samples(count) = sums.site.counts {
                samples.push((sums.site.offset, count));
                continue;
            }
            match sites.last_mut() {
                // Of equals the one that was there.
                Some(last) if last.site.offset == sums.site.offset => {
                    if sums.weight > last.weight {
                        *last = sums;
                    }
                }
                _ => sites.push(sums),
            }
        }
        let mut sites: Vec<Site> = sites.into_iter().map(|sums| sums.site).collect();
        sites.truncate(MAX_SITES);
        samples.truncate(MAX_SITES);
        for site in &mut sites {
            if let SiteCounts::Indirect { reached, targets } = &mut site.counts {
                targets.sort_unstable_by_key(|(index, count)| (Reverse(*count), *index));
                targets.truncate(MAX_TARGETS);
                // Each was rounded for itself.
                *reached = targets.iter().map(|target| target.1).sum::<u64>().max(*reached);
            }
        }
        FunctionSummary { body: self.body, shape: self.shape, first: None, entries: self.entries, sites, samples }
    }
}

/// Counts of the same kind, of nothing.
fn nothing(counts: &SiteCounts) -> SiteCounts {
    match counts {
        SiteCounts::Reached(_) => SiteCounts::Reached(0),
        SiteCounts::Branch { .. } => SiteCounts::Branch { reached: 0, taken: 0 },
        SiteCounts::Table { arms } => SiteCounts::Table { arms: vec![0; arms.len()] },
        SiteCounts::Indirect { .. } => SiteCounts::Indirect { reached: 0, targets: Vec::new() },
        SiteCounts::Samples(_) => SiteCounts::Samples(0),
    }
}

impl SiteSums {
    /// Adds counts of the same kind; how many targets are new.
    fn add(&mut self, scale: Scale, counts: &SiteCounts, is_function: impl Fn(u32) -> bool) -> usize {
        self.weight += scale.share;
        let mut new = 0;
        match (&mut self.site.counts, counts) {
            (SiteCounts::Reached(sum), SiteCounts::Reached(count)) | (SiteCounts::Samples(sum), SiteCounts::Samples(count)) => {
                *sum += scale.of(*count);
            }
            (SiteCounts::Branch { reached: sum, taken: of_taken }, SiteCounts::Branch { reached, taken }) => {
                *sum += scale.of(*reached);
                *of_taken += scale.of(*taken);
            }
            (SiteCounts::Table { arms: sums }, SiteCounts::Table { arms }) => {
                sums.iter_mut().zip(arms).for_each(|(sum, arm)| *sum += scale.of(*arm));
            }
            (SiteCounts::Indirect { reached: sum, targets: sums }, SiteCounts::Indirect { reached, targets }) => {
                *sum += scale.of(*reached);
                for (index, count) in targets.iter().filter(|target| is_function(target.0)) {
                    let place = sums.binary_search_by_key(index, |target| target.0).unwrap_or_else(|place| {
                        sums.insert(place, (*index, 0));
                        new += 1;
                        place
                    });
                    sums[place].1 += scale.of(*count);
                }
            }
            _ => {}
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(share: u64, counts: &[u64]) -> Scale {
        let sites = (0..).zip(counts).map(|(offset, count)| Site { offset, counts: SiteCounts::Reached(*count) }).collect();
        let (body, shape) = (BodyDigest::of(b""), ShapeDigest::of(b""));
        let function = FunctionProfile { index: 0, body, shape, first: None, entries: 0, sites };
        Scale::new(share, sum(&function))
    }

    #[test]
    fn all_counts_are_the_share_together() {
        for counts in [vec![1], vec![1, 2, 3], vec![u64::MAX; 1000], vec![7; 30], vec![u64::MAX, 1, 0], vec![1 << 60, 1 << 20]] {
            for share in [1 << 48, 1 << 30, 12345] {
                let scale = scale(share, &counts);
                let scaled: Vec<u64> = counts.iter().map(|count| scale.of(*count)).collect();
                let sum: u64 = scaled.iter().sum();
                let rounding = counts.len() as u64;
                assert!(sum <= share + rounding && sum + rounding + (share >> 30) >= share, "{counts:?} of {share}: {sum}");
                assert!(counts.iter().zip(scaled).all(|(count, scaled)| (*count > 0) == (scaled > 0)));
            }
        }
        assert_eq!(scale(100, &[0]).of(0), 0);
        assert_eq!(scale(100, &[]).of(0), 0);
    }

    #[test]
    fn buckets_ascend_with_what_is_in_them() {
        assert!((0..100_000).all(|first| (0..2).contains(&(bucket(first + 1) - bucket(first)))));
        assert_eq!([0, 3, 4, 7, 8, 9, 10, u32::MAX].map(bucket), [0, 3, 4, 7, 8, 8, 9, 123]);
    }
}
