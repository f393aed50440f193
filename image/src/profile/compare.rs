//! How two summaries differ.

use super::Summary;
use std::collections::BTreeMap;

/// How two summaries differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// How much of the weight is in the same functions in both: 1 when the shares are equal, 0 when no function is in both.
    pub overlap: f64,
    /// All functions that have a weight in one of them. Those whose shares differ most are first, and of equals the one with the smaller index.
    pub functions: Vec<FunctionDiff>,
}

/// The shares of one function.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FunctionDiff {
    /// Its index.
    pub index: u32,
    /// Its share in the first summary, 0 to 1.
    pub a: f64,
    /// Its share in the second one.
    pub b: f64,
}

/// How the functions' shares of the weight differ. Functions are the same when their indices are: of two versions of a module, one summary is
/// [carried over](super::remap) first.
#[must_use]
pub fn diff(a: &Summary, b: &Summary) -> Diff {
    let mut shares: BTreeMap<u32, (f64, f64)> = a.shares().into_iter().map(|(index, share)| (index, (share, 0.0))).collect();
    for (index, share) in b.shares() {
        shares.entry(index).or_default().1 = share;
    }
    let overlap = shares.values().map(|(a, b)| a.min(*b)).sum::<f64>().min(1.0);
    let mut functions: Vec<FunctionDiff> = shares.into_iter().map(|(index, (a, b))| FunctionDiff { index, a, b }).collect();
    functions.sort_by(|one, next| (next.a - next.b).abs().total_cmp(&(one.a - one.b).abs()).then(one.index.cmp(&next.index)));
    Diff { overlap, functions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;
    use crate::profile::{BodyDigest, FunctionSummary, Provenance, ShapeDigest};

    fn summary(entries: &[(u32, u64)]) -> Summary {
        let function = |(index, entries): &(u32, u64)| {
            let (body, shape) = (BodyDigest::of(b""), ShapeDigest::of(b""));
            (*index, FunctionSummary { body, shape, first: None, entries: *entries, sites: Vec::new(), samples: Vec::new() })
        };
        Summary::new(Digest::ZERO, Provenance::default(), entries.iter().map(function).collect()).unwrap()
    }

    #[test]
    fn shares_are_compared_not_counts() {
        let a = summary(&[(1, 50), (2, 25), (3, 25)]);
        assert_eq!(diff(&a, &summary(&[(1, 500), (2, 250), (3, 250)])).overlap, 1.0);
        let found = diff(&a, &summary(&[(1, 1), (2, 2), (9, 1), (10, 0)]));
        assert_eq!(found.overlap, 0.5);
        let each: Vec<(u32, f64, f64)> = found.functions.iter().map(|one| (one.index, one.a, one.b)).collect();
        assert_eq!(each, [(1, 0.5, 0.25), (2, 0.25, 0.5), (3, 0.25, 0.0), (9, 0.0, 0.25)]);
        assert_eq!(diff(&summary(&[]), &a).overlap, 0.0);
        assert_eq!(diff(&summary(&[]), &summary(&[(1, 0)])), Diff { overlap: 0.0, functions: Vec::new() });
    }
}
