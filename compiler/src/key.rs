//! Everything that can change a code object, as fields of its build key.

use crate::{Compiler, Site};
use preheat_image::abi::{ABI_VERSION, NONE};
use preheat_image::key::field;
use preheat_image::statement::Kind;
use preheat_image::{Digest, KeyFields};
use std::collections::BTreeSet;

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
            .with(
                field::PROFILE,
                self.profile.as_ref().map_or_else(String::new, |(summary, passes)| format!("{} {}", summary.digest(), passes.to_text())),
            )
    }

    /// Everything that can change the resume object of the Wasm bytes `source` for these sites, with the code object `base`.
    #[must_use]
    pub fn resume_key_fields(&self, source: &Digest, base: &Digest, sites: &[Site]) -> KeyFields {
        let sites: BTreeSet<Site> = sites.iter().copied().collect();
        let text = |site: Site| match site.offset {
            NONE => format!("{}:import", site.function),
            offset => format!("{}:{offset:#x}", site.function),
        };
        let sites: Vec<String> = sites.into_iter().map(text).collect();
        self.key_fields(source).with(field::BASE, base).with(field::SITES, sites.join(" "))
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
        assert_eq!(differing(CompileOptions { capture: true, ..base }), ["options"]);
        assert_eq!(differing(CompileOptions { verify: true, threads: NonZeroUsize::new(1), ..base }), Vec::<String>::new());
        let other = Compiler::new(base).unwrap().key_fields(&Digest::of(b"other"));
        assert_eq!(key(base).differences(&other).iter().map(|(name, ..)| *name).collect::<Vec<_>>(), [field::SOURCE]);
    }

    #[test]
    fn base_and_sites_change_the_key_of_a_resume_object_and_their_order_does_not() {
        let compiler = Compiler::new(CompileOptions::new(CpuLevel::V2)).unwrap();
        let (source, base) = (Digest::of(b"wasm"), Digest::of(b"base"));
        let site = |function, offset| Site { function, offset };
        let key = compiler.resume_key_fields(&source, &base, &[site(7, 0x20), site(0, NONE)]);
        assert_eq!(key.get(field::SITES), Some("0:import 7:0x20"));
        assert_eq!(key, compiler.resume_key_fields(&source, &base, &[site(0, NONE), site(7, 0x20), site(7, 0x20)]));
        let differing = |other: KeyFields| key.differences(&other).iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(differing(compiler.resume_key_fields(&source, &base, &[site(7, 0x20)])), [field::SITES]);
        assert_eq!(differing(compiler.resume_key_fields(&source, &Digest::of(b"other"), &[site(7, 0x20), site(0, NONE)])), [field::BASE]);
        assert_eq!(differing(compiler.key_fields(&source)), [field::BASE, field::SITES]);
    }
}
