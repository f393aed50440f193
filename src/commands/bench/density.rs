//! `preheat bench density`: many handlers over one base, in one store and in one process.

use crate::commands::Global;
use crate::ui;
use ::preheat::{
    Builder, CpuLevel, Digest, Engine, EngineChoice, Freeze, FreezePoint, Home, LoadOptions, Output, Request, Runtime, Store, media,
};
use anyhow::{Context as _, ensure};
use clap::Args;
use preheat_bench::density::{Density as Report, EVENT, Step, handler};
use preheat_bench::report::Machine;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Measure how many frozen functions fit into a store and into a process
///
/// Generated Python handlers, each another function, are built over one base. Then one process loads all of them and calls each, and holds so
/// many instances at once.
#[derive(Args)]
#[command(after_help = "CPython comes with `preheat bench fetch cpython`.

Examples:
  preheat bench density
  preheat bench density --handlers 100 --alive 250 --afresh")]
pub(crate) struct Density {
    /// How many handlers
    #[arg(long, default_value_t = 1000)]
    handlers: usize,
    /// How many instances live at once at the end
    #[arg(long, default_value_t = 2500)]
    alive: usize,
    /// Begin each handler afresh and compare it with the base, instead of waking the base
    #[arg(long)]
    afresh: bool,
    /// Where the examples are
    #[arg(long, default_value = "examples", value_name = "DIR")]
    examples: PathBuf,
    /// Load the images of this list, and do nothing else
    #[arg(long, value_name = "FILE", hide = true)]
    load: Option<PathBuf>,
}

impl Density {
    pub(crate) fn execute(&self, fetched: &Path, global: &Global) -> anyhow::Result<ExitCode> {
        if let Some(list) = &self.load {
            ui::print_json(&serde_json::to_value(self.load(list, &global.home()?)?)?);
            return Ok(ExitCode::SUCCESS);
        }
        let scratch = tempfile::tempdir().context("can't make a directory for the store")?;
        // A home of its own: the benchmark neither finds nor leaves anything in the user's.
        let home = Home::at(scratch.path().join("home"));
        home.builder_key()?;
        let spinner = ui::spinner("building the base".into());
        let mut report = self.build(&home, &fetched.join("cpython.wasm"), scratch.path(), &mut |what| spinner.set_message(what))?;
        spinner.set_message("loading".to_owned());
        report.process = self.child(&home, scratch.path())?;
        spinner.finish_and_clear();
        if global.json {
            ui::print_json(&serde_json::to_value(&report)?);
        } else {
            ui::print(&report.to_markdown());
        }
        Ok(ExitCode::SUCCESS)
    }

    fn build(&self, home: &Home, python: &Path, scratch: &Path, progress: &mut dyn FnMut(String)) -> anyhow::Result<Report> {
        let wasm = std::fs::read(python).with_context(|| format!("can't read {}; `preheat bench fetch cpython`", python.display()))?;
        let path = self.examples.join("frozen-python-handlers/host.py");
        let host = std::fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let builder = || -> anyhow::Result<Builder> {
            let level = CpuLevel::of_host().unwrap_or(CpuLevel::V1).min(CpuLevel::V3);
            Ok(Builder::new(home)?.engine(EngineChoice::Only(Engine::Native)).levels([level]))
        };
        let program = |source: &str| -> anyhow::Result<Builder> {
            // The host reads a handler in one read, or has it here.
            let whole = host.replace("os.read(0, LIMIT)", source);
            Ok(builder()?.env("PYTHONHASHSEED", "0").args(["-c", &whole]))
        };
        let freeze = || Freeze::at(FreezePoint::Stdin).trial_input(EVENT);
        let started = Instant::now();
        let base = if self.afresh {
            program("b\"def handle(event): pass\"")?.freeze(freeze())
        } else {
            // Nothing answers before there is a handler.
            program("os.read(0, LIMIT)")?.freeze(freeze().allow_frozen_random(true))
        };
        let base = base.build_bytes("python", &wasm)?;
        let base_seconds = started.elapsed().as_secs_f64();
        let store = home.store()?;
        let (mut seconds, mut layers, mut images) = (Vec::new(), Vec::new(), Vec::new());
        let alone = size_of(&home.store_dir())?;
        for number in 0..self.handlers {
            progress(format!("building handler {number} of {}", self.handlers));
            let source = handler(number);
            let started = Instant::now();
            let over = freeze().over(base.digest);
            let built = if self.afresh {
                program(&serde_json::to_string(&source)?)?.freeze(over)
            } else {
                builder()?.freeze(over.base_input(source))
            };
            let built = built.build_bytes("python", &wasm)?;
            seconds.push(started.elapsed().as_secs_f64());
            layers.push(built.frozen.map_or(0, |frozen| frozen.heap));
            images.push(built.digest);
        }
        let with_all = size_of(&home.store_dir())?;
        seconds.sort_by(f64::total_cmp);
        layers.sort_unstable();
        let list: Vec<String> = images.iter().map(ToString::to_string).collect();
        std::fs::write(scratch.join("images"), list.join("\n"))?;
        Ok(Report {
            machine: Machine::here(),
            handlers: self.handlers,
            store: [alone, with_all],
            base_seconds,
            base_layer: base.frozen.map_or(0, |frozen| frozen.heap),
            seconds,
            layers,
            code_objects: parts(&store, home, &images, media::CODE)?,
            resume_objects: parts(&store, home, &images, media::RESUME)?,
            process: Vec::new(),
        })
    }

    /// A process of its own loads them: this one has compiled.
    fn child(&self, home: &Home, scratch: &Path) -> anyhow::Result<Vec<Step>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--home").arg(home.root()).args(["bench", "density", "--load"]).arg(scratch.join("images"));
        let output = command.args(["--alive", &self.alive.to_string()]).output()?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "the process that loads them failed: {}", said());
        serde_json::from_slice(&output.stdout).with_context(said)
    }

    fn load(&self, list: &Path, home: &Home) -> anyhow::Result<Vec<Step>> {
        // Each image keeps its heap layer open.
        let mut files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        files.current = files.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, files)?;
        let digests = std::fs::read_to_string(list)?;
        let digests = digests.lines().map(str::parse).collect::<Result<Vec<Digest>, _>>()?;
        let (store, policy) = (home.store()?, home.trust()?);
        let runtime = Runtime::builder().slots(u32::try_from(self.alive.max(digests.len()))?).build()?;
        let mut steps = vec![Step::now("begins", 0.0)?];
        let mut started = Instant::now();
        let mut step = |what: String| -> anyhow::Result<()> {
            steps.push(Step::now(what, started.elapsed().as_secs_f64())?);
            started = Instant::now();
            Ok(())
        };
        let load = |digest: &Digest| runtime.load_from(&store, digest, &policy, LoadOptions::default());
        let images = digests.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        step(format!("{} images loaded", images.len()))?;
        for (number, image) in images.iter().enumerate() {
            let (stdout, output) = Output::buffer(1 << 20);
            let code = image.run(&Request::new().stdin(EVENT).stdout(stdout))?;
            let answer = String::from_utf8_lossy(&output.contents()).into_owned();
            ensure!(code == 0 && answer.contains(&format!("\"handler\": {number},")), "handler {number} answered {answer}");
        }
        step("each has answered once".into())?;
        let alive = images.iter().cycle().take(self.alive).map(|image| image.instance(&Request::new()));
        let alive = alive.collect::<Result<Vec<_>, _>>()?;
        step(format!("{} instances alive", alive.len()))?;
        drop(alive);
        step("and gone".into())?;
        Ok(steps)
    }
}

/// How many different parts of a media type images have.
fn parts(store: &Store, home: &Home, images: &[Digest], media_type: &str) -> anyhow::Result<usize> {
    let policy = home.trust()?;
    let mut found = BTreeSet::new();
    for image in images {
        let image = store.load(image, &policy, LoadOptions::default())?;
        found
            .extend(image.manifest().artefacts.iter().filter(|artefact| artefact.media_type == media_type).map(|artefact| artefact.digest));
    }
    Ok(found.len())
}

/// What a directory takes on the disk, in bytes.
fn size_of(dir: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += metadata.blocks() * 512;
        if metadata.is_dir() {
            size += size_of(&entry.path())?;
        }
    }
    Ok(size)
}
