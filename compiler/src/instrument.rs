//! Modules that count: the same program, with counters in a memory of its own.
//!
//! Counting is written in Wasm, so that it means the same on every engine, and a program that counts is compiled, frozen and run like any
//! other. What it counts in is a memory that the program does not have and so can't see, exported as [`COUNTERS`]: whoever runs an instance reads it
//! when he likes. Counters are no atomics: an instance is one thread.
//!
//! Which edges of a function need a counter is decided in [`crate::flow`]. Of an indirect call the entries of the table are noted that were called
//! most, in a few slots: who comes when all are taken wears the last one out (Misra and Gries, 1982). Of each function it is noted as the
//! how-manieth one it was called first.
//!
//! | bytes of the memory | what |
//! |---|---|
//! | 8 | how many functions have been called |
//! | then for each function 8 | as the how-manieth one it was called first, from 1; 0 if it was not |
//! | 8 for each counter | how often the function was entered, then the edges that are counted, by [`crate::flow`]'s order |
//! | 8 for each arm | of each `br_table` of which an arm is counted |
//! | 64 | of each indirect call: four times the number of a table's entry, from 1, and how often it was seen |
//!
//! Functions that catch exceptions are counted as a whole: where in them an exception is thrown is not known.

mod plan;
mod read;
mod rewrite;

use crate::module::Body;
use crate::{CompileError, features, module};
use plan::Plan;
use preheat_image::Digest;
use preheat_image::profile::{BodyDigest, FunctionProfile, ShapeDigest};

/// The name under which the memory of the counters is exported.
pub const COUNTERS: &str = "preheat.counters";

/// A module that counts, made from another.
pub struct Instrumented<'w> {
    source: &'w [u8],
    wasm: Vec<u8>,
    plan: Plan,
}

impl<'w> Instrumented<'w> {
    /// Makes one from the core module `source`.
    ///
    /// # Errors
    /// When the bytes are no valid Wasm, want a feature that the compiler lacks, export something under the name of the counters, or are too
    /// large with them.
    pub fn new(source: &'w [u8]) -> Result<Self, CompileError> {
        Self::of_supported(source).map_err(|error| features::classify(source, error))
    }

    fn of_supported(source: &'w [u8]) -> Result<Self, CompileError> {
        let (module, bodies) = module::parse(source)?;
        check(&bodies)?;
        let plan = Plan::new(&bodies)?;
        let wasm = rewrite::rewrite(source, &module, &bodies, &plan)?;
        Ok(Self { source, wasm, plan })
    }

    /// The module that counts.
    #[must_use]
    pub fn wasm(&self) -> &[u8] {
        &self.wasm
    }

    /// Digest of the module from which it was made: what it counts is of that one.
    #[must_use]
    pub fn source(&self) -> Digest {
        Digest::of(self.source)
    }

    /// What the counters say of the functions that were called. `counters` are the bytes of the memory [`COUNTERS`]; `before`, as many, what they
    /// were when counting began, if that was not at the beginning.
    ///
    /// # Errors
    /// When it is not this module's memory.
    pub fn read(&self, counters: &[u8], before: Option<&[u8]>) -> Result<Vec<FunctionProfile>, CompileError> {
        let (module, bodies) = module::parse(self.source)?;
        read::read(&module, &bodies, &self.plan, counters, before)
    }
}

/// What tells a function from those of other builds of its module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFunction {
    /// Its index.
    pub index: u32,
    /// Digest of its body.
    pub body: BodyDigest,
    /// Digest of the shape of its body.
    pub shape: ShapeDigest,
    /// Where its sites are: bytes from the beginning of the body.
    pub sites: Vec<u32>,
}

/// The own functions of the core module `wasm`, by index.
///
/// # Errors
/// As [`Instrumented::new`].
pub fn functions(wasm: &[u8]) -> Result<Vec<KnownFunction>, CompileError> {
    let known = || {
        let (module, bodies) = module::parse(wasm)?;
        check(&bodies)?;
        read::functions(&module, &bodies)
    };
    known().map_err(|error| features::classify(wasm, error))
}

/// Validates all bodies.
fn check(bodies: &[Body<'_>]) -> Result<(), CompileError> {
    let mut allocations = wasmparser::FuncValidatorAllocations::default();
    for body in bodies {
        let mut validator = body.again().to_validate.into_validator(allocations);
        validator.validate(&body.body)?;
        allocations = validator.into_allocations();
    }
    Ok(())
}
