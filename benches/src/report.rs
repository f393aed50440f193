//! Reports: raw figures as JSON, and a table for people.

use crate::harness::{Cell, Plan};
use crate::stats::{Estimate, paired_ratio};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// Relative half width of the confidence interval from which on a figure is marked as noisy.
pub const NOISY: f64 = 0.05;

/// Everything that a run of the benchmark found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of this schema, 1.
    pub schema: u32,
    /// The machine, by its properties.
    pub machine: Machine,
    /// How much was measured.
    pub plan: Plan,
    /// The results.
    pub cells: Vec<Cell>,
}

/// A machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// The CPU's own name.
    pub cpu: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Kernel name and release.
    pub kernel: String,
    /// Load over the last minute when the run began, in hundredths of a processor.
    pub load_percent: u64,
}

impl Machine {
    /// The machine under this process.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
        let info = rustix::system::sysinfo();
        let name = rustix::system::uname();
        Self {
            cpu: cpu.unwrap_or_else(|| "unknown".into()),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_bytes: info.totalram.saturating_mul(u64::from(info.mem_unit)),
            kernel: format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
            // The kernel gives loads as fixed-point numbers with 16 bits behind the point.
            load_percent: info.loads[0].saturating_mul(100) >> 16,
        }
    }

    /// All of it in a line.
    #[must_use]
    pub fn to_text(&self) -> String {
        format!(
            "{} processors ({}), {:.0} GiB, {}; load {}.{:02} at the start",
            self.processors,
            self.cpu,
            self.memory_bytes as f64 / f64::from(1 << 30),
            self.kernel,
            self.load_percent / 100,
            self.load_percent % 100,
        )
    }
}

/// The result of one system by that of another, over the rounds that both have.
#[must_use]
pub fn ratio(cells: &[Cell], scenario: &str, workload: &str, ours: &str, theirs: &str) -> Option<Estimate> {
    let find = |system: &str| cells.iter().find(|cell| cell.scenario == scenario && cell.workload == workload && cell.system == system);
    paired_ratio(&find(ours)?.seconds, &find(theirs)?.seconds)
}

fn time(seconds: f64) -> String {
    let (value, unit) = match seconds {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

impl Report {
    /// A Markdown table for each scenario: a row a workload and system, with the ratio to the first system of that workload that has a
    /// result.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let cache = if self.plan.page_cache == crate::harness::PageCache::Hot { "hot" } else { "cold" };
        let mut text = format!("{}; page cache {cache}\n", self.machine.to_text());
        let mut scenarios: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !scenarios.contains(&cell.scenario.as_str()) {
                scenarios.push(&cell.scenario);
            }
        }
        for scenario in scenarios {
            let _ = writeln!(
                text,
                "\n### {scenario}\n\n| workload | system | median | 95 % interval | ratio | rounds |\n|---|---|--:|--:|--:|--:|"
            );
            let mut base: Option<(&str, &Cell)> = None;
            for cell in self.cells.iter().filter(|cell| cell.scenario == scenario) {
                if base.is_none_or(|(workload, _)| workload != cell.workload) {
                    base = cell.estimate.map(|_| (cell.workload.as_str(), cell));
                }
                match (&cell.estimate, &cell.failure) {
                    (Some(estimate), _) => {
                        let ratio = base.and_then(|(_, base)| paired_ratio(&cell.seconds, &base.seconds));
                        let ratio = ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median));
                        let noisy = if estimate.noise() > NOISY { " (noisy)" } else { "" };
                        let _ = writeln!(
                            text,
                            "| {} | {} | {}{noisy} | {} to {} | {ratio} | {} |",
                            cell.workload,
                            cell.system,
                            time(estimate.median),
                            time(estimate.low),
                            time(estimate.high),
                            estimate.count,
                        );
                    }
                    (None, Some(failure)) => {
                        let _ = writeln!(text, "| {} | {} | {failure} | | | 0 |", cell.workload, cell.system);
                    }
                    (None, None) => {
                        let _ = writeln!(text, "| {} | {} | not measured | | | 0 |", cell.workload, cell.system);
                    }
                }
            }
        }
        text
    }
}
