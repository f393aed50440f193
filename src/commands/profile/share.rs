use super::{contributions, write};
use crate::commands::Global;
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use preheat::Digest;
use preheat::remote::{ProfilePlace, Remote, Weighing};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Bring what runs taught to a cache, which adds it up with what others bring
#[derive(Args)]
#[command(
    after_help = "Each contribution counts as from whoever brings it: the cache puts the name of the token, and the time, in the place of what the file says.
It takes the right `write-blob`. A profile stays in its namespace; see docs/profiles.md for what it reveals.

Examples:
  preheat profile push app.profile cache.example/team
  preheat profile push app.profile cache.example            the namespace `default`"
)]
pub(crate) struct Push {
    /// Profile with contributions
    file: PathBuf,
    /// Where to: host[/namespace]
    #[arg(value_name = "PLACE")]
    to: ProfilePlace,
}

impl Push {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let profile = contributions(&self.file)?;
        let remote = Remote::new(&global.home()?)?;
        let spinner = ui::spinner(format!("bringing {} to {}", self.file.display(), self.to));
        let pushed = remote.push_profile(&self.to, &profile);
        spinner.finish_and_clear();
        let pushed = pushed?;
        if global.json {
            ui::print_json(&json!({
                "source": profile.source(), "place": self.to.to_string(), "contributions": pushed.contributions, "bytes": pushed.bytes,
                "known": pushed.known,
            }));
        } else {
            ui::say!("{} contributions, {}; {} were there", pushed.contributions, ui::bytes(pushed.bytes), pushed.known);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Get what the contributions in a cache say together, for `build --profile`
#[derive(Args)]
#[command(after_help = "The same contributions give the same summary, so a build with it is the same build.

Examples:
  preheat profile pull cache.example/team --wasm app.wasm -o app.summary
  preheat build app.wasm --profile app.summary --tag app:v2
  preheat profile pull cache.example/team --source sha256:4f2a… --half-life 3d -o app.summary")]
pub(crate) struct Pull {
    /// Where from: host[/namespace]
    #[arg(value_name = "PLACE")]
    from: ProfilePlace,
    /// The module
    #[arg(long, value_name = "FILE", required_unless_present = "source", conflicts_with = "source")]
    wasm: Option<PathBuf>,
    /// The module's digest
    #[arg(long, value_name = "DIGEST")]
    source: Option<Digest>,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// After how long a contribution weighs half, such as 3d; 0s for never [default: what the cache does, 14d]
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME")]
    half_life: Option<Duration>,
    /// The most that one contributor weighs, in requests; 0 for no such bound [default: what the cache does, 10000]
    #[arg(long, value_name = "REQUESTS")]
    cap: Option<u64>,
}

impl Pull {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let source = match (&self.wasm, self.source) {
            (Some(path), _) => {
                let bytes = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
                Digest::of(&preheat::wasm_of(&path.display().to_string(), &bytes)?)
            }
            (None, source) => source.context("no module is given")?,
        };
        let remote = Remote::new(&global.home()?)?;
        let weighing = Weighing { half_life: self.half_life.map(|time| time.as_secs()), cap: self.cap };
        let spinner = ui::spinner(format!("asking {}", self.from));
        let pulled = remote.pull_profile(&self.from, &source, &weighing);
        spinner.finish_and_clear();
        let (summary, report) = pulled?;
        write(&self.output, &summary.bytes)?;
        if global.json {
            let mut value = serde_json::to_value(&report)?;
            value["place"] = self.from.to_string().into();
            value["file"] = self.output.display().to_string().into();
            ui::print_json(&value);
            return Ok(ExitCode::SUCCESS);
        }
        ui::say!("module   {source}");
        ui::say!("profile  {}, generation {}", report.digest, report.generation);
        let dates = (ui::date(report.oldest), ui::date(report.newest));
        ui::say!(
            "from     {} contributors, {} contributions, {} calls, {} to {}",
            report.contributors,
            report.contributions,
            report.calls,
            dates.0,
            dates.1
        );
        ui::say!("has      {} functions that were called, of {} of which something is known", report.called, report.functions);
        let uncounted = report.skipped + report.evicted + report.left_out;
        if uncounted > 0 {
            eprintln!(
                "{uncounted} contributions do not count: {} are no profiles of the module or damaged, {} were evicted, {} were too much",
                report.skipped, report.evicted, report.left_out
            );
        }
        ui::say!("{}, {}", self.output.display(), ui::bytes(report.size));
        Ok(ExitCode::SUCCESS)
    }
}
