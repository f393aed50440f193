//! Freezing components: one is run here up to the end of its initialisation, and its state there becomes a component of its own.
//!
//! wasmtime-wizer writes exports into the component through which its state can be read, and later the state into the component as it was.
//! What runs in between is an image like any other, compiled from the component with those exports and loaded from the store; its host is a
//! [`Recording`], as for programs of the native engine.

mod access;
mod check;
mod host;

use crate::engine::WasmtimeEngine;
use crate::error::of_call;
use crate::instance::find;
use crate::loaded::{instantiation, unfit, unlinked};
use crate::sys;
use access::Access;
use host::{NoInput, READS_INPUT, State};
use preheat_call::{OutputBuffer, RunError};
use preheat_image::manifest::Function;
use preheat_loader::TrustedCode;
use preheat_wasi::Recording;
use std::time::Duration;
use wasmtime::component::Func;
use wasmtime::{Store, StoreLimits};
use wasmtime_wizer::{ComponentContext, Wizer};

/// The export that initialises a component unless another is named.
const INITIALIZER: &str = "wizer-initialize";

/// Why a component was not frozen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FreezeError {
    /// It is none of those that can be frozen, or has come into a state that can't be kept.
    #[error("{0}")]
    Refused(String),
    /// It ended instead of returning from its initialisation.
    #[error("it ended with exit code {code} in its initialisation")]
    Ended {
        /// Its exit code.
        code: i32,
        /// What it wrote to standard error.
        stderr: Vec<u8>,
    },
    /// It failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What the initialisation of a component may take, and whom it asks.
#[derive(Debug)]
pub struct FreezeOptions<'a> {
    /// Its clocks and its random numbers. What it learns is written down here.
    pub recording: &'a Recording,
    /// How long it may run.
    pub time: Duration,
    /// Most bytes that each of its memories may have.
    pub memory: Option<usize>,
}

/// A component with exports through which its state can be read, for the time of its initialisation.
pub struct Instrumented<'a> {
    wizer: Wizer,
    context: ComponentContext<'a>,
    wasm: Vec<u8>,
    init: String,
}

impl<'a> Instrumented<'a> {
    /// Instruments a component that `init` initialises, an exported function, or else `wizer-initialize`.
    ///
    /// # Errors
    /// When it has no such export, or what can't be kept.
    pub fn new(wasm: &'a [u8], init: Option<&str>) -> Result<Self, FreezeError> {
        let init = check::check(wasm, init).map_err(FreezeError::Refused)?;
        let mut wizer = Wizer::new();
        // A frozen component has the exports that it had: who calls it need not know that it is frozen.
        wizer.init_func(&init).keep_init_func(true);
        let refused = |error: wasmtime::Error| FreezeError::Refused(format!("its state can't be kept: {error:#}"));
        let (context, instrumented) = wizer.instrument_component(wasm).map_err(refused)?;
        Ok(Self { wizer, context, wasm: instrumented, init })
    }

    /// The instrumented component.
    #[must_use]
    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }
}

impl WasmtimeEngine {
    /// Initialises a component, whose code was compiled from what [`Instrumented::wasm`] gives, and returns it as a component that is in the
    /// state that it has then.
    ///
    /// # Errors
    /// When it fails, ends, or takes too much, or has something that can't be kept.
    pub fn freeze(
        &self,
        code: &TrustedCode,
        function: &Function,
        instrumented: &Instrumented<'_>,
        options: &FreezeOptions<'_>,
    ) -> Result<Vec<u8>, FreezeError> {
        // On a thread of its own, since the caller may be one of a runtime's, which may not wait for another.
        let freeze = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.map_err(|error| RunError::Host(error.into()))?;
            runtime.block_on(self.freeze_here(code, function, instrumented, options))
        };
        std::thread::scope(|scope| scope.spawn(freeze).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    async fn freeze_here(
        &self,
        code: &TrustedCode,
        function: &Function,
        instrumented: &Instrumented<'_>,
        options: &FreezeOptions<'_>,
    ) -> Result<Vec<u8>, FreezeError> {
        let component = sys::map_component(&self.inner.engine, code).map_err(unfit)?;
        let pre = host::linker(&self.inner.engine).and_then(|linker| linker.instantiate_pre(&component)).map_err(unlinked)?;
        let (state, output) = State::new(function, options)?;
        let mut store = Store::new(&self.inner.engine, state);
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);

        let initialise = async {
            let instance = match pre.instantiate_async(&mut store).await {
                Ok(instance) => instance,
                Err(error) => return Err(ended(error, instantiation)),
            };
            let init = find(instance, &mut store, &instrumented.init).and_then(|init| plain(&store, init));
            let Some(init) = init else { return Ok(None) };
            init.call_async(&mut store, &[], &mut []).await.map_err(|error| ended(error, of_call))?;
            Ok(Some(instance))
        };
        let initialised = self.within(Some(options.time), async { Ok(initialise.await) }).await?;
        if output.input.was_read() {
            return Err(FreezeError::Refused(READS_INPUT.to_owned()));
        }
        let instance = match initialised {
            Ok(Some(instance)) => instance,
            Ok(None) => {
                let what = format!("its export `{}` takes or returns values: what initialises it must do neither", instrumented.init);
                return Err(FreezeError::Refused(what));
            }
            Err(End::Exit(code)) => return Err(FreezeError::Ended { code, stderr: output.stderr.contents().to_vec() }),
            Err(End::Failed(error)) => return Err(error.into()),
        };
        check_state(&mut store, &output)?;

        // Reading the state takes a page more of each memory.
        store.data_mut().limits = StoreLimits::default();
        let mut access = Access::new(&mut store, instance);
        let snapshot = async { Ok(instrumented.wizer.snapshot_component(&instrumented.context, &mut access).await) };
        let snapshot = self.within(Some(options.time), snapshot).await?;
        if let Some(error) = access.failed() {
            return Err(FreezeError::Refused(format!("its state can't be read: {error}")));
        }
        snapshot.map_err(|error| FreezeError::Refused(format!("its state can't be kept: {error:#}")))
    }
}

/// What a component did with its standard streams while it was initialised.
struct Written {
    stdout: OutputBuffer,
    stderr: OutputBuffer,
    input: NoInput,
}

/// How an initialisation went that did not return.
enum End {
    Exit(i32),
    Failed(RunError),
}

fn ended(error: wasmtime::Error, sort: fn(wasmtime::Error) -> RunError) -> End {
    match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        Some(exit) => End::Exit(exit.0),
        None => End::Failed(sort(error)),
    }
}

/// A function that takes and returns nothing.
fn plain(store: &Store<State>, function: Func) -> Option<Func> {
    let kind = function.ty(store);
    (kind.params().len() == 0 && kind.results().len() == 0).then_some(function)
}

/// What the host keeps for the component would not be there when it wakes up, and nothing must be lost silently.
fn check_state(store: &mut Store<State>, output: &Written) -> Result<(), FreezeError> {
    let refused = |what: &str| Err(FreezeError::Refused(what.to_owned()));
    if !output.stdout.contents().is_empty() || !output.stderr.contents().is_empty() {
        let text = [output.stdout.contents(), output.stderr.contents()].concat();
        let text: String = String::from_utf8_lossy(&text).chars().take(SHOWN_OUTPUT).collect();
        return refused(&format!(
            "it wrote output in its initialisation, which no call would see: `{}`; leave that to its other exports",
            text.trim_end().escape_debug()
        ));
    }
    if !store.data_mut().table().is_empty() {
        return refused(
            "it still holds something of its host when its initialisation is done: a stream, a directory, a pollable, or the like. That is gone \
             when it wakes up: let it drop what it holds, or get it when it is called",
        );
    }
    Ok(())
}

/// How much of what a component wrote is shown.
const SHOWN_OUTPUT: usize = 200;
