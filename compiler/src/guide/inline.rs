//! Functions that come into others in place of a call.
//!
//! A [`Library`] has them as CLIF, with what comes into them already in it, each made when it is first needed. Cranelift does the rest
//! (`Context::inline`).

use super::Chosen;
use crate::CompileError;
use crate::module::Body;
use crate::translate::namespace;
use cranelift_codegen::inline::{Inline, InlineCommand};
use cranelift_codegen::ir::{ExternalName, FuncRef, Function, Inst, Opcode, SourceLoc, Value};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The functions that come into others.
#[derive(Default)]
pub(crate) struct Library<'a> {
    chosen: Chosen,
    bodies: HashMap<u32, Body<'a>>,
    made: Mutex<HashMap<u32, Arc<Function>>>,
}

impl<'a> Library<'a> {
    /// For these calls.
    pub(crate) fn new(chosen: Chosen, bodies: &[Body<'a>]) -> Self {
        let wanted = bodies.iter().filter(|body| chosen.goes(body.to_validate.index));
        let bodies = wanted.map(|body| (body.to_validate.index, body.again())).collect();
        Self { chosen, bodies, made: Mutex::default() }
    }

    /// Whether something comes into this function.
    pub(crate) fn comes_into(&self, function: u32) -> bool {
        self.chosen.comes_into(function)
    }

    /// Puts into `caller` what comes into it. `make` translates a body into CLIF, to be put into another function, with all that comes into it.
    ///
    /// # Errors
    /// What `make` says, and when the function becomes too large.
    pub(crate) fn put_into(
        &self,
        caller: &mut cranelift_codegen::Context,
        make: &mut dyn FnMut(Body<'a>) -> Result<Function, CompileError>,
        what: &dyn Fn() -> String,
    ) -> Result<(), CompileError> {
        // First all that is needed, since it may need more.
        let mut needed = HashMap::new();
        for (_, callee) in calls(&caller.func).into_iter().filter(|(place, _)| self.chosen.has(*place)) {
            let Some(body) = self.bodies.get(&callee) else { continue };
            if let std::collections::hash_map::Entry::Vacant(entry) = needed.entry(callee) {
                entry.insert(self.function(body, make)?);
            }
        }
        if needed.is_empty() {
            return Ok(());
        }
        caller.inline(Putter { chosen: &self.chosen, needed: &needed }).map_err(|error| match error {
            cranelift_codegen::CodegenError::ImplLimitExceeded | cranelift_codegen::CodegenError::CodeTooLarge => {
                CompileError::Limit { what: what() }
            }
            other => CompileError::Codegen { what: what(), message: other.to_string() },
        })?;
        place(&mut caller.func);
        Ok(())
    }

    fn function(
        &self,
        body: &Body<'a>,
        make: &mut dyn FnMut(Body<'a>) -> Result<Function, CompileError>,
    ) -> Result<Arc<Function>, CompileError> {
        let made = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let index = body.to_validate.index;
        if let Some(function) = made().get(&index) {
            return Ok(Arc::clone(function));
        }
        // Two threads may make the same, and make it alike.
        let function = Arc::new(make(body.again())?);
        Ok(Arc::clone(made().entry(index).or_insert(function)))
    }
}

/// The direct calls of own functions, with their places in the Wasm.
fn calls(function: &Function) -> Vec<(u32, u32)> {
    let blocks = function.layout.blocks();
    let all = blocks.flat_map(|block| function.layout.block_insts(block));
    all.filter_map(|inst| {
        let callee = match function.dfg.insts[inst] {
            cranelift_codegen::ir::InstructionData::Call { opcode: Opcode::Call, func_ref, .. } => own(function, func_ref)?,
            _ => return None,
        };
        Some((function.srcloc(inst).bits(), callee))
    })
    .collect()
}

/// The index of the function of the module that is called.
fn own(function: &Function, callee: FuncRef) -> Option<u32> {
    let ExternalName::User(name) = function.dfg.ext_funcs[callee].name else { return None };
    let name = &function.params.user_named_funcs()[name];
    (name.namespace == namespace::FUNCTION).then_some(name.index)
}

struct Putter<'l> {
    chosen: &'l Chosen,
    needed: &'l HashMap<u32, Arc<Function>>,
}

impl Inline for Putter<'_> {
    fn inline(&mut self, caller: &Function, call: Inst, opcode: Opcode, callee: FuncRef, _: &[Value]) -> InlineCommand<'_> {
        let wanted = opcode == Opcode::Call && self.chosen.has(caller.srcloc(call).bits());
        let function = own(caller, callee).filter(|_| wanted).and_then(|callee| self.needed.get(&callee));
        match function {
            // It has all that comes into it already.
            Some(function) => InlineCommand::Inline { callee: Cow::Borrowed(function), visit_callee: false },
            None => InlineCommand::KeepCall,
        }
    }
}

/// Gives what came into a function the place of the call that it came for: Cranelift gives it none. It stands behind that call.
fn place(function: &mut Function) {
    let mut last = SourceLoc::default();
    let blocks: Vec<_> = function.layout.blocks().collect();
    for block in blocks {
        let insts: Vec<_> = function.layout.block_insts(block).collect();
        for inst in insts {
            let own = function.srcloc(inst);
            if own.is_default() {
                function.set_srcloc(inst, last);
            } else {
                last = own;
            }
        }
    }
}
