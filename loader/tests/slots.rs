//! Slots are what their template says, each time they are taken, whatever was done with them.

use preheat_loader::TrustedCode;
use preheat_loader::map::{MappedFile, Method, PAGE, PoolLimits, Run, Scanner, Slot, SlotPool, Template};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const RESERVATION: usize = 64 * PAGE;

/// A file of `pages` pages, each full of its number plus one.
fn file(pages: u8) -> Arc<MappedFile> {
    let bytes: Vec<u8> = (1..=pages).flat_map(|page| [page; PAGE]).collect();
    // SAFETY: never executed.
    let code = unsafe { TrustedCode::vouch(&bytes, "none") }.unwrap();
    Arc::new(MappedFile::map(code.file()).unwrap())
}

/// Runs of (page in the slot, page in the file, pages).
fn template(file: &Arc<MappedFile>, pages: usize, runs: &[(usize, usize, usize)], mappings: usize) -> Arc<Template> {
    let run = |(at, offset, len): &(usize, usize, usize)| Run { at: at * PAGE, len: len * PAGE, file: file.clone(), offset: offset * PAGE };
    Arc::new(Template::new(pages * PAGE, runs.iter().map(run).collect(), mappings).unwrap())
}

fn contents(pages: usize, runs: &[(usize, usize, usize)]) -> Vec<u8> {
    let mut bytes = vec![0; pages * PAGE];
    for (at, offset, len) in runs {
        for page in 0..*len {
            bytes[(at + page) * PAGE..][..PAGE].fill(u8::try_from(offset + page + 1).unwrap());
        }
    }
    bytes
}

fn pool(method: Method, limits: PoolLimits) -> SlotPool {
    SlotPool::new(RESERVATION, limits, Arc::new(Scanner::new(Some(method))))
}

const METHODS: [Method; 3] = [Method::Scan, Method::Pagemap, Method::Remap];
const RUNS: [(usize, usize, usize); 3] = [(1, 0, 2), (5, 3, 4), (10, 2, 1)];

#[test]
fn a_slot_that_was_written_and_grown_is_as_at_first_when_it_is_taken_again() {
    let file = file(8);
    for method in METHODS {
        for mappings in [0, 1, 3] {
            for pages in [0, 2, 512] {
                let pool = pool(method, PoolLimits { pages, ..PoolLimits::default() });
                let template = template(&file, 12, &RUNS, mappings);
                let mut slot = pool.take(&template).unwrap();
                let base = slot.base();
                assert_eq!(slot.bytes(), contents(12, &RUNS));
                slot.grow(20 * PAGE).unwrap();
                assert!(slot.bytes()[12 * PAGE..].iter().all(|byte| *byte == 0));
                slot.bytes_mut().fill(0xee);
                pool.give(slot);
                let slot = pool.take(&template).unwrap();
                assert_eq!(slot.base(), base);
                assert_eq!(slot.bytes(), contents(12, &RUNS), "{method:?}, {mappings} mappings, {pages} pages kept");
                pool.give(slot);
                assert_eq!(pool.count(), (1, 1));
            }
        }
    }
}

#[test]
fn grown_space_is_gone_after_a_reset() {
    let file = file(1);
    let pool = pool(Method::Scan, PoolLimits::default());
    let template = template(&file, 1, &[(0, 0, 1)], 1);
    let mut slot = pool.take(&template).unwrap();
    slot.grow(4 * PAGE).unwrap();
    slot.bytes_mut().fill(7);
    pool.give(slot);
    let mut slot = pool.take(&template).unwrap();
    assert_eq!(slot.open(), PAGE);
    // The kernel itself says that nothing is accessible behind it.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let end = slot.base().as_ptr().addr() + PAGE;
    let behind = maps.lines().find(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let stop = rest.split_once(' ').unwrap().0;
        (usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(stop, 16).unwrap()).contains(&end)
    });
    assert!(behind.unwrap().contains("---p"), "{behind:?}");
    slot.grow(4 * PAGE).unwrap();
    assert!(slot.bytes()[PAGE..].iter().all(|byte| *byte == 0));
    assert!(slot.grow(RESERVATION + PAGE).is_err());
}

#[test]
fn a_slot_of_one_template_shows_nothing_to_another() {
    let (first_file, second_file) = (file(8), file(3));
    for method in METHODS {
        let pool = pool(method, PoolLimits { slots: 1, ..PoolLimits::default() });
        let first = template(&first_file, 12, &RUNS, 2);
        let second = template(&second_file, 20, &[(3, 1, 2)], 1);
        for _ in 0..3 {
            for (template, pages, runs) in [(&first, 12, &RUNS[..]), (&second, 20, &[(3, 1, 2)][..])] {
                let mut slot = pool.take(template).unwrap();
                assert_eq!(slot.bytes(), contents(pages, runs), "{method:?}");
                // What one was grown by lies where the other begins.
                slot.grow(24 * PAGE).unwrap();
                slot.bytes_mut().fill(0xee);
                assert!(pool.take(template).is_err(), "there is only one");
                pool.give(slot);
            }
        }
        assert_eq!(pool.count(), (1, 1));
        pool.forget(&second);
        assert_eq!(pool.count(), (0, 0));
        assert!(pool.take(&first).is_ok());
    }
}

#[test]
fn what_is_written_elsewhere_each_time_is_undone_each_time() {
    const PAGES: usize = 9000;
    let file = file(8);
    let runs = [(1, 0, 2), (700, 3, 4), (5000, 2, 1)];
    for method in METHODS {
        for mappings in [0, 1, 3] {
            let pool = SlotPool::new(2 * PAGES * PAGE, PoolLimits::default(), Arc::new(Scanner::new(Some(method))));
            let template = template(&file, PAGES, &runs, mappings);
            let places = |round: usize| {
                // The same pages in every round, and one that moves.
                BTreeSet::from(
                    [2, 701, 5000, 8999, 10_000, (round * 613 + 100) % (2 * PAGES), (round * 97 + 5000) % PAGES]
                        .map(|page| page * PAGE + 9),
                )
            };
            for round in 0..150 {
                let mut slot = pool.take(&template).unwrap();
                if round > 0 {
                    for at in places(round - 1).into_iter().filter(|at| *at < slot.open()) {
                        let page = at / PAGE;
                        let run = runs.iter().find(|(start, _, len)| (*start..start + len).contains(&page));
                        let expected = run.map_or(0, |(start, offset, _)| u8::try_from(offset + page - start + 1).unwrap());
                        assert_eq!(slot.bytes()[at], expected, "{method:?}, page {page} in round {round}");
                    }
                }
                slot.grow(if round % 3 == 2 { 2 * PAGES } else { 11_000 } * PAGE).unwrap();
                let open = slot.open();
                for at in places(round).into_iter().filter(|at| *at < open) {
                    assert_ne!(slot.bytes()[at], 0xee, "{method:?} in round {round}");
                    slot.bytes_mut()[at] = 0xee;
                }
                pool.give(slot);
            }
            let slot = pool.take(&template).unwrap();
            assert!(slot.bytes() == contents(PAGES, &runs), "{method:?}");
        }
    }
}

#[test]
fn templates_out_of_bounds_are_refused() {
    let file = file(4);
    let run = |at, len, offset| Run { at, len, file: file.clone(), offset };
    let refused = |len, runs| Template::new(len, runs, 9).is_err();
    assert!(refused(PAGE, vec![run(0, 2 * PAGE, 0)]));
    assert!(refused(9 * PAGE, vec![run(0, 5 * PAGE, 0)]));
    assert!(refused(9 * PAGE, vec![run(0, PAGE, 4 * PAGE)]));
    assert!(refused(9 * PAGE, vec![run(1, PAGE, 0)]));
    assert!(refused(9 * PAGE, vec![run(0, PAGE, 1)]));
    assert!(refused(9 * PAGE, vec![run(0, 7, 0)]));
    assert!(refused(9 * PAGE, vec![run(0, PAGE, 0), run(0, PAGE, 0)]));
    assert!(refused(9 * PAGE, vec![run(usize::MAX - PAGE + 1, PAGE, 0)]));
    assert!(refused(9 * PAGE, vec![run(0, PAGE, usize::MAX - PAGE + 1)]));
    assert!(refused(PAGE + 1, vec![]));
    let template = Arc::new(Template::new(RESERVATION + PAGE, vec![], 0).unwrap());
    assert!(pool(Method::Scan, PoolLimits::default()).take(&template).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Write { page: usize, byte: u8 },
    Grow { pages: usize },
    GiveBack,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..40usize, any::<u8>()).prop_map(|(page, byte)| Step::Write { page, byte }),
        2 => (0..40usize).prop_map(|pages| Step::Grow { pages }),
        2 => Just(Step::GiveBack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_slot_behaves_like_a_vector(
        steps in prop::collection::vec(step(), 1..60), method in 0..3usize, keep in 0..6usize, mappings in 0..4usize,
    ) {
        let file = file(8);
        let pool = pool(METHODS[method], PoolLimits { pages: keep, ..PoolLimits::default() });
        let template = template(&file, 12, &RUNS, mappings);
        let mut slot: Slot = pool.take(&template).unwrap();
        let mut model = contents(12, &RUNS);
        for step in steps {
            match step {
                Step::Write { page, byte } => {
                    if let Some(place) = model.get_mut(page * PAGE + 5) {
                        *place = byte;
                        slot.bytes_mut()[page * PAGE + 5] = byte;
                    }
                }
                Step::Grow { pages } => {
                    slot.grow(pages * PAGE).unwrap();
                    model.resize(model.len().max(pages * PAGE), 0);
                }
                Step::GiveBack => {
                    pool.give(slot);
                    slot = pool.take(&template).unwrap();
                    model = contents(12, &RUNS);
                }
            }
            prop_assert!(slot.bytes() == model);
        }
    }
}
