//! Bulk instructions on memories and tables: all of them are done by the runtime.

use super::{Region, Translator, displacement, record};
use cranelift_codegen::ir::types::{I8, I64};
use cranelift_codegen::ir::{InstBuilder as _, Value};
use preheat_image::abi::Libcall;
use wasmparser::Operator;

impl Translator<'_, '_> {
    pub(super) fn bulk(&mut self, operator: &Operator<'_>) -> bool {
        match *operator {
            Operator::MemoryCopy { dst_mem, src_mem } => self.bulk_copy(Libcall::MemoryCopy, dst_mem, src_mem),
            Operator::MemoryInit { data_index, mem } => self.bulk_copy(Libcall::MemoryInit, mem, data_index),
            Operator::MemoryFill { mem } => self.bulk_fill(Libcall::MemoryFill, mem),
            Operator::DataDrop { data_index } => {
                let place = self.env.module.layout.dropped_data(data_index);
                self.drop_segment(place.expect("validation checks indices of data segments"));
            }
            Operator::TableCopy { dst_table, src_table } => self.bulk_copy(Libcall::TableCopy, dst_table, src_table),
            Operator::TableInit { elem_index, table } => self.bulk_copy(Libcall::TableInit, table, elem_index),
            Operator::TableFill { table } => self.bulk_fill(Libcall::TableFill, table),
            Operator::ElemDrop { elem_index } => {
                let place = self.env.module.layout.dropped_element(elem_index);
                self.drop_segment(place.expect("validation checks indices of element segments"));
            }
            _ => return false,
        }
        true
    }

    fn wide(&mut self, value: Value) -> Value {
        self.builder.ins().uextend(I64, value)
    }

    /// Copies from one place to another: to, from and length are on the stack.
    fn bulk_copy(&mut self, libcall: Libcall, to: u32, from: u32) {
        let (at, source, len) = self.pop3();
        let (at, source, len) = (self.wide(at), self.wide(source), self.wide(len));
        let (to, from) = (self.i32_const(to), self.i32_const(from));
        self.libcall(libcall, &[to, from, at, source, len]);
    }

    /// Fills a part: place, value and length are on the stack.
    fn bulk_fill(&mut self, libcall: Libcall, index: u32) {
        let (at, value, len) = self.pop3();
        let (at, len) = (self.wide(at), self.wide(len));
        let index = self.i32_const(index);
        self.libcall(libcall, &[index, at, value, len]);
    }

    fn drop_segment(&mut self, place: u32) {
        let one = self.builder.ins().iconst(I8, 1);
        let flags = self.in_region(record(), Region::Context);
        self.builder.ins().store(flags, one, self.context, displacement(place));
    }
}
