//! Modules from seeds.

mod calls;
mod program;
mod smith;
mod table;

use crate::operators;
use crate::random::Random;
use crate::rewrite;
use anyhow::Result;
use preheat_compiler::{CompileOptions, Optimize};
use preheat_image::CpuLevel;
use std::num::NonZeroUsize;
use wasmparser::{Parser, Payload};

/// Which generator makes the modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// `wasm-smith`: modules of any shape.
    Smith,
    /// Programs of our own in which every operator is about as likely as every other, on values that are border cases.
    Program,
    /// Programs of our own, of small functions that call each other.
    Calls,
}

/// A module, and how it is compiled.
#[derive(Debug, Clone)]
pub struct Case {
    /// The module.
    pub wasm: Vec<u8>,
    /// What arguments are made from.
    pub seed: u64,
    /// How the native engine compiles.
    pub native: CompileOptions,
    /// For which CPU level wasmtime compiles.
    pub oracle_cpu: CpuLevel,
    /// Whether wasmtime optimises.
    pub oracle_optimizes: bool,
}

impl Case {
    /// The case of a seed; `None` if the generator could not make a module of it.
    ///
    /// # Errors
    /// When a generator made a module that is not valid.
    pub fn of_seed(generator: Generator, seed: u64) -> Result<Option<Self>> {
        let mut random = Random::new(seed, 10);
        let wasm = match generator {
            Generator::Smith => match smith::module(&mut random) {
                Some(wasm) => wasm,
                None => return Ok(None),
            },
            Generator::Program => program::module(&mut random)?,
            Generator::Calls => calls::module(&mut random)?,
        };
        Self::new(&rewrite::canonicalize_nans(&wasm)?, seed).map(Some)
    }

    /// A case of bytes that a fuzzer chose: `wasm-smith`'s module for them. `None` if there is none.
    ///
    /// # Errors
    /// When the module is not valid.
    pub fn of_bytes(bytes: &[u8]) -> Result<Option<Self>> {
        let Some((seed, bytes)) = bytes.split_first_chunk() else { return Ok(None) };
        let seed = u64::from_le_bytes(*seed);
        let Some(wasm) = smith::module_of(&mut Random::new(seed, 10), bytes) else { return Ok(None) };
        Self::new(&rewrite::canonicalize_nans(&wasm)?, seed).map(Some)
    }

    /// A module with the options that belong to a seed.
    ///
    /// # Errors
    /// When it is not valid.
    pub fn new(wasm: &[u8], seed: u64) -> Result<Self> {
        let mut random = Random::new(seed, 11);
        let host = CpuLevel::of_host().unwrap_or(CpuLevel::V1);
        let levels: Vec<_> = CpuLevel::ALL.into_iter().filter(|level| *level <= host).collect();
        let mut native = CompileOptions::new(*random.choose(&levels));
        native.optimize = *random.choose(&[Optimize::Speed, Optimize::Speed, Optimize::None, Optimize::None, Optimize::Size]);
        native.interruptible = random.chance(3, 4);
        native.address_map = random.chance(1, 2);
        native.verify = random.chance(1, 8);
        native.threads = NonZeroUsize::new(1);
        // What relaxed operators return is the level's choice.
        let oracle_cpu = if has_relaxed(wasm)? { native.cpu } else { *random.choose(&levels) };
        Ok(Self { wasm: wasm.to_vec(), seed, native, oracle_cpu, oracle_optimizes: random.chance(1, 2) })
    }
}

/// Whether a module has operators whose results are left open.
fn has_relaxed(wasm: &[u8]) -> Result<bool> {
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CodeSectionEntry(body) = payload? {
            for operator in body.get_operators_reader()? {
                if operators::is_relaxed(operators::number(&operator?)) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
