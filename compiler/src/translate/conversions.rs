//! Conversions between number types.

use super::Translator;
use cranelift_codegen::ir::types::{F32, F64, I32, I64};
use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData};
use wasmparser::Operator;

/// Pops one operand, pushes what an instruction makes of it in the type `to`.
macro_rules! convert {
    ($self:ident, $instruction:ident, $to:expr) => {{
        let operand = $self.pop();
        let result = $self.builder.ins().$instruction($to, operand);
        $self.push(result);
    }};
}

impl Translator<'_, '_> {
    pub(super) fn conversion(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I32WrapI64 => convert!(self, ireduce, I32),
            Operator::I64ExtendI32S => convert!(self, sextend, I64),
            Operator::I64ExtendI32U => convert!(self, uextend, I64),
            // These trap by themselves.
            Operator::I32TruncF32S | Operator::I32TruncF64S => convert!(self, fcvt_to_sint, I32),
            Operator::I32TruncF32U | Operator::I32TruncF64U => convert!(self, fcvt_to_uint, I32),
            Operator::I64TruncF32S | Operator::I64TruncF64S => convert!(self, fcvt_to_sint, I64),
            Operator::I64TruncF32U | Operator::I64TruncF64U => convert!(self, fcvt_to_uint, I64),
            Operator::I32TruncSatF32S | Operator::I32TruncSatF64S => convert!(self, fcvt_to_sint_sat, I32),
            Operator::I32TruncSatF32U | Operator::I32TruncSatF64U => convert!(self, fcvt_to_uint_sat, I32),
            Operator::I64TruncSatF32S | Operator::I64TruncSatF64S => convert!(self, fcvt_to_sint_sat, I64),
            Operator::I64TruncSatF32U | Operator::I64TruncSatF64U => convert!(self, fcvt_to_uint_sat, I64),
            Operator::F32ConvertI32S | Operator::F32ConvertI64S => convert!(self, fcvt_from_sint, F32),
            Operator::F32ConvertI32U | Operator::F32ConvertI64U => convert!(self, fcvt_from_uint, F32),
            Operator::F64ConvertI32S | Operator::F64ConvertI64S => convert!(self, fcvt_from_sint, F64),
            Operator::F64ConvertI32U | Operator::F64ConvertI64U => convert!(self, fcvt_from_uint, F64),
            Operator::F32DemoteF64 => convert!(self, fdemote, F32),
            Operator::F64PromoteF32 => convert!(self, fpromote, F64),
            Operator::I32ReinterpretF32 => self.reinterpret(I32),
            Operator::I64ReinterpretF64 => self.reinterpret(I64),
            Operator::F32ReinterpretI32 => self.reinterpret(F32),
            Operator::F64ReinterpretI64 => self.reinterpret(F64),
            _ => return false,
        }
        true
    }

    fn reinterpret(&mut self, to: cranelift_codegen::ir::Type) {
        let operand = self.pop();
        let result = self.builder.ins().bitcast(to, MemFlagsData::new(), operand);
        self.push(result);
    }
}
