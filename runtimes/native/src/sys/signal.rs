//! Faults.
//!
//! A guest's trap is a fault of an instruction of its text that the trap table lists, or a fault in the guard of its stack. The handler
//! notes it and sends the thread back to where the call of the guest began. All other faults are passed on to the handler
//! that was there before.
//!
//! The handler takes no lock and allocates nothing. It looks at the store only if the faulting instruction is the guest's: then nothing of
//! this crate is half done.

use super::enter::{Activation, current, follow, leave};
use crate::registry::TEXTS;
use libc::{c_int, c_void, siginfo_t, ucontext_t};
use preheat_image::abi::{PAGE, TrapCode};
use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

const SIGNALS: [c_int; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE];

/// What handled the signals before, in the order of [`SIGNALS`].
static PREVIOUS: [AtomicPtr<libc::sigaction>; 4] = [const { AtomicPtr::new(ptr::null_mut()) }; 4];

/// Installs the handlers, once in a process.
///
/// # Errors
/// What the operating system says.
pub(crate) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| {
        for (signal, previous) in SIGNALS.iter().zip(&PREVIOUS) {
            let old = Box::into_raw(Box::new(MaybeUninit::<libc::sigaction>::zeroed())).cast::<libc::sigaction>();
            // SAFETY: all bytes of the structure are zero or will be; null is a valid old action to ask for.
            if unsafe { libc::sigaction(*signal, ptr::null(), old) } != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
            // Before the handler is there, so that it always finds it. It stays for ever.
            previous.store(old, Ordering::Release);
            // SAFETY: zero bytes are a `sigaction`: no flags, no handler, an empty mask.
            let mut new: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            new.sa_sigaction = handler as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
            // SAFETY: the handler has the signature that SA_SIGINFO asks for and may run at any moment.
            if unsafe { libc::sigaction(*signal, &raw const new, ptr::null_mut()) } != 0 {
                return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
            }
        }
        Ok(())
    })
    .map_err(io::Error::from_raw_os_error)
}

extern "C" fn handler(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO this pointer, to a structure on the stack of this handler.
    let details = unsafe { &*info };
    // SAFETY: and this one.
    let registers = unsafe { &mut (*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    // SAFETY: they are those of this handler's thread.
    let was_trap = unsafe { trap(signal, details, registers) };
    if !was_trap {
        // SAFETY: the arguments are those of this handler.
        unsafe { pass_on(signal, info, context) };
    }
}

/// If this is a trap of the guest, notes it and lets the thread go on where the guest was called.
///
/// # Safety
/// Called by a handler of this thread with what it got.
unsafe fn trap(signal: c_int, info: &siginfo_t, registers: &mut [libc::greg_t; 23]) -> bool {
    let register = |number: c_int| usize::try_from(number).unwrap_or(0);
    let pc = registers[register(libc::REG_RIP)].cast_unsigned();
    // Not by a program, and not the kind of fault that says no address.
    if info.si_code <= 0 || info.si_code == SI_KERNEL {
        return false;
    }
    let Some(text) = TEXTS.find(pc) else { return false };
    let activation = current();
    // SAFETY: null, or a call of this thread that is going on.
    let Some(this) = (unsafe { activation.as_ref() }) else { return false };
    // SAFETY: the signal is for its fault, and then the field is the address.
    let address = unsafe { info.si_addr() }.addr() as u64;
    // SAFETY: code of it was running when the fault happened, so it is loaded.
    let native = unsafe { &*text.code }.native();
    let listed = u32::try_from(pc - text.text.start).ok().and_then(|offset| native.trap(offset));
    // SAFETY: the guest was running, not the runtime, so nobody is in the middle of using the store.
    let store = unsafe { &mut *this.store };
    let Some(stack) = &store.stack else { return false };
    let (guard, stack) = (stack.guard(), stack.range());
    let memory = signal == libc::SIGSEGV || signal == libc::SIGBUS;
    let code = match listed {
        _ if memory && guard.contains(&address) => TrapCode::StackOverflow,
        Some(TrapCode::Interrupt) if memory => {
            if !store.is_interrupt_page(address & !(PAGE - 1)) {
                return false;
            }
            TrapCode::Interrupt
        }
        // An access that may not be was led to address 0, or null was followed.
        Some(code) if memory && address < PAGE => code,
        Some(TrapCode::MemoryOutOfBounds) if memory => {
            // A page whose file lost it, or that can't be had, is no access out of bounds.
            match store.is_in_memory(address) {
                true if signal == libc::SIGBUS => TrapCode::OutOfResources,
                true => TrapCode::MemoryOutOfBounds,
                false => return false,
            }
        }
        Some(code) if !memory => code,
        _ => return false,
    };
    store.raw.begin(code, Some(pc));
    let frame = registers[register(libc::REG_RBP)].cast_unsigned();
    // SAFETY: the activation of this thread and the stack of its store.
    unsafe { follow(activation, &stack, frame, &mut store.raw) };
    resume(registers, this);
    true
}

const SI_KERNEL: c_int = 0x80;

/// Lets the thread go on in [`leave`].
fn resume(registers: &mut [libc::greg_t; 23], activation: &Activation) {
    let mut set = |number: c_int, value: u64| {
        if let Some(register) = usize::try_from(number).ok().and_then(|number| registers.get_mut(number)) {
            *register = value.cast_signed();
        }
    };
    set(libc::REG_RIP, leave as unsafe extern "sysv64" fn(u64) -> ! as usize as u64);
    set(libc::REG_RDI, activation.host_sp);
    set(libc::REG_RSP, activation.host_sp);
}

/// Does what would have been done without this crate.
///
/// # Safety
/// Called by a handler with its arguments.
unsafe fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(place) = SIGNALS.iter().position(|known| *known == signal) else { return };
    let previous = PREVIOUS[place].load(Ordering::Acquire);
    // SAFETY: set before the handler was installed, and never freed.
    let Some(action) = (unsafe { previous.as_ref() }) else { return };
    // SAFETY: the pointer is that of this handler.
    let sent = unsafe { (*info).si_code } <= 0;
    match action.sa_sigaction {
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // The fault happens again when the handler returns, and then ends the process as if nobody had handled it.
            // SAFETY: zero bytes are the default action.
            let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
            // SAFETY: the default action is always valid.
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
            if sent {
                // SAFETY: no memory is involved.
                unsafe { libc::raise(signal) };
            }
        }
        address if action.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed it said that it has this signature.
            let next: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { std::mem::transmute(address) };
            next(signal, info, context);
        }
        address => {
            // SAFETY: whoever installed it said that it has this signature.
            let next: extern "C" fn(c_int) = unsafe { std::mem::transmute(address) };
            next(signal);
        }
    }
}

/// The alternate stack of a thread that had none, or a small one.
struct AlternateStack {
    memory: *mut c_void,
}

/// Enough for the kernel's frame with AVX-512, this handler, and those to which it passes on.
const ALTERNATE: usize = 64 << 10;
/// With less the thread gets an own one.
const SUFFICIENT: usize = 32 << 10;
const GUARD: usize = 4096;

thread_local! {
    static CHECKED: Cell<bool> = const { Cell::new(false) };
    static ALTERNATE_STACK: Cell<Option<AlternateStack>> = const { Cell::new(None) };
}

/// Sees to it that this thread has a stack on which handlers can run: the guest's may be used up.
///
/// # Errors
/// What the operating system says.
pub(crate) fn prepare_thread() -> io::Result<()> {
    if CHECKED.get() { Ok(()) } else { check_thread() }
}

#[cold]
fn check_thread() -> io::Result<()> {
    // SAFETY: zero bytes are a `stack_t`.
    let mut old: libc::stack_t = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: only asks.
    if unsafe { libc::sigaltstack(ptr::null(), &raw mut old) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if old.ss_flags & libc::SS_DISABLE != 0 || old.ss_size < SUFFICIENT {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let memory = unsafe { libc::mmap(ptr::null_mut(), GUARD + ALTERNATE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let stack = AlternateStack { memory };
        // SAFETY: the first page of the new mapping.
        let guarded = unsafe { libc::mprotect(memory, GUARD, libc::PROT_NONE) };
        let new = libc::stack_t { ss_sp: memory.wrapping_byte_add(GUARD), ss_flags: 0, ss_size: ALTERNATE };
        // SAFETY: the stack is mapped until this thread ends, see `drop`.
        if guarded != 0 || unsafe { libc::sigaltstack(&raw const new, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // A thread that is ending has nowhere to keep it.
        ALTERNATE_STACK.try_with(|place| place.set(Some(stack))).map_err(io::Error::other)?;
    }
    CHECKED.set(true);
    Ok(())
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: zero bytes are a `stack_t`.
        let mut old: libc::stack_t = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: only asks.
        unsafe { libc::sigaltstack(ptr::null(), &raw mut old) };
        if old.ss_sp == self.memory.wrapping_byte_add(GUARD) {
            let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: ALTERNATE };
            // SAFETY: without it signals are handled on the thread's own stack.
            if unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) } != 0 {
                // It is in use, by a handler that ends the thread: it stays.
                return;
            }
        }
        // SAFETY: the mapping is this value's and no longer the thread's alternate stack.
        unsafe { libc::munmap(self.memory, GUARD + ALTERNATE) };
        CHECKED.set(false);
    }
}
