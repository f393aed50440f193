//! Calls: direct, imported, through tables, and as the last act of a function.

use super::exceptions::Callee;
use super::{Region, Translator, block_args, displacement, namespace, record, trap_code};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder as _, Value};
use preheat_image::abi::{LOCAL_TAG, TrapCode, offset};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn call(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::Call { function_index } => {
                let (callee, context) = self.function(function_index);
                self.emit_call(&callee, context, self.env.module.functions[function_index as usize]);
            }
            Operator::CallIndirect { type_index, table_index } => {
                let ty = self.env.module.type_numbers[type_index as usize];
                let (callee, context) = self.entry_of_table(table_index, ty);
                match (self.expected_callee(ty), &callee) {
                    (Some(expected), Callee::Indirect(_, code)) => self.emit_expected_call(expected, *code, &callee, context, ty),
                    _ => self.emit_call(&callee, context, ty),
                }
            }
            Operator::ReturnCall { function_index } => {
                let (callee, context) = self.function(function_index);
                self.emit_return_call(&callee, context, self.env.module.functions[function_index as usize]);
            }
            Operator::ReturnCallIndirect { type_index, table_index } => {
                let ty = self.env.module.type_numbers[type_index as usize];
                let (callee, context) = self.entry_of_table(table_index, ty);
                self.emit_return_call(&callee, context, ty);
            }
            _ => return false,
        }
        true
    }

    /// A function of the module, and the context to pass.
    fn function(&mut self, index: u32) -> (Callee, Value) {
        let module = self.env.module;
        let ty = module.functions[index as usize];
        if index >= module.imported().imported_functions {
            if let Some(base) = self.env.base {
                // In another text, whose place only the context knows.
                let text = self.constant_field(I64, self.context, offset::CONTEXT_TEXT_BASE);
                let code = self.builder.ins().iadd_imm_s(text, i64::from(base[index as usize].code.get()));
                return (Callee::Indirect(self.signature(ty), code), self.context);
            }
            let function = self.local_function(namespace::FUNCTION, index, |this| this.signature(ty));
            return (Callee::Direct(function), self.context);
        }
        let place = displacement(module.layout.imported_function(index).expect("validation checks indices of functions"));
        let code = self.constant_field(I64, self.context, place + offset::IMPORTED_FUNCTION_CODE);
        let context = self.constant_field(I64, self.context, place + offset::IMPORTED_FUNCTION_CONTEXT);
        (Callee::Indirect(self.signature(ty), code), context)
    }

    fn arguments(&mut self, context: Value, ty: u32) -> Vec<Value> {
        let count = self.env.module.types[ty as usize].params.len();
        let mut arguments = vec![context];
        arguments.extend(self.pop_canonical(count));
        arguments
    }

    fn emit_call(&mut self, callee: &Callee, context: Value, ty: u32) {
        self.calls = true;
        let arguments = self.arguments(context, ty);
        self.store_site();
        let results = self.try_call(callee, &arguments);
        self.stack.extend(results);
    }

    /// Calls the function `expected` of this instance directly if it is what shall be called, else what shall be.
    fn emit_expected_call(&mut self, expected: u32, code: Value, callee: &Callee, context: Value, ty: u32) {
        self.calls = true;
        let arguments = self.arguments(context, ty);
        let function = self.local_function(namespace::FUNCTION, expected, |this| this.signature(ty));
        let place = self.builder.ins().func_addr(I64, function);
        let same = self.builder.ins().icmp(IntCC::Equal, code, place);
        // The same code may belong to another instance.
        let own = self.builder.ins().icmp(IntCC::Equal, context, self.context);
        let both = self.builder.ins().band(same, own);
        let (direct, indirect, join) = (self.here(), self.builder.create_block(), self.here());
        self.builder.set_cold_block(indirect);
        self.builder.ins().brif(both, direct, &[], indirect, &[]);
        self.builder.seal_block(direct);
        self.builder.seal_block(indirect);
        self.builder.switch_to_block(direct);
        let mut expected = arguments.clone();
        expected[0] = self.context;
        let results = self.try_call(&Callee::Direct(function), &expected);
        for result in &results {
            let ty = self.type_of(*result);
            self.builder.append_block_param(join, ty);
        }
        self.builder.ins().jump(join, &block_args(&results));
        self.builder.switch_to_block(indirect);
        let results = self.try_call(callee, &arguments);
        self.builder.ins().jump(join, &block_args(&results));
        self.builder.seal_block(join);
        self.builder.switch_to_block(join);
        self.stack.extend_from_slice(self.builder.block_params(join));
    }

    fn emit_return_call(&mut self, callee: &Callee, context: Value, ty: u32) {
        self.calls = true;
        let arguments = self.arguments(context, ty);
        match *callee {
            Callee::Direct(function) => self.builder.ins().return_call(function, &arguments),
            Callee::Indirect(signature, code) => self.builder.ins().return_call_indirect(signature, code, &arguments),
        };
        self.reachable = false;
    }

    /// Pops an index into a table and finds the function there, which must be of type `ty`, and the context to pass.
    ///
    /// An entry of an own table that is local and of the right type costs a load, a comparison with a constant and an addition; all others
    /// go another way. In a table of another instance the numbers of types are that instance's: there, process-wide numbers are compared.
    fn entry_of_table(&mut self, table: u32, ty: u32) -> (Callee, Value) {
        let index = self.pop();
        let (address, flags) = self.table_entry(table, index);
        let entry = self.builder.ins().load(I64, flags, address, 0);
        let (local, other, join) = (self.here(), self.here(), self.here());
        let code = self.builder.append_block_param(join, I64);
        let context = self.builder.append_block_param(join, I64);
        self.builder.set_cold_block(other);

        let low = self.builder.ins().ireduce(I32, entry);
        let own = table >= self.env.module.imported().imported_tables;
        if own {
            let tagged = self.i32_const(ty << 1 | 1);
            let is_local = self.builder.ins().icmp(IntCC::Equal, low, tagged);
            self.builder.ins().brif(is_local, local, &[], other, &[]);
        } else {
            let tag = self.builder.ins().band_imm_u(low, LOCAL_TAG.cast_signed());
            self.builder.ins().brif(tag, local, &[], other, &[]);
        }
        self.builder.seal_block(local);
        self.builder.seal_block(other);

        self.builder.switch_to_block(local);
        let owner = if own { self.context } else { self.table_owner(table) };
        if !own {
            let number = self.builder.ins().ushr_imm_u(low, 1);
            let number = self.builder.ins().uextend(I64, number);
            let number = self.builder.ins().ishl_imm_u(number, 2);
            let ids = self.constant_field(I64, owner, offset::CONTEXT_TYPE_IDS);
            let id = self.builder.ins().iadd(ids, number);
            let id = self.constant_field_at(id);
            self.require_type(id, ty);
        }
        let text = self.constant_field(I64, owner, offset::CONTEXT_TEXT_BASE);
        let place = self.builder.ins().ushr_imm_u(entry, 32);
        let address = self.builder.ins().iadd(text, place);
        self.builder.ins().jump(join, &[BlockArg::Value(address), BlockArg::Value(owner)]);

        self.builder.switch_to_block(other);
        self.builder.ins().trapz(entry, trap_code(TrapCode::NullEntry));
        if own {
            let tag = self.builder.ins().band_imm_u(entry, LOCAL_TAG.cast_signed());
            self.builder.ins().trapnz(tag, trap_code(TrapCode::BadSignature));
        }
        let flags = self.in_region(record(), Region::Context);
        let id = self.builder.ins().load(I32, flags, entry, offset::FUNC_REF_TYPE_ID);
        self.require_type(id, ty);
        let address = self.builder.ins().load(I64, flags, entry, offset::FUNC_REF_CODE);
        let owner = self.builder.ins().load(I64, flags, entry, offset::FUNC_REF_CONTEXT);
        self.builder.ins().jump(join, &[BlockArg::Value(address), BlockArg::Value(owner)]);

        self.builder.seal_block(join);
        self.builder.switch_to_block(join);
        (Callee::Indirect(self.signature(ty), code), context)
    }

    /// The process-wide number of a type at an address. Not marked as movable: it may only be read where the entry is local.
    fn constant_field_at(&mut self, address: Value) -> Value {
        let flags = self.in_region(record(), Region::Context);
        self.builder.ins().load(I32, flags, address, 0)
    }

    /// Traps unless `id` is the process-wide number of the type `ty` of this module.
    fn require_type(&mut self, id: Value, ty: u32) {
        let ids = self.context_constant(I64, offset::CONTEXT_TYPE_IDS.cast_unsigned());
        let place = self.builder.ins().iadd_imm_s(ids, i64::from(ty) * 4);
        let expected = self.constant_field_at(place);
        let other = self.builder.ins().icmp(IntCC::NotEqual, id, expected);
        self.builder.ins().trapnz(other, trap_code(TrapCode::BadSignature));
    }
}
