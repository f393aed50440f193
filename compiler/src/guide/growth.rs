//! Which calls are replaced by what they call, within a budget: the hottest first, by what each byte of growth brings.

use super::Guide;
use crate::CompileError;
use crate::module::{Body, Module};
use std::collections::{HashMap, HashSet};
use wasmparser::Operator;

/// How much the module may grow, in hundredths of the size of its bodies.
const GROWTH: usize = 10;
/// However small it is, it may grow by so many bytes.
const ANYHOW: usize = 2000;
/// A function of more bytes than this, with what came into it, goes nowhere.
const LARGEST: usize = 2000;
/// A function of more bytes than this is large: the loop of an interpreter, for example. It lacks registers without anything that comes into it, and
/// Cranelift's time grows faster than a function. Only what is hardly more than the call comes in.
const LARGE: usize = 16_000;
/// What may come into a large function, in bytes.
const TINY: usize = 80;
/// What a call costs, in bytes of code: so much of the growth is won back.
const CALL: usize = 12;
/// A call that has less than this share of all that was counted is not worth anything.
const LEAST: f64 = 2e-6;

/// Calls that are replaced, by their offset in the Wasm. They form no cycle.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    calls: HashSet<u32>,
    /// The functions that come into others.
    callees: HashSet<u32>,
    /// The functions into which others come.
    callers: HashSet<u32>,
}

/// A call that could be.
struct Candidate {
    offset: u32,
    caller: u32,
    callee: u32,
    count: u64,
}

impl Chosen {
    /// Chooses.
    ///
    /// # Errors
    /// When a body can't be read.
    pub(crate) fn new(guide: &Guide<'_>, module: &Module<'_>, bodies: &[Body<'_>]) -> Result<Self, CompileError> {
        let imported = module.imported().imported_functions;
        let sizes: Vec<usize> = bodies.iter().map(|body| body.body.range().len()).collect();
        let (mut candidates, mut barred) = (Vec::new(), HashSet::new());
        for body in bodies.iter().filter(|body| guide.entries(body.to_validate.index).is_some()) {
            let caller = body.to_validate.index;
            let mut reader = body.body.get_operators_reader()?;
            while !reader.eof() {
                let (operator, offset) = reader.read_with_offset()?;
                match operator {
                    // What catches exceptions stays apart: who catches is found by frames.
                    Operator::TryTable { .. } => {
                        barred.insert(caller);
                    }
                    Operator::Call { function_index: callee } if callee >= imported && callee != caller => {
                        let Ok(offset) = u32::try_from(offset) else { continue };
                        let count = guide.reached(offset).filter(|count| *count > 0);
                        candidates.extend(count.map(|count| Candidate { offset, caller, callee, count }));
                    }
                    Operator::CallIndirect { type_index, .. } => {
                        let Ok(offset) = u32::try_from(offset) else { continue };
                        let ty = module.type_numbers[type_index as usize];
                        let expected = guide.expected_own(offset, module, ty).filter(|callee| *callee != caller && guide.passes().calls);
                        let count = guide.expected(offset).map_or(0, |(_, count, _)| count);
                        candidates.extend(expected.map(|callee| Candidate { offset, caller, callee, count }));
                    }
                    _ => {}
                }
            }
        }
        let least = guide.summary().total() as f64 * LEAST;
        let size = |function: u32| sizes.get((function - imported) as usize).copied().unwrap_or(usize::MAX);
        candidates.retain(|call| call.count as f64 >= least && !barred.contains(&call.caller) && !barred.contains(&call.callee));
        // By what a byte brings; of equals the first one, so that the same inputs give the same code.
        let worth = |call: &Candidate| call.count as f64 / (size(call.callee).saturating_sub(CALL) + 8) as f64;
        candidates.sort_by(|one, other| worth(other).total_cmp(&worth(one)).then(one.offset.cmp(&other.offset)));

        let mut budget = (sizes.iter().sum::<usize>() / 100 * GROWTH).max(ANYHOW);
        let mut chosen = Self::default();
        let mut into: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut grown: HashMap<u32, usize> = HashMap::new();
        for call in candidates {
            let whole = |function: u32| size(function) + grown.get(&function).copied().unwrap_or(0);
            let cost = whole(call.callee).saturating_sub(CALL);
            let largest = if whole(call.caller) > LARGE { TINY } else { LARGEST };
            let fits = cost <= budget && whole(call.callee) <= largest;
            if !fits || reaches(&into, call.callee, call.caller) {
                continue;
            }
            budget -= cost;
            *grown.entry(call.caller).or_default() += cost;
            into.entry(call.caller).or_default().push(call.callee);
            chosen.calls.insert(call.offset);
            chosen.callees.insert(call.callee);
            chosen.callers.insert(call.caller);
        }
        Ok(chosen)
    }

    /// Whether the call at this offset is replaced.
    pub(crate) fn has(&self, offset: u32) -> bool {
        self.calls.contains(&offset)
    }

    /// Whether calls in this function are.
    pub(crate) fn comes_into(&self, function: u32) -> bool {
        self.callers.contains(&function)
    }

    /// Whether calls of this function are.
    pub(crate) fn goes(&self, function: u32) -> bool {
        self.callees.contains(&function)
    }
}

/// Whether `to` comes into `from`, directly or by way of others.
fn reaches(into: &HashMap<u32, Vec<u32>>, from: u32, to: u32) -> bool {
    let (mut seen, mut next) = (HashSet::new(), vec![from]);
    while let Some(function) = next.pop() {
        if function == to {
            return true;
        }
        if seen.insert(function) {
            next.extend(into.get(&function).into_iter().flatten());
        }
    }
    false
}
