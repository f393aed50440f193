//! Steady state of code that a profile steers. The profile is of other inputs than those that are measured: scripts of a language runtime are
//! measured with a profile of another script, kernels with one of fewer rounds.

use super::guest::Guest;
use super::kernels::{self, KERNELS};
use super::report::{Kind, Report, Row};
use super::{Engine, Kernel, Options, Ours, Part, Program, System, engine, thread_time, turns};
use anyhow::{Context as _, Result, ensure};
use preheat_image::profile::Summary;
use std::sync::Arc;

macro_rules! scripts {
    ($extension:literal: $($name:literal),*) => {
        [$(($name, include_str!(concat!("../../scripts/", $name, ".", $extension))),)*]
    };
}

/// A language runtime, the script of which its profile is, and those that are measured. The lists are not to be changed to suit a result.
struct Language {
    program: &'static str,
    before: &'static [&'static str],
    training: &'static str,
    scripts: [(&'static str, &'static str); 5],
}

const LANGUAGES: [Language; 2] = [
    Language {
        program: "cpython",
        before: &["-S", "-c"],
        training: include_str!("../../scripts/training.py"),
        scripts: scripts!["py": "json", "strings", "classes", "dictionaries", "sorting"],
    },
    Language {
        program: "quickjs",
        before: &["-e"],
        training: include_str!("../../scripts/training.js"),
        scripts: scripts!["js": "json", "strings", "classes", "dictionaries", "sorting"],
    },
];

/// What a module does while its profile is made.
pub enum Lesson<'l> {
    /// Its function `run` is called with this.
    Kernel(i32),
    /// It runs as a program with these arguments and this standard input.
    Program(&'l [String], &'l [u8]),
}

/// The systems of a part.
fn systems(part: Part) -> Vec<System> {
    let mut systems = vec![System::Steered];
    match part {
        Part::Passes => systems.extend(System::OTHERWISE),
        _ => systems.extend([System::Wasmtime, System::Inlining, System::Native, System::Counting]),
    }
    systems
}

/// An engine for each of `systems`.
fn engines(ours: &dyn Ours, systems: &[System], profile: &Arc<Summary>) -> Result<Vec<Box<dyn Engine>>> {
    let make = |system: &System| if system.is_steered() { ours.steered(*system, Arc::clone(profile)) } else { engine(ours, *system) };
    systems.iter().map(make).collect()
}

pub(super) fn measure(part: Part, options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let systems = systems(part);
    let suffix = if part == Part::Passes { " passes" } else { "" };
    for language in &LANGUAGES {
        let arguments = |script: &str| -> Vec<String> {
            let first = std::iter::once(language.program).chain(language.before.iter().copied());
            first.chain([script]).map(str::to_owned).collect()
        };
        let wanted: Vec<_> =
            language.scripts.iter().filter(|(name, _)| options.wants_name(&format!("{} {name}", language.program))).collect();
        if wanted.is_empty() {
            continue;
        }
        let path = options.fetched.join(format!("{}.wasm", language.program));
        if !path.exists() {
            report.is_absent(language.program, format!("{} is not there; `preheat bench fetch` gets it", path.display()));
            continue;
        }
        progress(&format!("{}{suffix}: learning", language.program));
        let wasm = std::fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let training = arguments(language.training);
        let profile = Arc::new(ours.train(&wasm, &Lesson::Program(&training, &[])).with_context(|| language.program)?);
        let engines = engines(ours, &systems, &profile)?;
        sizes(&engines, &systems, language.program, &wasm, report)?;
        let programs = engines.iter().map(|engine| engine.program(&wasm)).collect::<Result<Vec<Program>>>()?;
        for (name, script) in wanted {
            let name = format!("{} {name}", language.program);
            progress(&name);
            let arguments = arguments(script);
            let run = |system: usize| {
                programs[system](Guest::new(&arguments, &[])).with_context(|| format!("{name} on {}", systems[system].name()))
            };
            let (_, expected) = run(0)?;
            ensure!(!expected.is_empty(), "{name} wrote nothing");
            let mut row = Row::new(if part == Part::Passes { Kind::Passes } else { Kind::Steered }, &name, &systems);
            for round in 0..=options.rounds.div_ceil(2) {
                for system in turns(programs.len(), round) {
                    let (time, output) = run(system)?;
                    ensure!(output == expected, "{name}: {} writes something else", systems[system].name());
                    // The first round warms up.
                    if round > 0 {
                        row.push(system, time.as_secs_f64() * 1e3);
                    }
                }
            }
            report.add(row);
        }
    }
    kernels_steered(part, &systems, options, ours, report, progress)
}

/// The same for kernels.
fn kernels_steered(
    part: Part,
    systems: &[System],
    options: &Options,
    ours: &dyn Ours,
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let Some(tools) = kernels::tools() else {
        report.is_absent(
            "kernels",
            "neither clang-14 with wasm-ld-14 nor clang with wasm-ld is here (Debian's packages clang-14 and lld-14)",
        );
        return Ok(());
    };
    let scratch = tempfile::tempdir().context("can't make a directory for kernels")?;
    for (name, times, source) in KERNELS.into_iter().filter(|(name, ..)| options.wants_name(name)) {
        progress(name);
        let wasm = match kernels::build(tools, source, scratch.path()) {
            Ok(wasm) => wasm,
            // A clang without the target, for example.
            Err(why) => {
                report.is_absent(name, format!("{why:#}"));
                continue;
            }
        };
        let profile = Arc::new(ours.train(&wasm, &Lesson::Kernel((times / 4).max(1))).context(name)?);
        let engines = engines(ours, systems, &profile)?;
        let mut kernels: Vec<Kernel> = engines.iter().map(|engine| engine.kernel(&wasm)).collect::<Result<_>>().context(name)?;
        let expected = kernels[0](times)?;
        let mut row = Row::new(if part == Part::Passes { Kind::KernelPasses } else { Kind::SteeredKernels }, name, systems);
        for round in 0..=options.rounds {
            for system in turns(kernels.len(), round) {
                let before = thread_time();
                let sum = kernels[system](times).with_context(|| format!("{name} on {}", systems[system].name()))?;
                let time = thread_time() - before;
                ensure!(sum == expected, "{name}: {} gives {sum}, not {expected}", systems[system].name());
                // The first round warms up.
                if round > 0 {
                    row.push(system, time.as_secs_f64() * 1e3);
                }
            }
        }
        report.add(row);
    }
    Ok(())
}

/// How large the code of a program is.
fn sizes(engines: &[Box<dyn Engine>], systems: &[System], name: &str, wasm: &[u8], report: &mut Report) -> Result<()> {
    let mut row = Row::new(Kind::SteeredSize, name, systems);
    for (system, engine) in engines.iter().enumerate() {
        row.push(system, engine.code_size(wasm)? as f64 / f64::from(1 << 20));
    }
    report.add(row);
    Ok(())
}
