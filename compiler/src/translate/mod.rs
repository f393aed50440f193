//! From a function's Wasm to CLIF, one instruction after the other.
//!
//! The [`Translator`] keeps what the specification's abstract machine keeps: a stack of operands, here of CLIF values, and a stack of
//! control frames. Each family of instructions has a file, with one method that either translates an instruction or says that it is not of
//! its family. What is validated is not checked again: an operand that must be there is there.
//!
//! A 128-bit operand has whatever vector type the last instruction gave it. Whoever takes it asks for the type that it needs
//! ([`Translator::pop_vector`]); where control flow joins, and at calls, all are of the type that [`clif_type`] says.

mod again;
mod bulk;
mod calls;
mod capture;
mod control;
mod conversions;
mod exceptions;
mod floats;
mod heat;
mod integers;
mod memory;
mod resume;
mod simd;
mod tables;
mod variables;

use crate::freeze::{CheckedBody, FunctionSites, Shadow, SiteLayout};
use crate::guide::Guide;
use crate::module::Module;
use crate::signature::{clif_type, libcall_stub};
use crate::target::Capabilities;
use crate::{CompileError, CompileOptions};
use capture::Capture;
use control::Frame;
use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::ir::types::{I8X16, I32, I64};
use cranelift_codegen::ir::{
    self, AliasRegion, AliasRegionData, Block, BlockArg, Endianness, ExtFuncData, ExternalName, FuncRef, InstBuilder as _, MemFlagsData,
    SigRef, SourceLoc, StackSlot, Type, UserExternalName, Value,
};
use cranelift_codegen::isa::{TargetFrontendConfig, TargetIsa};
use cranelift_frontend::{FunctionBuilder, Variable};
use preheat_image::abi::{INTERRUPT_OFFSET, Libcall, TrapCode, ValueType};
use preheat_image::native::FunctionRecord;
use wasmparser::{FuncValidator, FunctionBody, Operator, ValidatorResources};

pub(crate) use resume::{resume_type, value_place};

/// What the code of a function may refer to, by the namespace of its CLIF name.
pub(crate) mod namespace {
    /// Functions of the module by index.
    pub(crate) const FUNCTION: u32 = 0;
    /// Stubs of library calls by number.
    pub(crate) const LIBCALL: u32 = 1;
    /// Helpers by number.
    pub(crate) const HELPER: u32 = 2;
}

/// Parts of memory that do not overlap, for Cranelift's alias analysis.
#[derive(Debug, Clone, Copy)]
enum Region {
    /// Any memory that is imported: two imports may be the same.
    ImportedMemory,
    /// An own memory.
    Memory(u32),
    /// Any global that is imported.
    ImportedGlobal,
    /// An own global.
    Global(u32),
    /// Entries of all tables.
    Tables,
    /// Sizes of memories and tables.
    Sizes,
    /// What never changes while code runs, or only behind a call.
    Context,
    /// The shadow frame of capture code.
    Shadow,
}

/// A trap code of ours as Cranelift's.
pub(crate) const fn trap_code(code: TrapCode) -> ir::TrapCode {
    ir::TrapCode::unwrap_user(code.number())
}

/// Flags of an access to a record of the runtime that changes.
pub(crate) const fn record() -> MemFlagsData {
    MemFlagsData::trusted().with_endianness(Endianness::Little)
}

/// Flags of an access to a record of the runtime that never changes.
pub(crate) const fn constant_record() -> MemFlagsData {
    record().with_readonly().with_can_move()
}

/// What a function is translated with.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'a> {
    pub(crate) module: &'a Module<'a>,
    pub(crate) capabilities: Capabilities,
    pub(crate) frontend: TargetFrontendConfig,
    /// Look at the interrupt page.
    pub(crate) interruptible: bool,
    /// For the code of a resume object: the functions of its base by index.
    pub(crate) base: Option<&'a [FunctionRecord]>,
    /// What a profile says of the module.
    pub(crate) guide: Option<&'a Guide<'a>>,
    /// For functions that come into others: whoever calls those is looked for on entry to them.
    pub(crate) inside: bool,
}

impl<'a> Environment<'a> {
    pub(crate) fn new(module: &'a Module<'a>, options: &CompileOptions, isa: &dyn TargetIsa) -> Self {
        Self {
            module,
            capabilities: Capabilities::of(options.cpu),
            frontend: isa.frontend_config(),
            interruptible: options.interruptible,
            base: None,
            guide: None,
            inside: false,
        }
    }
}

/// Translates one function.
pub(crate) struct Translator<'a, 'f> {
    env: Environment<'a>,
    builder: FunctionBuilder<'f>,
    /// The instance context.
    context: Value,
    entry: Block,
    stack: Vec<Value>,
    frames: Vec<Frame>,
    /// Whether the current position can be reached. Where it can't, only the nesting of blocks is followed.
    reachable: bool,
    /// How many `try_table`s are around the current position.
    tries: usize,
    /// It calls other guest functions, so it may be part of a recursion.
    calls: bool,
    signatures: Vec<Option<SigRef>>,
    functions: std::collections::HashMap<UserExternalName, FuncRef>,
    /// Where the current instruction is in the Wasm bytes.
    offset: u32,
    capture: Option<Capture<'a>>,
    /// What a profile says, if it has counts of this function.
    guide: Option<&'a Guide<'a>>,
    /// Whether the current position is hardly ever reached.
    cold: bool,
}

/// Validates the function and translates it into the function that `builder` builds.
///
/// # Errors
/// When the body is not valid.
pub(crate) fn function(
    env: Environment<'_>,
    builder: FunctionBuilder<'_>,
    body: &FunctionBody<'_>,
    validator: &mut FuncValidator<ValidatorResources>,
) -> Result<(), CompileError> {
    let mut translator = Translator::new(env, builder);
    translator.guide = env.guide.filter(|guide| guide.counts(validator.index()));
    translator.locals(body, validator)?;
    let results: Vec<Type> = translator.builder.func.signature.returns.iter().map(|result| result.value_type).collect();
    translator.push_function_frame(&results);
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let (operator, offset) = reader.read_with_offset()?;
        validator.op(offset, &operator)?;
        translator.place(crate::module::narrow(offset, "the module")?);
        translator.operator(&operator)?;
    }
    reader.finish()?;
    translator.finish();
    Ok(())
}

/// Translates a validated function into capture code, which keeps what is live at `sites` in a shadow frame. Gives its stack slot.
///
/// # Errors
/// When it has an instruction that validation should not have let through.
pub(crate) fn capturing<'a>(
    env: Environment<'a>,
    builder: FunctionBuilder<'_>,
    body: &CheckedBody<'_>,
    sites: &'a FunctionSites,
    shadow: &'a Shadow,
) -> Result<StackSlot, CompileError> {
    let mut translator = Translator::new(env, builder);
    translator.parameters();
    body.locals[body.params..].iter().for_each(|ty| translator.zero_variable(*ty));
    let slot = translator.begin_capture(sites, shadow);
    let results: Vec<Type> = translator.builder.func.signature.returns.iter().map(|result| result.value_type).collect();
    translator.push_function_frame(&results);
    for (operator, offset) in &body.operators {
        translator.place(*offset);
        translator.operator(operator)?;
    }
    translator.finish();
    Ok(slot)
}

/// Translates what is behind a site of a validated function; into capture code if there is a `shadow` frame, of which it gives the stack
/// slot.
///
/// # Errors
/// When it has an instruction that validation should not have let through.
pub(crate) fn resuming<'a>(
    env: Environment<'a>,
    builder: FunctionBuilder<'_>,
    body: &CheckedBody<'_>,
    sites: &'a FunctionSites,
    site: SiteLayout<'_>,
    shadow: Option<&'a Shadow>,
) -> Result<Option<StackSlot>, CompileError> {
    let mut translator = Translator::new(env, builder);
    let slot = shadow.map(|shadow| translator.begin_capture(sites, shadow));
    translator.resume(body, sites, site)?;
    translator.finish();
    Ok(slot)
}

impl<'a, 'f> Translator<'a, 'f> {
    fn new(env: Environment<'a>, mut builder: FunctionBuilder<'f>) -> Self {
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        builder.switch_to_block(entry);
        builder.seal_block(entry);
        builder.ensure_inserted_block();
        let context = builder.block_params(entry)[0];
        Self {
            env,
            builder,
            context,
            entry,
            stack: Vec::new(),
            frames: Vec::new(),
            reachable: true,
            tries: 0,
            calls: false,
            signatures: vec![None; env.module.types.len()],
            functions: std::collections::HashMap::new(),
            offset: 0,
            capture: None,
            guide: None,
            cold: false,
        }
    }

    /// Goes to the instruction at `offset` in the Wasm bytes.
    fn place(&mut self, offset: u32) {
        self.offset = offset;
        self.builder.set_srcloc(SourceLoc::new(offset));
    }

    /// Makes a variable of each parameter.
    fn parameters(&mut self) {
        let params = self.builder.block_params(self.entry)[1..].to_vec();
        for param in params {
            let variable = self.builder.declare_var(self.builder.func.dfg.value_type(param));
            self.builder.def_var(variable, param);
        }
    }

    /// Makes a variable that begins as zero.
    fn zero_variable(&mut self, ty: ValueType) {
        let zero = self.zero(clif_type(ty));
        let variable = self.builder.declare_var(clif_type(ty));
        self.builder.def_var(variable, zero);
    }

    /// Makes a variable of each parameter and local, numbered as in Wasm.
    fn locals(&mut self, body: &FunctionBody<'_>, validator: &mut FuncValidator<ValidatorResources>) -> Result<(), CompileError> {
        self.parameters();
        let mut reader = body.get_binary_reader();
        for _ in 0..reader.read_var_u32()? {
            let offset = reader.original_position();
            let count = reader.read_var_u32()?;
            let ty: wasmparser::ValType = reader.read()?;
            validator.define_locals(offset, count, ty)?;
            // Validation takes no locals of any type for granted.
            if count == 0 {
                continue;
            }
            let ty = crate::signature::value_type(ty).ok_or_else(|| crate::module::impossible("an unknown local"))?;
            let zero = self.zero(clif_type(ty));
            for _ in 0..count {
                let variable = self.builder.declare_var(clif_type(ty));
                self.builder.def_var(variable, zero);
            }
        }
        Ok(())
    }

    fn operator(&mut self, operator: &Operator<'_>) -> Result<(), CompileError> {
        if !self.reachable {
            self.unreachable_operator(operator);
            return Ok(());
        }
        let known = self.variable(operator)
            || self.integer(operator)
            || self.memory(operator)
            || self.control(operator)?
            || self.call(operator)
            || self.float(operator)
            || self.conversion(operator)
            || self.table(operator)
            || self.bulk(operator)
            || self.simd(operator)
            || self.exception(operator);
        if known { Ok(()) } else { Err(crate::module::impossible(&format!("{operator:?}"))) }
    }

    /// Ends the function.
    fn finish(self) {
        if self.env.interruptible && self.calls && !self.env.inside {
            let context = self.context;
            let mut cursor = FuncCursor::new(self.builder.func).at_first_insertion_point(self.entry);
            let page = cursor.ins().iadd_imm_s(context, i64::from(INTERRUPT_OFFSET));
            cursor.ins().atomic_load(I64, interrupt_flags(), page);
        }
        self.builder.finalize(self.env.frontend);
    }

    /// Looks at the interrupt page. Atomic, for an ordinary load would be merged with an earlier one.
    fn check_interrupt(&mut self) {
        if self.env.interruptible {
            let page = self.builder.ins().iadd_imm_s(self.context, i64::from(INTERRUPT_OFFSET));
            self.builder.ins().atomic_load(I64, interrupt_flags(), page);
        }
    }

    fn pop(&mut self) -> Value {
        self.stack.pop().expect("validation leaves no stack too short")
    }

    /// Pops two operands, in the order in which they were pushed.
    fn pop2(&mut self) -> (Value, Value) {
        let second = self.pop();
        (self.pop(), second)
    }

    /// Pops three operands, in the order in which they were pushed.
    fn pop3(&mut self) -> (Value, Value, Value) {
        let third = self.pop();
        let (first, second) = self.pop2();
        (first, second, third)
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    /// Pops `count` operands with vectors in their canonical type, in the order in which they were pushed.
    fn pop_canonical(&mut self, count: usize) -> Vec<Value> {
        let values = self.stack.split_off(self.stack.len() - count);
        values.into_iter().map(|value| self.canonical(value)).collect()
    }

    /// A value as it crosses borders: vectors in their canonical type.
    fn canonical(&mut self, value: Value) -> Value {
        if self.type_of(value).is_vector() { self.as_vector(value, I8X16) } else { value }
    }

    /// A vector as one of type `ty`, with the same bits.
    fn as_vector(&mut self, value: Value, ty: Type) -> Value {
        if self.type_of(value) == ty {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(ty, flags, value)
    }

    fn pop_vector(&mut self, ty: Type) -> Value {
        let value = self.pop();
        self.as_vector(value, ty)
    }

    fn type_of(&self, value: Value) -> Type {
        self.builder.func.dfg.value_type(value)
    }

    /// The zero of a type; null for references.
    fn zero(&mut self, ty: Type) -> Value {
        match ty {
            ir::types::F32 => self.builder.ins().f32const(0.0),
            ir::types::F64 => self.builder.ins().f64const(0.0),
            ty if ty.is_vector() => self.vector(ty, [0; 16]),
            ty => self.builder.ins().iconst(ty, 0),
        }
    }

    /// A constant vector.
    fn vector(&mut self, ty: Type, bytes: [u8; 16]) -> Value {
        let constant = self.builder.func.dfg.constants.insert(bytes.to_vec().into());
        self.builder.ins().vconst(ty, constant)
    }

    fn i32_const(&mut self, value: u32) -> Value {
        self.builder.ins().iconst(I32, i64::from(value))
    }

    /// A boolean as Wasm has it.
    fn push_bool(&mut self, value: Value) {
        let value = self.builder.ins().uextend(I32, value);
        self.push(value);
    }

    /// Flags with the alias region.
    fn in_region(&mut self, flags: MemFlagsData, region: Region) -> MemFlagsData {
        let (user_id, description) = match region {
            Region::Context => (0, "context"),
            Region::Sizes => (1, "sizes"),
            Region::Tables => (2, "tables"),
            Region::ImportedMemory => (3, "imported memories"),
            Region::ImportedGlobal => (4, "imported globals"),
            Region::Shadow => (8, "shadow frame"),
            Region::Memory(own) => (own << 2 | 1 << 31, "memory"),
            Region::Global(own) => (own << 2 | 1 << 30, "global"),
        };
        let region: AliasRegion = self.builder.func.dfg.alias_regions.insert(AliasRegionData { user_id, description: description.into() });
        flags.with_alias_region(Some(region))
    }

    /// Loads from the context what never changes while code runs.
    fn context_constant(&mut self, ty: Type, offset: u32) -> Value {
        let flags = self.in_region(constant_record(), Region::Context);
        self.builder.ins().load(ty, flags, self.context, displacement(offset))
    }

    /// Loads from a record what never changes while code runs.
    fn constant_field(&mut self, ty: Type, record: Value, offset: i32) -> Value {
        let flags = self.in_region(constant_record(), Region::Context);
        self.builder.ins().load(ty, flags, record, offset)
    }

    /// The CLIF signature of a type of the module.
    fn signature(&mut self, ty: u32) -> SigRef {
        let signature = &mut self.signatures[ty as usize];
        *signature.get_or_insert_with(|| self.builder.import_signature(self.env.module.signatures[ty as usize].clone()))
    }

    /// A function in the same text.
    fn local_function(&mut self, namespace: u32, index: u32, signature: impl FnOnce(&mut Self) -> SigRef) -> FuncRef {
        let name = UserExternalName::new(namespace, index);
        if let Some(function) = self.functions.get(&name) {
            return *function;
        }
        let signature = signature(self);
        let reference = self.builder.func.declare_imported_user_function(name.clone());
        let data = ExtFuncData { name: ExternalName::user(reference), signature, colocated: true, patchable: false };
        let function = self.builder.import_function(data);
        self.functions.insert(name, function);
        function
    }

    /// Calls the runtime through the stub of `libcall`. Gives its result, if it has one that is not a status.
    fn libcall(&mut self, libcall: Libcall, args: &[Value]) -> Option<Value> {
        let stub =
            self.local_function(namespace::LIBCALL, libcall.number().into(), |this| this.builder.import_signature(libcall_stub(libcall)));
        let args: Vec<Value> = [self.context].into_iter().chain(args.iter().copied()).collect();
        let call = self.builder.ins().call(stub, &args);
        self.builder.inst_results(call).first().copied()
    }

    /// Ends the current block with a trap.
    fn trap(&mut self, code: TrapCode) {
        self.builder.ins().trap(trap_code(code));
        self.reachable = false;
    }
}

/// Flags of the look at the interrupt page.
fn interrupt_flags() -> MemFlagsData {
    MemFlagsData::new().with_aligned().with_endianness(Endianness::Little).with_trap_code(Some(trap_code(TrapCode::Interrupt)))
}

/// An offset in a context as displacement; [`preheat_image::abi::ContextLayout::MAX_SIZE`] keeps it positive.
pub(crate) fn displacement(offset: u32) -> i32 {
    i32::try_from(offset).expect("contexts are smaller than 2 GiB")
}

/// Values as arguments of a block.
fn block_args(values: &[Value]) -> Vec<BlockArg> {
    values.iter().map(|value| BlockArg::Value(*value)).collect()
}

/// The variable of a local.
fn local(index: u32) -> Variable {
    Variable::from_u32(index)
}
