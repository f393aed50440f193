use super::bench::preheat::{InProcess, Start, Way, fresh_process};
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use preheat::{Builder, Engine, Home};
use preheat_bench::harness::{self, Cell, PageCache, Plan, System};
use preheat_bench::peers::wasmtime::{ByHand, Options, Start as ByHandStart};
use preheat_bench::workload::Workload;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Build a shipped example, run it cold, and show what a JIT start and an image start cost here
#[derive(Args)]
pub(crate) struct Demo {}

const WASM: &[u8] = include_bytes!("../../examples/json-c/json.wasm");
const INPUT: &[u8] = include_bytes!("../../examples/inputs/orders.json");
const EXPECTED: &[u8] = include_bytes!("../../examples/expected/orders.json");

impl Demo {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let dir = tempfile::tempdir().context("can't make a directory for the demo")?;
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))?;
            anyhow::Ok(path)
        };
        let workload = Workload {
            name: "json".into(),
            wasm: write("json.wasm", WASM)?,
            args: Vec::new(),
            stdin: write("orders.json", INPUT)?,
            dirs: Vec::new(),
            expected: EXPECTED.to_vec(),
        };
        let home = Home::at(dir.path().join("home"));

        ui::say!("A function in C, compiled to Wasm ({}): totals of a JSON array of orders.\n", ui::bytes(WASM.len() as u64));
        let started = Instant::now();
        let built = Builder::new(&home)?.build_file(&workload.wasm)?;
        ui::say!("build   {}  in {}", built.digest, ui::time(started.elapsed()));
        for code in &built.code {
            ui::say!("        {}  {}", code.cpu, ui::bytes(code.size));
        }
        ui::say!("input   {}", first_line(INPUT));
        ui::say!("output  {}", first_line(EXPECTED));

        ui::say!("\nThe same request, to its answer; median of {ROUNDS} rounds, page cache hot, every output checked:\n");
        // One after the other: compiling leaves the processor's caches to whoever runs next as if nothing had ever run.
        let mut systems: [Box<dyn System>; 4] = [
            Box::new(ByHand::new(ByHandStart::Jit, Options::Default, dir.path())?),
            Box::new(InProcess::new(Start::Stored, Way::Plain(Engine::Wasmtime), &home)?),
            Box::new(InProcess::new(Start::Loaded, Way::Plain(Engine::Wasmtime), &home)?),
            fresh_process(Way::Plain(Engine::Wasmtime), &home)?,
        ];
        let run = |system| harness::run("demo", &workload, std::slice::from_mut(system), &PLAN, &mut |_, _| {});
        let cells: Vec<Cell> = systems.iter_mut().flat_map(run).collect();
        let labels = [
            "JIT start       (wasmtime compiles, then runs)",
            "image start     (from the store, not loaded)",
            "warm start      (loaded, fresh instance)",
            "fresh process   (`preheat run`, exec to exit)",
        ];
        let median = |cell: &Cell| {
            cell.estimate.map(|estimate| estimate.median).with_context(|| {
                let why = cell.failure.as_ref().map_or_else(String::new, ToString::to_string);
                format!("{} gave no result: {why}", cell.system)
            })
        };
        let jit = median(&cells[0])?;
        let mut rows = Vec::new();
        for (label, cell) in labels.iter().zip(&cells) {
            let seconds = median(cell)?;
            let factor = if seconds < jit { format!("{:.0} times as fast", jit / seconds) } else { String::new() };
            rows.push(vec![(*label).to_owned(), ui::time(Duration::from_secs_f64(seconds)), factor]);
        }
        ui::print(&ui::table(&rows));
        ui::say!("\nNext: `preheat run YOUR.wasm`, `preheat build YOUR.wasm --tag app:v1`, `preheat --help`.");
        Ok(ExitCode::SUCCESS)
    }
}

const ROUNDS: usize = 41;

const PLAN: Plan = Plan { rounds: ROUNDS, warmups: 2, leads: 0, limit_seconds: 60.0, budget_seconds: 20.0, page_cache: PageCache::Hot };

fn first_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() > 90 { line.chars().take(89).chain(['…']).collect() } else { line.to_owned() }
}
