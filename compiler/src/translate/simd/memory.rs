//! Loads and stores of vectors and their lanes.

use crate::translate::Translator;
use cranelift_codegen::ir::types::{F32X4, F64X2, I8, I8X16, I16, I16X8, I32, I32X4, I64, I64X2};
use cranelift_codegen::ir::{InstBuilder as _, Type};
use wasmparser::{MemArg, Operator};

/// Loads eight bytes and widens them into lanes.
macro_rules! widen {
    ($self:ident, $memarg:expr, $instruction:ident) => {{
        if let Some((flags, address, offset)) = $self.address($memarg, 8) {
            let value = $self.builder.ins().$instruction(flags, address, offset);
            $self.push(value);
        }
    }};
}

impl Translator<'_, '_> {
    pub(super) fn vector_memory(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::V128Load { memarg } => {
                if let Some(value) = self.load(memarg, I8X16) {
                    self.push(value);
                }
            }
            Operator::V128Store { memarg } => {
                let value = self.pop();
                self.store(memarg, value);
            }
            Operator::V128Load8x8S { memarg } => widen!(self, memarg, sload8x8),
            Operator::V128Load8x8U { memarg } => widen!(self, memarg, uload8x8),
            Operator::V128Load16x4S { memarg } => widen!(self, memarg, sload16x4),
            Operator::V128Load16x4U { memarg } => widen!(self, memarg, uload16x4),
            Operator::V128Load32x2S { memarg } => widen!(self, memarg, sload32x2),
            Operator::V128Load32x2U { memarg } => widen!(self, memarg, uload32x2),
            Operator::V128Load8Splat { memarg } => self.load_splat(memarg, I8, I8X16),
            Operator::V128Load16Splat { memarg } => self.load_splat(memarg, I16, I16X8),
            Operator::V128Load32Splat { memarg } => self.load_splat(memarg, I32, I32X4),
            Operator::V128Load64Splat { memarg } => self.load_splat(memarg, I64, I64X2),
            Operator::V128Load32Zero { memarg } => self.load_zero(memarg, I32, I32X4),
            Operator::V128Load64Zero { memarg } => self.load_zero(memarg, I64, I64X2),
            Operator::V128Load8Lane { memarg, lane } => self.load_lane(memarg, *lane, I8X16),
            Operator::V128Load16Lane { memarg, lane } => self.load_lane(memarg, *lane, I16X8),
            Operator::V128Load32Lane { memarg, lane } => self.load_lane(memarg, *lane, I32X4),
            Operator::V128Load64Lane { memarg, lane } => self.load_lane(memarg, *lane, I64X2),
            Operator::V128Store8Lane { memarg, lane } => self.store_lane(memarg, *lane, I8X16),
            Operator::V128Store16Lane { memarg, lane } => self.store_lane(memarg, *lane, I16X8),
            // Lanes of floating-point types leave the vector register without a detour.
            Operator::V128Store32Lane { memarg, lane } => self.store_lane(memarg, *lane, F32X4),
            Operator::V128Store64Lane { memarg, lane } => self.store_lane(memarg, *lane, F64X2),
            _ => return false,
        }
        true
    }

    fn load_splat(&mut self, memarg: &MemArg, lane: Type, ty: Type) {
        if let Some(value) = self.load(memarg, lane) {
            let value = self.builder.ins().splat(ty, value);
            self.push(value);
        }
    }

    fn load_zero(&mut self, memarg: &MemArg, lane: Type, ty: Type) {
        if let Some(value) = self.load(memarg, lane) {
            let value = self.builder.ins().scalar_to_vector(ty, value);
            self.push(value);
        }
    }

    fn load_lane(&mut self, memarg: &MemArg, lane: u8, ty: Type) {
        let vector = self.pop_vector(ty);
        if let Some(value) = self.load(memarg, ty.lane_type()) {
            let value = self.builder.ins().insertlane(vector, value, lane);
            self.push(value);
        }
    }

    fn store_lane(&mut self, memarg: &MemArg, lane: u8, ty: Type) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        self.store(memarg, value);
    }
}
