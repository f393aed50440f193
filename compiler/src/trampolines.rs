//! Functions at the border between guest and host; `preheat_image::abi` says what they do.

mod small;

use crate::module::Module;
use crate::signature::{self, FunctionType, clif_type, system_v};
use crate::translate::{constant_record, record, resume_type, trap_code, value_place};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Function, InstBuilder as _, Signature, StackSlotData, StackSlotKind, UserFuncName, Value};
use cranelift_codegen::isa::TargetFrontendConfig;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use preheat_image::abi::{Libcall, LibcallResult, TrapCode, VALUE_SIZE, offset};

/// Builds a function of one block to begin with. `body` gets the parameters.
fn build(signature: Signature, config: TargetFrontendConfig, body: impl FnOnce(&mut FunctionBuilder<'_>, &[Value])) -> Function {
    let mut function = Function::with_name_signature(UserFuncName::default(), signature);
    let mut context = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut function, &mut context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let params = builder.block_params(entry).to_vec();
    body(&mut builder, &params);
    builder.seal_all_blocks();
    builder.finalize(config);
    function
}

/// Where slot `index` of an array of values is.
fn slot(index: usize) -> i32 {
    // Wasm functions have at most 1,000 parameters and as many results.
    i32::try_from(index * VALUE_SIZE as usize).expect("arrays of values are small")
}

/// The enter trampoline of a type.
pub(crate) fn enter(ty: &FunctionType, config: TargetFrontendConfig) -> Function {
    build(system_v(&[I64, I64, I64], &[]), config, |builder, params| {
        let [context, code, values] = *params else { unreachable!("the signature has three parameters") };
        let mut arguments = vec![context];
        for (index, ty) in ty.params.iter().enumerate() {
            arguments.push(builder.ins().load(clif_type(*ty), record(), values, slot(index)));
        }
        let signature = builder.import_signature(ty.guest());
        let call = builder.ins().call_indirect(signature, code, &arguments);
        let results = builder.inst_results(call).to_vec();
        for (index, result) in results.into_iter().enumerate() {
            builder.ins().store(record(), result, values, slot(index));
        }
        builder.ins().return_(&[]);
    })
}

/// Leaves the guest: traps if little stack is left, and notes the frame.
fn leave(builder: &mut FunctionBuilder<'_>, store: Value) {
    let limit = builder.ins().load(I64, record(), store, offset::STORE_STACK_LIMIT);
    let stack = builder.ins().get_stack_pointer(I64);
    let below = builder.ins().icmp(IntCC::UnsignedLessThan, stack, limit);
    builder.ins().trapnz(below, trap_code(TrapCode::StackOverflow));
    let frame = builder.ins().get_frame_pointer(I64);
    builder.ins().store(record(), frame, store, offset::STORE_EXIT_FRAME);
}

/// Raises the trap `code` if `condition` is not zero.
fn raise_if(builder: &mut FunctionBuilder<'_>, condition: Value, store: Value, code: Value) {
    let (raise, go_on) = (builder.create_block(), builder.create_block());
    builder.set_cold_block(raise);
    builder.ins().brif(condition, raise, &[], go_on, &[]);
    builder.switch_to_block(raise);
    let address = builder.ins().load(I64, record(), store, offset::STORE_RAISE);
    let signature = builder.import_signature(system_v(&[I64, I64], &[]));
    builder.ins().call_indirect(signature, address, &[store, code]);
    // It does not return.
    builder.ins().trap(trap_code(TrapCode::Host));
    builder.switch_to_block(go_on);
}

/// The host trampoline of a type.
pub(crate) fn host(ty: &FunctionType, config: TargetFrontendConfig) -> Function {
    build(ty.guest(), config, |builder, params| {
        let function = params[0];
        let store = builder.ins().load(I64, constant_record(), function, offset::HOST_FUNCTION_STORE);
        leave(builder, store);
        let count = ty.params.len().max(ty.results.len()).max(1);
        let size = u32::try_from(count).map_or(u32::MAX, |count| count.saturating_mul(VALUE_SIZE));
        let values = builder.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size, 4));
        let values = builder.ins().stack_addr(I64, values, 0);
        for (index, param) in params[1..].iter().enumerate() {
            builder.ins().store(record(), *param, values, slot(index));
        }
        let entry = builder.ins().load(I64, constant_record(), function, offset::HOST_FUNCTION_ENTRY);
        let signature = builder.import_signature(system_v(&[I64, I64], &[I64]));
        let call = builder.ins().call_indirect(signature, entry, &[function, values]);
        let status = builder.inst_results(call)[0];
        raise_if(builder, status, store, status);
        let results: Vec<Value> =
            ty.results.iter().enumerate().map(|(index, ty)| builder.ins().load(clif_type(*ty), record(), values, slot(index))).collect();
        builder.ins().return_(&results);
    })
}

/// What calls an imported function of type `ty` with the parameters in a wake frame. `place` is where the context has the import. It leaves no
/// frame of its own.
pub(crate) fn import(ty: &FunctionType, place: i32, config: TargetFrontendConfig) -> Function {
    build(resume_type(&ty.results).guest(), config, |builder, params| {
        let [context, wake_frame] = *params else { unreachable!("the signature has two parameters") };
        let code = builder.ins().load(I64, constant_record(), context, place + offset::IMPORTED_FUNCTION_CODE);
        let callee = builder.ins().load(I64, constant_record(), context, place + offset::IMPORTED_FUNCTION_CONTEXT);
        let mut arguments = vec![callee];
        for (index, ty) in ty.params.iter().enumerate() {
            arguments.push(builder.ins().load(clif_type(*ty), record(), wake_frame, value_place(index)));
        }
        let signature = builder.import_signature(ty.guest());
        builder.ins().return_call_indirect(signature, code, &arguments);
    })
}

/// The stub of a library call. Small copies and fills it does by itself.
pub(crate) fn libcall(libcall: Libcall, module: &Module<'_>, config: TargetFrontendConfig) -> Function {
    build(signature::libcall_stub(libcall), config, |builder, params| {
        match libcall {
            Libcall::MemoryCopy => small::copy(builder, params, &module.layout),
            Libcall::MemoryFill => small::fill(builder, params, &module.layout),
            _ => {}
        }
        let context = params[0];
        let store = builder.ins().load(I64, constant_record(), context, offset::CONTEXT_STORE);
        leave(builder, store);
        let address = builder.ins().load(I64, constant_record(), store, offset::store_libcall(libcall));
        let signature = builder.import_signature(signature::libcall(libcall));
        let call = builder.ins().call_indirect(signature, address, params);
        let result = builder.inst_results(call)[0];
        match libcall.result() {
            LibcallResult::Value => {}
            LibcallResult::Status => {
                raise_if(builder, result, store, result);
                builder.ins().return_(&[]);
                return;
            }
            LibcallResult::Reference => {
                let missing = builder.ins().icmp_imm_u(IntCC::Equal, result, 0);
                let code = builder.ins().iconst(I64, i64::from(TrapCode::OutOfResources.number()));
                let missing = builder.ins().uextend(I32, missing);
                raise_if(builder, missing, store, code);
            }
        }
        builder.ins().return_(&[result]);
    })
}
