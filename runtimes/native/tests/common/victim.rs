//! A frozen program whose snapshots somebody changes who could sign them.

use super::freeze::Program;
use preheat_native::{Error, Frozen, HeapFile, Limits, ResumeCode};
use std::time::{Duration, Instant};

/// Values of all types in frames and globals, which lead to memories and tables.
const PROGRAM: &str = include_str!("tampered.wat");

pub(crate) struct Victim {
    program: Program,
    resume: ResumeCode,
    /// Base and layer.
    pub(crate) layers: [Vec<u8>; 2],
}

impl Victim {
    /// Frozen at its first call, woken and frozen in the loop of the second: frames of three functions.
    pub(crate) fn new() -> Self {
        let program = Program::new(PROGRAM);
        let first = program.freeze(0, &[]);
        let second = program.freeze_again(&first, 2);
        let resume = program.resume_of(&second);
        Self { layers: [first.bytes().to_vec(), second.bytes().to_vec()], program, resume }
    }

    /// Wakes what the layers are now. Whether it could be loaded.
    pub(crate) fn wakes(&self, layers: &[Vec<u8>], memory: u64, time: Duration) -> bool {
        let layers: Vec<HeapFile> = layers.iter().map(|bytes| HeapFile::of_bytes(bytes).unwrap()).collect();
        let ready = match Frozen::load(&self.program.module, &layers, Some(&self.resume)) {
            Ok(ready) => ready,
            Err(Error::Format(_) | Error::Frozen(_)) => return false,
            Err(other) => panic!("{other}"),
        };
        let mut store = self.program.host_store();
        store.set_limits(Limits { memory_bytes: memory, table_entries: 100, ..Limits::default() });
        store.set_deadline(Some(Instant::now() + time));
        let instance = match self.program.pre().wake(&mut store, &ready) {
            Ok(instance) => instance,
            Err(Error::Limit(_)) => return true,
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
        true
    }
}
