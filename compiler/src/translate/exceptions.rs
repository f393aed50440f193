//! Exceptions: `try_table`, `throw` and `throw_ref`.
//!
//! A call within a `try_table` is a `try_call`: besides its normal return it has a landing pad for each catch clause around it, inner ones
//! first. The runtime finds the call by its return address, compares tags in the order of the clauses, and goes on at the landing pad with
//! the exception. The landing pad takes the values out of the exception and branches where the clause says.

use super::control::FrameKind;
use super::{Translator, namespace, record, trap_code};
use crate::signature::{clif_type, libcall_stub};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::I64;
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, ExceptionTableData, ExceptionTableItem, ExceptionTag, FuncRef, InstBuilder as _, SigRef, Value,
};
use preheat_image::abi::{ExceptionRecord, Libcall, TrapCode, VALUE_SIZE};
use wasmparser::{Catch, Operator, TryTable};

/// A catch clause of a `try_table`.
pub(super) struct Clause {
    catch: Catch,
    landing: Block,
    /// A call may land there.
    used: bool,
}

impl Clause {
    pub(super) fn is_used(&self) -> bool {
        self.used
    }
}

/// What is called.
pub(super) enum Callee {
    /// A function of this text.
    Direct(FuncRef),
    /// The code at an address.
    Indirect(SigRef, Value),
}

/// Where value `index` of an exception is, relative to it.
fn value_place(index: usize) -> i32 {
    // Tags have at most 1,000 values.
    i32::try_from(size_of::<ExceptionRecord>() + index * VALUE_SIZE as usize).expect("exceptions are small")
}

impl Translator<'_, '_> {
    pub(super) fn exception(&mut self, operator: &Operator<'_>) -> bool {
        match operator {
            Operator::TryTable { try_table } => {
                let kind = self.try_table(try_table);
                self.begin_block(kind, try_table.ty);
            }
            Operator::Throw { tag_index } => self.throw(*tag_index),
            Operator::ThrowRef => {
                let exception = self.pop();
                let missing = self.builder.ins().icmp_imm_u(IntCC::Equal, exception, 0);
                self.builder.ins().trapnz(missing, trap_code(TrapCode::NullReference));
                self.raise(exception);
            }
            _ => return false,
        }
        true
    }

    /// Begins a `try_table`.
    pub(super) fn try_table(&mut self, try_table: &TryTable) -> FrameKind {
        let clauses = try_table.catches.iter().map(|catch| {
            let landing = self.builder.create_block();
            self.builder.append_block_param(landing, I64);
            self.builder.set_cold_block(landing);
            Clause { catch: *catch, landing, used: false }
        });
        self.tries += 1;
        FrameKind::TryTable { clauses: clauses.collect() }
    }

    fn throw(&mut self, tag: u32) {
        let count = self.tag_params(tag).len();
        let values = self.pop_canonical(count);
        let number = self.i32_const(tag);
        // Validation limits parameters to 1,000.
        let size = self.i32_const(u32::try_from(count).unwrap_or(u32::MAX));
        let exception = self.libcall(Libcall::ExceptionNew, &[number, size]).expect("making an exception has a result");
        for (index, value) in values.into_iter().enumerate() {
            self.builder.ins().store(record(), value, exception, value_place(index));
        }
        self.raise(exception);
    }

    /// Throws an exception; the runtime does not return.
    fn raise(&mut self, exception: Value) {
        let libcall = Libcall::Throw;
        let stub =
            self.local_function(namespace::LIBCALL, libcall.number().into(), |this| this.builder.import_signature(libcall_stub(libcall)));
        let arguments = [self.context, exception];
        self.try_call(&Callee::Direct(stub), &arguments);
        self.trap(TrapCode::UncaughtException);
    }

    fn tag_params(&self, tag: u32) -> &[preheat_image::abi::ValueType] {
        let module = self.env.module;
        &module.types[module.tags[tag as usize] as usize].params
    }

    /// Calls; gives the results. Where there are catch clauses, exceptions go to them.
    pub(super) fn try_call(&mut self, callee: &Callee, arguments: &[Value]) -> Vec<Value> {
        if self.tries == 0 {
            let call = match *callee {
                Callee::Direct(function) => self.builder.ins().call(function, arguments),
                Callee::Indirect(signature, code) => self.builder.ins().call_indirect(signature, code, arguments),
            };
            return self.builder.inst_results(call).to_vec();
        }
        let signature = match *callee {
            Callee::Direct(function) => self.builder.func.dfg.ext_funcs[function].signature,
            Callee::Indirect(signature, _) => signature,
        };
        let normal = self.here();
        let returns: Vec<_> = self.builder.func.dfg.signatures[signature].returns.iter().map(|result| result.value_type).collect();
        let mut results = Vec::new();
        for (index, ty) in (0u32..).zip(returns) {
            self.builder.append_block_param(normal, ty);
            results.push(BlockArg::TryCallRet(index));
        }
        let normal_call = self.builder.func.dfg.block_call(normal, &results);
        let handlers = self.handlers();
        let data = ExceptionTableData::new(signature, normal_call, handlers);
        let table = self.builder.func.dfg.exception_tables.push(data);
        match *callee {
            Callee::Direct(function) => self.builder.ins().try_call(function, arguments, table),
            Callee::Indirect(_, code) => self.builder.ins().try_call_indirect(code, arguments, table),
        };
        self.builder.seal_block(normal);
        self.builder.switch_to_block(normal);
        self.builder.block_params(normal).to_vec()
    }

    /// The catch clauses around the current position, inner ones first, up to one that takes all.
    fn handlers(&mut self) -> Vec<ExceptionTableItem> {
        let mut items = vec![ExceptionTableItem::Context(self.context)];
        for frame in self.frames.iter_mut().rev() {
            let FrameKind::TryTable { clauses } = &mut frame.kind else { continue };
            for clause in clauses {
                clause.used = true;
                let call: BlockCall = self.builder.func.dfg.block_call(clause.landing, &[BlockArg::TryCallExn(0)]);
                match clause.catch {
                    Catch::One { tag, .. } | Catch::OneRef { tag, .. } => {
                        let tag = ExceptionTag::with_number(tag).expect("validation checks indices of tags");
                        items.push(ExceptionTableItem::Tag(tag, call));
                    }
                    Catch::All { .. } | Catch::AllRef { .. } => {
                        items.push(ExceptionTableItem::Default(call));
                        return items;
                    }
                }
            }
        }
        items
    }

    /// Ends a `try_table`, whose frame is popped: builds its landing pads.
    pub(super) fn landing_pads(&mut self, clauses: Vec<Clause>) {
        self.tries -= 1;
        for clause in clauses.into_iter().filter(|clause| clause.used) {
            self.builder.switch_to_block(clause.landing);
            self.builder.seal_block(clause.landing);
            self.forget_held();
            let exception = self.builder.block_params(clause.landing)[0];
            let (tag, label, reference) = match clause.catch {
                Catch::One { tag, label } => (Some(tag), label, false),
                Catch::OneRef { tag, label } => (Some(tag), label, true),
                Catch::All { label } => (None, label, false),
                Catch::AllRef { label } => (None, label, true),
            };
            let params: Vec<_> = tag.map_or(Vec::new(), |tag| self.tag_params(tag).iter().map(|ty| clif_type(*ty)).collect());
            let mut values = Vec::new();
            for (index, ty) in params.into_iter().enumerate() {
                values.push(self.builder.ins().load(ty, record(), exception, value_place(index)));
            }
            values.extend(reference.then_some(exception));
            self.branch_with(label, &values);
        }
    }
}
