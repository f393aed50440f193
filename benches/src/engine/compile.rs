//! Time and peak memory of compiling the corpus. Each run is a process of its own, since a process keeps its peak.

use super::programs::entries;
use super::report::{Kind, Report, Row};
use super::{Options, Ours, System, turns, wasmtime};
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const SYSTEMS: [System; 2] = [System::Native, System::Wasmtime];

/// What a process says that compiled.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compiled {
    /// Seconds on the wall.
    pub seconds: f64,
    /// Seconds of all threads together, from the process's beginning.
    pub processor_seconds: f64,
    /// The largest resident memory of the process, in KiB.
    pub peak_kib: u64,
    /// Size of the code object in bytes.
    pub bytes: usize,
}

/// Compiles in this process, which does nothing else. With `output` the code goes there, to be looked at with `objdump -d`.
///
/// # Errors
/// When it can't be compiled.
pub fn child(ours: &dyn Ours, is_ours: bool, wasm: &Path, output: Option<&Path>) -> Result<Compiled> {
    let wasm = std::fs::read(wasm).with_context(|| format!("can't read {}", wasm.display()))?;
    let started = Instant::now();
    let code = if is_ours { ours.compile(&wasm)? } else { wasmtime::compile(&wasm)? };
    let seconds = started.elapsed().as_secs_f64();
    let processor = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    if let Some(output) = output {
        std::fs::write(output, &code).with_context(|| format!("can't write {}", output.display()))?;
    }
    Ok(Compiled {
        seconds,
        processor_seconds: processor.tv_sec as f64 + processor.tv_nsec as f64 / 1e9,
        peak_kib: peak()?,
        bytes: code.len(),
    })
}

/// The largest resident memory that this process has had, in KiB.
fn peak() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel does not say VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

pub(super) fn measure(options: &Options, ours: &dyn Ours, report: &mut Report, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let this = std::env::current_exe()?;
    for entry in entries(options, report)? {
        let size = entry.wasm.metadata()?.len();
        let rounds = if size > 4 << 20 { options.rounds.div_ceil(6) } else { options.rounds.div_ceil(2) };
        let mut rows = [Kind::CompileTime, Kind::CompileProcessor, Kind::CompileMemory, Kind::CodeSize]
            .map(|kind| Row::new(kind, entry.name, &SYSTEMS));
        for round in 0..rounds {
            progress(&format!("compiling {}, round {round} of {rounds}", entry.name));
            for system in turns(SYSTEMS.len(), round) {
                let output = Command::new(&this).args(ours.child_arguments(SYSTEMS[system], &entry.wasm)).output()?;
                let said = || format!("{} of {}: {}", SYSTEMS[system].name(), entry.name, String::from_utf8_lossy(&output.stderr));
                ensure!(output.status.success(), said());
                let compiled: Compiled = serde_json::from_slice(&output.stdout).with_context(said)?;
                let mib = |bytes: f64| bytes / f64::from(1 << 20);
                let values =
                    [compiled.seconds, compiled.processor_seconds, mib(compiled.peak_kib as f64 * 1024.0), mib(compiled.bytes as f64)];
                rows.iter_mut().zip(values).for_each(|(row, value)| row.push(system, value));
            }
        }
        rows.into_iter().for_each(|row| report.add(row));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_knows_its_peak() {
        let before = super::peak().unwrap();
        let bytes = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(super::peak().unwrap() >= before.max(64 << 10) && bytes[1 << 20] == 1);
    }
}
