//! Waking frozen programs.

use crate::cancel::Cancellation;
use crate::context::{State, grant, state_of};
use crate::engine::NativeEngine;
use crate::error::of_load;
use preheat_call::{Cause, Request, RunError};
use preheat_image::frozen::Frozen as FrozenState;
use preheat_image::heap::HeapSnapshot;
use preheat_image::manifest::Function;
use preheat_loader::map::MappedFile;
use preheat_loader::{TrustedCode, TrustedFile};
use preheat_native::{Frozen, Module};
use preheat_wasi::{Context, Grants, HostState, SystemHost};
use std::collections::BTreeMap;
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
    host: HostState,
    state: FrozenState,
    /// What a request gives that asks for nothing of its own.
    base: Arc<Grants>,
}

impl Sleeper {
    pub(crate) fn new(
        engine: &NativeEngine,
        module: &Module,
        files: FrozenFiles,
        function: &Function,
        state: &FrozenState,
    ) -> Result<Self, RunError> {
        let map = |file: &TrustedFile| MappedFile::map(file).map(Arc::new).map_err(RunError::Store);
        let layers = files.layers.iter().map(map).collect::<Result<Vec<_>, _>>()?;
        let top = layers.last().ok_or_else(|| RunError::Wake("the image has no heap".into()))?;
        let snapshot = HeapSnapshot::parse(top.bytes()).map_err(|error| RunError::Wake(Cause::from(error)))?;
        let host = HostState::parse(snapshot.host()).map_err(|error| RunError::Wake(Cause::from(error)))?;
        let frozen = Frozen::load(&engine.inner.engine, module, layers, files.resume).map_err(|error| match of_load(error) {
            RunError::Instantiate(cause) => RunError::Wake(cause),
            other => other,
        })?;
        let base = Arc::new(grants(&host, state, &Request::new(), function)?);
        Ok(Self { frozen, host, state: state.clone(), base })
    }

    /// What the program goes on with.
    pub(crate) fn state(
        &self,
        function: &Function,
        request: &Request,
        cancellation: Option<&Cancellation>,
    ) -> Result<State, RunError> {
        if let Some(program) = request.program.as_ref().filter(|program| **program != function.name) {
            return Err(RunError::Usage(format!("the program was frozen as `{}`, and can't be `{program}` any more", function.name)));
        }
        if !request.args.is_empty() {
            return Err(RunError::Usage(
                "the program was frozen with its arguments, and has read them already; build it with others, or give it what changes on \
                 standard input"
                    .into(),
            ));
        }
        if let Some(name) = request.env.keys().find(|name| !self.state.late_env.contains(*name)) {
            return Err(RunError::Usage(format!(
                "the program was frozen with its environment, and would not see `{name}`; build it with `--env {name}=…`, or with \
                 `--late-env {name}` and let it read /preheat/env"
            )));
        }
        let own = !request.env.is_empty() || !request.dirs.is_empty();
        let grants = if own { Arc::new(grants(&self.host, &self.state, request, function)?) } else { Arc::clone(&self.base) };
        let wasi = Context::wake(grants, Box::new(SystemHost), &self.host).map_err(|error| RunError::Wake(Cause::from(error)))?;
        Ok(state_of(wasi, request, cancellation))
    }
}

/// What a woken program has: the directories and late variables of the request, all else as when it was frozen.
fn grants(host: &HostState, state: &FrozenState, request: &Request, function: &Function) -> Result<Grants, RunError> {
    let late: BTreeMap<String, String> = request.env.clone();
    let mut grants = grant(function, &function.name, &[], &late, &request.dirs)?;
    for name in &state.late_env {
        grants = grants.late_env(name);
    }
    Ok(if host.has_wake_directory() { grants.wake_directory() } else { grants })
}
