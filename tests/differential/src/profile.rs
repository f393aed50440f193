//! Profiles for random modules: whatever one says, the code that it steers does the same.
//!
//! A *random* profile says something about most places, mostly something that fits the instruction there, and sometimes something that fits
//! nothing: other kinds of sites, numbers of arms that a table does not have, functions that are not there, counts that are as large as can be.
//! A *true* one is what a module that counts has counted.

use crate::random::Random;
use anyhow::{Context as _, Result};
use preheat_compiler::Passes;
use preheat_image::Digest;
use preheat_image::profile::{
    BodyDigest, Contribution, FunctionProfile, FunctionSummary, Method, Profile, Provenance, Rules, ShapeDigest, Site, SiteCounts, Summary,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use wasmparser::{Operator, Parser, Payload};

/// Passes at random, mostly all.
pub(crate) fn passes(seed: u64) -> Passes {
    let mut random = Random::new(seed, 17);
    let mut passes = Passes::ALL;
    if random.chance(1, 3) {
        for name in Passes::NAMES {
            passes = passes.with(name, random.chance(1, 2)).unwrap_or(passes);
        }
    }
    passes
}

/// A random profile of a module.
///
/// # Errors
/// When the module can't be read, or a profile of it can't be made.
pub(crate) fn random(wasm: &[u8], seed: u64) -> Result<Arc<Summary>> {
    let mut random = Random::new(seed, 16);
    // Of how many functions and places nothing is said, in quarters.
    let (silent, wrong) = (random.below(3), random.below(3));
    let mut functions = BTreeMap::new();
    let (mut imported, mut index) = (0u32, 0u32);
    let mut order = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, wasmparser::TypeRef::Func(_)));
                }
                index = imported;
            }
            Payload::CodeSectionEntry(body) => {
                let start = body.range().start;
                let mut sites = Vec::new();
                let mut reader = body.get_operators_reader()?;
                while !reader.eof() {
                    let (operator, at) = reader.read_with_offset()?;
                    let Some(counts) = counts(&mut random, &operator, wrong, imported + 40) else { continue };
                    if !random.chance(silent, 4) {
                        sites.push(Site { offset: u32::try_from(at - start)?, counts });
                    }
                }
                if !random.chance(silent, 4) {
                    let first = random.chance(3, 4).then(|| {
                        order += 1;
                        order - 1
                    });
                    let (body, shape) = (BodyDigest::of(&index.to_le_bytes()), ShapeDigest::of(&index.to_le_bytes()));
                    let entries = count(&mut random);
                    functions.insert(index, FunctionSummary { body, shape, first, entries, sites, samples: Vec::new() });
                }
                index += 1;
            }
            _ => {}
        }
    }
    // Orders are a permutation of those that have one.
    let mut places: Vec<u32> = (0..order).collect();
    for place in (1..places.len()).rev() {
        places.swap(place, random.below(place + 1));
    }
    for function in functions.values_mut() {
        function.first = function.first.map(|first| places[first as usize]);
    }
    Ok(Arc::new(Summary::new(Digest::of(wasm), Provenance::default(), functions).context("a random profile")?))
}

fn count(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => 1,
        2 => random.next() % 1000,
        3 => u64::MAX >> 20,
        _ => random.next() >> 34,
    }
}

/// Something about an instruction, most of the time about one that has something to say.
fn counts(random: &mut Random, operator: &Operator<'_>, wrong: usize, functions: u32) -> Option<SiteCounts> {
    let fits = match operator {
        Operator::Loop { .. } | Operator::Call { .. } | Operator::ReturnCall { .. } => 0,
        Operator::If { .. } | Operator::BrIf { .. } => 1,
        Operator::BrTable { .. } => 2,
        Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => 3,
        _ if random.chance(wrong, 60) => random.below(4),
        _ => return None,
    };
    let kind = if random.chance(wrong, 20) { random.below(4) } else { fits };
    Some(match kind {
        0 => SiteCounts::Reached(count(random)),
        1 => {
            let (one, other) = (count(random), count(random));
            SiteCounts::Branch { reached: one.max(other), taken: one.min(other) }
        }
        2 => {
            let known = if let Operator::BrTable { targets } = operator { targets.len() as usize + 1 } else { 3 };
            let arms = if random.chance(wrong, 10) { 1 + random.below(9) } else { known };
            let mut arms: Vec<u64> = (0..arms.max(1)).map(|_| count(random)).collect();
            if random.chance(1, 2) {
                let arm = random.below(arms.len());
                arms[arm] = u64::MAX >> 18;
            }
            SiteCounts::Table { arms }
        }
        _ => {
            let reached = count(random);
            let target = u32::try_from(random.below(functions as usize)).unwrap_or(0);
            let called = if random.chance(2, 3) { reached } else { reached / 2 };
            SiteCounts::Indirect { reached, targets: if called > 0 { vec![(target, called)] } else { Vec::new() } }
        }
    })
}

/// What a module that counts says of another.
///
/// # Errors
/// When that fits no profile.
pub(crate) fn truthful(source: Digest, functions: Vec<FunctionProfile>) -> Result<Arc<Summary>> {
    let mut profile = Profile::new(source);
    let (contributor, origin) = ("differential".to_owned(), "differential".to_owned());
    profile.insert(Contribution { contributor, at: 0, method: Method::Counted, origin, calls: 1, functions })?;
    Ok(Arc::new(profile.evaluate(&Rules::new(0))?))
}
