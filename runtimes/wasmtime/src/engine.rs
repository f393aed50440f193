//! The engine: what all images of a process share.

use crate::config;
use crate::error::cause;
use crate::host;
use crate::loaded::Loaded;
use crate::state::State;
use crate::ticker::{Ticker, Ticking};
use preheat_call::{HostFunction, RunError};
use preheat_image::manifest::Function;
use preheat_loader::TrustedCode;
use std::sync::{Arc, OnceLock};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig, component};

/// Options of an engine.
#[derive(Debug, Clone)]
#[must_use]
pub struct EngineOptions {
    /// Slots for instances, kept ready and reset by copying. `None`: every instance maps its own memory, which costs a process that runs
    /// one function less than setting up slots would.
    pub slots: Option<u32>,
    /// Whether host calls may block the calling thread; right for a process that runs one function at a time.
    pub blocking: bool,
    /// Functions that core modules may import.
    pub host_functions: Vec<HostFunction>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { slots: Some(256), blocking: false, host_functions: Vec::new() }
    }
}

/// Most table elements in a slot. Slots only reserve addresses for them.
const SLOT_TABLE_ELEMENTS: usize = 200_000;
/// Bytes of a memory that a slot keeps when it is reset, cleared by writing instead of by giving pages back to the kernel.
const SLOT_RESIDENT: usize = 256 * 1024;

/// An engine. Clones share everything; all of it may be used from many threads.
#[derive(Clone)]
pub struct WasmtimeEngine {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) blocking: bool,
    host_functions: Vec<HostFunction>,
    core: OnceLock<Linker<State>>,
    component: OnceLock<component::Linker<State>>,
    ticker: Ticker,
}

impl WasmtimeEngine {
    /// Makes an engine.
    ///
    /// # Errors
    /// When the address space for the slots can't be reserved.
    pub fn new(options: EngineOptions) -> Result<Self, RunError> {
        // To wasmtime a guest's exit is an error, and with RUST_BACKTRACE set every error captures the host's stack. Nobody ever sees it, and
        // the first one makes a static binary sort the unwind tables of all its functions: 15 ms. The switch is the process's, so it is
        // touched only in one that is there for a single call; an embedder's wasmtime stays as the embedder has it.
        if options.blocking {
            wasmtime::error::disable_backtrace();
        }
        let configure = || {
            let mut config = config::shared()?;
            // Nothing is compiled here: what runs comes from images. In a build without a compiler this is so anyway.
            #[cfg(feature = "compile")]
            config.enable_compiler(false);
            if let Some(slots) = options.slots {
                let mut pool = PoolingAllocationConfig::new();
                pool.total_core_instances(slots)
                    .total_component_instances(slots)
                    .total_memories(slots)
                    .total_tables(slots.saturating_mul(2))
                    .total_stacks(slots)
                    .table_elements(SLOT_TABLE_ELEMENTS)
                    .max_core_instance_size(16 << 20)
                    .max_component_instance_size(16 << 20)
                    .linear_memory_keep_resident(SLOT_RESIDENT)
                    .table_keep_resident(SLOT_RESIDENT)
                    .pagemap_scan(Enabled::Auto);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
            }
            Engine::new(&config)
        };
        let inner = Inner {
            engine: configure().map_err(|error| RunError::Instantiate(cause(error)))?,
            blocking: options.blocking,
            host_functions: options.host_functions,
            core: OnceLock::new(),
            component: OnceLock::new(),
            ticker: Ticker::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Maps a code object and links its function.
    ///
    /// # Errors
    /// When the code object is not for this build of this engine, or the function imports what is not offered.
    pub fn load(&self, code: TrustedCode, function: &Function) -> Result<Loaded, RunError> {
        if code.engine() != config::ENGINE {
            return Err(RunError::Usage(format!("the code object is for engine `{}`, this is `{}`", code.engine(), config::ENGINE)));
        }
        Loaded::new(self, code, function)
    }

    pub(crate) fn core_linker(&self) -> Result<&Linker<State>, RunError> {
        cached(&self.inner.core, || {
            let mut linker = Linker::new(&self.inner.engine);
            wasmtime_wasi::p1::add_to_linker_async(&mut linker, |state: &mut State| &mut state.wasi)?;
            for function in &self.inner.host_functions {
                host::define(function, &mut linker)?;
            }
            Ok(linker)
        })
    }

    pub(crate) fn component_linker(&self) -> Result<&component::Linker<State>, RunError> {
        cached(&self.inner.component, || {
            let mut linker = component::Linker::new(&self.inner.engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
            Ok(linker)
        })
    }

    /// Time passes for guests while the answer lives.
    pub(crate) fn tick(&self) -> Ticking {
        self.inner.ticker.start(&self.inner.engine)
    }
}

/// What `make` made, now or before.
fn cached<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T, wasmtime::Error>) -> Result<&T, RunError> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make().map_err(|error| RunError::Link(cause(error)))?;
    Ok(cell.get_or_init(|| value))
}
