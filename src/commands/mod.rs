//! The subcommands, one file each: a struct that clap fills, and `execute`.

mod audit;
mod bench;
mod build;
mod cache;
mod completions;
mod demo;
mod diff_key;
mod doctor;
mod gc;
mod inspect;
mod key;
mod login;
mod ls;
mod names;
mod profile;
mod pull;
mod push;
mod rebuild;
mod rm;
mod root;
mod run;
mod tag;
mod trust;
mod verify;

use clap::{Args, Parser, Subcommand};
use preheat::remote::{BuildCache, Remote, Settings};
use preheat::{CpuLevel, Directory, EngineChoice, Home, Optimize, Passes};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Makes functions start hot: compiles Wasm ahead of time into signed images, and runs them without a compiler in the way.
#[derive(Parser)]
#[command(name = "preheat", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "Examples:
  preheat run app.wasm -- input.txt        build if needed, then run
  preheat build app.wasm --tag app:v1      build and name an image
  preheat run app:v1 < request.json        run it, with nothing compiled
  preheat demo                             see what it is about

The store is in $PREHEAT_HOME, else $XDG_DATA_HOME/preheat, else ~/.local/share/preheat.
Exit codes: 0 done, 2 usage, 120 not found, 121 bad input, 122 damaged or not trusted, 123 not possible here,
124 deadline, 125 other failure, 126 storage, 127 cache not reached, 134 trap. `run` otherwise ends with the guest's own code.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every subcommand.
#[derive(Args, Clone)]
pub(crate) struct Global {
    /// Directory of store, key and trust policy
    #[arg(long, global = true, env = "PREHEAT_HOME", value_name = "DIR", hide_env_values = true)]
    home: Option<PathBuf>,
    /// Answer in JSON, for machines
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl Global {
    pub(crate) fn home(&self) -> Result<Home, preheat::StoreError> {
        match self.home.as_deref().filter(|home| !home.as_os_str().is_empty()) {
            Some(home) => Ok(Home::at(std::path::absolute(home).unwrap_or_else(|_| home.to_owned()))),
            None => Home::from_env(),
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Command {
    Build(build::Build),
    Run(run::Run),
    Inspect(inspect::Inspect),
    Ls(ls::Ls),
    Tag(tag::Tag),
    Rm(rm::Rm),
    Push(push::PushCommand),
    Pull(pull::Pull),
    Prefetch(pull::Prefetch),
    Export(pull::Export),
    Import(pull::Import),
    Names(names::Names),
    Promote(names::Promote),
    Rollback(names::Rollback),
    Login(login::Login),
    Cache(cache::Cache),
    Profile(profile::Profile),
    Gc(gc::Gc),
    Verify(verify::Verify),
    Audit(audit::Audit),
    Rebuild(rebuild::Rebuild),
    Key(key::Key),
    Trust(trust::Trust),
    Root(root::Root),
    DiffKey(diff_key::DiffKey),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Completions(completions::Completions),
}

impl Command {
    pub(crate) fn execute(self, global: Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Build(command) => command.execute(&global),
            Self::Run(command) => command.execute(&global),
            Self::Inspect(command) => command.execute(&global),
            Self::Ls(command) => command.execute(&global),
            Self::Tag(command) => command.execute(&global),
            Self::Rm(command) => command.execute(&global),
            Self::Push(command) => command.execute(&global),
            Self::Pull(command) => command.execute(&global),
            Self::Prefetch(command) => command.execute(&global),
            Self::Export(command) => command.execute(&global),
            Self::Import(command) => command.execute(&global),
            Self::Names(command) => command.execute(&global),
            Self::Promote(command) => command.execute(&global),
            Self::Rollback(command) => command.execute(&global),
            Self::Login(command) => command.execute(&global),
            Self::Cache(command) => command.execute(&global),
            Self::Profile(command) => command.execute(&global),
            Self::Gc(command) => command.execute(&global),
            Self::Verify(command) => command.execute(&global),
            Self::Audit(command) => command.execute(&global),
            Self::Rebuild(command) => command.execute(&global),
            Self::Key(command) => command.execute(&global),
            Self::Trust(command) => command.execute(&global),
            Self::Root(command) => command.execute(&global),
            Self::DiffKey(command) => command.execute(&global),
            Self::Doctor(command) => command.execute(&global),
            Self::Demo(command) => command.execute(),
            Self::Bench(command) => command.execute(&global),
            Self::Completions(command) => command.execute(),
        }
    }
}

/// Options with which images are built, by `build` and by a `run` that builds.
#[derive(Args, Clone)]
pub(crate) struct BuildOptions {
    /// CPU levels to compile for, of v1, v2, v3, v4 [default: v2,v3]
    #[arg(long, value_delimiter = ',', value_name = "LEVELS")]
    cpu: Vec<CpuLevel>,
    /// Engine that runs the code; auto: native where it can, else wasmtime
    #[arg(long, value_name = "auto|native|wasmtime", default_value_t = preheat::DEFAULT_ENGINE)]
    engine: EngineChoice,
    /// How hard to optimise
    #[arg(long, value_enum, default_value_t = OptimizeArg::Speed)]
    optimize: OptimizeArg,
    /// Profile of the module, or of another build of it, that steers the compiler; see `preheat profile`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// What the profile is used for, of layout, blocks, inline, calls, tables [default: all but calls]
    #[arg(long, value_delimiter = ',', value_name = "PASSES", requires = "profile", value_parser = parse_pass)]
    passes: Option<Vec<String>>,
    /// Namespace for which the builder signs
    #[arg(long, default_value = preheat_image::reference::DEFAULT_NAMESPACE, value_name = "NAME")]
    namespace: String,
    /// Ask no cache: compile what is not here
    #[arg(long)]
    offline: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum OptimizeArg {
    Speed,
    Size,
    None,
}

impl BuildOptions {
    fn apply(&self, mut builder: preheat::Builder) -> anyhow::Result<preheat::Builder> {
        if let Some(path) = &self.profile {
            let passes = match &self.passes {
                Some(names) => names.iter().fold(Passes::NONE, |passes, name| passes.with(name, true).unwrap_or(passes)),
                None => Passes::USUAL,
            };
            builder = builder.profile(Arc::new(profile::summary(path)?), passes);
        }
        let levels = if self.cpu.is_empty() { preheat::DEFAULT_LEVELS.to_vec() } else { self.cpu.clone() };
        let optimize = match self.optimize {
            OptimizeArg::Speed => Optimize::Speed,
            OptimizeArg::Size => Optimize::Size,
            OptimizeArg::None => Optimize::None,
        };
        Ok(builder.levels(levels).engine(self.engine).optimize(optimize).namespace(&self.namespace))
    }
}

/// The caches that builds ask and bring to, if the settings name any.
struct Shared(Option<Arc<BuildCache>>);

impl Shared {
    fn of(home: &Home, options: &BuildOptions) -> anyhow::Result<Self> {
        // Without a look at the settings first, each build would start an executor for nothing.
        let used = !options.offline && Settings::of(home)?.caches().iter().any(|cache| cache.builds);
        Ok(Self(if used { Some(Arc::new(BuildCache::new(Remote::new(home)?))) } else { None }))
    }

    fn apply(&self, builder: preheat::Builder) -> preheat::Builder {
        match &self.0 {
            Some(caches) => builder.caches(Arc::clone(caches)),
            None => builder,
        }
    }

    /// Brings what was compiled to the caches that want it, and says what went wrong with any. None of that is a failure of the build.
    fn finish(&self, built: &preheat::Built, namespace: &str) {
        let Some(caches) = &self.0 else { return };
        if built.compiled() > 0 {
            caches.push(&built.digest, namespace);
        }
        for warning in caches.warnings() {
            eprintln!("preheat: warning: {warning}");
        }
    }
}

/// Reads `NAME=VALUE`.
fn parse_pass(text: &str) -> Result<String, String> {
    let known = Passes::NAMES.contains(&text) || text == "none";
    known.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is none of {}, none", Passes::NAMES.join(", ")))
}

/// Directories as options have them, `HOST[::GUEST]`: those that a guest may write to, and those that it may only read.
fn directories(dir: &[String], ro_dir: &[String]) -> Vec<Directory> {
    let directory = |dir: &String, writable| {
        let (host, guest) = dir.split_once("::").unwrap_or((dir, dir));
        Directory { host: PathBuf::from(host), guest: guest.to_owned(), writable }
    };
    let writable = dir.iter().map(|dir| directory(dir, true));
    writable.chain(ro_dir.iter().map(|dir| directory(dir, false))).collect()
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn levels_are_a_list() {
        let cli = Cli::try_parse_from(["preheat", "build", "--cpu", "v2,x86-64-v4", "a.wasm"]).unwrap_or_else(|error| panic!("{error}"));
        let Command::Build(build) = cli.command else { panic!("not build") };
        assert_eq!(build.options.cpu, [CpuLevel::V2, CpuLevel::V4]);
        assert!(Cli::try_parse_from(["preheat", "build", "--cpu", "native", "a.wasm"]).is_err());
    }
}
