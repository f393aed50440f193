//! wasmtime's errors as those of a call.

use preheat_call::{Cause, Frame, RunError, TrapCode, trap};
use wasmtime::{Trap, WasmBacktrace};

pub(crate) fn cause(error: wasmtime::Error) -> Cause {
    Cause::from(error.into_boxed_dyn_error())
}

/// Sorts what a call into the guest gave.
pub(crate) fn of_call(error: wasmtime::Error) -> RunError {
    let Some(kind) = error.downcast_ref::<Trap>() else { return RunError::Host(cause(error)) };
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    let frames = backtrace.map(WasmBacktrace::frames).unwrap_or_default();
    let frames = frames.iter().map(|frame| Frame {
        function: frame.func_index(),
        name: frame.func_name(),
        offset: frame.module_offset().and_then(|offset| u64::try_from(offset).ok()),
    });
    match code_of(*kind) {
        Some(code) => trap(code, frames),
        // A component's own kind.
        None => RunError::Trap { message: kind.to_string() },
    }
}

/// Which of the traps that core modules can have it is.
fn code_of(trap: Trap) -> Option<TrapCode> {
    Some(match trap {
        Trap::StackOverflow => TrapCode::StackOverflow,
        Trap::MemoryOutOfBounds => TrapCode::MemoryOutOfBounds,
        Trap::TableOutOfBounds => TrapCode::TableOutOfBounds,
        Trap::IndirectCallToNull => TrapCode::NullEntry,
        Trap::BadSignature => TrapCode::BadSignature,
        Trap::IntegerOverflow => TrapCode::IntegerOverflow,
        Trap::IntegerDivisionByZero => TrapCode::DivisionByZero,
        Trap::BadConversionToInteger => TrapCode::BadConversion,
        Trap::UnreachableCodeReached => TrapCode::Unreachable,
        Trap::NullReference => TrapCode::NullReference,
        _ => return None,
    })
}
