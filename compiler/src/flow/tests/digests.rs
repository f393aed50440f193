//! What changes the digests of a function, and what does not.

use super::{Declared, bodies, function, module};
use crate::flow::digest::BodyDigest;
use crate::flow::{body_digest, shape_digest, site_offsets};

/// Both digests of the last function of a module.
fn digests(wasm: &[u8]) -> (BodyDigest, BodyDigest) {
    let body = bodies(wasm).pop().unwrap();
    (body_digest(&body, &Declared::of(wasm)).unwrap(), shape_digest(&body).unwrap())
}

/// Whether two functions have the same body, and the same shape.
fn same(one: &str, other: &str) -> (bool, bool) {
    let (one, other) = (digests(&function(one)), digests(&function(other)));
    (one.0 == other.0, one.1 == other.1)
}

/// A function with everything in it that has an index, behind `before` in a module.
fn indices(before: &str) -> Vec<u8> {
    module(&format!(
        "(module (memory 1) (table 1 funcref) {before}
        (type $pair (func (param i32 i64) (result i64))) (type $block (func (param i64) (result i64)))
        (global $g (mut i32) (i32.const 0)) (tag $e) (data $d \"x\") (elem $s func $callee)
        (func $callee (type $pair) (i64.const 1))
        (func (param i32) (local i64)
            (global.set $g (global.get $g))
            (local.set 1 (call $callee (local.get 0) (local.get 1)))
            (local.set 1 (call_indirect (type $pair) (local.get 0) (local.get 1) (i32.const 0)))
            (table.set (i32.const 0) (ref.func $callee))
            (memory.init $d (i32.const 0) (i32.const 0) (i32.const 0))
            (table.init $s (i32.const 0) (i32.const 0) (i32.const 0))
            (data.drop $d) (elem.drop $s)
            local.get 1
            block (type $block) loop (type $block) end end
            local.set 1
            block try_table (catch $e 0) throw $e end end))"
    ))
}

#[test]
fn what_else_is_in_the_module_changes_neither() {
    let plain = indices("");
    let mut before = String::from("(type (func (param i64 i64))) (global i32 (i32.const 0)) (tag (param i32)) (data \"y\") (elem func 0)");
    // So many that indices take another byte.
    for _ in 0..200 {
        before.push_str("(func) (global i32 (i32.const 1))");
    }
    let moved = indices(&before);
    assert_ne!(bodies(&plain).pop().unwrap().as_bytes(), bodies(&moved).pop().unwrap().as_bytes());
    assert_eq!(digests(&plain), digests(&moved));
    let offsets = |wasm: &[u8]| site_offsets(&bodies(wasm).pop().unwrap()).unwrap();
    assert_eq!(offsets(&plain).len(), offsets(&moved).len());
    assert_ne!(offsets(&plain), offsets(&moved));
}

#[test]
fn indices_may_be_padded() {
    // `call 0` with one byte for the index, and with five.
    let short: &[u8] = &[0x00, 0x10, 0x00, 0x0b];
    let long: &[u8] = &[0x00, 0x10, 0x80, 0x80, 0x80, 0x80, 0x00, 0x0b];
    let declared = Declared::of(&function("nop"));
    let body = |bytes| wasmparser::FunctionBody::new(wasmparser::BinaryReader::new(bytes, 7));
    assert_eq!(body_digest(&body(short), &declared).unwrap(), body_digest(&body(long), &declared).unwrap());
    assert_eq!(shape_digest(&body(short)).unwrap(), shape_digest(&body(long)).unwrap());
}

#[test]
fn addresses_change_neither_and_other_constants_change_the_body() {
    let differ = (false, true);
    let equal = (true, true);
    assert_eq!(same("i32.const 1 drop", "i32.const 2 drop"), differ);
    assert_eq!(same("i32.const 1023 drop", "i32.const 1024 drop"), differ);
    assert_eq!(same("i32.const 1024 drop", "i32.const 70000 drop"), equal);
    assert_eq!(same("i32.const -1 drop", "i32.const -2 drop"), differ);
    assert_eq!(same("i64.const 5 drop", "i64.const 6 drop"), differ);
    assert_eq!(same("i64.const 5000 drop", "i64.const 6000 drop"), equal);
    assert_eq!(same("i32.const 1024 drop", "i64.const 1024 drop"), differ);
    assert_eq!(same("f64.const 5000 drop", "f64.const 6000 drop"), differ);
    assert_eq!(same("v128.const i64x2 0 1 drop", "v128.const i64x2 0 2 drop"), differ);
}

#[test]
fn accesses_keep_small_offsets_and_memories_and_lanes() {
    let with_memories = |text: &str| module(&format!("(module (memory 1) (memory 1) (func (param i32)\n{text}))"));
    let same = |one: &str, other: &str| {
        let (one, other) = (digests(&with_memories(one)), digests(&with_memories(other)));
        assert_eq!(one.1, other.1);
        one.0 == other.0
    };
    let load = |rest: &str| format!("local.get 0 i32.load {rest} drop");
    assert!(!same(&load(""), &load("offset=4")));
    assert!(!same(&load("offset=1023"), &load("offset=1024")));
    assert!(same(&load("offset=1024"), &load("offset=4096")));
    assert!(!same(&load(""), &load("1")));
    assert!(!same(&load(""), &load("align=1")));
    assert!(!same("i32.const 0 memory.grow 0 drop", "i32.const 0 memory.grow 1 drop"));
    let lane = |rest: &str| format!("local.get 0 v128.const i64x2 0 0 v128.load8_lane {rest} drop");
    assert!(same(&lane("offset=2000 1"), &lane("offset=3000 1")));
    assert!(!same(&lane("1"), &lane("2")));
    let extract = |lane: u32| format!("v128.const i64x2 0 0 i8x16.extract_lane_u {lane} drop");
    assert!(!same(&extract(1), &extract(2)));
}

#[test]
fn locals_and_instructions_change_the_body_only() {
    assert_eq!(same("nop", "nop nop"), (false, true));
    assert_eq!(same("(local i32) nop", "(local i64) nop"), (false, true));
    assert_eq!(same("(local i32 i32) local.get 1 drop", "(local i32 i32) local.get 2 drop"), (false, true));
    assert_eq!(same("f32.const 1 f32.abs drop", "f32.const 1 f32.neg drop"), (false, true));
    // Instructions with two numbers for an opcode.
    assert_eq!(same("f32.const 1 i32.trunc_sat_f32_s drop", "f32.const 1 i32.trunc_sat_f32_u drop"), (false, true));
    assert_eq!(same("ref.null func drop", "ref.null extern drop"), (false, true));
}

#[test]
fn control_flow_changes_both() {
    let neither = (false, false);
    assert_eq!(same("block end", "loop end"), neither);
    assert_eq!(same("block block br 0 end end", "block block br 1 end end"), neither);
    assert_eq!(same("local.get 0 br_if 0", "local.get 0 br_table 0 0"), neither);
    assert_eq!(same("local.get 0 br_table 0 0", "local.get 0 br_table 0 0 0"), neither);
    assert_eq!(same("call $f", "call $f call $f"), neither);
    assert_eq!(same("call $f", "return_call $f"), neither);
    assert_eq!(same("return", "unreachable"), neither);
    assert_eq!(same("block try_table (catch $e 0) end end", "block try_table (catch_all 0) end end"), neither);
    assert_eq!(same("block try_table (catch $e 0) end end", "block try_table (catch $e 1) end end"), neither);
    // The type of a block is no part of the shape.
    assert_eq!(same("block end", "block (result i32) i32.const 0 end drop"), (false, true));
}

#[test]
fn signatures_are_part_of_the_body() {
    // Where nothing can be reached a call may have any.
    let call = |ty: &str| {
        let text = format!("(module (import \"\" \"f\" (func $f {ty})) (table 1 funcref) (type $t (func {ty})) (func unreachable");
        let call = digests(&module(&format!("{text} call $f unreachable))")));
        let indirect = digests(&module(&format!("{text} call_indirect (type $t) unreachable))")));
        let block = digests(&module(&format!("{text} block (type $t) unreachable end unreachable))")));
        [call, indirect, block]
    };
    for (one, other) in call("(param i32)").into_iter().zip(call("(param i64)")) {
        assert_ne!(one.0, other.0);
        assert_eq!(one.1, other.1);
    }
}
