//! Wasmtime, set up as the native engine is.

use super::guest::{Guest, Outcome};
use super::{Engine, Kernel, Opening, Program, Slot, thread_time};
use anyhow::{Context as _, Result, anyhow};
use preheat_image::CpuLevel;
use std::path::Path;
use std::time::Instant;
use wasmtime::{Caller, Config, Extern, ExternType, InstanceAllocationStrategy, Linker, Module, PoolingAllocationConfig, Store, Val};

/// The level of this host's CPU, for which both sides compile.
///
/// # Errors
/// On a host that is not x86-64.
pub fn level() -> Result<CpuLevel> {
    CpuLevel::of_host().context("this host's CPU has no level: it is not x86-64")
}

fn error(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error:#}")
}

fn config(interruptible: bool, inlining: bool) -> Result<Config> {
    const V2: [&str; 6] = ["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
    const V3: [&str; 6] = ["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
    const V4: [&str; 3] = ["has_avx512f", "has_avx512dq", "has_avx512vl"];
    let mut config = Config::new();
    // Named even on such a host: otherwise all features of the host would be used.
    config.target("x86_64-unknown-linux-gnu").map_err(error)?;
    config.epoch_interruption(interruptible).max_wasm_stack(1 << 20);
    // Its default is to inline nothing.
    if inlining {
        config.compiler_inlining(wasmtime::Inlining::Yes);
    }
    let host = level()?;
    for (level, flags) in [(CpuLevel::V2, &V2[..]), (CpuLevel::V3, &V3), (CpuLevel::V4, &V4)] {
        for flag in flags.iter().filter(|_| level <= host) {
            #[expect(unsafe_code, reason = "wasmtime asks whoever names flags to know them")]
            // SAFETY: the flags name instructions that CPUs of this level have.
            unsafe {
                config.cranelift_flag_enable(flag);
            }
        }
    }
    Ok(config)
}

/// Compiles for this host and does nothing else.
///
/// # Errors
/// When it can't be compiled.
pub fn compile(wasm: &[u8]) -> Result<Vec<u8>> {
    wasmtime::Engine::new(&config(false, false)?).and_then(|engine| engine.precompile_module(wasm)).map_err(error)
}

/// Wasmtime with its pooling allocator.
pub struct Wasmtime {
    engine: wasmtime::Engine,
}

impl Wasmtime {
    /// Sets it up.
    ///
    /// # Errors
    /// When the machine can't have it.
    pub fn new(interruptible: bool, inlining: bool) -> Result<Self> {
        let mut config = config(interruptible, inlining)?;
        let mut pool = PoolingAllocationConfig::new();
        pool.table_elements(200_000).max_core_instance_size(16 << 20).total_core_instances(64).total_memories(64).total_tables(64);
        // So that a slot can be used again without page faults, as the native engine's slots are.
        pool.linear_memory_keep_resident(16 << 20).table_keep_resident(1 << 20).pagemap_scan(wasmtime::Enabled::Auto);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        Ok(Self { engine: wasmtime::Engine::new(&config).map_err(error)? })
    }

    fn store<T>(engine: &wasmtime::Engine, data: T) -> Store<T> {
        let mut store = Store::new(engine, data);
        store.set_epoch_deadline(u64::MAX / 2);
        store
    }
}

impl Engine for Wasmtime {
    fn kernel(&self, wasm: &[u8]) -> Result<Kernel> {
        let module = Module::new(&self.engine, wasm).map_err(error)?;
        let mut store = Self::store(&self.engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).map_err(error)?;
        let run = instance.get_typed_func::<i32, i64>(&mut store, "run").map_err(error)?;
        Ok(Box::new(move |times| run.call(&mut store, times).map_err(error)))
    }

    fn program(&self, wasm: &[u8]) -> Result<Program> {
        let module = Module::new(&self.engine, wasm).map_err(error)?;
        let mut linker = Linker::<Guest>::new(&self.engine);
        // Go imports some functions twice.
        linker.allow_shadowing(true);
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { continue };
            let name = import.name().to_owned();
            let function = move |mut caller: Caller<'_, Guest>, params: &[Val], results: &mut [Val]| {
                let params = params.iter().map(|param| match param {
                    Val::I32(value) => u64::from(value.cast_unsigned()),
                    Val::I64(value) => value.cast_unsigned(),
                    _ => 0,
                });
                let params: Vec<u64> = params.collect();
                let memory = caller.get_export("memory").and_then(Extern::into_memory).ok_or_else(|| wasmtime::Error::msg("no memory"))?;
                let (bytes, guest) = memory.data_and_store_mut(&mut caller);
                match guest.call(&name, bytes, &params) {
                    Outcome::Errno(errno) => {
                        results[0] = Val::I32(errno);
                        Ok(())
                    }
                    Outcome::Exit => Err(wasmtime::Error::msg("exit")),
                }
            };
            linker.func_new(import.module(), import.name(), ty, function).map_err(error)?;
        }
        let (engine, pre) = (self.engine.clone(), linker.instantiate_pre(&module).map_err(error)?);
        Ok(Box::new(move |guest| {
            let mut store = Self::store(&engine, guest);
            let instance = pre.instantiate(&mut store).map_err(error)?;
            let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(error)?;
            let before = thread_time();
            let result = start.call(&mut store, ());
            let time = thread_time() - before;
            match result {
                Err(what) if !store.data().has_exited() => Err(error(what)),
                _ => Ok((time, store.data_mut().take_output())),
            }
        }))
    }

    fn code_size(&self, wasm: &[u8]) -> Result<usize> {
        self.engine.precompile_module(wasm).map(|code| code.len()).map_err(error)
    }

    fn opening(&self, wasm: &[u8], scratch: &Path) -> Result<Opening> {
        let file = scratch.join("wasmtime");
        std::fs::write(&file, self.engine.precompile_module(wasm).map_err(error)?)?;
        let engine = self.engine.clone();
        Ok(Box::new(move || {
            let started = Instant::now();
            #[expect(unsafe_code, reason = "the peer is this call")]
            // SAFETY: this engine made it, in a directory of this process, and nobody changes it.
            let module = unsafe { Module::deserialize_file(&engine, &file) }.map_err(error)?;
            let pre = Linker::<()>::new(&engine).instantiate_pre(&module).map_err(error)?;
            let mut store = Self::store(&engine, ());
            let instance = pre.instantiate(&mut store).map_err(error)?;
            let dirty = instance.get_typed_func::<i32, i32>(&mut store, "dirty").map_err(error)?;
            let time = started.elapsed();
            dirty.call(&mut store, 1).map_err(error)?;
            Ok(time)
        }))
    }

    fn slot(&self, wasm: &[u8]) -> Result<Slot> {
        let module = Module::new(&self.engine, wasm).map_err(error)?;
        let (engine, pre) = (self.engine.clone(), Linker::<()>::new(&self.engine).instantiate_pre(&module).map_err(error)?);
        Ok(Box::new(move |pages| {
            let started = Instant::now();
            let mut store = Self::store(&engine, ());
            let instance = pre.instantiate(&mut store).map_err(error)?;
            let dirty = instance.get_typed_func::<i32, i32>(&mut store, "dirty").map_err(error)?;
            let taken = started.elapsed();
            dirty.call(&mut store, pages).map_err(error)?;
            let started = Instant::now();
            drop(store);
            Ok(taken + started.elapsed())
        }))
    }
}
