//! Compiling Wasm to code objects of the wasmtime engine.

use crate::config::{BUILD_ID, COMPILER, ENGINE, TARGET, shared};
use crate::sys;
use preheat_image::key::field;
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, Digest, DigestHasher, KeyFields};
use std::hash::Hash as _;
use wasmtime::{Engine, OptLevel};

/// Options of the compiler. All of them are part of the build key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileOptions {
    /// The CPU level that the code may assume.
    pub cpu: CpuLevel,
    /// How hard to optimise.
    pub optimize: Optimize,
}

/// How hard to optimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Optimize {
    /// For speed.
    #[default]
    Speed,
    /// For speed without making the code larger.
    Size,
    /// Not at all: quick to compile.
    None,
}

impl Optimize {
    /// The text of this choice in keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Speed => "speed",
            Self::Size => "size",
            Self::None => "none",
        }
    }
}

/// Wasm that can't be compiled.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct CompileError(wasmtime::Error);

/// A compiler for one CPU level.
#[derive(Clone)]
pub struct Compiler {
    engine: Engine,
    options: CompileOptions,
}

impl Compiler {
    /// Makes a compiler.
    ///
    /// # Errors
    /// When wasmtime refuses the configuration.
    pub fn new(options: CompileOptions) -> Result<Self, CompileError> {
        let configure = || {
            let mut config = shared()?;
            // Named even on such a host: otherwise the host's own features would be used.
            config.target(TARGET)?;
            sys::enable_cpu_features(&mut config, options.cpu);
            config.cranelift_opt_level(match options.optimize {
                Optimize::Speed => OptLevel::Speed,
                Optimize::Size => OptLevel::SpeedAndSize,
                Optimize::None => OptLevel::None,
            });
            Engine::new(&config)
        };
        Ok(Self { engine: configure().map_err(CompileError)?, options })
    }

    /// Everything that can change the code object of the Wasm bytes `source`.
    #[must_use]
    pub fn key_fields(&self, source: &Digest) -> KeyFields {
        let mut engine_options = DigestHasher::new();
        self.engine.precompile_compatibility_hash().hash(&mut engine_options);
        KeyFields::new()
            .with(field::KIND, Kind::CodeObject.name())
            .with(field::SOURCE, source)
            .with(field::ENGINE, ENGINE)
            .with(field::TARGET, TARGET)
            .with(field::CPU, self.options.cpu)
            .with(field::COMPILER, COMPILER)
            .with(field::BUILD_ID, BUILD_ID)
            .with(field::FEATURES, "wasmtime 48 defaults")
            .with(field::OPTIONS, format!("optimize={} interruptible=yes unwind-info=no", self.options.optimize.name()))
            .with(field::OPTIONS_DIGEST, engine_options.finalize())
            .with(field::PROFILE, "")
    }

    /// Compiles a core module or a component. The same bytes give the same code object, however many threads take part.
    ///
    /// # Errors
    /// When the bytes are no valid Wasm or use a feature that is not on. The error names the place in the bytes.
    pub fn compile(&self, wasm: &[u8], is_component: bool) -> Result<Vec<u8>, CompileError> {
        let code = if is_component { self.engine.precompile_component(wasm) } else { self.engine.precompile_module(wasm) };
        code.map_err(CompileError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(cpu: CpuLevel, optimize: Optimize) -> Compiler {
        Compiler::new(CompileOptions { cpu, optimize }).unwrap()
    }

    #[test]
    fn the_same_bytes_give_the_same_code_and_other_levels_other_code() {
        let wasm = wat::parse_str(
            r#"(module (func (export "f") (param f64 f64 f64) (result i64) local.get 0 f64.floor i64.trunc_sat_f64_s i64.popcnt))"#,
        )
        .unwrap();
        let first = compiler(CpuLevel::V2, Optimize::Speed).compile(&wasm, false).unwrap();
        assert_eq!(first, compiler(CpuLevel::V2, Optimize::Speed).compile(&wasm, false).unwrap());
        for cpu in [CpuLevel::V1, CpuLevel::V3, CpuLevel::V4] {
            assert_ne!(first, compiler(cpu, Optimize::Speed).compile(&wasm, false).unwrap(), "{cpu}");
        }
    }

    #[test]
    fn options_change_the_key() {
        let source = Digest::of(b"wasm");
        let key = |cpu, optimize| compiler(cpu, optimize).key_fields(&source);
        let base = key(CpuLevel::V2, Optimize::Speed);
        let differing = |other: &KeyFields| base.differences(other).iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(differing(&key(CpuLevel::V2, Optimize::Speed)), Vec::<String>::new());
        assert_eq!(differing(&key(CpuLevel::V3, Optimize::Speed)), ["cpu", "options-digest"]);
        assert_eq!(differing(&key(CpuLevel::V2, Optimize::Size)), ["options", "options-digest"]);
        assert_eq!(differing(&key(CpuLevel::V2, Optimize::None)), ["options", "options-digest"]);
    }

    #[test]
    fn invalid_wasm_is_an_error_that_says_where() {
        let error = compiler(CpuLevel::V2, Optimize::Speed).compile(b"\0asm\x01\0\0\0\x0a\xff", false).unwrap_err();
        assert!(error.to_string().contains("offset"), "{error}");
    }
}
