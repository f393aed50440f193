//! Lanes: made into vectors, taken out, replaced, moved around; and bits without lanes.

use super::{binary, unary};
use crate::helpers::Helper;
use crate::translate::{Translator, namespace};
use cranelift_codegen::ir::types::{F32X4, F64X2, I8, I8X16, I16, I16X8, I32, I32X4, I64X2};
use cranelift_codegen::ir::{InstBuilder as _, Type, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn vector_lanes(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::I8x16Splat => self.splat(Some(I8), I8X16),
            Operator::I16x8Splat => self.splat(Some(I16), I16X8),
            Operator::I32x4Splat => self.splat(None, I32X4),
            Operator::I64x2Splat => self.splat(None, I64X2),
            Operator::F32x4Splat => self.splat(None, F32X4),
            Operator::F64x2Splat => self.splat(None, F64X2),
            Operator::I8x16ExtractLaneS { lane } => self.extract_narrow(I8X16, *lane, true),
            Operator::I8x16ExtractLaneU { lane } => self.extract_narrow(I8X16, *lane, false),
            Operator::I16x8ExtractLaneS { lane } => self.extract_narrow(I16X8, *lane, true),
            Operator::I16x8ExtractLaneU { lane } => self.extract_narrow(I16X8, *lane, false),
            Operator::I32x4ExtractLane { lane } => self.extract(I32X4, *lane),
            Operator::I64x2ExtractLane { lane } => self.extract(I64X2, *lane),
            Operator::F32x4ExtractLane { lane } => self.extract(F32X4, *lane),
            Operator::F64x2ExtractLane { lane } => self.extract(F64X2, *lane),
            Operator::I8x16ReplaceLane { lane } => self.replace(Some(I8), I8X16, *lane),
            Operator::I16x8ReplaceLane { lane } => self.replace(Some(I16), I16X8, *lane),
            Operator::I32x4ReplaceLane { lane } => self.replace(None, I32X4, *lane),
            Operator::I64x2ReplaceLane { lane } => self.replace(None, I64X2, *lane),
            Operator::F32x4ReplaceLane { lane } => self.replace(None, F32X4, *lane),
            Operator::F64x2ReplaceLane { lane } => self.replace(None, F64X2, *lane),
            Operator::I8x16Shuffle { lanes } => self.shuffle(*lanes),
            Operator::I8x16Swizzle => {
                let (bytes, lanes) = self.pop_vectors(I8X16);
                let result = self.swizzle(bytes, lanes);
                self.push(result);
            }
            Operator::V128Not => unary!(self, I8X16, bnot),
            Operator::V128And => binary!(self, I8X16, band),
            Operator::V128AndNot => binary!(self, I8X16, band_not),
            Operator::V128Or => binary!(self, I8X16, bor),
            Operator::V128Xor => binary!(self, I8X16, bxor),
            Operator::V128Bitselect => {
                let (ones, zeros, mask) = self.pop_three_vectors(I8X16);
                let result = self.builder.ins().bitselect(mask, ones, zeros);
                self.push(result);
            }
            Operator::V128AnyTrue => {
                let operand = self.pop_vector(I8X16);
                let result = self.builder.ins().vany_true(operand);
                self.push_bool(result);
            }
            Operator::I8x16AllTrue => self.all_true(I8X16),
            Operator::I16x8AllTrue => self.all_true(I16X8),
            Operator::I32x4AllTrue => self.all_true(I32X4),
            Operator::I64x2AllTrue => self.all_true(I64X2),
            Operator::I8x16Bitmask => self.bitmask(I8X16),
            Operator::I16x8Bitmask => self.bitmask(I16X8),
            Operator::I32x4Bitmask => self.bitmask(I32X4),
            Operator::I64x2Bitmask => self.bitmask(I64X2),
            _ => return false,
        }
        true
    }

    /// Pops a lane, which is of a type narrower than the operand if `narrow` says so.
    fn pop_lane(&mut self, narrow: Option<Type>) -> Value {
        let lane = self.pop();
        match narrow {
            Some(ty) => self.builder.ins().ireduce(ty, lane),
            None => lane,
        }
    }

    fn splat(&mut self, narrow: Option<Type>, ty: Type) {
        let lane = self.pop_lane(narrow);
        let result = self.builder.ins().splat(ty, lane);
        self.push(result);
    }

    fn extract(&mut self, ty: Type, lane: u8) {
        let vector = self.pop_vector(ty);
        let result = self.builder.ins().extractlane(vector, lane);
        self.push(result);
    }

    fn extract_narrow(&mut self, ty: Type, lane: u8, signed: bool) {
        let vector = self.pop_vector(ty);
        let value = self.builder.ins().extractlane(vector, lane);
        let result = if signed { self.builder.ins().sextend(I32, value) } else { self.builder.ins().uextend(I32, value) };
        self.push(result);
    }

    fn replace(&mut self, narrow: Option<Type>, ty: Type, lane: u8) {
        let value = self.pop_lane(narrow);
        let vector = self.pop_vector(ty);
        let result = self.builder.ins().insertlane(vector, value, lane);
        self.push(result);
    }

    fn all_true(&mut self, ty: Type) {
        let operand = self.pop_vector(ty);
        let result = self.builder.ins().vall_true(operand);
        self.push_bool(result);
    }

    fn bitmask(&mut self, ty: Type) {
        let operand = self.pop_vector(ty);
        let result = self.builder.ins().vhigh_bits(I32, operand);
        self.push(result);
    }

    /// `i8x16.swizzle`. Without SSSE3 there is no instruction for it.
    pub(super) fn swizzle(&mut self, bytes: Value, lanes: Value) -> Value {
        if self.env.capabilities.ssse3 {
            return self.builder.ins().swizzle(bytes, lanes);
        }
        // What is 16 or more becomes 128 or more.
        let limit = self.vector(I8X16, [0x70; 16]);
        let lanes = self.builder.ins().uadd_sat(lanes, limit);
        self.helper(Helper::Shuffle, &[bytes, lanes])
    }

    /// `i8x16.shuffle`: two swizzles where there is no instruction.
    fn shuffle(&mut self, lanes: [u8; 16]) {
        let (first, second) = self.pop_vectors(I8X16);
        let result = if self.env.capabilities.ssse3 {
            let mask = self.builder.func.dfg.immediates.push(lanes.to_vec().into());
            self.builder.ins().shuffle(first, second, mask)
        } else {
            // An index of 16 or more, and one that wrapped around, gives zero.
            let (low, high) = (self.vector(I8X16, lanes), self.vector(I8X16, lanes.map(|lane| lane.wrapping_sub(16))));
            let (low, high) = (self.swizzle(first, low), self.swizzle(second, high));
            self.builder.ins().bor(low, high)
        };
        self.push(result);
    }

    /// Calls a helper in the text.
    pub(super) fn helper(&mut self, helper: Helper, args: &[Value]) -> Value {
        let function = self.local_function(namespace::HELPER, helper.number(), |this| this.builder.import_signature(helper.signature()));
        let call = self.builder.ins().call(function, args);
        self.builder.inst_results(call)[0]
    }
}
