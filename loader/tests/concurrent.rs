//! Many threads, many processes, and processes that are killed.

mod common;

use common::{Env, Recipe, reference, run};
use preheat_image::CpuLevel;
use preheat_loader::store::Collection;
use preheat_loader::{Home, LoadOptions, Store};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const WORKERS: usize = 8;
const ROUNDS: usize = 5;
/// Where a child process finds the home, and which worker it is.
const CHILD_HOME: &str = "PREHEAT_TEST_HOME";
const CHILD_WORKER: &str = "PREHEAT_TEST_WORKER";

/// Images that all workers build, and images that only this one does. Every one shares code with others.
fn recipe(worker: usize, round: usize) -> (String, Recipe) {
    let label = if round.is_multiple_of(2) { format!("shared-{round}") } else { format!("own-{worker}-{round}") };
    let code = vec![(CpuLevel::V1, vec![7; 20_000]), (CpuLevel::V2, format!("code of {label}").into_bytes())];
    (label.clone(), Recipe { code, ..Recipe::new(&label) })
}

/// Publishes and names each image, while collectors may be about.
fn work(home: &Home, store: &Store, worker: usize, rounds: usize) {
    let (key, policy) = (home.builder_key().unwrap(), home.trust().unwrap());
    for round in 0..rounds {
        let (label, recipe) = recipe(worker, round);
        let mut publication = store.publish().unwrap();
        let made = recipe.put(&mut publication, &key).unwrap();
        // Before the publication ends, since afterwards an image without name may be collected.
        store.tag(&reference(&label), &made.image).unwrap();
        publication.finish().unwrap();
        assert_eq!(run(store, &policy, &made.image, LoadOptions::default()).unwrap(), format!("code of {label}").into_bytes());
    }
}

fn check(env: &Env, workers: usize) {
    for worker in 0..workers {
        for round in 0..ROUNDS {
            let (label, _) = recipe(worker, round);
            let image = env.store.resolve(&reference(&label)).unwrap();
            assert_eq!(env.run(&image).unwrap(), format!("code of {label}").into_bytes());
        }
    }
    let report = env.verify();
    assert_eq!(report.problems, []);
    assert_eq!(report.temp_files, 0);
    let named: std::collections::BTreeSet<_> = env.store.names().unwrap().into_iter().map(|name| name.digest).collect();
    assert!(named.iter().all(|image| env.image_digests().contains(image)));
}

/// Collects and verifies until it is told to stop.
fn tidy(env: &Env, done: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !done.load(Ordering::Relaxed) || rounds == 0 {
        env.store.collect(&Collection::default()).unwrap();
        assert_eq!(env.verify().problems, [], "while others publish");
        rounds += 1;
    }
    rounds
}

#[test]
fn threads_publish_while_one_collects_and_verifies() {
    let env = Env::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tidying = scope.spawn(|| tidy(&env, &done));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let env = &env;
                scope.spawn(move || work(&env.home, &env.store, worker, ROUNDS))
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok) && tidying.join().unwrap() > 0);
    });
    check(&env, WORKERS);
}

fn child(test: &str, home: &Path, worker: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_HOME, home)
        .env(CHILD_WORKER, worker.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// In a child process: the home to work in, and the worker's number.
fn as_child() -> Option<(Home, usize)> {
    let home = std::env::var_os(CHILD_HOME)?;
    Some((Home::at(home), std::env::var(CHILD_WORKER).unwrap().parse().unwrap()))
}

#[test]
fn processes_publish_while_one_collects_and_verifies() {
    if let Some((home, worker)) = as_child() {
        // All of them also make the store and the key, since nobody did before.
        return work(&home, &home.store().unwrap(), worker, ROUNDS);
    }
    let dir = tempfile::tempdir().unwrap();
    let test = "processes_publish_while_one_collects_and_verifies";
    let children: Vec<Child> = (0..WORKERS).map(|worker| child(test, dir.path(), worker)).collect();
    let env = Env::at(dir);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let tidying = scope.spawn(|| tidy(&env, &done));
        let results: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(|status| status.success()), "{results:?}");
        assert!(tidying.join().unwrap() > 0);
    });
    check(&env, WORKERS);
}

#[test]
fn killed_builders_leave_a_whole_store() {
    if let Some((home, worker)) = as_child() {
        // Until it is killed.
        for round in 0.. {
            let label = format!("{worker}-{round}");
            let store = home.store().unwrap();
            let made = Recipe::new(&label).publish(&store, &home.builder_key().unwrap()).unwrap();
            store.tag(&reference(&label), &made.image).unwrap();
        }
    }
    let env = Env::new();
    for worker in 0..30 {
        let mut child = child("killed_builders_leave_a_whole_store", env.dir.path(), worker);
        // Let it begin, then kill it at a moment that differs from one to the next.
        let first = reference(&format!("{worker}-0"));
        if worker % 2 == 0 {
            while env.store.resolve(&first).is_err() {
                assert!(child.try_wait().unwrap().is_none(), "a builder gave up");
                std::thread::yield_now();
            }
        }
        std::thread::sleep(std::time::Duration::from_micros(1700 * worker as u64 % 9000));
        child.kill().unwrap();
        child.wait().unwrap();
        let report = env.verify();
        assert_eq!(report.problems, []);
        let listed = env.image_digests();
        for name in env.store.names().unwrap() {
            assert!(env.run(&name.digest).is_ok() && listed.contains(&name.digest), "{}", name.name);
        }
    }
    env.store.collect(&Collection::default()).unwrap();
    let report = env.verify();
    assert_eq!((report.problems, report.temp_files), (Vec::new(), 0));
    assert!(report.names >= 15, "those that were let begin");
}
