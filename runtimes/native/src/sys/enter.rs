//! Onto the guest's stack and off it.

use super::border::ended;
use super::owner::StorePointer;
use super::signal::prepare_thread;
use crate::error::Error;
use crate::instance::InstanceData;
use crate::interrupt::watch;
use crate::stack::Stack;
use crate::store::StoreInner;
use crate::trap::RawTrap;
use crate::value::Slot;
use std::arch::naked_asm;
use std::cell::Cell;
use std::ops::Range;
use std::ptr;

/// A call of the guest that is going on.
#[repr(C)]
pub(super) struct Activation {
    /// The stack pointer of the host, to which the guest goes back when it traps.
    pub(super) host_sp: u64,
    /// The store.
    pub(super) store: *mut StoreInner,
    /// The call from whose host function this one was made.
    outer: *mut Activation,
    /// The store's `exit_frame` when this call began: from there the guest's frames of the outer call of this store can be followed.
    exit_frame: u64,
}

thread_local! {
    /// The innermost call of this thread.
    static CURRENT: Cell<*mut Activation> = const { Cell::new(ptr::null_mut()) };
}

/// The innermost call of this thread, or null.
pub(super) fn current() -> *mut Activation {
    CURRENT.get()
}

/// A function of an instance, with all that is needed to call it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callee {
    // The store of the instance.
    pub(super) store: u64,
    // Addresses of the enter trampoline of its type, of its code, and of its instance's context.
    pub(super) enter: u64,
    pub(super) code: u64,
    pub(super) context: u64,
    // How many slots its parameters and results need.
    pub(super) slots: usize,
}

impl Callee {
    /// The function `index` of an instance of the store `store`, not an imported one. `None` if there is none, or none that can be called
    /// from outside.
    pub(crate) fn of(store: u64, instance: &InstanceData, index: u32) -> Option<Self> {
        let module = &instance.module;
        let native = module.native();
        let ty = native.type_of(index).ok()?;
        let code = native.functions.get(index as usize)?.code.get();
        let slots = ty.params.get().max(ty.results.get()) as usize;
        let (enter, code) = (module.text_address(ty.enter.get())?, module.text_address(code)?);
        Some(Self { store, enter, code, context: instance.cells.base(), slots })
    }
}

/// Calls a function of the guest with its parameters in `values`, and leaves its results there.
///
/// # Errors
/// The trap with which it ended, what a host function returned, or what the operating system says.
///
/// # Panics
/// When the function is of another store or has more parameters or results than there are values; or as a host function did.
pub(crate) fn call(store: &mut StorePointer, callee: &Callee, values: &mut [Slot]) -> Result<(), Error> {
    prepare_thread().map_err(|source| Error::System { action: "make a stack for signal handlers", source })?;
    let inner = store.get_mut();
    assert!(callee.store == inner.id, "a function of another store");
    assert!(callee.slots <= values.len(), "{} values for a function that needs {}", values.len(), callee.slots);
    let outermost = inner.depth == 0;
    let stack = inner.stack.as_ref().map_or(0..0, Stack::range);
    inner.depth += 1;
    let returned = if outermost {
        let interrupt = inner.interrupt.clone();
        let number = interrupt.begin();
        let watched = inner.deadline.map(|deadline| watch(deadline, interrupt.clone(), number)).transpose();
        let returned = watched.map(|_watched| {
            // SAFETY: the function is one of this store, as was checked, and the values are enough. The store's stack is not in use.
            unsafe { enter(store, callee, values, stack.end) }
        });
        let ended = interrupt.end();
        returned.and_then(|returned| ended.map(|()| returned)).map_err(|source| Error::System { action: "keep a deadline", source })
    } else {
        let here = 0u8;
        assert!(stack.contains(&((&raw const here).addr() as u64)), "a guest can only be called where its host function runs");
        // SAFETY: as before; this code runs on the store's stack.
        Ok(unsafe { enter(store, callee, values, 0) })
    };
    let inner = store.get_mut();
    inner.depth -= 1;
    match returned {
        Ok(true) => Ok(()),
        Ok(false) => Err(ended(inner)),
        Err(error) => Err(error),
    }
}

/// Calls the guest. Whether it returned; else it trapped.
///
/// # Safety
/// The callee is a function of an instance of this store, `values` are as many slots as its type needs, and `stack` is the top of the
/// guest's stack that nobody uses, or 0 if this code runs on it.
unsafe fn enter(store: &mut StorePointer, callee: &Callee, values: &mut [Slot], stack: u64) -> bool {
    let inner = store.as_ptr();
    // SAFETY: the pointer is to a living store, of which no borrow exists: it would be of `store`.
    let exit_frame = unsafe { (*inner).record.exit_frame };
    let mut activation = Activation { host_sp: 0, store: inner, outer: CURRENT.get(), exit_frame };
    let activation = &raw mut activation;
    // SAFETY: it is a place of this frame.
    let host_sp = unsafe { &raw mut (*activation).host_sp };
    let outer = CURRENT.replace(activation);
    // SAFETY: the caller promises that callee, values and stack fit. The activation is in place, so a trap comes back here.
    let trapped = unsafe { switch(host_sp, stack, callee.enter, callee.context, callee.code, values.as_mut_ptr()) };
    CURRENT.set(outer);
    // SAFETY: as above.
    unsafe { (*inner).record.exit_frame = exit_frame };
    trapped == 0
}

/// Saves what the host's callers need, notes where, goes to `stack` if it is not 0, and calls `enter(context, code, values)`. Returns 0, or
/// 1 if [`leave`] came back instead.
#[unsafe(naked)]
unsafe extern "sysv64" fn switch(host_sp: *mut u64, stack: u64, enter: u64, context: u64, code: u64, values: *mut Slot) -> u64 {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "sub rsp, 8",
        "mov [rdi], rsp",
        "mov rbx, rdi",
        "test rsi, rsi",
        "cmovne rsp, rsi",
        "mov rax, rdx",
        "mov rdi, rcx",
        "mov rsi, r8",
        "mov rdx, r9",
        "call rax",
        "mov rsp, [rbx]",
        "xor eax, eax",
        "add rsp, 8",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
    )
}

/// Leaves the guest where it is and returns 1 from the [`switch`] that noted `host_sp`.
///
/// # Safety
/// That call of `switch` has not returned, and no frame since then is missed.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn leave(host_sp: u64) -> ! {
    naked_asm!("mov rsp, rdi", "mov eax, 1", "add rsp, 8", "pop r15", "pop r14", "pop r13", "pop r12", "pop rbx", "pop rbp", "ret",)
}

/// Notes the return addresses of the guest's frames from the frame pointer `frame` on, and those of the calls around this one.
///
/// Compiled code keeps frame pointers. What is followed is checked to lie on the guest's stack and to lead upwards, so that wrong frames
/// give a wrong or short list and nothing worse.
///
/// # Safety
/// `activation` is that of this thread, and the guest's stack `stack` is mapped.
pub(super) unsafe fn follow(activation: *const Activation, stack: &Range<u64>, mut frame: u64, trap: &mut RawTrap) {
    let mut activation = activation;
    let mut text = 0..0;
    loop {
        while frame.is_multiple_of(8) && stack.contains(&frame) && frame + 16 <= stack.end {
            let place = ptr::with_exposed_provenance::<[u64; 2]>(usize::try_from(frame).unwrap_or(0));
            // SAFETY: within the guest's stack, as was checked; its pages are readable above the guard.
            let [outer, return_to] = unsafe { place.read() };
            if !text.contains(&return_to) {
                match crate::registry::TEXTS.find(return_to) {
                    Some(found) => text = found.text,
                    None => break,
                }
            }
            if !trap.push(return_to) || outer <= frame {
                break;
            }
            frame = outer;
        }
        // SAFETY: this call and those around it are going on.
        let this = unsafe { &*activation };
        // SAFETY: as before; there may be none.
        let same = unsafe { this.outer.as_ref() }.is_some_and(|outer| outer.store == this.store);
        if !same {
            return;
        }
        frame = this.exit_frame;
        activation = this.outer;
    }
}
