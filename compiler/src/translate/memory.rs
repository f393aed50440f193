//! Loads and stores of numbers, and the size of memories.

use super::{Region, Translator, displacement, record, trap_code};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{Endianness, InstBuilder as _, MemFlagsData, Type, Value};
use preheat_image::abi::{Libcall, MEMORY_GUARD, MEMORY_RESERVATION, TrapCode, WASM_PAGE, offset};
use wasmparser::{MemArg, Operator};

/// Where an access goes: flags, address, displacement.
pub(super) type Place = (MemFlagsData, Value, i32);

/// Loads by an instruction that names the type of its result.
macro_rules! load {
    ($self:ident, $memarg:expr, $size:expr, $instruction:ident, $ty:expr) => {{
        if let Some((flags, address, offset)) = $self.address($memarg, $size) {
            let value = $self.builder.ins().$instruction($ty, flags, address, offset);
            $self.push(value);
        }
    }};
}

/// Stores by an instruction.
macro_rules! store {
    ($self:ident, $memarg:expr, $size:expr, $instruction:ident) => {{
        let value = $self.pop();
        if let Some((flags, address, offset)) = $self.address($memarg, $size) {
            $self.builder.ins().$instruction(flags, value, address, offset);
        }
    }};
}

impl Translator<'_, '_> {
    pub(super) fn memory(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I32Load { memarg } => load!(self, memarg, 4, load, I32),
            Operator::I64Load { memarg } => load!(self, memarg, 8, load, I64),
            Operator::F32Load { memarg } => load!(self, memarg, 4, load, F32),
            Operator::F64Load { memarg } => load!(self, memarg, 8, load, F64),
            Operator::I32Load8S { memarg } => load!(self, memarg, 1, sload8, I32),
            Operator::I32Load8U { memarg } => load!(self, memarg, 1, uload8, I32),
            Operator::I32Load16S { memarg } => load!(self, memarg, 2, sload16, I32),
            Operator::I32Load16U { memarg } => load!(self, memarg, 2, uload16, I32),
            Operator::I64Load8S { memarg } => load!(self, memarg, 1, sload8, I64),
            Operator::I64Load8U { memarg } => load!(self, memarg, 1, uload8, I64),
            Operator::I64Load16S { memarg } => load!(self, memarg, 2, sload16, I64),
            Operator::I64Load16U { memarg } => load!(self, memarg, 2, uload16, I64),
            Operator::I64Load32S { memarg } => self.load_half(memarg, true),
            Operator::I64Load32U { memarg } => self.load_half(memarg, false),
            Operator::I32Store { memarg } | Operator::F32Store { memarg } => store!(self, memarg, 4, store),
            Operator::I64Store { memarg } | Operator::F64Store { memarg } => store!(self, memarg, 8, store),
            Operator::I32Store8 { memarg } | Operator::I64Store8 { memarg } => store!(self, memarg, 1, istore8),
            Operator::I32Store16 { memarg } | Operator::I64Store16 { memarg } => store!(self, memarg, 2, istore16),
            Operator::I64Store32 { memarg } => store!(self, memarg, 4, istore32),
            Operator::MemorySize { mem } => {
                let (base, at) = self.memory_record(*mem);
                let flags = self.in_region(record(), Region::Sizes);
                let bytes = self.builder.ins().load(I64, flags, base, at + offset::MEMORY_LENGTH);
                let pages = self.builder.ins().ushr_imm_u(bytes, i64::from(WASM_PAGE.trailing_zeros()));
                let pages = self.builder.ins().ireduce(I32, pages);
                self.push(pages);
            }
            Operator::MemoryGrow { mem } => {
                let delta = self.pop();
                let delta = self.builder.ins().uextend(I64, delta);
                let memory = self.i32_const(*mem);
                let before = self.libcall(Libcall::MemoryGrow, &[memory, delta]).expect("memory.grow has a result");
                let before = self.builder.ins().ireduce(I32, before);
                self.push(before);
            }
            _ => return false,
        }
        true
    }

    /// `i64.load32_s` and `i64.load32_u`, whose instructions do not name a type.
    fn load_half(&mut self, memarg: &MemArg, signed: bool) {
        if let Some((flags, address, offset)) = self.address(memarg, 4) {
            let ins = self.builder.ins();
            let value = if signed { ins.sload32(flags, address, offset) } else { ins.uload32(flags, address, offset) };
            self.push(value);
        }
    }

    /// A plain load of type `ty`; `None` where the access always traps.
    pub(super) fn load(&mut self, memarg: &MemArg, ty: Type) -> Option<Value> {
        let (flags, address, offset) = self.address(memarg, ty.bytes())?;
        Some(self.builder.ins().load(ty, flags, address, offset))
    }

    /// A plain store.
    pub(super) fn store(&mut self, memarg: &MemArg, value: Value) {
        let size = self.type_of(value).bytes();
        if let Some((flags, address, offset)) = self.address(memarg, size) {
            self.builder.ins().store(flags, value, address, offset);
        }
    }

    /// Pops the index of an access of `size` bytes. `None`, and nothing more to reach, where it is always out of bounds.
    ///
    /// An index is less than 4 GiB and the reservation as large, with a guard behind: what ends within index plus guard needs no check, for
    /// it either lies within the memory or faults. Other accesses are compared with the end of the reservation, and redirected to
    /// address zero if they are beyond, also in speculation.
    pub(super) fn address(&mut self, memarg: &MemArg, size: u32) -> Option<Place> {
        let index = self.pop();
        let end = memarg.offset.saturating_add(u64::from(size));
        if end > MEMORY_RESERVATION {
            self.trap(TrapCode::MemoryOutOfBounds);
            return None;
        }
        let region = match memarg.memory.checked_sub(self.env.module.imported().imported_memories) {
            Some(own) => Region::Memory(own),
            None => Region::ImportedMemory,
        };
        let flags = MemFlagsData::new().with_endianness(Endianness::Little).with_trap_code(Some(trap_code(TrapCode::MemoryOutOfBounds)));
        let flags = self.in_region(flags, region);
        let base = self.memory_base(memarg.memory);
        let wide = self.builder.ins().uextend(I64, index);
        let address = self.builder.ins().iadd(base, wide);
        if end <= MEMORY_GUARD {
            let offset = i32::try_from(memarg.offset).expect("the guard is smaller than 2 GiB");
            return Some((flags, address, offset));
        }
        let offset = self.builder.ins().iconst(I64, memarg.offset.cast_signed());
        let address = self.builder.ins().iadd(address, offset);
        let last = self.builder.ins().iconst(I64, (MEMORY_RESERVATION - end).cast_signed());
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThan, wide, last);
        let null = self.builder.ins().iconst(I64, 0);
        let address = self.builder.ins().select_spectre_guard(outside, null, address);
        Some((flags, address, 0))
    }

    fn memory_base(&mut self, memory: u32) -> Value {
        let (base, at) = self.memory_record(memory);
        self.constant_field(I64, base, at + offset::MEMORY_BASE)
    }

    /// Where the record of a memory is.
    fn memory_record(&mut self, memory: u32) -> (Value, i32) {
        let layout = &self.env.module.layout;
        match memory.checked_sub(layout.counts.imported_memories) {
            Some(own) => (self.context, displacement(layout.memory(own).expect("validation checks indices of memories"))),
            None => {
                let place = layout.imported_memory(memory).expect("validation checks indices of memories");
                (self.context_constant(I64, place), 0)
            }
        }
    }
}
