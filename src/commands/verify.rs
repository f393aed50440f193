use super::Global;
use crate::{exit, ui};
use clap::Args;
use serde_json::json;
use std::process::ExitCode;

/// Hash every blob again, check every statement, follow every name
#[derive(Args)]
#[command(after_help = "Ends with 122 when something is wrong and was not repaired.\n\nExample:\n  preheat verify --repair")]
pub(crate) struct Verify {
    /// Put damaged blobs aside and remove records and names that lead to nothing
    #[arg(long)]
    repair: bool,
}

impl Verify {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let store = home.store()?;
        let bar = ui::byte_bar(0, "hashing");
        let report = store.verify(&home.trust()?, self.repair, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        let report = report?;
        let open = report.problems.iter().filter(|problem| problem.repaired.is_none()).count();
        if global.json {
            let problems: Vec<_> = report
                .problems
                .iter()
                .map(|problem| json!({ "path": problem.path, "what": problem.what, "repaired": problem.repaired }))
                .collect();
            ui::print_json(&json!({
                "whole": open == 0, "blobs": report.blobs, "bytes": report.bytes, "records": report.records,
                "signatures": report.signatures, "unknownSigners": report.unknown_signers, "names": report.names,
                "tempFiles": report.temp_files, "indexRebuilt": report.index_rebuilt, "problems": problems,
            }));
        } else {
            for problem in &report.problems {
                let done = problem.repaired.map_or_else(String::new, |done| format!(" ({done})"));
                ui::say!("{}: {}{done}", problem.path.display(), problem.what);
            }
            ui::say!(
                "{} blobs ({}), {} records, {} signatures, {} names: {}",
                report.blobs,
                ui::bytes(report.bytes),
                report.records,
                report.signatures,
                report.names,
                if open == 0 { "whole".to_owned() } else { format!("{open} problems; `preheat verify --repair` puts damage aside") },
            );
            if report.unknown_signers > 0 {
                ui::say!("{} statements are by builders whom the trust policy does not know", report.unknown_signers);
            }
        }
        Ok(if open == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) })
    }
}
