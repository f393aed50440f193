//! The harness against systems of known behaviour.

use preheat_bench::harness::{self, Failure, PageCache, Plan, Sample, System};
use preheat_bench::process::ProcessSystem;
use preheat_bench::report::{Machine, Report, ratio};
use preheat_bench::workload::Workload;
use std::cell::RefCell;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

const PLAN: Plan = Plan { rounds: 9, warmups: 2, leads: 0, limit_seconds: 0.5, budget_seconds: 60.0, page_cache: PageCache::Hot };

struct Files {
    _dir: tempfile::TempDir,
    workload: Workload,
}

fn workload() -> Files {
    let dir = tempfile::tempdir().unwrap();
    let stdin = dir.path().join("input");
    std::fs::write(&stdin, "question").unwrap();
    let workload = Workload {
        name: "fake".into(),
        wasm: PathBuf::from("none"),
        args: Vec::new(),
        stdin,
        dirs: Vec::new(),
        expected: b"answer".to_vec(),
    };
    Files { _dir: dir, workload }
}

fn shell(name: &str, script: &'static str) -> Box<dyn System> {
    Box::new(ProcessSystem::new(
        name,
        "1",
        |_| Ok(Vec::new()),
        move |_| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        },
    ))
}

/// Takes exactly as long as it says, on its own clock, and notes when it ran.
struct Known {
    name: &'static str,
    seconds: f64,
    log: Rc<RefCell<Vec<&'static str>>>,
}

impl System for Known {
    fn name(&self) -> String {
        self.name.into()
    }

    fn version(&self) -> String {
        "1".into()
    }

    fn prepare(&mut self, _: &Workload) -> Result<(), Failure> {
        Ok(())
    }

    fn measure(&mut self, _: &Workload, _: Duration) -> Result<Sample, Failure> {
        self.log.borrow_mut().push(self.name);
        // A machine whose speed drifts: everything takes longer and longer.
        let drift = 1.0 + self.log.borrow().len() as f64 / 100.0;
        Ok(Sample { seconds: self.seconds * drift, exit: 0, output: b"answer".to_vec() })
    }
}

#[test]
fn runs_that_lead_to_one_that_counts_are_of_the_same_system_and_do_not_count() {
    let files = workload();
    let log = Rc::default();
    let known = |name| -> Box<dyn System> { Box::new(Known { name, seconds: 1e-6, log: Rc::clone(&log) }) };
    let plan = Plan { rounds: 4, warmups: 1, leads: 2, ..PLAN };
    let cells = harness::run("hot", &files.workload, &mut [known("one"), known("two")], &plan, &mut |_, _| ());
    assert!(cells.iter().all(|cell| cell.seconds.len() == 4 && cell.failure.is_none()));
    let log = log.borrow();
    assert_eq!(log.len(), 2 * 5 * 3);
    assert!(log.as_chunks::<3>().0.iter().all(|turn| turn.iter().all(|name| *name == turn[0])), "{log:?}");
}

#[test]
fn systems_run_in_turns_and_ratios_survive_drift() {
    let files = workload();
    let log = Rc::default();
    let known = |name, seconds| -> Box<dyn System> { Box::new(Known { name, seconds, log: Rc::clone(&log) }) };
    let mut systems = [known("slow", 0.004), known("fast", 0.001), known("middle", 0.002)];
    let cells = harness::run("s", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    assert!(cells.iter().all(|cell| cell.seconds.len() == 9 && cell.failure.is_none()));
    let log = log.borrow();
    assert_eq!(log.len(), 33, "two rounds to warm up and nine that count");
    let mut orders = std::collections::BTreeSet::new();
    for round in log.chunks(3) {
        let mut each = round.to_vec();
        each.sort_unstable();
        assert_eq!(each, ["fast", "middle", "slow"], "each runs once a round");
        orders.insert(round.to_vec());
    }
    assert!(orders.len() > 1, "not always behind the same neighbour");
    let ratio = ratio(&cells, "s", "fake", "fast", "slow").unwrap();
    assert!((ratio.median - 0.25).abs() < 0.01, "{ratio:?}");
}

#[test]
fn a_process_of_known_latency_is_measured() {
    let files = workload();
    let mut systems = [shell("quick", "printf answer"), shell("sleeps", "sleep 0.1; printf answer")];
    let cells = harness::run("s", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    let median = |index: usize| cells[index].estimate.unwrap().median;
    // What was asked for is the lower bound; how much more it takes is the machine's business.
    assert!(median(1) >= 0.1 && median(0) < median(1), "{} {}", median(0), median(1));
    assert!(cells[1].seconds.iter().all(|seconds| *seconds >= 0.1));
}

#[test]
fn systems_do_not_inherit_what_makes_runtimes_capture_stacks() {
    let files = workload();
    // With it set for the whole test process this would be racy; the system sets it as a caller's shell would, before the harness starts it.
    let inherits: Box<dyn System> = Box::new(ProcessSystem::new(
        "inherits",
        "",
        |_| Ok(Vec::new()),
        |_| {
            let mut command = Command::new("/bin/sh");
            command.env("RUST_BACKTRACE", "1").args(["-c", "test -z \"$RUST_BACKTRACE\" && printf answer"]);
            command
        },
    ));
    let cells = harness::run("s", &files.workload, &mut [inherits], &PLAN, &mut |_, _| {});
    assert_eq!(cells[0].failure, None);
}

#[test]
fn failures_are_told_apart_and_do_not_stop_the_others() {
    let files = workload();
    let absent: Box<dyn System> = Box::new(ProcessSystem::new("absent", "", |_| Ok(Vec::new()), |_| Command::new("/no/such/program")));
    let mut systems = [
        shell("good", "read -r line; test \"$line\" = question && printf answer"),
        shell("crash", "kill -SEGV $$"),
        shell("timeout", "sleep 30"),
        shell("wrong", "printf answex"),
        shell("code", "printf answer; exit 3"),
        absent,
    ];
    let cells = harness::run("s", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    let failure = |index: usize| cells[index].failure.clone();
    assert_eq!((failure(0), cells[0].seconds.len()), (None, 9));
    assert_eq!(failure(1), Some(Failure::Crash("signal 11".into())));
    assert!(matches!(failure(2), Some(Failure::Timeout(_))), "{:?}", failure(2));
    assert_eq!(failure(3), Some(Failure::WrongOutput("6 bytes instead of 6, different from byte 5 on".into())));
    assert_eq!(failure(4), Some(Failure::Failed("exit code 3".into())));
    assert!(matches!(failure(5), Some(Failure::Absent(_))), "{:?}", failure(5));
    assert!(cells[1..].iter().all(|cell| cell.seconds.is_empty() && cell.estimate.is_none()));
}

#[test]
fn a_failure_in_a_later_round_takes_the_earlier_results_with_it() {
    struct Flaky(usize);
    impl System for Flaky {
        fn name(&self) -> String {
            "flaky".into()
        }
        fn version(&self) -> String {
            "1".into()
        }
        fn prepare(&mut self, _: &Workload) -> Result<(), Failure> {
            Ok(())
        }
        fn measure(&mut self, _: &Workload, _: Duration) -> Result<Sample, Failure> {
            self.0 += 1;
            Ok(Sample { seconds: 0.001, exit: 0, output: if self.0 == 7 { b"?".to_vec() } else { b"answer".to_vec() } })
        }
    }
    let files = workload();
    let mut systems: [Box<dyn System>; 1] = [Box::new(Flaky(0))];
    let cells = harness::run("s", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    assert!(matches!(cells[0].failure, Some(Failure::WrongOutput(_))) && cells[0].seconds.is_empty());
}

#[test]
fn the_budget_cuts_rounds_but_never_below_three() {
    let files = workload();
    let mut systems: [Box<dyn System>; 1] = [Box::new(Known { name: "slow", seconds: 1000.0, log: Rc::default() })];
    let cells = harness::run("s", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    assert_eq!(cells[0].seconds.len(), 3);
}

#[test]
fn reports_lead_back_and_mark_noise_and_losses() {
    let files = workload();
    let log = Rc::default();
    let mut systems: [Box<dyn System>; 3] = [
        Box::new(Known { name: "base", seconds: 0.001, log: Rc::clone(&log) }),
        Box::new(Known { name: "slower", seconds: 0.002, log: Rc::clone(&log) }),
        shell("wrong", "printf no"),
    ];
    let cells = harness::run("cold", &files.workload, &mut systems, &PLAN, &mut |_, _| {});
    let mut report = Report { schema: 1, machine: Machine::here(), plan: PLAN, cells };
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    let text = report.to_markdown();
    assert!(text.contains("| fake | slower |") && text.contains("| 1.98 |"), "{text}");
    assert!(text.contains("| fake | wrong | wrong output"), "{text}");
    report.cells[0].estimate.as_mut().unwrap().high = 1.0;
    assert!(report.to_markdown().contains("(noisy)"));
}
