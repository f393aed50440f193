//! `preheat profile`: what runs of a module teach.

mod apply;
mod combine;
mod record;
mod share;
mod show;

use super::Global;
use anyhow::Context as _;
pub(super) use apply::shown as shown_ratio;
use clap::{Args, Subcommand};
use preheat::BuildError;
use preheat::profile::{Profile as Contributions, Rules, Summary};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

/// Record, show, unite, compare, apply and share profiles: what runs of a module teach the compiler
#[derive(Args)]
#[command(after_help = "A profile steers how fast code is and never what it does. `build --profile` uses one.

Examples:
  preheat profile record app.wasm --input a.json --input b.json -o app.profile
  preheat profile show app.profile --wasm app.wasm
  preheat profile merge monday.profile tuesday.profile -o week.profile
  preheat build app.wasm --profile week.profile --tag app:v2
  preheat profile apply app:v1 --profile week.profile --requests ./requests --tag app:v1
                                                   only if recorded requests show that it is faster and does the same
  preheat profile push app.profile cache.example/team
  preheat profile pull cache.example/team --wasm app.wasm -o app.summary")]
pub(crate) struct Profile {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Record(record::Record),
    Show(show::Show),
    Merge(combine::Merge),
    Diff(combine::Diff),
    Apply(apply::Apply),
    Push(share::Push),
    Pull(share::Pull),
}

impl Profile {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Record(command) => command.execute(global),
            Action::Show(command) => command.execute(global),
            Action::Merge(command) => command.execute(global),
            Action::Diff(command) => command.execute(global),
            Action::Apply(command) => command.execute(global),
            Action::Push(command) => command.execute(global),
            Action::Pull(command) => command.execute(global),
        }
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Why a file is not what it should be.
fn bad(path: &Path, what: impl std::fmt::Display) -> BuildError {
    BuildError::Input { name: path.display().to_string(), what: what.to_string() }
}

/// Reads a file whole.
fn read_input(path: &Path) -> Result<Vec<u8>, BuildError> {
    std::fs::read(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

/// Reads a file whole, but none that is larger than a profile may be.
fn read(path: &Path) -> Result<Vec<u8>, BuildError> {
    let size = std::fs::metadata(path).map_err(|source| BuildError::Read { path: path.to_owned(), source })?.len();
    let most = preheat::profile::MAX_SIZE as u64;
    if size > most {
        return Err(bad(path, format!("no profile: it has {size} bytes, and a profile has at most {most}")));
    }
    read_input(path)
}

/// A profile with its contributions.
fn contributions(path: &Path) -> Result<Contributions, BuildError> {
    Contributions::parse(&read(path)?).map_err(|error| bad(path, error))
}

/// What a file says as a whole: a summary, or a profile whose contributions are added up as of now.
pub(super) fn summary(path: &Path) -> anyhow::Result<Summary> {
    let bytes = read(path)?;
    if let Ok(summary) = Summary::parse(&bytes) {
        return Ok(summary);
    }
    let profile = Contributions::parse(&bytes).map_err(|error| bad(path, error))?;
    // At the time of the newest one, so that the same profile always gives the same code.
    let newest = profile.contributions().values().map(|contribution| contribution.at).max().unwrap_or(0);
    Ok(profile.evaluate(&Rules::new(newest)).map_err(|error| bad(path, error))?)
}

/// Writes a file as a whole or not at all.
fn write(path: &PathBuf, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("can't write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(failed)?;
    file.write_all(bytes).with_context(failed)?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}
