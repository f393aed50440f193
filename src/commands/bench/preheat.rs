//! Preheat itself as a system of the benchmark.

use preheat::{
    Builder, Digest, Directory, Engine, EngineChoice, Freeze, FreezePoint, Home, LoadOptions, Output, Request, Runtime, Store, TrustPolicy,
};
use preheat_bench::harness::{Failure, Sample, System};
use preheat_bench::process::ProcessSystem;
use preheat_bench::workload::Workload;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What happens within the measured time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// Loading the image from the store, then running.
    Stored,
    /// Only running: the image is loaded.
    Loaded,
    /// Only the first run after the image was loaded and what that run needs was made ahead.
    Prepared,
    /// Only compiling, for one CPU level. Then it runs, so that the output can be checked.
    Compile,
}

/// How Preheat runs a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From its beginning, on this engine.
    Plain(Engine),
    /// From where it first reads its input, on the native engine.
    Frozen,
    /// The same, and the image knows which pages a call writes: the workload's input was its sample request.
    Warmed,
}

impl Way {
    fn engine(self) -> Engine {
        match self {
            Self::Plain(engine) => engine,
            Self::Frozen | Self::Warmed => Engine::Native,
        }
    }

    /// What tells the systems apart; that of wasmtime has the name that it had when there was no other.
    fn suffix(self) -> &'static str {
        match self {
            Self::Plain(Engine::Native) => ", native",
            Self::Plain(Engine::Wasmtime) => "",
            Self::Frozen => ", frozen",
            Self::Warmed => ", frozen with a sample request",
        }
    }

    /// The arguments of a call: a frozen program has read its own.
    fn args(self, workload: &Workload) -> &[String] {
        if matches!(self, Self::Plain(_)) { &workload.args } else { &[] }
    }
}

/// Preheat in this process.
pub(crate) struct InProcess {
    start: Start,
    way: Way,
    home: Home,
    store: Store,
    policy: TrustPolicy,
    runtime: Runtime,
    program: Option<Program>,
}

struct Program {
    digest: Digest,
    /// None where loading it is measured: what is loaded already would be shared.
    image: Option<preheat::Image>,
    stdin: Vec<u8>,
    files: Vec<PathBuf>,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{error:#}"))
}

impl InProcess {
    pub(crate) fn new(start: Start, way: Way, home: &Home) -> anyhow::Result<Self> {
        home.builder_key()?;
        let (store, policy) = (home.store()?, home.trust()?);
        Ok(Self { start, way, home: home.clone(), store, policy, runtime: Runtime::new()?, program: None })
    }

    fn load(&self, digest: &Digest) -> Result<preheat::Image, Failure> {
        self.runtime.load_from(&self.store, digest, &self.policy, LoadOptions::default()).map_err(failed)
    }
}

fn build(home: &Home, way: Way, workload: &Workload) -> Result<Digest, Failure> {
    let unfit = |error: &dyn std::fmt::Display| Failure::Unfit(format!("{error:#}"));
    let mut builder = Builder::new(home).map_err(|error| unfit(&error))?.engine(EngineChoice::Only(way.engine()));
    if way != Way::Plain(way.engine()) {
        // That every call has the same hash seeds is no matter here.
        let mut freeze = directories(workload).fold(Freeze::at(FreezePoint::Stdin).allow_frozen_random(true), Freeze::dir);
        if way == Way::Warmed {
            freeze = freeze.warmup_request(std::fs::read(&workload.stdin).map_err(failed)?);
        }
        builder = builder.args(&workload.args).freeze(freeze);
    }
    Ok(builder.build_file(&workload.wasm).map_err(|error| unfit(&error))?.digest)
}

/// What a workload grants.
fn directories(workload: &Workload) -> impl Iterator<Item = Directory> {
    workload.dirs.iter().map(|(guest, host)| Directory { host: host.clone(), guest: guest.clone(), writable: false })
}

/// Compiles in a home of its own, where nothing is there yet.
fn compile(engine: Engine, workload: &Workload) -> Result<Duration, Failure> {
    let dir = tempfile::tempdir().map_err(failed)?;
    let level = preheat::CpuLevel::of_host().unwrap_or(preheat::CpuLevel::V1).min(preheat::CpuLevel::V3);
    let builder = Builder::new(&Home::at(dir.path())).map_err(failed)?.engine(EngineChoice::Only(engine)).levels([level]);
    let built = builder.build_file(&workload.wasm).map_err(failed)?;
    built.code.first().and_then(|code| code.compiled_in).ok_or_else(|| Failure::Failed("nothing was compiled".into()))
}

/// The files of an image that a run reads.
fn files_of(home: &Home, engine: Engine, digest: &Digest) -> Result<Vec<PathBuf>, Failure> {
    let load = || -> Result<Vec<PathBuf>, preheat::StoreError> {
        let store = home.store()?;
        let image = store.load(digest, &home.trust()?, LoadOptions::default())?;
        let level = preheat::CpuLevel::of_host().unwrap_or(preheat::CpuLevel::V1);
        let code = image.code(engine.name(), preheat::TARGET, level)?;
        Ok(vec![store.blob_path(digest), code.file().path().to_owned()])
    };
    load().map_err(failed)
}

impl System for InProcess {
    fn name(&self) -> String {
        let name = match self.start {
            Start::Stored => "preheat",
            Start::Loaded => "preheat loaded",
            Start::Prepared => "preheat prepared",
            Start::Compile => "preheat compile",
        };
        format!("{name}{}", self.way.suffix())
    }

    fn version(&self) -> String {
        self.way.engine().compiler().to_owned()
    }

    fn prepare(&mut self, workload: &Workload) -> Result<(), Failure> {
        let digest = build(&self.home, self.way, workload)?;
        let stdin = std::fs::read(&workload.stdin).map_err(failed)?;
        // It is loaded once in any case, to say what is wrong with it.
        let image = Some(self.load(&digest)?).filter(|_| !matches!(self.start, Start::Stored | Start::Prepared));
        self.program = Some(Program { digest, image, stdin, files: files_of(&self.home, self.way.engine(), &digest)? });
        Ok(())
    }

    fn measure(&mut self, workload: &Workload, limit: Duration) -> Result<Sample, Failure> {
        let Some(program) = &self.program else { return Err(Failure::Unfit("not prepared".into())) };
        let compiled = (self.start == Start::Compile).then(|| compile(self.way.engine(), workload)).transpose()?;
        let mut started = Instant::now();
        let image = match &program.image {
            Some(image) => image.clone(),
            None => self.load(&program.digest)?,
        };
        if self.start == Start::Prepared {
            image.prepare(1).map_err(failed)?;
            started = Instant::now();
        }
        let (stdout, buffer) = Output::buffer(64 << 20);
        let mut request = Request::new().args(self.way.args(workload)).stdin(program.stdin.clone()).stdout(stdout);
        for directory in directories(workload) {
            request = request.dir(directory);
        }
        let exit = image.run(&request).map_err(failed)?;
        let seconds = compiled.unwrap_or_else(|| started.elapsed());
        if seconds > limit {
            return Err(Failure::Timeout(limit.as_secs_f64().to_string()));
        }
        Ok(Sample { seconds: seconds.as_secs_f64(), exit, output: buffer.contents().to_vec() })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.program.iter().flat_map(|program| program.files.clone()).collect()
    }
}

/// A fresh `preheat run`, by digest.
pub(crate) fn fresh_process(way: Way, home: &Home) -> anyhow::Result<Box<dyn System>> {
    Ok(process(&format!("preheat run{}", way.suffix()), way, home, &std::env::current_exe()?, &["run"]))
}

/// A fresh `preheat-exec`, by digest, if it lies beside this program.
pub(crate) fn fresh_exec(way: Way, home: &Home) -> anyhow::Result<Option<Box<dyn System>>> {
    let program = std::env::current_exe()?.with_file_name("preheat-exec");
    Ok(program
        .is_file()
        .then(|| process(if way == Way::Frozen { "preheat-exec, frozen" } else { "preheat-exec" }, way, home, &program, &[])))
}

fn process(name: &str, way: Way, home: &Home, program: &Path, first: &'static [&'static str]) -> Box<dyn System> {
    let image: Rc<RefCell<String>> = Rc::default();
    let (built, prepare_home, run_home) = (Rc::clone(&image), home.clone(), home.clone());
    let (binary, program) = (program.to_owned(), program.to_owned());
    Box::new(ProcessSystem::new(
        name,
        way.engine().compiler(),
        move |workload| {
            let digest = build(&prepare_home, way, workload)?;
            built.replace(digest.to_string());
            let mut files = files_of(&prepare_home, way.engine(), &digest)?;
            files.push(binary.clone());
            Ok(files)
        },
        move |workload| {
            let mut command = Command::new(&program);
            command.args(first).env("PREHEAT_HOME", run_home.root());
            for (guest, host) in &workload.dirs {
                command.arg(format!("--ro-dir={}::{guest}", host.display()));
            }
            command.arg(&*image.borrow()).args(way.args(workload));
            command
        },
    ))
}
