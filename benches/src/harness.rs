//! The way of measuring: systems run in turns, round after round, on the same program and input; a wrong output is no result.

use crate::stats::Estimate;
use crate::workload::Workload;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Something that can run a workload.
pub trait System {
    /// Its name in reports.
    fn name(&self) -> String;

    /// Its version, as it says itself.
    fn version(&self) -> String;

    /// Gets ready for a workload: compiles, loads, whatever is not part of what is measured.
    ///
    /// # Errors
    /// When it can't run this workload.
    fn prepare(&mut self, workload: &Workload) -> Result<(), Failure>;

    /// Runs the workload once, from the beginning that the scenario names to the last byte of output.
    ///
    /// # Errors
    /// When it crashes, takes longer than `limit`, or can't.
    fn measure(&mut self, workload: &Workload, limit: Duration) -> Result<Sample, Failure>;

    /// The files that it reads in a run; their state in the page cache is brought about before each.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// One run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The exit code.
    pub exit: i32,
    /// Standard output.
    pub output: Vec<u8>,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "kind", content = "what", rename_all = "kebab-case")]
pub enum Failure {
    /// It is not on this machine.
    #[error("absent: {0}")]
    Absent(String),
    /// It can't run this workload.
    #[error("not possible: {0}")]
    Unfit(String),
    /// It ended by a signal.
    #[error("crashed: {0}")]
    Crash(String),
    /// It took too long.
    #[error("no answer within {0} s")]
    Timeout(String),
    /// It answered something else than it should.
    #[error("wrong output: {0}")]
    WrongOutput(String),
    /// It ended with an exit code other than 0.
    #[error("failed: {0}")]
    Failed(String),
}

/// State of the page cache for the files that a system reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PageCache {
    /// Read before the first run, so in memory.
    Hot,
    /// Written back and dropped before each run.
    Cold,
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Rounds that count; in each, every system runs once.
    pub rounds: usize,
    /// Rounds before those, which don't.
    pub warmups: usize,
    /// Runs of a system right before each of its runs that counts, which don't: with some, it finds the processor's caches as it left them itself,
    /// not as the other systems did.
    #[serde(default)]
    pub leads: usize,
    /// Longest time for one run, in seconds.
    pub limit_seconds: f64,
    /// Longest time for all counted rounds together, in seconds; a slow workload gets fewer rounds, but at least three.
    pub budget_seconds: f64,
    /// State of the page cache.
    pub page_cache: PageCache,
}

/// A system's result on a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cell {
    /// What was measured, such as `cold`.
    pub scenario: String,
    /// The workload.
    pub workload: String,
    /// The system.
    pub system: String,
    /// Its version.
    pub version: String,
    /// Seconds of each counted round, in order; rounds of all systems of one scenario and workload correspond.
    pub seconds: Vec<f64>,
    /// The median of those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// Measures all `systems` on `workload`. A system that fails once is out; the others go on. `progress` is told the round.
pub fn run(
    scenario: &str,
    workload: &Workload,
    systems: &mut [Box<dyn System + '_>],
    plan: &Plan,
    progress: &mut dyn FnMut(usize, usize),
) -> Vec<Cell> {
    let limit = Duration::try_from_secs_f64(plan.limit_seconds).unwrap_or(Duration::MAX);
    let mut cells: Vec<Cell> = systems
        .iter_mut()
        .map(|system| Cell {
            scenario: scenario.to_owned(),
            workload: workload.name.clone(),
            system: system.name(),
            version: system.version(),
            seconds: Vec::new(),
            estimate: None,
            failure: system.prepare(workload).err(),
        })
        .collect();
    for system in systems.iter() {
        for file in system.files() {
            warm(&file);
        }
    }
    let mut spent = 0.0;
    let mut order = Order::new(systems.len());
    for round in 0..plan.warmups + plan.rounds {
        let counts = round >= plan.warmups;
        if counts && round - plan.warmups >= 3 && spent > plan.budget_seconds {
            break;
        }
        progress(round, plan.warmups + plan.rounds);
        for index in order.next_round() {
            let (system, cell) = (&mut systems[index], &mut cells[index]);
            if cell.failure.is_some() {
                continue;
            }
            if plan.page_cache == PageCache::Cold {
                system.files().iter().for_each(|file| drop_from_cache(file));
            }
            let leads = (0..plan.leads).try_for_each(|_| system.measure(workload, limit).map(|_| ()));
            match leads.and_then(|()| system.measure(workload, limit)).and_then(|sample| check(workload, sample)) {
                Ok(seconds) if counts => {
                    spent += seconds;
                    cell.seconds.push(seconds);
                }
                Ok(_) => {}
                Err(failure) => cell.failure = Some(failure),
            }
        }
    }
    for cell in &mut cells {
        if cell.failure.is_some() {
            cell.seconds.clear();
        }
        cell.estimate = Estimate::of(&cell.seconds);
    }
    cells
}

fn check(workload: &Workload, sample: Sample) -> Result<f64, Failure> {
    if sample.exit != 0 {
        return Err(Failure::Failed(format!("exit code {}", sample.exit)));
    }
    if sample.output != workload.expected {
        let at = sample.output.iter().zip(&workload.expected).position(|(a, b)| a != b);
        let at = at.unwrap_or(sample.output.len().min(workload.expected.len()));
        return Err(Failure::WrongOutput(format!(
            "{} bytes instead of {}, different from byte {at} on",
            sample.output.len(),
            workload.expected.len()
        )));
    }
    Ok(sample.seconds)
}

/// The order of the systems in each round: a new permutation each time, the same in every run of the harness, so that none always runs
/// behind the same neighbour.
struct Order {
    indices: Vec<usize>,
    state: u64,
}

impl Order {
    fn new(count: usize) -> Self {
        Self { indices: (0..count).collect(), state: 0x9e37_79b9_7f4a_7c15 }
    }

    fn next_round(&mut self) -> Vec<usize> {
        // Fisher and Yates, driven by xorshift64 (Marsaglia, 2003).
        for last in (1..self.indices.len()).rev() {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let other = usize::try_from(self.state % (last as u64 + 1)).unwrap_or(0);
            self.indices.swap(last, other);
        }
        self.indices.clone()
    }
}

/// Reads a file, so that it is in the page cache.
fn warm(file: &Path) {
    if let Ok(mut file) = std::fs::File::open(file) {
        // A file that can't be read here will be reported by the system that needs it.
        let _ = std::io::copy(&mut file, &mut std::io::sink());
    }
}

/// Writes a file's dirty pages back and drops it from the page cache.
fn drop_from_cache(file: &Path) {
    use rustix::fs::{Advice, fadvise};
    if let Ok(file) = std::fs::File::open(file) {
        let _ = file.sync_all();
        let _ = fadvise(&file, 0, None, Advice::DontNeed);
    }
}
