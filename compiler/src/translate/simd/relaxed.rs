//! Relaxed SIMD. Of the results that the specification leaves open, those that the instructions of the CPU level give are taken, as
//! wasmtime does by default: code of another level may give others.

use super::binary;
use super::conversions::convert;
use crate::translate::Translator;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8X16, I16X8, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder as _, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn vector_relaxed(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I8x16RelaxedSwizzle => {
                let (bytes, lanes) = self.pop_vectors(I8X16);
                let result =
                    if self.env.capabilities.ssse3 { self.builder.ins().x86_pshufb(bytes, lanes) } else { self.swizzle(bytes, lanes) };
                self.push(result);
            }
            Operator::I32x4RelaxedTruncF32x4S => convert!(self, x86_cvtt2dq, F32X4, I32X4),
            Operator::I32x4RelaxedTruncF32x4U => convert!(self, fcvt_to_uint_sat, F32X4, I32X4),
            Operator::I32x4RelaxedTruncF64x2SZero => {
                convert!(self, x86_cvtt2dq, F64X2, I64X2);
                self.narrow_with_zeros();
            }
            Operator::I32x4RelaxedTruncF64x2UZero => self.truncate_unsigned(),
            Operator::F32x4RelaxedMadd => self.multiply_add(F32X4, false),
            Operator::F64x2RelaxedMadd => self.multiply_add(F64X2, false),
            Operator::F32x4RelaxedNmadd => self.multiply_add(F32X4, true),
            Operator::F64x2RelaxedNmadd => self.multiply_add(F64X2, true),
            Operator::I8x16RelaxedLaneselect => self.lane_select(I8X16),
            Operator::I16x8RelaxedLaneselect => self.lane_select(I16X8),
            Operator::I32x4RelaxedLaneselect => self.lane_select(I32X4),
            Operator::I64x2RelaxedLaneselect => self.lane_select(I64X2),
            Operator::F32x4RelaxedMin => self.pseudo_min(F32X4),
            Operator::F64x2RelaxedMin => self.pseudo_min(F64X2),
            Operator::F32x4RelaxedMax => self.pseudo_max(F32X4),
            Operator::F64x2RelaxedMax => self.pseudo_max(F64X2),
            Operator::I16x8RelaxedQ15mulrS => {
                if self.env.capabilities.ssse3 {
                    binary!(self, I16X8, x86_pmulhrsw);
                } else {
                    binary!(self, I16X8, sqmul_round_sat);
                }
            }
            Operator::I16x8RelaxedDotI8x16I7x16S => {
                let (left, right) = self.pop_vectors(I8X16);
                let result = self.dot(left, right);
                self.push(result);
            }
            Operator::I32x4RelaxedDotI8x16I7x16AddS => {
                let addend = self.pop_vector(I32X4);
                let (left, right) = self.pop_vectors(I8X16);
                let sums = self.dot_in_fours(left, right);
                let result = self.builder.ins().iadd(sums, addend);
                self.push(result);
            }
            _ => return false,
        }
        true
    }

    /// Multiplies the first two operands, negated if asked for, and adds the third: in one step where the CPU level has an instruction.
    fn multiply_add(&mut self, ty: Type, negate: bool) {
        let (left, right, addend) = self.pop_three_vectors(ty);
        let left = if negate { self.builder.ins().fneg(left) } else { left };
        let result = if self.env.capabilities.fma {
            self.builder.ins().fma(left, right, addend)
        } else {
            let product = self.builder.ins().fmul(left, right);
            self.builder.ins().fadd(product, addend)
        };
        self.push(result);
    }

    /// Selects lanes by their highest bit where there is an instruction, else bits.
    fn lane_select(&mut self, ty: Type) {
        let (ones, zeros, mask) = self.pop_three_vectors(ty);
        let result = if self.env.capabilities.sse41 && ty != I16X8 {
            self.builder.ins().blendv(mask, ones, zeros)
        } else {
            self.builder.ins().bitselect(mask, ones, zeros)
        };
        self.push(result);
    }

    /// Sums of two neighbouring products as 16-bit lanes. The instruction takes its first operand as unsigned and saturates.
    fn dot(&mut self, left: Value, right: Value) -> Value {
        if self.env.capabilities.ssse3 {
            return self.builder.ins().x86_pmaddubsw(left, right);
        }
        let (low, high) = self.wide_products(left, right);
        self.builder.ins().iadd_pairwise(low, high)
    }

    /// Sums of four neighbouring products as 32-bit lanes.
    fn dot_in_fours(&mut self, left: Value, right: Value) -> Value {
        if self.env.capabilities.ssse3 {
            let pairs = self.builder.ins().x86_pmaddubsw(left, right);
            let (low, high) = (self.builder.ins().swiden_low(pairs), self.builder.ins().swiden_high(pairs));
            return self.builder.ins().iadd_pairwise(low, high);
        }
        let (low, high) = self.wide_products(left, right);
        let sums = [low, high].map(|products| {
            let (low, high) = (self.builder.ins().swiden_low(products), self.builder.ins().swiden_high(products));
            self.builder.ins().iadd_pairwise(low, high)
        });
        self.builder.ins().iadd_pairwise(sums[0], sums[1])
    }
}
