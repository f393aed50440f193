//! Snapshots that somebody changed who could sign them: whatever the numbers in them are, waking is an error, or the program runs with other
//! values and ends as any program may. More cases: `PROPTEST_CASES=100000 cargo test --release -p preheat-native --test freeze_tampered`.

mod common;

use common::victim::Victim;
use proptest::prelude::*;
use std::sync::LazyLock;
use std::time::Duration;

static VICTIM: LazyLock<Victim> = LazyLock::new(Victim::new);

/// Wakes a changed snapshot. Whether it could be loaded.
fn wakes(layers: &[Vec<u8>]) -> bool {
    VICTIM.wakes(layers, 16 << 20, Duration::from_millis(300))
}

/// A place in what is not page contents, a number to put there, and how many bytes of it.
fn edit() -> impl Strategy<Value = (usize, u64, usize)> {
    let number = prop_oneof![
        any::<u64>(),
        0u64..70,
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64).prop_map(|bit| (1 << bit) - 1),
        Just(u64::from(u32::MAX)),
        Just(65536),
        Just(4096),
    ];
    (0usize..1 << 20, number, prop_oneof![Just(1usize), Just(4), Just(4), Just(8)])
}

fn changed(bytes: &[u8], end: usize, edits: &[(usize, u64, usize)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (place, number, len) in edits {
        // Most numbers have four bytes and begin at a multiple of that.
        let at = if len % 4 == 0 { place % end / 4 * 4 } else { place % end };
        let end = (at + len).min(bytes.len());
        bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
    }
    bytes
}

#[test]
fn an_unchanged_one_wakes() {
    assert!(wakes(&VICTIM.layers));
}

/// Where the first page contents are: behind all numbers.
fn numbers(bytes: &[u8]) -> usize {
    usize::try_from(u64::from_le_bytes(bytes[136..144].try_into().unwrap())).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 100, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500)
    ) })]

    #[test]
    fn changed_numbers_are_errors_or_contained(edits in proptest::collection::vec(edit(), 1..4), lists in any::<bool>()) {
        let victim = &*VICTIM;
        let top = &victim.layers[1];
        let frames_end = numbers(top);
        // The lists behind the header, or anywhere.
        let used = top[..frames_end].iter().rposition(|byte| *byte != 0).unwrap() + 8;
        let mut all = victim.layers.clone();
        all[1] = if lists {
            let (header, rest) = top.split_at(192);
            [header, &changed(rest, used - 192, &edits)].concat()
        } else {
            changed(top, top.len(), &edits)
        };
        wakes(&all);
    }

    #[test]
    fn changed_values_of_frames_and_globals_are_contained(numbers in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0u8..4), 1..5)) {
        // Values keep their types, so that all of these wake.
        let mut top = VICTIM.layers[1].clone();
        let places: Vec<(usize, u32)> = value_places(&top);
        for (place, number, small) in numbers {
            let (at, kind) = places[place.index(places.len())];
            let number = if small == 0 { number % 12 } else { number };
            let width = match kind { 1 | 3 => 4, 2 | 4 | 5 => 8, 6 => 4, _ => 0 };
            let number = if kind == 6 { number % 5 } else { number };
            top[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        prop_assert!(wakes(&[VICTIM.layers[0].clone(), top]));
    }

    #[test]
    fn changed_pages_are_contained(places in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..200)) {
        let mut all = VICTIM.layers.clone();
        for (place, value) in places {
            let file = &mut all[place % 2];
            let (begin, len) = (numbers(file), file.len());
            if begin < len {
                file[begin + place / 2 % (len - begin)] = value;
            }
        }
        // The base is another file, so the layer has to name it.
        let base = preheat_image::Digest::of(&all[0]);
        all[1][48..80].copy_from_slice(base.as_bytes());
        prop_assert!(wakes(&all));
    }
}

/// Where the bytes of values are in a snapshot, with the number of their type: of globals and of frames.
fn value_places(bytes: &[u8]) -> Vec<(usize, u32)> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let count = |at: usize| number(at) as usize;
    let globals = 192 + 16 * count(92) + 24 * count(96);
    let tables = globals + 24 * count(100);
    let values = tables + 12 * count(104) + 8 * count(108) + 4 * count(112) + 12 * count(124);
    let of_globals = (0..count(100)).map(|index| globals + 24 * index + 4);
    let of_frames = (0..count(128)).map(|index| values + 20 * index);
    of_globals.chain(of_frames).map(|at| (at + 4, number(at))).filter(|(_, kind)| *kind <= 6).collect()
}
