//! Profiles and their summaries: what is accepted is written as it was read, unites with itself to itself, and can be added up, compared and
//! carried over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_image::profile::{
    BodyDigest, Contribution, Evaluator, How, MAX_FUNCTIONS, MAX_TARGETS, Plan, Profile, Rules, SiteCounts, Summary, diff, match_functions,
    remap,
};

fuzz_target!(|data: &[u8]| {
    let headers = Profile::headers(data);
    if let Ok(profile) = Profile::parse(data) {
        assert!(profile.to_bytes() == data, "there is one encoding");
        let (source, headers) = headers.expect("what has contributions has their headers");
        assert_eq!((source, headers.len()), (profile.source(), profile.contributions().len()));
        united(&profile);
        for half_life_s in [0, 3600] {
            let rules = Rules { now: 1_800_000_000, half_life_s, cap: 1000 };
            let summary = profile.evaluate(&rules).expect("few bytes have no more than is kept");
            // From behind, and each twice.
            let mut plan = Plan::new(rules);
            headers.iter().rev().for_each(|header| plan.add(header).expect("there are few"));
            let mut evaluator = Evaluator::new(source, plan);
            let contributions: Vec<&Contribution> = profile.contributions().values().rev().collect();
            contributions.iter().chain(&contributions).for_each(|one| evaluator.add(one).expect("it was read, and is in the plan"));
            assert_eq!(evaluator.finish().as_ref(), Ok(&summary), "in any order");
            check(&summary);
        }
    }
    if let Ok(summary) = Summary::parse(data) {
        assert!(summary.to_bytes() == data, "there is one encoding");
        check(&summary);
    }
});

fn united(profile: &Profile) {
    assert_eq!(profile.union(profile).as_ref(), Ok(profile));
    let mut halves = [Profile::new(profile.source()), Profile::new(profile.source())];
    for (place, (id, contribution)) in profile.contributions().iter().enumerate() {
        assert_eq!(halves[place % 2].insert(contribution.clone()), Ok(*id), "what was read may be said");
    }
    let [one, other] = halves;
    assert_eq!(one.union(&other).as_ref(), Ok(profile));
    assert_eq!(other.union(&one).as_ref(), Ok(profile));
    assert!(profile.union(&Profile::new(Digest::of(profile.source().as_bytes()))).is_err());
}

fn check(summary: &Summary) {
    assert_eq!(Summary::parse(&summary.to_bytes()).as_ref(), Ok(summary), "what was written is the same summary");
    for function in summary.functions().values() {
        for site in &function.sites {
            match &site.counts {
                SiteCounts::Branch { reached, taken } => assert!(taken <= reached),
                SiteCounts::Indirect { reached, targets } => {
                    assert!(targets.len() <= MAX_TARGETS && targets.iter().map(|target| target.1).sum::<u64>() <= *reached);
                }
                SiteCounts::Samples(_) => panic!("samples have a list of their own"),
                SiteCounts::Reached(_) | SiteCounts::Table { .. } => {}
            }
        }
    }
    let shares: f64 = summary.shares().iter().map(|share| share.1).sum();
    assert!(summary.total() == 0 || (shares - 1.0).abs() < 1e-6, "{shares}");
    let overlap = diff(summary, summary).overlap;
    assert!(summary.total() == 0 || (overlap - 1.0).abs() < 1e-6, "{overlap}");
    // Over to a version in which each is one further on, every third has another body, and every fifth has gone.
    let new: Vec<_> = summary
        .functions()
        .iter()
        .filter(|(index, _)| *index % 5 != 4 && **index < MAX_FUNCTIONS - 1)
        .map(|(index, function)| (index + 1, if index % 3 == 0 { BodyDigest::of(b"new") } else { function.body }, function.shape))
        .collect();
    let matched = match_functions(summary, &new);
    assert!(matched.weight <= matched.total && matched.total == summary.total());
    assert!(matched.pairs.is_sorted_by(|one, next| one.old < next.old) && matched.pairs.len() <= new.len());
    let offsets = |index| Some((0..index % 7).map(|place| place * 3).collect());
    let there = remap(summary, &matched, Digest::ZERO, offsets).expect("offsets and pairs are in order");
    assert!(there.total() <= matched.weight && there.functions().len() <= matched.pairs.len());
    let itself: Vec<_> = summary.functions().iter().map(|(index, function)| (*index, function.body, function.shape)).collect();
    let matched = match_functions(summary, &itself);
    assert!(matched.pairs.iter().all(|pair| pair.old == pair.new && pair.how == How::Same) && matched.weight == matched.total);
    assert_eq!(remap(summary, &matched, summary.source(), |_| None).as_ref(), Ok(summary));
}
