//! `preheat bench engine`: the native engine beside wasmtime.

use super::native::Native;
use crate::commands::Global;
use crate::ui;
use ::preheat::Home;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use preheat_bench::engine::{self, compile};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure the native engine beside wasmtime, with the same compiler settings
///
/// Programs of the corpus are those that `preheat bench fetch` gets; kernels are compiled with clang (Debian's packages clang-14 and lld-14). What is
/// not there is left out, with the reason. Ratios are of the native engine by the other: less than 1 is ahead.
#[derive(Args)]
#[command(
    after_help = "Parts: open (from a code object's file, or from the store, to an instance that is ready), slots (an instance taken and given
back, without the time in which the guest writes to pages), kernels and corpus (steady state, thread time), compile (time and peak memory, each in
a process of its own), interrupt (what interrupt checks cost in kernels and corpus), profile (steady state of code that a profile of other inputs steers),
passes (what each use of the profile brings). Systems run in turns; results that differ end the benchmark.

Examples:
  preheat bench engine --part slots,open
  preheat bench engine --part kernels --name fib,sha256 --rounds 101
  preheat bench engine --raw out.json > engine.md
  preheat bench engine --json | jq '.lines[] | select(.figure > .asked)'"
)]
pub(crate) struct Engine {
    /// Parts to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Rows to measure: programs, kernels, or as the tables have them [default: all]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    name: Vec<String>,
    /// Rounds; slow programs get fewer, quick parts more
    #[arg(long, default_value_t = 31)]
    rounds: usize,
    /// Where the examples are
    #[arg(long, default_value = "examples", value_name = "DIR")]
    examples: PathBuf,
    /// Keep the raw figures in this file, as JSON
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Compile a file, say what it took, and do nothing else
    #[arg(long, num_args = 2, value_names = ["ENGINE", "FILE"], hide = true)]
    compile_only: Vec<PathBuf>,
    /// With --compile-only: keep the code in this file
    #[arg(long, value_name = "FILE", hide = true)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Open,
    Slots,
    Kernels,
    Corpus,
    Compile,
    Interrupt,
    Profile,
    Passes,
}

impl From<Part> for engine::Part {
    fn from(part: Part) -> Self {
        match part {
            Part::Open => Self::Open,
            Part::Slots => Self::Slots,
            Part::Kernels => Self::Kernels,
            Part::Corpus => Self::Corpus,
            Part::Compile => Self::Compile,
            Part::Interrupt => Self::Interrupt,
            Part::Profile => Self::Profile,
            Part::Passes => Self::Passes,
        }
    }
}

impl Engine {
    pub(crate) fn execute(&self, fetched: &Path, global: &Global) -> anyhow::Result<ExitCode> {
        let scratch = tempfile::tempdir().context("can't make a directory for what is compiled")?;
        // A home of its own: the benchmark neither finds nor leaves anything in the user's.
        let native = Native::new(&Home::at(scratch.path().join("home")));
        if let [system, wasm] = &*self.compile_only {
            let compiled = compile::child(&native, system.as_os_str() == "native", wasm, self.output.as_deref())?;
            ui::print_json(&serde_json::to_value(compiled)?);
            return Ok(ExitCode::SUCCESS);
        }
        let options = engine::Options {
            parts: if self.part.is_empty() { engine::Part::ALL.into() } else { self.part.iter().map(|part| (*part).into()).collect() },
            names: self.name.clone(),
            rounds: self.rounds.max(1),
            fetched: fetched.to_owned(),
            examples: self.examples.clone(),
        };
        let spinner = ui::spinner("compiling".into());
        let report = engine::run(&options, &native, &mut |what| spinner.set_message(what.to_owned()));
        spinner.finish_and_clear();
        let report = report?;
        anyhow::ensure!(!report.rows.is_empty() || !report.absent.is_empty(), "no row has such a name");
        if let Some(path) = &self.raw {
            std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("can't write {}", path.display()))?;
        }
        if global.json {
            ui::print_json(&serde_json::to_value(&report)?);
        } else {
            ui::print(&report.to_markdown());
        }
        Ok(ExitCode::SUCCESS)
    }
}
