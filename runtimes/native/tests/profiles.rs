//! Modules that count what they do, and code that a profile steers.

mod common;

use common::profile::{all_passes, call, calls, compile_steered, count, result, sites, steered, summary, texts};
use common::{compile, engine, load, trap_of};
use preheat_compiler::{COUNTERS, Instrumented, Passes};
use preheat_image::Digest;
use preheat_image::profile::{FunctionProfile, SiteCounts};
use preheat_native::{Caller, Error, Extern, Func, FuncType, Instance, Linker, Module, Store, Table, TableType, TrapCode, Val, ValueType};
use std::time::{Duration, Instant};

const LOOPS: &str = r#"(module
    (func $inner (param i32) (result i32) (local i32)
        loop
            local.get 1 i32.const 1 i32.add local.tee 1
            local.get 0 i32.lt_u br_if 0
        end
        local.get 1)
    (func (export "run") (param i32) (result i32) (local i32)
        block
            loop
                local.get 0 i32.eqz br_if 1
                local.get 0 i32.const 1 i32.and
                if
                    local.get 1 local.get 0 call $inner i32.add local.set 1
                else
                    local.get 1 i32.const 100 i32.add local.set 1
                end
                local.get 0 i32.const 1 i32.sub local.set 0
                br 0
            end
        end
        local.get 1)
    (func (export "never") unreachable))"#;

#[test]
fn loops_branches_and_calls_are_counted_exactly() {
    let functions = count(LOOPS, |store, instance| {
        assert_eq!(result(store, instance, "run", 5), 1 + 3 + 5 + 200);
        assert_eq!(result(store, instance, "run", 2), 101);
    });
    assert_eq!(
        functions.iter().map(|function| (function.index, function.entries, function.first)).collect::<Vec<_>>(),
        [(0, 4, Some(1)), (1, 2, Some(0)),]
    );
    // The inner loop runs 1 + 3 + 5 times for 5, once for 2.
    assert_eq!(sites(&functions, 0), [SiteCounts::Reached(10), SiteCounts::Branch { reached: 10, taken: 6 }]);
    assert_eq!(
        sites(&functions, 1),
        [
            SiteCounts::Reached(9),
            SiteCounts::Branch { reached: 9, taken: 2 },
            SiteCounts::Branch { reached: 7, taken: 4 },
            SiteCounts::Reached(4),
        ]
    );
}

const TABLES: &str = r#"(module
    (type $f (func (result i32)))
    (table funcref (elem $a $b $c))
    (func $a (result i32) i32.const 1)
    (func $b (result i32) i32.const 2)
    (func $c (result i32) i32.const 3)
    (func (export "arm") (param i32) (result i32)
        block block block
            local.get 0 br_table 0 1 2
        end i32.const 10 return
        end i32.const 20 return
        end i32.const 30)
    (func (export "call") (param i32) (result i32) local.get 0 call_indirect (type $f)))"#;

#[test]
fn arms_and_targets_are_counted() {
    let functions = count(TABLES, |store, instance| {
        for (index, expected) in [(0, 10), (1, 20), (1, 20), (2, 30), (77, 30), (-1, 30)] {
            assert_eq!(result(store, instance, "arm", index), expected);
        }
        for index in [1, 1, 2, 1] {
            assert_eq!(result(store, instance, "call", index), index + 1);
        }
    });
    assert_eq!(sites(&functions, 3), [SiteCounts::Table { arms: vec![1, 2, 3] }]);
    assert_eq!(sites(&functions, 4), [SiteCounts::Indirect { reached: 4, targets: vec![(1, 3), (2, 1)] }]);
    assert!(functions.iter().all(|function| function.index != 0), "it was never called");
}

#[test]
fn a_dominant_target_is_found_behind_many_others() {
    let functions = (0..40).map(|number| format!("(func $f{number} (result i32) i32.const {number})")).collect::<String>();
    let names = (0..40).map(|number| format!("$f{number} ")).collect::<String>();
    let text = format!(
        r#"(module (type $f (func (result i32))) (table funcref (elem {names})) {functions}
            (func (export "call") (param i32) (result i32) local.get 0 call_indirect (type $f)))"#
    );
    let functions = count(&text, |store, instance| {
        for index in (0..40).chain(std::iter::repeat_n(33, 2000)).chain(0..40) {
            assert_eq!(result(store, instance, "call", index), index);
        }
    });
    let SiteCounts::Indirect { reached: 2080, targets } = &sites(&functions, 40)[0] else { panic!("{functions:?}") };
    assert!(targets[0].0 == 33 && targets[0].1 > 1900, "{targets:?}");
}

#[test]
fn a_trap_costs_the_counts_of_those_that_it_ended() {
    let text = r#"(module
        (func $f (param i32) (result i32)
            local.get 0 if (result i32) i32.const 7 else i32.const 1 i32.const 0 i32.div_u end)
        (func (export "run") (param i32) (result i32) local.get 0 call $f))"#;
    let functions = count(text, |store, instance| {
        assert_eq!(result(store, instance, "run", 1), 7);
        assert_eq!(trap_of(call(store, instance, "run", &[0])), TrapCode::DivisionByZero);
        assert_eq!(result(store, instance, "run", 2), 7);
    });
    assert_eq!(functions.iter().map(|function| function.entries).collect::<Vec<_>>(), [3, 3]);
    let SiteCounts::Branch { reached, taken } = sites(&functions, 0)[0] else { panic!("{functions:?}") };
    assert!(reached == 3 && (2..=3).contains(&taken), "{reached} {taken}");
}

#[test]
fn modules_of_all_sections_and_of_none_can_count() {
    let text = r#"(module
        (import "a" "f" (func $f (param i32))) (import "a" "m" (memory 1)) (import "a" "g" (global i32))
        (table 2 funcref) (memory 1) (tag (param i32)) (global (mut i32) (i32.const 3))
        (export "g" (global 1)) (start $s) (elem (i32.const 0) $s)
        (func $s i32.const 4 call $f)
        (data (i32.const 0) "x") (data "passive"))"#;
    for text in [text, "(module)", r#"(module (memory 1) (data (i32.const 0) "x"))"#, r#"(module (func (export "f")))"#] {
        let wasm = wat::parse_str(text).unwrap();
        let counting = Instrumented::new(&wasm).unwrap();
        assert_eq!(counting.source(), Digest::of(&wasm));
        let module = load(&engine(), &compile(counting.wasm()).unwrap()).unwrap();
        assert!(module.exports().unwrap().iter().any(|export| export.name == COUNTERS), "{text}");
    }
    let taken = wat::parse_str(format!(r#"(module (memory (export "{COUNTERS}") 1))"#)).unwrap();
    assert!(Instrumented::new(&taken).err().unwrap().to_string().contains(COUNTERS));
    assert!(Instrumented::new(b"\0asm\x01\0\0\0\x0a\xff").is_err());
}

#[test]
fn counters_of_another_module_are_refused_and_those_before_do_not_count() {
    let wasm = wat::parse_str(LOOPS).unwrap();
    let counting = Instrumented::new(&wasm).unwrap();
    assert!(counting.read(&[0; 8], None).is_err());
    let engine = engine();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &load(&engine, &compile(counting.wasm()).unwrap()).unwrap()).unwrap();
    let counters = |store: &Store<()>| instance.memory(store, COUNTERS).unwrap().bytes(store).to_vec();
    result(&mut store, instance, "run", 9);
    let before = counters(&store);
    assert!(counting.read(&before, Some(&before)).unwrap().is_empty());
    result(&mut store, instance, "run", 1);
    let functions = counting.read(&counters(&store), Some(&before)).unwrap();
    assert_eq!(functions.iter().map(|function| function.entries).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn passes_do_what_they_say_and_change_no_result() {
    let engine = engine();
    let wasm = wat::parse_str(LOOPS).unwrap();
    let profile = summary(
        LOOPS,
        count(LOOPS, |store, instance| {
            result(store, instance, "run", 50);
        }),
    );
    let plain = texts(&compile(&wasm).unwrap());
    assert!(plain[0].0 < plain[1].0 && plain[1].0 < plain[2].0 && calls(&plain, 1, 0));
    for passes in all_passes() {
        let code = compile_steered(&wasm, &profile, passes);
        let steered = texts(&code);
        // `run` was called first, `never` never.
        let moved = steered[1].0 < steered[0].0 && steered[0].0 < steered[2].0;
        assert_eq!(moved, passes.layout, "{passes:?}");
        assert_eq!(calls(&steered, 1, 0), !passes.inline, "{passes:?}");
        assert!(passes != Passes::NONE || code == compile(&wasm).unwrap(), "nothing is used of it");
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = Linker::new().instantiate(&mut store, &load(&engine, &code).unwrap()).unwrap();
        for argument in [0, 1, 2, 3, 50, 99] {
            let expected: i32 = (1..=argument).map(|step| if step % 2 == 1 { step } else { 100 }).sum();
            assert_eq!(result(&mut store, instance, "run", argument), expected, "{passes:?}");
        }
        assert_eq!(trap_of(call(&mut store, instance, "never", &[])), TrapCode::Unreachable);
    }
    assert_eq!(
        compile_steered(&wasm, &profile, Passes::ALL),
        compile_steered(&wasm, &profile, Passes::ALL),
        "the same inputs, the same code"
    );
}

#[test]
fn what_never_ran_stands_behind_what_did() {
    let text = r#"(module (memory 1)
        (func (export "run") (param i32) (result i32)
            local.get 0 i32.const 1000 i32.gt_u
            if
                (i32.store (i32.const 8) (i32.mul (local.get 0) (i32.const 77777)))
                (i32.store (i32.const 16) (i32.mul (local.get 0) (i32.const 99999)))
            end
            local.get 0 i32.const 12345 i32.xor))"#;
    let wasm = wat::parse_str(text).unwrap();
    let profile = summary(
        text,
        count(text, |store, instance| {
            (0..50).for_each(|argument| {
                result(store, instance, "run", argument);
            })
        }),
    );
    let place = |code: &[u8], number: u32| {
        let (_, text) = texts(code).remove(0);
        text.windows(4).position(|bytes| bytes == number.to_le_bytes()).unwrap()
    };
    let plain = compile(&wasm).unwrap();
    assert!(place(&plain, 77_777) < place(&plain, 12_345));
    let steered = compile_steered(&wasm, &profile, Passes::NONE.with("blocks", true).unwrap());
    assert!(place(&steered, 77_777) > place(&steered, 12_345), "it is at the end of the function");
}

#[test]
fn recursion_through_what_came_in_ends_and_can_be_interrupted() {
    let text = r#"(module
        (func $even (param i32) (result i32) local.get 0 if (result i32) local.get 0 i32.const 1 i32.sub call $odd else i32.const 1 end)
        (func $odd (param i32) (result i32) local.get 0 if (result i32) local.get 0 i32.const 1 i32.sub call $even else i32.const 0 end)
        (func $self (param i32) (result i32) local.get 0 if (result i32) local.get 0 i32.const 1 i32.sub call $self else i32.const 5 end)
        (func $spin loop br 0 end)
        (func (export "even") (param i32) (result i32) local.get 0 call $even)
        (func (export "self") (param i32) (result i32) local.get 0 call $self)
        (func $endless (param i32) (result i32) local.get 0 call $endless call $endless)
        (func (export "spin") (param i32) (result i32) local.get 0 if call $spin end i32.const 3)
        (func (export "endless") (param i32) (result i32)
            local.get 0 if (result i32) i32.const 0 call $endless else i32.const 4 end))"#;
    let engine = engine();
    let learn = |store: &mut Store<()>, instance: Instance| {
        for (name, argument) in [("even", 500), ("self", 500), ("spin", 0), ("endless", 0)] {
            for _ in 0..20 {
                result(store, instance, name, argument);
            }
        }
    };
    let (mut store, instance) = steered(&engine, text, Passes::ALL, learn);
    assert_eq!([4, 7].map(|argument| result(&mut store, instance, "even", argument)), [1, 0]);
    assert_eq!(result(&mut store, instance, "self", 1000), 5);
    for name in ["even", "self", "endless"] {
        assert_eq!(trap_of(call(&mut store, instance, name, &[i32::MAX])), TrapCode::StackOverflow, "{name}");
        assert_eq!(result(&mut store, instance, "self", 10), 5, "the store can still be used");
    }
    store.set_deadline(Some(Instant::now() + Duration::from_millis(30)));
    assert_eq!(trap_of(call(&mut store, instance, "spin", &[1])), TrapCode::Interrupt);
}

#[test]
fn traps_of_what_came_in_are_told_of_the_caller() {
    let text = r#"(module
        (func $divide (param i32 i32) (result i32) local.get 0 local.get 1 i32.div_u)
        (func $load (param i32) (result i32) local.get 0 i32.load)
        (memory 1)
        (func $run (export "run") (param i32) (result i32)
            i32.const 100 local.get 0 call $divide local.get 0 call $load i32.add))"#;
    let engine = engine();
    let learn = |store: &mut Store<()>, instance: Instance| {
        (1..50).for_each(|argument| {
            result(store, instance, "run", argument);
        })
    };
    let (mut store, instance) = steered(&engine, text, Passes::ALL, learn);
    assert_eq!(result(&mut store, instance, "run", 20), 5);
    for (argument, code) in [(0, TrapCode::DivisionByZero), (-1, TrapCode::MemoryOutOfBounds)] {
        match call(&mut store, instance, "run", &[argument]) {
            Err(Error::Trap(trap)) => {
                assert_eq!(trap.code, code);
                // The frame of what came in is gone; that of its caller says where the call was.
                assert_eq!(trap.frames.iter().map(|frame| frame.function).collect::<Vec<_>>(), [2]);
                assert!(trap.frames[0].offset.is_some(), "{trap:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn values_of_all_types_and_tail_calls_come_in() {
    let text = r#"(module
        (func $pair (param v128 i64 f64) (result v128 f64)
            (i64x2.add (local.get 0) (i64x2.splat (local.get 1))) (f64.add (local.get 2) (f64.const 0.5)))
        (func $last (param i32) (result i32) local.get 0 i32.const 3 i32.mul)
        (func $tail (param i32) (result i32) local.get 0 i32.const 1 i32.add return_call $last)
        (func $count (param i32 i32) (result i32)
            local.get 0 if local.get 0 i32.const 1 i32.sub local.get 1 i32.const 2 i32.add return_call $count end local.get 1)
        (func (export "run") (param i32) (result i32) (local v128 f64)
            (call $pair (v128.const i64x2 5 6) (i64.extend_i32_u (local.get 0)) (f64.convert_i32_u (local.get 0)))
            local.set 2 local.set 1
            (i32.add (i32.add (i32.trunc_f64_u (f64.mul (local.get 2) (f64.const 2))) (i32.wrap_i64 (i64x2.extract_lane 1 (local.get 1))))
                (i32.add (call $tail (local.get 0)) (call $count (local.get 0) (i32.const 0))))))"#;
    let engine = engine();
    for passes in all_passes() {
        let learn = |store: &mut Store<()>, instance: Instance| {
            (0..9).for_each(|argument| {
                result(store, instance, "run", argument);
            })
        };
        let (mut store, instance) = steered(&engine, text, passes, learn);
        for argument in [0, 1, 40, 100_000] {
            let expected = (2 * argument + 1) + (6 + argument) + 3 * (argument + 1) + 2 * argument;
            assert_eq!(result(&mut store, instance, "run", argument), expected, "{passes:?}");
        }
    }
}

#[test]
fn exceptions_pass_through_what_came_in() {
    let text = r#"(module
        (tag $e (param i32))
        (func $throw (param i32) (result i32) local.get 0 i32.const 3 i32.rem_u i32.eqz if local.get 0 throw $e end local.get 0)
        (func $through (param i32) (result i32) local.get 0 call $throw i32.const 10 i32.add)
        (func (export "run") (param i32) (result i32)
            block (result i32)
                try_table (result i32) (catch $e 0) local.get 0 call $through end
                return
            end
            i32.const 1000 i32.add))"#;
    let engine = engine();
    for passes in all_passes() {
        let learn = |store: &mut Store<()>, instance: Instance| {
            (0..30).for_each(|argument| {
                result(store, instance, "run", argument);
            })
        };
        let (mut store, instance) = steered(&engine, text, passes, learn);
        assert_eq!([4, 6, 7, 9].map(|argument| result(&mut store, instance, "run", argument)), [14, 1006, 17, 1009], "{passes:?}");
    }
}

#[test]
fn an_expected_callee_is_called_only_if_it_is_the_one() {
    let text = r#"(module
        (type $f (func (param i32) (result i32)))
        (import "a" "t" (table 6 funcref)) (import "a" "h" (func $host (param i32) (result i32)))
        (global $own (mut i32) (i32.const 0))
        (func $add (param i32) (result i32) local.get 0 global.get $own i32.add)
        (func $other (param i32) (result i32) i32.const -7)
        (func $wrong (result i64) i64.const 1)
        (elem declare func $host $add $other $wrong)
        (func (export "own") (param i32) local.get 0 global.set $own)
        (func (export "put") (param i32)
            (table.set (local.get 0) (ref.func $add))
            (table.set (i32.const 2) (ref.func $host))
            (table.set (i32.const 4) (ref.func $other))
            (table.set (i32.const 5) (ref.func $wrong)))
        (func (export "call") (param i32) (result i32) i32.const 100 local.get 0 call_indirect (type $f)))"#;
    let wasm = wat::parse_str(text).unwrap();
    let engine = engine();
    // Function 1 is what entry 0 mostly is.
    let counts = SiteCounts::Indirect { reached: 1000, targets: vec![(1, 1000)] };
    let known = preheat_compiler::functions(&wasm).unwrap();
    let functions = known.iter().map(|known| FunctionProfile {
        index: known.index,
        body: known.body,
        shape: known.shape,
        first: None,
        entries: 1000,
        sites: known.sites.iter().map(|offset| preheat_image::profile::Site { offset: *offset, counts: counts.clone() }).collect(),
    });
    let profile = summary(text, functions.collect());
    for passes in all_passes() {
        let module: Module = load(&engine, &compile_steered(&wasm, &profile, passes)).unwrap();
        let mut store = Store::new(&engine, ()).unwrap();
        let table = Table::new(&mut store, TableType { element: ValueType::FuncRef, min: 6, max: None }).unwrap();
        let mut linker = Linker::new();
        linker.define("a", "t", Extern::Table(table)).unwrap();
        let host = Func::new(FuncType::new([ValueType::I32], [ValueType::I32]), |_: &mut Caller<'_, ()>, _: &[Val]| Ok(vec![Val::I32(9)]));
        linker.define("a", "h", Extern::Func(host)).unwrap();
        let [one, other] = [1, 2].map(|_| linker.instantiate(&mut store, &module).unwrap());
        for (instance, own) in [(one, 5), (other, 70)] {
            call(&mut store, instance, "own", &[own]).unwrap();
        }
        call(&mut store, one, "put", &[0]).unwrap();
        call(&mut store, other, "put", &[1]).unwrap();
        let mut called = |entry: i32| result(&mut store, one, "call", entry);
        assert_eq!(called(0), 105, "{passes:?}: its own");
        assert_eq!(called(1), 170, "{passes:?}: the same code, of another instance");
        assert_eq!(called(2), 9, "{passes:?}: the host's");
        assert_eq!(called(4), -7, "{passes:?}: another function");
        for (entry, code) in [(3, TrapCode::NullEntry), (5, TrapCode::BadSignature), (6, TrapCode::TableOutOfBounds)] {
            assert_eq!(trap_of(call(&mut store, one, "call", &[entry])), code, "{passes:?}");
        }
    }
}
