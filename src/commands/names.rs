use super::{Global, push};
use crate::ui;
use anyhow::Context as _;
use clap::Args;
use preheat::Digest;
use preheat::remote::{Location, NameChange, Remote};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Show the names of a cache's namespace, as its namers signed them
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat names cache.example/team\n  preheat names cache.example/team --history")]
pub(crate) struct Names {
    /// The namespace: host/namespace
    #[arg(value_name = "PLACE")]
    at: Location,
    /// Show the latest moves too
    #[arg(long)]
    history: bool,
}

/// How a move is signed.
#[derive(Args)]
pub(crate) struct Signing {
    /// Key file of a namer of the namespace [default: keys/namer.json of the store's directory]
    #[arg(long, value_name = "FILE")]
    namer_key: Option<PathBuf>,
    /// How long the namespace's names count from now on, such as 30d
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME", default_value = "30d")]
    names_last: Duration,
}

/// Make a name of a cache lead to an image that is there
#[derive(Args)]
#[command(
    after_help = "Within a namespace. For another one, build again for it: whoever promotes then says so with a signature of their own.

Examples:
  preheat promote cache.example/team/app:stable app:v7
  preheat promote cache.example/team/app:stable sha256:4f2a…"
)]
pub(crate) struct Promote {
    /// The name to move: host/namespace/name[:tag]
    #[arg(value_name = "PLACE")]
    place: Location,
    /// Where it shall lead: another name of the namespace, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    #[command(flatten)]
    signing: Signing,
}

/// Make a name of a cache lead to where it led before
#[derive(Args)]
#[command(after_help = "Examples:\n  preheat rollback cache.example/team/app:stable")]
pub(crate) struct Rollback {
    /// The name to move: host/namespace/name[:tag]
    #[arg(value_name = "PLACE")]
    place: Location,
    /// Remove the name instead
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    signing: Signing,
}

impl Names {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let answer = Remote::new(&global.home()?)?.names(&self.at)?;
        let names = &answer.names;
        if global.json {
            ui::print_json(&json!({ "offline": answer.offline, "snapshot": names }));
            return Ok(ExitCode::SUCCESS);
        }
        if let Some(why) = &answer.offline {
            eprintln!("warning: these names were seen last: {why}");
        }
        let rows: Vec<_> = names.names.iter().map(|(name, digest)| vec![name.clone(), digest.to_string()]).collect();
        ui::print(&ui::table(&rows));
        if self.history {
            let place = |digest: Option<Digest>| digest.map_or_else(|| "-".into(), |digest| digest.short());
            let rows: Vec<_> = names
                .moves
                .iter()
                .map(|one| {
                    vec![
                        format!("{}", one.number),
                        format!("{:?}", one.kind).to_lowercase(),
                        one.name.clone(),
                        place(one.from),
                        place(one.to),
                    ]
                })
                .collect();
            ui::print(&ui::table(&rows));
        }
        eprintln!("number {}, counts until {} (seconds since 1970)", names.number, names.expires);
        Ok(ExitCode::SUCCESS)
    }
}

impl Signing {
    fn change(&self, global: &Global, remote: &Remote, place: &Location, change: &NameChange) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let namer = push::namer(&home, self.namer_key.as_deref())?
            .context("no key of a namer is here: give --namer-key, or ask a namer of the namespace to move the name")?;
        let names = remote.change(place, change, &namer, self.names_last.as_secs())?;
        let leads = place.name.as_ref().and_then(|name| names.names.get(name).copied());
        if global.json {
            ui::print_json(&json!({ "place": place.to_string(), "image": leads, "number": names.number, "expires": names.expires }));
        } else {
            ui::say!("{place}  {}", leads.map_or_else(|| "removed".into(), |digest| digest.to_string()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name_of(place: &Location) -> anyhow::Result<String> {
    place.name.clone().with_context(|| format!("`{place}` has no name: host/namespace/name[:tag]"))
}

impl Promote {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let name = name_of(&self.place)?;
        let to = match self.image.parse::<Digest>() {
            Ok(digest) => digest,
            Err(_) => {
                let wanted = preheat::remote::with_tag(&self.image);
                let names = remote.names(&self.place)?.names.names;
                *names
                    .get(&wanted)
                    .with_context(|| format!("`{wanted}` is neither a digest nor a name of {}/{}", self.place.host, self.place.namespace))?
            }
        };
        self.signing.change(global, &remote, &self.place, &NameChange::Promote { name, to })
    }
}

impl Rollback {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let remote = Remote::new(&global.home()?)?;
        let name = name_of(&self.place)?;
        let change = if self.remove { NameChange::Remove { name } } else { NameChange::RollBack { name } };
        self.signing.change(global, &remote, &self.place, &change)
    }
}
