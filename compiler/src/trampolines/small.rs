//! Small copies and fills within the first memory, without a call of the runtime.
//!
//! Programs copy a few bytes far more often than many. Up to [`MOST`] bytes are loaded, all of them, and then stored, in two or four
//! pieces that may overlap: so no loop is needed, and source and target may overlap as well.

use crate::translate::{constant_record, displacement, record};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I8X16, I16, I32, I64, I64X2};
use cranelift_codegen::ir::{Block, Endianness, InstBuilder as _, MemFlagsData, Type, Value};
use cranelift_frontend::FunctionBuilder;
use preheat_image::abi::{ContextLayout, offset};

/// How many bytes are few.
const MOST: i64 = 64;

/// Pieces by the least length for which they are used: their type, and how many there are from each end.
const PIECES: [(i64, Type, i32); 6] = [(33, I8X16, 2), (16, I8X16, 1), (8, I64, 1), (4, I32, 1), (2, I16, 1), (1, I8, 1)];

/// Where a piece is.
#[derive(Clone, Copy)]
enum Place {
    /// Bytes from the beginning.
    Start(i32),
    /// Bytes from an address, which is the length before.
    End(Value, i32),
}

/// Loads and stores of bytes that were checked to be in the memory.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap().with_endianness(Endianness::Little)
}

impl Place {
    fn address(self, builder: &mut FunctionBuilder<'_>, base: Value) -> (Value, i32) {
        match self {
            Self::Start(offset) => (base, offset),
            Self::End(len, offset) => (builder.ins().iadd(base, len), offset),
        }
    }

    fn load(self, builder: &mut FunctionBuilder<'_>, ty: Type, base: Value) -> Value {
        let (address, offset) = self.address(builder, base);
        builder.ins().load(ty, flags(), address, offset)
    }

    fn store(self, builder: &mut FunctionBuilder<'_>, value: Value, base: Value) {
        let (address, offset) = self.address(builder, base);
        builder.ins().store(flags(), value, address, offset);
    }
}

/// Emits what `memory.copy` does if it is small, within bounds and in the first memory, and goes on behind it if it is not.
pub(super) fn copy(builder: &mut FunctionBuilder<'_>, params: &[Value], layout: &ContextLayout) {
    let [context, to, from, at, source, len] = *params else { unreachable!("the call has five parameters") };
    let memories = builder.ins().bor(to, from);
    let last = builder.ins().umax(at, source);
    let (base, otherwise) = begin(builder, context, layout, memories, last, len);
    let (target, source) = (builder.ins().iadd(base, at), builder.ins().iadd(base, source));
    pieces(builder, len, |builder, ty, places| {
        let values: Vec<Value> = places.iter().map(|place| place.load(builder, ty, source)).collect();
        places.iter().zip(values).for_each(|(place, value)| place.store(builder, value, target));
    });
    builder.switch_to_block(otherwise);
}

/// Emits what `memory.fill` does, in the same way.
pub(super) fn fill(builder: &mut FunctionBuilder<'_>, params: &[Value], layout: &ContextLayout) {
    let [context, memory, at, byte, len] = *params else { unreachable!("the call has four parameters") };
    let (base, otherwise) = begin(builder, context, layout, memory, at, len);
    let target = builder.ins().iadd(base, at);
    let byte = builder.ins().ireduce(I8, byte);
    let byte = builder.ins().uextend(I64, byte);
    let ones = builder.ins().iconst(I64, 0x0101_0101_0101_0101);
    let word = builder.ins().imul(byte, ones);
    pieces(builder, len, |builder, ty, places| {
        let value = match ty {
            I64 => word,
            ty if ty.is_vector() => {
                let vector = builder.ins().splat(I64X2, word);
                builder.ins().bitcast(ty, MemFlagsData::new().with_endianness(Endianness::Little), vector)
            }
            ty => builder.ins().ireduce(ty, word),
        };
        places.iter().for_each(|place| place.store(builder, value, target));
    });
    builder.switch_to_block(otherwise);
}

/// Goes on where it is small and within bounds. Gives the base of the memory there, and the block for all else.
///
/// `memories` is zero for the first memory; `last` is the larger of the indices and `len` the length, both less than 4 GiB. So where the
/// checks are only speculated to be passed, an address is still within the reservation of the memory, as long as the length is small.
fn begin(
    builder: &mut FunctionBuilder<'_>,
    context: Value,
    layout: &ContextLayout,
    memories: Value,
    last: Value,
    len: Value,
) -> (Value, Block) {
    let otherwise = builder.create_block();
    builder.set_cold_block(otherwise);
    let go_on_if = |builder: &mut FunctionBuilder<'_>, condition: Value| {
        let next = builder.create_block();
        builder.ins().brif(condition, next, &[], otherwise, &[]);
        builder.switch_to_block(next);
    };
    if layout.counts.imported_memories + layout.counts.memories > 1 {
        let is_first = builder.ins().icmp_imm_u(IntCC::Equal, memories, 0);
        go_on_if(builder, is_first);
    }
    let is_small = builder.ins().icmp_imm_u(IntCC::UnsignedLessThanOrEqual, len, MOST);
    go_on_if(builder, is_small);
    let (owner, at) = match layout.imported_memory(0) {
        Some(place) => (builder.ins().load(I64, constant_record(), context, displacement(place)), 0),
        None => (context, layout.memory(0).map_or(0, displacement)),
    };
    let size = builder.ins().load(I64, record(), owner, at + offset::MEMORY_LENGTH);
    // Less than zero where the memory is smaller than the copy.
    let room = builder.ins().isub(size, len);
    let is_within = builder.ins().icmp(IntCC::SignedLessThanOrEqual, last, room);
    go_on_if(builder, is_within);
    (builder.ins().load(I64, constant_record(), owner, at + offset::MEMORY_BASE), otherwise)
}

/// Emits a case for each kind of piece, in which `emit` moves them all, and returns.
fn pieces(builder: &mut FunctionBuilder<'_>, len: Value, mut emit: impl FnMut(&mut FunctionBuilder<'_>, Type, &[Place])) {
    // The same number, but small in speculation as well: its end must not lead beyond the reservation of the memory.
    let len = builder.ins().band_imm_u(len, 2 * MOST - 1);
    for (least, ty, count) in PIECES {
        let (this, shorter) = (builder.create_block(), builder.create_block());
        let fits = builder.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, len, least);
        builder.ins().brif(fits, this, &[], shorter, &[]);
        builder.switch_to_block(this);
        let size = ty.bytes().cast_signed();
        let places: Vec<Place> = (0..count).flat_map(|piece| [Place::Start(piece * size), Place::End(len, -size - piece * size)]).collect();
        emit(builder, ty, &places);
        builder.ins().return_(&[]);
        builder.switch_to_block(shorter);
    }
    builder.ins().return_(&[]);
}
