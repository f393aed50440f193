//! The runtime that an embedder holds: loads images, runs them, synchronously or not.

use crate::enforce::{Enforced, Guard, TrustWatch, watch};
use crate::pipeline::{Engine, engine_of};
use preheat_call::{HostFunction, Request, RunError, Value};
use preheat_image::{CpuLevel, Digest, Manifest};
use preheat_loader::{Home, LoadOptions, Store, StoreError, TrustPolicy, TrustedImage, trust};
use preheat_native_wasi::{Cancellation, Looked, NativeEngine};
use preheat_wasmtime::{EngineOptions, TARGET, WasmtimeEngine, http_types};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The engines of a process, each made when the first image is loaded that needs it. Clones share them; it may be used from many threads.
#[derive(Clone)]
pub struct Runtime {
    engines: Arc<Engines>,
    executor: Arc<Executor>,
    /// Every image that is loaded, for policies that change.
    images: Arc<Enforced>,
}

struct Engines {
    options: EngineOptions,
    native: OnceLock<NativeEngine>,
    wasmtime: OnceLock<WasmtimeEngine>,
}

/// Drives the synchronous calls. Made at the first of them: an asynchronous embedder brings its own.
struct Executor {
    single: bool,
    tokio: OnceLock<tokio::runtime::Runtime>,
}

/// Makes a [`Runtime`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct RuntimeBuilder {
    options: EngineOptions,
    single: bool,
}

impl RuntimeBuilder {
    /// How many instances can live at once; each has a slot that is kept ready. 256 by default.
    pub fn slots(mut self, slots: u32) -> Self {
        self.options.slots = Some(slots);
        self
    }

    /// For a process that runs one function and ends: no slots, no threads.
    pub fn one_shot(mut self) -> Self {
        self.options.slots = None;
        self.options.blocking = true;
        self.single = true;
        self
    }

    /// Lets core modules import a function.
    pub fn host_function(mut self, function: HostFunction) -> Self {
        self.options.host_functions.push(function);
        self
    }

    /// Makes the runtime.
    ///
    /// # Errors
    /// None at present; what can go wrong with an engine does when the first image is loaded that needs it.
    pub fn build(self) -> Result<Runtime, RunError> {
        let engines = Engines { options: self.options, native: OnceLock::new(), wasmtime: OnceLock::new() };
        let executor = Arc::new(Executor { single: self.single, tokio: OnceLock::new() });
        Ok(Runtime { engines: Arc::new(engines), executor, images: Arc::default() })
    }
}

impl Engines {
    fn native(&self) -> Result<&NativeEngine, RunError> {
        let options =
            || preheat_native_wasi::EngineOptions { slots: self.options.slots, host_functions: self.options.host_functions.clone() };
        made(&self.native, || NativeEngine::new(options()))
    }

    fn wasmtime(&self) -> Result<&WasmtimeEngine, RunError> {
        made(&self.wasmtime, || WasmtimeEngine::new(self.options.clone()))
    }
}

/// What `make` made, now or before.
fn made<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, RunError>) -> Result<&T, RunError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}

impl Executor {
    /// A synchronous call of a guest that needs no executor.
    fn call<T>(call: impl FnOnce() -> Result<T, RunError>) -> Result<T, RunError> {
        not_inside()?;
        call()
    }

    fn block_on<F: Future>(&self, future: F) -> Result<F::Output, RunError> {
        not_inside()?;
        let tokio = match self.tokio.get() {
            Some(tokio) => tokio,
            None => {
                let mut builder = if self.single {
                    tokio::runtime::Builder::new_current_thread()
                } else {
                    // One worker keeps the timers while the callers' threads are busy in their guests.
                    let mut builder = tokio::runtime::Builder::new_multi_thread();
                    builder.worker_threads(1);
                    builder
                };
                let made = builder.enable_time().build().map_err(|error| RunError::Usage(format!("can't make a timer: {error}")))?;
                self.tokio.get_or_init(|| made)
            }
        };
        Ok(preheat_wasmtime::alone(|| tokio.block_on(future)))
    }
}

fn not_inside() -> Result<(), RunError> {
    if tokio::runtime::Handle::try_current().is_ok() {
        let what = "a synchronous call inside an asynchronous one would block its thread; use the function that ends in `_async`";
        return Err(RunError::Usage(what.into()));
    }
    Ok(())
}

/// Lets a synchronous call of a guest have a thread of its own, and cancels it when the future is dropped.
async fn apart<T: Send + 'static>(call: impl FnOnce(&Cancellation) -> T + Send + 'static) -> T {
    struct CancelOnDrop(Option<Cancellation>);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            if let Some(cancellation) = &self.0 {
                cancellation.cancel();
            }
        }
    }
    let cancellation = Cancellation::new();
    let mut guard = CancelOnDrop(Some(cancellation.clone()));
    let result = tokio::task::spawn_blocking(move || call(&cancellation)).await;
    guard.0 = None;
    // Nobody aborts it, and it ends before its executor does. What is left is the panic of a host function, which is the caller's.
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

impl Runtime {
    /// A runtime with the usual options.
    ///
    /// # Errors
    /// As [`RuntimeBuilder::build`].
    pub fn new() -> Result<Self, RunError> {
        Self::builder().build()
    }

    /// Chooses options.
    pub fn builder() -> RuntimeBuilder {
        RuntimeBuilder::default()
    }

    /// Loads the image `digest` from a home, under its trust policy.
    ///
    /// # Errors
    /// As [`Runtime::load_from`].
    pub fn load(&self, home: &Home, digest: &Digest) -> Result<Image, RunError> {
        self.load_from(&home.store()?, digest, &home.trust()?, LoadOptions::default())
    }

    /// Loads the image `digest` from a store, if `policy` accepts a statement about it: maps the best code object that this host can run
    /// and links it.
    ///
    /// # Errors
    /// When the image is not there, damaged, refused by the policy, or not for this host or build.
    pub fn load_from(&self, store: &Store, digest: &Digest, policy: &TrustPolicy, options: LoadOptions) -> Result<Image, RunError> {
        self.link(store.load(digest, policy, options)?)
    }

    /// Maps and links an image that was loaded already.
    ///
    /// # Errors
    /// As [`Runtime::load_from`].
    pub fn link(&self, image: TrustedImage) -> Result<Image, RunError> {
        let Some(function) = image.manifest().function.clone() else {
            return Err(RunError::Usage(format!("{} is the image of no Wasm function; this runtime can't call it", image.digest())));
        };
        let level = CpuLevel::of_host().ok_or_else(|| RunError::Usage("this host is no x86-64".into()))?;
        // An image without code of either says so in terms of the one that most have.
        let engine = engine_of(image.manifest()).unwrap_or(Engine::Wasmtime);
        let code = image.code(engine.name(), TARGET, level)?;
        let digest = code.file().artefact().digest;
        let loaded = match engine {
            Engine::Native => Loaded::Native(self.engines.native()?.load_image(&image, code, &function)?),
            Engine::Wasmtime => Loaded::Wasmtime(self.engines.wasmtime()?.load(code, &function)?),
        };
        Ok(Image { loaded, executor: Arc::clone(&self.executor), guard: self.images.add(image, digest) })
    }

    /// Judges every loaded image again, now and under `policy`, and says which are refused. A call of a refused image, or into an instance of
    /// it, fails with [`StoreError::Refused`] until a later judgement accepts the image again. Its instances give their slots back at their
    /// next call, or when the one that is running ends; they stay unusable.
    ///
    /// What it does not do: end a call that is running (give it a deadline), unmap the code (the last clone of the image does that), and
    /// judge what was loaded by another runtime.
    pub fn enforce(&self, policy: &TrustPolicy) -> Vec<StoreError> {
        self.images.enforce(policy, trust::now())
    }

    /// Follows the trust policy of a home: looks every `interval` (at least a hundredth of a second) whether it was changed, and judges
    /// every loaded image again as [`Runtime::enforce`] does, since time passes for builders and revocation lists as well. It ends when what
    /// is returned is dropped.
    ///
    /// A policy that can't be read changes nothing for what is loaded, which goes on under the last one that could; nothing new is loaded
    /// meanwhile.
    ///
    /// # Errors
    /// When the policy can't be read now, or no thread can be started.
    pub fn watch_trust(&self, home: &Home, interval: Duration) -> Result<TrustWatch, StoreError> {
        watch(&self.images, home, interval)
    }
}

#[derive(Clone)]
enum Loaded {
    Native(preheat_native_wasi::Loaded),
    Wasmtime(preheat_wasmtime::Loaded),
}

enum Live {
    Native(preheat_native_wasi::Instance),
    Wasmtime(preheat_wasmtime::Instance),
}

/// A loaded image. Clones share the code; it may be used from many threads.
#[derive(Clone)]
pub struct Image {
    loaded: Loaded,
    executor: Arc<Executor>,
    guard: Arc<Guard>,
}

impl Image {
    /// The image's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.guard.image().digest()
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.guard.image().manifest()
    }

    /// Makes what `count` calls of a frozen function need ahead, so that they find it ready: memory with its state, and of it those pages of their own that
    /// calls write, if the image knows which (`build --warmup-request`). Nothing to do for other images.
    ///
    /// # Errors
    /// When the engine's slots are used up, or the operating system refuses.
    pub fn prepare(&self, count: usize) -> Result<(), RunError> {
        match &self.loaded {
            Loaded::Native(native) => native.prepare(count),
            Loaded::Wasmtime(_) => Ok(()),
        }
    }

    /// Runs a command to its end, in an instance of its own, and returns its exit code.
    ///
    /// # Errors
    /// When the image is no command, traps, or its deadline passes.
    pub fn run(&self, request: &Request) -> Result<i32, RunError> {
        match &self.loaded {
            Loaded::Native(native) => Executor::call(|| {
                self.guard.check()?;
                native.run(request, None)
            }),
            Loaded::Wasmtime(_) => self.executor.block_on(self.run_async(request))?,
        }
    }

    /// Runs a command as [`Image::run`] does, for a process that does nothing after it: no memory is made good for a next call, and nothing is
    /// unmapped. The end of the process does that at once.
    ///
    /// # Errors
    /// As [`Image::run`].
    pub fn run_last(self, request: &Request) -> Result<i32, RunError> {
        let guard = self.guard;
        match self.loaded {
            Loaded::Native(native) => Executor::call(|| {
                guard.check()?;
                native.run_last(request)
            }),
            loaded @ Loaded::Wasmtime(_) => Self { loaded, executor: self.executor, guard }.run(request),
        }
    }

    /// Runs a command as [`Image::run`] does, and says what is in its exported memory `name` then, and what was when it began: for a program that
    /// counts there what it does.
    ///
    /// # Errors
    /// As [`Image::run`], and when it exports no such memory or is not for the native engine.
    pub fn run_and_look(&self, request: &Request, name: &str) -> Result<Looked, RunError> {
        match &self.loaded {
            Loaded::Native(native) => Executor::call(|| {
                self.guard.check()?;
                native.run_and_look(request, name)
            }),
            Loaded::Wasmtime(_) => Err(RunError::Usage("only the native engine shows a function's memory".into())),
        }
    }

    /// Like [`Image::run`]; needs a tokio runtime with timers. Dropping the future cancels the call. A guest of the native engine runs on
    /// one of tokio's threads for blocking calls.
    ///
    /// # Errors
    /// As [`Image::run`].
    pub async fn run_async(&self, request: &Request) -> Result<i32, RunError> {
        self.guard.check()?;
        match &self.loaded {
            Loaded::Native(native) => {
                let (native, request) = (native.clone(), request.clone());
                apart(move |cancellation| native.run(&request, Some(cancellation))).await
            }
            Loaded::Wasmtime(wasmtime) => wasmtime.run(request).await,
        }
    }

    /// Makes an instance whose exports can be called one by one.
    ///
    /// # Errors
    /// When it can't be made within the request's limits.
    pub fn instance(&self, request: &Request) -> Result<Instance, RunError> {
        match &self.loaded {
            Loaded::Native(native) => Executor::call(|| {
                self.guard.check()?;
                Ok(self.live(Live::Native(native.instantiate(request, None)?)))
            }),
            Loaded::Wasmtime(_) => self.executor.block_on(self.instance_async(request))?,
        }
    }

    /// Like [`Image::instance`].
    ///
    /// # Errors
    /// As [`Image::instance`].
    pub async fn instance_async(&self, request: &Request) -> Result<Instance, RunError> {
        self.guard.check()?;
        Ok(self.live(match &self.loaded {
            Loaded::Native(native) => {
                let (native, request) = (native.clone(), request.clone());
                Live::Native(apart(move |cancellation| native.instantiate(&request, Some(cancellation))).await?)
            }
            Loaded::Wasmtime(wasmtime) => Live::Wasmtime(wasmtime.instantiate(request).await?),
        }))
    }

    fn live(&self, instance: Live) -> Instance {
        Instance { instance: Some(instance), executor: Arc::clone(&self.executor), guard: Arc::clone(&self.guard) }
    }

    /// Lets a `wasi:http/proxy` component answer one HTTP request, in an instance of its own. `context` gives directories, environment and
    /// limits.
    ///
    /// # Errors
    /// When the image is no HTTP handler, traps, answers with an error, or its deadline passes.
    pub fn http(&self, context: &Request, request: http_types::Request<Vec<u8>>) -> Result<http_types::Response<Vec<u8>>, RunError> {
        self.executor.block_on(self.http_async(context, request))?
    }

    /// Like [`Image::http`].
    ///
    /// # Errors
    /// As [`Image::http`].
    pub async fn http_async(
        &self,
        context: &Request,
        request: http_types::Request<Vec<u8>>,
    ) -> Result<http_types::Response<Vec<u8>>, RunError> {
        self.guard.check()?;
        match &self.loaded {
            Loaded::Native(_) => Err(RunError::Usage("the image is a core module, not an HTTP handler".into())),
            Loaded::Wasmtime(wasmtime) => Ok(wasmtime.http(context, request.map(Into::into)).await?.map(|body| body.to_vec())),
        }
    }
}

/// A live instance. It may move between threads, but only one call at a time can be in it.
pub struct Instance {
    /// None once the image was refused, when the slot is free for others, or a call was cancelled.
    instance: Option<Live>,
    executor: Arc<Executor>,
    guard: Arc<Guard>,
}

impl Instance {
    /// Calls an exported function of a core module.
    ///
    /// # Errors
    /// When there is no such function, the arguments do not fit, it traps, or the request's deadline, which counts for each call, passes;
    /// when the image is not trusted any more.
    pub fn call(&mut self, name: &str, args: &[Value]) -> Result<Vec<Value>, RunError> {
        if let Live::Native(native) = self.trusted()? {
            let result = Executor::call(|| native.call(name, args, None));
            self.let_go_if_refused();
            return result;
        }
        let executor = Arc::clone(&self.executor);
        executor.block_on(self.call_async(name, args))?
    }

    /// Like [`Instance::call`]. Dropping the future cancels the call; the instance can't be used again then.
    ///
    /// # Errors
    /// As [`Instance::call`].
    pub async fn call_async(&mut self, name: &str, args: &[Value]) -> Result<Vec<Value>, RunError> {
        self.trusted()?;
        let result = match self.instance.take() {
            Some(Live::Native(mut native)) => {
                let (name, args) = (name.to_owned(), args.to_vec());
                let (native, result) = apart(move |cancellation| {
                    let result = native.call(&name, &args, Some(cancellation));
                    (native, result)
                })
                .await;
                self.instance = Some(Live::Native(native));
                result
            }
            Some(Live::Wasmtime(wasmtime)) => {
                let Live::Wasmtime(wasmtime) = self.instance.insert(Live::Wasmtime(wasmtime)) else { return Err(ended()) };
                wasmtime.call(name, args).await
            }
            None => Err(ended()),
        };
        self.let_go_if_refused();
        result
    }

    /// Calls an exported function with arguments and results in their text form: numbers for core modules, WAVE for components.
    ///
    /// # Errors
    /// As [`Instance::call`], and when a text is no value of the parameter's type.
    pub fn call_text(&mut self, name: &str, args: &[String]) -> Result<Vec<String>, RunError> {
        let executor = Arc::clone(&self.executor);
        let result = match self.trusted()? {
            Live::Native(native) => Executor::call(|| native.call_text(name, args, None)),
            Live::Wasmtime(wasmtime) => executor.block_on(wasmtime.call_text(name, args)).and_then(|result| result),
        };
        self.let_go_if_refused();
        result
    }

    fn trusted(&mut self) -> Result<&mut Live, RunError> {
        if let Err(refused) = self.guard.check() {
            self.instance = None;
            return Err(refused);
        }
        self.instance.as_mut().ok_or_else(ended)
    }

    fn let_go_if_refused(&mut self) {
        if self.guard.check().is_err() {
            self.instance = None;
        }
    }
}

fn ended() -> RunError {
    RunError::Usage("this instance ended when its image was refused or a call of it was cancelled; make another one".into())
}

/// What the sharing of runtimes, images and instances between threads rests on.
const _: () = {
    const fn send<T: Send>() {}
    const fn sync<T: Sync>() {}
    send::<Runtime>();
    sync::<Runtime>();
    send::<Image>();
    sync::<Image>();
    send::<Instance>();
    send::<StoreError>();
};
