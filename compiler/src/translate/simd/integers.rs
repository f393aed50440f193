//! Arithmetic and comparison of integer lanes.

use super::{binary, unary};
use crate::translate::Translator;
use cranelift_codegen::ir::condcodes::IntCC::{
    self, Equal, NotEqual, SignedGreaterThan, SignedGreaterThanOrEqual, SignedLessThan, SignedLessThanOrEqual, UnsignedGreaterThan,
    UnsignedGreaterThanOrEqual, UnsignedLessThan, UnsignedLessThanOrEqual,
};
use cranelift_codegen::ir::types::{I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder as _, Type, Value};
use wasmparser::Operator;

/// Widens the low or high lanes of two vectors and multiplies them.
macro_rules! extended_multiply {
    ($self:ident, $ty:expr, $widen:ident) => {{
        let (left, right) = $self.pop_vectors($ty);
        let left = $self.builder.ins().$widen(left);
        let right = $self.builder.ins().$widen(right);
        let result = $self.builder.ins().imul(left, right);
        $self.push(result);
    }};
}

/// Widens the lanes of a vector and adds neighbours.
macro_rules! extended_add {
    ($self:ident, $ty:expr, $low:ident, $high:ident) => {{
        let operand = $self.pop_vector($ty);
        let low = $self.builder.ins().$low(operand);
        let high = $self.builder.ins().$high(operand);
        let result = $self.builder.ins().iadd_pairwise(low, high);
        $self.push(result);
    }};
}

/// Shifts all lanes by a count, which both take modulo the width of a lane.
macro_rules! shift {
    ($self:ident, $ty:expr, $instruction:ident) => {{
        let count = $self.pop();
        let operand = $self.pop_vector($ty);
        let result = $self.builder.ins().$instruction(operand, count);
        $self.push(result);
    }};
}

impl Translator<'_, '_> {
    pub(super) fn vector_integer(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_arithmetic(operator) || self.vector_comparison(operator)
    }

    fn vector_arithmetic(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I8x16Add => binary!(self, I8X16, iadd),
            Operator::I16x8Add => binary!(self, I16X8, iadd),
            Operator::I32x4Add => binary!(self, I32X4, iadd),
            Operator::I64x2Add => binary!(self, I64X2, iadd),
            Operator::I8x16Sub => binary!(self, I8X16, isub),
            Operator::I16x8Sub => binary!(self, I16X8, isub),
            Operator::I32x4Sub => binary!(self, I32X4, isub),
            Operator::I64x2Sub => binary!(self, I64X2, isub),
            Operator::I16x8Mul => binary!(self, I16X8, imul),
            Operator::I32x4Mul => binary!(self, I32X4, imul),
            Operator::I64x2Mul => binary!(self, I64X2, imul),
            Operator::I8x16AddSatS => binary!(self, I8X16, sadd_sat),
            Operator::I16x8AddSatS => binary!(self, I16X8, sadd_sat),
            Operator::I8x16AddSatU => binary!(self, I8X16, uadd_sat),
            Operator::I16x8AddSatU => binary!(self, I16X8, uadd_sat),
            Operator::I8x16SubSatS => binary!(self, I8X16, ssub_sat),
            Operator::I16x8SubSatS => binary!(self, I16X8, ssub_sat),
            Operator::I8x16SubSatU => binary!(self, I8X16, usub_sat),
            Operator::I16x8SubSatU => binary!(self, I16X8, usub_sat),
            Operator::I8x16MinS => binary!(self, I8X16, smin),
            Operator::I16x8MinS => binary!(self, I16X8, smin),
            Operator::I32x4MinS => binary!(self, I32X4, smin),
            Operator::I8x16MinU => binary!(self, I8X16, umin),
            Operator::I16x8MinU => binary!(self, I16X8, umin),
            Operator::I32x4MinU => binary!(self, I32X4, umin),
            Operator::I8x16MaxS => binary!(self, I8X16, smax),
            Operator::I16x8MaxS => binary!(self, I16X8, smax),
            Operator::I32x4MaxS => binary!(self, I32X4, smax),
            Operator::I8x16MaxU => binary!(self, I8X16, umax),
            Operator::I16x8MaxU => binary!(self, I16X8, umax),
            Operator::I32x4MaxU => binary!(self, I32X4, umax),
            Operator::I8x16AvgrU => binary!(self, I8X16, avg_round),
            Operator::I16x8AvgrU => binary!(self, I16X8, avg_round),
            Operator::I16x8Q15MulrSatS => binary!(self, I16X8, sqmul_round_sat),
            Operator::I8x16Neg => unary!(self, I8X16, ineg),
            Operator::I16x8Neg => unary!(self, I16X8, ineg),
            Operator::I32x4Neg => unary!(self, I32X4, ineg),
            Operator::I64x2Neg => unary!(self, I64X2, ineg),
            Operator::I8x16Abs => unary!(self, I8X16, iabs),
            Operator::I16x8Abs => unary!(self, I16X8, iabs),
            Operator::I32x4Abs => unary!(self, I32X4, iabs),
            Operator::I64x2Abs => unary!(self, I64X2, iabs),
            Operator::I8x16Popcnt => unary!(self, I8X16, popcnt),
            Operator::I8x16Shl => shift!(self, I8X16, ishl),
            Operator::I16x8Shl => shift!(self, I16X8, ishl),
            Operator::I32x4Shl => shift!(self, I32X4, ishl),
            Operator::I64x2Shl => shift!(self, I64X2, ishl),
            Operator::I8x16ShrS => shift!(self, I8X16, sshr),
            Operator::I16x8ShrS => shift!(self, I16X8, sshr),
            Operator::I32x4ShrS => shift!(self, I32X4, sshr),
            Operator::I64x2ShrS => shift!(self, I64X2, sshr),
            Operator::I8x16ShrU => shift!(self, I8X16, ushr),
            Operator::I16x8ShrU => shift!(self, I16X8, ushr),
            Operator::I32x4ShrU => shift!(self, I32X4, ushr),
            Operator::I64x2ShrU => shift!(self, I64X2, ushr),
            Operator::I16x8ExtMulLowI8x16S => extended_multiply!(self, I8X16, swiden_low),
            Operator::I16x8ExtMulHighI8x16S => extended_multiply!(self, I8X16, swiden_high),
            Operator::I16x8ExtMulLowI8x16U => extended_multiply!(self, I8X16, uwiden_low),
            Operator::I16x8ExtMulHighI8x16U => extended_multiply!(self, I8X16, uwiden_high),
            Operator::I32x4ExtMulLowI16x8S => extended_multiply!(self, I16X8, swiden_low),
            Operator::I32x4ExtMulHighI16x8S => extended_multiply!(self, I16X8, swiden_high),
            Operator::I32x4ExtMulLowI16x8U => extended_multiply!(self, I16X8, uwiden_low),
            Operator::I32x4ExtMulHighI16x8U => extended_multiply!(self, I16X8, uwiden_high),
            Operator::I64x2ExtMulLowI32x4S => extended_multiply!(self, I32X4, swiden_low),
            Operator::I64x2ExtMulHighI32x4S => extended_multiply!(self, I32X4, swiden_high),
            Operator::I64x2ExtMulLowI32x4U => extended_multiply!(self, I32X4, uwiden_low),
            Operator::I64x2ExtMulHighI32x4U => extended_multiply!(self, I32X4, uwiden_high),
            Operator::I16x8ExtAddPairwiseI8x16S => extended_add!(self, I8X16, swiden_low, swiden_high),
            Operator::I16x8ExtAddPairwiseI8x16U => extended_add!(self, I8X16, uwiden_low, uwiden_high),
            Operator::I32x4ExtAddPairwiseI16x8S => extended_add!(self, I16X8, swiden_low, swiden_high),
            Operator::I32x4ExtAddPairwiseI16x8U => extended_add!(self, I16X8, uwiden_low, uwiden_high),
            Operator::I32x4DotI16x8S => {
                let (left, right) = self.pop_vectors(I16X8);
                let (low, high) = self.wide_products(left, right);
                let result = self.builder.ins().iadd_pairwise(low, high);
                self.push(result);
            }
            _ => return false,
        }
        true
    }

    fn vector_comparison(&mut self, operator: &Operator<'_>) -> bool {
        let (ty, condition) = match operator {
            Operator::I8x16Eq => (I8X16, Equal),
            Operator::I16x8Eq => (I16X8, Equal),
            Operator::I32x4Eq => (I32X4, Equal),
            Operator::I64x2Eq => (I64X2, Equal),
            Operator::I8x16Ne => (I8X16, NotEqual),
            Operator::I16x8Ne => (I16X8, NotEqual),
            Operator::I32x4Ne => (I32X4, NotEqual),
            Operator::I64x2Ne => (I64X2, NotEqual),
            Operator::I8x16LtS => (I8X16, SignedLessThan),
            Operator::I16x8LtS => (I16X8, SignedLessThan),
            Operator::I32x4LtS => (I32X4, SignedLessThan),
            Operator::I64x2LtS => (I64X2, SignedLessThan),
            Operator::I8x16LtU => (I8X16, UnsignedLessThan),
            Operator::I16x8LtU => (I16X8, UnsignedLessThan),
            Operator::I32x4LtU => (I32X4, UnsignedLessThan),
            Operator::I8x16GtS => (I8X16, SignedGreaterThan),
            Operator::I16x8GtS => (I16X8, SignedGreaterThan),
            Operator::I32x4GtS => (I32X4, SignedGreaterThan),
            Operator::I64x2GtS => (I64X2, SignedGreaterThan),
            Operator::I8x16GtU => (I8X16, UnsignedGreaterThan),
            Operator::I16x8GtU => (I16X8, UnsignedGreaterThan),
            Operator::I32x4GtU => (I32X4, UnsignedGreaterThan),
            Operator::I8x16LeS => (I8X16, SignedLessThanOrEqual),
            Operator::I16x8LeS => (I16X8, SignedLessThanOrEqual),
            Operator::I32x4LeS => (I32X4, SignedLessThanOrEqual),
            Operator::I64x2LeS => (I64X2, SignedLessThanOrEqual),
            Operator::I8x16LeU => (I8X16, UnsignedLessThanOrEqual),
            Operator::I16x8LeU => (I16X8, UnsignedLessThanOrEqual),
            Operator::I32x4LeU => (I32X4, UnsignedLessThanOrEqual),
            Operator::I8x16GeS => (I8X16, SignedGreaterThanOrEqual),
            Operator::I16x8GeS => (I16X8, SignedGreaterThanOrEqual),
            Operator::I32x4GeS => (I32X4, SignedGreaterThanOrEqual),
            Operator::I64x2GeS => (I64X2, SignedGreaterThanOrEqual),
            Operator::I8x16GeU => (I8X16, UnsignedGreaterThanOrEqual),
            Operator::I16x8GeU => (I16X8, UnsignedGreaterThanOrEqual),
            Operator::I32x4GeU => (I32X4, UnsignedGreaterThanOrEqual),
            _ => return false,
        };
        self.compare_lanes(condition, ty);
        true
    }

    fn compare_lanes(&mut self, condition: IntCC, ty: Type) {
        let (left, right) = self.pop_vectors(ty);
        let result = self.builder.ins().icmp(condition, left, right);
        self.push(result);
    }

    /// The products of the low and of the high lanes of two vectors, sign-extended.
    pub(super) fn wide_products(&mut self, left: Value, right: Value) -> (Value, Value) {
        let (left_low, right_low) = (self.builder.ins().swiden_low(left), self.builder.ins().swiden_low(right));
        let low = self.builder.ins().imul(left_low, right_low);
        let (left_high, right_high) = (self.builder.ins().swiden_high(left), self.builder.ins().swiden_high(right));
        let high = self.builder.ins().imul(left_high, right_high);
        (low, high)
    }
}
