//! What compiled code calls.
//!
//! These functions run on the guest's stack, called by host trampolines and library call stubs, which compare the stack pointer with the
//! limit before. They don't unwind into the guest: a panic of a host function is caught and goes on behind the guest, and
//! where one can only be a mistake of this crate it ends the process.

use super::enter::{current, follow, leave};
use super::exception;
use super::owner::StorePointer;
use crate::error::Error;
use crate::host::HostFunc;
use crate::libcalls;
use crate::store::{Pending, StoreInner};
use crate::value::Slot;
use preheat_image::abi::{ContextHeader, HostFunction, Libcall, StoreRecord, TrapCode};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

fn status(result: Result<(), TrapCode>) -> u64 {
    result.map_or_else(|code| u64::from(code.number()), |()| 0)
}

/// The front of the record of every store: how its guests reach this module.
pub(crate) fn store_record() -> StoreRecord {
    let mut libcalls = [0; Libcall::ALL.len()];
    for call in Libcall::ALL {
        libcalls[usize::from(call.number())] = match call {
            Libcall::MemoryGrow => memory_grow as *const () as u64,
            Libcall::MemoryCopy => memory_copy as *const () as u64,
            Libcall::MemoryFill => memory_fill as *const () as u64,
            Libcall::MemoryInit => memory_init as *const () as u64,
            Libcall::TableGrow => table_grow as *const () as u64,
            Libcall::TableCopy => table_copy as *const () as u64,
            Libcall::TableFill => table_fill as *const () as u64,
            Libcall::TableInit => table_init as *const () as u64,
            Libcall::EntryReference => entry_reference as *const () as u64,
            Libcall::FunctionReference => function_reference as *const () as u64,
            Libcall::ExceptionNew => exception_new as *const () as u64,
            Libcall::Throw => throw as *const () as u64,
        };
    }
    StoreRecord { stack_limit: 0, exit_frame: 0, raise: raise as *const () as u64, libcalls }
}

/// What `HostFunction::entry` is.
pub(crate) fn host_entry() -> u64 {
    call_host as *const () as u64
}

/// In the context of a [`HostFunction`], beside the number of the instance: calls of it are noted, since the instance may be captured.
pub(crate) const CAPTURE: u64 = 1 << 32;

/// Calls a host function.
unsafe extern "sysv64" fn call_host(function: *mut HostFunction, values: *mut Slot) -> u64 {
    // SAFETY: a trampoline gives its context, which is a `HostFunction` that `instantiate` wrote.
    let HostFunction { store, context, runtime, .. } = unsafe { function.read() };
    let host: *const HostFunc = ptr::with_exposed_provenance(usize::try_from(runtime).unwrap_or(0));
    // SAFETY: the instance that imports the function holds it.
    let host = unsafe { &*host };
    // SAFETY: the trampoline has as many slots as the type needs.
    let values = unsafe { std::slice::from_raw_parts_mut(values, host.slots()) };
    // SAFETY: the guest has called, so the call through which it runs waits for it.
    let mut store = unsafe { StorePointer::alias(store) };
    #[expect(clippy::cast_possible_truncation, reason = "the other bits are flags")]
    let instance = context as u32;
    if context & CAPTURE != 0 {
        let address = function.expose_provenance() as u64;
        store.get_mut().note_host_call(instance, address, values);
    }
    // SAFETY: `store` is used again only when the function has returned or panicked.
    let lent = unsafe { store.lend() };
    // What the function or its caller finds changed half after a panic is theirs to judge: it goes on in the caller.
    let pending = match catch_unwind(AssertUnwindSafe(|| host.call(lent, Some(instance), values))) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => Pending::Error(error),
        Err(panic) => Pending::Panic(panic),
    };
    store.get_mut().pending = Some(pending);
    u64::from(TrapCode::Host.number())
}

/// Calls a host function without a guest in between, or as one that `instance` imports.
pub(crate) fn call_directly(
    store: &mut StorePointer,
    function: &HostFunc,
    instance: Option<u32>,
    values: &mut [Slot],
) -> Result<(), Error> {
    // SAFETY: `store` is borrowed until the function has returned.
    let lent = unsafe { store.lend() };
    function.call(lent, instance, values)
}

/// Ends the call of the guest with a trap.
unsafe extern "sysv64" fn raise(record: *mut StoreRecord, code: u64) -> ! {
    let activation = current();
    // SAFETY: code of a store runs only in a call, which `enter` noted.
    let host_sp = unsafe { (*activation).host_sp };
    {
        // SAFETY: the record is the store's beginning. The guest has called, so nobody else uses the store.
        let store = unsafe { &mut *record.cast::<StoreInner>() };
        let code = u8::try_from(code).ok().and_then(TrapCode::from_number).unwrap_or(TrapCode::Host);
        store.raw.begin(code, None);
        let range = store.stack.as_ref().map_or(0..0, crate::stack::Stack::range);
        let frame = store.record.exit_frame;
        // SAFETY: the activation of this thread and the stack of its store.
        unsafe { follow(activation, &range, frame, &mut store.raw) };
    }
    // SAFETY: the call has not returned. The frames since then are compiled code's and this one, which owns nothing.
    unsafe { leave(host_sp) }
}

/// The store and the instance of a context.
///
/// # Safety
/// `context` is that of an instance, whose guest has called.
unsafe fn of_context(context: *const ContextHeader) -> (StorePointer, u32) {
    // SAFETY: the caller promises that it is a context.
    let header = unsafe { context.read() };
    // SAFETY: the guest has called, so the call through which it runs waits for it.
    let store = unsafe { StorePointer::alias(header.store) };
    (store, u32::try_from(header.runtime).unwrap_or(u32::MAX))
}

macro_rules! libcall {
    ($name:ident($($arg:ident: $ty:ty),*) $body:expr) => {
        unsafe extern "sysv64" fn $name(context: *const ContextHeader $(, $arg: $ty)*) -> u64 {
            // SAFETY: stubs pass on the context of the code that calls them.
            let (mut store, instance) = unsafe { of_context(context) };
            let body: fn(&mut StoreInner, u32 $(, $ty)*) -> u64 = $body;
            body(store.get_mut(), instance $(, $arg)*)
        }
    };
}

libcall!(memory_grow(memory: u32, pages: u64) libcalls::memory_grow);
libcall!(memory_copy(to: u32, from: u32, to_at: u64, from_at: u64, len: u64) |store, instance, to, from, to_at, from_at, len| {
    status(libcalls::memory_copy(store, instance, (to, to_at), (from, from_at), len))
});
libcall!(memory_fill(memory: u32, at: u64, byte: u32, len: u64) |store, instance, memory, at, byte, len| {
    status(libcalls::memory_fill(store, instance, memory, at, byte.to_le_bytes()[0], len))
});
libcall!(memory_init(memory: u32, segment: u32, to: u64, from: u64, len: u64) |store, instance, memory, segment, to, from, len| {
    status(libcalls::memory_init(store, instance, (memory, to), (segment, from), len))
});
libcall!(table_grow(table: u32, entries: u64, value: u64) libcalls::table_grow);
libcall!(table_copy(to: u32, from: u32, to_at: u64, from_at: u64, len: u64) |store, instance, to, from, to_at, from_at, len| {
    status(libcalls::table_copy(store, instance, (to, to_at), (from, from_at), len))
});
libcall!(table_fill(table: u32, at: u64, value: u64, len: u64) |store, instance, table, at, value, len| {
    status(libcalls::table_fill(store, instance, table, at, value, len))
});
libcall!(table_init(table: u32, segment: u32, to: u64, from: u64, len: u64) |store, instance, table, segment, to, from, len| {
    status(libcalls::table_init(store, instance, (table, to), (segment, from), len))
});
libcall!(entry_reference(table: u32, entry: u64) libcalls::entry_reference);
libcall!(function_reference(function: u32) libcalls::function_reference);

unsafe extern "sysv64" fn exception_new(context: *const ContextHeader, tag: u32, count: u32) -> u64 {
    // SAFETY: stubs pass on the context of the code that calls them.
    let (mut store, instance) = unsafe { of_context(context) };
    let store = store.get_mut();
    if store.exceptions.many() {
        // SAFETY: the guest has called and waits; its innermost frame is the stub's.
        let stack = unsafe { exception::words(store) };
        store.forget_exceptions(stack);
    }
    libcalls::exception_new(store, instance, tag, count)
}

unsafe extern "sysv64" fn throw(context: *const ContextHeader, thrown: u64) -> u64 {
    // SAFETY: stubs pass on the context of the code that calls them.
    let (store, _) = unsafe { of_context(context) };
    // SAFETY: the guest has called and waits; the frames since then are the stub's and this one, which owns nothing.
    u64::from(unsafe { exception::throw(store, thrown) }.number())
}

/// The error with which a call of the guest ended that did not return.
pub(crate) fn ended(store: &mut StoreInner) -> Error {
    let pending = store.pending.take();
    match (store.raw.code, pending) {
        (TrapCode::Host, Some(Pending::Error(Error::Host(mut error)))) => {
            if error.frames.is_empty() && !error.quiet {
                error.frames = store.raw.frames(store);
            }
            Error::Host(error)
        }
        (TrapCode::Host, Some(Pending::Error(error))) => error,
        (TrapCode::Host, Some(Pending::Panic(panic))) => std::panic::resume_unwind(panic),
        (code, _) => Error::Trap(Box::new(crate::trap::Trap { code, frames: store.raw.frames(store) })),
    }
}
