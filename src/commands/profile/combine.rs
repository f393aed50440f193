use super::{contributions, summary, write};
use crate::commands::Global;
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Unite profiles of the same module: all their contributions, each once
#[derive(Args)]
#[command(after_help = "The order does not matter, and what is in several of them counts once.

Example:
  preheat profile merge monday.profile tuesday.profile -o week.profile")]
pub(crate) struct Merge {
    /// Profiles
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

impl Merge {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut files = self.files.iter();
        let first = files.next().context("no profile is given")?;
        let mut united = contributions(first)?;
        for path in files {
            united = united.union(&contributions(path)?).with_context(|| format!("{} can't be added", path.display()))?;
        }
        let bytes = united.to_bytes();
        write(&self.output, &bytes)?;
        let count = united.contributions().len();
        if global.json {
            ui::print_json(&json!({ "source": united.source(), "contributions": count, "bytes": bytes.len(), "file": self.output }));
        } else {
            ui::say!("{} has {count} contributions, {}", self.output.display(), ui::bytes(bytes.len() as u64));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Say in which functions two profiles of a module differ
#[derive(Args)]
#[command(after_help = "Example:
  preheat profile diff monday.profile tuesday.profile")]
pub(crate) struct Diff {
    /// A profile
    one: PathBuf,
    /// Another
    other: PathBuf,
    /// How many functions to show
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    top: usize,
}

impl Diff {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (one, other) = (summary(&self.one)?, summary(&self.other)?);
        anyhow::ensure!(one.source() == other.source(), "{} is of another module than {}", self.other.display(), self.one.display());
        let diff = preheat::profile::diff(&one, &other);
        if global.json {
            let rows: Vec<_> =
                diff.functions.iter().take(self.top).map(|row| json!({ "function": row.index, "one": row.a, "other": row.b })).collect();
            ui::print_json(&json!({ "overlap": diff.overlap, "functions": rows }));
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("overlap  {:.1} %", diff.overlap * 100.0);
        let mut rows = vec![vec!["one".to_owned(), "other".into(), "function".into()]];
        for row in diff.functions.iter().take(self.top) {
            rows.push(vec![format!("{:.2} %", row.a * 100.0), format!("{:.2} %", row.b * 100.0), row.index.to_string()]);
        }
        ui::print(&ui::table(&rows));
        Ok(ExitCode::SUCCESS)
    }
}
