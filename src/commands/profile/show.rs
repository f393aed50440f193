use super::{read_input, summary};
use crate::commands::Global;
use crate::ui;
use clap::Args;
use preheat::profile::{SiteCounts, Summary};
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show the hottest functions of a profile, and where it is from
#[derive(Args)]
#[command(after_help = "A share is of all blocks that ran, as far as they were counted.

Examples:
  preheat profile show app.profile --wasm app.wasm
  preheat profile show app.profile --wasm next.wasm      also says how much of it another build can use")]
pub(crate) struct Show {
    /// Profile, or summary of one
    file: PathBuf,
    /// The module, for the names of its functions; or another build of it
    #[arg(long, value_name = "FILE")]
    wasm: Option<PathBuf>,
    /// How many functions to show
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    top: usize,
}

impl Show {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let of_file = summary(&self.file)?;
        let (mut profile, mut carried, mut names) = (of_file, None, HashMap::new());
        if let Some(path) = &self.wasm {
            let bytes = read_input(path)?;
            let wasm = preheat::wasm_of(&path.display().to_string(), &bytes)?;
            names = preheat::function_names(&wasm);
            let (other, how) = preheat::carry_over(&profile, &wasm).map_err(anyhow::Error::msg)?;
            carried = (other.source() != profile.source()).then_some(how);
            profile = other;
        }
        let origin = profile.provenance();
        let (called, listed) = profile.coverage();
        let shares = profile.shares();
        let name = |index: u32| names.get(&index).cloned();
        if global.json {
            let functions: Vec<_> = shares
                .iter()
                .take(self.top)
                .map(|(index, share)| json!({ "function": index, "name": name(*index), "share": share, "calls": calls(&profile, *index) }))
                .collect();
            ui::print_json(&json!({
                "source": profile.source(),
                "digest": profile.digest(),
                "contributors": origin.contributors, "contributions": origin.contributions, "calls": origin.calls,
                "oldest": origin.oldest, "newest": origin.newest,
                "functions": functions, "called": called, "listed": listed,
                "carriedOver": carried.map(|carried| {
                    json!({ "share": carried.share, "sameBody": carried.same_body, "sameShape": carried.same_shape })
                }),
            }));
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("module   {}", profile.source());
        ui::say!("profile  {}", profile.digest());
        let dates = (ui::date(origin.oldest), ui::date(origin.newest));
        ui::say!(
            "from     {} contributors, {} contributions, {} calls, {} to {}",
            origin.contributors,
            origin.contributions,
            origin.calls,
            dates.0,
            dates.1
        );
        ui::say!("has      {called} functions that were called");
        if let Some(carried) = carried {
            ui::say!(
                "matched  {:.1} % of what was counted: {} functions with the same body, {} of the same shape",
                carried.share * 100.0,
                carried.same_body,
                carried.same_shape
            );
        }
        let mut rows = vec![vec!["share".to_owned(), "of calls".into(), "function".into()]];
        let all: u64 = profile.functions().values().fold(0, |all, function| all.saturating_add(function.entries));
        for (index, share) in shares.iter().take(self.top) {
            let entered = calls(&profile, *index) as f64 / all.max(1) as f64;
            let shown = name(*index).map_or_else(|| format!("function {index}"), |name| format!("{name} ({index})"));
            rows.push(vec![format!("{:.2} %", share * 100.0), format!("{:.2} %", entered * 100.0), shown]);
        }
        ui::print(&ui::table(&rows));
        let sites = profile.functions().values().flat_map(|function| &function.sites);
        let (mut calls, mut expected) = (0usize, 0usize);
        for site in sites {
            if let SiteCounts::Indirect { reached, targets } = &site.counts
                && *reached > 0
            {
                calls += 1;
                expected += usize::from(targets.first().is_some_and(|(_, count)| count.saturating_mul(8) > reached.saturating_mul(7)));
            }
        }
        ui::say!("{expected} of {calls} indirect calls nearly always call the same function");
        Ok(ExitCode::SUCCESS)
    }
}

fn calls(profile: &Summary, index: u32) -> u64 {
    profile.function(index).map_or(0, |function| function.entries)
}
