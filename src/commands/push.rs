use super::Global;
use crate::ui;
use clap::Args;
use preheat::remote::{Location, OciPushed, OciReference, Push, Remote};
use preheat::{Home, KeyFile};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Bring an image to a cache: what it lacks, and nothing else
#[derive(Args)]
#[command(
    after_help = "The image must have been built for the namespace (`build --namespace`). Its name in the cache is moved if the key of a namer is
here: --namer-key, or keys/namer.json in the store's directory. Without, others get it by its digest.

Examples:
  preheat push app:v1 cache.example/team/app:v1
  preheat push app:v1 cache.example/team          by digest only
  preheat push app:v1 cache.example/team/app:v1 --namer-key namer.json"
)]
pub(crate) struct PushCommand {
    /// Name or digest of an image in the local store; for a registry also a Wasm file
    image: String,
    /// Where to: host/namespace[/name[:tag]], or oci://registry/repository[:tag]
    #[arg(value_name = "PLACE")]
    to: Place,
    /// Key file of a namer of the namespace
    #[arg(long, value_name = "FILE")]
    namer_key: Option<PathBuf>,
    /// How long the namespace's names count from now on, such as 30d
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME", default_value = "30d")]
    names_last: Duration,
}

/// A place in a cache or in a registry.
#[derive(Clone)]
pub(super) enum Place {
    Cache(Location),
    Registry(OciReference),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("oci://") {
            text.parse().map(Self::Registry).map_err(|error: preheat::remote::InvalidOciReference| error.to_string())
        } else {
            text.parse().map(Self::Cache).map_err(|error: preheat::remote::RemoteError| error.to_string())
        }
    }
}

/// The key of the namer: the one that was named, else the one of the home, if it is there.
pub(super) fn namer(home: &Home, given: Option<&Path>) -> anyhow::Result<Option<KeyFile>> {
    match given {
        Some(path) => Ok(Some(KeyFile::read(path)?)),
        None => match KeyFile::read(&home.root().join("keys/namer.json")) {
            Err(error) if error.is_missing() => Ok(None),
            read => Ok(read.map(Some)?),
        },
    }
}

impl PushCommand {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let to = match &self.to {
            Place::Cache(to) => to.clone(),
            Place::Registry(to) => return self.to_registry(global, &home, to),
        };
        let image = home.store()?.resolve_text(&self.image)?;
        let namer = namer(&home, self.namer_key.as_deref())?;
        let remote = Remote::new(&home)?;
        let bar = ui::TransferBar::new("pushing");
        let push = Push { image, to: to.clone(), namer: namer.as_ref().map(|key| key as _), names_last: self.names_last.as_secs() };
        let pushed = remote.push(&push, &bar);
        bar.finish();
        let pushed = pushed?;
        if global.json {
            ui::print_json(&json!({
                "image": image, "place": to.to_string(), "blobs": pushed.blobs, "bytes": pushed.bytes, "known": pushed.known,
                "statements": pushed.statements, "names": pushed.names,
            }));
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("{} blobs, {}; {} were there; {} statements", pushed.blobs, ui::bytes(pushed.bytes), pushed.known, pushed.statements);
        match (&to.name, pushed.names) {
            (Some(_), Some(number)) => eprintln!("{to} (names, number {number})"),
            (Some(name), None) => eprintln!("`{name}` was not moved: no key of a namer is here; a namer can `preheat promote` it"),
            (None, _) => {}
        }
        ui::say!("{image}");
        Ok(ExitCode::SUCCESS)
    }

    fn to_registry(&self, global: &Global, home: &Home, to: &OciReference) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(home)?;
        let bar = ui::TransferBar::new("pushing");
        let file = Path::new(&self.image);
        let pushed = if file.extension().is_some_and(|extension| extension == "wasm") {
            remote.push_wasm(file, to, &bar)
        } else {
            remote.push_oci(&home.store()?.resolve_text(&self.image)?, to, &bar)
        };
        bar.finish();
        report_oci(global, &pushed?);
        Ok(ExitCode::SUCCESS)
    }
}

/// Says what was brought to a registry or a layout.
pub(super) fn report_oci(global: &Global, pushed: &OciPushed) {
    let moved = &pushed.moved;
    if global.json {
        ui::print_json(&json!({ "manifest": pushed.digest, "blobs": moved.blobs, "bytes": moved.bytes, "known": moved.there }));
    } else {
        eprintln!("{} blobs, {}; {} were there", moved.blobs, ui::bytes(moved.bytes), moved.there);
        ui::say!("{}", pushed.digest);
    }
}
