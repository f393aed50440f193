use super::Global;
use crate::ui;
use clap::Args;
use preheat::remote::{Location, Pulled, Remote};
use serde_json::json;
use std::process::ExitCode;

/// Get an image from a cache: what is missing here, and nothing else
#[derive(Args)]
#[command(after_help = "Pulling trusts nobody by itself: who vouches for the image must be trusted before (`preheat trust add`).

Examples:
  preheat pull cache.example/team/app:v1
  preheat pull cache.example/team@sha256:4f2a…")]
pub(crate) struct Pull {
    /// What to get: host/namespace/name[:tag], or host/namespace@sha256:…
    #[arg(value_name = "PLACE")]
    from: Location,
}

/// Get all images of a namespace, so that they are here before they are asked for
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat prefetch cache.example/team")]
pub(crate) struct Prefetch {
    /// The namespace: host/namespace
    #[arg(value_name = "PLACE")]
    from: Location,
}

/// What `--json` says of a pull.
pub(super) fn report(place: &str, pulled: &Pulled) -> serde_json::Value {
    json!({
        "image": pulled.digest, "place": place, "blobs": pulled.blobs, "bytes": pulled.bytes, "known": pulled.known,
        "offline": pulled.offline,
    })
}

/// What people are told of a pull.
pub(super) fn tell(pulled: &Pulled) {
    if let Some(why) = &pulled.offline {
        eprintln!("warning: by the names that were seen last: {why}");
    }
    eprintln!("{} blobs, {}; {} were here", pulled.blobs, ui::bytes(pulled.bytes), pulled.known);
}

impl Pull {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let bar = ui::TransferBar::new("pulling");
        let pulled = remote.pull(&self.from, &bar);
        bar.finish();
        let pulled = pulled?;
        if global.json {
            ui::print_json(&report(&self.from.to_string(), &pulled));
        } else {
            tell(&pulled);
            ui::say!("{}", pulled.digest);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Prefetch {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let bar = ui::TransferBar::new("pulling");
        let all = remote.prefetch(&self.from, &bar);
        bar.finish();
        let all = all?;
        if global.json {
            let images: Vec<_> = all.iter().map(|(place, pulled)| report(place, pulled)).collect();
            ui::print_json(&json!({ "images": images }));
        } else {
            for (place, pulled) in &all {
                ui::say!("{place}  {}  {} blobs, {}", pulled.digest, pulled.blobs, ui::bytes(pulled.bytes));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
