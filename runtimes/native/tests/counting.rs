//! Modules that count, count exactly: programs of which one can tell by hand how often each place is reached.

mod common;

use common::profile::{call, count, count_with, result, sites};
use common::trap_of;
use preheat_image::profile::{FunctionProfile, SiteCounts};
use preheat_native::{Caller, Extern, Linker, Memory, MemoryType, TrapCode, Val};

/// Index, calls and place in the order of first calls, of all functions that were called.
fn called(functions: &[FunctionProfile]) -> Vec<(u32, u64, Option<u32>)> {
    functions.iter().map(|function| (function.index, function.entries, function.first)).collect()
}

#[test]
fn recursion_is_counted_by_each_of_its_calls() {
    let text = r#"(module
        (func $fib (export "fib") (param i32) (result i32)
            (if (i32.lt_u (local.get 0) (i32.const 2)) (then (return (local.get 0))))
            (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1))) (call $fib (i32.sub (local.get 0) (i32.const 2))))))"#;
    let functions = count(text, |store, instance| assert_eq!(result(store, instance, "fib", 10), 55));
    assert_eq!(called(&functions), [(0, 177, Some(0))]);
    assert_eq!(sites(&functions, 0), [SiteCounts::Branch { reached: 177, taken: 89 }, SiteCounts::Reached(88), SiteCounts::Reached(88)]);
}

#[test]
fn early_returns_leave_loops_in_loops() {
    let text = r#"(module
        (func (export "find") (param i32) (result i32) (local $i i32) (local $j i32)
            (loop $outer
                (local.set $j (i32.const 0))
                (block $next
                    (loop $inner
                        (if (i32.eq (i32.add (i32.mul (local.get $i) (i32.const 10)) (local.get $j)) (local.get 0))
                            (then (return (local.get $j))))
                        (br_if $next (i32.eq (local.get $j) (i32.const 7)))
                        (local.set $j (i32.add (local.get $j) (i32.const 1)))
                        (br $inner)))
                (br_if $outer (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 10))))
            (i32.const -1)))"#;
    let functions = count(text, |store, instance| {
        assert_eq!(result(store, instance, "find", 23), 3);
        assert_eq!(result(store, instance, "find", 99), -1);
    });
    assert_eq!(
        sites(&functions, 0),
        [
            SiteCounts::Reached(3 + 10),
            SiteCounts::Reached(20 + 80),
            SiteCounts::Branch { reached: 20 + 80, taken: 1 },
            SiteCounts::Branch { reached: 19 + 80, taken: 2 + 10 },
            SiteCounts::Branch { reached: 2 + 10, taken: 2 + 9 },
        ]
    );
}

#[test]
fn arms_of_one_label_are_counted_apart() {
    let text = r#"(module
        (func (export "run") (param i32) (result i32)
            (block $b (result i32)
                (block $a (result i32) (br_table $a $b $a $b $a (i32.const 5) (local.get 0)))
                (i32.add (i32.const 1)))))"#;
    let functions = count(text, |store, instance| {
        for (index, expected) in [(0, 6), (1, 5), (2, 6), (3, 5), (4, 6), (1000, 6), (2, 6), (-1, 6)] {
            assert_eq!(result(store, instance, "run", index), expected);
        }
    });
    assert_eq!(sites(&functions, 0), [SiteCounts::Table { arms: vec![1, 1, 2, 1, 3] }]);
}

#[test]
fn targets_are_functions_of_their_table_and_first_calls_have_an_order() {
    let text = r#"(module
        (import "a" "h" (func $host (param i32) (result i32)))
        (type $t (func (param i32) (result i32)))
        (table $one 4 funcref) (table $two 4 funcref)
        (elem (table $one) (i32.const 1) func $x $y $host)
        (elem (table $two) (i32.const 0) func $y $x)
        (elem declare func $x)
        (func $x (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func $y (param i32) (result i32) (i32.add (local.get 0) (i32.const 2)))
        (func (export "one") (param i32) (result i32) (call_indirect $one (type $t) (i32.const 10) (local.get 0)))
        (func (export "two") (param i32) (result i32) (return_call_indirect $two (type $t) (i32.const 10) (local.get 0)))
        (func (export "put") (param i32) (result i32) (table.set $two (i32.const 3) (ref.func $x)) (i32.const 0)))"#;
    let imports = |_: &mut _| {
        let mut linker = Linker::new();
        linker.func_wrap("a", "h", |_: Caller<'_, ()>, value: i32| value + 100).unwrap();
        linker
    };
    let functions = count_with(text, (), imports, |store, instance| {
        let calls = [("two", 1, 11), ("two", 0, 12), ("one", 3, 110), ("one", 3, 110), ("one", 2, 12), ("put", 0, 0), ("two", 3, 11)];
        for (name, argument, expected) in calls.into_iter().chain([("two", 1, 11)]) {
            assert_eq!(result(store, instance, name, argument), expected, "{name} {argument}");
        }
    });
    assert_eq!(sites(&functions, 3), [SiteCounts::Indirect { reached: 3, targets: vec![(0, 2), (2, 1)] }]);
    // What the program put there itself is not known.
    assert_eq!(sites(&functions, 4), [SiteCounts::Indirect { reached: 4, targets: vec![(1, 2), (2, 1)] }]);
    assert_eq!(called(&functions), [(1, 3, Some(1)), (2, 2, Some(2)), (3, 3, Some(3)), (4, 4, Some(0)), (5, 1, Some(4))]);
}

#[test]
fn what_a_module_imports_and_begins_with_stays_as_it_is() {
    let text = r#"(module
        (import "a" "m" (memory $m 1)) (import "a" "f" (func $f (param i32) (result i32)))
        (memory $own (export "own") 1 3) (data (memory $own) (i32.const 4) "\07") (data $p "abc")
        (global $g (mut i32) (i32.const 0)) (tag $e) (elem declare func $s)
        (start $s)
        (func $s
            (memory.init $own $p (i32.const 100) (i32.const 0) (i32.const 3)) (data.drop $p)
            (drop (memory.grow $own (i32.const 1)))
            (global.set $g (call $f (i32.load8_u $own (i32.const 4)))))
        (func (export "run") (param i32) (result i32)
            (i32.store $m (i32.const 0) (local.get 0))
            (if (i32.load $m (i32.const 0)) (then (i32.store $own (i32.const 8) (i32.const 1))) (else nop))
            (i32.add (global.get $g) (i32.add (memory.size $own) (i32.load8_u $own (i32.const 101))))))"#;
    let mut imported = None;
    let imports = |store: &mut _| {
        let mut linker = Linker::new();
        let memory = Memory::new(&mut *store, MemoryType { min: 1, max: None }).unwrap();
        imported = Some(memory);
        linker.define("a", "m", Extern::Memory(memory)).unwrap();
        linker.func_wrap("a", "f", |_: Caller<'_, ()>, value: i32| value * 3).unwrap();
        linker
    };
    let functions = count_with(text, (), imports, |store, instance| {
        for argument in [5, 0, 9] {
            assert_eq!(result(store, instance, "run", argument), 21 + 2 + 98);
        }
        let own = instance.memory(&*store, "own").unwrap();
        assert_eq!(own.bytes(&*store)[..9], [0, 0, 0, 0, 7, 0, 0, 0, 1]);
        assert!(own.bytes(&*store).len() == 2 << 16 && own.bytes(&*store)[9..100].iter().all(|byte| *byte == 0));
    });
    assert!(imported.is_some());
    assert_eq!(called(&functions), [(1, 1, Some(0)), (2, 3, Some(1))]);
    assert_eq!(sites(&functions, 1), [SiteCounts::Reached(1)]);
    assert_eq!(sites(&functions, 2), [SiteCounts::Branch { reached: 3, taken: 2 }]);
}

#[test]
fn functions_that_catch_are_counted_as_a_whole_and_those_that_throw_in_parts() {
    let text = r#"(module
        (tag $e (param i32))
        (func $throw (param i32) (result i32)
            (if (i32.and (local.get 0) (i32.const 1)) (then (throw $e (local.get 0)))) (local.get 0))
        (func (export "run") (param i32) (result i32)
            (loop $again (br_if $again (i32.const 0)))
            (block $caught (result i32) (try_table (result i32) (catch $e $caught) (call $throw (local.get 0))) (return))
            (i32.mul (i32.const 10))))"#;
    let functions = count(text, |store, instance| {
        for (argument, expected) in [(2, 2), (3, 30), (4, 4), (5, 50), (7, 70)] {
            assert_eq!(result(store, instance, "run", argument), expected);
        }
    });
    assert_eq!(called(&functions), [(0, 5, Some(1)), (1, 5, Some(0))]);
    assert_eq!(sites(&functions, 1), []);
    // An exception ends a function in the middle, as a trap does: what is not counted itself may be off by one for each.
    let SiteCounts::Branch { reached, taken } = sites(&functions, 0)[0] else { panic!("{functions:?}") };
    assert!(reached == 5 && taken <= 5, "{reached} {taken}");
}

/// Each activation that a trap ended is missing where it would have come, or counts where it did not.
#[test]
fn a_trap_in_the_middle_is_off_by_the_activations_that_it_ended() {
    let text = r#"(module
        (func $divide (param i32) (result i32)
            (if (i32.lt_s (local.get 0) (i32.const 3)) (then (return (i32.div_u (i32.const 12) (local.get 0)))))
            (i32.const 1))
        (func $middle (param i32) (result i32) (i32.add (call $divide (local.get 0)) (i32.const 1)))
        (func (export "run") (param i32) (result i32) (local $sum i32)
            (loop $next
                (local.set $sum (i32.add (local.get $sum) (call $middle (local.get 0))))
                (local.set 0 (i32.sub (local.get 0) (i32.const 1)))
                (br_if $next (i32.ne (local.get 0) (i32.const 99))))
            (local.get $sum)))"#;
    let functions = count(text, |store, instance| {
        // 5, 4, 3, 2, 1 and 0, at which it traps.
        assert_eq!(trap_of(call(store, instance, "run", &[5])), TrapCode::DivisionByZero);
        // 103 to 100, and then 102 to 100.
        assert_eq!(result(store, instance, "run", 103), 4 * 2);
        assert_eq!(result(store, instance, "run", 102), 3 * 2);
    });
    assert_eq!(called(&functions), [(0, 13, Some(2)), (1, 13, Some(1)), (2, 3, Some(0))]);
    let near = |counts: &SiteCounts, reached: u64, taken: u64| {
        let (found, found_taken) = match counts {
            SiteCounts::Reached(found) => (*found, taken),
            SiteCounts::Branch { reached, taken } => (*reached, *taken),
            other => panic!("{other:?}"),
        };
        assert!(found.abs_diff(reached) <= 1 && found_taken.abs_diff(taken) <= 1, "{counts:?}, not {reached} and {taken}");
    };
    near(&sites(&functions, 0)[0], 13, 3);
    near(&sites(&functions, 1)[0], 13, 0);
    let run = sites(&functions, 2);
    assert_eq!(run.len(), 3);
    near(&run[0], 13, 0);
    near(&run[1], 13, 0);
    near(&run[2], 5 + 4 + 3, 5 + 3 + 2);
}

#[test]
fn a_module_counts_on_from_call_to_call() {
    let text = r#"(module (func $one) (func (export "run") (param i32) (result i32)
        (loop $next (call $one) (br_if $next (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 0)))"#;
    let functions = count(text, |store, instance| {
        for _ in 0..3 {
            assert!(matches!(call(store, instance, "run", &[100_000]).unwrap()[..], [Val::I32(0)]));
        }
    });
    assert_eq!(called(&functions), [(0, 300_000, Some(1)), (1, 3, Some(0))]);
    let reached = SiteCounts::Reached(300_000);
    assert_eq!(sites(&functions, 1), [reached.clone(), reached, SiteCounts::Branch { reached: 300_000, taken: 299_997 }]);
}
