//! From CLIF to bytes, with what the linker and the tables of the code object need.

use crate::CompileError;
use crate::freeze::{FunctionSites, Shadow};
use crate::helpers::Helper;
use crate::translate::namespace;
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{self, ExternalName, StackSlot};
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::{
    CodegenError, Context, ExceptionContextLoc, Final, FinalizedMachExceptionHandler, FinalizedRelocTarget, MachBufferFinalized,
};
use preheat_image::abi::{NONE, TrapCode};
use preheat_image::native::SiteValue;

/// What code refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// A function of the module by index.
    Function(u32),
    /// A stub by the number of its library call.
    Libcall(u32),
    /// A helper by number.
    Helper(u32),
}

/// Four bytes in the code that hold the distance from themselves to a target, plus an addend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Relocation {
    pub(crate) offset: u32,
    pub(crate) target: Target,
    pub(crate) addend: i64,
}

/// A call that exceptions may come out of.
#[derive(Debug)]
pub(crate) struct CallSite {
    pub(crate) return_to: u32,
    pub(crate) frame_size: u32,
    /// Tag (or [`NONE`]), landing pad, where the context is.
    pub(crate) handlers: Vec<(u32, u32, u32)>,
}

/// The code of a function. Offsets count from its beginning.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) code: Vec<u8>,
    pub(crate) alignment: u32,
    pub(crate) relocations: Vec<Relocation>,
    pub(crate) traps: Vec<(u32, TrapCode)>,
    /// From where on code comes from which offset in the Wasm; [`NONE`] for none.
    pub(crate) addresses: Vec<(u32, u32)>,
    pub(crate) call_sites: Vec<CallSite>,
    pub(crate) sites: Vec<CapturedSite>,
}

/// A call of capture code.
#[derive(Debug)]
pub(crate) struct CapturedSite {
    pub(crate) return_to: u32,
    pub(crate) function: u32,
    /// Offset of the call in the Wasm.
    pub(crate) site: u32,
    /// How far the shadow frame begins below the frame pointer.
    pub(crate) frame: u32,
    pub(crate) values: Vec<SiteValue>,
}

/// What is captured in a function.
pub(crate) struct Captured<'c> {
    pub(crate) function: u32,
    pub(crate) sites: &'c FunctionSites,
    pub(crate) shadow: &'c Shadow,
    pub(crate) slot: StackSlot,
}

/// Compiles the function in `context`. `what` names it in errors.
pub(crate) fn compile(
    context: &mut Context,
    isa: &dyn TargetIsa,
    control: &mut ControlPlane,
    address_map: bool,
    captured: Option<&Captured<'_>>,
    what: &dyn Fn() -> String,
) -> Result<Compiled, CompileError> {
    let result = context.compile(isa, control).map(|_| ()).map_err(|error| match error.inner {
        CodegenError::ImplLimitExceeded | CodegenError::CodeTooLarge => CompileError::Limit { what: what() },
        inner => CompileError::Codegen { what: what(), message: cranelift_codegen::print_errors::pretty_error(error.func, inner) },
    });
    result?;
    let failed = |message: String| CompileError::Codegen { what: what(), message };
    let compiled = context.compiled_code().ok_or_else(|| failed("no code".into()))?;
    let mut output = Compiled {
        code: compiled.code_buffer().to_vec(),
        alignment: compiled.buffer.alignment.max(isa.function_alignment().preferred),
        ..Compiled::default()
    };
    for relocation in compiled.buffer.relocs() {
        if !matches!(relocation.kind, Reloc::X86CallPCRel4 | Reloc::X86PCRel4) {
            return Err(failed(format!("a reference of kind {:?}", relocation.kind)));
        }
        let target = match &relocation.target {
            FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                let name = &context.func.params.user_named_funcs()[*name];
                match name.namespace {
                    namespace::FUNCTION => Target::Function(name.index),
                    namespace::LIBCALL => Target::Libcall(name.index),
                    _ => Target::Helper(name.index),
                }
            }
            FinalizedRelocTarget::ExternalName(ExternalName::LibCall(libcall)) => {
                let helper = Helper::of(*libcall).ok_or_else(|| failed(format!("a call of {libcall}")))?;
                Target::Helper(helper.number())
            }
            other => return Err(failed(format!("a reference to {other:?}"))),
        };
        output.relocations.push(Relocation { offset: relocation.offset, target, addend: relocation.addend });
    }
    for trap in compiled.buffer.traps() {
        let code = trap_of(trap.code).ok_or_else(|| failed(format!("a trap of code {}", trap.code)))?;
        output.traps.push((trap.offset, code));
    }
    output.traps.sort_by_key(|(offset, _)| *offset);
    output.traps.dedup_by_key(|(offset, _)| *offset);
    for site in compiled.buffer.call_sites().filter(|site| !site.exception_handlers.is_empty()) {
        let frame_size = site.frame_offset.ok_or_else(|| failed("a call without frame size".into()))?;
        let mut place = None;
        let mut handlers = Vec::new();
        for handler in site.exception_handlers {
            let (tag, landing) = match handler {
                FinalizedMachExceptionHandler::Context(ExceptionContextLoc::SPOffset(offset)) => {
                    place = Some(*offset);
                    continue;
                }
                // Nothing is kept in registers across a call that may throw.
                FinalizedMachExceptionHandler::Context(ExceptionContextLoc::GPR(_)) => {
                    return Err(failed("a context in a register".into()));
                }
                FinalizedMachExceptionHandler::Tag(tag, landing) => (tag.as_u32(), *landing),
                FinalizedMachExceptionHandler::Default(landing) => (NONE, *landing),
            };
            handlers.push((tag, landing, place.ok_or_else(|| failed("a handler without context".into()))?));
        }
        output.call_sites.push(CallSite { return_to: site.ret_addr, frame_size, handlers });
    }
    if let Some(captured) = captured {
        output.sites = captured_sites(&compiled.buffer, captured).ok_or_else(|| failed("a call of capture code has no place".into()))?;
    }
    if address_map {
        output.addresses = addresses(compiled.buffer.get_srclocs_sorted(), output.code.len());
    }
    Ok(output)
}

/// The calls that are sites: their return addresses follow an instruction of the site's place in the Wasm.
fn captured_sites(buffer: &MachBufferFinalized<Final>, captured: &Captured<'_>) -> Option<Vec<CapturedSite>> {
    let layout = buffer.frame_layout()?;
    let frame = layout.frame_to_fp_offset.checked_sub(layout.stackslots.get(captured.slot)?.offset)?;
    let places = buffer.get_srclocs_sorted();
    let mut sites = Vec::new();
    for call in buffer.call_sites() {
        let after = places.partition_point(|place| place.start < call.ret_addr);
        let place = after.checked_sub(1).map(|at| &places[at]).filter(|place| call.ret_addr <= place.end);
        let Some(layout) = place.and_then(|place| captured.sites.at(place.loc.bits())) else { continue };
        let values = captured.shadow.values(captured.sites, layout);
        sites.push(CapturedSite { return_to: call.ret_addr, function: captured.function, site: layout.offset, frame, values });
    }
    Some(sites)
}

/// Our code for a trap of Cranelift's.
fn trap_of(code: ir::TrapCode) -> Option<TrapCode> {
    Some(match code {
        ir::TrapCode::STACK_OVERFLOW => TrapCode::StackOverflow,
        ir::TrapCode::HEAP_OUT_OF_BOUNDS => TrapCode::MemoryOutOfBounds,
        ir::TrapCode::INTEGER_OVERFLOW => TrapCode::IntegerOverflow,
        ir::TrapCode::INTEGER_DIVISION_BY_ZERO => TrapCode::DivisionByZero,
        ir::TrapCode::BAD_CONVERSION_TO_INTEGER => TrapCode::BadConversion,
        other => return TrapCode::from_number(other.as_raw().get()),
    })
}

/// Ranges of source locations as the places where they begin, with neighbours of one location joined.
fn addresses(ranges: &[cranelift_codegen::MachSrcLoc<cranelift_codegen::Final>], size: usize) -> Vec<(u32, u32)> {
    let mut addresses: Vec<(u32, u32)> = Vec::with_capacity(ranges.len() + 1);
    let mut push = |offset: u32, wasm: u32| {
        if addresses.last().is_none_or(|(_, last)| *last != wasm) {
            addresses.push((offset, wasm));
        }
    };
    let mut end = 0;
    for range in ranges {
        if range.start > end {
            push(end, NONE);
        }
        push(range.start, if range.loc.is_default() { NONE } else { range.loc.bits() });
        end = range.end;
    }
    if (end as usize) < size {
        push(end, NONE);
    }
    addresses
}
