//! Everything that can change a code object, as fields of its build key.

use crate::Compiler;
use preheat_image::abi::ABI_VERSION;
use preheat_image::key::field;
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields};

/// The name of the engine in manifests and keys.
pub const ENGINE: &str = "native";
/// The target whose code this compiler makes.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The compiler with its full version.
pub const COMPILER: &str = concat!("preheat ", env!("CARGO_PKG_VERSION"), ", native, cranelift ", env!("PREHEAT_CRANELIFT_VERSION"));
/// Digest over everything that went into this build of the compiler: its sources, its packages with their checksums, the Rust compiler.
pub const BUILD_ID: &str = env!("PREHEAT_BUILD_ID");
/// Which Wasm the compiler takes.
pub const FEATURES: &str = "Wasm 2.0, extended constants, tail calls, multiple memories, relaxed SIMD, exceptions";

impl Compiler {
    /// Everything that can change the code object of the Wasm bytes `source`.
    #[must_use]
    pub fn key_fields(&self, source: &Digest) -> KeyFields {
        KeyFields::new()
            .with(field::KIND, Kind::CodeObject.name())
            .with(field::SOURCE, source)
            .with(field::ENGINE, ENGINE)
            .with(field::TARGET, TARGET)
            .with(field::CPU, self.options.cpu)
            .with(field::COMPILER, COMPILER)
            .with(field::BUILD_ID, BUILD_ID)
            .with(field::FEATURES, FEATURES)
            .with(field::OPTIONS, format!("abi={ABI_VERSION} {}", self.options.to_key_text()))
            .with(field::OPTIONS_DIGEST, self.flags_digest())
            .with(field::PROFILE, "")
    }

    /// Digest over Cranelift's settings. Its verifier changes no code and so is not among them.
    fn flags_digest(&self) -> Digest {
        let flags = self.isa.flags().iter().chain(self.isa.isa_flags());
        let text: Vec<String> = flags.filter(|flag| flag.name != "enable_verifier").map(|flag| flag.to_string()).collect();
        Digest::of(text.join("\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompileOptions, Optimize};
    use preheat_image::CpuLevel;
    use std::num::NonZeroUsize;

    #[test]
    fn options_that_change_code_and_only_those_change_the_key() {
        let source = Digest::of(b"wasm");
        let key = |options| Compiler::new(options).unwrap().key_fields(&source);
        let base = CompileOptions::new(CpuLevel::V2);
        let differing = |options| key(base).differences(&key(options)).iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(differing(CompileOptions::new(CpuLevel::V3)), ["cpu", "options-digest"]);
        assert_eq!(differing(CompileOptions { optimize: Optimize::Size, ..base }), ["options", "options-digest"]);
        assert_eq!(differing(CompileOptions { optimize: Optimize::None, ..base }), ["options", "options-digest"]);
        assert_eq!(differing(CompileOptions { interruptible: false, ..base }), ["options"]);
        assert_eq!(differing(CompileOptions { address_map: false, ..base }), ["options"]);
        assert_eq!(differing(CompileOptions { verify: true, threads: NonZeroUsize::new(1), ..base }), Vec::<String>::new());
        let other = Compiler::new(base).unwrap().key_fields(&Digest::of(b"other"));
        assert_eq!(key(base).differences(&other).iter().map(|(name, ..)| *name).collect::<Vec<_>>(), [field::SOURCE]);
    }
}
