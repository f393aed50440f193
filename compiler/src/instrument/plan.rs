//! Where everything is counted.

use crate::CompileError;
use crate::flow::{Counters, Graph};
use crate::module::Body;
use std::collections::BTreeMap;
use wasmparser::Operator;

/// Bytes of a counter.
pub(super) const COUNTER: u32 = 8;
/// How many entries of a table are noted of an indirect call.
pub(super) const SLOTS: u32 = 4;
/// Bytes of such a slot: the entry's number, from 1, and its count.
pub(super) const SLOT: u32 = 16;
/// Where it is counted how many functions have been called.
pub(super) const CLOCK: u32 = 0;
/// Counters are addressed by constant offsets, which are not to exceed what a code generator need not check.
const MOST: u32 = 24 << 20;

/// Where everything of a module is counted.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of own functions, in order.
    pub(super) functions: Vec<FunctionPlan>,
    /// Bytes of all.
    pub(super) size: u32,
}

/// Where everything of a function is counted. Offsets of instructions count from the beginning of its body.
#[derive(Debug)]
pub(super) struct FunctionPlan {
    /// Where it is noted when the function was called first; the counters come behind it.
    pub(super) first: u32,
    /// None if only the entries are counted.
    pub(super) counters: Option<Counters>,
    /// Where the arms of a `br_table` are counted, and how many there are.
    pub(super) tables: BTreeMap<u32, (u32, u32)>,
    /// Where it is noted what an indirect call calls, and through which table.
    pub(super) calls: BTreeMap<u32, (u32, u32)>,
}

impl FunctionPlan {
    /// Where the counter of this number is.
    pub(super) fn counter(&self, number: u32) -> u32 {
        self.first + COUNTER * (1 + number)
    }
}

impl Plan {
    pub(super) fn new(bodies: &[Body<'_>]) -> Result<Self, CompileError> {
        let mut size = COUNTER;
        let mut take = |bytes: u32| {
            let at = size;
            size =
                size.checked_add(bytes).filter(|size| *size <= MOST).ok_or_else(|| CompileError::Limit { what: "the counters".into() })?;
            Ok::<u32, CompileError>(at)
        };
        let mut functions = Vec::with_capacity(bodies.len());
        for body in bodies {
            let graph = Graph::new(&body.body)?;
            let whole = graph.edges().iter().any(|edge| edge.from.is_none());
            let counters = (!whole).then(|| Counters::new(&graph));
            let count = counters.as_ref().map_or(1, Counters::count);
            let first = take(COUNTER * (1 + count))?;
            let (mut tables, mut calls) = (BTreeMap::new(), BTreeMap::new());
            let start = body.body.range().start;
            let mut reader = body.body.get_operators_reader()?;
            while let Some(counters) = counters.as_ref().filter(|_| !reader.eof()) {
                let (operator, offset) = reader.read_with_offset()?;
                let offset = crate::module::narrow(offset - start, "a function body")?;
                match operator {
                    Operator::BrTable { targets } if graph.block_at(offset).is_some() => {
                        let arms = targets.len() + 1;
                        if counters.edges().iter().any(|edge| edge.offset == offset) {
                            tables.insert(offset, (take(COUNTER * arms)?, arms));
                        }
                    }
                    Operator::CallIndirect { table_index, .. } | Operator::ReturnCallIndirect { table_index, .. }
                        if graph.block_at(offset).is_some() =>
                    {
                        calls.insert(offset, (take(SLOT * SLOTS)?, table_index));
                    }
                    _ => {}
                }
            }
            functions.push(FunctionPlan { first, counters, tables, calls });
        }
        Ok(Self { functions, size })
    }
}
