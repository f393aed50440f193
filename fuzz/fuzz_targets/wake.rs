//! Frozen programs whose snapshots somebody changed who could sign them: what is changed is an error, or the program wakes with other values and
//! ends as any program may. The input is a list of changes to a snapshot that is right: where, and which bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use std::sync::LazyLock;
use std::time::Duration;

#[allow(unused, reason = "the tests use the rest")]
#[path = "../../runtimes/native/tests/common/mod.rs"]
mod common;

use common::victim::Victim;

/// Most changes of one input: beyond that all are alike.
const MAX_CHANGES: usize = 64;
/// Where the lists begin, behind the header.
const LISTS: usize = 192;

static VICTIM: LazyLock<Victim> = LazyLock::new(Victim::new);

fuzz_target!(|data: &[u8]| {
    let mut layers = VICTIM.layers.clone();
    change(&mut layers, data);
    VICTIM.wakes(&layers, 4 << 20, Duration::from_millis(50));
});

/// One change: a byte that says which file, which part of it and how many bytes; where (2 bytes, from the beginning of the part); the bytes.
fn change(layers: &mut [Vec<u8>; 2], mut data: &[u8]) {
    for _ in 0..MAX_CHANGES {
        let [control, low, high, rest @ ..] = data else { break };
        let len = usize::from(control & 7) + 1;
        let Some((bytes, rest)) = rest.split_at_checked(len) else { break };
        data = rest;
        let file = &mut layers[usize::from(control >> 3 & 1)];
        let place = usize::from(u16::from_le_bytes([*low, *high]));
        // Numbers of the header and the lists begin at multiples of four.
        let at = match control >> 4 & 3 {
            0 => place % LISTS,
            1 => LISTS + place / 4 * 4 % (numbers(file) - LISTS),
            2 => LISTS + place % (numbers(file) - LISTS),
            _ => place * 16 % file.len(),
        };
        let end = (at + len).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        // The base is another file now, so that the layer has to name it; unless that is to be seen too.
        if control >> 3 & 1 == 0 && control & 0x40 == 0 {
            let base = Digest::of(&layers[0]);
            layers[1][48..80].copy_from_slice(base.as_bytes());
        }
    }
}

/// Where the contents of pages begin in a snapshot that is right; in a changed one, some place behind the header.
fn numbers(file: &[u8]) -> usize {
    let offset = file.get(136..144).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes);
    usize::try_from(offset).unwrap_or(usize::MAX).clamp(LISTS + 4, file.len())
}
