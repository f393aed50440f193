//! Steady state of small programs that do one thing, written in C and compiled here.

use super::report::{Kind, Report, Row};
use super::{Kernel, Options, Ours, Part, engine, thread_time, turns};
use anyhow::{Context as _, Result, bail, ensure};
use std::path::Path;
use std::process::Command;

macro_rules! kernels {
    ($(($name:literal, $times:literal),)*) => {
        [$(($name, $times, include_str!(concat!("../../kernels/", $name, ".c"))),)*]
    };
}

/// The kernels, what they are called with so that they take some 10 ms, and their sources.
pub(super) const KERNELS: [(&str, i32, &str); 20] = kernels![
    ("blur", 700),
    ("copies", 300_000),
    ("crc32", 60),
    ("dot", 220),
    ("fannkuch", 9),
    ("fft", 40),
    ("fib", 33),
    ("floyd", 18),
    ("gemm", 28),
    ("hash", 50),
    ("interpreter", 200_000),
    ("jacobi", 260),
    ("levenshtein", 20),
    ("lu", 48),
    ("mandelbrot", 400),
    ("nbody", 150_000),
    ("quicksort", 5),
    ("sha256", 600),
    ("sieve", 20),
    ("trees", 300),
];
/// What they all include.
const HEADER: &str = include_str!("../../kernels/kernel.h");

/// Clang and a linker that goes with it, the one first that the figures in the documentation are of.
const TOOLS: [(&str, &str); 2] = [("clang-14", "wasm-ld-14"), ("clang", "wasm-ld")];

/// The names of the kernels.
pub fn names() -> impl Iterator<Item = &'static str> {
    KERNELS.iter().map(|(name, ..)| *name)
}

/// The first tools that are there.
pub(super) fn tools() -> Option<(&'static str, &'static str)> {
    let runs = |tool: &str| Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    TOOLS.into_iter().find(|(clang, linker)| runs(clang) && runs(linker))
}

/// Compiles a kernel. Linked by hand, since clang as a driver runs wasm-opt where it finds it. Loops stay scalar unless the source says SIMD.
pub(super) fn build((clang, linker): (&str, &str), source: &str, scratch: &Path) -> Result<Vec<u8>> {
    let run = |command: &mut Command| -> Result<()> {
        let output = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let [header, source_file, object, module] = ["kernel.h", "kernel.c", "kernel.o", "kernel.wasm"].map(|name| scratch.join(name));
    std::fs::write(header, HEADER)?;
    std::fs::write(&source_file, source)?;
    let flags = "--target=wasm32 -O2 -fno-vectorize -fno-slp-vectorize -msimd128 -mbulk-memory -c";
    run(Command::new(clang).args(flags.split(' ')).arg("-o").args([&object, &source_file]))?;
    run(Command::new(linker).args(["--no-entry", "--strip-debug", "-o"]).args([&module, &object]))?;
    Ok(std::fs::read(&module)?)
}

pub(super) fn measure(options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let Some(tools) = tools() else {
        report.is_absent(
            "kernels",
            "neither clang-14 with wasm-ld-14 nor clang with wasm-ld is here (Debian's packages clang-14 and lld-14)",
        );
        return Ok(());
    };
    let scratch = tempfile::tempdir().context("can't make a directory for kernels")?;
    let systems = options.steady_systems(Part::Kernels);
    let engines: Vec<_> = systems.iter().map(|system| engine(ours, *system)).collect::<Result<_>>()?;
    for (name, times, source) in KERNELS.into_iter().filter(|(name, ..)| options.wants_name(name)) {
        progress(name);
        let wasm = match build(tools, source, scratch.path()) {
            Ok(wasm) => wasm,
            // A clang without the target, for example.
            Err(why) => {
                report.is_absent(name, format!("{why:#}"));
                continue;
            }
        };
        let mut kernels: Vec<Kernel> = engines.iter().map(|engine| engine.kernel(&wasm)).collect::<Result<_>>().context(name)?;
        let expected = kernels[0](times)?;
        let mut row = Row::new(Kind::Kernels, name, &systems);
        for round in 0..=options.rounds {
            for system in turns(kernels.len(), round) {
                let before = thread_time();
                let sum = kernels[system](times).with_context(|| format!("{name} on {}", systems[system].name()))?;
                let time = thread_time() - before;
                if sum != expected {
                    bail!("{name}: {} gives {sum}, not {expected}", systems[system].name());
                }
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
