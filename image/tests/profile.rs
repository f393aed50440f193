//! Profiles: one encoding each, united and added up in any order.

mod profiles;

use preheat_image::profile::{
    BodyDigest, Contribution, Evaluator, FunctionProfile, FunctionSummary, Header, Known, KnownFunction, MAX_CONTRIBUTOR, MAX_FUNCTIONS,
    MAX_ORIGIN, MAX_TARGETS, Method, Plan, Profile, ProfileError, Provenance, Rules, ShapeDigest, Site, SiteCounts, SiteKind, Summary,
};
use preheat_image::{Digest, FormatError};
use profiles::{contribution, contributions, function, reached};
use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use std::collections::BTreeMap;

const RULES: Rules = Rules { now: 2000, half_life_s: 300, cap: 5000 };

fn source() -> Digest {
    Digest::of(b"module")
}

fn profile<'a>(contributions: impl IntoIterator<Item = &'a Contribution>) -> Profile {
    let mut profile = Profile::new(source());
    for contribution in contributions {
        profile.insert(contribution.clone()).unwrap();
    }
    profile
}

/// Something of every kind.
fn small() -> Profile {
    let sites = vec![
        reached(3, 100),
        Site { offset: 7, counts: SiteCounts::Branch { reached: 100, taken: 99 } },
        Site { offset: 9, counts: SiteCounts::Table { arms: vec![1, 0, 300] } },
        Site { offset: 300, counts: SiteCounts::Indirect { reached: 50, targets: vec![(9, 30), (2, 10), (4, 10)] } },
    ];
    let counted =
        contribution("node-1", 12, vec![FunctionProfile { first: Some(0), ..function(2, 5, sites) }, function(9, 30, Vec::new())]);
    let samples = vec![Site { offset: 4, counts: SiteCounts::Samples(17) }];
    let sampled = Contribution {
        method: Method::Sampled { interval_us: 1000 },
        origin: String::new(),
        ..contribution("b", 1000, vec![function(MAX_FUNCTIONS - 1, 0, samples)])
    };
    profile([&counted, &sampled])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The headers, then the contributions in this order.
fn evaluate<'a>(plan: &Profile, order: impl IntoIterator<Item = &'a Contribution>) -> Summary {
    let (_, headers) = Profile::headers(&plan.to_bytes()).unwrap();
    let mut of_plan = Plan::new(RULES);
    headers.iter().rev().chain(&headers).for_each(|header| of_plan.add(header).unwrap());
    let mut evaluator = Evaluator::new(plan.source(), of_plan);
    order.into_iter().for_each(|contribution| evaluator.add(contribution).unwrap());
    evaluator.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_profile_and_its_summary_lead_back(all in proptest::collection::vec(contributions(), 0..6)) {
        let profile = profile(&all);
        let bytes = profile.to_bytes();
        prop_assert_eq!(Profile::parse(&bytes).unwrap(), profile.clone());
        for (header, (id, contribution)) in Profile::headers(&bytes).unwrap().1.iter().zip(profile.contributions()) {
            prop_assert_eq!(header, &Header::of(*id, contribution));
            prop_assert_eq!(*id, contribution.id());
        }
        let summary = profile.evaluate(&RULES).unwrap();
        prop_assert_eq!(Summary::parse(&summary.to_bytes()).unwrap(), summary.clone());
        let sum: f64 = summary.shares().iter().map(|share| share.1).sum();
        prop_assert!(summary.total() == 0 || (sum - 1.0).abs() < 1e-9);
    }

    #[test]
    fn other_bytes_are_no_profile_or_another_one(
        all in proptest::collection::vec(contributions(), 1..4), changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..4)
    ) {
        let profile = profile(&all);
        let (mut bytes, mut summary) = (profile.to_bytes(), profile.evaluate(&RULES).unwrap().to_bytes());
        for (at, byte) in changes {
            let (a, b) = (at % bytes.len(), at % summary.len());
            (bytes[a], summary[b]) = (byte, byte);
        }
        let _ = Profile::headers(&bytes);
        if let Ok(read) = Profile::parse(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes);
        }
        if let Ok(read) = Summary::parse(&summary) {
            prop_assert_eq!(read.to_bytes(), summary);
        }
    }

    #[test]
    fn uniting_is_the_union_of_sets(
        a in proptest::collection::vec(contributions(), 0..4),
        b in proptest::collection::vec(contributions(), 0..4),
        c in proptest::collection::vec(contributions(), 0..4)
    ) {
        let all = profile(a.iter().chain(&b).chain(&c));
        let (a, b, c) = (profile(&a), profile(&b), profile(&c));
        let ab = a.union(&b).unwrap();
        prop_assert_eq!(&ab, &b.union(&a).unwrap());
        prop_assert_eq!(ab.union(&c).unwrap(), a.union(&b.union(&c).unwrap()).unwrap());
        prop_assert_eq!(ab.union(&c).unwrap().to_bytes(), all.to_bytes());
        prop_assert_eq!(ab.union(&ab).unwrap(), ab.clone());
        prop_assert_eq!(ab.union(&a).unwrap(), ab);
    }

    #[test]
    fn a_summary_does_not_know_in_which_order_or_how_often(
        all in proptest::collection::vec(contributions(), 0..8), order in proptest::collection::vec(any::<usize>(), 0..20), cut in any::<usize>()
    ) {
        let whole = profile(&all);
        let summary = whole.evaluate(&RULES).unwrap();
        prop_assert_eq!(&evaluate(&whole, &all), &summary);
        prop_assert_eq!(&evaluate(&whole, all.iter().rev()), &summary);
        // Some of them first, some of them more than once.
        let first = order.iter().filter_map(|place| all.get(place.checked_rem(all.len())?));
        prop_assert_eq!(&evaluate(&whole, first.chain(&all)), &summary);
        // In two groups that overlap.
        let cut = cut % (all.len() + 1);
        let (one, other) = (profile(&all[..cut]), profile(&all[cut / 2..]));
        let mut plan = Plan::new(RULES);
        for group in [&other, &one] {
            Profile::headers(&group.to_bytes()).unwrap().1.iter().for_each(|header| plan.add(header).unwrap());
        }
        let mut evaluator = Evaluator::new(source(), plan);
        evaluator.add_profile(&other).unwrap();
        evaluator.add_profile(&one).unwrap();
        prop_assert_eq!(&evaluator.finish().unwrap(), &summary);
        prop_assert_eq!(&one.union(&other).unwrap().evaluate(&RULES).unwrap(), &summary);
    }
}

/// If one of these changes, so did the format: then its version has to. The first is explained in `docs/image-format.md`.
#[test]
fn version_1_has_these_bytes() {
    let small = small();
    let source = source().hex();
    let of_2 = "f4f9e70cce08ce26dda89780652c56d192d7bda838e4af9f9351e2b9406fa691";
    let of_9 = "ecc70bda30d8b1465dfbbd53f0057131eb200ed360d46da7a05229f31a755102";
    let of_last = "b307247819b1335316bcdc299913840e6ae55c83570e39b59393fce28601782b";
    let counted = [
        "066e6f64652d31 80a4a7da06 00 146e6174697665207072656865617420302e312e30 0c 02",
        "02",
        of_2,
        "01 05 04 1864 19 6463 0a03 01 00 ac02 9312 32 03 091e 020a 040a",
        "06",
        of_9,
        "00 1e 00",
    ]
    .join("");
    let sampled = ["0162 80a4a7da06 01e807 00 e807 01 ffff7f", of_last, "00 00 01 2411"].join("");
    let expected = ["5052454850524f46 01000000", &source, "02 8101", &counted, "36", &sampled].join("").replace(' ', "");
    let bytes = small.to_bytes();
    assert_eq!(hex(&bytes), expected);
    let summary = [
        "505245485053554d 01000000",
        &source,
        "02 02 f407 0c 80a4a7da06 80a4a7da06 03",
        "02",
        of_2,
        "01 94f3bc8b6a 04 18 95ffc1e5c910 19 95ffc1e5c910 f7b4cfc9b410 0a 03 9dcaf29b15 00 c0fdc5b0dd31 9312 caffe0f2a408 03",
        "09 f9b2edc4fc04 02 a8e6f996d401 04 a8e6f996d401 00",
        "06",
        of_9,
        "00 f9b2edc4fc04 00 00",
        "f5ff7f",
        of_last,
        "00 00 00 01 04 9d94b8a5ee9e3f",
    ];
    let bytes = small.evaluate(&Rules::new(1_800_000_000)).unwrap().to_bytes();
    assert_eq!(hex(&bytes), summary.join("").replace(' ', ""));
}

#[test]
fn the_smallest_contribution_can_be_read() {
    let smallest = profile([&Contribution { at: 0, origin: String::new(), ..contribution("a", 1, Vec::new()) }]);
    let bytes = smallest.to_bytes();
    assert_eq!(Profile::parse(&bytes), Ok(smallest));
    assert_eq!(Profile::headers(&bytes).unwrap().1.len(), 1);
}

#[test]
fn functions_are_read_one_at_a_time_and_add_up_to_the_same() {
    let all = small();
    let bytes = all.to_bytes();
    let (of, encoded) = Profile::encoded(&bytes).unwrap();
    assert_eq!((of, encoded.len()), (all.source(), all.contributions().len()));
    // Under names that the plan has chosen.
    let name = |number: u8| preheat_image::profile::ContributionId::of(&[number]);
    let mut plan = Plan::new(RULES);
    for (number, one) in (0..).zip(&encoded) {
        plan.add(&Header { id: name(number), ..one.header() }).unwrap();
    }
    let mut evaluator = Evaluator::new(of, plan);
    for (number, one) in (0..).zip(&encoded) {
        let functions: Vec<FunctionProfile> = one.functions().map(Result::unwrap).collect();
        assert_eq!(functions, all.contributions()[&one.header().id].functions);
        evaluator.add_encoded(name(number), one).unwrap();
        evaluator.add_encoded(name(number), one).unwrap();
    }
    assert_eq!(evaluator.finish().unwrap(), all.evaluate(&RULES).unwrap());
}

#[test]
fn every_cut_and_every_byte_more_is_seen() {
    let profile = small();
    let summary = profile.evaluate(&RULES).unwrap().to_bytes();
    let bytes = profile.to_bytes();
    assert!((0..bytes.len()).all(|len| Profile::parse(&bytes[..len]).is_err() && Profile::headers(&bytes[..len]).is_err()));
    assert!((0..summary.len()).all(|len| Summary::parse(&summary[..len]).is_err()));
    assert!(Profile::parse(&[bytes, vec![0]].concat()).is_err() && Summary::parse(&[summary, vec![0]].concat()).is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let mut bytes = small().to_bytes();
    bytes[8] = 2;
    assert_eq!(Profile::parse(&bytes), Err(FormatError::Version { format: "profile", found: 2, supported: 1 }));
    assert!(matches!(Profile::parse(b"PREHHEAP"), Err(FormatError::NotThisFormat { .. })));
    assert!(matches!(Summary::parse(&small().to_bytes()), Err(FormatError::NotThisFormat { format: "profile summary", .. })));
    // Counts of which there can't be as many.
    let mut claims = small().to_bytes()[..44].to_vec();
    claims.extend([0x90, 0x4e]);
    assert!(matches!(Profile::parse(&claims), Err(FormatError::Truncated { .. })), "10,000 contributions");
    claims.truncate(44);
    claims.extend([0x91, 0x4e]);
    assert!(matches!(Profile::parse(&claims), Err(FormatError::Damaged { .. })), "10,001 contributions");
}

#[test]
fn what_no_contribution_may_say_is_refused() {
    let refused = |change: &dyn Fn(&mut Contribution)| {
        let mut sites = vec![reached(1, 2), Site { offset: 5, counts: SiteCounts::Branch { reached: 2, taken: 1 } }];
        sites.push(Site { offset: 6, counts: SiteCounts::Indirect { reached: 5, targets: vec![(1, 3), (7, 2)] } });
        let mut one = contribution("a", 1, vec![function(0, 1, sites), function(1, 1, Vec::new())]);
        assert!(profile([]).insert(one.clone()).is_ok());
        change(&mut one);
        assert!(matches!(profile([]).insert(one.clone()), Err(ProfileError::Invalid(_))), "{one:?}");
        let mut plan = Plan::new(RULES);
        plan.add(&Header::of(one.id(), &one)).unwrap();
        assert!(matches!(Evaluator::new(source(), plan).add(&one), Err(ProfileError::Invalid(_))));
    };
    refused(&|one| one.contributor.clear());
    refused(&|one| one.contributor = "x".repeat(MAX_CONTRIBUTOR + 1));
    refused(&|one| one.contributor = "a\nb".into());
    refused(&|one| one.contributor = "\u{202e}".into());
    refused(&|one| one.origin = "x".repeat(MAX_ORIGIN + 1));
    refused(&|one| one.calls = 0);
    refused(&|one| one.method = Method::Sampled { interval_us: 0 });
    refused(&|one| one.functions.reverse());
    refused(&|one| one.functions[1].index = 0);
    refused(&|one| one.functions[1].index = MAX_FUNCTIONS);
    let counts = |place: usize, counts: SiteCounts| move |one: &mut Contribution| one.functions[0].sites[place].counts = counts.clone();
    refused(&|one| one.functions[0].sites.swap(0, 1));
    refused(&|one| one.functions[0].sites[1].offset = 1);
    refused(&counts(1, SiteCounts::Branch { reached: 2, taken: 3 }));
    refused(&counts(1, SiteCounts::Table { arms: Vec::new() }));
    let targets = |reached, targets: &[(u32, u64)]| counts(2, SiteCounts::Indirect { reached, targets: targets.to_vec() });
    refused(&targets(4, &[(1, 3), (7, 2)]));
    refused(&targets(9, &[(7, 2), (1, 3)]));
    refused(&targets(9, &[(7, 2), (1, 2)]));
    refused(&targets(9, &[(1, 3), (1, 2)]));
    refused(&targets(9, &[(1, 0)]));
    refused(&targets(9, &[(MAX_FUNCTIONS, 1)]));
    refused(&targets(u64::MAX, &[(1, u64::MAX), (2, u64::MAX)]));
    refused(&targets(1000, &(0..).map(|index| (index, 1)).take(MAX_TARGETS + 1).collect::<Vec<_>>()));
}

#[test]
fn profiles_of_two_modules_do_not_unite() {
    let (mut one, other) = (small(), Profile::new(Digest::of(b"other")));
    let expected = ProfileError::OtherSource { one: one.source(), other: other.source() };
    assert_eq!(one.union(&other), Err(expected.clone()));
    assert_eq!(Evaluator::new(one.source(), Plan::new(RULES)).add_profile(&other), Err(expected));
    let unknown = contribution("a", 1, Vec::new());
    assert_eq!(Evaluator::new(one.source(), Plan::new(RULES)).add(&unknown), Err(ProfileError::NotPlanned(unknown.id())));
    let id = one.insert(unknown.clone()).unwrap();
    assert_eq!((one.insert(unknown.clone()).unwrap(), one.contributions().len()), (id, 3), "once is enough");
}

#[test]
fn a_summary_has_what_was_counted_in_proportion() {
    let summary = small().evaluate(&Rules { cap: 100, half_life_s: 0, now: 0 }).unwrap();
    assert_eq!(summary.provenance().calls, 1012);
    let Provenance { contributors, contributions, counted, oldest, newest, .. } = *summary.provenance();
    assert_eq!((contributors, contributions, counted, oldest, newest), (2, 2, 12, 1_800_000_000, 1_800_000_000));
    let hot = summary.function(2).unwrap();
    let Some(SiteCounts::Branch { reached, taken }) = hot.site(7) else { panic!("{:?}", hot.sites) };
    assert!(reached.abs_diff(taken / 99 * 100) < 200 && *hot.site(3).unwrap() == SiteCounts::Reached(*reached));
    let Some(SiteCounts::Indirect { targets, .. }) = hot.site(300) else { panic!("{:?}", hot.sites) };
    assert_eq!(targets.iter().map(|target| target.0).collect::<Vec<_>>(), [9, 2, 4]);
    assert_eq!(hot.site(9).unwrap().kind(), SiteKind::Table { arms: 3 });
    assert_eq!((hot.first, hot.site(4), summary.function(9).unwrap().first), (Some(0), None, None));
    // 12 requests were counted, and of the other 1000 no more than 100 count.
    let shares: BTreeMap<u32, f64> = summary.shares().into_iter().collect();
    assert!((shares[&(MAX_FUNCTIONS - 1)] - 100.0 / 112.0).abs() < 1e-9, "{shares:?}");
    assert_eq!(summary.coverage(), (3, 3));
    assert_eq!(summary.digest(), Digest::of(&summary.to_bytes()));
}

#[test]
fn samples_and_counts_of_the_same_place_are_kept_apart() {
    let counted = contribution("a", 1, vec![function(1, 0, vec![reached(3, 5)])]);
    let samples = vec![Site { offset: 3, counts: SiteCounts::Samples(1) }];
    let sampled = Contribution { method: Method::Sampled { interval_us: 1 }, ..contribution("b", 1, vec![function(1, 0, samples)]) };
    let summary = profile([&counted, &sampled]).evaluate(&Rules { now: 0, half_life_s: 0, cap: 0 }).unwrap();
    let function = summary.function(1).unwrap();
    // A count is rounded down.
    assert_eq!(
        (function.samples.as_slice(), function.sites.as_slice()),
        ([(3, 1 << 47)].as_slice(), [reached(3, (1 << 47) - 1)].as_slice())
    );
}

#[test]
fn who_weighs_more_is_believed() {
    let one = |contributor: &str, calls, body: &[u8], kind: SiteCounts| {
        let sites = vec![Site { offset: 1, counts: kind }];
        let function = FunctionProfile { body: BodyDigest::of(body), ..function(0, 10, sites) };
        contribution(contributor, calls, vec![function])
    };
    let branch = SiteCounts::Branch { reached: 4, taken: 1 };
    let all = [
        one("a", 10, b"true", branch.clone()),
        one("b", 10, b"true", branch),
        one("c", 15, b"false", SiteCounts::Reached(u64::MAX)),
        one("d", 15, b"true", SiteCounts::Table { arms: vec![u64::MAX; 9] }),
    ];
    let summary = profile(&all).evaluate(&Rules { now: 0, half_life_s: 0, cap: 0 }).unwrap();
    let function = summary.function(0).unwrap();
    assert_eq!((function.body, function.sites.len()), (BodyDigest::of(b"true"), 1));
    assert_eq!(function.sites[0].counts.kind(), SiteKind::Branch);
}

#[test]
fn the_order_of_first_calls_is_that_of_most() {
    let order = |contributor: &str, order: &[u32]| {
        let mut functions: Vec<FunctionProfile> =
            (0..).zip(order).map(|(first, index)| FunctionProfile { first: Some(first), ..function(*index, 1, Vec::new()) }).collect();
        functions.sort_by_key(|function| function.index);
        contribution(contributor, 10, functions)
    };
    let all = [
        order("a", &[5, 3, 8, 1]),
        order("b", &[5, 3, 8, 1, 9]),
        order("c", &[5, 8, 3, 1]),
        order("hostile", &[7, 6, 1, 8, 3, 5]),
        // Whoever does not know the order has no say in it.
        contribution("sampled", 10, vec![function(7, 1000, Vec::new())]),
    ];
    let summary = profile(&all).evaluate(&Rules { now: 0, half_life_s: 0, cap: 0 }).unwrap();
    let firsts: BTreeMap<u32, Option<u32>> = summary.functions().iter().map(|(index, function)| (*index, function.first)).collect();
    assert_eq!(firsts, [(1, Some(3)), (3, Some(1)), (5, Some(0)), (6, None), (7, None), (8, Some(2)), (9, None)].into());
}

#[test]
fn what_is_not_in_the_module_is_left_out_when_it_is_known() {
    let targets = SiteCounts::Indirect { reached: 9, targets: vec![(1, 5), (77, 4)] };
    let mut sites = vec![reached(3, 5), Site { offset: 5, counts: targets }, reached(6, 1)];
    sites.push(Site { offset: 40, counts: SiteCounts::Samples(1) });
    sites.push(Site { offset: 60, counts: SiteCounts::Samples(1) });
    let other = FunctionProfile { shape: ShapeDigest::of(b"another"), ..function(2, 1, Vec::new()) };
    let one = contribution("a", 1, vec![function(1, 1, sites), other, function(77, 1, Vec::new())]);
    let body = |index: u32, sites| {
        let FunctionProfile { body, shape, .. } = function(index, 0, Vec::new());
        (index, KnownFunction { body, shape, size: 50, sites })
    };
    let bodies = [body(1, vec![(3, SiteKind::Reached), (5, SiteKind::Indirect), (6, SiteKind::Branch)]), body(2, Vec::new())].into();
    let mut plan = Plan::new(RULES);
    plan.add(&Header { at: RULES.now, ..Header::of(one.id(), &one) }).unwrap();
    let mut evaluator = Evaluator::new(source(), plan).with_known(Known { functions: 3, bodies });
    evaluator.add(&one).unwrap();
    let summary = evaluator.finish().unwrap();
    assert_eq!(summary.functions().keys().collect::<Vec<_>>(), [&1]);
    let function = summary.function(1).unwrap();
    assert_eq!(function.sites.iter().map(|site| site.offset).collect::<Vec<_>>(), [3, 5]);
    assert!(matches!(function.site(5), Some(SiteCounts::Indirect { targets, .. }) if targets.len() == 1 && targets[0].0 == 1));
    assert_eq!(function.samples.iter().map(|sample| sample.0).collect::<Vec<_>>(), [40]);
}

#[test]
fn who_makes_up_more_than_is_kept_brings_no_summary_about() {
    let sites = |from: u32| (0..60_000).map(|offset| reached(from + offset, 1)).collect::<Vec<_>>();
    let all: Vec<Contribution> =
        (0..5u32).map(|one| contribution("a", 1, (0..15).map(|index| function(15 * one + index, 1, sites(0))).collect())).collect();
    let mut plan = Plan::new(Rules { now: 0, half_life_s: 0, cap: 0 });
    all.iter().for_each(|one| plan.add(&Header::of(one.id(), one)).unwrap());
    let mut evaluator = Evaluator::new(source(), plan);
    let results: Vec<_> = all.iter().map(|one| evaluator.add(one).is_ok()).collect();
    assert_eq!(results, [true, true, true, true, false]);
    assert!(matches!(evaluator.add(&all[0]), Err(ProfileError::TooMuch(_))));
    assert!(matches!(evaluator.finish(), Err(ProfileError::TooMuch(_))));
}

#[test]
fn a_summary_is_made_by_hand_only_if_it_can_be_one() {
    let function = || FunctionSummary {
        body: BodyDigest::of(b""),
        shape: ShapeDigest::of(b""),
        first: None,
        entries: 1,
        sites: vec![reached(1, 1)],
        samples: vec![(1, 1), (2, 1)],
    };
    let made = |index: u32, function: FunctionSummary| Summary::new(source(), Provenance::default(), [(index, function)].into());
    assert_eq!(made(0, function()).unwrap().weight(0), 4);
    let refused = |index, function| assert!(matches!(made(index, function), Err(ProfileError::Invalid(_))));
    refused(MAX_FUNCTIONS, function());
    refused(0, FunctionSummary { entries: u64::MAX, ..function() });
    refused(0, FunctionSummary { samples: vec![(2, 1), (1, 1)], ..function() });
    refused(0, FunctionSummary { sites: vec![reached(2, 1), reached(1, 1)], ..function() });
    refused(0, FunctionSummary { sites: vec![Site { offset: 1, counts: SiteCounts::Samples(1) }], ..function() });
    let provenance = Provenance { counted: 2, calls: 1, ..Provenance::default() };
    assert!(Summary::new(source(), provenance, BTreeMap::new()).is_err());
}
