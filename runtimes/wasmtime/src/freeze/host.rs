//! The host of a component that is initialised to be frozen: it has no directory, no input and no network, and its clocks and random numbers
//! are a recording's.

use super::{FreezeOptions, Written};
use crate::state::{MAX_PARTS, NoNetwork};
use crate::streams;
use bytes::Bytes;
use preheat_call::{Output, Request, RunError};
use preheat_image::manifest::Function;
use preheat_wasi::{Grants, Host as _, Observation, Recording};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{Engine, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::bindings::cli::environment;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};
use wasmtime_wasi::p2::bindings::random::{insecure, insecure_seed, random};
use wasmtime_wasi::p2::{DynPollable, InputStream, Pollable, StreamError, StreamResult, subscribe};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Most bytes of output that are kept to be shown: any output refuses the freeze.
const MAX_OUTPUT: usize = 64 << 10;
/// Most random bytes that are given at once.
const MAX_RANDOM: u64 = 64 << 20;
const NANOS: u64 = 1_000_000_000;

/// What the host keeps for a component that is being initialised.
pub(super) struct State {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    network: NoNetwork,
    recording: Recording,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    pub(super) limits: StoreLimits,
}

impl State {
    pub(super) fn new(function: &Function, options: &FreezeOptions<'_>) -> Result<(Self, Written), RunError> {
        let (stdout, stdout_buffer) = Output::buffer(MAX_OUTPUT);
        let (stderr, stderr_buffer) = Output::buffer(MAX_OUTPUT);
        let mut wasi = WasiCtx::builder();
        let input = NoInput::default();
        wasi.stdin(input.clone());
        let request = Request::new().stdout(stdout).stderr(stderr);
        streams::apply(&request, &mut wasi).map_err(|error| RunError::Host(error.into()))?;
        let mut limits = StoreLimitsBuilder::new().instances(MAX_PARTS).memories(MAX_PARTS).tables(MAX_PARTS);
        if let Some(max) = options.memory {
            limits = limits.memory_size(max);
        }
        let mut grants = Grants::new();
        for (name, value) in &function.env {
            grants = grants.env(name, value);
        }
        options.recording.attach(&grants);
        let state = Self {
            wasi: wasi.build(),
            table: ResourceTable::new(),
            http: WasiHttpCtx::new(),
            network: NoNetwork,
            recording: options.recording.clone(),
            arguments: std::iter::once(&function.name).chain(&function.args).cloned().collect(),
            environment: function.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            limits: limits.build(),
        };
        Ok((state, Written { stdout: stdout_buffer, stderr: stderr_buffer, input }))
    }

    pub(super) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    fn draw(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        let len = usize::try_from(len.min(MAX_RANDOM + 1)).unwrap_or(usize::MAX);
        if len as u64 > MAX_RANDOM {
            return Err(wasmtime::format_err!("it asked for more than {MAX_RANDOM} random bytes at once"));
        }
        let mut bytes = vec![0; len];
        self.recording.random(&mut bytes)?;
        Ok(bytes)
    }

    fn draw_u64(&mut self) -> wasmtime::Result<u64> {
        let mut bytes = [0; 8];
        self.recording.random(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn wait_until(&mut self, deadline: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(Timer { recording: self.recording.clone(), deadline })?;
        subscribe(&mut self.table, timer)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.network, table: &mut self.table, ctx: &mut self.http }
    }
}

/// All that a component may import: what it has later, but that it is recorded.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    environment::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    wall_clock::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    monotonic_clock::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    random::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    insecure::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    insecure_seed::add_to_linker::<State, Recorded>(&mut linker, |state| state)?;
    Ok(linker)
}

struct Recorded;

impl HasData for Recorded {
    type Data<'a> = &'a mut State;
}

impl environment::Host for State {
    fn get_environment(&mut self) -> wasmtime::Result<Vec<(String, String)>> {
        self.recording.observe(Observation::Environment);
        Ok(self.environment.clone())
    }

    fn get_arguments(&mut self) -> wasmtime::Result<Vec<String>> {
        self.recording.observe(Observation::Arguments);
        Ok(self.arguments.clone())
    }

    fn initial_cwd(&mut self) -> wasmtime::Result<Option<String>> {
        Ok(None)
    }
}

impl wall_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(self.recording.realtime()))
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        Ok(datetime(self.recording.resolution()))
    }
}

fn datetime(nanos: u64) -> wall_clock::Datetime {
    wall_clock::Datetime { seconds: nanos / NANOS, nanoseconds: u32::try_from(nanos % NANOS).unwrap_or(0) }
}

impl monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.recording.monotonic())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(self.recording.resolution())
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        // Whether the moment is past already is something that it learns.
        self.recording.monotonic();
        self.wait_until(when)
    }

    fn subscribe_duration(&mut self, time: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let deadline = self.recording.elapsed().saturating_add(time);
        self.wait_until(deadline)
    }
}

impl random::Host for State {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.draw(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.draw_u64()
    }
}

impl insecure::Host for State {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.draw(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.draw_u64()
    }
}

impl insecure_seed::Host for State {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok((self.draw_u64()?, self.draw_u64()?))
    }
}

/// A moment for which a component waits. It comes at once, and the clocks move on to it.
struct Timer {
    recording: Recording,
    deadline: u64,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        let left = self.deadline.saturating_sub(self.recording.elapsed());
        if left > 0 {
            self.recording.sleep(Duration::from_nanos(left));
        }
    }
}

/// Standard input that must not be read. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct NoInput {
    read: Arc<AtomicBool>,
}

impl NoInput {
    /// Whether it was read nevertheless.
    pub(super) fn was_read(&self) -> bool {
        self.read.load(Ordering::SeqCst)
    }
}

pub(super) const READS_INPUT: &str = "it reads standard input in its initialisation, which no call has given yet";

impl IsTerminal for NoInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for NoInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl AsyncRead for NoInput {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.read.store(true, Ordering::SeqCst);
        Poll::Ready(Err(std::io::Error::other(READS_INPUT)))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for NoInput {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl InputStream for NoInput {
    fn read(&mut self, _: usize) -> StreamResult<Bytes> {
        self.read.store(true, Ordering::SeqCst);
        Err(StreamError::Trap(wasmtime::format_err!("{READS_INPUT}")))
    }
}
