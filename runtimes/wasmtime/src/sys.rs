//! The unsafe calls of this crate, each behind a safe function whose arguments carry the promise.

#![allow(unsafe_code)]

use preheat_loader::TrustedCode;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// Maps the code object of a core module.
pub(crate) fn map_module(engine: &Engine, code: TrustedCode) -> Result<Module, wasmtime::Error> {
    // SAFETY: the file must hold what `Engine::precompile_module` made and must not change while it is mapped. A `TrustedCode` exists only
    // for bytes that a trusted builder vouches for as a code object, that were hashed, and whose file the store never writes again (mode
    // 0444, replaced only by rename); `WasmtimeEngine::load` takes those of this engine only. Wasmtime itself refuses what another version
    // made, since `module_version` is our build id.
    unsafe { Module::deserialize_open_file(engine, code.into_file()) }
}

/// Maps the code object of a component.
pub(crate) fn map_component(engine: &Engine, code: &TrustedCode) -> Result<Component, wasmtime::Error> {
    use std::os::fd::AsRawFd as _;
    // Through the descriptor, not through the store's path: the file that was checked is the file that is mapped.
    let path = format!("/proc/self/fd/{}", code.file().file().as_raw_fd());
    // SAFETY: as for `map_module`, with `Engine::precompile_component`; `code` stays open during the call, so the path leads to its inode.
    unsafe { Component::deserialize_file(engine, path) }
}

/// Switches on instructions that the CPU level `cpu` has beyond x86-64-v1.
#[cfg(feature = "compile")]
pub(crate) fn enable_cpu_features(config: &mut wasmtime::Config, cpu: preheat_image::CpuLevel) {
    use preheat_image::CpuLevel::{V2, V3, V4};
    const V2_FLAGS: [&str; 6] = ["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
    const V3_FLAGS: [&str; 6] = ["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
    const V4_FLAGS: [&str; 3] = ["has_avx512f", "has_avx512dq", "has_avx512vl"];
    let flags = [(V2, &V2_FLAGS[..]), (V3, &V3_FLAGS[..]), (V4, &V4_FLAGS[..])];
    for flag in flags.iter().filter(|(level, _)| *level <= cpu).flat_map(|(_, flags)| *flags) {
        // SAFETY: the flags only name instructions that every CPU of this level has (psABI section 3.1.1), and code is loaded only on
        // hosts of its level or above; wasmtime checks each flag against the host once more when it maps the code.
        unsafe { config.cranelift_flag_enable(flag) };
    }
}
