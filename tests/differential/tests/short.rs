//! The short form of the differential test: some hundred seeds.

use preheat_differential::{Case, Checker, Generator, Report, on_large_stack};
use std::ops::Range;

fn compare(generator: Generator, seeds: Range<u64>, count_every: u64) -> Report {
    compare_with(&Checker::new().unwrap(), generator, seeds, count_every)
}

fn compare_with(checker: &Checker, generator: Generator, seeds: Range<u64>, count_every: u64) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let Some(case) = Case::of_seed(generator, seed).unwrap() else { continue };
        let verdict = on_large_stack(|| checker.check(&case, seed.is_multiple_of(count_every))).unwrap().unwrap();
        assert_eq!(verdict.difference, None, "{generator:?} seed {seed}");
        report.add(&verdict);
    }
    report
}

#[test]
fn modules_of_any_shape_compute_the_same_on_both_engines() {
    let report = compare(Generator::Smith, 0..300, 10);
    assert!(report.modules > 270, "{report}");
    assert!(report.share_returned() >= 0.6, "{report}");
    assert!(report.counted >= 25, "{report}");
}

#[test]
fn programs_with_every_operator_compute_the_same_on_both_engines() {
    let report = compare(Generator::Program, 0..60, 1);
    assert_eq!((report.modules, report.counted), (60, 60), "{report}");
    assert!(report.share_returned() >= 0.6, "{report}");
    assert_eq!(report.rarer_than(1), [], "operators that were not executed");
}

#[test]
fn profiles_that_say_anything_change_nothing() {
    let checker = Checker::new().unwrap().with_profiles();
    let mut report = compare_with(&checker, Generator::Smith, 500..600, 5);
    report.merge(compare_with(&checker, Generator::Program, 100..125, 1));
    report.merge(compare_with(&checker, Generator::Calls, 0..100, 1));
    assert!(report.modules > 200 && report.looked_at > 130, "{report}");
    assert!(report.inlined_by_random > 30 && report.inlined_by_own > 50 && report.counted_exactly > 30, "{report}");
}

#[test]
fn a_seed_stands_for_one_case() {
    for generator in [Generator::Smith, Generator::Program] {
        let case = |seed| Case::of_seed(generator, seed).unwrap().unwrap();
        let (first, again, other) = (case(5), case(5), case(6));
        assert!(first.wasm == again.wasm && first.native == again.native && first.oracle_cpu == again.oracle_cpu);
        assert!(first.wasm != other.wasm);
    }
}

#[test]
fn the_seed_of_the_fuzz_target_is_a_case() {
    let seed = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/differential/module")).unwrap();
    let case = Case::of_bytes(&seed).unwrap().unwrap();
    let checker = Checker::new().unwrap();
    let verdict = on_large_stack(|| checker.check(&case, true)).unwrap().unwrap();
    assert_eq!((verdict.difference, verdict.skipped), (None, None));
    assert!(verdict.returned > 0 && verdict.executed.unwrap().iter().sum::<u64>() > 100, "{:?}", verdict.endings);
    assert!(Case::of_bytes(&[]).unwrap().is_none());
}
