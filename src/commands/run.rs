use super::{BuildOptions, Global, Shared, build, directories, parse_variable, pull};
use crate::{exit, ui};
use clap::Args;
use preheat::remote::{Location, PullCode, Remote};
use preheat::{Builder, Digest, Home, Input, LoadOptions, Output, Request, RunError, Runtime, StoreError};
use serde_json::json;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Run an image, or a Wasm file, which is built first if needed
#[derive(Args)]
#[command(after_help = "The guest sees only what is granted here. `run` ends with the guest's exit code.

Examples:
  preheat run app.wasm
  preheat run app:v1 --dir ./data::/data --env LANG=C --timeout 2s -- --verbose in.json
  preheat run math.wasm --invoke add 2 3
  preheat run app:v1 --json 2>report.json      the guest's output stays on standard output
  preheat run cache.example/team/app:v1        pulled first, if the store lacks it")]
pub(crate) struct Run {
    /// Wasm file, name or digest of an image
    image: String,
    /// Arguments of the guest
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<String>,
    /// Directory that the guest may read and write; repeatable
    #[arg(long, value_name = "HOST[::GUEST]")]
    dir: Vec<String>,
    /// Directory that the guest may only read; repeatable
    #[arg(long, value_name = "HOST[::GUEST]")]
    ro_dir: Vec<String>,
    /// Environment variable of the guest; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Call this export with ARGS instead of running the command, and print its results
    #[arg(long, value_name = "EXPORT")]
    invoke: Option<String>,
    /// End the guest after this time, such as 500ms or 2s
    #[arg(long, value_parser = ui::parse_time, value_name = "TIME")]
    timeout: Option<Duration>,
    /// Most memory that each of the guest's memories may have, such as 64M
    #[arg(long, value_parser = ui::parse_size, value_name = "SIZE")]
    max_memory: Option<u64>,
    /// Hash the image's blobs again before they are used
    #[arg(long)]
    verify: bool,
    /// When to look up the name of a cache there
    #[arg(long, value_enum, default_value_t = PullWhen::Missing, value_name = "WHEN")]
    pull: PullWhen,
    #[command(flatten)]
    options: BuildOptions,
}

/// What is to be run, and how it came to be there.
struct Found {
    digest: Digest,
    build: Option<serde_json::Value>,
    pulled: Option<serde_json::Value>,
}

/// When the name of a cache is looked up there.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PullWhen {
    /// When the local store does not know it.
    Missing,
    /// At every run.
    Always,
    /// Never.
    Never,
}

impl Run {
    pub(crate) fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let home = global.home()?;
        let store = home.store()?;
        let mut found = self.find(&home)?;
        let found_in = started.elapsed();

        let started = Instant::now();
        let runtime = Runtime::builder().one_shot().build()?;
        let engine_in = started.elapsed();
        let started = Instant::now();
        let options = LoadOptions { rehash: self.verify };
        let mut loaded = runtime.load_from(&store, &found.digest, &home.trust()?, options);
        // A file led to an image that was collected since, or whose code is not there whole: build it again.
        if let (Err(RunError::Store(error)), Some(path)) = (&loaded, self.file())
            && error.is_missing()
        {
            found = self.build(&home, path)?;
            loaded = runtime.load_from(&store, &found.digest, &home.trust()?, options);
        }
        // Its code for this host was left out when it was pulled on another one.
        if let (Err(RunError::Store(StoreError::NoVariant { .. })), Some(place)) = (&loaded, self.place())
            && self.pull == PullWhen::Missing
            && !self.options.offline
        {
            found = Self::fetch(&home, &Location { name: None, digest: Some(found.digest), ..place })?;
            loaded = runtime.load_from(&store, &found.digest, &home.trust()?, options);
        }
        let image = loaded?;
        let loaded_in = started.elapsed();

        if let Some(timeout) = self.timeout {
            watch(timeout);
        }
        let started = Instant::now();
        let (result, outputs) = self.call(&image);
        let ran_in = started.elapsed();
        let code = match &result {
            Ok(code) => *code,
            Err(error) => i32::from(exit::code_of(error)),
        };
        if let Some(outputs) = outputs {
            for output in outputs {
                ui::say!("{output}");
            }
        }
        if let Err(error) = &result {
            exit::report(error);
        }
        if global.json {
            let seconds = |duration: Duration| duration.as_secs_f64();
            let report = json!({
                "image": found.digest,
                "exit": code,
                "error": result.as_ref().err().map(exit::message),
                "compiled": found.build.as_ref().map_or(json!(0), |build| build["compiled"].clone()),
                "build": found.build,
                "pulled": found.pulled,
                "seconds": {
                    "find": seconds(found_in), "engine": seconds(engine_in), "load": seconds(loaded_in), "run": seconds(ran_in),
                },
            });
            eprintln!("{report}");
        }
        Ok(ExitCode::from(exit::of_guest(code)))
    }

    /// The Wasm file that is meant, if a file is meant: it is there, or is written like one.
    fn file(&self) -> Option<&Path> {
        let path = Path::new(&self.image);
        let extension = path.extension().is_some_and(|extension| extension == "wasm" || extension == "wat");
        (extension || self.image.starts_with(['.', '/']) || path.is_file()).then_some(path)
    }

    fn find(&self, home: &Home) -> anyhow::Result<Found> {
        match self.file() {
            Some(path) => {
                let builder = self.options.apply(Builder::new(home)?)?;
                match builder.recall_file(path)? {
                    Some(digest) => Ok(Found { digest, build: None, pulled: None }),
                    None => self.build(home, path),
                }
            }
            None => self.find_named(home),
        }
    }

    /// An image by its name or digest: from the store, or, if it is the name of a cache, from there.
    fn find_named(&self, home: &Home) -> anyhow::Result<Found> {
        let store = home.store()?;
        let found = |digest| Found { digest, build: None, pulled: None };
        let Some(place) = self.place() else { return Ok(found(store.resolve_text(&self.image)?)) };
        if self.pull != PullWhen::Always {
            match store.resolve_text(&self.image) {
                Ok(digest) => return Ok(found(digest)),
                Err(error) if error.is_missing() && self.pull == PullWhen::Missing && !self.options.offline => {}
                Err(error) => return Err(error.into()),
            }
        }
        Self::fetch(home, &place)
    }

    /// The place of a cache that is meant, if one is meant.
    fn place(&self) -> Option<Location> {
        if self.file().is_some() {
            return None;
        }
        self.image.parse().ok().as_ref().and_then(Location::of)
    }

    /// Pulls what this host needs.
    fn fetch(home: &Home, place: &Location) -> anyhow::Result<Found> {
        let bar = ui::TransferBar::new("pulling");
        let pulled = Remote::new(home).and_then(|remote| remote.pull(place, PullCode::ForHost, &bar));
        bar.finish();
        let pulled = pulled?;
        if std::io::stderr().is_terminal() {
            pull::tell(&pulled);
        }
        Ok(Found { digest: pulled.digest, build: None, pulled: Some(pull::report(&place.to_string(), &pulled)) })
    }

    fn build(&self, home: &Home, path: &Path) -> anyhow::Result<Found> {
        let spinner = ui::spinner(format!("building {}", path.display()));
        let shared = Shared::of(home, &self.options)?;
        let built = shared.apply(self.options.apply(Builder::new(home)?)?).build_file(path);
        if let Ok(built) = &built {
            shared.finish(built, &self.options.namespace);
        }
        spinner.finish_and_clear();
        let built = built?;
        Ok(Found { digest: built.digest, build: Some(build::report(&built)), pulled: None })
    }

    fn call(&self, image: &preheat::Image) -> (anyhow::Result<i32>, Option<Vec<String>>) {
        let mut request = Request::new().input(Input::Inherit).stdout(Output::Inherit).stderr(Output::Inherit);
        for directory in directories(&self.dir, &self.ro_dir) {
            request = request.dir(directory);
        }
        for (name, value) in &self.env {
            request = request.env(name, value);
        }
        if let Some(timeout) = self.timeout {
            request = request.timeout(timeout);
        }
        if let Some(max) = self.max_memory {
            request = request.max_memory(usize::try_from(max).unwrap_or(usize::MAX));
        }
        match &self.invoke {
            None => (image.clone().run_last(&request.args(&self.args)).map_err(Into::into), None),
            Some(export) => {
                let results = image.instance(&request).and_then(|mut instance| instance.call_text(export, &self.args));
                match results {
                    Ok(results) => (Ok(0), Some(results)),
                    Err(error) => (Err(error.into()), None),
                }
            }
        }
    }
}

/// Ends the process a little after the deadline. The runtime ends a guest in its loops and its waits, but this process's own output may be a
/// pipe that nobody reads, and then the guest is in neither.
fn watch(timeout: Duration) {
    const GRACE: Duration = Duration::from_millis(300);
    let Some(late) = timeout.checked_add(GRACE) else { return };
    std::thread::spawn(move || {
        std::thread::sleep(late);
        let _ = exit::report(&RunError::Timeout(timeout).into());
        std::process::exit(i32::from(exit::TIMEOUT));
    });
}
