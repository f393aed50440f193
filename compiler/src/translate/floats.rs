//! Arithmetic and comparison of floating-point numbers.

use super::Translator;
use super::integers::{binary, unary};
use cranelift_codegen::ir::InstBuilder as _;
use cranelift_codegen::ir::condcodes::FloatCC;
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn float(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::F32Add | Operator::F64Add => binary!(self, fadd),
            Operator::F32Sub | Operator::F64Sub => binary!(self, fsub),
            Operator::F32Mul | Operator::F64Mul => binary!(self, fmul),
            Operator::F32Div | Operator::F64Div => binary!(self, fdiv),
            Operator::F32Min | Operator::F64Min => binary!(self, fmin),
            Operator::F32Max | Operator::F64Max => binary!(self, fmax),
            Operator::F32Copysign | Operator::F64Copysign => binary!(self, fcopysign),
            Operator::F32Abs | Operator::F64Abs => unary!(self, fabs),
            Operator::F32Neg | Operator::F64Neg => unary!(self, fneg),
            Operator::F32Sqrt | Operator::F64Sqrt => unary!(self, sqrt),
            Operator::F32Ceil | Operator::F64Ceil => unary!(self, ceil),
            Operator::F32Floor | Operator::F64Floor => unary!(self, floor),
            Operator::F32Trunc | Operator::F64Trunc => unary!(self, trunc),
            Operator::F32Nearest | Operator::F64Nearest => unary!(self, nearest),
            Operator::F32Eq | Operator::F64Eq => self.compare_floats(FloatCC::Equal),
            Operator::F32Ne | Operator::F64Ne => self.compare_floats(FloatCC::NotEqual),
            Operator::F32Lt | Operator::F64Lt => self.compare_floats(FloatCC::LessThan),
            Operator::F32Gt | Operator::F64Gt => self.compare_floats(FloatCC::GreaterThan),
            Operator::F32Le | Operator::F64Le => self.compare_floats(FloatCC::LessThanOrEqual),
            Operator::F32Ge | Operator::F64Ge => self.compare_floats(FloatCC::GreaterThanOrEqual),
            _ => return false,
        }
        true
    }

    fn compare_floats(&mut self, condition: FloatCC) {
        let (left, right) = self.pop2();
        let result = self.builder.ins().fcmp(condition, left, right);
        self.push_bool(result);
    }
}
