//! Processes that are killed and processes that meet: the store stays whole.

mod common;

use common::{Home, hello};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// xorshift64 (Marsaglia, 2003): the same moments in every run.
fn random(state: &AtomicU64) -> u64 {
    let mut x = state.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    state.store(x, Ordering::Relaxed);
    x
}

#[test]
fn builds_killed_at_random_moments_leave_a_whole_store() {
    const BUILDS: u32 = 200;
    let home = Home::new();
    home.write("first.wat", hello("first", 0));
    home.ok(["build", "first.wat", "--tag", "first"]);
    home.write("timed.wat", hello("timed", 0));
    let started = Instant::now();
    home.ok(["build", "timed.wat"]);
    let usual = started.elapsed();

    let state = AtomicU64::new(0x2545_f491_4f6c_dd1d);
    let mut acknowledged = Vec::new();
    let mut killed = 0;
    for number in 0..BUILDS {
        let (name, text) = (format!("b{number}"), format!("build {number}"));
        home.write(&format!("{name}.wat"), hello(&text, 0));
        let mut command = home.command(["build", &format!("{name}.wat"), "--tag", &name]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // Up to a little longer than a build takes, so that every moment has its turn.
        let nanoseconds = u64::try_from(usual.as_nanos()).unwrap() * 5 / 4;
        std::thread::sleep(Duration::from_nanos(random(&state) % nanoseconds));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            acknowledged.push((name, text));
        } else {
            killed += 1;
        }
    }
    assert!(killed > BUILDS / 4, "only {killed} of {BUILDS} were killed in time");
    home.assert_whole();
    for (name, text) in acknowledged {
        assert_eq!(home.run(["run", &name]).stdout, text, "what was acknowledged is there");
    }
    assert_eq!(home.run(["run", "first"]).stdout, "first");
    home.ok(["gc"]);
    home.assert_whole();
    assert_eq!(home.run(["run", "first"]).stdout, "first");
}

#[test]
fn eight_processes_build_and_run_the_same_images_at_once() {
    let home = Home::new();
    for image in 0..3 {
        home.write(&format!("p{image}.wat"), hello(&format!("image {image}"), 0));
    }
    let compiled = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|process| {
                let home = &home;
                scope.spawn(move || {
                    let mut compiled = 0;
                    for round in 0..6 {
                        let image = (process + round) % 3;
                        let report = home.json(["build", &format!("p{image}.wat"), "--tag", &format!("p{image}:{process}")]);
                        compiled += report["compiled"].as_u64().unwrap();
                        assert_eq!(home.run(["run", &format!("p{image}:{process}")]).stdout, format!("image {image}"));
                        if round == process % 6 {
                            home.ok(["gc"]);
                        }
                    }
                    compiled
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
    });
    // Nothing that is named is ever compiled twice; only an image that `gc` took before it had its name is.
    assert!((6..=6 + 2 * 8).contains(&compiled), "{compiled} compilations");
    home.assert_whole();
    assert_eq!(home.json(["ls"])["images"].as_array().unwrap().len(), 3);
}
