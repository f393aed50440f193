//! References and tables.

use super::{Region, Translator, displacement, record, trap_code};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{BlockArg, InstBuilder as _, MemFlagsData, Value};
use preheat_image::abi::{LOCAL_TAG, Libcall, TrapCode, ValueType, offset};
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn table(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::RefNull { .. } => {
                let null = self.builder.ins().iconst(I64, 0);
                self.push(null);
            }
            Operator::RefIsNull => {
                let reference = self.pop();
                let is_null = self.builder.ins().icmp_imm_u(IntCC::Equal, reference, 0);
                self.push_bool(is_null);
            }
            Operator::RefFunc { function_index } => {
                let function = self.i32_const(function_index);
                let reference = self.libcall(Libcall::FunctionReference, &[function]).expect("ref.func has a result");
                self.push(reference);
            }
            Operator::TableGet { table } => self.table_get(table),
            Operator::TableSet { table } => {
                let (index, value) = self.pop2();
                let (address, flags) = self.table_entry(table, index);
                self.builder.ins().store(flags, value, address, 0);
            }
            Operator::TableSize { table } => {
                let length = self.table_length(table);
                let length = self.builder.ins().ireduce(I32, length);
                self.push(length);
            }
            Operator::TableGrow { table } => {
                let (value, delta) = self.pop2();
                let delta = self.builder.ins().uextend(I64, delta);
                let table = self.i32_const(table);
                let before = self.libcall(Libcall::TableGrow, &[table, delta, value]).expect("table.grow has a result");
                let before = self.builder.ins().ireduce(I32, before);
                self.push(before);
            }
            _ => return false,
        }
        true
    }

    /// `table.get`: a local entry becomes a reference in the runtime.
    fn table_get(&mut self, table: u32) {
        let index = self.pop();
        let (address, flags) = self.table_entry(table, index);
        let entry = self.builder.ins().load(I64, flags, address, 0);
        if self.env.module.tables[table as usize].element != ValueType::FuncRef {
            self.push(entry);
            return;
        }
        let (local, join) = (self.here(), self.here());
        let reference = self.builder.append_block_param(join, I64);
        self.builder.set_cold_block(local);
        let tag = self.builder.ins().band_imm_u(entry, LOCAL_TAG.cast_signed());
        self.builder.ins().brif(tag, local, &[], join, &[BlockArg::Value(entry)]);
        self.builder.seal_block(local);
        self.builder.switch_to_block(local);
        let number = self.i32_const(table);
        let made = self.libcall(Libcall::EntryReference, &[number, entry]).expect("table.get has a result");
        self.builder.ins().jump(join, &[BlockArg::Value(made)]);
        self.builder.seal_block(join);
        self.builder.switch_to_block(join);
        self.push(reference);
    }

    /// The address of an entry, and the flags of an access to it. Beyond the end the address is zero, in speculation too, and the access
    /// traps.
    pub(super) fn table_entry(&mut self, table: u32, index: Value) -> (Value, MemFlagsData) {
        let length = self.table_length(table);
        let index = self.builder.ins().uextend(I64, index);
        let outside = self.builder.ins().icmp(IntCC::UnsignedGreaterThanOrEqual, index, length);
        let (base, at) = self.table_record(table);
        let entries = self.constant_field(I64, base, at + offset::TABLE_BASE);
        let place = self.builder.ins().ishl_imm_u(index, 3);
        let address = self.builder.ins().iadd(entries, place);
        let null = self.builder.ins().iconst(I64, 0);
        let address = self.builder.ins().select_spectre_guard(outside, null, address);
        let flags = record().with_trap_code(Some(trap_code(TrapCode::TableOutOfBounds)));
        (address, self.in_region(flags, Region::Tables))
    }

    /// How many entries a table has: a constant if it can't grow.
    fn table_length(&mut self, table: u32) -> Value {
        let module = self.env.module;
        let ty = module.tables[table as usize];
        if table >= module.imported().imported_tables && ty.max == Some(ty.min) {
            return self.builder.ins().iconst(I64, ty.min.cast_signed());
        }
        let (base, at) = self.table_record(table);
        let flags = self.in_region(record(), Region::Sizes);
        self.builder.ins().load(I64, flags, base, at + offset::TABLE_LENGTH)
    }

    /// Where the record of a table is.
    fn table_record(&mut self, table: u32) -> (Value, i32) {
        let layout = &self.env.module.layout;
        match table.checked_sub(layout.counts.imported_tables) {
            Some(own) => (self.context, displacement(layout.table(own).expect("validation checks indices of tables"))),
            None => {
                let place = displacement(layout.imported_table(table).expect("validation checks indices of tables"));
                (self.constant_field(I64, self.context, place + offset::IMPORTED_TABLE_RECORD), 0)
            }
        }
    }

    /// The context of the instance that owns an imported table.
    pub(super) fn table_owner(&mut self, table: u32) -> Value {
        let place = displacement(self.env.module.layout.imported_table(table).expect("only imported tables have other owners"));
        self.constant_field(I64, self.context, place + offset::IMPORTED_TABLE_CONTEXT)
    }
}
