//! The unsafe calls of this package.

use preheat_image::CpuLevel;
use preheat_loader::{StoreError, TrustedCode};

/// Code that [`preheat_compiler`] just made.
pub(crate) fn trust(code: &CompiledHere) -> Result<TrustedCode, StoreError> {
    // SAFETY: the bytes are what the compiler made: only `CompiledHere::compile` makes a value of this type.
    unsafe { TrustedCode::vouch(&code.0, "native") }
}

/// The output of [`preheat_compiler`].
#[derive(PartialEq, Eq)]
pub(crate) struct CompiledHere(Vec<u8>);

impl CompiledHere {
    pub(crate) fn compile(compiler: &preheat_compiler::Compiler, wasm: &[u8]) -> Result<Self, preheat_compiler::CompileError> {
        compiler.compile(wasm, preheat_image::Digest::of(b"differential")).map(Self)
    }
}

/// Switches on the instructions that a CPU level has beyond x86-64-v1.
pub(crate) fn enable_cpu_features(config: &mut wasmtime::Config, cpu: CpuLevel) {
    const V2: &[&str] = &["has_cmpxchg16b", "has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];
    const V3: &[&str] = &["has_avx", "has_avx2", "has_bmi1", "has_bmi2", "has_fma", "has_lzcnt"];
    const V4: &[&str] = &["has_avx512f", "has_avx512dq", "has_avx512vl"];
    let levels = [(CpuLevel::V2, V2), (CpuLevel::V3, V3), (CpuLevel::V4, V4)];
    for flag in levels.iter().filter(|(level, _)| *level <= cpu).flat_map(|(_, flags)| *flags) {
        // SAFETY: the flags name instructions that every CPU of this level has, and wasmtime checks each against the host before it runs code.
        unsafe { config.cranelift_flag_enable(flag) };
    }
}
