//! Profiles for random modules: whatever one says, the code that it steers does the same.
//!
//! A *random* profile says something about most places, mostly something that fits the instruction there, and sometimes something that fits
//! nothing: other kinds of sites, numbers of arms that a table does not have, functions that are not there, counts that are as large as can be,
//! what another function did.
//! A *true* one is what a module that counts has counted.

use crate::operators;
use crate::random::Random;
use anyhow::{Context as _, Result, ensure};
use preheat_compiler::Passes;
use preheat_image::Digest;
use preheat_image::profile::{
    BodyDigest, Contribution, FunctionProfile, FunctionSummary, Method, Profile, Provenance, Rules, ShapeDigest, Site, SiteCounts,
    SiteKind, Summary,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use wasmparser::{FunctionBody, Operator, Parser, Payload};

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

/// Counts at random. Together they stay in 64 bits, as a profile wants it.
struct Counts {
    random: Random,
    /// How much they may still come to.
    left: u64,
    /// Whether some are as large as can be: then all others are next to nothing, and no call is worth anything but theirs.
    extreme: bool,
    /// How much of it fits nothing, from 0 to 2.
    wrong: usize,
    /// Indices of targets are below this, more than there are functions.
    functions: usize,
}

impl Counts {
    fn count(&mut self) -> u64 {
        let count = match self.random.below(8) {
            0 => 0,
            1 => 1,
            2 => self.random.next() % 1000,
            3 if self.extreme => self.left / 8,
            _ => self.random.next() >> 34,
        };
        let count = count.min(self.left);
        self.left -= count;
        count
    }

    /// Something about an instruction, most of the time about one that has something to say.
    fn site(&mut self, operator: &Operator<'_>) -> Option<SiteCounts> {
        let fits = match operator {
            Operator::Loop { .. } | Operator::Call { .. } | Operator::ReturnCall { .. } => 0,
            Operator::If { .. } | Operator::BrIf { .. } => 1,
            Operator::BrTable { .. } => 2,
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => 3,
            _ if self.random.chance(self.wrong, 60) => self.random.below(4),
            _ => return None,
        };
        let kind = if self.random.chance(self.wrong, 20) { self.random.below(4) } else { fits };
        Some(match kind {
            0 => SiteCounts::Reached(self.count()),
            1 => {
                let (one, other) = (self.count(), self.count());
                SiteCounts::Branch { reached: one.max(other), taken: one.min(other) }
            }
            2 => {
                let known = if let Operator::BrTable { targets } = operator { targets.len() as usize + 1 } else { 3 };
                let arms = if self.random.chance(self.wrong, 10) { 1 + self.random.below(9) } else { known };
                let mut arms: Vec<u64> = (0..arms.max(1)).map(|_| self.count()).collect();
                if self.random.chance(1, 2) {
                    // One dominates.
                    let (arm, most) = (self.random.below(arms.len()), (self.random.next() >> 30).min(self.left));
                    self.left -= most;
                    arms[arm] = arms[arm].saturating_add(most);
                }
                SiteCounts::Table { arms }
            }
            _ => {
                let reached = self.count();
                SiteCounts::Indirect { reached, targets: self.targets(reached) }
            }
        })
    }

    /// Which functions were called, whether they are there and of this type or not: mostly one before all others.
    fn targets(&mut self, reached: u64) -> Vec<(u32, u64)> {
        let mut found = BTreeMap::new();
        let mut left = if self.random.chance(2, 3) { reached } else { reached / 2 };
        for _ in 0..self.random.below(4) {
            let count = if self.random.chance(3, 4) { left - left / 64 } else { left / 2 };
            let target = u32::try_from(self.random.below(self.functions)).unwrap_or(0);
            if count > 0 && !found.contains_key(&target) {
                left -= count;
                found.insert(target, count);
            }
        }
        let mut found: Vec<(u32, u64)> = found.into_iter().collect();
        found.sort_by_key(|(target, count)| (Reverse(*count), *target));
        found
    }
}

/// A random profile of a module.
///
/// # Errors
/// When the module can't be read, or a profile of it can't be made.
pub(crate) fn random(wasm: &[u8], seed: u64) -> Result<Arc<Summary>> {
    let mut random = Random::new(seed, 16);
    // Of how many functions and places nothing is said, in quarters.
    let (silent, wrong) = (random.below(3), random.below(3));
    let extreme = random.chance(1, 8);
    let mut counts = Counts { random: random.clone(), left: u64::MAX - 1, extreme, wrong, functions: 40 };
    // What is said of each function, whether anything is known of it or not.
    let mut said: Vec<Vec<Site>> = Vec::new();
    let (mut imported, mut types) = (0u32, 0u32);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, wasmparser::TypeRef::Func(_)));
                }
            }
            Payload::FunctionSection(functions) => {
                types = functions.count();
                // Three quarters of the targets are there.
                counts.functions = (imported + types) as usize * 4 / 3 + 1;
            }
            Payload::CodeSectionEntry(body) => {
                let start = body.range().start;
                let mut sites = BTreeMap::new();
                let mut reader = body.get_operators_reader()?;
                while !reader.eof() {
                    let (operator, at) = reader.read_with_offset()?;
                    let Some(site) = counts.site(&operator) else { continue };
                    // Some are in the middle of an instruction, or somewhere else.
                    let away = if random.chance(wrong, 60) { random.below(300) } else { 0 };
                    if !random.chance(silent, 4) {
                        sites.insert(u32::try_from(at - start + away)?, site);
                    }
                }
                said.push(sites.into_iter().map(|(offset, counts)| Site { offset, counts }).collect());
            }
            _ => {}
        }
    }
    // A profile of another build: what is said is of another function.
    if random.chance(1, 16) && !said.is_empty() {
        let by = random.below(said.len());
        said.rotate_left(by);
    }
    let nothing = random.chance(1, 16);
    let mut functions = BTreeMap::new();
    for (index, sites) in (imported..).zip(said) {
        if !nothing && !random.chance(silent, 4) {
            functions.insert(index, summary(&mut random, &mut counts, index, sites));
        }
    }
    // Functions that are imported, or not there.
    if !nothing && random.chance(wrong, 6) {
        for index in [0, imported + types, imported + types + 100_000] {
            let site = Site { offset: 3, counts: SiteCounts::Reached(counts.count()) };
            let function = summary(&mut random, &mut counts, index, vec![site]);
            functions.entry(index).or_insert(function);
        }
    }
    // Orders are mostly a permutation of those that have one.
    if random.chance(7, 8) {
        let ordered = functions.values_mut().filter_map(|function| function.first.as_mut());
        let mut ordered: Vec<&mut u32> = ordered.collect();
        ordered.sort_unstable();
        (0..).zip(ordered).for_each(|(place, first)| *first = place);
    }
    Ok(Arc::new(Summary::new(Digest::of(wasm), Provenance::default(), functions).context("a random profile")?))
}

fn summary(random: &mut Random, counts: &mut Counts, index: u32, sites: Vec<Site>) -> FunctionSummary {
    let (body, shape) = (BodyDigest::of(&index.to_le_bytes()), ShapeDigest::of(&index.to_le_bytes()));
    let first = random.chance(3, 4).then(|| u32::try_from(random.next() >> 32).unwrap_or(0));
    let samples = (0..u32::try_from(random.below(3)).unwrap_or(0)).map(|sample| (sample * 5, counts.count())).collect();
    FunctionSummary { body, shape, first, entries: counts.count(), sites, samples }
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

/// How often each own function, from 0, executed each operator that is a site, by number, if what a module counted is true. Left out are loops, of
/// which a profile says how often their headers were reached, and functions that catch exceptions, of which only the calls are counted.
///
/// # Errors
/// When the module can't be read, or the counts are not of its instructions.
pub(crate) fn executed(wasm: &[u8], functions: &[FunctionProfile]) -> Result<BTreeMap<(usize, usize), u64>> {
    let mut all = BTreeMap::new();
    let (mut imported, mut own) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    imported += u32::from(matches!(import?.ty, wasmparser::TypeRef::Func(_)));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let index = imported + u32::try_from(own)?;
                let function = functions.iter().find(|function| function.index == index);
                let executed = executed_in(&body, function.map_or(&[], |function| &function.sites));
                let executed = executed.with_context(|| format!("function {index}"))?;
                all.extend(executed.into_iter().flatten().map(|(operator, count)| ((own, operator), count)));
                own += 1;
            }
            _ => {}
        }
    }
    Ok(all)
}

/// The same of one function; `None` if it catches exceptions.
fn executed_in(body: &FunctionBody<'_>, sites: &[Site]) -> Result<Option<BTreeMap<usize, u64>>> {
    let mut sites: BTreeMap<u32, &SiteCounts> = sites.iter().map(|site| (site.offset, &site.counts)).collect();
    let mut executed = BTreeMap::new();
    let start = body.range().start;
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let (operator, at) = reader.read_with_offset()?;
        let counts = sites.remove(&u32::try_from(at - start)?);
        let kind = match operator {
            Operator::TryTable { .. } => return Ok(None),
            Operator::Loop { .. } | Operator::Call { .. } | Operator::ReturnCall { .. } => Some(SiteKind::Reached),
            Operator::If { .. } | Operator::BrIf { .. } => Some(SiteKind::Branch),
            Operator::BrTable { ref targets } => Some(SiteKind::Table { arms: targets.len() + 1 }),
            Operator::CallIndirect { .. } | Operator::ReturnCallIndirect { .. } => Some(SiteKind::Indirect),
            _ => None,
        };
        ensure!(counts.is_none_or(|counts| kind == Some(counts.kind())), "counts {counts:?} at {operator:?}");
        if kind.is_some() && !matches!(operator, Operator::Loop { .. }) {
            *executed.entry(operators::number(&operator)).or_default() += counts.map_or(0, SiteCounts::total);
        }
    }
    ensure!(sites.is_empty(), "counts {sites:?} at no instruction");
    Ok(Some(executed))
}
