//! Resume functions: a function's body from behind a call on.
//!
//! What is before the site is not translated; the blocks around it are begun as if it had been reached. Locals and operands come from the
//! wake frame, and instead of what the site calls, the code of the next wake frame is called.
//!
//! A loop that is entered in its middle has two entries, which keeps Cranelift from optimising it. So of each loop around the site, only the
//! rest of the interrupted iteration is translated in place. Branches to the loop's header leave that, and the whole loop comes once more in the
//! normal way behind it, as fast as in the normal code. What follows the loop is common to both. Of loops in loops only the outermost to which
//! the program can go back comes once more ([`super::again`]).

use super::control::FrameKind;
use super::exceptions::Callee;
use super::{Translator, block_args, local, record};
use crate::CompileError;
use crate::freeze::{self, Around, CheckedBody, FunctionSites, SiteLayout};
use crate::module::impossible;
use crate::signature::{FunctionType, clif_type};
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{Block, InstBuilder as _, Type, Value};
use preheat_image::abi::{VALUE_SIZE, ValueType, offset};
use wasmparser::Operator;

/// The type of a resume function: from the address of a wake frame to results.
pub(crate) fn resume_type(results: &[ValueType]) -> FunctionType {
    FunctionType { params: vec![ValueType::I64], results: results.to_vec() }
}

/// What there is to know of a site while its resume function is translated.
pub(super) struct Resumed {
    /// The blocks around the site, outermost first.
    pub(super) around: Vec<Around>,
    /// The operands below the call's arguments. While a block around the site is open, those below it are these.
    pub(super) operands: Vec<Value>,
    /// Which of the loops around the site comes once more as a whole, if any in it does.
    outermost: Option<usize>,
    /// Loops inside that one whose interrupted iterations have ended, with the headers to which they branched; inner ones first.
    pub(super) waiting: Vec<(usize, Block)>,
}

impl Translator<'_, '_> {
    /// Translates what is behind a site.
    pub(super) fn resume(&mut self, body: &CheckedBody<'_>, sites: &FunctionSites, site: SiteLayout<'_>) -> Result<(), CompileError> {
        let wake_frame = self.builder.block_params(self.entry)[1];
        self.place(site.offset);
        body.locals.iter().for_each(|ty| self.zero_variable(*ty));
        let around = freeze::around(body, site)?;
        self.begin_blocks(body, &around)?;
        for (position, ty) in sites.types(site).into_iter().enumerate() {
            let value = self.builder.ins().load(clif_type(ty), record(), wake_frame, value_place(position));
            match site.locals.get(position) {
                Some(index) => self.builder.def_var(local(*index), value),
                None => self.push(value),
            }
        }
        let outermost = freeze::outermost_again(body, site, &around);
        let mut resumed = Resumed { around, operands: self.stack.clone(), outermost, waiting: Vec::new() };
        let count = site.locals.len() + site.operands.len();
        self.resume_callee(&body.operators[site.operator].0, wake_frame, count)?;

        for (position, (operator, offset)) in body.operators.iter().enumerate().skip(site.operator + 1) {
            self.place(*offset);
            let in_loop = self.frames.last().is_some_and(|frame| matches!(frame.kind, FrameKind::ResumedLoop { .. }));
            if in_loop && matches!(operator, Operator::End) {
                self.end_resumed_loop(body, position, &mut resumed)?;
            } else {
                self.operator(operator)?;
            }
        }
        Ok(())
    }

    /// Begins all blocks around the site.
    fn begin_blocks(&mut self, body: &CheckedBody<'_>, around: &[Around]) -> Result<(), CompileError> {
        let results: Vec<Type> = self.builder.func.signature.returns.iter().map(|result| result.value_type).collect();
        self.push_function_frame(&results);
        for block in around {
            self.begin_around(body, block)?;
        }
        Ok(())
    }

    /// Begins a block around the site as if its beginning had been reached, and is no more.
    pub(super) fn begin_around(&mut self, body: &CheckedBody<'_>, block: &Around) -> Result<(), CompileError> {
        let (kind, ty) = match &body.operators[block.begin].0 {
            Operator::Block { blockty } => (FrameKind::Block, *blockty),
            Operator::If { blockty } => (if block.second { FrameKind::Else } else { FrameKind::ResumedIf }, *blockty),
            Operator::TryTable { try_table } => (self.try_table(try_table), try_table.ty),
            Operator::Loop { blockty } => {
                let (params, _) = self.block_types(*blockty);
                (FrameKind::ResumedLoop { header: self.block(&params) }, *blockty)
            }
            other => return Err(impossible(&format!("a block that begins with {other:?}"))),
        };
        let (params, results) = self.block_types(ty);
        let exit = self.block(&results);
        self.push_frame(kind, exit, params.len(), results.len());
        if let Some(frame) = self.frames.last_mut() {
            frame.height = block.height;
        }
        Ok(())
    }

    /// Calls the code of the next wake frame instead of what `call` calls.
    fn resume_callee(&mut self, call: &Operator<'_>, wake_frame: Value, count: usize) -> Result<(), CompileError> {
        let module = self.env.module;
        let ty = module.called_type(call).ok_or_else(|| impossible("a site that is no call"))?;
        let next = self.builder.ins().iadd_imm_s(wake_frame, i64::from(value_place(count)));
        let code = self.builder.ins().load(I64, record(), next, offset::WAKE_FRAME_CODE);
        let signature = self.builder.import_signature(resume_type(&module.types[ty as usize].results).guest());
        self.calls = true;
        self.store_site();
        let results = self.try_call(&Callee::Indirect(signature, code), &[self.context, next]);
        self.stack.extend(results);
        Ok(())
    }

    /// `end` of a loop around the site: the interrupted iteration ends. If anything branches to its header, here it comes as a whole, unless it
    /// does with a loop around it.
    fn end_resumed_loop(&mut self, body: &CheckedBody<'_>, position: usize, resumed: &mut Resumed) -> Result<(), CompileError> {
        let frame = self.frames.pop().ok_or_else(|| impossible("unbalanced blocks"))?;
        let FrameKind::ResumedLoop { header } = frame.kind else { return Err(impossible("unbalanced blocks")) };
        // The first frame is the function's.
        let index = self.frames.len().checked_sub(1).ok_or_else(|| impossible("unbalanced blocks"))?;
        let mut left = None;
        let mut reached = false;
        if self.reachable {
            let values = self.pop_canonical(frame.results);
            self.builder.ins().jump(frame.exit, &block_args(&values));
            self.join_held(&mut left);
            reached = true;
        }
        self.stack.truncate(frame.height);
        if frame.exit_reached {
            self.builder.seal_block(header);
            resumed.waiting.push((index, header));
        }
        let later = resumed.outermost.is_some_and(|outermost| index > outermost);
        if !later && !resumed.waiting.is_empty() {
            self.loop_again(body, index, position, resumed)?;
            if self.reachable {
                let values = self.pop_canonical(frame.results);
                self.builder.ins().jump(frame.exit, &block_args(&values));
                self.join_held(&mut left);
                reached = true;
            }
            self.stack.truncate(frame.height);
        }
        self.reachable = reached;
        if reached {
            self.builder.switch_to_block(frame.exit);
            self.builder.seal_block(frame.exit);
            self.set_held(left);
            self.stack.extend_from_slice(self.builder.block_params(frame.exit));
        }
        Ok(())
    }
}

/// Where value `index` of a wake frame is, or the next wake frame behind `index` values.
pub(crate) fn value_place(index: usize) -> i32 {
    // A site has fewer than 2^22 values.
    i32::try_from(index * VALUE_SIZE as usize).map_or(i32::MAX, |place| place + offset::WAKE_FRAME_VALUES)
}
