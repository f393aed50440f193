//! Conversions between lanes.

use super::{binary, unary};
use crate::translate::Translator;
use cranelift_codegen::ir::InstBuilder as _;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32, I32X4, I64X2};
use wasmparser::Operator;

/// Pops a vector of type `from`, pushes what an instruction makes of it in the type `to`.
macro_rules! convert {
    ($self:ident, $instruction:ident, $from:expr, $to:expr) => {{
        let operand = $self.pop_vector($from);
        let result = $self.builder.ins().$instruction($to, operand);
        $self.push(result);
    }};
}

pub(super) use convert;

impl Translator<'_, '_> {
    pub(super) fn vector_conversion(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::F32x4ConvertI32x4S => convert!(self, fcvt_from_sint, I32X4, F32X4),
            Operator::F32x4ConvertI32x4U => convert!(self, fcvt_from_uint, I32X4, F32X4),
            Operator::F64x2ConvertLowI32x4S => {
                unary!(self, I32X4, swiden_low);
                convert!(self, fcvt_from_sint, I64X2, F64X2);
            }
            Operator::F64x2ConvertLowI32x4U => {
                unary!(self, I32X4, uwiden_low);
                convert!(self, fcvt_from_uint, I64X2, F64X2);
            }
            Operator::F64x2PromoteLowF32x4 => unary!(self, F32X4, fvpromote_low),
            Operator::F32x4DemoteF64x2Zero => unary!(self, F64X2, fvdemote),
            Operator::I32x4TruncSatF32x4S => convert!(self, fcvt_to_sint_sat, F32X4, I32X4),
            Operator::I32x4TruncSatF32x4U => convert!(self, fcvt_to_uint_sat, F32X4, I32X4),
            Operator::I32x4TruncSatF64x2SZero => {
                convert!(self, fcvt_to_sint_sat, F64X2, I64X2);
                self.narrow_with_zeros();
            }
            Operator::I32x4TruncSatF64x2UZero => self.truncate_unsigned(),
            Operator::I8x16NarrowI16x8S => binary!(self, I16X8, snarrow),
            Operator::I8x16NarrowI16x8U => binary!(self, I16X8, unarrow),
            Operator::I16x8NarrowI32x4S => binary!(self, I32X4, snarrow),
            Operator::I16x8NarrowI32x4U => binary!(self, I32X4, unarrow),
            Operator::I16x8ExtendLowI8x16S => unary!(self, I8X16, swiden_low),
            Operator::I16x8ExtendHighI8x16S => unary!(self, I8X16, swiden_high),
            Operator::I16x8ExtendLowI8x16U => unary!(self, I8X16, uwiden_low),
            Operator::I16x8ExtendHighI8x16U => unary!(self, I8X16, uwiden_high),
            Operator::I32x4ExtendLowI16x8S => unary!(self, I16X8, swiden_low),
            Operator::I32x4ExtendHighI16x8S => unary!(self, I16X8, swiden_high),
            Operator::I32x4ExtendLowI16x8U => unary!(self, I16X8, uwiden_low),
            Operator::I32x4ExtendHighI16x8U => unary!(self, I16X8, uwiden_high),
            Operator::I64x2ExtendLowI32x4S => unary!(self, I32X4, swiden_low),
            Operator::I64x2ExtendHighI32x4S => unary!(self, I32X4, swiden_high),
            Operator::I64x2ExtendLowI32x4U => unary!(self, I32X4, uwiden_low),
            Operator::I64x2ExtendHighI32x4U => unary!(self, I32X4, uwiden_high),
            _ => return false,
        }
        true
    }

    /// `i32x4.trunc_sat_f64x2_u_zero`. Vectors need SSE4.1 for it: without, each lane goes by itself.
    pub(super) fn truncate_unsigned(&mut self) {
        if self.env.capabilities.sse41 {
            convert!(self, fcvt_to_uint_sat, F64X2, I64X2);
            let zero = self.zero(I64X2);
            self.push(zero);
            binary!(self, I64X2, uunarrow);
            return;
        }
        let operand = self.pop_vector(F64X2);
        let mut result = self.zero(I32X4);
        for lane in 0..2u8 {
            let value = self.builder.ins().extractlane(operand, lane);
            let value = self.builder.ins().fcvt_to_uint_sat(I32, value);
            result = self.builder.ins().insertlane(result, value, lane);
        }
        self.push(result);
    }

    /// Narrows two 64-bit lanes, saturating, with two zero lanes behind them.
    pub(super) fn narrow_with_zeros(&mut self) {
        let zero = self.zero(I64X2);
        self.push(zero);
        binary!(self, I64X2, snarrow);
    }
}
