use super::{Global, audit};
use crate::{exit, ui};
use clap::Args;
use preheat::store::Affected;
use preheat::{Digest, Rebuild as Rebuilder, TrustError};
use preheat_image::statement::Kind;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Build again what is revoked or whose builder's time is over, and move the local names to it
#[derive(Args)]
#[command(after_help = "Takes the sources that images kept (`preheat build --keep-source`) or that are given here, this compiler and this
builder's present key. Ends with 122 when something could not be built again. What was replaced goes with `preheat gc`.

Examples:
  preheat rebuild --revoked --dry-run
  preheat rebuild --revoked
  preheat rebuild --revoked app:v1 --source app.wasm")]
pub(crate) struct Rebuild {
    /// Names or digests of images [default: all that are affected]
    images: Vec<String>,
    /// What `preheat audit` lists
    #[arg(long, required = true)]
    revoked: bool,
    /// Wasm file of an image that did not keep its source; repeatable
    #[arg(long, value_name = "FILE")]
    source: Vec<PathBuf>,
    /// Say that you looked at the images: rebuild also what only revoked or expired keys of others vouch for
    #[arg(long, requires = "images")]
    vouch: bool,
    /// Only say what would be built
    #[arg(long)]
    dry_run: bool,
}

impl Rebuild {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let home = global.home()?;
        let mut rebuild = Rebuilder::new(&home)?;
        for path in &self.source {
            let read = |source| preheat::BuildError::Read { path: path.clone(), source };
            rebuild.source(&path.display().to_string(), std::fs::read(path).map_err(read)?)?;
        }
        if self.vouch {
            rebuild.vouch();
        }
        let store = home.store()?;
        let chosen: Vec<Digest> = self.images.iter().map(|image| store.resolve_text(image)).collect::<Result<_, _>>()?;
        let affected = |affected: &&Affected| affected.kind == Kind::Image && (chosen.is_empty() || chosen.contains(&affected.digest));
        let affected: Vec<&Affected> = rebuild.audit().affected.iter().filter(affected).collect();
        if let Some(good) = chosen.iter().find(|digest| !affected.iter().any(|affected| affected.digest == **digest)) {
            return Err(TrustError::Usage(format!("{good} is not affected; `preheat audit` lists what is")).into());
        }
        let mut open = 0usize;
        let mut rows = Vec::new();
        for affected in affected {
            if self.dry_run {
                let check = rebuild.check(affected);
                open += usize::from(check.is_err());
                match &check {
                    _ if global.json => rows.push(audit::shown(affected, &check)),
                    Ok(()) => ui::say!("{}: would be built again", audit::label(affected)),
                    Err(why) => ui::say!("{}: can't be built again: {why}", audit::label(affected)),
                }
                continue;
            }
            let spinner = ui::spinner(format!("building {}", affected.digest.short()));
            let rebuilt = rebuild.rebuild(affected);
            spinner.finish_and_clear();
            open += usize::from(rebuilt.outcome.is_err());
            match &rebuilt.outcome {
                Ok((built, moved)) if global.json => {
                    rows.push(json!({ "digest": affected.digest, "image": built.digest, "compiled": built.compiled(), "moved": moved }));
                }
                Err(why) if global.json => rows.push(json!({ "digest": affected.digest, "image": null, "whyNot": why })),
                Ok((built, moved)) => {
                    ui::say!("{}: now {}", audit::label(affected), built.digest);
                    moved.iter().for_each(|name| ui::say!("      moved {}", name.escape_debug()));
                }
                Err(why) => ui::say!("{}: not built again: {why}", audit::label(affected)),
            }
        }
        if global.json {
            ui::print_json(&json!({ "dryRun": self.dry_run, "open": open, "images": rows }));
        }
        Ok(if open == 0 { ExitCode::SUCCESS } else { ExitCode::from(exit::REFUSED) })
    }
}
