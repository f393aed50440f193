//! What the measurements of an engine say: rows, means over them, and how they lie to what is asked.

use crate::report::{Machine, NOISY};
use crate::stats::{Estimate, paired_ratio};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// A kind of rows, which have one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// From a file to an instance, in µs.
    Open,
    /// Taking from a slot and giving back, in µs.
    Slots,
    /// Thread time in a kernel, in ms.
    Kernels,
    /// Thread time in a program, in ms.
    Corpus,
    /// Compiling, in seconds.
    CompileTime,
    /// The same on all threads together, in seconds.
    CompileProcessor,
    /// The largest resident memory of the process that compiled, in MiB.
    CompileMemory,
    /// The code object, in MiB.
    CodeSize,
    /// Thread time in a script, with a profile of another one, in ms.
    Steered,
    /// Thread time in a kernel, with a profile of fewer rounds, in ms.
    SteeredKernels,
    /// Code that a profile steers, in MiB.
    SteeredSize,
    /// Thread time in a script, with one use of the profile less, or one more, in ms.
    Passes,
    /// The same in a kernel, in ms.
    KernelPasses,
}

impl Kind {
    const ALL: [(Self, &str, &str); 13] = [
        (Self::Open, "From a file to an instance", "µs"),
        (Self::Slots, "An instance taken from a slot and given back", "µs"),
        (Self::Kernels, "Kernels in steady state", "ms"),
        (Self::Corpus, "Programs in steady state", "ms"),
        (Self::CompileTime, "Time to compile", "s"),
        (Self::CompileProcessor, "Processor time to compile, all threads", "s"),
        (Self::CompileMemory, "Peak memory to compile", "MiB"),
        (Self::CodeSize, "Code object", "MiB"),
        (Self::Steered, "Scripts, with a profile of another script", "ms"),
        (Self::SteeredKernels, "Kernels, with a profile of fewer rounds", "ms"),
        (Self::SteeredSize, "Code object with a profile", "MiB"),
        (Self::Passes, "Scripts, with one use of the profile less, or one more", "ms"),
        (Self::KernelPasses, "Kernels, with one use of the profile less, or one more", "ms"),
    ];
}

/// Measurements of one thing by several systems.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its kind, which says the unit.
    pub kind: Kind,
    /// What was measured.
    pub name: String,
    /// The systems; the first is what the others are compared with.
    pub systems: Vec<Column>,
}

/// One system's measurements in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Column {
    /// The system's name.
    pub system: String,
    /// One value a round, in order; rounds of all systems correspond.
    pub values: Vec<f64>,
    /// Their median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// The first system by this one, the median over the rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_by_this: Option<Estimate>,
}

/// What was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absent {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

/// A figure that something is asked of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// What it is.
    pub what: String,
    /// The figure.
    pub figure: f64,
    /// Its unit; ratios have none.
    pub unit: String,
    /// At most this is asked.
    pub asked: f64,
    /// Of how many rows it is.
    pub rows: usize,
}

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Version of this schema, 1.
    pub schema: u32,
    /// The machine, by its properties.
    pub machine: Machine,
    /// How many rounds were asked for.
    pub rounds: usize,
    /// The rows.
    pub rows: Vec<Row>,
    /// What is not in them.
    pub absent: Vec<Absent>,
    /// What is asked, and the figures.
    pub lines: Vec<Line>,
}

impl Row {
    pub(super) fn new(kind: Kind, name: impl Into<String>, systems: &[super::System]) -> Self {
        let column =
            |system: &super::System| Column { system: system.name().to_owned(), values: vec![], estimate: None, first_by_this: None };
        Self { kind, name: name.into(), systems: systems.iter().map(column).collect() }
    }

    pub(super) fn push(&mut self, system: usize, value: f64) {
        self.systems[system].values.push(value);
    }

    fn finish(&mut self) {
        let Some((first, others)) = self.systems.split_first_mut() else { return };
        first.estimate = Estimate::of(&first.values);
        for other in others {
            other.estimate = Estimate::of(&other.values);
            other.first_by_this = paired_ratio(&first.values, &other.values);
        }
    }

    fn column(&self, system: super::System) -> Option<&Column> {
        self.systems.iter().find(|column| column.system == system.name())
    }

    fn ratio(&self, system: super::System) -> Option<f64> {
        Some(self.column(system)?.first_by_this?.median)
    }
}

fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

impl Report {
    pub(super) fn new(rounds: usize) -> Self {
        Self { schema: 1, machine: Machine::here(), rounds, rows: vec![], absent: vec![], lines: vec![] }
    }

    pub(super) fn add(&mut self, mut row: Row) {
        row.finish();
        self.rows.push(row);
        self.lines = self.lines();
    }

    pub(super) fn is_absent(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.absent.push(Absent { what: what.into(), why: why.into() });
    }

    fn ratios(&self, kinds: &[Kind], system: super::System) -> Vec<f64> {
        self.rows.iter().filter(|row| kinds.contains(&row.kind)).filter_map(|row| row.ratio(system)).collect()
    }

    fn lines(&self) -> Vec<Line> {
        use super::System::{Epochs, Native, Pagemap, Unchecked, Wasmtime};
        let mut lines = Vec::new();
        for system in [Native, Pagemap] {
            let row = self.rows.iter().find(|row| row.kind == Kind::Slots && row.name == super::starts::ASKED);
            let Some(estimate) = row.and_then(|row| row.column(system)?.estimate) else { continue };
            let what = format!("{}: an instance with {}, taken and given back", system.name(), super::starts::ASKED);
            lines.push(Line { what, figure: estimate.median, unit: "µs".into(), asked: 25.0, rows: 1 });
        }
        let mut ratios = |what: &str, kinds: &[Kind], system, mean: Option<f64>, most: Option<f64>| {
            let ratios = self.ratios(kinds, system);
            if ratios.is_empty() {
                return;
            }
            let mut line = |which: &str, figure: f64, asked: Option<f64>| {
                let what = format!("{what}, {which}");
                lines.extend(asked.map(|asked| Line { what, figure, unit: String::new(), asked, rows: ratios.len() }));
            };
            line("geometric mean", geometric_mean(&ratios), mean);
            line("worst", ratios.iter().copied().fold(0.0, f64::max), most);
        };
        let steady = [Kind::Kernels, Kind::Corpus];
        ratios("steady state by wasmtime", &steady, Wasmtime, Some(1.03), Some(1.10));
        ratios("steady state by wasmtime with epochs", &steady, Epochs, Some(1.03), Some(1.10));
        ratios("time to compile by wasmtime", &[Kind::CompileTime], Wasmtime, None, Some(1.1));
        ratios("peak memory to compile by wasmtime", &[Kind::CompileMemory], Wasmtime, None, Some(1.0));
        ratios("interrupt checks on by off", &steady, Unchecked, Some(1.02), None);
        lines
    }

    /// Markdown: what is asked, then a table for each kind of rows, losses among them, then what is absent.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}; {} rounds\n", self.machine.to_text(), self.rounds);
        if !self.lines.is_empty() {
            text.push_str("\n| what | figure | asked | | rows |\n|---|--:|--:|---|--:|\n");
        }
        for Line { what, figure, unit, asked, rows } in &self.lines {
            let space = if unit.is_empty() { "" } else { " " };
            let met = if figure <= asked { "met" } else { "missed" };
            let _ = writeln!(text, "| {what} | {figure:.3}{space}{unit} | ≤ {asked}{space}{unit} | {met} | {rows} |");
        }
        for (kind, title, unit) in Kind::ALL {
            let rows: Vec<&Row> = self.rows.iter().filter(|row| row.kind == kind).collect();
            // All rows of a kind have the same systems.
            let Some(first) = rows.first() else { continue };
            let _ = write!(text, "\n### {title}\n\nMedians in {unit}.\n\n| what |");
            let by = |index: usize| if index == 0 { "" } else { " first by it |" };
            first.systems.iter().enumerate().for_each(|(index, column)| text.extend([" ", &*column.system, " |", by(index)]));
            let _ = writeln!(text, " rounds |\n|---|{}--:|", "--:|".repeat(first.systems.len() * 2 - 1));
            for row in rows {
                let _ = write!(text, "| {} |", row.name);
                for (index, column) in row.systems.iter().enumerate() {
                    let noisy = if column.estimate.is_some_and(|estimate| estimate.noise() > NOISY) { " (noisy)" } else { "" };
                    let median = column.estimate.map_or_else(String::new, |estimate| figure(estimate.median));
                    let _ = write!(text, " {median}{noisy} |");
                    if index > 0 {
                        let ratio = column.first_by_this.map_or_else(String::new, |ratio| format!("{:.3}", ratio.median));
                        let _ = write!(text, " {ratio} |");
                    }
                }
                let _ = writeln!(text, " {} |", row.systems.first().map_or(0, |column| column.values.len()));
            }
        }
        if !self.absent.is_empty() {
            text.push_str("\nNot measured:\n\n");
        }
        for Absent { what, why } in &self.absent {
            let _ = writeln!(text, "- {what}: {why}");
        }
        text
    }
}

/// Three digits.
fn figure(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::super::System::{Epochs, Native, Pagemap, Unchecked, Wasmtime};
    use super::*;

    fn row(kind: Kind, name: &str, systems: &[(super::super::System, f64)]) -> Row {
        let names: Vec<_> = systems.iter().map(|(system, _)| *system).collect();
        let mut row = Row::new(kind, name, &names);
        for round in 1..=7u32 {
            systems.iter().enumerate().for_each(|(index, (_, value))| row.push(index, value * f64::from(round)));
        }
        row
    }

    #[test]
    fn what_is_asked_is_judged_by_ratios_over_all_rows() {
        let mut report = Report::new(7);
        report.add(row(Kind::Kernels, "a", &[(Native, 1.0), (Wasmtime, 1.0), (Epochs, 2.0), (Unchecked, 0.5)]));
        report.add(row(Kind::Corpus, "b", &[(Native, 4.0), (Wasmtime, 1.0), (Epochs, 4.0), (Unchecked, 4.0)]));
        report.add(row(Kind::CompileMemory, "b", &[(Native, 3.0), (Wasmtime, 4.0)]));
        let find = |what: &str| report.lines.iter().find(|line| line.what == what).map(|line| (line.figure, line.rows));
        assert_eq!(find("steady state by wasmtime, geometric mean"), Some((2.0, 2)));
        assert_eq!(find("steady state by wasmtime, worst"), Some((4.0, 2)));
        assert_eq!(find("peak memory to compile by wasmtime, worst"), Some((0.75, 1)));
        assert!(find("interrupt checks on by off, geometric mean").is_some_and(|(mean, _)| (mean - 2f64.sqrt()).abs() < 1e-9));
        assert_eq!(find("time to compile by wasmtime, worst"), None, "nothing was measured");
        let text = report.to_markdown();
        assert!(text.contains("| steady state by wasmtime, worst | 4.000 | ≤ 1.1 | missed | 2 |"), "{text}");
        assert!(text.contains("| peak memory to compile by wasmtime, worst | 0.750 | ≤ 1 | met | 1 |"), "{text}");
        assert!(text.contains("| what | native | wasmtime | first by it | rounds |\n|---|--:|--:|--:|--:|\n"), "{text}");
        assert!(text.contains("| b | 12.0 (noisy) | 16.0 (noisy) | 0.750 | 7 |\n"), "{text}");
    }

    #[test]
    fn slots_are_judged_by_their_time_on_new_kernels_and_old() {
        let mut report = Report::new(7);
        report.add(row(Kind::Slots, super::super::starts::ASKED, &[(Native, 5.0), (Pagemap, 7.0), (Wasmtime, 9.0)]));
        let figures: Vec<(f64, f64)> = report.lines.iter().map(|line| (line.figure, line.asked)).collect();
        assert_eq!(figures, [(20.0, 25.0), (28.0, 25.0)]);
    }

    #[test]
    fn what_is_absent_is_said_with_the_reason_and_survives_json() {
        let mut report = Report::new(7);
        report.is_absent("kernels", "no clang");
        assert!(report.to_markdown().ends_with("Not measured:\n\n- kernels: no clang\n"));
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
