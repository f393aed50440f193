//! Modules of wasm-smith that the fuzzer chooses, on the native engine and on wasmtime: both must compute the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_differential::{Case, Checker, on_large_stack};
use std::sync::LazyLock;

static CHECKER: LazyLock<Checker> = LazyLock::new(|| Checker::new().expect("the native engine can run here"));

fuzz_target!(|data: &[u8]| {
    let Some(case) = Case::of_bytes(data).expect("the generator makes valid modules") else { return };
    let verdict = on_large_stack(|| CHECKER.check(&case, false)).expect("nothing panics").expect("wasmtime runs every module");
    assert_eq!(verdict.difference, None);
});
