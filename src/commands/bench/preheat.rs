//! Preheat itself as a system of the benchmark.

use preheat::{Builder, Digest, Directory, Home, LoadOptions, Output, Request, Runtime, Store, TrustPolicy};
use preheat_bench::harness::{Failure, Sample, System};
use preheat_bench::process::ProcessSystem;
use preheat_bench::workload::Workload;
use std::cell::RefCell;
use std::path::PathBuf;
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
}

/// Preheat in this process.
pub(crate) struct InProcess {
    start: Start,
    home: Home,
    store: Store,
    policy: TrustPolicy,
    runtime: Runtime,
    program: Option<Program>,
}

struct Program {
    digest: Digest,
    image: preheat::Image,
    stdin: Vec<u8>,
    files: Vec<PathBuf>,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{error:#}"))
}

impl InProcess {
    pub(crate) fn new(start: Start, home: &Home) -> anyhow::Result<Self> {
        home.builder_key()?;
        let (store, policy) = (home.store()?, home.trust()?);
        Ok(Self { start, home: home.clone(), store, policy, runtime: Runtime::new()?, program: None })
    }

    fn load(&self, digest: &Digest) -> Result<preheat::Image, Failure> {
        self.runtime.load_from(&self.store, digest, &self.policy, LoadOptions::default()).map_err(failed)
    }
}

fn build(home: &Home, workload: &Workload) -> Result<Digest, Failure> {
    let unfit = |error: &dyn std::fmt::Display| Failure::Unfit(format!("{error:#}"));
    let builder = Builder::new(home).map_err(|error| unfit(&error))?;
    Ok(builder.build_file(&workload.wasm).map_err(|error| unfit(&error))?.digest)
}

/// The files of an image that a run reads.
fn files_of(home: &Home, digest: &Digest) -> Result<Vec<PathBuf>, Failure> {
    let load = || -> Result<Vec<PathBuf>, preheat::StoreError> {
        let store = home.store()?;
        let image = store.load(digest, &home.trust()?, LoadOptions::default())?;
        let level = preheat::CpuLevel::of_host().unwrap_or(preheat::CpuLevel::V1);
        let code = image.code(preheat::ENGINE, preheat::TARGET, level)?;
        Ok(vec![store.blob_path(digest), code.file().path().to_owned()])
    };
    load().map_err(failed)
}

impl System for InProcess {
    fn name(&self) -> String {
        match self.start {
            Start::Stored => "preheat",
            Start::Loaded => "preheat loaded",
        }
        .to_owned()
    }

    fn version(&self) -> String {
        preheat::COMPILER.to_owned()
    }

    fn prepare(&mut self, workload: &Workload) -> Result<(), Failure> {
        let digest = build(&self.home, workload)?;
        let stdin = std::fs::read(&workload.stdin).map_err(failed)?;
        self.program = Some(Program { digest, image: self.load(&digest)?, stdin, files: files_of(&self.home, &digest)? });
        Ok(())
    }

    fn measure(&mut self, workload: &Workload, limit: Duration) -> Result<Sample, Failure> {
        let Some(program) = &self.program else { return Err(Failure::Unfit("not prepared".into())) };
        let started = Instant::now();
        let image = match self.start {
            Start::Stored => self.load(&program.digest)?,
            Start::Loaded => program.image.clone(),
        };
        let (stdout, buffer) = Output::buffer(64 << 20);
        let mut request = Request::new().args(&workload.args).stdin(program.stdin.clone()).stdout(stdout);
        for (guest, host) in &workload.dirs {
            request = request.dir(Directory { host: host.clone(), guest: guest.clone(), writable: false });
        }
        let exit = image.run(&request).map_err(failed)?;
        let seconds = started.elapsed();
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
pub(crate) fn fresh_process(home: &Home) -> anyhow::Result<Box<dyn System>> {
    let program = std::env::current_exe()?;
    let image: Rc<RefCell<String>> = Rc::default();
    let (built, prepare_home, run_home, binary) = (Rc::clone(&image), home.clone(), home.clone(), program.clone());
    Ok(Box::new(ProcessSystem::new(
        "preheat run",
        preheat::COMPILER,
        move |workload| {
            let digest = build(&prepare_home, workload)?;
            built.replace(digest.to_string());
            let mut files = files_of(&prepare_home, &digest)?;
            files.push(binary.clone());
            Ok(files)
        },
        move |workload| {
            let mut command = Command::new(&program);
            command.arg("run").env("PREHEAT_HOME", run_home.root());
            for (guest, host) in &workload.dirs {
                command.arg(format!("--ro-dir={}::{guest}", host.display()));
            }
            command.arg(&*image.borrow()).args(&workload.args);
            command
        },
    )))
}
