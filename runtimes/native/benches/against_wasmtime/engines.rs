//! Both engines behind one interface.

#![allow(unsafe_code, reason = "code objects without a store")]

use crate::wasi::{Outcome, Wasi};
use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_loader::TrustedCode;
use std::time::Duration;

/// The thread's own time.
pub(crate) fn thread_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// The level of this host's CPU, which both sides compile for.
pub(crate) fn level() -> CpuLevel {
    CpuLevel::of_host().expect("this is an x86-64 host")
}

/// An exported function `run` of a kernel, in an instance of its own.
pub(crate) type Kernel = Box<dyn FnMut(i32) -> i64>;

/// A program that can be run again and again: gives its time in `_start` and what it wrote.
pub(crate) type Program = Box<dyn Fn(Wasi) -> Result<(Duration, Vec<u8>), String>>;

/// A system.
pub(crate) trait System {
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String>;
    fn kernel(&self, code: &[u8]) -> Kernel;
    fn program(&self, code: &[u8]) -> Program;
}

/// The native engine.
pub(crate) struct Native {
    compiler: Compiler,
    pub(crate) engine: preheat_native::Engine,
}

impl Native {
    pub(crate) fn new(interruptible: bool, threads: Option<usize>) -> Self {
        let threads = threads.and_then(std::num::NonZero::new);
        let options = CompileOptions { interruptible, threads, ..CompileOptions::new(level()) };
        let config = preheat_native::Config { prepared: 4, stack: 8 << 20, ..preheat_native::Config::default() };
        Self { compiler: Compiler::new(options).unwrap(), engine: preheat_native::Engine::new(config).unwrap() }
    }

    pub(crate) fn load(&self, code: TrustedCode) -> preheat_native::Module {
        preheat_native::Module::load(&self.engine, code).unwrap()
    }

    /// Code that [`System::compile`] made.
    pub(crate) fn trust(code: &[u8]) -> TrustedCode {
        // SAFETY: this compiler made it in this process.
        unsafe { TrustedCode::vouch(code, "native") }.unwrap()
    }
}

impl System for Native {
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String> {
        self.compiler.compile(wasm, Digest::of(b"bench")).map_err(|error| error.to_string())
    }

    fn kernel(&self, code: &[u8]) -> Kernel {
        let mut store = preheat_native::Store::new(&self.engine, ()).unwrap();
        let instance = preheat_native::Linker::new().instantiate(&mut store, &self.load(Self::trust(code))).unwrap();
        let run = instance.typed_func::<i32, i64>(&store, "run").unwrap();
        Box::new(move |times| run.call(&mut store, times).unwrap())
    }

    fn program(&self, code: &[u8]) -> Program {
        use preheat_native::{Error, ExternType, Linker, Store, Val};
        let module = self.load(Self::trust(code));
        let mut linker = Linker::<Wasi>::new();
        for import in module.imports().unwrap() {
            let ExternType::Func(ty) = import.ty else { continue };
            let name = import.name.to_owned();
            let function = move |caller: &mut preheat_native::Caller<'_, Wasi>, params: &[Val]| {
                let params = params.iter().map(|param| match param {
                    Val::I32(value) => u64::from(value.cast_unsigned()),
                    Val::I64(value) => value.cast_unsigned(),
                    _ => 0,
                });
                let params: Vec<u64> = params.collect();
                let memory = caller.memory().ok_or_else(|| Error::Link("no memory".into()))?;
                let (bytes, wasi) = caller.memory_and_data(memory);
                match wasi.call(&name, bytes, &params) {
                    Outcome::Errno(errno) => Ok(vec![Val::I32(errno)]),
                    Outcome::Exit => Err(Error::host("exit")),
                }
            };
            linker.func_new(import.module, import.name, ty, function).unwrap();
        }
        let (engine, pre) = (self.engine.clone(), linker.instantiate_pre(&module).unwrap());
        Box::new(move |wasi| {
            let mut store = Store::new(&engine, wasi).unwrap();
            let instance = pre.instantiate(&mut store).map_err(|error| error.to_string())?;
            let start = instance.typed_func::<(), ()>(&store, "_start").map_err(|error| error.to_string())?;
            let before = thread_time();
            let result = start.call(&mut store, ());
            let time = thread_time() - before;
            let wasi = store.data_mut();
            match result {
                Err(error) if !wasi.exited => Err(error.to_string()),
                _ => Ok((time, std::mem::take(&mut wasi.stdout))),
            }
        })
    }
}

/// Wasmtime.
pub(crate) struct Wasmtime {
    pub(crate) engine: wasmtime::Engine,
}

impl Wasmtime {
    pub(crate) fn new(interruptible: bool, parallel: bool) -> Self {
        const V2: [&str; 6] = ["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
        const V3: [&str; 6] = ["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
        const V4: [&str; 3] = ["has_avx512f", "has_avx512dq", "has_avx512vl"];
        let mut config = wasmtime::Config::new();
        // Named even on such a host: otherwise all features of the host would be used.
        config.target("x86_64-unknown-linux-gnu").unwrap();
        config.epoch_interruption(interruptible).parallel_compilation(parallel).max_wasm_stack(1 << 20);
        for (level, flags) in [(CpuLevel::V2, &V2[..]), (CpuLevel::V3, &V3), (CpuLevel::V4, &V4)] {
            for flag in flags.iter().filter(|_| level <= self::level()) {
                // SAFETY: the flags name instructions that CPUs of this level have.
                unsafe { config.cranelift_flag_enable(flag) };
            }
        }
        let mut pool = wasmtime::PoolingAllocationConfig::new();
        pool.table_elements(200_000).max_core_instance_size(16 << 20).total_core_instances(64).total_memories(64).total_tables(64);
        // So that a slot can be used again without page faults, as the native engine's slots are.
        pool.linear_memory_keep_resident(16 << 20).table_keep_resident(1 << 20).pagemap_scan(wasmtime::Enabled::Auto);
        config.allocation_strategy(wasmtime::InstanceAllocationStrategy::Pooling(pool));
        Self { engine: wasmtime::Engine::new(&config).unwrap() }
    }

    pub(crate) fn load(&self, code: &[u8]) -> wasmtime::Module {
        // SAFETY: this engine made it in this process.
        unsafe { wasmtime::Module::deserialize(&self.engine, code) }.unwrap()
    }

    pub(crate) fn load_file(&self, path: &std::path::Path) -> wasmtime::Module {
        // SAFETY: this engine made it in this process, and nobody changes the file.
        unsafe { wasmtime::Module::deserialize_file(&self.engine, path) }.unwrap()
    }
}

impl System for Wasmtime {
    fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, String> {
        self.engine.precompile_module(wasm).map_err(|error| error.to_string())
    }

    fn kernel(&self, code: &[u8]) -> Kernel {
        let mut store = wasmtime::Store::new(&self.engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = wasmtime::Instance::new(&mut store, &self.load(code), &[]).unwrap();
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").unwrap();
        Box::new(move |times| run.call(&mut store, times).unwrap())
    }

    fn program(&self, code: &[u8]) -> Program {
        use wasmtime::{Extern, ExternType, Linker, Store, Val};
        let module = self.load(code);
        let mut linker = Linker::<Wasi>::new(&self.engine);
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { continue };
            let name = import.name().to_owned();
            let function = move |mut caller: wasmtime::Caller<'_, Wasi>, params: &[Val], results: &mut [Val]| {
                let params = params.iter().map(|param| match param {
                    Val::I32(value) => u64::from(value.cast_unsigned()),
                    Val::I64(value) => value.cast_unsigned(),
                    _ => 0,
                });
                let params: Vec<u64> = params.collect();
                let memory = caller.get_export("memory").and_then(Extern::into_memory).ok_or_else(|| wasmtime::Error::msg("no memory"))?;
                let (bytes, wasi) = memory.data_and_store_mut(&mut caller);
                match wasi.call(&name, bytes, &params) {
                    Outcome::Errno(errno) => {
                        results[0] = Val::I32(errno);
                        Ok(())
                    }
                    Outcome::Exit => Err(wasmtime::Error::msg("exit")),
                }
            };
            linker.func_new(import.module(), import.name(), ty, function).unwrap();
        }
        let (engine, pre) = (self.engine.clone(), linker.instantiate_pre(&module).unwrap());
        Box::new(move |wasi| {
            let mut store = Store::new(&engine, wasi);
            store.set_epoch_deadline(u64::MAX / 2);
            let instance = pre.instantiate(&mut store).map_err(|error| error.to_string())?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(|error| error.to_string())?;
            let before = thread_time();
            let result = start.call(&mut store, ());
            let time = thread_time() - before;
            let wasi = store.data_mut();
            match result {
                Err(error) if !wasi.exited => Err(error.to_string()),
                _ => Ok((time, std::mem::take(&mut wasi.stdout))),
            }
        })
    }
}
