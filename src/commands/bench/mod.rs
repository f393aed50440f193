//! `preheat bench`: which systems, which workloads, which scenarios; the harness does the rest.

mod density;
mod engine;
mod native;
pub(crate) mod preheat;

use super::Global;
use crate::ui;
use ::preheat::Home;
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use preheat::Way;
use preheat_bench::corpus::{Corpus, Outcome};
use preheat_bench::harness::{self, Failure, PageCache, Plan, System};
use preheat_bench::peers::command;
use preheat_bench::peers::wasmtime::{ByHand, Options, Start as ByHandStart};
use preheat_bench::report::{Machine, Report};
use preheat_bench::workload::Workload;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure starts, side by side with other ways to run the same programs
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Scenarios: cold (in process, image not loaded, to the response), reload (the same, each right after three others
of the same system), jit (the same beside a compilation each time), warm (in
process, loaded, fresh instance), hot (the same, each call right after three others of the same system),
prepared (in process, loaded, the first call of a frozen function in a slot that was made ahead), process (a fresh process), compile (for one CPU level, no run). Systems run in turns on the same input; a wrong output is no result.

Examples:
  preheat bench fetch                                get the corpus of real programs
  preheat bench --quick
  preheat bench engine                               the native engine beside wasmtime
  preheat bench density                              a thousand handlers over one base
  preheat bench --scenario process --workload json-c --wasmtime /usr/local/bin/wasmtime --raw out.json")]
pub(crate) struct Bench {
    #[command(subcommand)]
    action: Option<Action>,
    /// Few rounds: to see that all works, not to quote
    #[arg(long)]
    quick: bool,
    /// Scenarios to measure [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Workloads to measure [default: all that were fetched]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    workload: Vec<String>,
    /// Rounds that count [default: 101, with --quick 7]
    #[arg(long)]
    rounds: Option<usize>,
    /// State of the page cache
    #[arg(long, value_enum, default_value_t = Cache::Hot)]
    page_cache: Cache,
    /// The wasmtime command line, for the process scenario [default: `wasmtime` in PATH]
    #[arg(long, value_name = "FILE")]
    wasmtime: Option<PathBuf>,
    /// Native program that does what json-c does, for the process scenario
    #[arg(long, value_name = "FILE")]
    native: Option<PathBuf>,
    /// Keep the raw figures in this file, as JSON
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    #[command(flatten)]
    corpus: CorpusOptions,
}

#[derive(Args, Clone)]
struct CorpusOptions {
    /// List of programs and workloads
    #[arg(long, default_value = "benches/corpus.toml", value_name = "FILE", global = true)]
    corpus: PathBuf,
    /// Where the programs are
    #[arg(long, default_value = "benches/fetched", value_name = "DIR", global = true)]
    fetched: PathBuf,
}

#[derive(Subcommand)]
enum Action {
    /// Fetch or compile the programs of the corpus, and check their digests
    Fetch {
        /// Which [default: all]
        names: Vec<String>,
        /// Fail if one could not be had
        #[arg(long)]
        require: bool,
    },
    Engine(engine::Engine),
    Density(density::Density),
}

/// Calls right before one that counts, in the scenarios `reload` and `hot`.
const HOT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Cold,
    Reload,
    Jit,
    Warm,
    Hot,
    Prepared,
    Process,
    Compile,
}

#[derive(Clone, Copy, ValueEnum)]
enum Cache {
    Hot,
    Cold,
}

impl Bench {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match &self.action {
            Some(Action::Fetch { names, require }) => fetch(&self.corpus, names, *require, global),
            Some(Action::Engine(engine)) => engine.execute(&self.corpus.fetched, global),
            Some(Action::Density(density)) => density.execute(&self.corpus.fetched, global),
            None => self.measure(global),
        }
    }

    fn measure(&self, global: &Global) -> anyhow::Result<ExitCode> {
        let scratch = tempfile::tempdir().context("can't make a directory for what the peers compile")?;
        // A home of its own: the benchmark neither finds nor leaves anything in the user's.
        let home = Home::at(scratch.path().join("home"));
        let workloads = self.workloads()?;
        let plan = Plan {
            rounds: self.rounds.unwrap_or(if self.quick { 7 } else { 101 }),
            warmups: if self.quick { 1 } else { 3 },
            leads: 0,
            limit_seconds: 120.0,
            budget_seconds: if self.quick { 2.0 } else { 40.0 },
            page_cache: match self.page_cache {
                Cache::Hot => PageCache::Hot,
                Cache::Cold => PageCache::Cold,
            },
        };
        let machine = Machine::here();
        let mut cells = Vec::new();
        for scenario in Scenario::value_variants().iter().copied() {
            if !self.scenario.is_empty() && !self.scenario.contains(&scenario) {
                continue;
            }
            for workload in &workloads {
                let plan = if matches!(scenario, Scenario::Reload | Scenario::Hot) { Plan { leads: HOT, ..plan } } else { plan };
                let mut systems = self.systems(scenario, workload, &home, scratch.path())?;
                let name = scenario.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
                let spinner = ui::spinner(format!("{name} {}: compiling", workload.name));
                cells.extend(harness::run(&name, workload, &mut systems, &plan, &mut |round, rounds| {
                    spinner.set_message(format!("{name} {}: round {round} of {rounds}", workload.name));
                }));
                spinner.finish_and_clear();
            }
        }
        let report = Report { schema: 1, machine, plan, cells };
        if let Some(path) = &self.raw {
            std::fs::write(path, serde_json::to_vec_pretty(&report)?).with_context(|| format!("can't write {}", path.display()))?;
        }
        if global.json {
            ui::print_json(&serde_json::to_value(&report)?);
        } else {
            ui::print(&report.to_markdown());
        }
        let wrong = report.cells.iter().filter(|cell| !matches!(cell.failure, None | Some(Failure::Absent(_) | Failure::Unfit(_)))).count();
        Ok(if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(crate::exit::FAILED) })
    }

    fn workloads(&self) -> anyhow::Result<Vec<Workload>> {
        let corpus = Corpus::load(&self.corpus.corpus)?;
        let (workloads, missing) = corpus.workloads(&self.corpus.fetched)?;
        for (name, why) in missing {
            if self.workload.is_empty() || self.workload.contains(&name) {
                eprintln!("preheat: {name} is left out: {why}");
            }
        }
        let chosen = |workload: &Workload| self.workload.is_empty() || self.workload.contains(&workload.name);
        let workloads: Vec<_> = workloads.into_iter().filter(chosen).collect();
        anyhow::ensure!(!workloads.is_empty(), "no workload is left; `preheat bench fetch` gets the programs");
        Ok(workloads)
    }

    fn systems(&self, scenario: Scenario, workload: &Workload, home: &Home, scratch: &Path) -> anyhow::Result<Vec<Box<dyn System>>> {
        let by_hand = |start, options| -> anyhow::Result<Box<dyn System>> { Ok(Box::new(ByHand::new(start, options, scratch)?)) };
        let ours = |start, way| -> anyhow::Result<Box<dyn System>> { Ok(Box::new(preheat::InProcess::new(start, way, home)?)) };
        const NATIVE: Way = Way::Plain(::preheat::Engine::Native);
        const WASMTIME: Way = Way::Plain(::preheat::Engine::Wasmtime);
        Ok(match scenario {
            Scenario::Cold | Scenario::Reload => vec![
                by_hand(ByHandStart::Precompiled, Options::Interruptible)?,
                ours(preheat::Start::Stored, WASMTIME)?,
                ours(preheat::Start::Stored, NATIVE)?,
                ours(preheat::Start::Stored, Way::Frozen)?,
                by_hand(ByHandStart::Precompiled, Options::Default)?,
            ],
            // Apart, since compiling leaves the processor's caches to whoever runs next as if nothing had ever run.
            Scenario::Jit => vec![by_hand(ByHandStart::Jit, Options::Default)?, ours(preheat::Start::Stored, WASMTIME)?],
            Scenario::Warm | Scenario::Hot => vec![
                by_hand(ByHandStart::Loaded, Options::Interruptible)?,
                ours(preheat::Start::Loaded, WASMTIME)?,
                ours(preheat::Start::Loaded, NATIVE)?,
                ours(preheat::Start::Loaded, Way::Frozen)?,
                by_hand(ByHandStart::Loaded, Options::Default)?,
            ],
            // Nobody else has anything to be compared with.
            Scenario::Prepared => vec![ours(preheat::Start::Prepared, Way::Frozen)?, ours(preheat::Start::Prepared, Way::Warmed)?],
            Scenario::Process => {
                let wasmtime = self.wasmtime.clone().unwrap_or_else(|| "wasmtime".into());
                let mut systems = vec![command::wasmtime_cli(&wasmtime, scratch)];
                for way in [WASMTIME, NATIVE, Way::Frozen] {
                    systems.push(preheat::fresh_process(way, home)?);
                }
                for way in [NATIVE, Way::Frozen] {
                    systems.extend(preheat::fresh_exec(way, home)?);
                }
                if let Some(native) = self.native.as_ref().filter(|_| workload.name == "json-c") {
                    systems.push(command::native(native));
                }
                systems
            }
            Scenario::Compile => vec![
                by_hand(ByHandStart::Compile, Options::Interruptible)?,
                ours(preheat::Start::Compile, WASMTIME)?,
                ours(preheat::Start::Compile, NATIVE)?,
            ],
        })
    }
}

fn fetch(options: &CorpusOptions, names: &[String], require: bool, global: &Global) -> anyhow::Result<ExitCode> {
    let corpus = Corpus::load(&options.corpus)?;
    let spinner = ui::spinner("fetching".into());
    let fetched = corpus.fetch(&options.fetched, names, &mut |what| spinner.set_message(what.to_owned()));
    spinner.finish_and_clear();
    let mut missing = 0;
    let mut rows = Vec::new();
    for program in &fetched {
        let (state, what) = match &program.outcome {
            Outcome::Available(path) => ("there", path.display().to_string()),
            Outcome::Unavailable { why } => {
                missing += 1;
                ("could not be had", why.clone())
            }
        };
        rows.push(vec![program.name.clone(), state.to_owned(), what]);
    }
    if global.json {
        let rows: Vec<_> =
            rows.iter().map(|row| serde_json::json!({ "program": row[0], "available": row[1] == "there", "what": row[2] })).collect();
        ui::print_json(&serde_json::json!({ "programs": rows }));
    } else {
        ui::print(&ui::table(&rows));
    }
    Ok(if require && missing > 0 { ExitCode::from(crate::exit::NOT_FOUND) } else { ExitCode::SUCCESS })
}
