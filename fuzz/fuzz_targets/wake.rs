//! Frozen programs whose snapshots somebody changed who could sign them: what is changed is an error, or the program wakes with other values and
//! ends as any program may. The input is a list of changes to a snapshot that is right: where, and which bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::Digest;
use preheat_native::{Error, Frozen, HeapFile, Limits, ResumeCode};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

#[allow(unused, reason = "the tests use the rest")]
#[path = "../../runtimes/native/tests/common/mod.rs"]
mod common;

use common::freeze::Program;

const PROGRAM: &str = include_str!("../../runtimes/native/tests/common/tampered.wat");

/// Most changes of one input: beyond that all are alike.
const MAX_CHANGES: usize = 64;
/// Where the lists begin, behind the header.
const LISTS: usize = 192;

struct Victim {
    program: Program,
    resume: ResumeCode,
    /// Base and layer.
    layers: [Vec<u8>; 2],
}

// Frozen at its first call, woken and frozen in the loop of the second: frames of three functions.
static VICTIM: LazyLock<Victim> = LazyLock::new(|| {
    let program = Program::new(PROGRAM);
    let first = program.freeze(0, &[]);
    let second = program.freeze_again(&first, 2);
    let resume = program.resume_of(&second);
    Victim { layers: [first.bytes().to_vec(), second.bytes().to_vec()], program, resume }
});

fuzz_target!(|data: &[u8]| {
    let victim = &*VICTIM;
    let mut layers = victim.layers.clone();
    change(&mut layers, data);
    let layers: Vec<HeapFile> = layers.iter().map(|bytes| HeapFile::of_bytes(bytes).expect("memory for a file")).collect();
    let ready = match Frozen::load(&victim.program.module, &layers, Some(&victim.resume)) {
        Ok(ready) => ready,
        Err(Error::Format(_) | Error::Frozen(_)) => return,
        Err(other) => panic!("{other}"),
    };
    let mut store = victim.program.host_store();
    store.set_limits(Limits { memory_bytes: 4 << 20, table_entries: 100, ..Limits::default() });
    store.set_deadline(Some(Instant::now() + Duration::from_millis(50)));
    let instance = match victim.program.pre().wake(&mut store, &ready) {
        Ok(instance) => instance,
        Err(Error::Limit(_)) => return,
        Err(other) => panic!("{other}"),
    };
    if ready.has_stack() {
        match instance.resume(&mut store) {
            Ok(_) | Err(Error::Trap(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    // What it left can still be looked at.
    let _ = instance.capture(&store);
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
