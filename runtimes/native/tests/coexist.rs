//! Signal handlers of others in the same process. Each case runs in a process of its own, since handlers are the process's.

mod common;

use common::{engine, instance, trap_of};
use preheat_native::{Caller, Linker, Store, TrapCode};
use std::ffi::{c_int, c_void};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

const CASE: &str = "PREHEAT_TEST_CASE";

/// Runs the test `name` of this file again as a process in which [`is_case`] is true.
fn in_process(name: &str) -> Output {
    Command::new(std::env::current_exe().unwrap()).args(["--exact", name, "--nocapture"]).env(CASE, name).output().unwrap()
}

fn is_case(name: &str) -> bool {
    std::env::var(CASE).is_ok_and(|case| case == name)
}

/// Runs `case` in a process of its own, which has to end well.
fn isolated(name: &str, case: impl FnOnce()) {
    if is_case(name) {
        case();
    } else {
        let output = in_process(name);
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
}

/// A guest of ours traps in three ways and runs again.
fn ours_traps() {
    let (mut store, instance) = instance(
        &engine(),
        r#"(module (memory 1)
            (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
            (func (export "divide") (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))
            (func $deep (export "deep") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0)))))"#,
    );
    for _ in 0..3 {
        let load = instance.typed_func::<i32, i32>(&store, "load").unwrap();
        assert_eq!(trap_of(load.call(&mut store, -1)), TrapCode::MemoryOutOfBounds);
        assert_eq!(load.call(&mut store, 0).unwrap(), 0);
        let divide = instance.typed_func::<i32, i32>(&store, "divide").unwrap();
        assert_eq!(trap_of(divide.call(&mut store, 0)), TrapCode::DivisionByZero);
        let deep = instance.typed_func::<i32, i32>(&store, "deep").unwrap();
        assert_eq!(trap_of(deep.call(&mut store, 0)), TrapCode::StackOverflow);
    }
}

fn wasmtime_traps(engine: &wasmtime::Engine) {
    let wat = r#"(module (memory 1)
        (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
        (func (export "unreachable") unreachable))"#;
    let module = wasmtime::Module::new(engine, wat::parse_str(wat).unwrap()).unwrap();
    let mut store = wasmtime::Store::new(engine, ());
    let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
    for _ in 0..3 {
        let load = instance.get_typed_func::<i32, i32>(&mut store, "load").unwrap();
        let error = load.call(&mut store, -1).unwrap_err();
        assert_eq!(error.downcast_ref::<wasmtime::Trap>(), Some(&wasmtime::Trap::MemoryOutOfBounds));
        assert_eq!(load.call(&mut store, 0).unwrap(), 0);
        let unreachable = instance.get_typed_func::<(), ()>(&mut store, "unreachable").unwrap();
        let error = unreachable.call(&mut store, ()).unwrap_err();
        assert_eq!(error.downcast_ref::<wasmtime::Trap>(), Some(&wasmtime::Trap::UnreachableCodeReached));
    }
}

#[test]
fn wasmtime_before_us() {
    isolated("wasmtime_before_us", || {
        let wasmtime = wasmtime::Engine::default();
        wasmtime_traps(&wasmtime);
        ours_traps();
        wasmtime_traps(&wasmtime);
        ours_traps();
    });
}

#[test]
fn wasmtime_after_us() {
    isolated("wasmtime_after_us", || {
        ours_traps();
        let wasmtime = wasmtime::Engine::default();
        wasmtime_traps(&wasmtime);
        ours_traps();
        wasmtime_traps(&wasmtime);
    });
}

#[test]
fn wasmtime_in_our_host_function() {
    isolated("wasmtime_in_our_host_function", || {
        let engine = engine();
        let module = common::module(&engine, r#"(module (import "a" "f" (func $f)) (func (export "run") call $f unreachable))"#);
        let mut linker = Linker::<()>::new();
        let wasmtime = wasmtime::Engine::default();
        linker.func_wrap("a", "f", move |_: Caller<'_, ()>| wasmtime_traps(&wasmtime)).unwrap();
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        assert_eq!(trap_of(instance.typed_func::<(), ()>(&store, "run").unwrap().call(&mut store, ())), TrapCode::Unreachable);
    });
}

/// A page that the embedder's handler makes accessible when it is touched.
static PAGE: AtomicUsize = AtomicUsize::new(0);
static SEEN: AtomicUsize = AtomicUsize::new(0);

fn new_page() {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_NONE, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    PAGE.store(page.expose_provenance(), Ordering::SeqCst);
}

/// Reads from the page, which is not accessible at first.
fn touch_page() -> u8 {
    let page: *const u8 = std::ptr::with_exposed_provenance(PAGE.load(Ordering::SeqCst));
    // SAFETY: the handler makes it accessible.
    unsafe { page.read_volatile() }
}

/// Makes the page accessible. Whether the fault was there.
fn open_page(info: *mut libc::siginfo_t) -> bool {
    let page = PAGE.load(Ordering::SeqCst);
    // SAFETY: a handler's argument.
    let info = unsafe { &*info };
    // SAFETY: the signal has an address.
    let address = unsafe { info.si_addr() }.addr();
    let ours = (page..page + 4096).contains(&address);
    if ours {
        SEEN.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the page is mapped, and only this program's.
        unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(page), 4096, libc::PROT_READ) };
    }
    ours
}

static NEXT: std::sync::Mutex<Option<libc::sigaction>> = std::sync::Mutex::new(None);

extern "C" fn opens_page(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    if !open_page(info) {
        std::process::abort();
    }
}

extern "C" fn opens_page_or_passes_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    if open_page(info) {
        return;
    }
    let next = NEXT.try_lock().ok().and_then(|next| *next).unwrap();
    // SAFETY: the action has SA_SIGINFO, as was checked.
    let next: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = unsafe { std::mem::transmute(next.sa_sigaction) };
    next(signal, info, context);
}

fn install(handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)) -> libc::sigaction {
    // SAFETY: zero bytes are a `sigaction`.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    new.sa_sigaction = handler as *const () as usize;
    // SAFETY: the handler has the right signature.
    assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &raw const new, &raw mut old) }, 0);
    old
}

fn touch_in_host_function() {
    let engine = engine();
    let module = common::module(
        &engine,
        r#"(module (import "a" "touch" (func $touch (result i32))) (func (export "run") (result i32) call $touch))"#,
    );
    let mut linker = Linker::<()>::new();
    linker.func_wrap("a", "touch", |_: Caller<'_, ()>| i32::from(touch_page())).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    assert_eq!(instance.typed_func::<(), i32>(&store, "run").unwrap().call(&mut store, ()).unwrap(), 0);
}

#[test]
fn an_embedders_handler_before_us_gets_its_faults() {
    isolated("an_embedders_handler_before_us_gets_its_faults", || {
        install(opens_page);
        ours_traps();
        new_page();
        touch_page();
        new_page();
        touch_in_host_function();
        ours_traps();
        assert_eq!(SEEN.load(Ordering::SeqCst), 2);
    });
}

#[test]
fn an_embedders_handler_after_us_passes_on() {
    isolated("an_embedders_handler_after_us_passes_on", || {
        ours_traps();
        let old = install(opens_page_or_passes_on);
        assert_ne!(old.sa_flags & libc::SA_SIGINFO, 0);
        *NEXT.lock().unwrap() = Some(old);
        ours_traps();
        new_page();
        touch_in_host_function();
        ours_traps();
        assert_eq!(SEEN.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn a_fault_of_the_host_ends_the_process() {
    let name = "a_fault_of_the_host_ends_the_process";
    if is_case(name) {
        ours_traps();
        new_page();
        touch_in_host_function();
        unreachable!("the page is not accessible");
    }
    assert_eq!(in_process(name).status.signal(), Some(libc::SIGSEGV));
}

#[test]
fn a_signal_that_somebody_sends_ends_the_process() {
    let name = "a_signal_that_somebody_sends_ends_the_process";
    if is_case(name) {
        ours_traps();
        // Rust's own handler, to which the signal is passed on, takes itself away the first time and expects the fault to come again.
        for _ in 0..2 {
            // SAFETY: no memory is involved.
            unsafe { libc::kill(std::process::id().cast_signed(), libc::SIGSEGV) };
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        std::thread::sleep(std::time::Duration::from_secs(5));
        unreachable!("the signal ends the process");
    }
    assert_eq!(in_process(name).status.signal(), Some(libc::SIGSEGV));
}

#[expect(unconditional_recursion, reason = "that is the point")]
fn recurse(n: u64) -> u64 {
    std::hint::black_box(n) + recurse(std::hint::black_box(n + 1))
}

#[test]
fn rust_still_reports_its_own_stack_overflow() {
    let name = "rust_still_reports_its_own_stack_overflow";
    if is_case(name) {
        ours_traps();
        recurse(0);
    }
    let output = in_process(name);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has overflowed its stack"));
}

extern "C" fn foreign_thread(_: *mut c_void) -> *mut c_void {
    // SAFETY: only asks.
    let mut stack: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: only asks.
    unsafe { libc::sigaltstack(std::ptr::null(), &raw mut stack) };
    assert_ne!(stack.ss_flags & libc::SS_DISABLE, 0, "a thread of C has no alternate stack");
    ours_traps();
    std::ptr::null_mut()
}

#[test]
fn a_thread_that_rust_did_not_start_can_trap() {
    isolated("a_thread_that_rust_did_not_start_can_trap", || {
        for _ in 0..20 {
            let mut thread = 0;
            // SAFETY: the function has the right signature and needs no argument.
            assert_eq!(unsafe { libc::pthread_create(&raw mut thread, std::ptr::null(), foreign_thread, std::ptr::null_mut()) }, 0);
            // SAFETY: the thread was made above.
            assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
        }
    });
}
