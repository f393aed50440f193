//! From the file of a code object to an instance, and an instance from a slot and back.

use super::report::{Kind, Report, Row};
use super::{Engine, Options, Ours, System, engine, turns};
use anyhow::{Context as _, Result};
use std::fmt::Write as _;

/// The row of slots that something is asked of.
pub(super) const ASKED: &str = "64 pages";

/// Functions that nobody calls, for a small code object and one of some 40 MB.
const SIZES: [(&str, usize); 2] = [("a small code object", 400), ("a large code object", 17_500)];

/// A module of 400 pages of memory with `functions` that are never called and one, `dirty`, that writes to as many pages as it is told.
fn source(functions: usize) -> Result<Vec<u8>> {
    let mut wat = String::from(
        "(module (memory (export \"m\") 400 1000) (table 1000 funcref) (elem (i32.const 1) $dirty) (data (i32.const 4096) \"something\")
        (global (mut i32) (i32.const 65536))
        (func $dirty (export \"dirty\") (param $pages i32) (result i32) (local $at i32)
            (loop
                (i32.store (local.get $at) (i32.const 77))
                (local.set $at (i32.add (local.get $at) (i32.const 20480)))
                (br_if 0 (local.tee $pages (i32.sub (local.get $pages) (i32.const 1)))))
            (local.get $at))",
    );
    for function in 0..functions {
        wat.push_str("(func (param i64 i64) (result i64) (local i64)");
        for step in 0..40 {
            let (from, number) = (step % 2, function * 64 + step);
            let value = format!("(i64.mul (local.get {from}) (i64.const {number}))");
            write!(wat, "(local.set 2 (i64.xor {value} (i64.rotl (local.get 2) (local.get {from}))))")?;
        }
        wat.push_str("(local.get 2))");
    }
    wat.push(')');
    Ok(wat::parse_str(wat)?)
}

fn engines(ours: &dyn Ours, systems: &[System]) -> Result<Vec<Box<dyn Engine>>> {
    systems.iter().map(|system| engine(ours, *system)).collect()
}

pub(super) fn open(options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let systems = [System::Native, System::FromStore, System::Epochs];
    let engines = engines(ours, &systems)?;
    for (name, functions) in SIZES.into_iter().filter(|(name, _)| options.wants_name(name)) {
        progress(name);
        let wasm = source(functions)?;
        let scratch = tempfile::tempdir().context("can't make a directory for code")?;
        let mut openings = engines.iter().map(|engine| engine.opening(&wasm, scratch.path())).collect::<Result<Vec<_>>>()?;
        let mut row = Row::new(Kind::Open, name, &systems);
        for round in 0..options.rounds * 5 {
            for system in turns(systems.len(), round) {
                let time = openings[system]().with_context(|| format!("{name} on {}", systems[system].name()))?;
                row.push(system, time.as_secs_f64() * 1e6);
            }
        }
        report.add(row);
    }
    Ok(())
}

pub(super) fn slots(options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let systems = [System::Native, System::Pagemap, System::Remap, System::Epochs];
    let wasm = source(10)?;
    for pages in [1, 64, 500] {
        let name = format!("{pages} page{}", if pages == 1 { "" } else { "s" });
        if !options.wants_name(&name) {
            continue;
        }
        progress(&name);
        // Engines of their own, so that no slot has been used in another way before.
        let mut slots = engines(ours, &systems)?.iter().map(|engine| engine.slot(&wasm)).collect::<Result<Vec<_>>>()?;
        let mut row = Row::new(Kind::Slots, name, &systems);
        for round in 0..50 + options.rounds * 30 {
            for system in turns(systems.len(), round) {
                let time = slots[system](pages).with_context(|| systems[system].name())?;
                // The first rounds warm up.
                if round >= 50 {
                    row.push(system, time.as_secs_f64() * 1e6);
                }
            }
        }
        report.add(row);
    }
    Ok(())
}
