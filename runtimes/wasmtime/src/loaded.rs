//! A loaded image: code mapped and linked, ready for instances.

use crate::engine::WasmtimeEngine;
use crate::error::{cause, of_call};
use crate::instance::Instance;
use crate::state::State;
use crate::sys;
use crate::wake;
use preheat_call::{Request, RunError};
use preheat_image::manifest::{Function, FunctionKind};
use preheat_loader::TrustedCode;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wasmtime::{InstancePre, Store, component};

/// A function that can be called. Clones share the code.
#[derive(Clone)]
pub struct Loaded {
    pub(crate) engine: WasmtimeEngine,
    pub(crate) function: Function,
    pub(crate) pre: Pre,
}

#[derive(Clone)]
pub(crate) enum Pre {
    Core(InstancePre<State>),
    Component(component::InstancePre<State>),
}

impl Loaded {
    pub(crate) fn new(engine: &WasmtimeEngine, code: TrustedCode, function: &Function) -> Result<Self, RunError> {
        let pre = if function.kind.is_component() {
            let component = sys::map_component(&engine.inner.engine, &code).map_err(unfit)?;
            Pre::Component(engine.component_linker()?.instantiate_pre(&component).map_err(unlinked)?)
        } else {
            let module = sys::map_module(&engine.inner.engine, code).map_err(unfit)?;
            Pre::Core(engine.core_linker()?.instantiate_pre(&module).map_err(unlinked)?)
        };
        Ok(Self { engine: engine.clone(), function: function.clone(), pre })
    }

    /// How the function is called.
    #[must_use]
    pub fn kind(&self) -> FunctionKind {
        self.function.kind
    }

    pub(crate) fn store(&self, request: &Request) -> Result<Store<State>, RunError> {
        wake::check(&self.function, request)?;
        let state = State::new(&self.function, request, self.engine.inner.blocking)?;
        let mut store = Store::new(&self.engine.inner.engine, state);
        store.limiter(|state| &mut state.limits);
        // Guests look up when the epoch advances; see the ticker.
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        Ok(store)
    }

    /// Runs a command to its end in an instance of its own and returns its exit code. Dropping the future cancels the call.
    ///
    /// # Errors
    /// When the function is no command, traps, or its deadline passes.
    pub async fn run(&self, request: &Request) -> Result<i32, RunError> {
        let store = self.store(request)?;
        self.within(request.timeout, self.run_in(store)).await
    }

    async fn run_in(&self, mut store: Store<State>) -> Result<i32, RunError> {
        let result = match (&self.pre, self.function.kind) {
            (Pre::Core(pre), FunctionKind::Command) => {
                let instance = pre.instantiate_async(&mut store).await.map_err(instantiation)?;
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(unlinked)?;
                start.call_async(&mut store, ()).await.map(|()| 0)
            }
            (Pre::Component(pre), FunctionKind::ComponentCommand) => {
                let pre = wasmtime_wasi::p2::bindings::CommandPre::new(pre.clone()).map_err(unlinked)?;
                let command = pre.instantiate_async(&mut store).await.map_err(instantiation)?;
                command.wasi_cli_run().call_run(&mut store).await.map(|result| i32::from(result.is_err()))
            }
            (_, kind) => {
                let what = format!("the image is a {}, not a command; name one of its exports with --invoke", kind.name());
                return Err(RunError::Usage(what));
            }
        };
        result.or_else(|error| match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            Some(exit) => Ok(exit.0),
            None => Err(of_call(error)),
        })
    }

    /// Makes an instance whose exports can be called one by one. A reactor's `_initialize` has run.
    ///
    /// # Errors
    /// When it can't be made within the request's limits.
    pub async fn instantiate(&self, request: &Request) -> Result<Instance, RunError> {
        let mut store = self.store(request)?;
        let exports = self
            .within(request.timeout, async {
                let exports = match &self.pre {
                    Pre::Core(pre) => {
                        let instance = pre.instantiate_async(&mut store).await.map_err(instantiation)?;
                        if let Ok(initialize) = instance.get_typed_func::<(), ()>(&mut store, "_initialize") {
                            initialize.call_async(&mut store, ()).await.map_err(of_call)?;
                        }
                        crate::instance::Exports::Core(instance)
                    }
                    Pre::Component(pre) => {
                        crate::instance::Exports::Component(pre.instantiate_async(&mut store).await.map_err(instantiation)?)
                    }
                };
                Ok(exports)
            })
            .await?;
        Ok(Instance { loaded: self.clone(), store, exports, timeout: request.timeout })
    }

    /// Gives `call` until `timeout`.
    pub(crate) async fn within<T>(
        &self,
        timeout: Option<Duration>,
        call: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        self.engine.within(timeout, call).await
    }
}

impl WasmtimeEngine {
    /// Gives `call` until `timeout`. The guest looks up from its loops meanwhile, so that others run beside it and it can be cancelled.
    pub(crate) async fn within<T>(
        &self,
        timeout: Option<Duration>,
        call: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        let _ticking = (timeout.is_some() || !crate::ticker::is_alone()).then(|| self.tick());
        let Some(timeout) = timeout else { return call.await };
        // A deadline beyond what the clock can count is none.
        let Some(deadline) = Instant::now().checked_add(timeout) else { return call.await };
        let call = Deadline { call: pin!(call), deadline };
        match tokio::time::timeout(timeout, call).await {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err(RunError::Timeout(timeout)),
        }
    }
}

pub(crate) fn unfit(error: wasmtime::Error) -> RunError {
    RunError::Code(cause(error))
}

pub(crate) fn unlinked(error: wasmtime::Error) -> RunError {
    RunError::Link(cause(error))
}

pub(crate) fn instantiation(error: wasmtime::Error) -> RunError {
    if error.downcast_ref::<wasmtime::Trap>().is_some() { of_call(error) } else { RunError::Instantiate(cause(error)) }
}

/// A call with a deadline that is looked at whenever the guest looks up: a busy guest may keep the thread on which tokio's own timers run
/// from ever getting to them.
struct Deadline<F> {
    call: F,
    deadline: Instant,
}

impl<F: Future + Unpin> Future for Deadline<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.call).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if Instant::now() >= self.deadline => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
