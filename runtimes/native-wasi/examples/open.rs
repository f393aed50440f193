//! What it costs to open an image of a home until its function can be called, step by step:
//! `cargo run --release --package preheat-native-wasi --example open -- ROUNDS HOME IMAGE...`. The images take turns; prints medians.
//!
//! *ready* is all that follows the policy: who vouches is judged, the code found, mapped and linked. *with the policy* also asks the home
//! for its policy, as a process does that holds none.

use preheat_call::Request;
use preheat_image::CpuLevel;
use preheat_loader::{Home, LoadOptions};
use preheat_native_wasi::{ENGINE, EngineOptions, NativeEngine, TARGET};
use std::error::Error;
use std::time::{Duration, Instant};

const STEPS: [&str; 7] = ["policy", "load", "code", "map and link", "instance", "ready", "with the policy"];

fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e6
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "ROUNDS HOME IMAGE...";
    let rounds: usize = args.next().ok_or(usage)?.parse()?;
    let home = Home::at(std::path::absolute(args.next().ok_or(usage)?)?);
    let store = home.store()?;
    let images: Vec<_> = args.map(|name| Ok((store.resolve_text(&name)?, name))).collect::<Result<_, Box<dyn Error>>>()?;
    let engine = NativeEngine::new(EngineOptions::default())?;
    let level = CpuLevel::of_host().ok_or("no x86-64")?;
    let mut times = vec![[(); STEPS.len()].map(|()| Vec::with_capacity(rounds)); images.len()];
    let mut sizes = vec![0; images.len()];
    for round in 0..rounds + 10 {
        for (place, (digest, _)) in images.iter().enumerate() {
            let start = Instant::now();
            let policy = home.trust()?;
            let judged = Instant::now();
            let image = store.load(digest, &policy, LoadOptions::default())?;
            let loaded = Instant::now();
            let code = image.code(ENGINE, TARGET, level)?;
            sizes[place] = code.file().artefact().size;
            let opened = Instant::now();
            let function = image.manifest().function.clone().ok_or("no function")?;
            let linked = engine.load(code, &function)?;
            let ready = Instant::now();
            let instance = linked.instantiate(&Request::new(), None)?;
            let live = Instant::now();
            drop((instance, linked));
            if round >= 10 {
                let steps = [judged - start, loaded - judged, opened - loaded, ready - opened, live - ready, ready - judged, ready - start];
                for (step, time) in times[place].iter_mut().zip(steps) {
                    step.push(time);
                }
            }
        }
    }
    print!("{:<24} {:>10}", "image", "code");
    STEPS.iter().for_each(|step| print!(" {step:>15}"));
    println!();
    for ((steps, size), (_, name)) in times.iter_mut().zip(sizes).zip(&images) {
        print!("{name:<24} {:>7.1} MB", size as f64 / 1e6);
        steps.iter_mut().for_each(|step| print!(" {:>12.1} µs", median(step)));
        println!();
    }
    Ok(())
}
