//! Waking frozen programs.

use crate::cancel::Cancellation;
use crate::context::{State, interrupt, preopen, streams};
use crate::error::of_load;
use preheat_call::{Cause, Request, RunError};
use preheat_image::manifest::Function;
use preheat_loader::{TrustedCode, TrustedFile};
use preheat_native::{Error, Frozen, HeapFile, Module, ResumeCode};
use preheat_wasi::{Context, Grants, Host, HostState, Wake, WakeError};
use std::sync::Arc;

/// What a frozen image has besides its code object.
#[derive(Debug)]
pub struct FrozenFiles {
    /// The code through which the program wakes, if it has a stack.
    pub resume: Option<TrustedCode>,
    /// The heap layers, the lowest first.
    pub layers: Vec<TrustedFile>,
}

/// A frozen program, ready to be woken.
#[derive(Debug)]
pub(crate) struct Sleeper {
    pub(crate) frozen: Frozen,
    host: Arc<HostState>,
    /// What a request gives that asks for nothing of its own; none if the program can't do without directories.
    base: Option<Wake>,
}

impl Sleeper {
    pub(crate) fn new(module: &Module, files: FrozenFiles) -> Result<Self, RunError> {
        let failed = |error: Error| match of_load(error) {
            RunError::Instantiate(cause) => RunError::Wake(cause),
            other => other,
        };
        let share = |layer| HeapFile::shared(module.engine(), layer);
        let layers = files.layers.into_iter().map(share).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let resume = files.resume.map(|code| ResumeCode::shared(module, code)).transpose().map_err(failed)?;
        let frozen = Frozen::load(module, &layers, resume.as_ref()).map_err(failed)?;
        let host = HostState::parse(frozen.host()).map_err(|error| RunError::Wake(Cause::from(error)))?;
        frozen.settle();
        let host = Arc::new(host);
        let base = Wake::new(Arc::clone(&host), Grants::new()).ok();
        Ok(Self { frozen, host, base })
    }

    /// What the program goes on with, clocks and random bytes from `host`.
    pub(crate) fn state(
        &self,
        function: &Function,
        request: &Request,
        cancellation: Option<&Cancellation>,
        host: Box<dyn Host>,
    ) -> Result<State, RunError> {
        let other = request.program.as_ref().is_some_and(|program| *program != function.name);
        let own = other || !request.args.is_empty() || !request.env.is_empty() || !request.dirs.is_empty();
        let wake = match &self.base {
            Some(base) if !own => base,
            _ => &Wake::new(Arc::clone(&self.host), grants(function, request)?).map_err(refused)?,
        };
        let mut streams = streams(request);
        streams.interrupt = interrupt(None, cancellation);
        let wasi = Context::wake(wake, host, streams).map_err(refused)?;
        Ok(State { wasi, memory: None, stack: None })
    }
}

/// What a request asks for: to be compared with what the program had when it was frozen.
fn grants(function: &Function, request: &Request) -> Result<Grants, RunError> {
    let mut grants = Grants::new();
    if request.program.is_some() || !request.args.is_empty() {
        grants = grants.args([request.program.as_ref().unwrap_or(&function.name)]).args(&function.args).args(&request.args);
    }
    for (name, value) in &request.env {
        grants = grants.env(name, value);
    }
    for dir in &request.dirs {
        grants = grants.preopen(preopen(dir)?);
    }
    Ok(grants)
}

/// Why a program can't be woken: the caller's mistake, or something that is not as it was.
fn refused(error: WakeError) -> RunError {
    match error {
        WakeError::Arguments { .. }
        | WakeError::Variable { .. }
        | WakeError::DirectoryMissing { .. }
        | WakeError::DirectoryUnknown { .. } => RunError::Usage(error.to_string()),
        other => RunError::Wake(Cause::from(other)),
    }
}
