//! What the host keeps for one instance.

use crate::cancel::Cancellation;
use preheat_call::{Directory, Input, Output, Request, RunError};
use preheat_image::manifest::Function;
use preheat_native::{CapturedStack, Memory};
use preheat_wasi::{Context, Grants, Interrupt, OutputBuffer, Preopen};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// What host functions find in their store.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) wasi: Context,
    /// The guest's memory, once a host function has asked for it: there is one instance in a store.
    pub(crate) memory: Option<Memory>,
    /// The stack of a program that came to its freeze point.
    pub(crate) stack: Option<CapturedStack>,
}

/// What every request is given that asks for nothing of its own.
pub(crate) fn base(function: &Function) -> Arc<Grants> {
    let mut grants = Grants::new().args([&function.name]).args(&function.args);
    for (name, value) in &function.env {
        grants = grants.env(name, value);
    }
    Arc::new(grants)
}

/// Opens nothing and allocates nothing that the request does not ask for.
pub(crate) fn state(
    function: &Function,
    base: &Arc<Grants>,
    request: &Request,
    cancellation: Option<&Cancellation>,
) -> Result<State, RunError> {
    let own = request.program.is_some() || !request.args.is_empty() || !request.env.is_empty() || !request.dirs.is_empty();
    let grants = if own { Arc::new(grants(function, request)?) } else { Arc::clone(base) };
    Ok(state_of(Context::new(grants), request, cancellation))
}

/// Gives a context the request's streams.
pub(crate) fn state_of(mut wasi: Context, request: &Request, cancellation: Option<&Cancellation>) -> State {
    match &request.stdin {
        Input::Empty => {}
        Input::Bytes(bytes) => wasi.set_stdin(preheat_wasi::Input::Bytes(bytes.clone())),
        Input::Inherit => wasi.set_stdin(preheat_wasi::Input::inherit()),
    }
    if let Some(output) = output(&request.stdout, preheat_wasi::Output::inherit_stdout) {
        wasi.set_stdout(output);
    }
    if let Some(output) = output(&request.stderr, preheat_wasi::Output::inherit_stderr) {
        wasi.set_stderr(output);
    }
    set_interrupt(&mut wasi, None, cancellation);
    State { wasi, memory: None, stack: None }
}

/// Sets what ends the guest's waits.
pub(crate) fn set_interrupt(wasi: &mut Context, deadline: Option<Instant>, cancellation: Option<&Cancellation>) {
    let mut interrupt = Interrupt::never();
    if let Some(deadline) = deadline {
        interrupt = interrupt.at(deadline);
    }
    if let Some(cancellation) = cancellation {
        interrupt = interrupt.when(cancellation.flag());
    }
    wasi.set_interrupt(interrupt);
}

fn output(output: &Output, inherited: fn() -> preheat_wasi::Output) -> Option<preheat_wasi::Output> {
    match output {
        Output::Discard => None,
        Output::Inherit => Some(inherited()),
        Output::Buffer(buffer) => Some(preheat_wasi::Output::Buffer(OutputBuffer::over(Arc::clone(buffer.shared()), buffer.max()))),
    }
}

fn grants(function: &Function, request: &Request) -> Result<Grants, RunError> {
    grant(function, request.program.as_ref().unwrap_or(&function.name), &request.args, &request.env, &request.dirs)
}

/// What a function has been given, and what a caller adds.
pub(crate) fn grant(
    function: &Function,
    program: &str,
    args: &[String],
    env: &BTreeMap<String, String>,
    dirs: &[Directory],
) -> Result<Grants, RunError> {
    let mut grants = Grants::new().args([program]).args(&function.args).args(args);
    for (name, value) in function.env.iter().filter(|(name, _)| !env.contains_key(*name)).chain(env) {
        grants = grants.env(name, value);
    }
    for dir in dirs {
        let opened = Preopen::open(&dir.host, &dir.guest, dir.writable);
        let failed = |error: std::io::Error| RunError::Directory { path: dir.host.display().to_string(), why: error.into() };
        grants = grants.preopen(opened.map_err(failed)?);
    }
    Ok(grants)
}
