//! The native engine against wasmtime, in one process and in turns, with the same Cranelift settings:
//! `cargo bench -p preheat-native --bench against_wasmtime -- [--only PART[/NAME]] [--rounds N] [--corpus DIR] [--json FILE]`.
//!
//! | part | what is measured |
//! |---|---|
//! | `open` | from a code object's file to an instance that is ready to be called, for a small and a large one |
//! | `slot` | an instance taken and given back, with 64 pages written in between |
//! | `kernels` | steady state of the kernels in `benches/kernels`, which clang and wasm-ld (version 14) compile |
//! | `corpus` | the same of the real programs that `preheat bench fetch` gets, without files |
//! | `compile` | time and peak memory of compiling these, each in a process of its own |
//!
//! Times of `kernels` and `corpus` are of the thread, not of the clock on the wall. Ratios are medians over rounds in which all
//! sides ran, see `preheat_bench::stats`.

#![deny(unsafe_code)]

mod compile;
mod corpus;
mod engines;
mod kernels;
mod open;
mod wasi;

use preheat_bench::stats::{Estimate, paired_ratio};
use serde_json::{Value, json};
use std::path::PathBuf;

/// What the command line says.
pub(crate) struct Options {
    only: Option<String>,
    rounds: usize,
    corpus: PathBuf,
    json: Option<PathBuf>,
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only.split('/').next() == Some(part))
    }

    /// Whether to measure `name` in a part that is wanted.
    pub(crate) fn wants_name(&self, name: &str) -> bool {
        self.only.as_deref().and_then(|only| only.split('/').nth(1)).is_none_or(|only| only == name)
    }

    /// Everything that this process was told; `cargo bench` itself adds `--bench`.
    fn parse() -> Result<Self, String> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut options = Self { only: None, rounds: 31, corpus: root.join("benches/fetched"), json: None };
        let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--only" => options.only = Some(value),
                "--rounds" => options.rounds = value.parse().map_err(|_| format!("`{value}` rounds"))?,
                "--corpus" => options.corpus = value.into(),
                "--json" => options.json = Some(value.into()),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(options)
    }
}

/// Measurements of one thing by several systems, rounds in order.
pub(crate) struct Row {
    part: &'static str,
    name: String,
    unit: &'static str,
    systems: Vec<(&'static str, Vec<f64>)>,
}

impl Row {
    pub(crate) fn new(part: &'static str, name: impl Into<String>, unit: &'static str, systems: &[&'static str]) -> Self {
        Self { part, name: name.into(), unit, systems: systems.iter().map(|system| (*system, Vec::new())).collect() }
    }

    pub(crate) fn push(&mut self, system: usize, value: f64) {
        self.systems[system].1.push(value);
    }

    /// Values of one system by those of another.
    fn ratio(&self, system: usize, to: usize) -> Option<f64> {
        paired_ratio(&self.systems[system].1, &self.systems[to].1).map(|ratio| ratio.median)
    }

    fn print(&self) {
        let median = |values: &[f64]| Estimate::of(values).map_or(f64::NAN, |estimate| estimate.median);
        let least = |values: &[f64]| values.iter().copied().fold(f64::MAX, f64::min);
        print!("{:<9}{:<22}", self.part, self.name);
        for (index, (system, values)) in self.systems.iter().enumerate() {
            print!("  {system} {:.2} {}", median(values), self.unit);
            if let Some(ratio) = self.ratio(0, index).filter(|_| index > 0) {
                print!(" (native/it {ratio:.3}, of the least {:.3})", least(&self.systems[0].1) / least(values));
            }
        }
        println!();
    }

    fn to_json(&self) -> Value {
        let systems = self.systems.iter().enumerate().map(|(index, (system, values))| {
            let estimate = Estimate::of(values);
            json!({ "system": system, "values": values, "estimate": estimate, "nativeByThis": self.ratio(0, index) })
        });
        json!({ "part": self.part, "name": self.name, "unit": self.unit, "systems": systems.collect::<Vec<_>>() })
    }
}

/// The geometric means and extremes of a part's ratios of the first system to each other one.
fn summary(part: &str, rows: &[Row]) {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.part == part).collect();
    let Some(first) = rows.first() else { return };
    for (index, (system, _)) in first.systems.iter().enumerate().skip(1) {
        let ratios: Vec<f64> = rows.iter().filter_map(|row| row.ratio(0, index)).collect();
        let mean = (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
        let (least, most) = ratios.iter().fold((f64::MAX, 0.0f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
        println!("{part}: native by {system}: geometric mean {mean:.3}, {least:.3} to {most:.3}, {} rows", ratios.len());
    }
}

fn main() -> Result<(), String> {
    if let Some(done) = compile::child() {
        return done;
    }
    let options = Options::parse()?;
    let mut rows = Vec::new();
    let mut add = |row: Row| {
        row.print();
        rows.push(row);
    };
    if options.wants("open") {
        open::open(&options).into_iter().for_each(&mut add);
    }
    if options.wants("slot") {
        open::slot(&options).into_iter().for_each(&mut add);
    }
    if options.wants("kernels") {
        kernels::measure(&options, &mut add)?;
    }
    if options.wants("corpus") {
        corpus::measure(&options, &mut add)?;
    }
    if options.wants("compile") {
        compile::measure(&options, &mut add)?;
    }
    for part in ["kernels", "corpus", "compile", "memory"] {
        summary(part, &rows);
    }
    if let Some(path) = &options.json {
        let machine = preheat_bench::report::Machine::here();
        let report = json!({ "machine": machine, "rounds": options.rounds, "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>() });
        std::fs::write(path, format!("{report:#}\n")).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
