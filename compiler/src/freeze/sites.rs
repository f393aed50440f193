//! The sites of a function, the layout of each, and where capture code keeps the values.

use super::{CheckedBody, liveness};
use crate::CompileError;
use crate::module::Module;
use preheat_image::abi::{VALUE_SIZE, ValueType};
use preheat_image::native::SiteValue;
use std::ops::Range;

/// How many live locals, and how many operands, all sites of a function may have together.
pub(super) const MAX_VALUES: usize = 1 << 22;

/// The error for a function with more.
pub(super) fn too_many(module: &Module<'_>, function: u32) -> CompileError {
    CompileError::Limit { what: format!("what must be kept at the calls of {}", module.describe(function)) }
}

/// A call, as reading finds it.
#[derive(Debug)]
pub(super) struct Call {
    /// Which instruction.
    pub(super) operator: usize,
    pub(super) offset: u32,
    /// What is below its arguments.
    pub(super) operands: Range<usize>,
    /// For a site that is wanted: how many operands are below each block around it, outermost first.
    pub(super) heights: Vec<usize>,
}

/// The sites of a function.
#[derive(Debug)]
pub(crate) struct FunctionSites {
    calls: Vec<Call>,
    operands: Vec<ValueType>,
    /// For each call the live locals.
    live: Vec<Range<usize>>,
    locals: Vec<u32>,
    local_types: Vec<ValueType>,
    instructions: usize,
}

/// What must survive at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SiteLayout<'a> {
    /// Which instruction.
    pub(crate) operator: usize,
    /// Its offset in the Wasm bytes.
    pub(crate) offset: u32,
    /// Locals by index.
    pub(crate) locals: &'a [u32],
    /// Types of operands, bottom first.
    pub(crate) operands: &'a [ValueType],
    /// For a site that was wanted: how many operands are below each block around it, outermost first.
    pub(crate) heights: &'a [usize],
}

impl FunctionSites {
    /// Finds what is live; `size` is that of the body in bytes. `None` if there is too much.
    pub(super) fn new(body: &CheckedBody<'_>, size: usize, calls: Vec<Call>, operands: Vec<ValueType>) -> Option<Self> {
        let positions: Vec<usize> = calls.iter().map(|call| call.operator).collect();
        let (live, locals) = liveness::live_behind(&body.operators, size, body.locals.len(), &positions, MAX_VALUES)?;
        Some(Self { calls, operands, live, locals, local_types: body.locals.clone(), instructions: body.operators.len() })
    }

    /// How many instructions the function has.
    pub(crate) fn instructions(&self) -> usize {
        self.instructions
    }

    /// The site at `offset` in the Wasm bytes.
    pub(crate) fn at(&self, offset: u32) -> Option<SiteLayout<'_>> {
        self.calls.binary_search_by_key(&offset, |call| call.offset).ok().map(|index| self.layout(index))
    }

    fn layout(&self, index: usize) -> SiteLayout<'_> {
        let call = &self.calls[index];
        SiteLayout {
            operator: call.operator,
            offset: call.offset,
            locals: &self.locals[self.live[index].clone()],
            operands: &self.operands[call.operands.clone()],
            heights: &call.heights,
        }
    }

    /// The types of a layout's values.
    pub(crate) fn types(&self, layout: SiteLayout<'_>) -> Vec<ValueType> {
        layout.locals.iter().map(|local| self.local_types[*local as usize]).chain(layout.operands.iter().copied()).collect()
    }
}

/// Where a function keeps the values of its sites: a slot for each local that is live at any of them, then slots for operands.
#[derive(Debug)]
pub(crate) struct Shadow {
    /// For each local its slot.
    locals: Vec<Option<u16>>,
    first_operand: u16,
    /// How many slots there are.
    pub(crate) slots: u16,
}

impl Shadow {
    /// Lays out the shadow frame of a function. `None` if it would have 2^16 slots or more.
    pub(crate) fn new(sites: &FunctionSites) -> Option<Self> {
        let mut live = vec![false; sites.local_types.len()];
        sites.locals.iter().for_each(|local| live[*local as usize] = true);
        let mut next = 0u16;
        let mut locals = vec![None; live.len()];
        for (slot, _) in locals.iter_mut().zip(live).filter(|(_, live)| *live) {
            *slot = Some(next);
            next = next.checked_add(1)?;
        }
        let operands = sites.calls.iter().map(|call| call.operands.len()).max().unwrap_or(0);
        Some(Self { locals, first_operand: next, slots: next.checked_add(u16::try_from(operands).ok()?)? })
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> u32 {
        u32::from(self.slots) * VALUE_SIZE
    }

    /// The slot of a local that is live at some site.
    pub(crate) fn local(&self, local: u32) -> u16 {
        self.locals[local as usize].expect("only live locals are stored")
    }

    /// The slot of the operand at a height.
    pub(crate) fn operand(&self, height: u16) -> u16 {
        self.first_operand + height
    }

    /// Where the values of a site are.
    pub(crate) fn values(&self, sites: &FunctionSites, layout: SiteLayout<'_>) -> Vec<SiteValue> {
        let slots = layout.locals.iter().map(|local| self.local(*local));
        let slots = slots.chain((0u16..).zip(layout.operands).map(|(height, _)| self.operand(height)));
        let types = sites.types(layout);
        slots.zip(types).map(|(slot, ty)| SiteValue { slot: slot.into(), ty: ty.number(), reserved: 0 }).collect()
    }
}
