//! The unsafe call of this package.

use preheat_compiler::{CompileError, Compiler, Site};
use preheat_image::Digest;
use preheat_loader::{StoreError, TrustedCode};

/// The output of the compiler.
pub(crate) struct CompiledHere(Vec<u8>);

impl CompiledHere {
    pub(crate) fn compile(compiler: &Compiler, wasm: &[u8]) -> Result<Self, CompileError> {
        compiler.compile(wasm, Digest::of(b"freezing")).map(Self)
    }

    /// A resume object for sites of the module from which `base` was compiled.
    pub(crate) fn resume(compiler: &Compiler, wasm: &[u8], base: &Self, sites: &[Site]) -> Result<Self, CompileError> {
        compiler.resume(wasm, &base.0, sites, Digest::of(b"freezing")).map(Self)
    }

    /// Code that may be mapped.
    pub(crate) fn trusted(&self) -> Result<TrustedCode, StoreError> {
        // SAFETY: the bytes are what the compiler made: only the functions above make a value of this type.
        unsafe { TrustedCode::vouch(&self.0, "native") }
    }
}
