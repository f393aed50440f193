//! Running a program up to the point at which it is frozen.

use crate::context::{State, own, preopen};
use crate::engine::{ENGINE, NativeEngine};
use crate::error::{cause, of_load};
use crate::link::{self, Mark};
use crate::loaded::{begin, limits};
use preheat_call::{Directory, RunError};
use preheat_image::frozen::FreezePoint;
use preheat_image::manifest::Function;
use preheat_loader::{TrustedCode, TrustedFile};
use preheat_native::{CapturedStack, Error, Frozen, HeapFile, Instance, InstancePre, Module, ResumeCode, SnapshotParts, Store};
use preheat_wasi::{Context, FreezeRefusal, Grants, HostState, Input, OutputStream, Record, Recording, Stop, Streams, Wake, WakeError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What the real-time clock shows when a program begins that is going to be frozen, in nanoseconds: the first second of 2020. It must be the
/// same in every build, and not before what programs take for a broken clock.
pub const RECORDED_REALTIME: u64 = 1_577_836_800_000_000_000;

/// Most bytes that a freeze record has.
pub const MAX_FREEZE_RECORD: usize = HostState::MAX_SIZE;

/// What initialises a module, in the order in which they are looked for.
const INITIALIZERS: [&str; 2] = ["_initialize", "wizer-initialize"];

/// What a program may take until it is frozen.
#[derive(Debug, Clone, Copy)]
pub struct FreezeLimits {
    /// How long it may run.
    pub time: Duration,
    /// Most bytes that each of its memories may have.
    pub memory: Option<usize>,
    /// Most bytes of output that it may write: they are written again at each wake-up.
    pub output: usize,
}

impl Default for FreezeLimits {
    /// A minute, as much memory as the engine allows, 1 MiB of output.
    fn default() -> Self {
        Self { time: Duration::from_secs(60), memory: None, output: Recording::MAX_OUTPUT }
    }
}

/// How a program is frozen.
#[derive(Debug, Clone)]
pub struct FreezeOptions<'a> {
    /// Where.
    pub point: &'a FreezePoint,
    /// For [`FreezePoint::Init`]: the export to run instead of the usual ones.
    pub init_export: Option<&'a str>,
    /// The directories that it sees.
    pub dirs: &'a [Directory],
    /// The variables that it gets when it wakes up.
    pub late_env: Vec<&'a str>,
    /// Whether it has the wake directory.
    pub wake_dir: bool,
    /// From what its random numbers are made.
    pub seed: [u8; 32],
    /// What it may take.
    pub limits: FreezeLimits,
}

/// What a frozen program's heap is a layer over.
#[derive(Debug)]
pub struct FreezeBase<'a> {
    /// The heap layers of another frozen image of the same module, the lowest first.
    pub layers: Vec<TrustedFile>,
    /// How the program goes on from there. `None`: it begins like any other, and is only compared with it.
    pub go_on: Option<GoOn<'a>>,
}

/// How a program goes on that is frozen once more.
#[derive(Debug)]
pub struct GoOn<'a> {
    /// The code through which it wakes in code that can be frozen.
    pub resume: TrustedCode,
    /// What it learned before.
    pub record: Record,
    /// What it reads, before it is frozen where it wants more.
    pub input: &'a [u8],
}

/// A frozen program.
#[derive(Debug)]
pub struct Frost {
    /// The calls at which its frames are, ascending, each once: index of the function, and offset of the call instruction in the Wasm bytes;
    /// of an imported function none. Empty if it has no stack.
    pub sites: Vec<(u32, Option<u32>)>,
    /// How many frames its stack has.
    pub frames: usize,
    /// Its heap snapshot.
    pub heap: Vec<u8>,
    /// What it learned before.
    pub record: Record,
    /// Whether it wrote output before, which each wake-up writes again.
    pub wrote_output: bool,
}

impl Frost {
    /// The files that it read, by the guest's paths, with their digests.
    #[must_use]
    pub fn files(&self) -> BTreeMap<String, String> {
        self.record.files.iter().map(|file| (file.guest_path(), file.digest.to_string())).collect()
    }
}

/// Why a program was not frozen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// It ended before it came to the freeze point.
    #[error("it ended with exit code {code} before it came to its freeze point, {point}{said}")]
    Ended {
        /// Its exit code.
        code: i32,
        /// The freeze point.
        point: FreezePoint,
        /// What it wrote to standard error, in words.
        said: String,
    },
    /// It failed on the way.
    #[error("on its way to the freeze point: {0}")]
    Run(#[from] RunError),
    /// What the host keeps for it can't be made again.
    #[error("it can't be frozen: {0}")]
    Host(#[from] FreezeRefusal),
    /// Its base can't be woken.
    #[error("the base can't be woken: {0}")]
    Base(#[from] WakeError),
    /// Something else of its state can't be kept.
    #[error("it can't be frozen: {0}")]
    State(preheat_native::Error),
    /// Freezing it is not allowed.
    #[error("{0}")]
    Refused(String),
}

/// Whether the files that a program read before it was frozen are the same now, below directories of the same guest names.
///
/// # Errors
/// Which is not, or why that can't be seen.
pub fn check_frozen_files(record: &Record, dirs: &[Directory]) -> Result<(), FreezeError> {
    let mut grants = Grants::new();
    for dir in dirs {
        grants = grants.preopen(preopen(dir)?);
    }
    record.check_files(&grants).map_err(|stale| FreezeError::Refused(stale.to_string()))
}

impl NativeEngine {
    /// Runs a program, in code that was compiled to be captured, until it comes to its freeze point, and gives its state there: whole, or what
    /// differs from `base`.
    ///
    /// # Errors
    /// When it fails, ends, or takes too much on the way, or has something that can't be kept; or the base can't be woken.
    pub fn freeze(
        &self,
        code: TrustedCode,
        function: &Function,
        options: &FreezeOptions<'_>,
        base: Option<FreezeBase<'_>>,
    ) -> Result<Frost, FreezeError> {
        if code.engine() != ENGINE {
            return Err(RunError::Usage(format!("the code object is for engine `{}`, this is `{ENGINE}`", code.engine())).into());
        }
        let module = Module::load(&self.inner.engine, code).map_err(of_load)?;
        let mark = Mark::of(options.point);
        let failed = |error: Error| FreezeError::Run(RunError::Link(cause(error)));
        let pre = link::link_to_freeze(&module, self.inner.linker().map_err(failed)?, mark).map_err(failed)?;

        let (layers, go_on) = base.map_or_else(Default::default, |base| (base.layers, base.go_on));
        let map = |layer: TrustedFile| HeapFile::map(layer).map_err(FreezeError::State);
        let layers = layers.into_iter().map(map).collect::<Result<Vec<_>, _>>()?;
        let recording = Recording::new(options.seed, RECORDED_REALTIME).max_output(options.limits.output);
        let (mut store, instance, recording) = match go_on {
            Some(go_on) => {
                let recording = recording.upon(go_on.record.clone());
                let (store, instance) = self.go_on(&pre, &layers, go_on, options, &recording)?;
                (store, instance, recording)
            }
            None => {
                let wasi = Context::with_host(Arc::new(grants(function, options)?), Box::new(recording.clone()));
                let mut store = self.store(wasi, options)?;
                let instance = pre.instantiate(&mut store).map_err(|error| failure(error, options, &recording))?;
                run_to_the_point(&mut store, instance, options, &recording)?;
                (store, instance, recording)
            }
        };

        let stack = store.data_mut().stack.take();
        let host = store.data().wasi.host_state()?;
        let captured = instance.capture(&store).map_err(FreezeError::State)?;
        let heap = captured.to_snapshot(&SnapshotParts {
            layers: &layers,
            stack: stack.as_ref(),
            host: &host.encode(),
            ..SnapshotParts::default()
        });
        let heap = heap.map_err(FreezeError::State)?;
        let frames = stack.as_ref().map_or(&[][..], CapturedStack::frames);
        let mut sites: Vec<_> = frames.iter().map(|frame| (frame.function, frame.site)).collect();
        sites.sort_unstable();
        sites.dedup();
        Ok(Frost { sites, frames: frames.len(), heap, record: recording.record(), wrote_output: !host.output().is_empty() })
    }

    /// A store in which a program runs up to its freeze point. Its time begins.
    fn store(&self, mut wasi: Context, options: &FreezeOptions<'_>) -> Result<Store<State>, FreezeError> {
        wasi.set_freeze(*options.point == FreezePoint::Stdin);
        let state = State { wasi, memory: None, stack: None };
        let mut store = Store::new(&self.inner.engine, state).map_err(|error| FreezeError::Run(RunError::Link(cause(error))))?;
        store.set_limits(limits(&self.inner.engine, options.limits.memory));
        begin(&mut store, Some(options.limits.time), None);
        Ok(store)
    }

    /// Wakes a frozen program and lets it go on to where it wants more input than there is.
    fn go_on(
        &self,
        pre: &InstancePre<State>,
        layers: &[HeapFile],
        base: GoOn<'_>,
        options: &FreezeOptions<'_>,
        recording: &Recording,
    ) -> Result<(Store<State>, Instance), FreezeError> {
        let resume = ResumeCode::load(pre.module(), base.resume).map_err(FreezeError::State)?;
        let frozen = Frozen::load(pre.module(), layers, Some(&resume)).map_err(FreezeError::State)?;
        let host = HostState::parse(frozen.host()).map_err(|error| FreezeError::Refused(format!("the base: {error}")))?;
        let wake = Wake::new(Arc::new(host), granted(Grants::new(), options)?)?;
        let streams = Streams { stdin: Input::Bytes(base.input.to_vec().into()), ..Streams::default() };
        let mut store = self.store(Context::wake(&wake, Box::new(recording.clone()), streams)?, options)?;
        let instance = pre.wake(&mut store, &frozen).map_err(|error| failure(error, options, recording))?;
        match instance.resume(&mut store) {
            Ok(_) => Err(ended(0, options, recording)),
            Err(error) => stopped(error, options, recording).map(|()| (store, instance)),
        }
    }
}

fn grants(function: &Function, options: &FreezeOptions<'_>) -> Result<Grants, RunError> {
    granted(own(function), options)
}

/// With the directories and the late variables of the options.
fn granted(mut grants: Grants, options: &FreezeOptions<'_>) -> Result<Grants, RunError> {
    for dir in options.dirs {
        grants = grants.preopen(preopen(dir)?);
    }
    for name in &options.late_env {
        grants = grants.late_env(*name);
    }
    Ok(if options.wake_dir { grants.wake_directory() } else { grants })
}

/// Runs a fresh instance until it is where it shall be frozen.
fn run_to_the_point(
    store: &mut Store<State>,
    instance: Instance,
    options: &FreezeOptions<'_>,
    recording: &Recording,
) -> Result<(), FreezeError> {
    let call = |store: &mut Store<State>, name: &str| {
        let function = instance.typed_func::<(), ()>(&*store, name).map_err(|error| RunError::Usage(format!("`{name}`: {error}")))?;
        Ok::<_, FreezeError>(function.call(store, ()))
    };
    if *options.point == FreezePoint::Init {
        let there = |name: &&str| instance.export(&*store, name).is_some();
        let name = match options.init_export {
            Some(name) => name,
            None => INITIALIZERS.into_iter().find(there).ok_or_else(|| {
                let names = INITIALIZERS.map(|name| format!("`{name}`")).join(" nor ");
                FreezeError::Refused(format!("it exports neither {names}; say with --init-export what initialises it"))
            })?,
        };
        return call(store, name)?.map_err(|error| failure(error, options, recording));
    }
    match call(store, "_start")? {
        Ok(()) => Err(ended(0, options, recording)),
        Err(error) => stopped(error, options, recording),
    }
}

/// Whether a call ended at its freeze point.
fn stopped(error: Error, options: &FreezeOptions<'_>, recording: &Recording) -> Result<(), FreezeError> {
    if matches!(error.downcast_host::<Stop>(), Some(Stop::Freeze)) { Ok(()) } else { Err(failure(error, options, recording)) }
}

/// A call that did not come to the freeze point.
fn failure(error: Error, options: &FreezeOptions<'_>, recording: &Recording) -> FreezeError {
    match crate::error::ended(error, Some(options.limits.time)) {
        Ok(code) => ended(code, options, recording),
        Err(error) => FreezeError::Run(error),
    }
}

fn ended(code: i32, options: &FreezeOptions<'_>, recording: &Recording) -> FreezeError {
    let output = recording.output();
    let errors = output.iter().filter(|output| output.stream == OutputStream::Stderr).flat_map(|output| &output.bytes);
    let errors: Vec<u8> = errors.copied().collect();
    let said = last_words(&errors);
    FreezeError::Ended { code, point: options.point.clone(), said }
}

/// The last line of what a program wrote to standard error, in words.
#[must_use]
pub fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().rev().find(|line| !line.trim().is_empty()).map_or_else(String::new, |line| format!("; it said: {line}"))
}
