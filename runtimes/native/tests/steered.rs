//! Hard cases for code that a profile steers: what came in place of a call traps, throws, recurses, runs for ever, or changes what its caller
//! looks at.

mod common;

use common::profile::{all_passes, call, calls, compile_steered, count, count_with, result, steered, summary, texts};
use common::{compile, engine, load, trap_of};
use preheat_compiler::Passes;
use preheat_image::profile::{FunctionProfile, SiteCounts};
use preheat_native::{Caller, Error, Instance, Linker, Store, TrapCode, Val};
use std::time::{Duration, Instant};

const INLINE: Passes = Passes { inline: true, ..Passes::NONE };

/// Calls exports with arguments, each some hundred times.
fn learn(exports: &'static [(&'static str, i32)]) -> impl Fn(&mut Store<()>, Instance) + Copy {
    move |store, instance| {
        for (name, argument) in exports {
            (0..200).for_each(|_| _ = call(store, instance, name, &[*argument]).unwrap());
        }
    }
}

/// The same functions, all of which are as hot as can be, whatever was counted.
fn all_hot(functions: Vec<FunctionProfile>) -> Vec<FunctionProfile> {
    let hot = 1 << 40;
    let counts = |counts: SiteCounts| match counts {
        SiteCounts::Reached(_) => SiteCounts::Reached(hot),
        SiteCounts::Branch { .. } => SiteCounts::Branch { reached: hot, taken: hot / 2 },
        SiteCounts::Table { arms } => SiteCounts::Table { arms: vec![hot; arms.len()] },
        SiteCounts::Indirect { targets, .. } => {
            SiteCounts::Indirect { reached: hot, targets: targets.first().map(|(target, _)| (*target, hot)).into_iter().collect() }
        }
        SiteCounts::Samples(_) => SiteCounts::Samples(hot),
    };
    let hot_function = |mut function: FunctionProfile| {
        function.entries = hot;
        function.sites.iter_mut().for_each(|site| site.counts = counts(site.counts.clone()));
        function
    };
    functions.into_iter().map(hot_function).collect()
}

/// Everything that traps, two calls deep, and a function that is called there and was never called before.
const TRAPS: &str = r#"(module
    (import "host" "fail" (func $fail))
    (memory 1) (type $t (func (param i32) (result i32))) (type $other (func)) (tag $e)
    (table 3 funcref) (elem (i32.const 0) $trap)
    (func $seldom (param i32) (result i32) (i32.div_u (local.get 0) (i32.const 0)))
    (func $trap (param i32) (result i32)
        (block $10 (block $9 (block $8 (block $7 (block $6 (block $5 (block $4 (block $3 (block $2 (block $1 (block $0
            (br_table $0 $1 $2 $3 $4 $5 $6 $7 $8 $9 $10 (local.get 0)))
            (return (i32.const 1)))
            unreachable)
            (return (i32.div_s (i32.const 7) (i32.load (i32.const 8)))))
            (return (i32.load (i32.sub (i32.load (i32.const 8)) (i32.const 1)))))
            (return (i32.trunc_f64_s (f64.div (f64.const 0) (f64.convert_i32_s (i32.load (i32.const 8)))))))
            (return (call_indirect (type $t) (i32.const 0) (i32.const 1))))
            (return (call_indirect (type $t) (i32.const 0) (i32.const 9))))
            (call_indirect (type $other) (i32.const 0)))
            (throw $e))
            (return (call $seldom (local.get 0))))
        (call $fail) (i32.const 0))
    (func $middle (param i32) (result i32) (i32.add (call $trap (local.get 0)) (i32.const 1)))
    (func (export "run") (param i32) (result i32) (i32.add (i32.const 10) (call $middle (local.get 0)))))"#;

#[derive(Debug, thiserror::Error)]
#[error("the host says no")]
struct No;

#[test]
fn traps_have_the_same_code_however_deep_they_came_in() {
    let engine = engine();
    let imports = |_: &mut Store<()>| {
        let mut linker = Linker::new();
        linker.func_wrap("host", "fail", |_: Caller<'_, ()>| -> Result<(), Error> { Err(Error::host(No)) }).unwrap();
        linker
    };
    let wasm = wat::parse_str(TRAPS).unwrap();
    let profile = summary(TRAPS, count_with(TRAPS, (), imports, learn(&[("run", 0)])));
    for passes in all_passes() {
        let code = compile_steered(&wasm, &profile, passes);
        let texts = texts(&code);
        assert_eq!((calls(&texts, 3, 2), calls(&texts, 2, 1)), (!passes.inline, !passes.inline), "{passes:?}");
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = imports(&mut store).instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
        assert_eq!(result(&mut store, instance, "run", 0), 12);
        let traps = [
            TrapCode::Unreachable,
            TrapCode::DivisionByZero,
            TrapCode::MemoryOutOfBounds,
            TrapCode::BadConversion,
            TrapCode::NullEntry,
            TrapCode::TableOutOfBounds,
            TrapCode::BadSignature,
            TrapCode::UncaughtException,
            TrapCode::DivisionByZero,
        ];
        for (argument, code) in (1..).zip(traps) {
            let error = call(&mut store, instance, "run", &[argument]).unwrap_err();
            let trap = error.trap().unwrap_or_else(|| panic!("{passes:?} {argument}: {error}"));
            assert_eq!(trap.code, code, "{passes:?} {argument}");
            let frames: Vec<u32> = trap.frames.iter().map(|frame| frame.function).collect();
            // 1 is `$seldom`, which is called where `$trap`, 2, came in.
            let own: &[u32] = if passes.inline { &[4] } else { &[2, 3, 4] };
            let seldom: &[u32] = if argument == 9 { &[1] } else { &[] };
            assert_eq!(frames, [seldom, own].concat(), "{passes:?} {argument}");
            // The frame that is left says where the call was for which all came in.
            let place = trap.frames.last().unwrap().offset.unwrap() as usize;
            assert_eq!(wasm[place..place + 2], [0x10, 3], "{passes:?} {argument}");
        }
        let error = call(&mut store, instance, "run", &[10]).unwrap_err();
        assert!(error.downcast_host::<No>().is_some(), "{passes:?}: {error}");
        assert_eq!(error.to_string().matches("wasm function").count(), if passes.inline { 1 } else { 3 }, "{passes:?}: {error}");
        assert_eq!(result(&mut store, instance, "run", 0), 12, "the store can still be used");
    }
}

#[test]
fn endless_recursion_and_endless_tail_calls_have_a_deadline() {
    let text = r#"(module
        (type $t (func (param i32) (result i32))) (table funcref (elem $ring))
        (func $fib (export "fib") (param i32) (result i32)
            (if (i32.lt_u (local.get 0) (i32.const 2)) (then (return (local.get 0))))
            (i32.add (call $left (local.get 0)) (call $right (local.get 0))))
        (func $left (param i32) (result i32) (call $fib (i32.sub (local.get 0) (i32.const 1))))
        (func $right (param i32) (result i32) (call $fib (i32.sub (local.get 0) (i32.const 2))))
        (func $ping (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 1)))) (return_call $pong (i32.sub (local.get 0) (i32.const 1))))
        (func $pong (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 2)))) (return_call $ping (i32.sub (local.get 0) (i32.const 1))))
        (func $ring (param i32) (result i32)
            (if (i32.eqz (local.get 0)) (then (return (i32.const 3))))
            (return_call_indirect (type $t) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)))
        (func $count (param i32) (result i32)
            (loop $next (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 4))
        (func (export "ping") (param i32) (result i32) (call $ping (local.get 0)))
        (func (export "ring") (param i32) (result i32) (call $ring (local.get 0)))
        (func (export "count") (param i32) (result i32) (call $count (local.get 0))))"#;
    let engine = engine();
    let learn = learn(&[("fib", 12), ("ping", 9), ("ring", 9), ("count", 9)]);
    let wasm = wat::parse_str(text).unwrap();
    for profile in [summary(text, count(text, learn)), summary(text, all_hot(count(text, learn)))] {
        for passes in [INLINE, Passes::ALL] {
            let code = compile_steered(&wasm, &profile, passes);
            let texts = texts(&code);
            assert!(!calls(&texts, 7, 3) && !calls(&texts, 9, 6), "they came in");
            let mut store = Store::new(&engine, ()).unwrap();
            let instance = Linker::new().instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
            for (name, argument) in [("fib", 90), ("ping", -1), ("ring", -1), ("count", 0)] {
                store.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
                assert_eq!(trap_of(call(&mut store, instance, name, &[argument])), TrapCode::Interrupt, "{name}");
                store.set_deadline(None);
                assert_eq!(result(&mut store, instance, "fib", 20), 6765);
            }
            // Tail calls need no stack, also where the first one came in.
            assert_eq!(result(&mut store, instance, "ping", 1_000_001), 2);
            assert_eq!(result(&mut store, instance, "ring", 1_000_000), 3);
        }
    }
}

#[test]
fn whatever_calls_itself_in_a_ring_stays_a_ring() {
    // Each calls the next and itself; whatever comes into what, something is left to call.
    let function = |number: i32| {
        format!(
            r#"(func $f{number} (export "f{number}") (param i32) (result i32)
                (if (i32.le_s (local.get 0) (i32.const 0)) (then (return (i32.const {number}))))
                (i32.add (call $f{} (i32.sub (local.get 0) (i32.const 1)))
                    (i32.add (call $f{number} (i32.sub (local.get 0) (i32.const 3)))
                        (call_indirect (type $t) (i32.sub (local.get 0) (i32.const 4)) (i32.const {})))))"#,
            (number + 1) % 5,
            (number + 2) % 5
        )
    };
    let functions: String = (0..5).map(function).collect();
    let text = format!(r#"(module (type $t (func (param i32) (result i32))) (table funcref (elem $f0 $f1 $f2 $f3 $f4)) {functions})"#);
    let engine = engine();
    let learn = learn(&[("f0", 9), ("f3", 7)]);
    let (mut plain, unsteered) = common::instance(&engine, &text);
    let profile = summary(&text, all_hot(count(&text, learn)));
    for passes in all_passes() {
        let code = compile_steered(&wat::parse_str(&text).unwrap(), &profile, passes);
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = Linker::new().instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
        for (name, argument) in [("f0", 17), ("f1", 12), ("f2", 3), ("f4", 15)] {
            assert_eq!(result(&mut store, instance, name, argument), result(&mut plain, unsteered, name, argument), "{passes:?}");
        }
        assert_eq!(trap_of(call(&mut store, instance, "f2", &[i32::MAX])), TrapCode::StackOverflow, "{passes:?}");
        assert_eq!(result(&mut store, instance, "f2", 3), result(&mut plain, unsteered, "f2", 3));
    }
}

#[test]
fn what_comes_in_can_grow_and_change_everything_that_its_caller_sees() {
    let text = r#"(module
        (memory 1 60) (table $t 1 60 funcref) (global $g (mut i32) (i32.const 0)) (elem declare func $seven)
        (type $n (func (result i32)))
        (func $seven (result i32) (i32.const 7))
        (func $grow (param i32)
            (drop (memory.grow (i32.const 1)))
            (drop (table.grow $t (ref.func $seven) (i32.const 1)))
            (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (local.get 0)))
            (global.set $g (i32.add (global.get $g) (i32.const 2))))
        (func (export "run") (param i32) (result i32) (local $i i32) (local $sum i32)
            (global.set $g (i32.const 0)) (i32.store (i32.const 0) (i32.const 0))
            (loop $next
                (local.set $sum (i32.add (local.get $sum) (i32.add (global.get $g) (i32.load (i32.const 0)))))
                (call $grow (local.get $i))
                ;; The last bytes, and the last entry.
                (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (local.get $i))
                (local.set $sum (i32.add (local.get $sum)
                    (i32.add (i32.load (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)))
                        (call_indirect $t (type $n) (i32.sub (table.size $t) (i32.const 1))))))
                (local.set $sum (i32.add (local.get $sum) (i32.add (global.get $g) (i32.load (i32.const 0)))))
                (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get 0))))
            (i32.add (local.get $sum) (i32.add (memory.size) (table.size $t)))))"#;
    let engine = engine();
    for passes in all_passes() {
        let (mut store, instance) = steered(&engine, text, passes, |store, instance| _ = result(store, instance, "run", 50));
        let steps = 20;
        let before_and_behind: i32 = (0..steps).map(|i| 2 * i + i * (i - 1) / 2 + 2 * (i + 1) + i * (i + 1) / 2 + i + 7).sum();
        assert_eq!(result(&mut store, instance, "run", steps), before_and_behind + 2 * (1 + steps), "{passes:?}");
    }
}

#[test]
fn exceptions_find_their_handlers_through_what_came_in() {
    let text = r#"(module
        (tag $a (param i32)) (tag $b (param i32 i64)) (tag $c)
        (func $throw (param i32)
            (if (i32.eq (local.get 0) (i32.const 1)) (then (throw $a (i32.const 100))))
            (if (i32.eq (local.get 0) (i32.const 2)) (then (throw $b (i32.const 200) (i64.const 5))))
            (if (i32.eq (local.get 0) (i32.const 3)) (then (throw $c))))
        (func $through (param i32) (call $throw (local.get 0)))
        (func $again (param i32)
            (block $all (result exnref)
                (try_table (catch_all_ref $all) (call $through (local.get 0))) (return))
            throw_ref)
        (func $hot (param i32) (result i32) (call $through (local.get 0)) (call $again (local.get 0)) (i32.const 1))
        (func (export "run") (param i32) (result i32)
            (block $b (result i32 i64)
                (block $a (result i32)
                    (try_table (result i32) (catch $a $a) (catch $b $b) (call $hot (local.get 0))) (return))
                (i32.add (i32.const 1)) (return))
            (i32.wrap_i64) (i32.add) (i32.add (i32.const 2)))
        (func (export "twice") (param i32) (result i32)
            (block $a (result i32)
                (try_table (result i32) (catch $a $a) (call $again (local.get 0)) (call $again (i32.const 1)) (i32.const 0)) (return))
            (i32.add (i32.const 9))))"#;
    let engine = engine();
    for passes in all_passes() {
        let (mut store, instance) = steered(&engine, text, passes, learn(&[("run", 0), ("run", 0), ("run", 1), ("twice", 1)]));
        assert_eq!([0, 1, 2, 9].map(|argument| result(&mut store, instance, "run", argument)), [1, 101, 207, 1], "{passes:?}");
        assert_eq!([0, 1].map(|argument| result(&mut store, instance, "twice", argument)), [109, 109], "{passes:?}");
        for name in ["run", "twice"] {
            assert_eq!(trap_of(call(&mut store, instance, name, &[3])), TrapCode::UncaughtException, "{passes:?}");
        }
        assert_eq!(result(&mut store, instance, "run", 0), 1);
    }
}

#[test]
fn tail_calls_through_tables_and_many_results_come_in() {
    let text = r#"(module
        (type $t (func (param i32 i64) (result i32 i64 f32 v128)))
        (table funcref (elem $one $two))
        (func $one (param i32 i64) (result i32 i64 f32 v128)
            (local.get 1) (i32.wrap_i64) (i64.extend_i32_u (local.get 0)) (f32.const 0.5) (v128.const i32x4 1 2 3 4))
        (func $two (param i32 i64) (result i32 i64 f32 v128)
            (i32.const 2) (local.get 1) (f32.convert_i32_s (local.get 0)) (i32x4.splat (local.get 0)))
        (func $pass (param i32 i64) (result i32 i64 f32 v128)
            (return_call_indirect (type $t) (local.get 0) (local.get 1) (i32.and (local.get 0) (i32.const 3))))
        (func $sum (param i32 i64 f32 v128) (result i32)
            (i32.add (i32.add (local.get 0) (i32.wrap_i64 (local.get 1)))
                (i32.add (i32.trunc_f32_s (f32.mul (local.get 2) (f32.const 4))) (i32x4.extract_lane 3 (local.get 3)))))
        (func (export "run") (param i32) (result i32)
            (call $sum (call $pass (local.get 0) (i64.const 1000)))))"#;
    let engine = engine();
    for passes in all_passes() {
        let (mut store, instance) = steered(&engine, text, passes, learn(&[("run", 4), ("run", 4), ("run", 5)]));
        // 4 and 8 go to `$one`, 5 and 9 to `$two`, 2 and 3 to nothing.
        let results = [4, 8, 5, 9].map(|argument| result(&mut store, instance, "run", argument));
        assert_eq!(results, [1000 + 4 + 2 + 4, 1000 + 8 + 2 + 4, 2 + 1000 + 20 + 5, 2 + 1000 + 36 + 9], "{passes:?}");
        assert_eq!(trap_of(call(&mut store, instance, "run", &[2])), TrapCode::TableOutOfBounds, "{passes:?}");
    }
}

#[test]
fn what_is_large_stays_where_it_is() {
    let large = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 12345)) (i32.const 54321)))".repeat(200);
    let text = format!(
        r#"(module
            (func $large (param i32) (result i32) {large} (local.get 0))
            (func $small (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
            (func $never (param i32) (result i32) (i32.add (local.get 0) (i32.const 2)))
            (func (export "run") (param i32) (result i32)
                (if (i32.eqz (local.get 0)) (then (return (call $never (i32.const 5)))))
                (i32.add (call $large (local.get 0)) (call $small (local.get 0)))))"#
    );
    let wasm = wat::parse_str(&text).unwrap();
    let profile = summary(&text, count(&text, learn(&[("run", 1)])));
    let texts = texts(&compile_steered(&wasm, &profile, Passes::ALL));
    assert_eq!([0, 1, 2].map(|callee| calls(&texts, 3, callee)), [true, false, true]);
}

#[test]
fn functions_stand_by_heat_and_first_call() {
    let text = r#"(module
        (func $unknown) (func $rare (nop)) (func $late (param i32)) (func $early (param i32))
        (func (export "run") (param i32) (result i32)
            (call $rare)
            (loop $next (call $early (local.get 0)) (call $late (local.get 0))
                (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
            (i32.const 0)))"#;
    let profile = summary(text, count(text, |store, instance| _ = result(store, instance, "run", 1_000_000)));
    let texts = texts(&compile_steered(&wat::parse_str(text).unwrap(), &profile, Passes::NONE.with("layout", true).unwrap()));
    let mut order: Vec<usize> = (0..5).collect();
    order.sort_by_key(|function| texts[*function].0);
    assert_eq!(order, [4, 3, 2, 1, 0], "hot ones by their first calls, then what ran once, then what never did");
}

#[test]
fn an_arm_that_dominates_is_tried_first_and_the_default_never() {
    let module = |ty: &str, value: &str| {
        format!(
            r#"(module (func (export "run") (param i32) (result i32) (local $r i32)
                (block $c {ty} (block $b {ty} (block $a {ty} {value} (br_table $a $b $c $b $c (local.get 0)))
                    (return (i32.const 1))) (return (i32.const 2))) (return (i32.const 3))))"#
        )
    };
    let engine = engine();
    let tables = Passes::NONE.with("tables", true).unwrap();
    for text in [module("", ""), module("(result i32)", "(i32.const 8)")] {
        let wasm = wat::parse_str(&text).unwrap();
        for (hot, tried) in [(0, true), (1, true), (2, true), (3, true), (9, false)] {
            let profile = summary(
                &text,
                count(&text, |store, instance| {
                    (0..50).for_each(|_| _ = result(store, instance, "run", hot));
                    result(store, instance, "run", 1);
                }),
            );
            let code = compile_steered(&wasm, &profile, tables);
            assert_eq!(code != compile(&wasm).unwrap(), tried, "{hot}");
            for code in [code, compile_steered(&wasm, &profile, Passes::ALL)] {
                let mut store = Store::new(&engine, ()).unwrap();
                let instance = Linker::new().instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
                let results = [0, 1, 2, 3, 4, 5, -1].map(|argument| result(&mut store, instance, "run", argument));
                assert_eq!(results, [1, 2, 3, 2, 3, 3, 3], "{hot}");
            }
        }
    }
}

#[test]
fn an_expected_callee_is_called_directly_or_comes_in() {
    let text = r#"(module
        (type $t (func (param i32) (result i32))) (table funcref (elem $one $two))
        (func $one (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
        (func $two (param i32) (result i32) (i32.mul (local.get 0) (i32.const 5)))
        (func (export "run") (param i32) (result i32) (call_indirect (type $t) (i32.const 7) (local.get 0))))"#;
    let engine = engine();
    let wasm = wat::parse_str(text).unwrap();
    let profile = summary(text, count(text, learn(&[("run", 0)])));
    let only_calls = Passes::NONE.with("calls", true).unwrap();
    for (passes, direct) in [(only_calls, true), (only_calls.with("inline", true).unwrap(), false), (INLINE, false)] {
        let code = compile_steered(&wasm, &profile, passes);
        assert_eq!(calls(&texts(&code), 2, 0), direct, "{passes:?}");
        assert_eq!(code != compile(&wasm).unwrap(), passes.calls, "{passes:?}");
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = Linker::new().instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
        assert_eq!([0, 1].map(|entry| result(&mut store, instance, "run", entry)), [21, 35], "{passes:?}");
    }
}

#[test]
fn steered_code_calls_the_host_as_often_and_with_the_same() {
    let text = r#"(module
        (import "host" "log" (func $log (param i32)))
        (func $say (param i32) (call $log (i32.mul (local.get 0) (i32.const 3))))
        (func $both (param i32) (call $say (local.get 0)) (call $say (i32.add (local.get 0) (i32.const 1))))
        (func (export "run") (param i32) (result i32)
            (loop $next (call $both (local.get 0)) (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 0)))"#;
    let imports = |_: &mut Store<Vec<i32>>| {
        let mut linker = Linker::new();
        linker.func_wrap("host", "log", |mut caller: Caller<'_, Vec<i32>>, value: i32| caller.data_mut().push(value)).unwrap();
        linker
    };
    let run = |store: &mut Store<Vec<i32>>, instance: Instance| {
        instance.func(&*store, "run").unwrap().call(store, &[Val::I32(30)]).unwrap();
    };
    let engine = engine();
    let profile = summary(text, count_with(text, Vec::new(), imports, run));
    for passes in all_passes() {
        let code = compile_steered(&wat::parse_str(text).unwrap(), &profile, passes);
        assert_eq!(calls(&texts(&code), 2, 1), !passes.inline);
        let mut store = Store::new(&engine, Vec::new()).unwrap();
        let instance = imports(&mut store).instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
        run(&mut store, instance);
        let expected: Vec<i32> = (1..=30).rev().flat_map(|value| [3 * value, 3 * value + 3]).collect();
        assert_eq!(store.data(), &expected, "{passes:?}");
    }
}
