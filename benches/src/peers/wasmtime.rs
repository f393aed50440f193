//! The wasmtime crate, used by hand as its documentation shows, in this process.

use crate::harness::{Failure, Sample, System};
use crate::workload::Workload;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wasmtime::component::Component;
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig, Store, component};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtx};

/// What happens within the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Compiling the Wasm bytes, then running.
    Jit,
    /// Mapping what was compiled before, then running.
    Precompiled,
    /// Only running: the module is loaded.
    Loaded,
    /// Only compiling the Wasm bytes. Then they run, so that the output can be checked.
    Compile,
}

/// Which options the engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Options {
    /// Wasmtime's defaults. A guest in an endless loop can't be stopped.
    Default,
    /// With epoch interruption, as Preheat has it, so that deadlines work.
    Interruptible,
}

/// Wasmtime by hand.
pub struct ByHand {
    start: Start,
    options: Options,
    scratch: PathBuf,
    engine: Engine,
    core: Linker<WasiP1Ctx>,
    components: component::Linker<WasiP1Ctx>,
    program: Option<Program>,
}

struct Program {
    is_component: bool,
    wasm: Vec<u8>,
    file: PathBuf,
    stdin: Vec<u8>,
    loaded: Code,
}

#[derive(Clone)]
enum Code {
    Core(wasmtime::InstancePre<WasiP1Ctx>),
    Component(component::InstancePre<WasiP1Ctx>),
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("{error:#}"))
}

impl ByHand {
    /// Wasmtime with its pooling allocator, which is what its documentation recommends for many short calls. Compiled modules go to
    /// `scratch`.
    ///
    /// # Errors
    /// When the engine can't be made.
    pub fn new(start: Start, options: Options, scratch: &Path) -> Result<Self, Failure> {
        let mut config = Config::new();
        config.epoch_interruption(options == Options::Interruptible);
        let mut pool = PoolingAllocationConfig::new();
        pool.table_elements(200_000).max_core_instance_size(16 << 20).total_core_instances(256).total_memories(256).total_tables(512);
        pool.max_component_instance_size(16 << 20);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config).map_err(failed)?;
        let mut core = Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_sync(&mut core, |state| state).map_err(failed)?;
        let mut components = component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_sync(&mut components).map_err(failed)?;
        Ok(Self { start, options, scratch: scratch.to_owned(), engine, core, components, program: None })
    }

    fn compile(&self, wasm: &[u8], is_component: bool) -> Result<Code, Failure> {
        if is_component {
            let component = Component::from_binary(&self.engine, wasm).map_err(failed)?;
            self.components.instantiate_pre(&component).map(Code::Component).map_err(failed)
        } else {
            let module = Module::from_binary(&self.engine, wasm).map_err(failed)?;
            self.core.instantiate_pre(&module).map(Code::Core).map_err(failed)
        }
    }

    #[expect(unsafe_code, reason = "the peer is this call")]
    fn map(&self, file: &Path, is_component: bool) -> Result<Code, Failure> {
        if is_component {
            // SAFETY: `prepare` wrote this file with the same engine into a directory of this process, and nobody changes it.
            let component = unsafe { Component::deserialize_file(&self.engine, file) }.map_err(failed)?;
            self.components.instantiate_pre(&component).map(Code::Component).map_err(failed)
        } else {
            // SAFETY: as above.
            let module = unsafe { Module::deserialize_file(&self.engine, file) }.map_err(failed)?;
            self.core.instantiate_pre(&module).map(Code::Core).map_err(failed)
        }
    }

    fn call(&self, code: &Code, program: &Program, workload: &Workload) -> Result<(i32, Vec<u8>), Failure> {
        let stdout = MemoryOutputPipe::new(64 << 20);
        let mut wasi = WasiCtx::builder();
        wasi.arg(&workload.name).args(&workload.args).stdin(MemoryInputPipe::new(program.stdin.clone())).stdout(stdout.clone());
        for (guest, host) in &workload.dirs {
            wasi.preopened_dir(host, guest, FsPerms::ReadOnly).map_err(failed)?;
        }
        let mut store = Store::new(&self.engine, wasi.build_p1());
        store.set_epoch_deadline(u64::MAX / 2);
        let result = match code {
            Code::Core(pre) => {
                let instance = pre.instantiate(&mut store).map_err(failed)?;
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(failed)?;
                start.call(&mut store, ()).map(|()| 0)
            }
            Code::Component(pre) => {
                let pre = wasmtime_wasi::p2::bindings::sync::CommandPre::new(pre.clone()).map_err(failed)?;
                let command = pre.instantiate(&mut store).map_err(failed)?;
                command.wasi_cli_run().call_run(&mut store).map(|result| i32::from(result.is_err()))
            }
        };
        let exit = result.or_else(|error| error.downcast_ref::<I32Exit>().map(|exit| exit.0).ok_or_else(|| failed(&error)))?;
        drop(store);
        Ok((exit, stdout.contents().to_vec()))
    }
}

impl System for ByHand {
    fn name(&self) -> String {
        let name = match self.start {
            Start::Jit => "wasmtime JIT",
            Start::Precompiled => "wasmtime precompiled",
            Start::Loaded => "wasmtime loaded",
            Start::Compile => "wasmtime compile",
        };
        match self.options {
            Options::Default => name.to_owned(),
            Options::Interruptible => format!("{name}, interruptible"),
        }
    }

    fn version(&self) -> String {
        "wasmtime crate 48".to_owned()
    }

    fn prepare(&mut self, workload: &Workload) -> Result<(), Failure> {
        let unfit = |error: &dyn std::fmt::Display| Failure::Unfit(format!("{error:#}"));
        let wasm = std::fs::read(&workload.wasm).map_err(|error| Failure::Absent(format!("{}: {error}", workload.wasm.display())))?;
        let stdin = std::fs::read(&workload.stdin).map_err(|error| unfit(&error))?;
        // Bytes 4 to 8 of a component are another version and layer than those of a core module.
        let is_component = wasm.get(4..8) != Some(&[1, 0, 0, 0]);
        let compiled = if is_component { self.engine.precompile_component(&wasm) } else { self.engine.precompile_module(&wasm) };
        let file = self.scratch.join(format!("{}.{:?}", workload.name, self.options));
        std::fs::write(&file, compiled.map_err(|error| unfit(&error))?).map_err(|error| unfit(&error))?;
        let loaded = self.map(&file, is_component)?;
        self.program = Some(Program { is_component, wasm, file, stdin, loaded });
        Ok(())
    }

    fn measure(&mut self, workload: &Workload, _limit: Duration) -> Result<Sample, Failure> {
        let Some(program) = &self.program else { return Err(Failure::Unfit("not prepared".into())) };
        let started = Instant::now();
        let code = match self.start {
            Start::Jit => self.compile(&program.wasm, program.is_component)?,
            Start::Compile => {
                let engine = &self.engine;
                let wasm = &program.wasm;
                let code = if program.is_component { engine.precompile_component(wasm) } else { engine.precompile_module(wasm) };
                drop(code.map_err(failed)?);
                program.loaded.clone()
            }
            Start::Precompiled => self.map(&program.file, program.is_component)?,
            Start::Loaded => program.loaded.clone(),
        };
        let prepared = started.elapsed();
        let (exit, output) = self.call(&code, program, workload)?;
        // Letting go of the module is not part of answering.
        let seconds = if self.start == Start::Compile { prepared } else { started.elapsed() }.as_secs_f64();
        Ok(Sample { seconds, exit, output })
    }

    fn files(&self) -> Vec<PathBuf> {
        self.program.iter().map(|program| program.file.clone()).collect()
    }
}
