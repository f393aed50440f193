//! Blocks, loops, conditions and branches.

use super::capture::Held;
use super::exceptions::Clause;
use super::{Translator, block_args};
use crate::CompileError;
use crate::signature::clif_type;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{Block, InstBuilder as _, JumpTableData, Type, Value};
use preheat_image::abi::TrapCode;
use std::collections::HashMap;
use wasmparser::{BlockType, BrTable, Operator};

/// A control frame.
pub(super) struct Frame {
    pub(super) kind: FrameKind,
    /// Where it is left; what is on top of the stack then are the block's parameters.
    pub(super) exit: Block,
    /// Something branches to `exit`.
    pub(super) exit_reached: bool,
    params: usize,
    pub(super) results: usize,
    /// How many operands are below its parameters.
    pub(super) height: usize,
    /// What the shadow frame holds wherever a branch goes to `exit`.
    pub(super) held: Option<Held>,
    /// Something that is not rare branches to `exit`.
    pub(super) warm: bool,
}

pub(super) enum FrameKind {
    Function,
    Block,
    /// Branches go to the header.
    Loop {
        header: Block,
    },
    /// The first part of a condition, with what the second part begins with.
    If {
        otherwise: Block,
        arguments: Vec<Value>,
        /// Whether it is hardly ever taken.
        rare: bool,
        /// What the shadow frame holds at its beginning.
        held: Option<Held>,
    },
    /// The second part.
    Else,
    /// A loop around the site of a resume function, while its interrupted iteration is finished. Branches go to the header, from which the
    /// program goes on in the whole loop, which comes once more.
    ResumedLoop {
        header: Block,
    },
    /// The first part of a condition that holds the site of a resume function; its second part can't be reached.
    ResumedIf,
    /// A block whose calls have landing pads.
    TryTable {
        clauses: Vec<Clause>,
    },
    /// Begun where nothing is reachable.
    Dead,
}

impl Frame {
    /// Where a branch goes, and with how many operands.
    fn target(&self) -> (Block, usize) {
        match self.kind {
            FrameKind::Loop { header } | FrameKind::ResumedLoop { header } => (header, self.params),
            _ => (self.exit, self.results),
        }
    }
}

impl Translator<'_, '_> {
    /// Begins the frame of the function.
    pub(super) fn push_function_frame(&mut self, results: &[Type]) {
        let exit = self.block(results);
        self.frames.push(Frame {
            kind: FrameKind::Function,
            exit,
            exit_reached: false,
            params: 0,
            results: results.len(),
            height: 0,
            held: None,
            warm: false,
        });
    }

    pub(super) fn control(&mut self, operator: &Operator<'_>) -> Result<bool, CompileError> {
        match operator {
            Operator::Unreachable => self.trap(TrapCode::Unreachable),
            Operator::Block { blockty } => self.begin_block(FrameKind::Block, *blockty),
            Operator::Loop { blockty } => {
                let (params, results) = self.block_types(*blockty);
                let header = self.block(&params);
                let arguments = self.pop_canonical(params.len());
                self.builder.ins().jump(header, &block_args(&arguments));
                self.builder.switch_to_block(header);
                self.enter(header, self.cold);
                self.stack.extend_from_slice(self.builder.block_params(header));
                self.push_frame(FrameKind::Loop { header }, header, params.len(), results.len());
                self.forget_held();
                self.check_interrupt();
            }
            Operator::If { blockty } => {
                let condition = self.pop();
                let (params, results) = self.block_types(*blockty);
                let arguments = self.stack[self.stack.len() - params.len()..].to_vec();
                let (then, otherwise) = (self.builder.create_block(), self.builder.create_block());
                let exit = self.block(&results);
                self.builder.ins().brif(condition, then, &[], otherwise, &[]);
                self.builder.seal_block(then);
                self.builder.seal_block(otherwise);
                let held = self.held();
                let (rare_then, rare) = self.rare_ways();
                self.push_frame(FrameKind::If { otherwise, arguments, rare, held }, exit, params.len(), results.len());
                self.builder.switch_to_block(then);
                self.enter(then, rare_then);
            }
            Operator::Else => self.otherwise(),
            Operator::End => self.end(),
            Operator::Br { relative_depth } => {
                let (target, count) = self.branch(*relative_depth, self.cold);
                let arguments = self.pop_canonical(count);
                self.builder.ins().jump(target, &block_args(&arguments));
                self.reachable = false;
            }
            Operator::BrIf { relative_depth } => {
                let condition = self.pop();
                let (rare, rare_next) = self.rare_ways();
                let (target, count) = self.branch(*relative_depth, rare);
                let arguments = self.peek_canonical(count);
                let next = self.builder.create_block();
                self.builder.ins().brif(condition, target, &block_args(&arguments), next, &[]);
                self.builder.seal_block(next);
                self.builder.switch_to_block(next);
                self.enter(next, rare_next);
            }
            Operator::BrTable { targets } => self.branch_table(targets)?,
            Operator::Return => {
                let results = self.frames[0].results;
                let values = self.pop_canonical(results);
                self.builder.ins().return_(&values);
                self.reachable = false;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Follows the nesting where nothing is reachable.
    pub(super) fn unreachable_operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                // Never branched to: everything inside is as unreachable.
                let exit = self.frames[0].exit;
                self.push_frame(FrameKind::Dead, exit, 0, 0);
            }
            Operator::Else => self.otherwise(),
            Operator::End => self.end(),
            _ => {}
        }
    }

    /// Begins a block that is left at its end.
    pub(super) fn begin_block(&mut self, kind: FrameKind, ty: BlockType) {
        let (params, results) = self.block_types(ty);
        let exit = self.block(&results);
        self.push_frame(kind, exit, params.len(), results.len());
    }

    pub(super) fn push_frame(&mut self, kind: FrameKind, exit: Block, params: usize, results: usize) {
        // In dead code the stack may lack operands.
        let height = self.stack.len().saturating_sub(params);
        self.frames.push(Frame { kind, exit, exit_reached: false, params, results, height, held: None, warm: false });
    }

    /// Parameters and results of a block.
    pub(super) fn block_types(&self, ty: BlockType) -> (Vec<Type>, Vec<Type>) {
        let convert = |types: &[preheat_image::abi::ValueType]| types.iter().map(|ty| clif_type(*ty)).collect();
        match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(ty) => (Vec::new(), crate::signature::value_type(ty).map(clif_type).into_iter().collect()),
            BlockType::FuncType(ty) => {
                let module = self.env.module;
                let ty = &module.types[module.type_numbers[ty as usize] as usize];
                (convert(&ty.params), convert(&ty.results))
            }
        }
    }

    /// A block with parameters of these types.
    pub(super) fn block(&mut self, params: &[Type]) -> Block {
        let block = self.builder.create_block();
        for ty in params {
            self.builder.append_block_param(block, *ty);
        }
        block
    }

    /// The frame to which a branch goes, which is hardly ever taken if it is `rare`.
    fn branch(&mut self, depth: u32, rare: bool) -> (Block, usize) {
        let position = self.frames.len() - 1 - depth as usize;
        self.hold_at(position);
        self.warm_at(position, rare);
        self.frames[position].target()
    }

    /// Branches with operands that are not on the stack.
    pub(super) fn branch_with(&mut self, depth: u32, values: &[Value]) {
        let (target, _) = self.branch(depth, self.cold);
        self.builder.ins().jump(target, &block_args(values));
    }

    /// The top operands with vectors in their canonical type, left where they are.
    fn peek_canonical(&mut self, count: usize) -> Vec<Value> {
        let values = self.pop_canonical(count);
        self.stack.extend_from_slice(&values);
        values
    }

    fn branch_table(&mut self, targets: &BrTable<'_>) -> Result<(), CompileError> {
        let index = self.pop();
        let arms = targets.len() as usize + 1;
        let known = self.arms(arms);
        let rare = |this: &Self, arm: usize| this.cold || known.is_some_and(|known| known[arm] == 0);
        let (_, count) = self.branch(targets.default(), rare(self, arms - 1));
        let arguments = self.pop_canonical(count);
        // Jump tables of Cranelift pass no arguments: a block between does, one for each frame.
        let mut between: HashMap<u32, Block> = HashMap::new();
        let mut order = Vec::new();
        let mut destination = |this: &mut Self, depth: u32, rare: bool| {
            let (target, _) = this.branch(depth, rare);
            if count == 0 {
                return target;
            }
            *between.entry(depth).or_insert_with(|| {
                let block = this.here();
                order.push((block, target));
                block
            })
        };
        let mut blocks = Vec::with_capacity(arms);
        for (arm, depth) in targets.targets().enumerate() {
            let rare = rare(self, arm);
            blocks.push(destination(self, depth?, rare));
        }
        let rare = rare(self, arms - 1);
        let default = destination(self, targets.default(), rare);
        if let Some(arm) = self.dominant_arm(arms) {
            let rest = self.here();
            let arm_index = i64::try_from(arm).unwrap_or(i64::MAX);
            let taken = self.builder.ins().icmp_imm_u(IntCC::Equal, index, arm_index);
            self.builder.ins().brif(taken, blocks[arm], &[], rest, &[]);
            self.builder.seal_block(rest);
            self.builder.switch_to_block(rest);
        }
        let calls: Vec<_> = blocks.into_iter().map(|block| self.builder.func.dfg.block_call(block, &[])).collect();
        let default = self.builder.func.dfg.block_call(default, &[]);
        let table = self.builder.create_jump_table(JumpTableData::new(default, &calls));
        self.builder.ins().br_table(index, table);
        for (block, target) in order {
            self.builder.switch_to_block(block);
            self.builder.seal_block(block);
            self.builder.ins().jump(target, &block_args(&arguments));
        }
        self.reachable = false;
        Ok(())
    }

    /// `else`: the first part of a condition ends.
    fn otherwise(&mut self) {
        let reachable = self.reachable;
        let frame = self.frames.last_mut().expect("validation balances blocks");
        let kind = std::mem::replace(&mut frame.kind, FrameKind::Else);
        if matches!(kind, FrameKind::Dead) {
            frame.kind = FrameKind::Dead;
            return;
        }
        let (exit, results, height) = (frame.exit, frame.results, frame.height);
        if reachable {
            let position = self.frames.len() - 1;
            self.hold_at(position);
            self.warm_at(position, self.cold);
            let values = self.pop_canonical(results);
            self.builder.ins().jump(exit, &block_args(&values));
        }
        let FrameKind::If { otherwise, arguments, rare, held } = kind else {
            self.stack.truncate(height);
            self.reachable = false;
            return;
        };
        self.set_held(held);
        self.builder.switch_to_block(otherwise);
        self.enter(otherwise, rare);
        self.stack.truncate(height);
        self.stack.extend(arguments);
        self.reachable = true;
    }

    /// `end` of a block or of the function.
    fn end(&mut self) {
        let mut frame = self.frames.pop().expect("validation balances blocks");
        match &frame.kind {
            FrameKind::Dead => return,
            FrameKind::Loop { header } => {
                self.builder.seal_block(*header);
                if !self.reachable {
                    self.stack.truncate(frame.height);
                }
                return;
            }
            FrameKind::If { .. } => {
                // There is no second part: it passes its parameters on.
                self.frames.push(frame);
                self.otherwise();
                frame = self.frames.pop().expect("it was pushed");
            }
            FrameKind::Function | FrameKind::Block | FrameKind::Else | FrameKind::ResumedIf | FrameKind::TryTable { .. } => {}
            FrameKind::ResumedLoop { .. } => unreachable!("their end is translated elsewhere"),
        }
        if let FrameKind::TryTable { clauses } = &mut frame.kind {
            let clauses = std::mem::take(clauses);
            // The landing pads come between the body and what follows.
            if self.reachable && clauses.iter().any(Clause::is_used) {
                let values = self.pop_canonical(frame.results);
                self.builder.ins().jump(frame.exit, &block_args(&values));
                self.join_held(&mut frame.held);
                frame.exit_reached = true;
                frame.warm |= !self.cold;
                self.reachable = false;
            }
            self.landing_pads(clauses);
        }
        if frame.exit_reached {
            if self.reachable {
                let values = self.pop_canonical(frame.results);
                self.builder.ins().jump(frame.exit, &block_args(&values));
                self.join_held(&mut frame.held);
                frame.warm |= !self.cold;
            }
            self.set_held(frame.held.take());
            self.builder.switch_to_block(frame.exit);
            self.enter(frame.exit, self.knows_cold() && !frame.warm);
            self.builder.seal_block(frame.exit);
            self.stack.truncate(frame.height);
            self.stack.extend_from_slice(self.builder.block_params(frame.exit));
            self.reachable = true;
        } else if !self.reachable {
            self.stack.truncate(frame.height);
        }
        if matches!(frame.kind, FrameKind::Function) && self.reachable {
            let values = self.pop_canonical(frame.results);
            self.builder.ins().return_(&values);
            self.reachable = false;
        }
    }
}
