//! The loop around a site that comes once more as a whole, behind the rest of its interrupted iteration.
//!
//! It is entered at its beginning. If loops in it were interrupted as well and the program goes back to the header of one of those, it must get
//! to that first, and nothing on the way may happen. A jump there from outside would make loops with two entries of all that are around it.
//! So the way leads through the headers: a variable says how many loops further in the program is to go, behind the header of each loop it is
//! looked at, and if it is not zero, a *door* leads to before the next loop. On the ordinary way it is always zero, and the look is one branch
//! that is never taken in an iteration of an outer loop.
//!
//! The operands below a loop that is entered by its door are those of the interrupted iteration. So in the blocks around the door they may be
//! others in one place than in another, and where two such places join they are read again from variables. A block without doors in it needs
//! nothing of that.

use super::resume::Resumed;
use super::{Translator, block_args};
use crate::CompileError;
use crate::freeze::{Around, CheckedBody};
use crate::module::impossible;
use cranelift_codegen::ir::types::I32;
use cranelift_codegen::ir::{Block, InstBuilder as _, Type, Value};
use cranelift_frontend::Variable;
use wasmparser::{BlockType, Operator};

/// A loop that comes once more, with the doors in it.
struct Again<'r> {
    /// It and the blocks in it, down to the innermost loop that has a door.
    around: &'r [Around],
    /// How many of them have begun, and how many of those not ended.
    begun: usize,
    open: usize,
    /// How many frames are around it, and operands below it.
    frames: usize,
    below: usize,
    doors: Option<Doors<'r>>,
}

struct Doors<'r> {
    /// How many loops further in the program is to go.
    steps: Variable,
    zero: Value,
    /// The operands from `below` up that are below blocks of `around`.
    slots: Vec<Variable>,
    /// How many of them have a value on the ordinary way.
    kept: usize,
    /// Their values if the program goes through doors.
    interrupted: &'r [Value],
    /// For each of `around`, the parameters with which it is entered through its door.
    arguments: Vec<Vec<Value>>,
    /// What is before the next loop.
    next: Option<Block>,
}

impl Translator<'_, '_> {
    /// Translates loop number `index` around the site as a whole. It ends at `end`, where the current position is. All that waits goes there.
    pub(super) fn loop_again(
        &mut self,
        body: &CheckedBody<'_>,
        index: usize,
        end: usize,
        resumed: &mut Resumed,
    ) -> Result<(), CompileError> {
        let waiting = std::mem::take(&mut resumed.waiting);
        let innermost = waiting.iter().map(|(index, _)| *index).max().unwrap_or(index);
        let around = resumed.around.get(index..=innermost).ok_or_else(|| impossible("unbalanced blocks"))?;
        let below = around[0].height;
        let mut again = Again { around, begun: 0, open: 0, frames: self.frames.len(), below, doors: None };
        self.reachable = true;
        match waiting[..] {
            [(only, header)] if only == index => {
                self.builder.switch_to_block(header);
                self.stack.extend_from_slice(self.builder.block_params(header));
            }
            _ => {
                self.place(body.operators[around[0].begin].1);
                let interrupted = resumed.operands.get(below..).ok_or_else(|| impossible("unbalanced blocks"))?;
                again.doors = Some(self.join_waiting(&waiting, index, around, interrupted));
            }
        }
        for (position, (operator, offset)) in body.operators.iter().enumerate().take(end + 1).skip(around[0].begin) {
            self.place(*offset);
            if again.around.get(again.begun).is_some_and(|block| block.begin == position) {
                self.begin_again(body, &mut again, operator)?;
                continue;
            }
            let other_part = matches!(operator, Operator::Else | Operator::End) && self.frames.len() == again.frames + again.open;
            self.operator(operator)?;
            if other_part {
                let height = again.around[again.open - 1].height;
                again.open -= usize::from(matches!(operator, Operator::End));
                self.read_again(&again, height);
            }
        }
        Ok(())
    }

    /// Joins the ways of all loops that wait before the outermost, whose parameters are then on the stack.
    fn join_waiting<'r>(&mut self, waiting: &[(usize, Block)], first: usize, around: &[Around], interrupted: &'r [Value]) -> Doors<'r> {
        let passed = |number: usize| number == 0 || waiting.iter().any(|(index, _)| *index == first + number);
        let params: Vec<Vec<Type>> = around.iter().map(|block| block.loop_type.map_or(Vec::new(), |ty| self.block_types(ty).0)).collect();
        let mut all = vec![I32];
        (0..).zip(&params).filter(|(number, _)| passed(*number)).for_each(|(_, params)| all.extend(params));
        let join = self.block(&all);
        for (index, header) in waiting {
            self.builder.switch_to_block(*header);
            let own = index - first;
            let steps = around[1..=own].iter().filter(|block| block.is_loop()).count();
            let mut arguments = vec![self.i32_const(u32::try_from(steps).unwrap_or(u32::MAX))];
            for (number, params) in params.iter().enumerate().filter(|(number, _)| passed(*number)) {
                if number == own {
                    arguments.extend_from_slice(self.builder.block_params(*header));
                } else {
                    arguments.extend(params.iter().map(|ty| self.zero(*ty)));
                }
            }
            self.builder.ins().jump(join, &block_args(&arguments));
        }
        self.builder.switch_to_block(join);
        self.builder.seal_block(join);
        let mut values = self.builder.block_params(join).to_vec().into_iter();
        let steps = self.builder.declare_var(I32);
        values.next().into_iter().for_each(|value| self.builder.def_var(steps, value));
        let mut arguments: Vec<Vec<Value>> = Vec::with_capacity(params.len());
        for (number, params) in params.iter().enumerate() {
            arguments.push(if passed(number) {
                values.by_ref().take(params.len()).collect()
            } else {
                params.iter().map(|ty| self.zero(*ty)).collect()
            });
        }
        self.stack.append(&mut arguments[0]);
        let highest = around.last().map_or(0, |block| block.height);
        let types: Vec<Type> = interrupted[..highest - around[0].height].iter().map(|value| self.type_of(*value)).collect();
        let slots = types.into_iter().map(|ty| self.builder.declare_var(ty)).collect();
        Doors { steps, zero: self.i32_const(0), slots, kept: 0, interrupted, arguments, next: None }
    }

    /// A block of `again` begins.
    fn begin_again(&mut self, body: &CheckedBody<'_>, again: &mut Again<'_>, operator: &Operator<'_>) -> Result<(), CompileError> {
        let block = again.around[again.begun];
        if again.begun > 0 {
            if let Some(ty) = block.loop_type {
                self.before_door(again, &block, ty)?;
            } else if self.reachable {
                self.keep(again, block.height);
            } else {
                // The ordinary way does not lead here, but a door to a loop in it does.
                let block = Around { second: false, ..block };
                self.begin_around(body, &block)?;
                again.begun += 1;
                again.open += 1;
                return Ok(());
            }
        }
        self.operator(operator)?;
        again.begun += 1;
        again.open += 1;
        if block.is_loop() {
            self.door(again, &block)?;
        }
        Ok(())
    }

    /// Keeps the operands below a block that begins, which has as many below it.
    fn keep(&mut self, again: &mut Again<'_>, height: usize) {
        let Some(doors) = &mut again.doors else { return };
        for number in doors.kept..height - again.below {
            let value = self.canonical(self.stack[again.below + number]);
            self.builder.def_var(doors.slots[number], value);
        }
        doors.kept = doors.kept.max(height - again.below);
    }

    /// Reads all operands below `height` that are kept.
    fn read_again(&mut self, again: &Again<'_>, height: usize) {
        let Some(doors) = again.doors.as_ref().filter(|_| self.reachable) else { return };
        for (number, slot) in doors.slots[..height - again.below].iter().enumerate() {
            self.stack[again.below + number] = self.builder.use_var(*slot);
        }
    }

    /// Before a loop, where the ordinary way and that through its door join.
    fn before_door(&mut self, again: &mut Again<'_>, block: &Around, ty: BlockType) -> Result<(), CompileError> {
        let door = again.doors.as_mut().and_then(|doors| doors.next.take()).ok_or_else(|| impossible("a loop without a door"))?;
        if self.reachable {
            let arguments = self.pop_canonical(self.block_types(ty).0.len());
            self.keep(again, block.height);
            self.builder.ins().jump(door, &block_args(&arguments));
        }
        self.builder.switch_to_block(door);
        self.builder.seal_block(door);
        self.reachable = true;
        self.forget_held();
        // Before variables are read, which may become parameters as well.
        let params = self.builder.block_params(door).to_vec();
        // Where nothing is reachable the stack may lack operands.
        self.stack.resize(block.height, self.context);
        self.read_again(again, block.height);
        self.stack.extend(params);
        Ok(())
    }

    /// Behind the header of a loop: the door to the next one in it.
    fn door(&mut self, again: &mut Again<'_>, block: &Around) -> Result<(), CompileError> {
        let Some(doors) = &mut again.doors else { return Ok(()) };
        let mut further = (again.begun..).zip(&again.around[again.begun..]).filter(|(_, block)| block.is_loop());
        let Some((number, next)) = further.next() else { return Ok(()) };
        let params = next.loop_type.map_or(Vec::new(), |ty| self.block_types(ty).0);
        let door = self.block(&params);
        doors.next = Some(door);
        let steps = self.builder.use_var(doors.steps);
        let (through, on) = (self.builder.create_block(), self.builder.create_block());
        self.builder.set_cold_block(through);
        self.builder.ins().brif(steps, through, &[], on, &[]);
        self.builder.seal_block(through);
        self.builder.seal_block(on);
        self.builder.switch_to_block(through);
        let left = if further.next().is_some() { self.builder.ins().iadd_imm_s(steps, -1) } else { doors.zero };
        self.builder.def_var(doors.steps, left);
        for place in block.height - again.below..next.height - again.below {
            self.builder.def_var(doors.slots[place], doors.interrupted[place]);
        }
        self.builder.ins().jump(door, &block_args(&doors.arguments[number]));
        self.builder.switch_to_block(on);
        self.builder.def_var(doors.steps, doors.zero);
        Ok(())
    }
}
