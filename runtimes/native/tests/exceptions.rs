//! Exceptions between functions, instances and the host.

mod common;

use common::{engine, instance, module, trap_of};
use preheat_native::{Caller, Error, Extern, Linker, Store, Tag, TrapCode, Val, ValueType};

#[test]
fn the_innermost_handler_that_fits_takes_it() {
    let engine = engine();
    let (mut store, instance) = instance(
        &engine,
        r#"(module
            (tag $a (param i32 i64)) (tag $b (param f64)) (tag $c)
            (func $throw (param i32)
                (if (i32.eq (local.get 0) (i32.const 0)) (then (throw $a (i32.const 7) (i64.const 70))))
                (if (i32.eq (local.get 0) (i32.const 1)) (then (throw $b (f64.const 0.5))))
                (if (i32.eq (local.get 0) (i32.const 2)) (then (throw $c))))
            (func $middle (param i32) (result i32)
                (block $b (result f64)
                    (try_table (catch $b $b) (call $throw (local.get 0)))
                    (return (i32.const 100)))
                (f64.gt (f64.const 0)) (i32.add (i32.const 10)))
            (func (export "run") (param i32) (result i32)
                (block $all (result exnref)
                    (block $a (result i32 i64)
                        (try_table (result i32) (catch $a $a) (catch_all_ref $all) (call $middle (local.get 0)))
                        (return))
                    (i32.wrap_i64) (i32.add) (return))
                (drop) (i32.const -1))
            (func (export "uncaught") (call $throw (i32.const 2))))"#,
    );
    let run = instance.typed_func::<i32, i32>(&store, "run").unwrap();
    let results: Vec<i32> = (0..4).map(|what| run.call(&mut store, what).unwrap()).collect();
    assert_eq!(results, [77, 11, -1, 100]);
    let error = instance.func(&store, "uncaught").unwrap().call(&mut store, &[]).unwrap_err();
    let trap = error.trap().unwrap();
    assert_eq!(trap.code, TrapCode::UncaughtException);
    assert_eq!(trap.frames.iter().map(|frame| frame.function).collect::<Vec<_>>(), [0, 3]);
}

#[test]
fn tags_are_the_same_where_they_were_imported_and_only_there() {
    let engine = engine();
    let thrower = module(
        &engine,
        r#"(module (import "host" "tag" (tag $host (param i32))) (tag $own (export "tag") (param i32))
            (func (export "host") (throw $host (i32.const 5))) (func (export "own") (throw $own (i32.const 6))))"#,
    );
    let catcher = module(
        &engine,
        r#"(module (import "host" "tag" (tag $host (param i32))) (import "t" "tag" (tag $theirs (param i32))) (tag $mine (param i32))
            (import "t" "host" (func $throw_host)) (import "t" "own" (func $throw_own))
            (func (export "run") (param i32) (result i32)
                (block $theirs (result i32)
                    (block $host (result i32)
                        (block $mine (result i32)
                            (try_table (catch $mine $mine) (catch $theirs $theirs) (catch $host $host)
                                (if (local.get 0) (then (call $throw_own)) (else (call $throw_host))))
                            (i32.const 0))
                        (return (i32.const -1)))
                    (return (i32.add (i32.const 100))))
                (i32.add (i32.const 200))))"#,
    );
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::<()>::new();
    let tag = Tag::new(&mut store, [ValueType::I32]).unwrap();
    linker.define("host", "tag", Extern::Tag(tag)).unwrap();
    let first = linker.instantiate(&mut store, &thrower).unwrap();
    linker.instance(&store, "t", first).unwrap();
    let run = linker.instantiate(&mut store, &catcher).unwrap().typed_func::<i32, i32>(&store, "run").unwrap();
    assert_eq!((run.call(&mut store, 0).unwrap(), run.call(&mut store, 1).unwrap()), (105, 206));
    linker.allow_shadowing(true);
    let other = Tag::new(&mut store, [ValueType::I64]).unwrap();
    linker.define("host", "tag", Extern::Tag(other)).unwrap();
    assert!(matches!(linker.instantiate(&mut store, &thrower), Err(Error::Link(_))));
}

#[test]
fn an_exception_does_not_pass_the_host() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module (import "host" "f" (func $f (param i32) (result i32))) (tag $t)
            (func (export "throw") (param i32) (result i32) (throw $t))
            (func (export "run") (param i32) (result i32)
                (block $caught (try_table (catch_all $caught) (return (call $f (local.get 0))))) (i32.const -1)))"#,
    );
    let mut linker = Linker::<()>::new();
    linker
        .func_wrap("host", "f", |mut caller: Caller<'_, ()>, pass: i32| -> Result<i32, Error> {
            let throw = caller.instance().unwrap().typed_func::<i32, i32>(&caller, "throw")?;
            match throw.call(&mut caller, 0) {
                Err(error) if pass == 0 => {
                    assert_eq!(error.trap().unwrap().code, TrapCode::UncaughtException);
                    Ok(9)
                }
                other => other,
            }
        })
        .unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let run = instance.typed_func::<i32, i32>(&store, "run").unwrap();
    assert_eq!(run.call(&mut store, 0).unwrap(), 9);
    // What a host function returns ends the whole call, even where a guest would catch all.
    assert_eq!(trap_of(run.call(&mut store, 1)), TrapCode::UncaughtException);
}

#[test]
fn millions_of_exceptions_take_no_more_memory_than_those_in_use() {
    let engine = engine();
    let (mut store, instance) = instance(
        &engine,
        r#"(module (tag $t (param i64 i64 i64)) (table $kept 10 exnref)
            (func $catch (param i64) (result i64 i64 i64 exnref)
                (block $h (result i64 i64 i64 exnref)
                    (try_table (catch_ref $t $h) (throw $t (local.get 0) (i64.const 2) (i64.const 3)))
                    unreachable))
            (func (export "run") (param i32) (result i64) (local $sum i64) (local $n i64) (local $e exnref) (local $first exnref)
                (loop
                    (call $catch (local.get $n)) (local.set $e) (drop) (drop)
                    (local.set $sum (i64.add (local.get $sum)))
                    (if (i64.eqz (local.get $n)) (then (local.set $first (local.get $e))))
                    (table.set $kept (i32.wrap_i64 (i64.rem_u (local.get $n) (i64.const 10))) (local.get $e))
                    (local.set $n (i64.add (local.get $n) (i64.const 1)))
                    (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
                ;; The first is still there, after all those.
                (block $h (result i64 i64 i64)
                    (try_table (catch $t $h) (throw_ref (local.get $first)))
                    unreachable)
                (drop) (drop) (i64.add (local.get $sum)))
            (func (export "kept") (param i32) (result i64)
                (block $h (result i64 i64 i64) (try_table (catch $t $h) (throw_ref (table.get $kept (local.get 0)))) unreachable)
                (drop) (drop))
            (func (export "reference") (param i32) (result exnref) (table.get $kept (local.get 0)))
            (func (export "first") (param exnref) (result i64)
                (block $h (result i64 i64 i64) (try_table (catch $t $h) (throw_ref (local.get 0))) unreachable) (drop) (drop))
            (func (export "throw") (param exnref) (throw_ref (local.get 0)))
            (func (export "recurse") (param i64) (local exnref)
                (call $catch (local.get 0)) (local.set 1) (drop) (drop) (drop)
                (call $recurse (local.get 0)) (table.set $kept (i32.const 0) (local.get 1)))
            (func $recurse (param i64) (local exnref)
                (call $catch (local.get 0)) (local.set 1) (drop) (drop) (drop)
                (call $recurse (local.get 0)) (table.set $kept (i32.const 0) (local.get 1))))"#,
    );
    let run = instance.typed_func::<i32, i64>(&store, "run").unwrap();
    let rounds = 300_000i64;
    assert_eq!(run.call(&mut store, i32::try_from(rounds).unwrap()).unwrap(), rounds * (rounds - 1) / 2);
    let kept = instance.typed_func::<i32, i64>(&store, "kept").unwrap();
    for index in 0..10 {
        assert_eq!(kept.call(&mut store, index).unwrap(), rounds - 10 + i64::from(index));
    }
    assert_eq!(trap_of(kept.call(&mut store, 10)), TrapCode::TableOutOfBounds);
    // What the host has seen stays.
    let old = instance.func(&store, "reference").unwrap().call(&mut store, &[Val::I32(3)]).unwrap();
    let throw = instance.func(&store, "throw").unwrap();
    assert_eq!(trap_of(throw.call(&mut store, &old)), TrapCode::UncaughtException);
    assert_eq!(trap_of(throw.call(&mut store, &[Val::ExnRef(None)])), TrapCode::NullReference);
    run.call(&mut store, i32::try_from(rounds).unwrap()).unwrap();
    let first = instance.func(&store, "first").unwrap().call(&mut store, &old).unwrap();
    assert!(matches!(first[..], [Val::I64(first)] if first == rounds - 7), "{first:?}");
    let mut other = Store::new(&engine, ()).unwrap();
    let stranger = Linker::new().instantiate(&mut other, instance.module(&store)).unwrap();
    assert!(matches!(stranger.func(&other, "throw").unwrap().call(&mut other, &old), Err(Error::Type(_))));
    // A guest that keeps them all runs out of its stack first.
    let recurse = instance.func(&store, "recurse").unwrap();
    assert_eq!(trap_of(recurse.call(&mut store, &[Val::I64(1)])), TrapCode::StackOverflow);
}
