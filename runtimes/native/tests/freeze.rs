//! Programs that are frozen inside a call of the host, at each call that they make, and wake: they come to the end to which they come
//! without.

mod common;

use common::freeze::{Frozen, Host, Program, Stopped, wakes_everywhere};
use common::{compile, load};
use preheat_image::abi::NONE;
use preheat_image::heap::HeapSnapshot;
use preheat_native::{Error, HeapFile, Instance, Linker, Module, ResumeCode, SnapshotParts, Store, TrapCode, Val};
use std::time::{Duration, Instant};

#[test]
fn nested_loops_go_on_in_the_middle() {
    let images = wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (memory 1)
            (func (export "main") (result i64)
                (local $i i32) (local $j i32) (local $sum i64) (local $k f64)
                (local.set $k (f64.const 0.25))
                (loop $outer
                    (local.set $j (i32.const 0))
                    (loop $inner
                        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31))
                            (i64.extend_i32_s (call $pause (i32.add (local.get $j) (i32.mul (local.get $i) (i32.const 10)))))))
                        (local.set $k (f64.add (local.get $k) (f64.const 1.5)))
                        (i32.store (i32.shl (local.get $j) (i32.const 2)) (i32.wrap_i64 (local.get $sum)))
                        (br_if $inner (i32.lt_s (local.tee $j (i32.add (local.get $j) (i32.const 1))) (i32.const 3))))
                    (br_if $outer (i32.lt_s (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
                (i64.xor (local.get $sum) (i64.reinterpret_f64 (local.get $k)))))"#,
        9,
    );
    // The stack is two frames: `main`, and the import with its parameter.
    let snapshot = HeapSnapshot::parse(images[4].bytes()).unwrap();
    let frames: Vec<_> = snapshot.frames().map(|(frame, values)| (frame.function.get(), frame.site.get() == NONE, values.len())).collect();
    assert_eq!(frames, [(1, false, 4), (0, true, 1)]);
    assert_eq!(snapshot.frames().nth(1).unwrap().1[0].bytes[..4], 11i32.to_le_bytes());
}

#[test]
fn operands_below_the_call_are_kept() {
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (func $deep (param i32) (result i32)
                (i32.add (i32.mul (local.get 0) (i32.const 7)) (call $pause (i32.sub (local.get 0) (call $pause (i32.const 9))))))
            (func (export "main") (result i32 i64 f64)
                (i32.add (call $pause (i32.const 1)) (i32.mul (call $deep (i32.const 5)) (call $deep (call $pause (i32.const 2)))))
                (i64.add (i64.const 0x1234567890) (i64.extend_i32_u (call $pause (i32.const 3))))
                (block (param i64) (result i64) (i64.mul (i64.extend_i32_u (call $pause (i32.const 4)))))
                (f64.mul (f64.const 2.5) (f64.convert_i32_s (call $pause (i32.const 5))))))"#,
        9,
    );
}

#[test]
fn indirect_calls_are_sites_and_imports_can_be_called_through_tables() {
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (type $unary (func (param i32) (result i32)))
            (table 4 funcref) (elem (i32.const 0) func $one $two $pause)
            (func $one (param i32) (result i32) (i32.add (i32.const 1) (call $pause (local.get 0))))
            (func $two (param i32) (result i32) (i32.mul (local.get 0) (call_indirect (type $unary) (local.get 0) (i32.const 2))))
            (func (export "main") (result i32) (local $i i32) (local $sum i32)
                (loop
                    (local.set $sum (i32.add (local.get $sum)
                        (call_indirect (type $unary) (i32.const 40) (i32.rem_u (local.get $i) (i32.const 3)))))
                    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 7))))
                (local.get $sum)))"#,
        7,
    );
}

#[test]
fn values_of_all_types_survive() {
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (memory 1) (table $t 2 funcref)
            (func $seven (result i32) (i32.const 7)) (elem declare func $seven $pause)
            (type $none (func (result i32)))
            (func (export "main") (result v128 f32 f64 i64 i32)
                (local $v v128) (local $f f32) (local $d f64) (local $l i64) (local $r funcref) (local $x externref) (local $import funcref)
                (local.set $v (v128.const i32x4 1 2 3 4))
                (local.set $f (f32.const nan:0x1234))
                (local.set $d (f64.const -0))
                (local.set $l (i64.const 0x123456789abcdef0))
                (local.set $r (ref.func $seven))
                (local.set $import (ref.func $pause))
                (v128.const i64x2 77 -5)
                (local.set $v (i32x4.add (local.get $v) (i32x4.splat (call $pause (i32.const 1)))))
                (drop (call $pause (i32.const 2)))
                (drop (i32x4.add (local.get $v)))
                (table.set $t (i32.const 0) (local.get $r))
                (table.set $t (i32.const 1) (local.get $import))
                (local.set $l (i64.add (local.get $l) (i64.extend_i32_u (call_indirect $t (type $none) (i32.const 0)))))
                (drop (call $pause (ref.is_null (local.get $x))))
                (local.get $v) (local.get $f) (local.get $d) (local.get $l)
                (call_indirect $t (param i32) (result i32) (i32.const 1000) (i32.const 1))))"#,
        4,
    );
}

#[test]
fn two_memories_globals_and_tables_are_as_they_were() {
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (memory $a 1) (memory $b 1 5) (global $g (mut i64) (i64.const 5)) (global $f (mut funcref) (ref.null func))
            (table $t 2 9 funcref) (elem declare func $main)
            (func $main (export "main") (result i32) (local $i i32)
                (loop
                    (i32.store $a (i32.mul (local.get $i) (i32.const 5000)) (call $pause (local.get $i)))
                    (i64.store $b offset=60000 (i32.const 8) (global.get $g))
                    (global.set $g (i64.mul (global.get $g) (i64.const 3)))
                    (global.set $f (ref.func $main))
                    (drop (table.grow $t (global.get $f) (i32.const 1)))
                    (drop (memory.grow $b (i32.const 1)))
                    (i32.store8 $b (i32.sub (i32.mul (memory.size $b) (i32.const 65536)) (i32.const 1)) (i32.const 7))
                    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 6))))
                (i32.add (i32.add (table.size $t) (memory.size $b)) (i32.load $a (i32.const 20000)))))"#,
        6,
    );
}

#[test]
fn functions_that_were_entered_by_tail_calls_wake() {
    let images = wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (type $two (func (param i32 i32) (result i32)))
            (table 1 funcref) (elem (i32.const 0) func $count)
            (func $count (param $left i32) (param $sum i32) (result i32)
                (if (i32.eqz (local.get $left)) (then (return (local.get $sum))))
                (return_call_indirect (type $two) (i32.sub (local.get $left) (i32.const 1))
                    (i32.add (local.get $sum) (call $pause (local.get $left))) (i32.const 0)))
            (func $last (param i32) (result i32) (return_call $pause (local.get 0)))
            (func (export "main") (result i32)
                (i32.add (call $count (i32.const 5) (i32.const 0)) (call $last (i32.const 99)))))"#,
        6,
    );
    // The import was entered by a tail call: the function that made it has no frame.
    let frames =
        |image: &Frozen| HeapSnapshot::parse(image.bytes()).unwrap().frames().map(|(frame, _)| frame.function.get()).collect::<Vec<_>>();
    assert_eq!((frames(&images[0]), frames(&images[5])), (vec![3, 1, 0], vec![3, 0]));
}

#[test]
fn exceptions_are_caught_by_frames_that_woke() {
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (tag $t (param i32)) (tag $other) (global $g (mut i32) (i32.const 0))
            (func $thrower (param i32) (result i32)
                (local $answer i32)
                (local.set $answer (call $pause (local.get 0)))
                (if (i32.and (local.get $answer) (i32.const 1)) (then (throw $t (local.get $answer))))
                (if (i32.and (local.get $answer) (i32.const 2)) (then (throw $other)))
                (local.get $answer))
            (func $middle (param i32) (result i32) (local $kept i64)
                (local.set $kept (i64.const 55))
                (block $all
                    (try_table (catch_all $all) (return (i32.add (i32.wrap_i64 (local.get $kept)) (call $inner (local.get 0))))))
                (global.set $g (i32.add (global.get $g) (i32.const 100)))
                (i32.add (i32.wrap_i64 (local.get $kept)) (call $pause (i32.const 1000))))
            (func $inner (param i32) (result i32)
                (block $caught (result i32)
                    (try_table (result i32) (catch $t $caught)
                        (i32.mul (i32.const 3) (call $thrower (local.get 0))))
                    (global.set $g (i32.add (global.get $g) (i32.const 1)))
                    (return))
                (i32.add (i32.const 5000)))
            (func (export "main") (result i32 i32) (local $i i32) (local $sum i32)
                (loop
                    (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 3)) (call $middle (local.get $i))))
                    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 9))))
                (local.get $sum) (global.get $g)))"#,
        9,
    );
}

#[test]
fn an_exception_that_nothing_catches_ends_what_woke() {
    let images = wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32))) (tag $t)
            (func $f (drop (call $pause (i32.const 1))) (throw $t))
            (func (export "main") (call $f)))"#,
        1,
    );
    assert_eq!(images.len(), 1);
}

#[test]
fn thousands_of_frames_wake() {
    let program = Program::new(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (func $sum (param $n i32) (param $seen i64) (result i64)
                (if (result i64) (i32.eqz (local.get $n))
                    (then (i64.extend_i32_s (call $pause (i32.const 77))))
                    (else (i64.add (i64.mul (local.get $seen) (i64.extend_i32_u (local.get $n)))
                        (call $sum (i32.sub (local.get $n) (i32.const 1)) (i64.add (local.get $seen) (i64.const 3)))))))
            (func (export "main") (result i64) (call $sum (i32.const 3000) (i64.const 1))))"#,
    );
    let expected = program.run();
    let frozen = program.freeze(0, &[]);
    assert_eq!(HeapSnapshot::parse(frozen.bytes()).unwrap().frames().len(), 3003);
    assert_eq!(program.wake(&frozen), expected);
    assert!(program.resume_object_size(&frozen) < 100_000, "one function for all frames");
}

#[test]
fn what_woke_is_frozen_again_and_again() {
    let program = Program::new(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32))) (memory 1) (tag $t (param i32))
            (func $inner (param $n i32) (result i32) (local $i i32) (local $sum i32) (local $v v128)
                (loop
                    (local.set $sum (i32.add (local.get $sum) (i32.mul (local.get $n) (call $pause (local.get $i)))))
                    (local.set $v (i32x4.add (local.get $v) (i32x4.splat (local.get $sum))))
                    (br_if 0 (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 3))))
                (i32.store (i32.mul (local.get $n) (i32.const 4096)) (local.get $sum))
                (i32.add (local.get $sum) (i32x4.extract_lane 3 (local.get $v))))
            (func (export "main") (result i32) (local $n i32) (local $all i32)
                (loop
                    (block $caught (result i32)
                        (try_table (catch $t $caught)
                            (local.set $all (i32.add (local.get $all) (call $inner (local.get $n))))
                            (if (i32.eq (local.get $n) (i32.const 1)) (then (throw $t (local.get $all)))))
                        (i32.const 0))
                    (local.set $all (i32.sub (local.get $all)))
                    (br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
                (local.get $all)))"#,
    );
    let expected = program.run();
    for first in 0..expected.trace.len() {
        let mut image = program.freeze(first, &[]);
        for at in first + 1..expected.trace.len() {
            image = program.freeze_again(&image, at);
            assert_eq!(program.wake(&image), expected, "frozen at {first} and at each call up to {at}");
        }
    }
}

#[test]
fn dropped_segments_stay_dropped() {
    let images = wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32))) (memory 1)
            (data $kept "kept") (data $gone "gone")
            (func (export "main") (result i32)
                (memory.init $gone (i32.const 0) (i32.const 0) (i32.const 4))
                (data.drop $gone)
                (drop (call $pause (i32.const 1)))
                (memory.init $kept (i32.const 4) (i32.const 0) (i32.const 4))
                (drop (call $pause (i32.load (i32.const 4))))
                (memory.init $gone (i32.const 0) (i32.const 0) (i32.const 1))
                (i32.const 0)))"#,
        2,
    );
    assert_eq!(images.len(), 2);
}

const TRAPPER: &str = r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
    (func $divide (param i32) (result i32) (i32.div_s (i32.const 10) (i32.sub (call $pause (local.get 0)) (call $pause (local.get 0)))))
    (func $through (param i32) (result i32) (i32.add (i32.const 1) (call $divide (local.get 0))))
    (func $spin (drop (call $pause (i32.const 1))) (loop (br 0)))
    (func (export "main") (result i32) (call $through (i32.const 5)))
    (func (export "endless") (call $spin)))"#;

#[test]
fn traps_of_what_woke_name_the_functions_and_places_of_the_module() {
    let mut program = Program::new(TRAPPER);
    program.same_answers = true;
    let frames = |error: &Error| error.trap().map(|trap| (trap.code, trap.frames.clone())).unwrap();
    let expected = frames(&program.end_of_run().unwrap_err());
    assert_eq!((expected.0, expected.1.len()), (TrapCode::DivisionByZero, 3));
    for at in 0..2 {
        let frozen = program.freeze(at, &[]);
        let (mut store, instance) = program.awake(&frozen);
        let error = instance.resume(&mut store).unwrap_err();
        assert_eq!(frames(&error), expected);
    }
}

#[test]
fn what_woke_has_a_deadline() {
    let mut program = Program::new(TRAPPER);
    program.export = "endless";
    let frozen = program.freeze(0, &[]);
    let (mut store, instance) = program.awake(&frozen);
    store.set_deadline(Some(Instant::now() + Duration::from_millis(30)));
    match instance.resume(&mut store) {
        Err(Error::Trap(trap)) => {
            assert_eq!(trap.code, TrapCode::Interrupt);
            assert_eq!(trap.frames.iter().map(|frame| frame.name.as_deref()).collect::<Vec<_>>(), [Some("spin"), Some("endless")]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_of_the_host_after_waking_ends_the_call_and_the_slots_are_used_again() {
    let program = Program::new(TRAPPER);
    let frozen = program.freeze(0, &[]);
    for _ in 0..3 {
        let (mut store, instance) = program.awake(&frozen);
        store.data_mut().freeze_at = Some(1);
        let error = instance.resume(&mut store).unwrap_err();
        // The base has no capture code, so the host function that wants to capture can't.
        assert!(error.to_string().contains("the code was not compiled for it"), "{error}");
    }
    assert_eq!(program.wake(&frozen).trace, program.run().trace);
}

#[test]
fn an_instance_goes_on_once() {
    let program = Program::new(TRAPPER);
    let frozen = program.freeze(0, &[]);
    let (mut store, instance) = program.awake(&frozen);
    let _ = instance.resume(&mut store);
    assert!(instance.resume(&mut store).unwrap_err().to_string().contains("resumed before"));
    let (mut store, instance) = program.begun();
    assert!(instance.resume(&mut store).unwrap_err().to_string().contains("no frozen call stack"));
}

#[test]
fn a_resume_object_belongs_to_its_code_object_and_stack() {
    let program = Program::new(TRAPPER);
    let (first, second) = (program.freeze(0, &[]), program.freeze(1, &[]));
    let load = |image: &Frozen, resume: Option<&ResumeCode>| {
        preheat_native::Frozen::load(&program.module, &image.layers, resume).map(drop).map_err(|error| error.to_string())
    };
    let resume = program.resume_of(&first);
    assert_eq!(load(&first, Some(&resume)), Ok(()));
    assert!(load(&first, None).unwrap_err().contains("no resume object"));
    assert!(load(&second, Some(&resume)).unwrap_err().contains("the resume object has nothing for function 1 at"));
    // One for the code that was frozen is not one for the code that wakes, nor is any code object.
    let other = Program::new(&TRAPPER.replace("i32.const 10", "i32.const 11"));
    assert!(preheat_native::Frozen::load(&other.module, &first.layers, Some(&resume)).is_err());
    let error = ResumeCode::load(&other.module, program.trusted_resume(&first)).unwrap_err().to_string();
    assert!(error.contains("a resume object for the code object"), "{error}");
    let error = ResumeCode::load(&program.module, program.trusted_base()).unwrap_err().to_string();
    assert!(error.contains("no resume object"), "{error}");
}

#[test]
fn what_images_have_in_common_is_loaded_once_for_those_who_share() {
    let program = Program::new(TRAPPER);
    let image = program.freeze(0, &[]);
    let shared = || Module::shared(&program.engine, program.trusted_base()).unwrap();
    let (first, second) = (shared(), shared());
    let resume = ResumeCode::shared(&first, program.trusted_resume(&image)).unwrap();
    // A resume object goes with its very module, not with the same code loaded again.
    let load = |module: &Module| preheat_native::Frozen::load(module, &image.layers, Some(&resume)).map(drop);
    load(&second).unwrap();
    assert!(load(&program.module).is_err());
    // One that was loaded for the other is not taken for this one.
    let own = ResumeCode::shared(&program.module, program.trusted_resume(&image)).unwrap();
    assert!(preheat_native::Frozen::load(&program.module, &image.layers, Some(&own)).is_ok());
    // When nobody has it any more it is loaded again.
    drop((first, second, resume));
    let third = shared();
    let resume = ResumeCode::shared(&third, program.trusted_resume(&image)).unwrap();
    assert!(preheat_native::Frozen::load(&third, &image.layers, Some(&resume)).is_ok());
}

/// Runs a module whose host function `pause` tries to capture its stack, and says why not.
fn refusal(wat: &str, run: fn(&mut Store<Host>, Instance) -> Result<Vec<Val>, Error>) -> String {
    let program = Program::new(wat);
    let mut store = Store::new(&program.engine, Host { freeze_at: Some(0), ..Host::default() }).unwrap();
    let instance = program.capture_pre.instantiate(&mut store).unwrap();
    match run(&mut store, instance) {
        Err(error) if error.downcast_host::<Stopped>().is_none() => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn stacks_that_can_not_be_captured_are_refused() {
    let main = |store: &mut Store<Host>, instance: Instance| instance.func(&*store, "main")?.call(store, &[]);
    let exception = r#"(module (import "host" "pause" (func $pause (param i32) (result i32))) (tag $t)
        (func (export "main") (local $e exnref)
            (block $c (result exnref) (try_table (catch_all_ref $c) (throw $t)) (unreachable))
            (local.set $e)
            (drop (call $pause (i32.const 1)))
            (throw_ref (local.get $e))))"#;
    assert!(refusal(exception, main).contains("a local or operand of function 1 is an exception"));
    let reference = r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
        (func (export "main") (param externref) (result externref) (drop (call $pause (i32.const 1))) (local.get 0)))"#;
    let with_reference = |store: &mut Store<Host>, instance: Instance| {
        let reference = preheat_native::ExternRef::new(&mut *store, 1);
        instance.func(&*store, "main")?.call(store, &[Val::ExternRef(Some(reference))])
    };
    assert!(refusal(reference, with_reference).contains("a reference to something of the host"));
    let plain = r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
        (func (export "main") (drop (call $pause (i32.const 1)))))"#;
    let two = |store: &mut Store<Host>, instance: Instance| {
        let other = load(store.engine(), &compile(b"\0asm\x01\0\0\0").unwrap()).unwrap();
        Linker::new().instantiate(store, &other)?;
        instance.func(&*store, "main")?.call(store, &[])
    };
    assert!(refusal(plain, two).contains("there are 2 instances in the store"));
    // A live null exception or reference is fine.
    wakes_everywhere(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32)))
            (func (export "main") (result i32) (local $e exnref) (local $x externref)
                (drop (call $pause (i32.const 1)))
                (i32.add (ref.is_null (local.get $e)) (ref.is_null (local.get $x)))))"#,
        1,
    );
}

#[test]
fn a_layer_has_only_what_changed_since() {
    let program = Program::new(
        r#"(module (import "host" "pause" (func $pause (param i32) (result i32))) (memory 40)
            (func (export "main") (result i32) (local $at i32)
                (loop
                    (i32.store (local.get $at) (i32.const 1))
                    (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const 2621440))))
                (drop (call $pause (i32.const 1)))
                (i32.store (i32.const 81920) (i32.const 5))
                (call $pause (i32.const 2))))"#,
    );
    let base = program.freeze(0, &[]);
    assert!(base.bytes().len() > 640 * 4096);
    let layered = program.freeze_again(&base, 1);
    assert!(layered.bytes().len() <= 2 * 4096);
    assert_eq!(program.wake(&layered), program.run());
    // Begun afresh and compared with the base it is the same layer.
    let afresh = program.freeze(1, &base.layers);
    assert_eq!(afresh.bytes(), layered.bytes());
    // What is stacked on the image can be told from the parts.
    let snapshot = HeapSnapshot::parse(layered.bytes()).unwrap();
    assert_eq!((snapshot.base(), snapshot.runs().len()), (Some(base.layers[0].digest()), 1));
}

#[test]
fn what_the_host_notes_comes_back() {
    let program = Program::new(TRAPPER);
    let (store, instance) = program.begun();
    let parts = SnapshotParts { host: b"{\"note\":1}", ..SnapshotParts::default() };
    let file = HeapFile::of_bytes(&instance.capture(&store).unwrap().to_snapshot(&parts).unwrap()).unwrap();
    let frozen = preheat_native::Frozen::load(&program.capture_module, &[file], None).unwrap();
    assert_eq!((frozen.host(), frozen.has_stack()), (&b"{\"note\":1}"[..], false));
}
