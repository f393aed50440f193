//! Locals, globals, constants, `drop` and `select`.

use super::{Region, Translator, displacement, local, record};
use crate::constants::{Init, inline};
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::types::{F32, F64, I8X16, I32, I64};
use cranelift_codegen::ir::{InstBuilder as _, MemFlagsData, Value};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn variable(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::LocalGet { local_index } => {
                let value = self.builder.use_var(local(local_index));
                self.push(value);
            }
            Operator::LocalSet { local_index } => {
                let value = self.pop();
                let value = self.canonical(value);
                self.builder.def_var(local(local_index), value);
            }
            Operator::LocalTee { local_index } => {
                let value = self.pop();
                let value = self.canonical(value);
                self.push(value);
                self.builder.def_var(local(local_index), value);
            }
            Operator::GlobalGet { global_index } => {
                let value = self.global_get(global_index);
                self.push(value);
            }
            Operator::GlobalSet { global_index } => {
                let value = self.pop();
                let value = self.canonical(value);
                let (flags, base, offset) = self.global(global_index);
                self.builder.ins().store(flags, value, base, offset);
            }
            Operator::I32Const { value } => {
                let value = self.i32_const(value.cast_unsigned());
                self.push(value);
            }
            Operator::I64Const { value } => {
                let value = self.builder.ins().iconst(I64, value);
                self.push(value);
            }
            Operator::F32Const { value } => {
                let value = self.builder.ins().f32const(Ieee32::with_bits(value.bits()));
                self.push(value);
            }
            Operator::F64Const { value } => {
                let value = self.builder.ins().f64const(Ieee64::with_bits(value.bits()));
                self.push(value);
            }
            Operator::V128Const { value } => {
                let value = self.vector(I8X16, *value.bytes());
                self.push(value);
            }
            Operator::Drop => {
                self.pop();
            }
            Operator::Select | Operator::TypedSelect { .. } => {
                let (first, second, condition) = self.pop3();
                let (first, second) = (self.canonical(first), self.canonical(second));
                let value = self.builder.ins().select(condition, first, second);
                self.push(value);
            }
            Operator::Nop => {}
            _ => return false,
        }
        true
    }

    fn global_get(&mut self, global: u32) -> Value {
        let module = self.env.module;
        let ty = module.globals[global as usize];
        let own = global.checked_sub(module.imported().imported_globals);
        if let Some(Init::Value(bytes)) = own.filter(|_| !ty.mutable && inline(ty.ty)).map(|own| module.global_inits[own as usize]) {
            let [a, b, c, d, e, f, g, h, ..] = bytes;
            let (low, all) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            return match module.global_type(global) {
                I32 => self.i32_const(low),
                F32 => self.builder.ins().f32const(Ieee32::with_bits(low)),
                F64 => self.builder.ins().f64const(Ieee64::with_bits(all)),
                I64 => self.builder.ins().iconst(I64, all.cast_signed()),
                vector => self.vector(vector, bytes),
            };
        }
        let (flags, base, offset) = self.global(global);
        let flags = if ty.mutable { flags } else { flags.with_readonly().with_can_move() };
        self.builder.ins().load(module.global_type(global), flags, base, offset)
    }

    /// Where a global is.
    fn global(&mut self, global: u32) -> (MemFlagsData, Value, i32) {
        let (module, layout) = (self.env.module, &self.env.module.layout);
        match global.checked_sub(module.imported().imported_globals) {
            Some(own) => {
                let offset = layout.global(own).expect("validation checks indices of globals");
                (self.in_region(record(), Region::Global(own)), self.context, displacement(offset))
            }
            None => {
                let offset = layout.imported_global(global).expect("validation checks indices of globals");
                let place = self.context_constant(I64, offset);
                (self.in_region(record(), Region::ImportedGlobal), place, 0)
            }
        }
    }
}
