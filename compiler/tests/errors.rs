//! What is not compiled says why, and nothing that is read makes the compiler panic.

use preheat_compiler::{CompileError, CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use proptest::prelude::*;

fn compile(wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
    Compiler::new(CompileOptions { verify: true, ..CompileOptions::new(CpuLevel::V2) }).unwrap().compile(wasm, Digest::ZERO)
}

#[test]
fn unsupported_features_are_named() {
    for (text, expected) in [
        ("(module (memory 1 1 shared))", "threads"),
        ("(module (memory i64 1))", "64-bit memories"),
        ("(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))", "threads"),
        ("(module (type $t (struct)) (func (param (ref $t))))", "garbage collection"),
        ("(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))", "typed function references"),
        (
            "(module (func (param i64 i64 i64 i64) (result i64 i64) (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))",
            "wide arithmetic",
        ),
        ("(component)", "components"),
    ] {
        match compile(&wat::parse_str(text).unwrap()) {
            Err(CompileError::Unsupported { feature }) => assert_eq!(feature, expected, "{text}"),
            other => panic!("{text}: {:?}", other.map(|code| code.len())),
        }
    }
}

#[test]
fn invalid_modules_say_where() {
    let invalid = |wasm: &[u8]| match compile(wasm) {
        Err(CompileError::Invalid { offset, .. }) => offset,
        other => panic!("{:?}", other.map(|code| code.len())),
    };
    assert_eq!(invalid(b"\0asm\x01\0\0\0\x0a\xff"), 10);
    let wasm = wat::parse_str("(module (func) (func (result i32) (i64.const 1)) (func (drop)))").unwrap();
    // Of two errors the first: at the `end` of the second function.
    let end = wasm.windows(3).position(|bytes| bytes == [0x42, 0x01, 0x0b]).unwrap() + 2;
    for _ in 0..20 {
        assert_eq!(invalid(&wasm), end);
    }
    assert!(matches!(compile(b""), Err(CompileError::Invalid { .. })));
}

#[test]
fn no_locals_of_a_type_that_is_not_supported_are_none() {
    let mut wasm = wat::parse_str("(module (func (local i32) (drop (i32.const 1))))").unwrap();
    let at = wasm.windows(3).position(|bytes| bytes == [1, 1, 0x7f]).unwrap();
    // Validation does not look at the type: zero locals of the type of no exception.
    wasm[at + 1..at + 3].copy_from_slice(&[0, 0x74]);
    for capture in [false, true] {
        let options = CompileOptions { verify: true, capture, ..CompileOptions::new(CpuLevel::V2) };
        Compiler::new(options).unwrap().compile(&wasm, Digest::ZERO).unwrap();
    }
}

/// A module with something of everything.
const SAMPLE: &str = r#"(module
    (type $t (func (param i32) (result i32)))
    (import "m" "f" (func $imported (type $t)))
    (table $t 4 8 funcref) (memory 1 2) (global $g (mut i64) (i64.const 7))
    (elem (i32.const 1) $f $imported) (data (i32.const 8) "data") (data $d "passive")
    (func $f (export "f") (type $t) (local v128 f64)
        (loop $again (result i32)
            (local.set 1 (i8x16.splat (local.get 0)))
            (br_if $again (i32.eqz (i8x16.extract_lane_s 3 (local.get 1))))
            (if (result i32) (local.get 0) (then (call_indirect $t (type $t) (i32.load offset=4 (local.get 0)) (i32.const 1))) (else (unreachable)))))
    (func (param i32 i64) (result i64)
        (block (block (block (br_table 0 1 2 (local.get 0))) (memory.init $d (i32.const 0) (i32.const 1) (i32.const 2))) (data.drop $d))
        (global.set $g (i64.add (global.get $g) (local.get 1)))
        (i64.trunc_sat_f64_s (f64.sqrt (f64.convert_i64_u (local.get 1)))))
    (start 3) (func $start (drop (table.grow $t (ref.func $f) (memory.grow (i32.const 1))))))"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_modules_are_compiled_or_refused(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut wasm = wat::parse_str(SAMPLE).unwrap();
        for (at, value) in changes {
            let at = 8 + at.index(wasm.len() - 8);
            wasm[at] = value;
        }
        if let Err(CompileError::Codegen { what, message }) = compile(&wasm) {
            panic!("{what}: {message}");
        }
    }
}

#[test]
fn truncated_modules_are_refused() {
    let wasm = wat::parse_str(SAMPLE).unwrap();
    compile(&wasm).unwrap();
    let mut refused = 0;
    for len in 0..wasm.len() {
        match compile(&wasm[..len]) {
            Err(CompileError::Invalid { .. }) => refused += 1,
            // Between sections, what is there may be a module.
            Ok(_) => {}
            Err(other) => panic!("{len}: {other}"),
        }
    }
    assert!(refused > wasm.len() * 9 / 10);
}
