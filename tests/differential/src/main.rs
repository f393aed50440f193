//! Compares the engines on the modules of a range of seeds. Exits with 1 if they differ.

use anyhow::{Context as _, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use preheat_differential::{Case, Checker, Difference, Generator, Report, on_large_stack};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Compares the native engine with wasmtime on random modules.
#[derive(Debug, Parser)]
struct Options {
    /// Seeds of the modules, as FIRST..END.
    #[arg(long, default_value = "0..1000", value_parser = seeds)]
    seeds: Range<u64>,
    /// What makes the modules; without, one in eight is a program and the others are wasm-smith's. With profiles, two in eight are programs of calls.
    #[arg(long)]
    generator: Option<Generator>,
    /// Threads; by default one for each CPU.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Counts the executed operators of all programs and of one in so many of the other modules; 0 for none.
    #[arg(long, default_value_t = 8)]
    count_every: u64,
    /// Also compares code that counts what it does, and code that profiles steer: a random one, and what was counted.
    #[arg(long)]
    profiles: bool,
    /// Uses this module in place of the seeds' own: Wasm, or its text format.
    #[arg(long)]
    module: Option<PathBuf>,
    /// Writes the modules of the seeds, and does not run them.
    #[arg(long)]
    write: Option<PathBuf>,
    /// Where reduced modules that differ are written.
    #[arg(long, default_value = ".")]
    differences: PathBuf,
    /// Writes the report as JSON to this file, also every 5,000 seeds.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("not of the form FIRST..END")?;
    let number = |text: &str| text.replace('_', "").parse().map_err(|error| format!("{text}: {error}"));
    Ok(number(first)?..number(end)?)
}

impl Options {
    fn generator(&self, seed: u64) -> Generator {
        self.generator.unwrap_or(match seed % 8 {
            7 => Generator::Program,
            2 | 5 if self.profiles => Generator::Calls,
            _ => Generator::Smith,
        })
    }

    fn case(&self, seed: u64) -> Result<Option<Case>> {
        match &self.module {
            Some(path) => {
                let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
                Ok(Some(Case::new(&wat::parse_bytes(&bytes)?, seed)?))
            }
            None => Case::of_seed(self.generator(seed), seed),
        }
    }

    fn check(&self, checker: &Checker, seed: u64, report: &mut Report) -> Result<()> {
        let Some(case) = self.case(seed)? else {
            report.no_module += 1;
            return Ok(());
        };
        if let Some(directory) = &self.write {
            std::fs::write(directory.join(format!("{seed}.wasm")), &case.wasm)?;
            return Ok(());
        }
        let count = self.count_every != 0 && (self.generator(seed) != Generator::Smith || seed.is_multiple_of(self.count_every));
        let verdict = checker.check(&case, count)?;
        report.add(&verdict);
        if let Some(what) = verdict.difference {
            let path = self.differences.join(format!("{:?}-{seed}.wasm", self.generator(seed)).to_lowercase());
            std::fs::write(&path, checker.reduce(&case)?.wasm)?;
            let module = Some(path.display().to_string());
            report.differences.push(Difference { generator: self.generator(seed), seed, what, module });
        }
        Ok(())
    }

    fn run(&self) -> Result<Report> {
        let checker = if self.profiles { Checker::new()?.with_profiles() } else { Checker::new()? };
        let next = AtomicU64::new(self.seeds.start);
        let all = Mutex::new(Report::default());
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec}, {eta} left{msg}")?;
        let bar = ProgressBar::new(self.seeds.end.saturating_sub(self.seeds.start)).with_style(style);
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= self.seeds.end {
                    break;
                }
                let mut report = Report::default();
                if let Err(error) = self.check(&checker, seed, &mut report) {
                    report.errors.push(format!("with {:?} seed {seed}: {error:#}", self.generator(seed)));
                }
                if report.differences.len() + report.errors.len() > 0 {
                    bar.suspend(|| eprintln!("seed {seed}: {:?} {:?}", report.differences, report.errors));
                }
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.merge(report);
                bar.inc(1);
                // What a long run found is not lost with it.
                if bar.position().is_multiple_of(5000) {
                    if bar.is_hidden() {
                        eprintln!("{} of {} seeds: {}", bar.position(), self.seeds.end - self.seeds.start, all.summary());
                    }
                    self.write_json(&all).unwrap_or_else(|error| bar.suspend(|| eprintln!("{error:#}")));
                }
            }
        };
        let threads = self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get), NonZeroUsize::get);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..threads).map(|_| scope.spawn(|| on_large_stack(work))).collect();
            all.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread panicked")))
        })?;
        bar.finish_and_clear();
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn write_json(&self, report: &Report) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, serde_json::to_vec_pretty(report)?).with_context(|| path.display().to_string())
    }
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let begin = std::time::Instant::now();
    let report = options.run()?;
    let seconds = begin.elapsed().as_secs_f64();
    println!("seeds {}..{} in {seconds:.0} s", options.seeds.start, options.seeds.end);
    print!("{report}");
    options.write_json(&report)?;
    Ok(if report.differences.is_empty() && report.errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
