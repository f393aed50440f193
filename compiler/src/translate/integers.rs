//! Arithmetic, logic and comparison of integers.

use super::Translator;
use cranelift_codegen::ir::InstBuilder as _;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I8, I16, I32, I64};
use wasmparser::Operator;

/// Pops one operand, pushes the result of an instruction.
macro_rules! unary {
    ($self:ident, $instruction:ident) => {{
        let operand = $self.pop();
        let result = $self.builder.ins().$instruction(operand);
        $self.push(result);
    }};
}

/// Pops two operands, pushes the result of an instruction.
macro_rules! binary {
    ($self:ident, $instruction:ident) => {{
        let (left, right) = $self.pop2();
        let result = $self.builder.ins().$instruction(left, right);
        $self.push(result);
    }};
}

pub(super) use {binary, unary};

impl Translator<'_, '_> {
    pub(super) fn integer(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I32Add | Operator::I64Add => binary!(self, iadd),
            Operator::I32Sub | Operator::I64Sub => binary!(self, isub),
            Operator::I32Mul | Operator::I64Mul => binary!(self, imul),
            // The instructions trap by themselves: on zero, and where the quotient does not fit.
            Operator::I32DivS | Operator::I64DivS => binary!(self, sdiv),
            Operator::I32DivU | Operator::I64DivU => binary!(self, udiv),
            Operator::I32RemS | Operator::I64RemS => binary!(self, srem),
            Operator::I32RemU | Operator::I64RemU => binary!(self, urem),
            Operator::I32And | Operator::I64And => binary!(self, band),
            Operator::I32Or | Operator::I64Or => binary!(self, bor),
            Operator::I32Xor | Operator::I64Xor => binary!(self, bxor),
            // Shift counts are taken modulo the width by both.
            Operator::I32Shl | Operator::I64Shl => binary!(self, ishl),
            Operator::I32ShrS | Operator::I64ShrS => binary!(self, sshr),
            Operator::I32ShrU | Operator::I64ShrU => binary!(self, ushr),
            Operator::I32Rotl | Operator::I64Rotl => binary!(self, rotl),
            Operator::I32Rotr | Operator::I64Rotr => binary!(self, rotr),
            Operator::I32Clz | Operator::I64Clz => unary!(self, clz),
            Operator::I32Ctz | Operator::I64Ctz => unary!(self, ctz),
            Operator::I32Popcnt | Operator::I64Popcnt => unary!(self, popcnt),
            Operator::I32Eqz | Operator::I64Eqz => {
                let operand = self.pop();
                let result = self.builder.ins().icmp_imm_u(IntCC::Equal, operand, 0);
                self.push_bool(result);
            }
            Operator::I32Eq | Operator::I64Eq => self.compare(IntCC::Equal),
            Operator::I32Ne | Operator::I64Ne => self.compare(IntCC::NotEqual),
            Operator::I32LtS | Operator::I64LtS => self.compare(IntCC::SignedLessThan),
            Operator::I32LtU | Operator::I64LtU => self.compare(IntCC::UnsignedLessThan),
            Operator::I32GtS | Operator::I64GtS => self.compare(IntCC::SignedGreaterThan),
            Operator::I32GtU | Operator::I64GtU => self.compare(IntCC::UnsignedGreaterThan),
            Operator::I32LeS | Operator::I64LeS => self.compare(IntCC::SignedLessThanOrEqual),
            Operator::I32LeU | Operator::I64LeU => self.compare(IntCC::UnsignedLessThanOrEqual),
            Operator::I32GeS | Operator::I64GeS => self.compare(IntCC::SignedGreaterThanOrEqual),
            Operator::I32GeU | Operator::I64GeU => self.compare(IntCC::UnsignedGreaterThanOrEqual),
            Operator::I32Extend8S => self.sign_extend(I8, I32),
            Operator::I32Extend16S => self.sign_extend(I16, I32),
            Operator::I64Extend8S => self.sign_extend(I8, I64),
            Operator::I64Extend16S => self.sign_extend(I16, I64),
            Operator::I64Extend32S => self.sign_extend(I32, I64),
            _ => return false,
        }
        true
    }

    fn compare(&mut self, condition: IntCC) {
        let (left, right) = self.pop2();
        let result = self.builder.ins().icmp(condition, left, right);
        self.push_bool(result);
    }

    fn sign_extend(&mut self, from: cranelift_codegen::ir::Type, to: cranelift_codegen::ir::Type) {
        let operand = self.pop();
        let narrow = self.builder.ins().ireduce(from, operand);
        let result = self.builder.ins().sextend(to, narrow);
        self.push(result);
    }
}
