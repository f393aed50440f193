//! A loaded image: code mapped and linked, ready for instances.

use crate::cancel::Cancellation;
use crate::context::{self, State};
use crate::engine::{ENGINE, NativeEngine};
use crate::error::{cause, ended, of_load};
use crate::freeze::RECORDED_REALTIME;
use crate::instance::Instance;
use crate::link::{self, Mark};
use crate::wake::{FrozenFiles, Sleeper};
use preheat_call::{Directory, Request, RunError};
use preheat_image::manifest::{Function, FunctionKind};
use preheat_loader::TrustedCode;
use preheat_native::{Engine, Error, InstancePre, Limits, Module, Store, WrittenMemory};
use preheat_wasi::{Grants, Recording, SystemHost};
use std::mem::ManuallyDrop;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most instances, memories and tables that one call may have.
const MAX_PARTS: usize = 100;

/// How a command ended, and what was in a memory of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Its exit code.
    pub exit: i32,
    /// The memory when the command began, or woke.
    pub before: Vec<u8>,
    /// The memory when it had ended.
    pub after: Vec<u8>,
}

/// A function that can be called. Clones share the code.
#[derive(Debug, Clone)]
pub struct Loaded {
    engine: NativeEngine,
    function: Arc<Function>,
    pre: InstancePre<State>,
    base: Arc<Grants>,
    sleeper: Option<Arc<Sleeper>>,
}

impl Loaded {
    pub(crate) fn new(engine: &NativeEngine, code: TrustedCode, function: &Function, files: Option<FrozenFiles>) -> Result<Self, RunError> {
        if code.engine() != ENGINE {
            return Err(RunError::Usage(format!("the code object is for engine `{}`, this is `{ENGINE}`", code.engine())));
        }
        let module = Module::shared(&engine.inner.engine, code).map_err(of_load)?;
        let frozen = function.frozen.as_ref();
        let embedder = engine.inner.linker().map_err(link_failed)?;
        let pre = match frozen.and_then(|frozen| Mark::of(&frozen.point)) {
            Some(mark) => link::link_to_wake(&module, embedder, mark),
            None => link::link(&module, embedder),
        };
        let pre = pre.map_err(link_failed)?;
        let sleeper = match (frozen, files) {
            (Some(_), Some(files)) => Some(Arc::new(Sleeper::new(&module, files)?)),
            (Some(_), None) => return Err(RunError::Usage("the function is frozen, and was given without its heap".into())),
            (None, _) => None,
        };
        Ok(Self { engine: engine.clone(), function: Arc::new(function.clone()), pre, base: context::base(function), sleeper })
    }

    /// How the function is called.
    #[must_use]
    pub fn kind(&self) -> FunctionKind {
        self.function.kind
    }

    /// Runs a command to its end in an instance of its own and returns its exit code.
    ///
    /// # Errors
    /// When the function is no command, traps, its deadline passes, or it is cancelled.
    pub fn run(&self, request: &Request, cancellation: Option<&Cancellation>) -> Result<i32, RunError> {
        let mut store = self.store(request, cancellation)?;
        self.run_in(&mut store, request, cancellation)
    }

    /// Runs a command as [`Self::run`] does, for a process that does nothing after it: no slot is made good for a next guest and nothing is
    /// unmapped. The end of the process does that at once.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_last(self, request: &Request) -> Result<i32, RunError> {
        let mut store = ManuallyDrop::new(self.store(request, None)?);
        let loaded = ManuallyDrop::new(self);
        loaded.run_in(&mut store, request, None)
    }

    /// Runs a command as [`Self::run`] does, and says what is in its exported memory `name` then, and what was when it began: for a program that
    /// counts there what it does.
    ///
    /// # Errors
    /// As [`Self::run`], and when it exports no such memory. A program that traps has counted as well, but says nothing of itself.
    pub fn run_and_look(&self, request: &Request, name: &str) -> Result<Looked, RunError> {
        let mut store = self.store(request, None)?;
        let instance = match self.begin_in(&mut store, request, None)? {
            ControlFlow::Continue(instance) => instance,
            ControlFlow::Break(exit) => return Ok(Looked { exit, before: Vec::new(), after: Vec::new() }),
        };
        let memory = instance.memory(&store, name).ok_or_else(|| RunError::Usage(format!("the function exports no memory `{name}`")))?;
        let before = memory.bytes(&store).to_vec();
        let exit = self.go_on_in(&mut store, instance, request)?;
        Ok(Looked { exit, before, after: memory.bytes(&store).to_vec() })
    }

    /// Runs a command as [`Self::run`] does, but so that it sees the same each time: clocks that begin at the same moment and move only with what it does,
    /// random bytes made of `seed`, names in directories in order, and files without times of their own. What it waits for is over at once.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn replay(&self, request: &Request, seed: [u8; 32]) -> Result<i32, RunError> {
        let host = Box::new(Recording::new(seed, RECORDED_REALTIME).forgetful());
        let state = match &self.sleeper {
            Some(sleeper) => sleeper.state(&self.function, request, None, host)?,
            None => context::state_on(&self.function, &self.base, request, None, host)?,
        };
        let mut store = self.store_with(state, request)?;
        self.run_in(&mut store, request, None)
    }

    fn run_in(&self, store: &mut Store<State>, request: &Request, cancellation: Option<&Cancellation>) -> Result<i32, RunError> {
        match self.begin_in(store, request, cancellation)? {
            ControlFlow::Continue(instance) => self.go_on_in(store, instance, request),
            ControlFlow::Break(exit) => Ok(exit),
        }
    }

    /// Makes the instance of a command, or lets it wake. It may end there already, with an exit code.
    fn begin_in(
        &self,
        store: &mut Store<State>,
        request: &Request,
        cancellation: Option<&Cancellation>,
    ) -> Result<ControlFlow<i32, preheat_native::Instance>, RunError> {
        if self.function.kind != FunctionKind::Command {
            let kind = self.function.kind.name();
            return Err(RunError::Usage(format!("the image is a {kind}, not a command; name one of its exports with --invoke")));
        }
        begin(store, request.timeout, cancellation);
        let made = match &self.sleeper {
            Some(sleeper) => self.pre.wake(store, &sleeper.frozen),
            None => self.pre.instantiate(store),
        };
        match made {
            Ok(instance) => Ok(ControlFlow::Continue(instance)),
            Err(error @ Error::Link(_)) => Err(RunError::Link(cause(error))),
            Err(error) => ended(error, request.timeout).map(ControlFlow::Break),
        }
    }

    /// Runs the command of an instance to its end.
    fn go_on_in(&self, store: &mut Store<State>, instance: preheat_native::Instance, request: &Request) -> Result<i32, RunError> {
        let called = match &self.sleeper {
            Some(_) => instance.resume(store).map(|_| ()),
            None => {
                let start = instance.typed_func::<(), ()>(&*store, "_start").map_err(|error| Error::Link(error.to_string()));
                start.and_then(|start| start.call(&mut *store, ()))
            }
        };
        match called {
            Ok(()) => Ok(0),
            Err(error @ Error::Link(_)) => Err(RunError::Link(cause(error))),
            Err(error) => ended(error, request.timeout),
        }
    }

    /// Wakes a frozen program once with `input`, and says how many random bytes it draws before its first output, or before its end if it
    /// writes nothing. How it ends does not matter.
    ///
    /// # Errors
    /// When it can't be woken.
    pub fn random_before_output(&self, dirs: &[Directory], input: &[u8], time: Duration) -> Result<u64, RunError> {
        let mut request = Request::new().stdin(input.to_vec()).timeout(time);
        request.dirs = dirs.to_vec();
        let mut store = self.store(&request, None)?;
        match self.run_in(&mut store, &request, None) {
            Err(error @ (RunError::Link(_) | RunError::Wake(_) | RunError::Instantiate(_))) => Err(error),
            _ => Ok(store.data().wasi.counters().random_bytes_before_output),
        }
    }

    /// Makes slots for `count` calls of a frozen program ahead, so that these need not wait for them. Without a frozen state there is nothing to do.
    ///
    /// # Errors
    /// When the engine's slots are used up, or the operating system refuses.
    pub fn prepare(&self, count: usize) -> Result<(), RunError> {
        let Some(sleeper) = &self.sleeper else { return Ok(()) };
        sleeper.frozen.prepare(count).map_err(|error| RunError::Wake(cause(error)))
    }

    /// Wakes a frozen program once with `input`, and says which pages of its memories it has for itself when it ends: those that it wrote, and
    /// those that are copied in any case. Its exit code does not matter. To be asked of an engine that has woken nothing before: a slot that was
    /// used does not tell by whom.
    ///
    /// # Errors
    /// When it can't be woken, traps or takes too long, or the operating system does not tell.
    pub fn written_by(&self, dirs: &[Directory], input: &[u8], time: Duration) -> Result<Vec<WrittenMemory>, RunError> {
        let Some(sleeper) = &self.sleeper else { return Err(RunError::Usage("the function is not frozen".into())) };
        let mut request = Request::new().stdin(input.to_vec()).timeout(time);
        request.dirs = dirs.to_vec();
        // The same clocks and random bytes each time, so that the same build gives the same image.
        let host = Recording::new([0; 32], RECORDED_REALTIME);
        let mut store = self.store_with(sleeper.state(&self.function, &request, None, Box::new(host))?, &request)?;
        begin(&mut store, request.timeout, None);
        let instance = self.pre.wake(&mut store, &sleeper.frozen).map_err(|error| RunError::Wake(cause(error)))?;
        if let Err(error) = instance.resume(&mut store) {
            ended(error, request.timeout)?;
        }
        instance.written(&store).ok_or_else(|| RunError::Usage("this system does not tell which pages were written".into()))
    }

    /// Makes an instance whose exports can be called one by one. A reactor's `_initialize` has run.
    ///
    /// # Errors
    /// When it can't be made within the request's limits, or it is cancelled.
    pub fn instantiate(&self, request: &Request, cancellation: Option<&Cancellation>) -> Result<Instance, RunError> {
        let mut store = self.store(request, cancellation)?;
        begin(&mut store, request.timeout, cancellation);
        let failed = |error| match ended(error, request.timeout) {
            Ok(code) => RunError::Instantiate(format!("it ended with exit code {code}").into()),
            Err(error) => error,
        };
        if let Some(sleeper) = &self.sleeper {
            let instance = self.pre.wake(&mut store, &sleeper.frozen).map_err(failed)?;
            return Ok(Instance { store, instance, timeout: request.timeout });
        }
        let instance = self.pre.instantiate(&mut store).map_err(failed)?;
        if let Ok(initialize) = instance.typed_func::<(), ()>(&store, "_initialize") {
            initialize.call(&mut store, ()).map_err(failed)?;
        }
        Ok(Instance { store, instance, timeout: request.timeout })
    }

    fn store(&self, request: &Request, cancellation: Option<&Cancellation>) -> Result<Store<State>, RunError> {
        let state = match &self.sleeper {
            Some(sleeper) => sleeper.state(&self.function, request, cancellation, Box::new(SystemHost))?,
            None => context::state(&self.function, &self.base, request, cancellation)?,
        };
        self.store_with(state, request)
    }

    fn store_with(&self, state: State, request: &Request) -> Result<Store<State>, RunError> {
        let engine = &self.engine.inner.engine;
        let mut store = Store::new(engine, state).map_err(|error| RunError::Instantiate(cause(error)))?;
        store.set_limits(limits(engine, request.max_memory));
        Ok(store)
    }
}

fn link_failed(error: Error) -> RunError {
    RunError::Link(cause(error))
}

/// What one call may have.
pub(crate) fn limits(engine: &Engine, max_memory: Option<usize>) -> Limits {
    let mut limits = Limits { instances: MAX_PARTS, memories: MAX_PARTS, tables: MAX_PARTS, ..engine.config().limits };
    if let Some(max) = max_memory {
        limits.memory_bytes = limits.memory_bytes.min(u64::try_from(max).unwrap_or(u64::MAX));
    }
    limits
}

/// From now on the guest has this much time, and can be cancelled.
pub(crate) fn begin(store: &mut Store<State>, timeout: Option<Duration>, cancellation: Option<&Cancellation>) {
    // A deadline beyond what the clock can count is none.
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    store.set_deadline(deadline);
    if deadline.is_some() || cancellation.is_some() {
        context::set_interrupt(&mut store.data_mut().wasi, deadline, cancellation);
    }
    if let Some(cancellation) = cancellation {
        cancellation.attach(store.interrupt_handle());
    }
}
