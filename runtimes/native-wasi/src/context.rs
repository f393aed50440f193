//! What the host keeps for one instance.

use crate::cancel::Cancellation;
use preheat_call::{Directory, Input, InputWatch, Output, Request, RunError};
use preheat_image::manifest::Function;
use preheat_native::{CapturedStack, Memory};
use preheat_wasi::{Context, Grants, Host, Interrupt, Observation, OutputBuffer, Preopen, Streams, SystemHost};
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
    Arc::new(own(function))
}

/// What a function has been given when it was built.
pub(crate) fn own(function: &Function) -> Grants {
    let mut grants = Grants::new().args([&function.name]).args(&function.args);
    for (name, value) in &function.env {
        grants = grants.env(name, value);
    }
    grants
}

/// Opens nothing and allocates nothing that the request does not ask for.
pub(crate) fn state(
    function: &Function,
    base: &Arc<Grants>,
    request: &Request,
    cancellation: Option<&Cancellation>,
) -> Result<State, RunError> {
    match &request.input_watch {
        Some(watch) => state_on(function, base, request, cancellation, Box::new(Watched(watch.clone()))),
        // A value without a size takes no allocation.
        None => state_on(function, base, request, cancellation, Box::new(SystemHost)),
    }
}

/// The same, with clocks and random bytes from `host`.
pub(crate) fn state_on(
    function: &Function,
    base: &Arc<Grants>,
    request: &Request,
    cancellation: Option<&Cancellation>,
    host: Box<dyn Host>,
) -> Result<State, RunError> {
    let own = request.program.is_some() || !request.args.is_empty() || !request.env.is_empty() || !request.dirs.is_empty();
    let grants = if own { Arc::new(grants(function, request)?) } else { Arc::clone(base) };
    let mut wasi = Context::with_host(grants, host);
    let Streams { stdin, stdout, stderr, .. } = streams(request);
    wasi.set_stdin(stdin);
    wasi.set_stdout(stdout);
    wasi.set_stderr(stderr);
    set_interrupt(&mut wasi, None, cancellation);
    Ok(State { wasi, memory: None, stack: None })
}

/// The system, for a guest of which somebody wants to know when it comes to its input.
struct Watched(InputWatch);

impl Host for Watched {
    fn realtime(&mut self) -> u64 {
        SystemHost.realtime()
    }

    fn monotonic(&mut self) -> u64 {
        SystemHost.monotonic()
    }

    fn resolution(&mut self) -> u64 {
        SystemHost.resolution()
    }

    fn random(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        SystemHost.random(buffer)
    }

    fn observe(&mut self, observation: Observation<'_>) {
        if observation == Observation::Stdin {
            self.0.note();
        }
    }
}

/// The streams of a request.
pub(crate) fn streams(request: &Request) -> Streams {
    let stdin = match &request.stdin {
        Input::Empty => preheat_wasi::Input::Empty,
        Input::Bytes(bytes) => preheat_wasi::Input::Bytes(bytes.clone()),
        Input::Inherit => preheat_wasi::Input::inherit(),
    };
    let stdout = output(&request.stdout, preheat_wasi::Output::inherit_stdout);
    let stderr = output(&request.stderr, preheat_wasi::Output::inherit_stderr);
    Streams { stdin, stdout, stderr, ..Streams::default() }
}

fn output(output: &Output, inherited: fn() -> preheat_wasi::Output) -> preheat_wasi::Output {
    match output {
        Output::Discard => preheat_wasi::Output::Discard,
        Output::Inherit => inherited(),
        Output::Buffer(buffer) => preheat_wasi::Output::Buffer(OutputBuffer::over(Arc::clone(buffer.shared()), buffer.max())),
    }
}

/// Sets what ends the guest's waits.
pub(crate) fn set_interrupt(wasi: &mut Context, deadline: Option<Instant>, cancellation: Option<&Cancellation>) {
    wasi.set_interrupt(interrupt(deadline, cancellation));
}

/// What ends the guest's waits.
pub(crate) fn interrupt(deadline: Option<Instant>, cancellation: Option<&Cancellation>) -> Interrupt {
    let mut interrupt = Interrupt::never();
    if let Some(deadline) = deadline {
        interrupt = interrupt.at(deadline);
    }
    if let Some(cancellation) = cancellation {
        interrupt = interrupt.when(cancellation.flag());
    }
    interrupt
}

fn grants(function: &Function, request: &Request) -> Result<Grants, RunError> {
    let program = request.program.as_ref().unwrap_or(&function.name);
    let mut grants = Grants::new().args([program]).args(&function.args).args(&request.args);
    for (name, value) in function.env.iter().filter(|(name, _)| !request.env.contains_key(*name)).chain(&request.env) {
        grants = grants.env(name, value);
    }
    for dir in &request.dirs {
        grants = grants.preopen(preopen(dir)?);
    }
    Ok(grants)
}

/// Opens a directory for the guest.
pub(crate) fn preopen(dir: &Directory) -> Result<Preopen, RunError> {
    let opened = Preopen::open(&dir.host, &dir.guest, dir.writable);
    opened.map_err(|error| RunError::Directory { path: dir.host.display().to_string(), why: error.into() })
}
