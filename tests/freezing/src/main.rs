//! Freezes the programs of a range of seeds and lets them wake. Exits with 1 if one does not come to the same end.

use anyhow::Result;
use clap::Parser;
use preheat_freezing::{Verdict, check, program_of};
use preheat_native::{Config, Engine};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Freezes random programs at random calls of the host, lets them wake, and compares them with themselves.
#[derive(Debug, Parser)]
struct Options {
    /// Seeds of the programs, as FIRST..END.
    #[arg(long, default_value = "0..1000", value_parser = seeds)]
    seeds: Range<u64>,
    /// Other programs for the same seeds, with many loops in loops.
    #[arg(long)]
    nests: bool,
    /// Threads; by default one for each CPU.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Writes the programs of the seeds to this directory, and does not run them.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Writes the report as JSON to this file, also every 5,000 seeds.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("not of the form FIRST..END")?;
    let number = |text: &str| text.replace('_', "").parse().map_err(|error| format!("{text}: {error}"));
    Ok(number(first)?..number(end)?)
}

/// The sum of many programs.
#[derive(Debug, Default, serde::Serialize)]
struct Report {
    seeds: String,
    programs: usize,
    programs_frozen: usize,
    freezes: usize,
    frozen_again: usize,
    frames: usize,
    values: usize,
    host_calls: usize,
    trapped: usize,
    failures: Vec<String>,
}

impl Report {
    fn add(&mut self, seed: u64, verdict: Result<Verdict>) {
        self.programs += 1;
        let verdict = verdict.unwrap_or_else(|error| Verdict { difference: Some(format!("{error:#}")), ..Verdict::default() });
        self.programs_frozen += usize::from(verdict.frozen > 0);
        self.freezes += verdict.frozen;
        self.frozen_again += usize::from(verdict.frozen > 1);
        self.frames += verdict.frames;
        self.values += verdict.values;
        self.host_calls += verdict.host_calls;
        self.trapped += usize::from(verdict.trapped);
        if let Some(difference) = verdict.difference {
            eprintln!("seed {seed}: {difference}");
            self.failures.push(format!("seed {seed}: {difference}"));
        }
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if let Some(directory) = &options.write {
        for seed in options.seeds {
            std::fs::write(directory.join(format!("{seed}.wasm")), program_of(seed, options.nests)?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let engine = Engine::new(Config { stack: 16 << 20, ..Config::default() })?;
    let next = AtomicU64::new(options.seeds.start);
    let report = Mutex::new(Report { seeds: format!("{}..{}", options.seeds.start, options.seeds.end), ..Report::default() });
    let write = |report: &Report| -> Result<()> {
        let Some(path) = &options.json else { return Ok(()) };
        Ok(std::fs::write(path, serde_json::to_vec_pretty(report)?)?)
    };
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= options.seeds.end {
                break;
            }
            let verdict = check(&engine, seed, options.nests);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.add(seed, verdict);
            if report.programs.is_multiple_of(5000) {
                eprintln!("{} programs, {} frozen, {} failures", report.programs, report.programs_frozen, report.failures.len());
                write(&report).unwrap_or_else(|error| eprintln!("{error:#}"));
            }
        }
    };
    let threads = options.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get), NonZeroUsize::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    let report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{report:#?}");
    write(&report)?;
    Ok(if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
