//! Preheat's compiler: WebAssembly to machine code, in code objects of the native engine.
//!
//! [`Compiler::compile`] reads a core module, translates each function to Cranelift's intermediate language (CLIF), has Cranelift make machine
//! code of it, and links everything into a file that a loader maps as it is ([`preheat_image::native`]). What the code expects of the
//! runtime that calls it is in [`preheat_image::abi`].
//!
//! | file | what it does |
//! |---|---|
//! | `features` | which Wasm is supported, and what an unsupported module would need |
//! | `module`, `constants` | what a module declares |
//! | `translate/` | a function's instructions to CLIF, a family of them a file |
//! | `trampolines`, `helpers` | the functions in the text that are not the module's |
//! | `codegen`, `parallel` | CLIF to bytes, on several threads |
//! | `segments` | initial memories and tables |
//! | `flow/`, `instrument/` | how often each part of a function runs, and modules that count it |
//! | `guide/`, `passes` | what a profile says, and what it is used for |
//! | `freeze/` | where a program can be frozen, and what must survive there |
//! | `resume` | resume objects |
//! | `link` | everything to a code object |
//! | `key` | everything that can change a code object |
//!
//! The same bytes and options give the same code object, however many threads take part.

#![forbid(unsafe_code)]

mod codegen;
mod constants;
mod error;
mod features;
mod flow;
mod freeze;
mod guide;
mod helpers;
mod instrument;
mod key;
mod link;
mod module;
mod parallel;
mod passes;
mod resume;
mod segments;
mod signature;
mod target;
mod trampolines;
mod translate;

pub use error::CompileError;
pub use freeze::Site;
pub use instrument::{COUNTERS, Instrumented, KnownFunction, functions};
pub use key::{BUILD_ID, COMPILER, ENGINE, FEATURES, TARGET};
pub use passes::Passes;

use cranelift_codegen::isa::OwnedTargetIsa;
use guide::Guide;
use preheat_image::profile::Summary;
use preheat_image::{CpuLevel, Digest};
use std::num::NonZeroUsize;
use std::sync::Arc;

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

/// Options of the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileOptions {
    /// The CPU level that the code may assume.
    pub cpu: CpuLevel,
    /// How hard to optimise.
    pub optimize: Optimize,
    /// Whether code can be interrupted.
    pub interruptible: bool,
    /// Whether to write the table that leads from code back to Wasm.
    pub address_map: bool,
    /// Whether calls keep what is live, so that a running program can be frozen: for builds, not for production.
    pub capture: bool,
    /// Whether Cranelift checks what it is given: for tests. Changes no code.
    pub verify: bool,
    /// How many threads compile; without, as many as the process may use. Changes no code.
    pub threads: Option<NonZeroUsize>,
}

impl CompileOptions {
    /// The usual options for a CPU level.
    #[must_use]
    pub const fn new(cpu: CpuLevel) -> Self {
        Self { cpu, optimize: Optimize::Speed, interruptible: true, address_map: true, capture: false, verify: false, threads: None }
    }

    /// All options that change code, but the CPU level, as text for build keys.
    fn to_key_text(self) -> String {
        let yes = |on: bool| if on { "yes" } else { "no" };
        let (interruptible, address_map) = (yes(self.interruptible), yes(self.address_map));
        format!("optimize={} interruptible={interruptible} address-map={address_map} capture={}", self.optimize.name(), yes(self.capture))
    }
}

/// A compiler for one set of options.
pub struct Compiler {
    options: CompileOptions,
    isa: OwnedTargetIsa,
    profile: Option<(Arc<Summary>, Passes)>,
}

impl Compiler {
    /// Makes a compiler.
    ///
    /// # Errors
    /// When Cranelift refuses the options.
    pub fn new(options: CompileOptions) -> Result<Self, CompileError> {
        Ok(Self { options, isa: target::target(&options)?, profile: None })
    }

    /// The same, steered by a profile in these passes. Whatever the profile says, the code computes the same. Code that captures is not steered: it
    /// runs once.
    #[must_use]
    pub fn with_profile(mut self, profile: Arc<Summary>, passes: Passes) -> Self {
        self.profile = (!self.options.capture).then_some((profile, passes));
        self
    }

    /// The options.
    #[must_use]
    pub fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// Compiles the core module `wasm` into a code object under the build key `key`.
    ///
    /// # Errors
    /// When the bytes are no valid Wasm, want a feature that the native engine lacks, or are too large.
    pub fn compile(&self, wasm: &[u8], key: Digest) -> Result<Vec<u8>, CompileError> {
        self.compile_supported(wasm, key).map_err(|error| features::classify(wasm, error))
    }

    /// The functions of `wasm` as CLIF in text form, before optimisation: for people and tests.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn clif(&self, wasm: &[u8]) -> Result<String, CompileError> {
        let translate = || {
            let (module, bodies) = module::parse(wasm)?;
            parallel::clif(&module, bodies, &self.options, &*self.isa)
        };
        translate().map_err(|error| features::classify(wasm, error))
    }

    fn compile_supported(&self, wasm: &[u8], key: Digest) -> Result<Vec<u8>, CompileError> {
        let (module, bodies) = module::parse(wasm)?;
        let ranges: Vec<(u32, u32)> = bodies.iter().map(|body| body_range(&body.body)).collect::<Result<_, _>>()?;
        let guide = self.profile.as_ref().map(|(summary, passes)| Guide::new(summary, &bodies, *passes));
        let code = parallel::compile(&module, bodies, &self.options, &*self.isa, guide.as_ref())?;
        let imported = module.imported().imported_functions;
        let order = match guide.as_ref().filter(|guide| guide.passes().layout) {
            Some(guide) => guide::order(guide, imported, code.functions.len()),
            None => (0..code.functions.len()).collect(),
        };
        let parts = link::link(&module, code, &ranges, &order, &self.options)?;
        Ok(parts.encode(Digest::of(wasm), key, self.options.cpu)?)
    }
}

/// Where a body is in the Wasm, and its size.
fn body_range(body: &wasmparser::FunctionBody<'_>) -> Result<(u32, u32), CompileError> {
    let range = body.range();
    Ok((module::narrow(range.start, "the module")?, module::narrow(range.len(), "a function body")?))
}
