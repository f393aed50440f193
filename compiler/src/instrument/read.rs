//! From counters to profiles.

use super::KnownFunction;
use super::plan::{COUNTER, FunctionPlan, Plan, SLOT, SLOTS};
use crate::CompileError;
use crate::constants::Init;
use crate::flow::{self, Graph};
use crate::module::{Body, Elements, Module, Placement};
use crate::signature::FunctionType;
use preheat_image::abi::ValueType;
use preheat_image::profile::{BodyDigest, FunctionProfile, ShapeDigest, Site, SiteCounts};
use std::collections::HashMap;

/// What the counters say of the functions that were called.
pub(super) fn read(
    module: &Module<'_>,
    bodies: &[Body<'_>],
    plan: &Plan,
    counters: &[u8],
    before: Option<&[u8]>,
) -> Result<Vec<FunctionProfile>, CompileError> {
    let words = |bytes: &[u8]| -> Result<Vec<u64>, CompileError> {
        let size = plan.size as usize;
        let bytes =
            bytes.get(..size).ok_or_else(|| CompileError::Limit { what: format!("counters of {} bytes, not {size}", bytes.len()) })?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    };
    let counters = Reading { now: words(counters)?, before: before.map(words).transpose()? };
    let tables = tables(module);
    let mut functions = Vec::new();
    for (body, plan) in bodies.iter().zip(&plan.functions) {
        let entries = counters.at(plan.counter(flow::Counters::ENTRY));
        if entries > 0 {
            functions.push(function(module, body, plan, &counters, &tables, entries)?);
        }
    }
    // Whatever was called first has the first place, and so on.
    let mut order: Vec<usize> = (0..functions.len()).collect();
    order.sort_by_key(|position| functions[*position].first);
    for (place, position) in (0..).zip(order) {
        functions[position].first = Some(place);
    }
    Ok(functions)
}

/// The words of the counters.
struct Reading {
    now: Vec<u64>,
    before: Option<Vec<u64>>,
}

impl Reading {
    fn word(&self, place: u32) -> u64 {
        self.now[(place / COUNTER) as usize]
    }

    /// How far it has counted.
    fn at(&self, place: u32) -> u64 {
        let before = self.before.as_ref().map_or(0, |before| before[(place / COUNTER) as usize]);
        self.word(place).saturating_sub(before)
    }
}

fn function(
    module: &Module<'_>,
    body: &Body<'_>,
    plan: &FunctionPlan,
    counters: &Reading,
    tables: &HashMap<(u32, u32), u32>,
    entries: u64,
) -> Result<FunctionProfile, CompileError> {
    let mut sites = Vec::new();
    if let Some(counted) = &plan.counters {
        let graph = Graph::new(&body.body)?;
        let counts: Vec<u64> = std::iter::once(entries)
            .chain((1..).zip(counted.edges()).map(|(number, edge)| match plan.tables.get(&edge.offset) {
                Some((place, _)) => counters.at(place + COUNTER * edge.arm),
                None => counters.at(plan.counter(number)),
            }))
            .collect();
        let flow = flow::solve(&graph, &counts).ok_or_else(|| crate::module::impossible("another number of counters"))?;
        debug_assert_eq!(flow.entries(), entries, "the first counter is that of entries");
        sites = flow::sites(&graph, &flow)
            .into_iter()
            .map(|site| Site {
                offset: site.offset,
                counts: match site.counts {
                    flow::SiteCounts::Reached(reached) => SiteCounts::Reached(reached),
                    flow::SiteCounts::Branch { reached, taken } => SiteCounts::Branch { reached, taken },
                    flow::SiteCounts::Table { arms } => SiteCounts::Table { arms },
                    flow::SiteCounts::Indirect { reached } => {
                        SiteCounts::Indirect { reached, targets: targets(plan.calls.get(&site.offset), counters, tables, reached) }
                    }
                },
            })
            .collect();
    }
    let (body_digest, shape) = (flow::body_digest(&body.body, module)?, flow::shape_digest(&body.body)?);
    Ok(FunctionProfile {
        index: body.to_validate.index,
        body: BodyDigest::from_bytes(body_digest),
        shape: ShapeDigest::from_bytes(shape),
        first: u32::try_from(counters.word(plan.first)).ok(),
        entries,
        sites,
    })
}

/// The functions that an indirect call has called, and how often at least.
fn targets(call: Option<&(u32, u32)>, counters: &Reading, tables: &HashMap<(u32, u32), u32>, reached: u64) -> Vec<(u32, u64)> {
    let Some((place, table)) = call else { return Vec::new() };
    let mut found: HashMap<u32, u64> = HashMap::new();
    let mut left = reached;
    for slot in 0..SLOTS {
        let (number, count) = (counters.word(place + slot * SLOT), counters.at(place + slot * SLOT + COUNTER));
        let entry = number.checked_sub(1).and_then(|entry| u32::try_from(entry).ok());
        if let Some(function) = entry.and_then(|entry| tables.get(&(*table, entry))) {
            let count = count.min(left);
            left -= count;
            *found.entry(*function).or_default() += count;
        }
    }
    let mut found: Vec<(u32, u64)> = found.into_iter().filter(|(_, count)| *count > 0).collect();
    found.sort_by_key(|(function, count)| (std::cmp::Reverse(*count), *function));
    found
}

/// The functions in tables as they begin: table and entry. What the program puts there itself is not known.
fn tables(module: &Module<'_>) -> HashMap<(u32, u32), u32> {
    let mut tables = HashMap::new();
    for segment in &module.elements {
        let (Placement::Active(table, Init::Value(at)), Elements::Functions(functions)) = (segment.placement, &segment.elements) else {
            continue;
        };
        let at = u32::from_le_bytes([at[0], at[1], at[2], at[3]]);
        for (entry, function) in (0..).zip(functions) {
            if let (Some(function), Some(entry)) = (function, at.checked_add(entry)) {
                tables.insert((table, entry), *function);
            }
        }
    }
    tables
}

/// What tells the own functions of `module` from those of another build of it.
pub(super) fn functions(module: &Module<'_>, bodies: &[Body<'_>]) -> Result<Vec<KnownFunction>, CompileError> {
    let known = |body: &Body<'_>| {
        let (digest, shape) = (flow::body_digest(&body.body, module)?, flow::shape_digest(&body.body)?);
        Ok(KnownFunction {
            index: body.to_validate.index,
            body: BodyDigest::from_bytes(digest),
            shape: ShapeDigest::from_bytes(shape),
            sites: flow::site_offsets(&body.body)?,
        })
    };
    bodies.iter().map(known).collect()
}

impl flow::Signatures for Module<'_> {
    fn of_type(&self, index: u32) -> (Vec<u8>, Vec<u8>) {
        let ty = &self.types[self.type_numbers[index as usize] as usize];
        numbers(ty)
    }

    fn of_function(&self, index: u32) -> (Vec<u8>, Vec<u8>) {
        numbers(&self.types[self.functions[index as usize] as usize])
    }
}

/// Parameters and results as the ABI numbers them.
fn numbers(ty: &FunctionType) -> (Vec<u8>, Vec<u8>) {
    let numbers = |types: &[ValueType]| types.iter().map(|ty| ty.number()).collect();
    (numbers(&ty.params), numbers(&ty.results))
}
