//! Profiles that tests make.
// Not every test makes all of them.
#![allow(dead_code)]

use preheat_image::profile::{BodyDigest, Contribution, FunctionProfile, Method, ShapeDigest, Site, SiteCounts};
use proptest::prelude::{Just, Strategy, any, prop_oneof};

pub(crate) fn function(index: u32, entries: u64, sites: Vec<Site>) -> FunctionProfile {
    let name = index.to_le_bytes();
    FunctionProfile { index, body: BodyDigest::of(&name), shape: ShapeDigest::of(&name), first: None, entries, sites }
}

pub(crate) fn reached(offset: u32, count: u64) -> Site {
    Site { offset, counts: SiteCounts::Reached(count) }
}

pub(crate) fn contribution(contributor: &str, calls: u64, functions: Vec<FunctionProfile>) -> Contribution {
    let (contributor, origin) = (contributor.to_owned(), "native preheat 0.1.0".to_owned());
    Contribution { contributor, at: 1_800_000_000, method: Method::Counted, origin, calls, functions }
}

/// Counts of a site, as they may be.
fn counts() -> impl Strategy<Value = SiteCounts> {
    let count = || prop_oneof![0..1000u64, any::<u64>()];
    prop_oneof![
        count().prop_map(SiteCounts::Reached),
        count().prop_map(SiteCounts::Samples),
        (count(), count()).prop_map(|(a, b)| SiteCounts::Branch { reached: a.max(b), taken: a.min(b) }),
        proptest::collection::vec(count(), 1..5).prop_map(|arms| SiteCounts::Table { arms }),
        (proptest::collection::btree_map(0..8u32, 1..1u64 << 40, 0..5), 0..1000u64).prop_map(|(targets, others)| {
            let mut targets: Vec<(u32, u64)> = targets.into_iter().collect();
            targets.sort_by_key(|(index, count)| (std::cmp::Reverse(*count), *index));
            SiteCounts::Indirect { reached: targets.iter().map(|target| target.1).sum::<u64>() + others, targets }
        }),
    ]
}

/// Contributions to one small module, by contributors who sometimes contradict each other.
pub(crate) fn contributions() -> impl Strategy<Value = Contribution> {
    let digest = prop_oneof![6 => Just(0u8), 1 => 1..4u8];
    let first = prop_oneof![Just(None), (0..20u32).prop_map(Some), any::<u32>().prop_map(Some)];
    let sites = proptest::collection::btree_map(0..12u32, counts(), 0..6);
    let function = (digest, first, prop_oneof![0..100u64, any::<u64>()], sites).prop_map(|(digest, first, entries, sites)| {
        let sites = sites.into_iter().map(|(offset, counts)| Site { offset, counts }).collect();
        (BodyDigest::of(&[digest]), ShapeDigest::of(&[digest]), first, entries, sites)
    });
    let functions = proptest::collection::btree_map(0..6u32, function, 0..5).prop_map(|functions| {
        let of = |(index, (body, shape, first, entries, sites))| FunctionProfile { index, body, shape, first, entries, sites };
        functions.into_iter().map(of).collect::<Vec<_>>()
    });
    let method = prop_oneof![Just(Method::Counted), (1..u32::MAX).prop_map(|interval_us| Method::Sampled { interval_us })];
    let calls = prop_oneof![1..1000u64, 1..=u64::MAX];
    ("[a-d]", 0..3000u64, method, "[ -~]{0,20}", calls, functions)
        .prop_map(|(contributor, at, method, origin, calls, functions)| Contribution { contributor, at, method, origin, calls, functions })
}
