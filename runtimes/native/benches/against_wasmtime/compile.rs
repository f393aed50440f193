//! Time and peak memory of compiling real programs. Each run is a process of its own, since a process keeps its peak.

use crate::corpus::programs;
use crate::engines::{Native, System, Wasmtime};
use crate::{Options, Row};
use std::process::Command;
use std::time::Instant;

/// In the environment of a child: the system, how many threads, and the Wasm file.
const CHILD: &str = "PREHEAT_BENCH_COMPILE";
const SYSTEMS: [&str; 2] = ["native", "wasmtime"];

/// The parent's request, if this is a child: compiles, and writes seconds, processor seconds and peak memory in KiB.
pub(crate) fn child() -> Option<Result<(), String>> {
    let request = std::env::var(CHILD).ok()?;
    Some((|| {
        let mut words = request.splitn(3, ' ');
        let (Some(system), Some(threads), Some(path)) = (words.next(), words.next(), words.next()) else { return Err(request.clone()) };
        let threads = threads.parse().ok();
        let wasm = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
        let system: Box<dyn System> = match system {
            "native" => Box::new(Native::new(true, threads)),
            _ => Box::new(Wasmtime::new(true, threads != Some(1))),
        };
        let started = Instant::now();
        let code = system.compile(&wasm)?;
        let wall = started.elapsed().as_secs_f64();
        let processor = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let status = std::fs::read_to_string("/proc/self/status").map_err(|error| error.to_string())?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        println!("{wall} {} {} {}", processor.tv_sec as f64 + processor.tv_nsec as f64 / 1e9, peak.unwrap_or("0"), code.len());
        Ok(())
    })())
}

pub(crate) fn measure(options: &Options, add: &mut dyn FnMut(Row)) -> Result<(), String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    for program in programs(options) {
        let size = program.wasm.metadata().map_err(|error| error.to_string())?.len();
        let rounds = if size > 4 << 20 { 5 } else { options.rounds.min(15) };
        let mut wall = Row::new("wall", program.name, "s", &SYSTEMS);
        let mut time = Row::new("compile", program.name, "s", &SYSTEMS);
        let mut memory = Row::new("memory", program.name, "MiB", &SYSTEMS);
        let mut bytes = Row::new("size", program.name, "MiB", &SYSTEMS);
        for round in 0..rounds {
            for turn in 0..2 {
                let system = (turn + round) % 2;
                let request = format!("{} all {}", SYSTEMS[system], program.wasm.display());
                let output = Command::new(&this).env(CHILD, request).output().map_err(|error| error.to_string())?;
                let text = String::from_utf8_lossy(&output.stdout);
                let values: Vec<f64> = text.split_whitespace().filter_map(|value| value.parse().ok()).collect();
                let [seconds, processor, peak, len] = *values else {
                    return Err(format!("{} of {}: {}", SYSTEMS[system], program.name, String::from_utf8_lossy(&output.stderr)));
                };
                wall.push(system, seconds);
                time.push(system, processor);
                memory.push(system, peak / 1024.0);
                bytes.push(system, len / f64::from(1 << 20));
            }
        }
        [wall, time, memory, bytes].into_iter().for_each(&mut *add);
    }
    Ok(())
}
