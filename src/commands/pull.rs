use super::push::{self, Place};
use super::{BuildOptions, Global};
use crate::ui;
use clap::Args;
use preheat::remote::{Location, OciPulled, PullCode, Pulled, Remote};
use preheat::{Builder, Home, Reference};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Get an image from a cache: what is missing here, and nothing else
#[derive(Args)]
#[command(after_help = "Pulling trusts nobody by itself: who vouches for the image must be trusted before (`preheat trust add`).

Examples:
  preheat pull cache.example/team/app:v1
  preheat pull cache.example/team@sha256:4f2a…
  preheat pull oci://registry.example/team/app:v1 --tag app:v1    a Wasm file there is built")]
pub(crate) struct Pull {
    /// What to get: host/namespace/name[:tag], host/namespace@sha256:…, or oci://registry/repository[:tag]
    #[arg(value_name = "PLACE")]
    from: Place,
    /// Name for it in the local store; repeatable
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Vec<Reference>,
    /// Bring the code for all CPUs, not only what this host would run: for mirrors, and to push the image on
    #[arg(long)]
    all_cpus: bool,
    /// How a Wasm file that comes from a registry is built
    #[command(flatten)]
    options: BuildOptions,
}

/// Put an image into an OCI layout directory, for other tools or another machine
#[derive(Args)]
#[command(after_help = "Examples:
  preheat export app:v1 ./layout --name app:v1
  skopeo copy oci:layout:app:v1 docker://registry.example/team/app:v1")]
pub(crate) struct Export {
    /// Name or digest of an image in the local store
    image: String,
    /// The directory; made if nothing is there
    dir: PathBuf,
    /// Its name in the layout
    #[arg(long)]
    name: Option<String>,
}

/// Get an image, or a Wasm file to be built, out of an OCI layout directory
#[derive(Args)]
#[command(
    after_help = "Importing trusts nobody by itself, as pulling does not.\n\nExamples:\n  preheat import ./layout --name app:v1 --tag app:v1"
)]
pub(crate) struct Import {
    /// The directory
    dir: PathBuf,
    /// Its name in the layout, if there are several
    #[arg(long)]
    name: Option<String>,
    /// Name for it in the local store; repeatable
    #[arg(long, short, value_name = "REFERENCE")]
    tag: Vec<Reference>,
    #[command(flatten)]
    options: BuildOptions,
}

/// Get all images of a namespace, so that they are here before they are asked for
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat prefetch cache.example/team")]
pub(crate) struct Prefetch {
    /// The namespace: host/namespace
    #[arg(value_name = "PLACE")]
    from: Location,
    /// Bring the code for all CPUs, not only what this host would run
    #[arg(long)]
    all_cpus: bool,
}

fn code(all_cpus: bool) -> PullCode {
    if all_cpus { PullCode::All } else { PullCode::ForHost }
}

/// What `--json` says of a pull.
pub(super) fn report(place: &str, pulled: &Pulled) -> serde_json::Value {
    json!({
        "image": pulled.digest, "place": place, "blobs": pulled.blobs, "bytes": pulled.bytes, "known": pulled.known,
        "leftOut": pulled.left_out, "offline": pulled.offline,
    })
}

/// What people are told of a pull.
pub(super) fn tell(pulled: &Pulled) {
    if let Some(why) = &pulled.offline {
        eprintln!("warning: by the names that were seen last: {why}");
    }
    let left_out = if pulled.left_out > 0 { format!("; {} for other CPUs were left there", pulled.left_out) } else { String::new() };
    eprintln!("{} blobs, {}; {} were here{left_out}", pulled.blobs, ui::bytes(pulled.bytes), pulled.known);
}

impl Pull {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let remote = Remote::new(&home)?;
        let bar = ui::TransferBar::new("pulling");
        let code = code(self.all_cpus);
        let (place, pulled) = match &self.from {
            Place::Cache(from) => (from.to_string(), remote.pull(from, code, &bar).map(OciPulled::Image)),
            Place::Registry(from) => (from.to_string(), remote.pull_oci(from, code, &bar)),
        };
        bar.finish();
        keep(global, &home, &place, pulled?, &self.tag, &self.options)
    }
}

impl Export {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let image = home.store()?.resolve_text(&self.image)?;
        let bar = ui::TransferBar::new("exporting");
        let exported = Remote::new(&home)?.export(&image, &self.dir, self.name.as_deref(), &bar);
        bar.finish();
        push::report_oci(global, &exported?);
        Ok(ExitCode::SUCCESS)
    }
}

impl Import {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let bar = ui::TransferBar::new("importing");
        let imported = Remote::new(&home)?.import(&self.dir, self.name.as_deref(), &bar);
        bar.finish();
        keep(global, &home, &self.dir.display().to_string(), imported?, &self.tag, &self.options)
    }
}

/// Builds what has to be built, gives it its names, and says what came.
fn keep(
    global: &Global,
    home: &Home,
    place: &str,
    pulled: OciPulled,
    tags: &[Reference],
    options: &BuildOptions,
) -> anyhow::Result<ExitCode> {
    let pulled = match pulled {
        OciPulled::Image(pulled) => {
            let store = home.store()?;
            tags.iter().try_for_each(|tag| store.tag(tag, &pulled.digest))?;
            pulled
        }
        OciPulled::Wasm(wasm) => {
            let title = wasm.title.as_deref().and_then(|title| Path::new(title).file_stem()?.to_str());
            let builder = tags.iter().fold(options.apply(Builder::new(home)?)?, |builder, tag| builder.tag(tag.clone()));
            let built = builder.build_bytes(title.unwrap_or("function"), &wasm.bytes)?;
            Pulled { digest: built.digest, blobs: 1, bytes: wasm.bytes.len() as u64, known: 0, left_out: 0, offline: None }
        }
    };
    if global.json {
        ui::print_json(&report(place, &pulled));
    } else {
        tell(&pulled);
        ui::say!("{}", pulled.digest);
    }
    Ok(ExitCode::SUCCESS)
}

impl Prefetch {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let bar = ui::TransferBar::new("pulling");
        let all = remote.prefetch(&self.from, code(self.all_cpus), &bar);
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
