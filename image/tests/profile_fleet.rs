//! Profiles of a whole fleet: what one of many says does not change what the others say together, and many are no more than the module is large.

mod profiles;

use preheat_image::Digest;
use preheat_image::profile::{
    Contribution, Evaluator, FunctionProfile, Header, MAX_TIMES_MEDIAN, Plan, Profile, Rules, Site, SiteCounts, Summary,
};
use profiles::{contribution, function, reached};

const NOW: u64 = 1_800_000_000;
const FUNCTIONS: u32 = 60;
const SITES: u32 = 20;

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The place of a function in the order of heat: another one in each version.
fn heat(version: u32, index: u32) -> u32 {
    (index * 7 + version * 13) % FUNCTIONS
}

/// What an honest node sees in this version: the hottest function four fifths more often than the next, give or take a tenth.
fn honest(name: &str, version: u32, dice: &mut Dice) -> Contribution {
    let calls = 50 + dice.below(1000);
    let functions = (0..FUNCTIONS).map(|index| {
        let about = (0..heat(version, index)).fold(calls * 10_000, |count, _| count / 5 * 4);
        let mut count = || about * (950 + dice.below(100)) / 1000;
        let sites = (0..SITES).map(|site| match site % 4 {
            0 => reached(site * 5, count()),
            1 => Site { offset: site * 5, counts: SiteCounts::Branch { reached: count(), taken: 0 } },
            2 => Site { offset: site * 5, counts: SiteCounts::Table { arms: vec![count() / 2, count() / 2] } },
            _ => Site { offset: site * 5, counts: SiteCounts::Indirect { reached: count() + 2, targets: vec![(index, 1)] } },
        });
        let sites = sites.collect();
        FunctionProfile { first: Some(index), ..function(index, calls, sites) }
    });
    let functions = functions.collect();
    Contribution { at: NOW - dice.below(3 * 24 * 3600), ..contribution(name, calls, functions) }
}

/// What somebody says who wants another order: the largest number everywhere, and that he has seen more and later than anybody.
fn hostile(version: u32, number: u64) -> Contribution {
    let count = u64::MAX - number;
    let functions = (0..FUNCTIONS).map(|index| {
        let sites = (0..SITES).map(|site| match site % 4 {
            0 => reached(site * 5, count),
            1 => Site { offset: site * 5, counts: SiteCounts::Branch { reached: count, taken: count } },
            2 => Site { offset: site * 5, counts: SiteCounts::Table { arms: vec![count, count] } },
            _ => Site { offset: site * 5, counts: SiteCounts::Indirect { reached: count, targets: vec![(heat(version, index), count)] } },
        });
        let sites = sites.collect();
        FunctionProfile { first: Some(FUNCTIONS - index), ..function(index, count, sites) }
    });
    let functions = functions.collect();
    Contribution { at: u64::MAX, ..contribution("hostile", count, functions) }
}

/// What somebody says who wants one function to be hot that hardly ever runs.
fn pushing(index: u32) -> Contribution {
    contribution("hostile", u64::MAX, vec![function(index, u64::MAX, vec![reached(0, u64::MAX)])])
}

fn source(version: u32) -> Digest {
    Digest::of(&version.to_le_bytes())
}

fn summary(version: u32, contributions: &[Contribution], rules: Rules) -> Summary {
    let mut profile = Profile::new(source(version));
    for contribution in contributions {
        profile.insert(contribution.clone()).unwrap();
    }
    profile.evaluate(&rules).unwrap()
}

fn ranking(summary: &Summary, most: usize) -> Vec<u32> {
    summary.shares().into_iter().take(most).map(|share| share.0).collect()
}

#[test]
fn one_of_two_hundred_does_not_change_what_is_hot() {
    let mut dice = Dice(1);
    for version in 0..3 {
        // Not everybody runs every version.
        let nodes = (0..200).filter(|node| node % 3 != version);
        let honest: Vec<Contribution> = nodes.map(|node| honest(&format!("node-{node}"), version, &mut dice)).collect();
        let mut expected: Vec<u32> = (0..FUNCTIONS).collect();
        expected.sort_by_key(|index| heat(version, *index));
        for rules in [Rules::new(NOW), Rules { now: NOW, half_life_s: 0, cap: 0 }, Rules { now: NOW, half_life_s: 24 * 3600, cap: 200 }] {
            let without = summary(version, &honest, rules);
            assert_eq!(ranking(&without, 20), expected[..20], "the tests' own numbers");
            let everywhere: Vec<Contribution> = (0..20).map(|number| hostile(version, number)).collect();
            let coldest = expected[FUNCTIONS as usize - 1];
            for lies in [everywhere, vec![pushing(coldest)]] {
                let with = summary(version, &[honest.as_slice(), &lies].concat(), rules);
                // What was pushed is hotter than it is, but no more than the liar weighs, and all others are in their order.
                let pushed = |index: &u32| lies.len() == 1 && *index == coldest;
                let mut found = ranking(&with, 21);
                found.retain(|index| !pushed(index));
                assert_eq!(found[..20], expected[..20]);
                let most = MAX_TIMES_MEDIAN as f64 / honest.len() as f64 * 1.5;
                let shares = |summary: &Summary| summary.weight(coldest) as f64 / summary.total() as f64;
                assert!(shares(&with) - shares(&without) < most, "{} of {most}", shares(&with));
                let hottest = with.function(expected[0]).unwrap();
                assert!(
                    matches!(hottest.site(5), Some(SiteCounts::Branch { reached, taken }) if *taken < reached / 10),
                    "which way a branch goes is what the honest say: {:?}",
                    hottest.site(5)
                );
                let order: Vec<Option<u32>> = with.functions().values().map(|function| function.first).collect();
                assert_eq!(order, (0..FUNCTIONS).map(Some).collect::<Vec<_>>(), "and so is which function was called first");
            }
        }
    }
}

#[test]
fn contributions_to_other_versions_are_refused() {
    let mut dice = Dice(2);
    let one = honest("a", 0, &mut dice);
    let mut other = Profile::new(source(1));
    other.insert(one.clone()).unwrap();
    let mut plan = Plan::new(Rules::new(NOW));
    plan.add(&Header::of(one.id(), &one)).unwrap();
    assert!(Evaluator::new(source(0), plan).add_profile(&other).is_err());
    assert!(Profile::new(source(0)).union(&other).is_err());
}

#[test]
fn whoever_brought_it_is_who_counts() {
    // One who claims to be a hundred: whoever plans knows better.
    let mut dice = Dice(3);
    let honest: Vec<Contribution> = (0..20).map(|node| honest(&format!("node-{node}"), 0, &mut dice)).collect();
    let lies: Vec<Contribution> =
        (0..100).map(|number| Contribution { contributor: format!("node-{}", 1000 + number), ..hostile(0, number) }).collect();
    let weight_of_lies = |known: bool| {
        let mut plan = Plan::new(Rules::new(NOW));
        honest.iter().for_each(|one| plan.add(&Header::of(one.id(), one)).unwrap());
        for lie in &lies {
            let header = Header::of(lie.id(), lie);
            plan.add(&if known { Header { contributor: "token-7".into(), at: NOW, ..header } } else { header }).unwrap();
        }
        let mut evaluator = Evaluator::new(source(0), plan);
        honest.iter().chain(&lies).for_each(|one| evaluator.add(one).unwrap());
        let summary = evaluator.finish().unwrap();
        assert_eq!(summary.provenance().contributors, if known { 21 } else { 120 });
        let Some(SiteCounts::Branch { reached, taken }) = summary.function(0).unwrap().site(5).cloned() else { panic!("no branch") };
        taken as f64 / reached as f64
    };
    assert!(weight_of_lies(false) > 0.3 && weight_of_lies(true) < weight_of_lies(false) / 2.0);
}

/// Adds up so many contributions to a module of so many functions, of twenty sites each, and says how long one took.
fn add_up(contributions: u64, functions: u32) -> Summary {
    let make = |number: u64| {
        let mut dice = Dice(number);
        let of_function = |index| function(index, number, (0..20).map(|site| reached(site * 9, dice.below(1 << 20))).collect());
        let functions = (0..functions).map(of_function).collect();
        contribution(&format!("node-{}", number % 200), 1 + number, functions)
    };
    let ids: Vec<Header> = (0..contributions).map(make).map(|one| Header::of(one.id(), &one)).collect();
    let mut plan = Plan::new(Rules::new(NOW));
    ids.iter().for_each(|header| plan.add(header).unwrap());
    let mut evaluator = Evaluator::new(source(0), plan);
    let mut took = std::time::Duration::ZERO;
    for number in 0..contributions {
        let mut one = Profile::new(source(0));
        one.insert(make(number)).unwrap();
        let start = std::time::Instant::now();
        evaluator.add_profile(&one).unwrap();
        took += start.elapsed();
    }
    println!("{contributions} contributions: {took:?}; memory {}", peak_memory());
    evaluator.finish().unwrap()
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default().to_owned()
}

#[test]
fn many_contributions_are_added_up() {
    let summary = add_up(200, 100);
    assert_eq!((summary.functions().len(), summary.provenance().contributions, summary.provenance().contributors), (100, 200, 200));
}

/// The figures of `docs/profiles.md`: with `CARGO_PROFILE_DEV_OPT_LEVEL=3` and `-- --ignored --nocapture`.
#[test]
#[ignore = "minutes, most of which it takes to make them"]
fn ten_thousand_contributions_are_added_up() {
    assert_eq!(add_up(10_000, 3000).functions().len(), 3000);
}
