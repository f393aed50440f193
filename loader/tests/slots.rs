//! Slots are what their template says, each time they are taken, whatever was done with them.

use preheat_loader::map::{MappedFile, Method, PAGE, PoolLimits, Run, Scanner, Slot, SlotPool, Template};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

const RESERVATION: usize = 64 * PAGE;

/// A file of `pages` pages, each full of its number plus one.
fn file(pages: u8) -> Arc<MappedFile> {
    let bytes: Vec<u8> = (1..=pages).flat_map(|page| [page; PAGE]).collect();
    Arc::new(MappedFile::of_bytes(&bytes).unwrap())
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
    let read = file(8);
    read.copy_by_reading();
    read.forget();
    assert!(read.bytes().iter().step_by(PAGE).copied().eq(1..=8), "what was given up comes back");
    for (method, file) in METHODS.into_iter().flat_map(|method| [(method, file(8)), (method, read.clone())]) {
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

/// The command that runs the tests with each of the fallbacks relies on it.
#[test]
fn the_environment_forces_a_method() {
    if let Ok(name) = std::env::var("PREHEAT_WRITTEN_PAGES") {
        return assert_eq!(format!("{:?}", Scanner::new(None).method()).to_lowercase(), name);
    }
    for name in ["scan", "pagemap", "remap"] {
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let status = again.args(["--exact", "the_environment_forces_a_method"]).env("PREHEAT_WRITTEN_PAGES", name).status().unwrap();
        assert!(status.success(), "{name}");
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
        assert_eq!(pool.count(), (1, 1), "it is kept for others");
        assert_eq!(pool.take(&first).unwrap().bytes(), contents(12, &RUNS), "{method:?}");
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

#[test]
fn long_runs_are_mapped_once_and_what_lies_in_them_is_copied() {
    let (base, layer) = (file(40), file(8));
    // Forty pages of a base with four of a layer in them, and one page of zeros.
    let part = |file: &Arc<MappedFile>, at: usize, offset: usize, len: usize| Run {
        at: at * PAGE,
        len: len * PAGE,
        file: file.clone(),
        offset: offset * PAGE,
    };
    let runs = vec![
        part(&base, 0, 0, 5),
        part(&layer, 5, 0, 1),
        part(&base, 6, 6, 10),
        part(&layer, 16, 3, 2),
        part(&base, 18, 18, 2),
        part(&base, 21, 21, 9),
        part(&layer, 30, 7, 1),
        part(&base, 31, 31, 9),
    ];
    let template = Arc::new(Template::new(48 * PAGE, runs, 1).unwrap());
    assert_eq!((template.mappings(), template.copied_bytes()), (4, 5 * PAGE));
    let expected: Vec<u8> = (0..48)
        .flat_map(|page| {
            let value = match page {
                5 => 1,
                16 | 17 => page - 16 + 4,
                30 => 8,
                20 | 40.. => 0,
                _ => page + 1,
            };
            [value; PAGE]
        })
        .collect();
    for method in METHODS {
        let pool = pool(method, PoolLimits { pages: 3, ..PoolLimits::default() });
        for _ in 0..3 {
            let mut slot = pool.take(&template).unwrap();
            assert!(slot.bytes() == expected, "{method:?}");
            slot.bytes_mut().fill(0xee);
            pool.give(slot);
        }
    }
}

#[test]
fn patches_lie_over_pages_and_what_will_be_written_is_there_in_a_slot_that_was_prepared() {
    let file = file(8);
    let run = Run { at: 0, len: 8 * PAGE, file: file.clone(), offset: 0 };
    let patches = vec![(10, vec![0xaa; 20].into()), (3 * PAGE - 1, vec![0xbb; PAGE + 2].into()), (9 * PAGE, vec![0xcc; 5].into())];
    let plain = Template::new(10 * PAGE, vec![run], 1).unwrap();
    let template = Arc::new(plain.with_patches(patches).unwrap().with_written([6 * PAGE..7 * PAGE, 5 * PAGE + 1..50 * PAGE]));
    assert_eq!(template.copied_bytes(), (1 + 3 + 1) * PAGE);
    let mut expected = [contents(8, &[(0, 0, 8)]), vec![0; 2 * PAGE]].concat();
    expected[10..30].fill(0xaa);
    expected[3 * PAGE - 1..4 * PAGE + 1].fill(0xbb);
    expected[9 * PAGE..9 * PAGE + 5].fill(0xcc);
    for method in METHODS {
        for pages in [0, 2, 512] {
            let pool = pool(method, PoolLimits { pages, ..PoolLimits::default() });
            for _ in 0..3 {
                let mut slot = pool.take(&template).unwrap();
                assert!(slot.bytes() == expected, "{method:?}, {pages} pages kept");
                slot.bytes_mut().fill(0xee);
                pool.give(slot);
            }
            pool.prepare_for(&template, 1).unwrap();
            assert!(pool.take(&template).unwrap().bytes() == expected, "{method:?}, {pages} pages kept, prepared");
        }
    }
    for method in [Method::Scan, Method::Pagemap] {
        let pool = pool(method, PoolLimits::default());
        let written = |pool: &SlotPool| {
            let slot = pool.take(&template).unwrap();
            pool.written(&slot).unwrap().into_iter().map(|run| run.start / PAGE..run.end / PAGE).collect::<Vec<_>>()
        };
        assert_eq!(written(&pool), [0..1, 2..5, 9..10], "{method:?}: made when it is needed");
        pool.prepare_for(&template, 1).unwrap();
        assert_eq!(written(&pool), [0..1, 2..10], "{method:?}: made ahead");
    }
    let run = || Run { at: 0, len: PAGE, file: file.clone(), offset: 0 };
    for wrong in [vec![(PAGE - 1, vec![0; 2].into())], vec![(5, vec![0; 5].into()), (9, vec![0].into())]] {
        assert!(Template::new(PAGE, vec![run()], 1).unwrap().with_patches(wrong).is_err());
    }
}

#[test]
fn a_slot_that_lost_its_template_has_nothing_of_it() {
    const OTHER: [(usize, usize, usize); 2] = [(0, 4, 1), (9, 1, 3)];
    let file = file(8);
    for method in METHODS {
        for (mappings, pages, grown) in [(0, 12, 12), (1, 12, 20), (3, 4, 30), (0, 1, 1)] {
            let pool = pool(method, PoolLimits::default());
            let runs = &RUNS[..if pages == 12 { 3 } else { 0 }];
            let before = template(&file, pages, runs, mappings);
            let mut slot = pool.take(&before).unwrap();
            slot.grow(grown * PAGE).unwrap();
            slot.bytes_mut().fill(0xee);
            pool.give(slot);
            pool.forget(&before);
            assert_eq!(pool.count(), (1, 1), "{method:?}: it is kept");
            let after = template(&file, 14, &OTHER, 1);
            let mut slot = pool.take(&after).unwrap();
            assert_eq!(pool.count(), (1, 0), "{method:?}: it is this one");
            assert_eq!(slot.bytes(), contents(14, &OTHER), "{method:?}, {mappings} mappings, {pages} pages");
            slot.grow(40 * PAGE).unwrap();
            assert!(slot.bytes()[14 * PAGE..].iter().all(|byte| *byte == 0), "{method:?}: what it grows by is zero");
            pool.give(slot);
            let small = template(&file, 1, &[], 0);
            pool.forget(&after);
            let mut slot = pool.take(&small).unwrap();
            assert_eq!((slot.open(), slot.bytes()), (PAGE, &[0; PAGE][..]), "{method:?}");
            slot.grow(20 * PAGE).unwrap();
            assert!(slot.bytes().iter().all(|byte| *byte == 0), "{method:?}: a smaller one is zero beyond its end");
        }
    }
}

#[test]
fn short_windows_are_copied_while_that_is_little() {
    let file = file(200);
    // Three short runs, and a long one.
    let short = [(1, 0, 2), (20, 50, 16), (60, 100, 17), (100, 3, 4)];
    let template = |runs: &[(usize, usize, usize)]| {
        let run =
            |(at, offset, len): &(usize, usize, usize)| Run { at: at * PAGE, len: len * PAGE, file: file.clone(), offset: offset * PAGE };
        Template::new(400 * PAGE, runs.iter().map(run).collect(), 30).unwrap().with_short_copied()
    };
    assert_eq!((template(&short).windows(), template(&short).copied_bytes()), (1, 22 * PAGE));
    // Twenty of three pages each: ten are copied, the others mapped.
    let many: Vec<_> = (0..20).map(|number| (number * 20, number * 7, 3)).collect();
    let many = template(&many);
    assert_eq!((many.windows(), many.copied_bytes()), (10, 30 * PAGE));
}

/// Ascending runs of two files in a slot of 48 pages: page, which file, where in it, pages.
fn scattered() -> impl Strategy<Value = Vec<(usize, bool, usize, usize)>> {
    let run = (0usize..3, any::<bool>(), any::<bool>(), 0usize..32, 1usize..6);
    prop::collection::vec(run, 0..14).prop_map(|runs| {
        let mut at = 0;
        let placed = runs.into_iter().map(|(gap, other, diagonal, offset, len)| {
            let start = at + gap;
            at = start + len;
            (start, other, if diagonal { start.min(34) } else { offset }, len)
        });
        placed.filter(|(start, _, _, len)| start + len <= 48).collect()
    })
}

proptest! {
    #[test]
    fn whatever_is_mapped_and_copied_the_contents_are_the_same(runs in scattered(), mappings in 0usize..5, keep in 0usize..9) {
        let files = [file(40), file(40)];
        let part = |(at, other, offset, len): &(usize, bool, usize, usize)| {
            Run { at: at * PAGE, len: len * PAGE, file: files[usize::from(*other)].clone(), offset: offset * PAGE }
        };
        let template = Arc::new(Template::new(48 * PAGE, runs.iter().map(part).collect(), mappings).unwrap());
        prop_assert!(template.mappings() <= 2 * mappings + 2);
        let expected = contents(48, &runs.iter().map(|(at, _, offset, len)| (*at, *offset, *len)).collect::<Vec<_>>());
        let pool = pool(Method::Scan, PoolLimits { pages: keep, ..PoolLimits::default() });
        for _ in 0..2 {
            let mut slot = pool.take(&template).unwrap();
            prop_assert!(slot.bytes() == expected);
            slot.bytes_mut().fill(0xee);
            pool.give(slot);
        }
    }
}
