use super::Global;
use crate::ui;
use clap::Args;
use preheat::store::Collection;
use serde_json::json;
use std::process::ExitCode;
use std::time::Duration;

/// Free the space of images that no name and no pin leads to
#[derive(Args)]
#[command(after_help = "Examples:
  preheat gc --dry-run
  preheat gc --keep-used-within 7d
  preheat gc --set-limit 10G      from now on, builds keep the store below 10 GiB")]
pub(crate) struct Gc {
    /// Keep images without name that were used within this time, such as 7d
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME")]
    keep_used_within: Option<Duration>,
    /// Remove images without name, longest unused first, only until all blobs fit this size
    #[arg(long, value_parser = ui::parse_size, value_name = "SIZE")]
    max_size: Option<u64>,
    /// Keep the store below this size from now on; 0 for no limit
    #[arg(long, value_parser = ui::parse_size, value_name = "SIZE", conflicts_with_all = ["keep_used_within", "max_size", "dry_run"])]
    set_limit: Option<u64>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = global.home()?.store()?;
        if let Some(limit) = self.set_limit {
            store.set_max_bytes((limit > 0).then_some(limit))?;
            return Ok(ExitCode::SUCCESS);
        }
        let collection = Collection {
            keep_used_within: self.keep_used_within.unwrap_or(if self.max_size.is_some() { Duration::MAX } else { Duration::ZERO }),
            max_bytes: self.max_size,
            dry_run: self.dry_run,
        };
        let collected = store.collect(&collection)?;
        if global.json {
            ui::print_json(&json!({
                "dryRun": self.dry_run, "images": collected.images, "blobs": collected.blobs, "bytes": collected.bytes,
                "tempFiles": collected.temp_files, "keptBytes": collected.kept_bytes,
            }));
        } else {
            let what = if self.dry_run { "would free" } else { "freed" };
            ui::say!("{what} {}: {} images, {} blobs", ui::bytes(collected.bytes), collected.images, collected.blobs);
            ui::say!("{} stay", ui::bytes(collected.kept_bytes));
        }
        Ok(ExitCode::SUCCESS)
    }
}
