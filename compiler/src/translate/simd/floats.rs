//! Arithmetic and comparison of floating-point lanes.

use super::{binary, unary};
use crate::translate::Translator;
use cranelift_codegen::ir::condcodes::FloatCC;
use cranelift_codegen::ir::types::{F32X4, F64X2};
use cranelift_codegen::ir::{InstBuilder as _, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn vector_float(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::F32x4Add => binary!(self, F32X4, fadd),
            Operator::F64x2Add => binary!(self, F64X2, fadd),
            Operator::F32x4Sub => binary!(self, F32X4, fsub),
            Operator::F64x2Sub => binary!(self, F64X2, fsub),
            Operator::F32x4Mul => binary!(self, F32X4, fmul),
            Operator::F64x2Mul => binary!(self, F64X2, fmul),
            Operator::F32x4Div => binary!(self, F32X4, fdiv),
            Operator::F64x2Div => binary!(self, F64X2, fdiv),
            Operator::F32x4Min => binary!(self, F32X4, fmin),
            Operator::F64x2Min => binary!(self, F64X2, fmin),
            Operator::F32x4Max => binary!(self, F32X4, fmax),
            Operator::F64x2Max => binary!(self, F64X2, fmax),
            Operator::F32x4PMin => self.pseudo_min(F32X4),
            Operator::F64x2PMin => self.pseudo_min(F64X2),
            Operator::F32x4PMax => self.pseudo_max(F32X4),
            Operator::F64x2PMax => self.pseudo_max(F64X2),
            Operator::F32x4Abs => unary!(self, F32X4, fabs),
            Operator::F64x2Abs => unary!(self, F64X2, fabs),
            Operator::F32x4Neg => unary!(self, F32X4, fneg),
            Operator::F64x2Neg => unary!(self, F64X2, fneg),
            Operator::F32x4Sqrt => unary!(self, F32X4, sqrt),
            Operator::F64x2Sqrt => unary!(self, F64X2, sqrt),
            Operator::F32x4Ceil => unary!(self, F32X4, ceil),
            Operator::F64x2Ceil => unary!(self, F64X2, ceil),
            Operator::F32x4Floor => unary!(self, F32X4, floor),
            Operator::F64x2Floor => unary!(self, F64X2, floor),
            Operator::F32x4Trunc => unary!(self, F32X4, trunc),
            Operator::F64x2Trunc => unary!(self, F64X2, trunc),
            Operator::F32x4Nearest => unary!(self, F32X4, nearest),
            Operator::F64x2Nearest => unary!(self, F64X2, nearest),
            Operator::F32x4Eq => self.compare_float_lanes(FloatCC::Equal, F32X4),
            Operator::F64x2Eq => self.compare_float_lanes(FloatCC::Equal, F64X2),
            Operator::F32x4Ne => self.compare_float_lanes(FloatCC::NotEqual, F32X4),
            Operator::F64x2Ne => self.compare_float_lanes(FloatCC::NotEqual, F64X2),
            Operator::F32x4Lt => self.compare_float_lanes(FloatCC::LessThan, F32X4),
            Operator::F64x2Lt => self.compare_float_lanes(FloatCC::LessThan, F64X2),
            Operator::F32x4Gt => self.compare_float_lanes(FloatCC::GreaterThan, F32X4),
            Operator::F64x2Gt => self.compare_float_lanes(FloatCC::GreaterThan, F64X2),
            Operator::F32x4Le => self.compare_float_lanes(FloatCC::LessThanOrEqual, F32X4),
            Operator::F64x2Le => self.compare_float_lanes(FloatCC::LessThanOrEqual, F64X2),
            Operator::F32x4Ge => self.compare_float_lanes(FloatCC::GreaterThanOrEqual, F32X4),
            Operator::F64x2Ge => self.compare_float_lanes(FloatCC::GreaterThanOrEqual, F64X2),
            _ => return false,
        }
        true
    }

    fn compare_float_lanes(&mut self, condition: FloatCC, ty: Type) {
        let (left, right) = self.pop_vectors(ty);
        let result = self.builder.ins().fcmp(condition, left, right);
        self.push(result);
    }

    /// The second operand where it is less, else the first.
    pub(super) fn pseudo_min(&mut self, ty: Type) {
        let (left, right) = self.pop_vectors(ty);
        let less = self.builder.ins().fcmp(FloatCC::LessThan, right, left);
        self.push_selected(less, right, left, ty);
    }

    /// The second operand where the first is less, else the first.
    pub(super) fn pseudo_max(&mut self, ty: Type) {
        let (left, right) = self.pop_vectors(ty);
        let less = self.builder.ins().fcmp(FloatCC::LessThan, left, right);
        self.push_selected(less, right, left, ty);
    }

    fn push_selected(&mut self, mask: Value, ones: Value, zeros: Value, ty: Type) {
        let mask = self.as_vector(mask, ty);
        let result = self.builder.ins().bitselect(mask, ones, zeros);
        self.push(result);
    }
}
