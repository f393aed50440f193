//! What the tests of the engine have in common.

#![allow(dead_code, reason = "each test uses some of it")]

pub(crate) mod freeze;
pub(crate) mod profile;
pub(crate) mod victim;

use preheat_compiler::{CompileError, CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_loader::TrustedCode;
use preheat_native::{Config, Engine, Error, Instance, Linker, Module, Store, TrapCode};

/// Compiles Wasm bytes.
pub(crate) fn compile(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    let options = CompileOptions { verify: true, ..CompileOptions::new(CpuLevel::of_host().unwrap()) };
    Compiler::new(options)?.compile(wasm, Digest::of(b"test"))
}

/// Loads a code object that the compiler made.
pub(crate) fn load(engine: &Engine, code: &[u8]) -> Result<Module, Error> {
    // SAFETY: the tests give what `compile` made.
    Module::load(engine, unsafe { TrustedCode::vouch(code, "native") }?)
}

/// Loads a module in the text format.
pub(crate) fn module(engine: &Engine, wat: &str) -> Module {
    let wasm = wat::parse_str(wat).unwrap();
    load(engine, &compile(&wasm).unwrap()).unwrap()
}

/// An engine with the usual settings.
pub(crate) fn engine() -> Engine {
    Engine::new(Config::default()).unwrap()
}

/// An instance without imports in a store of its own.
pub(crate) fn instance(engine: &Engine, wat: &str) -> (Store<()>, Instance) {
    let mut store = Store::new(engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &module(engine, wat)).unwrap();
    (store, instance)
}

/// The code of the trap with which something ended.
pub(crate) fn trap_of<T: std::fmt::Debug>(result: Result<T, Error>) -> TrapCode {
    match result.unwrap_err() {
        Error::Trap(trap) => trap.code,
        other => panic!("not a trap: {other}"),
    }
}
