use super::{BuildOptions, Global, Shared, parse_variable};
use crate::ui;
use anyhow::Context as _;
use clap::{ArgGroup, Args};
use preheat::{Baked, Builder, Built, Directory, Freeze, FreezeLimits, FreezePoint, Home, Reference, RunError, Trial};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Compile Wasm into a signed image in the store
#[derive(Args)]
#[command(after_help = "The last line of standard output is the image's digest.

Examples:
  preheat build app.wasm
  preheat build app.wasm --tag team/app:v1 --cpu v2,v3,v4
  preheat build app.wasm --engine wasmtime            not on the native engine, which is taken where it can run the function
  preheat build app.wasm --env LANG=C -- --serve      arguments that every run gets first
  preheat build python.wasm --freeze stdin -- -c \"$(cat handler.py)\"
                                                      run it now up to where it reads its event; `run` goes on there
  preheat build python.wasm --freeze stdin --base host --base-input handler.py
                                                      wake the frozen image `host`, which reads handler.py, and keep what changed")]
pub(crate) struct Build {
    /// Wasm module or component, binary or text
    file: PathBuf,
    /// Arguments that the function gets before those of `run`
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// Name for the image, such as app:v1; repeatable
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Vec<Reference>,
    /// Environment variable that the function sees unless `run` sets it; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    #[command(flatten)]
    freeze: FreezeArgs,
    /// Keep the Wasm bytes in the image, so that it can be built again from the store
    #[arg(long)]
    keep_source: bool,
    #[command(flatten)]
    pub(super) options: BuildOptions,
}

/// How a function is frozen.
#[derive(Args)]
#[command(next_help_heading = "Freezing", group = ArgGroup::new("runs").args(["freeze", "trial_input"]).multiple(true))]
struct FreezeArgs {
    /// Run the program now, up to this point, and make its state there the image: stdin, init or import:MODULE.NAME
    #[arg(long, value_name = "POINT")]
    freeze: Option<FreezePoint>,
    /// With `--freeze init`: run this export instead of `_initialize` or `wizer-initialize`; of a component also INTERFACE#NAME
    #[arg(long, value_name = "EXPORT", requires = "freeze")]
    init_export: Option<String>,
    /// Directory that the program sees while it is frozen, and `run` must grant under the same guest name; repeatable
    #[arg(long, value_name = "HOST[::GUEST]", requires = "runs")]
    dir: Vec<String>,
    /// The same, only for reading; repeatable
    #[arg(long, value_name = "HOST[::GUEST]", requires = "runs")]
    ro_dir: Vec<String>,
    /// Environment variable that is absent now, and that each `run` may set; found in /preheat/env; repeatable
    #[arg(long, value_name = "NAME", requires = "freeze")]
    late_env: Vec<String>,
    /// Give the program the directory /preheat, with `random` and `env` in it, to read from after waking
    #[arg(long, requires = "freeze")]
    wake_dir: bool,
    /// Freeze even a program that drew random numbers and draws none after waking
    #[arg(long, requires = "freeze")]
    allow_frozen_random: bool,
    /// Refuse if any of these would be baked in, of clock, env, files, random, output
    #[arg(long, value_name = "WHAT", value_delimiter = ',', requires = "freeze")]
    deny_frozen: Vec<Baked>,
    /// Frozen image of the same module over whose heap this one's is a layer: only pages that differ are kept
    #[arg(long, value_name = "IMAGE", requires = "freeze")]
    base: Option<String>,
    /// Wake the base, let it read this file as its standard input, and freeze it where it wants more
    #[arg(long, value_name = "FILE", requires = "base")]
    base_input: Option<PathBuf>,
    /// Sample request that the frozen program is tried with: the image keeps which pages of its memory that writes; repeatable
    #[arg(long, value_name = "FILE", requires = "freeze")]
    warmup_request: Vec<PathBuf>,
    /// Input of a trial call. With `--freeze`, where it is to be seen whether the program draws random numbers anew [default: no input]. Without,
    /// the command is run once with it, and it is said whether freezing would pay
    #[arg(long, value_name = "FILE")]
    trial_input: Option<PathBuf>,
    /// Longest time that the program may take until it is frozen, or for its trial call
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME", default_value = "60s", requires = "runs")]
    freeze_timeout: Duration,
    /// Most memory that each of its memories may have until then, such as 256M
    #[arg(long, value_parser = ui::parse_size, value_name = "SIZE", requires = "freeze")]
    freeze_max_memory: Option<u64>,
}

impl FreezeArgs {
    /// How to freeze, if at all.
    fn freeze(&self, home: &Home) -> anyhow::Result<Option<Freeze>> {
        let Some(point) = &self.freeze else { return Ok(None) };
        let mut freeze = Freeze::at(point.clone())
            .wake_dir(self.wake_dir)
            .allow_frozen_random(self.allow_frozen_random)
            .deny(self.deny_frozen.iter().copied());
        for dir in self.dirs() {
            freeze = freeze.dir(dir);
        }
        for name in &self.late_env {
            freeze = freeze.late_env(name);
        }
        if let Some(export) = &self.init_export {
            freeze = freeze.init_export(export);
        }
        if let Some(input) = self.input()? {
            freeze = freeze.trial_input(input);
        }
        for path in &self.warmup_request {
            freeze = freeze.warmup_request(read(path)?);
        }
        if let Some(base) = &self.base {
            freeze = freeze.over(home.store()?.resolve_text(base)?);
        }
        if let Some(path) = &self.base_input {
            freeze = freeze.base_input(read(path)?);
        }
        let memory = self.freeze_max_memory.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        Ok(Some(freeze.limits(FreezeLimits { time: self.freeze_timeout, memory, ..FreezeLimits::default() })))
    }

    fn dirs(&self) -> Vec<Directory> {
        super::directories(&self.dir, &self.ro_dir)
    }

    fn input(&self) -> anyhow::Result<Option<Vec<u8>>> {
        self.trial_input.as_deref().map(read).transpose()
    }

    /// The input of a trial call without freezing.
    fn trial(&self) -> anyhow::Result<Option<Vec<u8>>> {
        if self.freeze.is_none() { self.input() } else { Ok(None) }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

impl Build {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let shared = Shared::of(&home, &self.options)?;
        let mut builder = shared.apply(self.options.apply(Builder::new(&home)?)?).args(self.args).keep_source(self.keep_source);
        for (name, value) in self.env {
            builder = builder.env(name, value);
        }
        if let Some(freeze) = self.freeze.freeze(&home)? {
            builder = builder.freeze(freeze);
        }
        let trial = self.freeze.trial()?;
        for reference in &self.tag {
            builder = builder.tag(reference.clone());
        }
        let spinner = ui::spinner(format!("building {}", self.file.display()));
        let built = builder.build_file(&self.file);
        if let Ok(built) = &built {
            shared.finish(built, &self.options.namespace);
        }
        spinner.finish_and_clear();
        let built = built?;
        let time = self.freeze.freeze_timeout;
        let trial = trial.map(|input| builder.try_out(&built.digest, &self.freeze.dirs(), &input, time));
        if global.json {
            let tags: Vec<String> = self.tag.iter().filter_map(Reference::name).collect();
            let mut report = report(&built);
            report["tags"] = json!(tags);
            report["trial"] = json!(trial.as_ref().map(report_trial));
            ui::print_json(&report);
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(reason) = &built.engine_reason {
            eprintln!("{}: {reason}", built.engine.map_or("", preheat::Engine::name));
        }
        for code in &built.code {
            let how = code.compiled_in.map_or_else(|| "already there".into(), |took| format!("compiled in {}", ui::time(took)));
            eprintln!("{}  {:>8}  {how}", code.cpu, ui::bytes(code.size));
        }
        if let Some(frozen) = &built.frozen {
            let over = if frozen.layers_below > 0 { format!(" as layer {}", frozen.layers_below + 1) } else { String::new() };
            match &frozen.component {
                Some(_) => {
                    eprintln!("frozen at {} after {}: a component of {}", frozen.point, ui::time(frozen.ran_for), ui::bytes(frozen.heap))
                }
                None => eprintln!(
                    "frozen at {} after {}: {} frames, {} of heap{over}, {} of code to resume",
                    frozen.point,
                    ui::time(frozen.ran_for),
                    frozen.frames,
                    ui::bytes(frozen.heap),
                    ui::bytes(frozen.resume)
                ),
            }
            if frozen.written > 0 {
                eprintln!("a call has {} pages of it for itself, {}", frozen.written, ui::bytes(frozen.written * 4096));
            }
            for risk in &frozen.risks {
                eprintln!("risk: {risk}");
            }
        }
        if let Some(trial) = &trial {
            say_trial(trial);
        }
        for name in self.tag.iter().filter_map(Reference::name) {
            eprintln!("{name}");
        }
        ui::say!("{}", built.digest);
        Ok(ExitCode::SUCCESS)
    }
}

/// Tells people how a trial call went, and whether freezing would pay.
fn say_trial(trial: &Result<Trial, RunError>) {
    match trial {
        Ok(Trial { until_input: Some(until), took, suggestion, .. }) => {
            eprintln!("trial: {} until it asked for its input, {} in all", ui::time(*until), ui::time(*took));
            if let Some(point) = suggestion {
                eprintln!("suggestion: `--freeze {point}` does once, now, what it does before that (docs/freezing.md)");
            }
        }
        Ok(trial) => eprintln!("trial: {} in all, and it did not ask for its input", ui::time(trial.took)),
        Err(error) => eprintln!("trial: {error}"),
    }
}

fn report_trial(trial: &Result<Trial, RunError>) -> serde_json::Value {
    match trial {
        Ok(trial) => json!({
            "untilInputSeconds": trial.until_input.map(|until| until.as_secs_f64()),
            "seconds": trial.took.as_secs_f64(),
            "exit": trial.exit_code,
            "suggestion": trial.suggestion,
        }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// What `--json` says of a build.
pub(super) fn report(built: &Built) -> serde_json::Value {
    let code: Vec<_> = built
        .code
        .iter()
        .map(|code| {
            json!({
                "cpu": code.cpu,
                "key": code.key,
                "digest": code.digest,
                "bytes": code.size,
                "compiled": code.compiled_in.is_some(),
                "compileSeconds": code.compiled_in.map(|took| took.as_secs_f64()),
            })
        })
        .collect();
    json!({
        "image": built.digest,
        "key": built.key,
        "cached": built.cached,
        "engine": built.engine.map(preheat::Engine::name),
        "engineReason": built.engine_reason,
        "compiled": built.compiled(),
        "code": code,
        "frozen": built.frozen.as_ref().map(|frozen| json!({
            "point": frozen.point,
            "frames": frozen.frames,
            "heapBytes": frozen.heap,
            "layersBelow": frozen.layers_below,
            "writtenPages": frozen.written,
            "resumeBytes": frozen.resume,
            "component": frozen.component,
            "ranForSeconds": frozen.ran_for.as_secs_f64(),
            "risks": frozen.risks,
        })),
    })
}
