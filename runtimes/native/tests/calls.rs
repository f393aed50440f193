//! Calls of guests and of the host.

mod common;

use common::{engine, instance, module, trap_of};
use preheat_native::{Caller, Error, Extern, ExternRef, Func, FuncType, Linker, Store, TrapCode, Val, ValueType};

#[test]
fn values_of_all_types_go_in_and_out() {
    let engine = engine();
    let (mut store, instance) = instance(
        &engine,
        r#"(module
            (func (export "mix") (param i32 i64 f32 f64 v128) (result v128 f64 f32 i64 i32)
                local.get 4 local.get 3 local.get 2 local.get 1 local.get 0)
            (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
            (func (export "same") (param externref) (result externref) local.get 0))"#,
    );
    let add = instance.typed_func::<(i32, i32), i32>(&store, "add").unwrap();
    assert_eq!(add.call(&mut store, (40, 2)).unwrap(), 42);
    let mix = instance.typed_func::<(i32, i64, f32, f64, u128), (u128, f64, f32, i64, i32)>(&store, "mix").unwrap();
    assert_eq!(mix.call(&mut store, (-1, i64::MIN, 1.5, -0.25, u128::MAX - 7)).unwrap(), (u128::MAX - 7, -0.25, 1.5, i64::MIN, -1));
    assert!(instance.typed_func::<i32, i32>(&store, "add").is_err());
    let value = ExternRef::new(&mut store, "something".to_owned());
    let results = instance.func(&store, "same").unwrap().call(&mut store, &[Val::ExternRef(Some(value))]).unwrap();
    let [Val::ExternRef(Some(same))] = &*results else { panic!("{results:?}") };
    assert_eq!(same.value(&store).downcast_ref::<String>().unwrap(), "something");
    assert!(instance.func(&store, "add").unwrap().call(&mut store, &[Val::I32(1)]).is_err());
    assert!(instance.func(&store, "add").unwrap().call(&mut store, &[Val::I32(1), Val::I64(1)]).is_err());
}

#[test]
fn the_host_sees_its_caller_and_calls_it_back() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module
            (import "host" "note" (func $note (param i32 i32) (result i32)))
            (import "host" "again" (func $again (param i32) (result i32)))
            (memory 1)
            (data (i32.const 8) "hello")
            (func (export "run") (result i32) (call $note (i32.const 8) (i32.const 5)))
            (func (export "fac") (param i32) (result i32)
                (if (result i32) (i32.eqz (local.get 0))
                    (then (i32.const 1))
                    (else (i32.mul (local.get 0) (call $again (i32.sub (local.get 0) (i32.const 1))))))))"#,
    );
    let mut linker = Linker::<Vec<String>>::new();
    linker
        .func_wrap("host", "note", |mut caller: Caller<'_, Vec<String>>, at: u32, len: u32| {
            let memory = caller.memory().unwrap();
            let (bytes, notes) = caller.memory_and_data(memory);
            notes.push(String::from_utf8(bytes[at as usize..][..len as usize].to_vec()).unwrap());
            u32::try_from(notes.len()).unwrap()
        })
        .unwrap()
        .func_wrap("host", "again", |mut caller: Caller<'_, Vec<String>>, n: i32| -> Result<i32, Error> {
            let instance = caller.instance().unwrap();
            let fac = instance.typed_func::<i32, i32>(&caller, "fac")?;
            fac.call(&mut caller, n)
        })
        .unwrap();
    let mut store = Store::new(&engine, Vec::new()).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let run = instance.typed_func::<(), i32>(&store, "run").unwrap();
    assert_eq!(run.call(&mut store, ()).unwrap(), 1);
    assert_eq!(run.call(&mut store, ()).unwrap(), 2);
    assert_eq!(store.data(), &["hello", "hello"]);
    assert_eq!(instance.typed_func::<i32, i32>(&store, "fac").unwrap().call(&mut store, 10).unwrap(), 3_628_800);
}

#[derive(Debug, thiserror::Error)]
#[error("the host says {0}")]
struct Said(u32);

#[test]
fn errors_and_panics_of_the_host_end_the_call() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module
            (import "host" "fail" (func $fail))
            (import "host" "panic" (func $panic))
            (func $inner call $fail)
            (func (export "fail") call $inner)
            (func (export "panic") call $panic)
            (func (export "one") (result i32) i32.const 1))"#,
    );
    let mut linker = Linker::<()>::new();
    linker.func_wrap("host", "fail", |_: Caller<'_, ()>| -> Result<(), Error> { Err(Error::host(Said(7))) }).unwrap();
    linker.func_wrap("host", "panic", |_: Caller<'_, ()>| -> Result<(), Error> { panic!("as asked") }).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let error = instance.func(&store, "fail").unwrap().call(&mut store, &[]).unwrap_err();
    assert_eq!(error.downcast_host::<Said>().unwrap().0, 7);
    let text = error.to_string();
    assert!(
        text.starts_with("the host says 7\n  0: wasm function 2 `inner` at 0x") && text.contains("\n  1: wasm function 3 `fail` at 0x"),
        "{text}"
    );
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| instance.func(&store, "panic").unwrap().call(&mut store, &[])));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"as asked"));
    assert_eq!(instance.typed_func::<(), i32>(&store, "one").unwrap().call(&mut store, ()).unwrap(), 1);
}

#[test]
fn traps_name_the_functions_and_places() {
    let engine = engine();
    let wat = r#"(module
        (func $divide (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
        (func (export "outer") (param i32) (result i32) (i32.add (i32.const 1) (call $divide (local.get 0)))))"#;
    let (mut store, instance) = instance(&engine, wat);
    let error = instance.func(&store, "outer").unwrap().call(&mut store, &[Val::I32(0)]).unwrap_err();
    let trap = error.trap().unwrap();
    assert_eq!(trap.code, TrapCode::DivisionByZero);
    let wasm = wat::parse_str(wat).unwrap();
    let names: Vec<_> = trap.frames.iter().map(|frame| (frame.function, frame.name.as_deref())).collect();
    assert_eq!(names, [(0, Some("divide")), (1, Some("outer"))]);
    // The instruction at the offset is the one that trapped: i32.div_s, and the call.
    let at = |frame: usize| wasm[trap.frames[frame].offset.unwrap() as usize];
    assert_eq!((at(0), at(1)), (0x6d, 0x10));
    assert!(error.to_string().starts_with("integer divide by zero\n  0: wasm function 0 `divide` at 0x"), "{error}");
}

#[test]
fn functions_go_through_tables_and_between_instances() {
    let engine = engine();
    let exporter = module(
        &engine,
        r#"(module
            (table (export "table") 4 funcref)
            (elem (i32.const 1) $one $two)
            (global $n (export "n") (mut i32) (i32.const 5))
            (memory (export "memory") 1)
            (func $one (export "one") (result i32) (i32.const 1))
            (func $two (result i32) (i32.load8_u (i32.const 3)))
            (func (export "n_now") (result i32) global.get $n))"#,
    );
    let importer = module(
        &engine,
        r#"(module
            (type $int (func (result i32)))
            (import "a" "table" (table 4 funcref))
            (import "a" "one" (func $one (result i32)))
            (import "a" "n" (global $n (mut i32)))
            (import "a" "memory" (memory 1))
            (elem (i32.const 3) $three)
            (func $three (result i32) (i32.const 3))
            (func (export "call") (param i32) (result i32) (call_indirect (type $int) (local.get 0)))
            (func (export "get") (param i32) (result funcref) (table.get (local.get 0)))
            (func (export "set_n") (param i32) (global.set $n (local.get 0)))
            (func (export "store") (param i32) (i32.store8 (i32.const 3) (local.get 0)))
            (func (export "one") (result i32) call $one))"#,
    );
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::new();
    let first = linker.instantiate(&mut store, &exporter).unwrap();
    linker.instance(&store, "a", first).unwrap();
    let second = linker.instantiate(&mut store, &importer).unwrap();
    let call = second.typed_func::<i32, i32>(&store, "call").unwrap();
    second.typed_func::<i32, ()>(&store, "store").unwrap().call(&mut store, 99).unwrap();
    assert_eq!(call.call(&mut store, 1).unwrap(), 1);
    assert_eq!(call.call(&mut store, 2).unwrap(), 99);
    assert_eq!(call.call(&mut store, 3).unwrap(), 3);
    assert_eq!(trap_of(call.call(&mut store, 0)), TrapCode::NullEntry);
    assert_eq!(trap_of(call.call(&mut store, 4)), TrapCode::TableOutOfBounds);
    second.typed_func::<i32, ()>(&store, "set_n").unwrap().call(&mut store, 77).unwrap();
    assert_eq!(first.typed_func::<(), i32>(&store, "n_now").unwrap().call(&mut store, ()).unwrap(), 77);
    assert_eq!(second.typed_func::<(), i32>(&store, "one").unwrap().call(&mut store, ()).unwrap(), 1);
    // A reference that the embedder gets is a function that it can call.
    for (index, result) in [(1, 1), (3, 3)] {
        let references = second.func(&store, "get").unwrap().call(&mut store, &[Val::I32(index)]).unwrap();
        let [Val::FuncRef(Some(function))] = &*references else { panic!("{references:?}") };
        let results = function.call(&mut store, &[]).unwrap();
        assert!(matches!(results[..], [Val::I32(found)] if found == result), "{results:?}");
    }
    let table = first.export(&store, "table").unwrap().into_table().unwrap();
    let function = first.func(&store, "n_now").unwrap();
    table.set(&mut store, 0, &Val::FuncRef(Some(function))).unwrap();
    assert_eq!(call.call(&mut store, 0).unwrap(), 77);
}

#[test]
fn imports_that_do_not_fit_are_refused() {
    let engine = engine();
    let module = module(&engine, r#"(module (import "a" "f" (func (param i32))) (import "a" "m" (memory 2 4)))"#);
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::<()>::new();
    let error = linker.instantiate(&mut store, &module).unwrap_err().to_string();
    assert!(error.contains("unknown import a::f"), "{error}");
    linker.allow_shadowing(true);
    let wrong = Func::new::<()>(FuncType::new([ValueType::I64], []), |_, _| Ok(vec![]));
    linker.define("a", "f", Extern::Func(wrong)).unwrap();
    let error = linker.instantiate(&mut store, &module).unwrap_err().to_string();
    assert!(error.contains("incompatible import type: a::f is a function") || error.contains("[i64] -> []"), "{error}");
    linker.func_wrap("a", "f", |_: Caller<'_, ()>, _: i32| ()).unwrap();
    for (min, max, fits) in [(2, Some(4), true), (3, Some(4), true), (1, Some(4), false), (2, Some(5), false), (2, None, false)] {
        let memory = preheat_native::Memory::new(&mut store, preheat_native::MemoryType { min, max }).unwrap();
        linker.define("a", "m", Extern::Memory(memory)).unwrap();
        assert_eq!(linker.instantiate(&mut store, &module).is_ok(), fits, "{min} to {max:?}");
        let mut other = Store::new(&engine, ()).unwrap();
        assert!(linker.instantiate(&mut other, &module).unwrap_err().to_string().contains("another store"));
    }
    assert!(Linker::<u8>::new().define("a", "f", Extern::Func(Func::wrap(|_: Caller<'_, ()>, _: i32| ()))).is_err());
}

#[test]
fn a_host_function_over_slots_reads_and_writes_numbers_only() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module
            (import "host" "mix" (func $mix (param i32 i64 f64) (result i64 i32)))
            (func (export "run") (param i32 i64 f64) (result i64 i32) (call $mix (local.get 0) (local.get 1) (local.get 2))))"#,
    );
    let ty = FuncType::new([ValueType::I32, ValueType::I64, ValueType::F64], [ValueType::I64, ValueType::I32]);
    let mix = Func::over_slots(ty, |caller: &mut Caller<'_, u32>, slots| {
        assert_eq!(slots.len(), 3);
        *caller.data_mut() += 1;
        // What lies behind a value in its slot may be anything.
        let [a, b, c] = [0, 1, 2].map(|at: usize| u64::from_le_bytes(slots[at].to_le_bytes()[..8].try_into().unwrap()));
        if b == 0 {
            return Err(Error::host("nothing"));
        }
        assert_eq!(f64::from_bits(c), 0.5);
        slots[0] = u128::from(b);
        slots[1] = u128::from(a & u64::from(u32::MAX));
        Ok(())
    });
    let mut linker = Linker::<u32>::new();
    linker.define("host", "mix", Extern::Func(mix.unwrap())).unwrap();
    let mut store = Store::new(&engine, 0).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let run = instance.typed_func::<(i32, i64, f64), (i64, i32)>(&store, "run").unwrap();
    assert_eq!(run.call(&mut store, (-7, 1 << 40, 0.5)).unwrap(), (1 << 40, -7));
    assert!(matches!(run.call(&mut store, (1, 0, 0.5)), Err(Error::Host(_))));
    assert_eq!(*store.data(), 2);
    // A slot could hold any address.
    for ty in [ValueType::FuncRef, ValueType::ExternRef, ValueType::ExnRef] {
        assert!(Func::over_slots(FuncType::new([ty], []), |_: &mut Caller<'_, ()>, _| Ok(())).is_err());
        assert!(Func::over_slots(FuncType::new([], [ty]), |_: &mut Caller<'_, ()>, _| Ok(())).is_err());
    }
}
