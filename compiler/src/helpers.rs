//! What CPUs of x86-64-v1 have no instruction for, as functions in the text: code must not refer to anything outside.

use crate::signature::system_v;
use crate::translate::record;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32, F64, I8, I8X16, I64};
use cranelift_codegen::ir::{Function, InstBuilder as _, LibCall, Signature, StackSlotData, StackSlotKind, Type, UserFuncName, Value};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

/// A function that needs nothing from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Helper {
    CeilF32,
    CeilF64,
    FloorF32,
    FloorF64,
    TruncF32,
    TruncF64,
    NearestF32,
    NearestF64,
    /// The instruction `pshufb`: bytes by their index, zero where its highest bit is set.
    Shuffle,
}

impl Helper {
    pub(crate) const ALL: [Self; 9] = [
        Self::CeilF32,
        Self::CeilF64,
        Self::FloorF32,
        Self::FloorF64,
        Self::TruncF32,
        Self::TruncF64,
        Self::NearestF32,
        Self::NearestF64,
        Self::Shuffle,
    ];

    /// Its position in [`Self::ALL`].
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }

    /// The helper for what Cranelift calls where it has no instruction.
    pub(crate) fn of(libcall: LibCall) -> Option<Self> {
        Some(match libcall {
            LibCall::CeilF32 => Self::CeilF32,
            LibCall::CeilF64 => Self::CeilF64,
            LibCall::FloorF32 => Self::FloorF32,
            LibCall::FloorF64 => Self::FloorF64,
            LibCall::TruncF32 => Self::TruncF32,
            LibCall::TruncF64 => Self::TruncF64,
            LibCall::NearestF32 => Self::NearestF32,
            LibCall::NearestF64 => Self::NearestF64,
            LibCall::X86Pshufb => Self::Shuffle,
            _ => return None,
        })
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CeilF32 => "ceil.f32",
            Self::CeilF64 => "ceil.f64",
            Self::FloorF32 => "floor.f32",
            Self::FloorF64 => "floor.f64",
            Self::TruncF32 => "trunc.f32",
            Self::TruncF64 => "trunc.f64",
            Self::NearestF32 => "nearest.f32",
            Self::NearestF64 => "nearest.f64",
            Self::Shuffle => "shuffle.i8x16",
        }
    }

    /// Its signature, in the convention in which Cranelift calls such functions.
    pub(crate) fn signature(self) -> Signature {
        match self {
            Self::CeilF32 | Self::FloorF32 | Self::TruncF32 | Self::NearestF32 => system_v(&[F32], &[F32]),
            Self::CeilF64 | Self::FloorF64 | Self::TruncF64 | Self::NearestF64 => system_v(&[F64], &[F64]),
            Self::Shuffle => system_v(&[I8X16, I8X16], &[I8X16]),
        }
    }

    /// Builds it.
    pub(crate) fn build(self, config: TargetFrontendConfig) -> Function {
        let mut function = Function::with_name_signature(UserFuncName::default(), self.signature());
        let mut context = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut function, &mut context);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        let params = builder.block_params(entry).to_vec();
        let result = match self {
            Self::Shuffle => shuffle(&mut builder, params[0], params[1]),
            _ => self.round(&mut builder, params[0]),
        };
        builder.ins().return_(&[result]);
        builder.finalize(config);
        function
    }

    /// Rounds to an integer. From 2^52 on (2^23 for single precision) every number is one; below, it fits an i64. The sign of the operand
    /// is that of the result, also if that is zero. NaN passes through an addition, which makes it quiet.
    fn round(self, builder: &mut FunctionBuilder<'_>, operand: Value) -> Value {
        let ty = builder.func.dfg.value_type(operand);
        let constant = |builder: &mut FunctionBuilder<'_>, value: f32| match ty {
            F32 => builder.ins().f32const(value),
            _ => builder.ins().f64const(f64::from(value)),
        };
        // Powers of two are exact as f32.
        let limit = constant(builder, if ty == F32 { 8_388_608.0 } else { 4_503_599_627_370_496.0 });
        let zero = constant(builder, 0.0);
        let one = constant(builder, 1.0);
        let small = match self {
            Self::NearestF32 | Self::NearestF64 => {
                let shift = builder.ins().fcopysign(limit, operand);
                let sum = builder.ins().fadd(operand, shift);
                builder.ins().fsub(sum, shift)
            }
            _ => {
                let truncated = truncate(builder, operand, ty);
                let (condition, adjusted) = match self {
                    Self::CeilF32 | Self::CeilF64 => (FloatCC::LessThan, builder.ins().fadd(truncated, one)),
                    Self::FloorF32 | Self::FloorF64 => (FloatCC::GreaterThan, builder.ins().fsub(truncated, one)),
                    // Never: truncation is what was asked for.
                    _ => (FloatCC::NotEqual, truncated),
                };
                let adjust = builder.ins().fcmp(condition, truncated, operand);
                builder.ins().select(adjust, adjusted, truncated)
            }
        };
        let small = builder.ins().fcopysign(small, operand);
        let magnitude = builder.ins().fabs(operand);
        let large = builder.ins().fcmp(FloatCC::UnorderedOrGreaterThanOrEqual, magnitude, limit);
        let same = builder.ins().fadd(operand, zero);
        builder.ins().select(large, same, small)
    }
}

/// The integer part of a number that fits an i64.
fn truncate(builder: &mut FunctionBuilder<'_>, operand: Value, ty: Type) -> Value {
    let integer = builder.ins().fcvt_to_sint_sat(I64, operand);
    builder.ins().fcvt_from_sint(ty, integer)
}

fn shuffle(builder: &mut FunctionBuilder<'_>, bytes: Value, indices: Value) -> Value {
    let mut slot = || builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, 16, 4));
    let (source, lanes, result) = (slot(), slot(), slot());
    let source = builder.ins().stack_addr(I64, source, 0);
    let lanes = builder.ins().stack_addr(I64, lanes, 0);
    let result = builder.ins().stack_addr(I64, result, 0);
    builder.ins().store(record(), bytes, source, 0);
    builder.ins().store(record(), indices, lanes, 0);
    for lane in 0..16 {
        let index = builder.ins().load(I8, record(), lanes, lane);
        let low = builder.ins().band_imm_u(index, 15);
        let low = builder.ins().uextend(I64, low);
        let place = builder.ins().iadd(source, low);
        let byte = builder.ins().load(I8, record(), place, 0);
        let clear = builder.ins().sshr_imm_u(index, 7);
        let byte = builder.ins().band_not(byte, clear);
        builder.ins().store(record(), byte, result, lane);
    }
    builder.ins().load(I8X16, record(), result, 0)
}
