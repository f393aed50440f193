//! A program that can be frozen: its import `host.pause` is the place.

use preheat_compiler::{CompileOptions, Compiler, Site};
use preheat_image::abi::NONE;
use preheat_image::{CpuLevel, Digest};
use preheat_loader::TrustedCode;
use preheat_native::{
    Caller, CapturedStack, Engine, Error, HeapFile, Instance, InstancePre, Linker, Module, ResumeCode, SnapshotParts, Store, TrapCode, Val,
};

/// What the host of a program knows.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// The arguments of each call.
    pub(crate) trace: Vec<i32>,
    /// At which call the program is frozen.
    pub(crate) freeze_at: Option<usize>,
    pub(crate) stack: Option<CapturedStack>,
    /// Whether each call has the same result.
    pub(crate) same_answers: bool,
}

/// The program was stopped since it is frozen.
#[derive(Debug, thiserror::Error)]
#[error("frozen")]
pub(crate) struct Stopped;

/// How a program ended: results as bits or the trap, calls of the host, and its state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) results: Result<Vec<String>, TrapCode>,
    pub(crate) trace: Vec<i32>,
    pub(crate) state: Digest,
}

/// A program as it was frozen.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub(crate) layers: Vec<HeapFile>,
    bytes: Vec<u8>,
    stack: CapturedStack,
    trace: Vec<i32>,
}

impl Frozen {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A module, compiled to run and compiled to be frozen.
pub(crate) struct Program {
    pub(crate) engine: Engine,
    wasm: Vec<u8>,
    base: Vec<u8>,
    capture: Vec<u8>,
    pub(crate) module: Module,
    pub(crate) capture_module: Module,
    pre: InstancePre<Host>,
    pub(crate) capture_pre: InstancePre<Host>,
    pub(crate) export: &'static str,
    pub(crate) same_answers: bool,
}

fn compiler(capture: bool) -> Compiler {
    Compiler::new(CompileOptions { verify: true, capture, ..CompileOptions::new(CpuLevel::of_host().unwrap()) }).unwrap()
}

fn trusted(code: &[u8]) -> TrustedCode {
    // SAFETY: given is what the compiler made.
    unsafe { TrustedCode::vouch(code, "native") }.unwrap()
}

fn pause(mut caller: Caller<'_, Host>, value: i32) -> Result<i32, Error> {
    if caller.data().freeze_at == Some(caller.data().trace.len()) {
        let stack = caller.capture()?;
        caller.data_mut().stack = Some(stack);
        return Err(Error::host(Stopped));
    }
    let host = caller.data_mut();
    host.trace.push(value);
    let calls = if host.same_answers { 0 } else { i32::try_from(host.trace.len()).unwrap() };
    Ok(value.wrapping_mul(3).wrapping_add(calls))
}

impl Program {
    pub(crate) fn new(wat: &str) -> Self {
        let engine = super::engine();
        let wasm = wat::parse_str(wat).unwrap();
        let compile = |capture| compiler(capture).compile(&wasm, Digest::of(b"test")).unwrap();
        let (base, capture) = (compile(false), compile(true));
        let [module, capture_module] = [&base, &capture].map(|code| Module::load(&engine, trusted(code)).unwrap());
        let mut linker = Linker::new();
        linker.func_wrap("host", "pause", pause).unwrap();
        let [pre, capture_pre] = [&module, &capture_module].map(|module| linker.instantiate_pre(module).unwrap());
        Self { engine, wasm, base, capture, module, capture_module, pre, capture_pre, export: "main", same_answers: false }
    }

    fn store(&self, freeze_at: Option<usize>, trace: &[i32]) -> Store<Host> {
        Store::new(&self.engine, Host { trace: trace.to_vec(), freeze_at, same_answers: self.same_answers, stack: None }).unwrap()
    }

    /// A store in which nothing is frozen.
    pub(crate) fn host_store(&self) -> Store<Host> {
        self.store(None, &[])
    }

    pub(crate) fn pre(&self) -> &InstancePre<Host> {
        &self.pre
    }

    /// An instance in which nothing was called.
    pub(crate) fn begun(&self) -> (Store<Host>, Instance) {
        let mut store = self.store(None, &[]);
        let instance = self.capture_pre.instantiate(&mut store).unwrap();
        (store, instance)
    }

    pub(crate) fn end_of_run(&self) -> Result<Vec<Val>, Error> {
        let mut store = self.store(None, &[]);
        let instance = self.pre.instantiate(&mut store)?;
        instance.func(&store, self.export)?.call(&mut store, &[])
    }

    /// Runs it from the beginning to the end.
    pub(crate) fn run(&self) -> End {
        let mut store = self.store(None, &[]);
        let instance = self.pre.instantiate(&mut store).unwrap();
        let results = instance.func(&store, self.export).unwrap().call(&mut store, &[]);
        end(&mut store, instance, results)
    }

    /// Freezes it at a call of the host, as a layer over others.
    pub(crate) fn freeze(&self, at: usize, layers: &[HeapFile]) -> Frozen {
        let mut store = self.store(Some(at), &[]);
        let instance = self.capture_pre.instantiate(&mut store).unwrap();
        let results = instance.func(&store, self.export).unwrap().call(&mut store, &[]);
        frozen(store, instance, results, layers)
    }

    /// Lets capture code wake from an image, and freezes it at a later call.
    pub(crate) fn freeze_again(&self, image: &Frozen, at: usize) -> Frozen {
        let code = self.resume_code(&self.capture, image, true);
        let resume = ResumeCode::load(&self.capture_module, trusted(&code)).unwrap();
        let ready = preheat_native::Frozen::load(&self.capture_module, &image.layers, Some(&resume)).unwrap();
        let mut store = self.store(Some(at), &image.trace);
        let instance = self.capture_pre.wake(&mut store, &ready).unwrap();
        let results = instance.resume(&mut store);
        frozen(store, instance, results, &image.layers)
    }

    fn resume_code(&self, base: &[u8], image: &Frozen, capture: bool) -> Vec<u8> {
        let frames = image.stack.frames().iter();
        let mut sites: Vec<Site> = frames.map(|frame| Site { function: frame.function, offset: frame.site.unwrap_or(NONE) }).collect();
        sites.sort_unstable();
        sites.dedup();
        compiler(capture).resume(&self.wasm, base, &sites, Digest::of(b"test")).unwrap()
    }

    pub(crate) fn resume_object_size(&self, image: &Frozen) -> usize {
        self.resume_code(&self.base, image, false).len()
    }

    pub(crate) fn trusted_base(&self) -> TrustedCode {
        trusted(&self.base)
    }

    pub(crate) fn trusted_resume(&self, image: &Frozen) -> TrustedCode {
        trusted(&self.resume_code(&self.base, image, false))
    }

    pub(crate) fn resume_of(&self, image: &Frozen) -> ResumeCode {
        ResumeCode::load(&self.module, self.trusted_resume(image)).unwrap()
    }

    /// An instance that woke and was not yet resumed.
    pub(crate) fn awake(&self, image: &Frozen) -> (Store<Host>, Instance) {
        let ready = preheat_native::Frozen::load(&self.module, &image.layers, Some(&self.resume_of(image))).unwrap();
        let mut store = self.store(None, &image.trace);
        let instance = self.pre.wake(&mut store, &ready).unwrap();
        (store, instance)
    }

    /// Wakes it and runs it to the end.
    pub(crate) fn wake(&self, image: &Frozen) -> End {
        let (mut store, instance) = self.awake(image);
        let results = instance.resume(&mut store);
        end(&mut store, instance, results)
    }
}

fn end(store: &mut Store<Host>, instance: Instance, results: Result<Vec<Val>, Error>) -> End {
    let results = match results {
        Ok(values) => Ok(values.iter().map(|value| format!("{value:?}")).collect()),
        Err(Error::Trap(trap)) => Err(trap.code),
        Err(other) => panic!("{other}"),
    };
    let state = instance.capture(store).unwrap().to_snapshot(&SnapshotParts::default()).unwrap();
    End { results, trace: store.data().trace.clone(), state: Digest::of(&state) }
}

fn frozen(mut store: Store<Host>, instance: Instance, results: Result<Vec<Val>, Error>, layers: &[HeapFile]) -> Frozen {
    let error = results.expect_err("it is frozen");
    assert!(error.downcast_host::<Stopped>().is_some(), "{error}");
    let stack = store.data_mut().stack.take().unwrap();
    let parts = SnapshotParts { layers, stack: Some(&stack), ..SnapshotParts::default() };
    let bytes = instance.capture(&store).unwrap().to_snapshot(&parts).unwrap();
    let trace = store.data().trace.clone();
    let layers = layers.iter().cloned().chain([HeapFile::of_bytes(&bytes).unwrap()]).collect();
    Frozen { layers, bytes, stack, trace }
}

/// Freezes a program at each of its calls of the host, of which it makes at least `calls`, and compares. What was frozen at the last one.
pub(crate) fn wakes_everywhere(wat: &str, calls: usize) -> Vec<Frozen> {
    let program = Program::new(wat);
    let expected = program.run();
    assert!(expected.trace.len() >= calls, "{} calls of the host", expected.trace.len());
    let mut images = Vec::new();
    for at in 0..expected.trace.len() {
        let frozen = program.freeze(at, &[]);
        let end = program.wake(&frozen);
        assert_eq!(end, expected, "frozen at call {at}");
        images.push(frozen);
    }
    images
}
