//! Guests that try to get out, or to take more than they were given.

mod common;

use common::{engine, instance, module, trap_of};
use preheat_native::{
    Caller, Config, Engine, Error, Extern, Limits, Linker, Memory, MemoryType, Module, PoolLimits, Store, Table, TableType, TrapCode, Val,
    ValueType, WrittenPages,
};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const METHODS: [WrittenPages; 3] = [WrittenPages::Scan, WrittenPages::Pagemap, WrittenPages::Remap];

/// Every load, with the bytes that it reads.
const LOADS: [(&str, u64); 23] = [
    ("i32.load8_s", 1),
    ("i32.load8_u", 1),
    ("i32.load16_s", 2),
    ("i32.load16_u", 2),
    ("i32.load", 4),
    ("i64.load8_s", 1),
    ("i64.load8_u", 1),
    ("i64.load16_s", 2),
    ("i64.load16_u", 2),
    ("i64.load32_s", 4),
    ("i64.load32_u", 4),
    ("i64.load", 8),
    ("f32.load", 4),
    ("f64.load", 8),
    ("v128.load", 16),
    ("v128.load8x8_s", 8),
    ("v128.load16x4_u", 8),
    ("v128.load32x2_s", 8),
    ("v128.load8_splat", 1),
    ("v128.load16_splat", 2),
    ("v128.load64_splat", 8),
    ("v128.load32_zero", 4),
    ("v128.load64_zero", 8),
];

/// Every store, with the bytes that it writes and the value.
const STORES: [(&str, u64, &str); 10] = [
    ("i32.store8", 1, "(i32.const -1)"),
    ("i32.store16", 2, "(i32.const -1)"),
    ("i32.store", 4, "(i32.const -1)"),
    ("i64.store8", 1, "(i64.const -1)"),
    ("i64.store16", 2, "(i64.const -1)"),
    ("i64.store32", 4, "(i64.const -1)"),
    ("i64.store", 8, "(i64.const -1)"),
    ("f32.store", 4, "(f32.const -nan:0x7fffff)"),
    ("f64.store", 8, "(f64.const -nan:0xfffffffffffff)"),
    ("v128.store", 16, "(v128.const i64x2 -1 -1)"),
];

/// Constant offsets around all that the code may treat differently: none, a page, the guard, the sign, the largest.
const OFFSETS: [u64; 14] = [
    0,
    1,
    65_520,
    65_535,
    65_536,
    (32 << 20) - 17,
    (32 << 20) - 1,
    32 << 20,
    (32 << 20) + 1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_fffe,
    0xffff_ffff,
];

fn edges(len: u64) -> Vec<u32> {
    let mut edges = vec![0, 1, 15, 16, 65_535, 65_536, 0x7fff_ffff, 0x8000_0000, 0xffff_0000, 0xffff_fff0, 0xffff_fffe, 0xffff_ffff];
    for offset in OFFSETS {
        // Where the access ends just within and just beyond the memory.
        for back in [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17] {
            edges.extend(len.checked_sub(offset + back));
        }
    }
    let mut edges: Vec<u32> = edges.into_iter().filter_map(|edge| u32::try_from(edge).ok()).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

fn access_module() -> String {
    let mut wat =
        String::from("(module (memory (export \"m\") 0) (func (export \"grow\") (param i32) (result i32) (memory.grow (local.get 0)))");
    for (op, _) in LOADS {
        for offset in OFFSETS {
            write!(wat, "(func (export \"{op} {offset}\") (param i32) (drop ({op} offset={offset} (local.get 0))))").unwrap();
        }
    }
    for (op, _, value) in STORES {
        for offset in OFFSETS {
            write!(wat, "(func (export \"{op} {offset}\") (param i32) ({op} offset={offset} (local.get 0) {value}))").unwrap();
        }
    }
    wat.push(')');
    wat
}

fn check_accesses(store: &mut Store<()>, instance: preheat_native::Instance) {
    let memory = instance.memory(&*store, "m").unwrap();
    let len = memory.bytes(store).len() as u64;
    for (op, width) in LOADS.into_iter().chain(STORES.map(|(op, width, _)| (op, width))) {
        let is_store = op.contains("store");
        for offset in OFFSETS {
            let function = instance.typed_func::<u32, ()>(&*store, &format!("{op} {offset}")).unwrap();
            for address in edges(len) {
                let start = u64::from(address) + offset;
                let what = || format!("{op} offset={offset} at {address:#x} of {len:#x}");
                let result = function.call(&mut *store, address);
                if start + width <= len {
                    result.unwrap_or_else(|error| panic!("{}: {error}", what()));
                } else {
                    assert_eq!(trap_of(result), TrapCode::MemoryOutOfBounds, "{}", what());
                }
                if is_store {
                    // What was stored is there, all of it or nothing, and nothing else.
                    let bytes = memory.bytes_mut(store);
                    let from = usize::try_from(start.saturating_sub(32).min(len)).unwrap();
                    let to = usize::try_from((start + 64).min(len)).unwrap();
                    let written = bytes[from..to].iter().filter(|byte| **byte != 0).count() as u64;
                    assert_eq!(written, if start + width <= len { width } else { 0 }, "{}", what());
                    bytes[from..to].fill(0);
                }
            }
        }
    }
}

#[test]
fn accesses_of_every_width_stop_at_the_edge() {
    let engine = engine();
    let (mut store, instance) = instance(&engine, &access_module());
    let grow = instance.typed_func::<i32, i32>(&store, "grow").unwrap();
    for (by, size) in [(0, 0), (1, 1), (1, 2), (600, 602), (65_536 - 602, 65_536)] {
        assert_eq!(grow.call(&mut store, by).unwrap() + by, size);
        check_accesses(&mut store, instance);
    }
    assert_eq!(grow.call(&mut store, 1).unwrap(), -1);
    // 4 GiB are 4 GiB: nothing beyond was written in all that.
    let memory = instance.memory(&store, "m").unwrap();
    assert_eq!(memory.bytes(&store).len() as u64, 1 << 32);
}

#[test]
fn bulk_operations_stop_at_the_edge() {
    let engine = engine();
    let (mut store, instance) = instance(
        &engine,
        r#"(module (memory (export "m") 1) (memory $other 1) (data $d "0123456789")
            (func (export "fill") (param i32 i32) (memory.fill (local.get 0) (i32.const 1) (local.get 1)))
            (func (export "to") (param i32 i32) (memory.copy (local.get 0) (i32.const 0) (local.get 1)))
            (func (export "from") (param i32 i32) (memory.copy (i32.const 0) (local.get 0) (local.get 1)))
            (func (export "across") (param i32 i32) (memory.copy $other 0 (local.get 0) (i32.const 0) (local.get 1)))
            (func (export "init") (param i32 i32) (memory.init $d (local.get 0) (i32.const 0) (local.get 1)))
            (func (export "segment") (param i32 i32) (memory.init $d (i32.const 0) (local.get 0) (local.get 1))))"#,
    );
    for name in ["fill", "to", "from", "across", "init", "segment"] {
        let function = instance.typed_func::<(u32, u32), ()>(&store, name).unwrap();
        let end: u64 = if name == "segment" { 10 } else { 65_536 };
        let most: u64 = if matches!(name, "segment" | "init") { 10 } else { 65_536 };
        for at in [0, 1, end - 1, end, end + 1, 0x7fff_ffff, 0xffff_ffff] {
            for len in [0, 1, 10, 11, 65_535, 65_536, 65_537, 0xffff_ffff] {
                let result = function.call(&mut store, (u32::try_from(at).unwrap(), u32::try_from(len).unwrap()));
                if at + len <= end && len <= most {
                    result.unwrap();
                } else {
                    assert_eq!(trap_of(result), TrapCode::MemoryOutOfBounds, "{name} {at} {len}");
                }
            }
        }
    }
}

#[test]
fn tables_stop_at_the_edge() {
    let engine = engine();
    let (mut store, instance) = instance(
        &engine,
        r#"(module (type $t (func (result i32))) (table $f 3 100 funcref) (table $x 2 externref)
            (elem (i32.const 0) $one $one $one)
            (func $one (result i32) (i32.const 1))
            (func (export "call") (param i32) (result i32) (call_indirect $f (type $t) (local.get 0)))
            (func (export "get") (param i32) (drop (table.get $f (local.get 0))))
            (func (export "set") (param i32) (table.set $f (local.get 0) (ref.func $one)))
            (func (export "getx") (param i32) (drop (table.get $x (local.get 0))))
            (func (export "setx") (param i32) (table.set $x (local.get 0) (ref.null extern)))
            (func (export "grow") (param i32) (result i32) (table.grow $f (ref.func $one) (local.get 0))))"#,
    );
    for size in [3u32, 100] {
        for index in [0, 1, 2, 3, 4, 98, 99, 100, 101, 0x7fff_ffff, 0x8000_0000, 0x1fff_ffff, 0x2000_0000, 0xffff_ffff] {
            let call = instance.typed_func::<u32, i32>(&store, "call").unwrap().call(&mut store, index);
            let fits = index < size;
            assert_eq!(call.is_ok(), fits);
            if !fits {
                assert_eq!(trap_of(call), TrapCode::TableOutOfBounds);
            }
            for (name, fits) in [("get", fits), ("set", fits), ("getx", index < 2), ("setx", index < 2)] {
                let result = instance.typed_func::<u32, ()>(&store, name).unwrap().call(&mut store, index);
                assert_eq!(result.is_ok(), fits, "{name} {index}");
                if !fits {
                    assert_eq!(trap_of(result), TrapCode::TableOutOfBounds);
                }
            }
        }
        let grow = instance.typed_func::<i32, i32>(&store, "grow").unwrap();
        assert_eq!(grow.call(&mut store, 98).unwrap(), -1);
        assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
        assert_eq!(grow.call(&mut store, if size == 3 { 97 } else { 0 }).unwrap(), i32::try_from(size).unwrap());
    }
}

#[test]
fn indirect_calls_of_other_types_trap_wherever_the_function_is_from() {
    let engine = engine();
    let exporter = module(
        &engine,
        r#"(module (import "host" "f" (func $host (param i64))) (table (export "t") 5 funcref)
            (elem (i32.const 0) $a $b $host)
            (func $a) (func $b (param i32)) (func (export "c") (param i32 i32) (result i64) (i64.const 3)))"#,
    );
    let importer = module(
        &engine,
        r#"(module (import "e" "t" (table 5 funcref)) (import "e" "c" (func $c (param i32 i32) (result i64)))
            (type $other (func (param f64) (result i64))) (type $b (func (param i32))) (type $a (func)) (type $host (func (param i64)))
            (elem (i32.const 3) $c)
            (func (export "a") (param i32) (call_indirect (type $a) (local.get 0)))
            (func (export "b") (param i32) (call_indirect (type $b) (i32.const 0) (local.get 0)))
            (func (export "host") (param i32) (call_indirect (type $host) (i64.const 0) (local.get 0)))
            (func (export "c") (param i32) (drop (call_indirect (param i32 i32) (result i64) (i32.const 0) (i32.const 0) (local.get 0))))
            (func (export "other") (param i32) (drop (call_indirect (type $other) (f64.const 0) (local.get 0)))))"#,
    );
    let mut linker = Linker::<u32>::new();
    linker.func_wrap("host", "f", |mut caller: Caller<'_, u32>, _: i64| *caller.data_mut() += 1).unwrap();
    let mut store = Store::new(&engine, 0).unwrap();
    let first = linker.instantiate(&mut store, &exporter).unwrap();
    linker.instance(&store, "e", first).unwrap();
    let second = linker.instantiate(&mut store, &importer).unwrap();
    let right = [("a", 0), ("b", 1), ("host", 2), ("c", 3)];
    for name in ["a", "b", "host", "c", "other"] {
        for index in 0..5 {
            let result = second.typed_func::<i32, ()>(&store, name).unwrap().call(&mut store, index);
            if right.contains(&(name, index)) {
                result.unwrap();
            } else {
                let expected = if index == 4 { TrapCode::NullEntry } else { TrapCode::BadSignature };
                assert_eq!(trap_of(result), expected, "{name} {index}");
            }
        }
    }
    assert_eq!(*store.data(), 1);
}

#[test]
fn growth_stops_at_the_limits() {
    let engine = engine();
    let wat = r#"(module (memory (export "m") 1) (table (export "t") 1 funcref)
        (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
        (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))"#;
    let module = module(&engine, wat);
    let mut store = Store::new(&engine, ()).unwrap();
    store.set_limits(Limits { memory_bytes: 3 * 65_536 + 100, table_entries: 7, ..Limits::default() });
    let instance = Linker::new().instantiate(&mut store, &module).unwrap();
    let memory = instance.typed_func::<i32, i32>(&store, "memory").unwrap();
    let table = instance.typed_func::<i32, i32>(&store, "table").unwrap();
    let mut grow = |by, sizes: (i32, i32)| {
        assert_eq!((memory.call(&mut store, by).unwrap(), table.call(&mut store, by).unwrap()), sizes, "by {by}");
    };
    grow(3, (-1, 1));
    grow(2, (1, 4));
    grow(1, (-1, 6));
    grow(1, (-1, -1));
    grow(0, (3, 7));
    grow(-1, (-1, -1));
    grow(i32::MAX, (-1, -1));
    assert!(instance.memory(&store, "m").unwrap().grow(&mut store, 1).is_err());
    let table = instance.export(&store, "t").unwrap().into_table().unwrap();
    assert!(table.grow(&mut store, 1, &Val::FuncRef(None)).is_err());
    for limits in [
        Limits { memory_bytes: 65_535, ..Limits::default() },
        Limits { table_entries: 0, ..Limits::default() },
        Limits { instances: 0, ..Limits::default() },
        Limits { memories: 0, ..Limits::default() },
        Limits { tables: 0, ..Limits::default() },
    ] {
        let mut store = Store::new(&engine, ()).unwrap();
        store.set_limits(limits);
        assert!(matches!(Linker::new().instantiate(&mut store, &module), Err(Error::Limit(_))), "{limits:?}");
        store.set_limits(Limits::default());
        Linker::new().instantiate(&mut store, &module).unwrap();
    }
    let small = Limits { memory_bytes: 65_536, table_entries: 1, ..Limits::default() };
    store.set_limits(small);
    assert!(Memory::new(&mut store, MemoryType { min: 2, max: None }).is_err());
    assert!(Table::new(&mut store, TableType { element: ValueType::ExternRef, min: 2, max: None }).is_err());
}

#[test]
fn an_engine_with_all_its_slots_in_use_says_so() {
    let memories = PoolLimits { slots: 2, ..PoolLimits::default() };
    let engine = Engine::new(Config { memories, ..Config::default() }).unwrap();
    let module = module(&engine, "(module (memory 1))");
    let make = || {
        let mut store = Store::new(&engine, ()).unwrap();
        Linker::new().instantiate(&mut store, &module).map(|_| store)
    };
    let (first, _second) = (make().unwrap(), make().unwrap());
    assert!(matches!(make(), Err(Error::System { .. })));
    drop(first);
    make().unwrap();
}

#[test]
fn the_stack_ends_in_a_trap_in_guests_and_in_host_calls() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module
            (import "host" "again" (func $again (param i32)))
            (import "host" "large" (func $large))
            (func $deep (export "deep") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
            (func (export "mutual") (param i32) (call $again (local.get 0)))
            (func $host_at_the_end (export "host_at_the_end") call $large call $host_at_the_end call $large)
            (func $grow (export "grow") (drop (memory.grow (i32.const 0))) call $grow (drop (memory.grow (i32.const 0))))
            (memory 1)
            (func (export "frames") (param i32) (result i64)
                (local i64 i64 i64 i64 i64 i64 i64 i64)
                (i64.add (i64.const 1) (call 6 (local.get 0))))
            (func (export "fine") (result i32) (i32.const 7)))"#,
    );
    let mut linker = Linker::<u64>::new();
    linker
        .func_wrap("host", "again", |mut caller: Caller<'_, u64>, n: i32| -> Result<(), Error> {
            *caller.data_mut() += 1;
            let mutual = caller.instance().unwrap().typed_func::<i32, ()>(&caller, "mutual")?;
            mutual.call(&mut caller, n + 1)
        })
        .unwrap()
        .func_wrap("host", "large", |mut caller: Caller<'_, u64>| {
            // A frame that needs much of the stack that the host was promised; unoptimised code has it more than once.
            let space = std::hint::black_box([1u8; 100 << 10]);
            *caller.data_mut() += u64::from(space[space.len() / 2]);
        })
        .unwrap();
    let mut store = Store::new(&engine, 0).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    for _ in 0..3 {
        for (name, args) in
            [("deep", &[Val::I32(0)][..]), ("mutual", &[Val::I32(0)]), ("host_at_the_end", &[]), ("grow", &[]), ("frames", &[Val::I32(0)])]
        {
            let before = *store.data();
            let result = instance.func(&store, name).unwrap().call(&mut store, args);
            let error = result.unwrap_err();
            let trap = error.trap().unwrap_or_else(|| panic!("{name}: {error}"));
            assert_eq!(trap.code, TrapCode::StackOverflow, "{name}");
            assert!(trap.frames.len() > 10, "{name}: {trap}");
            assert!(*store.data() > before || !matches!(name, "mutual" | "host_at_the_end"));
            assert_eq!(instance.typed_func::<(), i32>(&store, "fine").unwrap().call(&mut store, ()).unwrap(), 7);
        }
    }
}

#[test]
fn a_trap_inside_a_host_call_is_the_hosts_to_handle() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module
            (import "host" "try" (func $try (param i32) (result i32)))
            (memory 1)
            (func (export "trap") (param i32) (result i32) (i32.load (local.get 0)))
            (func $middle (export "outer") (param i32) (result i32) (i32.add (i32.const 100) (call $try (local.get 0))))
            (func (export "after") (param i32) (result i32) (drop (call $middle (local.get 0))) unreachable))"#,
    );
    let mut linker = Linker::<()>::new();
    linker
        .func_wrap("host", "try", |mut caller: Caller<'_, ()>, at: i32| -> Result<i32, Error> {
            let trap = caller.instance().unwrap().typed_func::<i32, i32>(&caller, "trap")?;
            match trap.call(&mut caller, at) {
                Err(Error::Trap(trap)) if at == -1 => {
                    // The frames of the outer call are part of the story.
                    assert_eq!(trap.frames.iter().map(|frame| frame.function).collect::<Vec<_>>(), [1, 2]);
                    Ok(-5)
                }
                other => other,
            }
        })
        .unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let outer = instance.typed_func::<i32, i32>(&store, "outer").unwrap();
    assert_eq!(outer.call(&mut store, -1).unwrap(), 95);
    assert_eq!(outer.call(&mut store, 0).unwrap(), 100);
    assert_eq!(trap_of(outer.call(&mut store, -2)), TrapCode::MemoryOutOfBounds);
    // After a trap inside, a later trap outside has the outer frames only.
    let after = instance.typed_func::<i32, i32>(&store, "after").unwrap();
    let error = after.call(&mut store, 0).unwrap_err();
    assert_eq!(error.trap().unwrap().frames.iter().map(|frame| frame.function).collect::<Vec<_>>(), [3]);
}

#[test]
fn threads_trap_at_once() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module (memory 1)
            (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
            (func $deep (export "deep") (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0))))
            (func (export "divide") (param i32) (result i32) (i32.div_s (i32.const 7) (local.get 0))))"#,
    );
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (engine, module) = (&engine, &module);
            scope.spawn(move || {
                let mut store = Store::new(engine, ()).unwrap();
                let instance = Linker::new().instantiate(&mut store, module).unwrap();
                let load = instance.typed_func::<i32, i32>(&store, "load").unwrap();
                let divide = instance.typed_func::<i32, i32>(&store, "divide").unwrap();
                let deep = instance.typed_func::<i32, i32>(&store, "deep").unwrap();
                for round in 0..2000 {
                    assert_eq!(trap_of(load.call(&mut store, -1 - thread)), TrapCode::MemoryOutOfBounds);
                    assert_eq!(trap_of(divide.call(&mut store, 0)), TrapCode::DivisionByZero);
                    assert_eq!(divide.call(&mut store, 7).unwrap(), 1);
                    if round % 100 == 0 {
                        assert_eq!(trap_of(deep.call(&mut store, 0)), TrapCode::StackOverflow);
                    }
                }
            });
        }
    });
}

/// A guest that writes to everything it has, and one that tells whether anything is not as at first.
const SCRIBBLER: &str = r#"(module
    (memory (export "m") 3 20) (memory (export "n") 1) (table (export "t") 600 1000 funcref) (table (export "x") 2 externref)
    (global $g (export "g") (mut i64) (i64.const 11)) (global (export "v") (mut v128) (v128.const i32x4 1 2 3 4))
    (data (i32.const 100) "first") (data (i32.const 70000) "second") (data $passive "passive") (data (memory 1) (i32.const 0) "third")
    (elem (i32.const 1) $f) (elem $later func $f $f)
    (func $f (result i32) (i32.const 1))
    (func (export "scribble") (param $x externref)
        (global.set $g (i64.const -1)) (global.set 1 (v128.const i64x2 -1 -1))
        (drop (memory.grow (i32.const 5))) (drop (table.grow 0 (ref.func $f) (i32.const 100)))
        (memory.fill (i32.const 0) (i32.const 0xee) (i32.const 524288)) (memory.fill 1 (i32.const 0) (i32.const 0xee) (i32.const 65536))
        (table.fill 0 (i32.const 0) (ref.func $f) (i32.const 700)) (table.fill 1 (i32.const 0) (local.get $x) (i32.const 2))
        (data.drop $passive) (elem.drop $later))
    (func (export "sizes") (result i32 i32) memory.size (table.size 0))
    (func (export "segments")
        (memory.init $passive (i32.const 0) (i32.const 0) (i32.const 7)) (table.init $later (i32.const 0) (i32.const 0) (i32.const 2))))"#;

fn is_as_at_first(store: &mut Store<()>, instance: preheat_native::Instance) {
    assert_eq!(instance.typed_func::<(), (i32, i32)>(&*store, "sizes").unwrap().call(&mut *store, ()).unwrap(), (3, 600));
    let check = |bytes: &[u8], data: &[(usize, &[u8])]| {
        let mut expected = vec![0; bytes.len()];
        for (at, contents) in data {
            expected[*at..][..contents.len()].copy_from_slice(contents);
        }
        assert!(bytes == expected);
    };
    check(instance.memory(&*store, "m").unwrap().bytes(store), &[(100, b"first"), (70_000, b"second")]);
    check(instance.memory(&*store, "n").unwrap().bytes(store), &[(0, b"third")]);
    let table = instance.export(&*store, "t").unwrap().into_table().unwrap();
    for index in 0..600 {
        let Some(Val::FuncRef(function)) = table.get(&mut *store, index) else { panic!("no entry {index}") };
        assert_eq!(function.is_some(), index == 1, "entry {index}");
    }
    let table = instance.export(&*store, "x").unwrap().into_table().unwrap();
    assert!((0..2).all(|index| matches!(table.get(&mut *store, index), Some(Val::ExternRef(None)))));
    let global = |name: &str| instance.export(&*store, name).unwrap().into_global().unwrap().get(&*store);
    assert!(matches!(global("g"), Val::I64(11)));
    assert!(matches!(global("v"), Val::V128(value) if value == u128::from_le_bytes([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0])));
    instance.typed_func::<(), ()>(&*store, "segments").unwrap().call(&mut *store, ()).unwrap();
}

fn scribble(engine: &Engine, module: &Module) {
    let mut store = Store::new(engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, module).unwrap();
    is_as_at_first(&mut store, instance);
    let something = preheat_native::ExternRef::new(&mut store, "secret");
    instance.func(&store, "scribble").unwrap().call(&mut store, &[Val::ExternRef(Some(something))]).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    assert!(memory.bytes(&store).iter().all(|byte| *byte == 0xee) && memory.size(&store) == 8);
}

#[test]
fn nothing_of_a_guest_is_left_for_the_next() {
    for method in METHODS {
        for pages in [0, 16, 4096] {
            let pool = PoolLimits { pages, slots: 2, ..PoolLimits::default() };
            let engine = Engine::new(Config { memories: pool, tables: pool, written_pages: Some(method), ..Config::default() }).unwrap();
            let first = module(&engine, SCRIBBLER);
            // The same memories for another module: nothing of the first shows through.
            let second = module(&engine, &SCRIBBLER.replace("(i32.const 1) $f", "(i32.const 1) func $f"));
            for _ in 0..3 {
                scribble(&engine, &first);
                scribble(&engine, &second);
            }
            // A child of this process has its own page tables.
            // SAFETY: the child uses memory and ends without running anything else.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let done = std::panic::catch_unwind(|| (0..3).for_each(|_| scribble(&engine, &first)));
                // SAFETY: ends the child.
                unsafe { libc::_exit(i32::from(done.is_err())) };
            }
            let mut status = -1;
            // SAFETY: the child was made above.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert_eq!(status, 0, "{method:?}, {pages} pages kept");
        }
    }
}

const LOOPS: &str = r#"(module
    (import "host" "wait" (func $wait))
    (func (export "loop") (loop br 0))
    (func (export "counting") (result i64) (local i64) (loop (local.set 0 (i64.add (local.get 0) (i64.const 1))) (br 0)) unreachable)
    (func $fib (export "fib") (param i32) (result i32)
        (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
            (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1))) (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
    (func $tail (export "tail") (return_call $tail))
    (func (export "waits") call $wait (loop br 0))
    (func (export "fine") (result i32) (i32.const 7)))"#;

fn looping(engine: &Engine) -> (Store<()>, preheat_native::Instance) {
    let mut linker = Linker::<()>::new();
    linker
        .func_wrap("host", "wait", |caller: Caller<'_, ()>| {
            while !caller.interrupted() {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .unwrap();
    let mut store = Store::new(engine, ()).unwrap();
    let instance = linker.instantiate(&mut store, &module(engine, LOOPS)).unwrap();
    (store, instance)
}

const ENDLESS: [(&str, &[Val]); 5] = [("loop", &[]), ("counting", &[]), ("fib", &[Val::I32(90)]), ("tail", &[]), ("waits", &[])];

#[test]
fn endless_guests_end_at_their_deadline_and_the_slot_is_usable() {
    let engine = engine();
    let (mut store, instance) = looping(&engine);
    for (name, args) in ENDLESS {
        let began = Instant::now();
        store.set_deadline(Some(began + Duration::from_millis(30)));
        let result = instance.func(&store, name).unwrap().call(&mut store, args);
        assert_eq!(trap_of(result), TrapCode::Interrupt, "{name}");
        assert!(began.elapsed() >= Duration::from_millis(30) && began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
        store.set_deadline(None);
        assert_eq!(instance.typed_func::<(), i32>(&store, "fine").unwrap().call(&mut store, ()).unwrap(), 7);
        assert_eq!(instance.typed_func::<i32, i32>(&store, "fib").unwrap().call(&mut store, 20).unwrap(), 6765);
    }
    // A deadline that has passed already ends the call at once; one that a call has kept does not end the next.
    store.set_deadline(Some(Instant::now()));
    assert_eq!(trap_of(instance.func(&store, "loop").unwrap().call(&mut store, &[])), TrapCode::Interrupt);
    store.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    assert_eq!(instance.typed_func::<(), i32>(&store, "fine").unwrap().call(&mut store, ()).unwrap(), 7);
    store.set_deadline(None);
    std::thread::sleep(Duration::from_millis(40));
    assert_eq!(instance.typed_func::<i32, i32>(&store, "fib").unwrap().call(&mut store, 20).unwrap(), 6765);
}

#[test]
fn a_start_function_has_a_deadline_too() {
    let engine = engine();
    let module = module(&engine, "(module (func $start (loop br 0)) (start $start))");
    let mut store = Store::new(&engine, ()).unwrap();
    store.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    assert_eq!(trap_of(Linker::new().instantiate(&mut store, &module)), TrapCode::Interrupt);
}

#[test]
fn other_threads_can_interrupt_and_only_a_running_call() {
    let engine = engine();
    let (mut store, instance) = looping(&engine);
    let handle = store.interrupt_handle();
    assert!(!handle.interrupt());
    for (name, args) in ENDLESS {
        let result = std::thread::scope(|scope| {
            let interrupts = scope.spawn(|| {
                while !handle.interrupt() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            let result = instance.func(&store, name).unwrap().call(&mut store, args);
            interrupts.join().unwrap();
            result
        });
        assert_eq!(trap_of(result), TrapCode::Interrupt, "{name}");
        assert!(!handle.interrupt());
        assert_eq!(instance.typed_func::<(), i32>(&store, "fine").unwrap().call(&mut store, ()).unwrap(), 7);
    }
    drop(store);
    assert!(!handle.interrupt());
}

#[test]
fn a_cancelled_store_stops_the_call_that_is_going_on_and_each_later_one() {
    let engine = engine();
    for early in [false, true] {
        let (mut store, instance) = looping(&engine);
        let handle = store.interrupt_handle();
        if early {
            handle.cancel();
        }
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(10));
                handle.cancel();
            });
            instance.func(&store, "loop").unwrap().call(&mut store, &[])
        });
        assert_eq!(trap_of(result), TrapCode::Interrupt);
        for _ in 0..3 {
            assert_eq!(trap_of(instance.func(&store, "loop").unwrap().call(&mut store, &[])), TrapCode::Interrupt);
        }
    }
    // Whoever gets its pages next is not stopped.
    let (mut store, instance) = looping(&engine);
    assert_eq!(instance.typed_func::<(), i32>(&store, "fine").unwrap().call(&mut store, ()).unwrap(), 7);
}

#[test]
fn all_instances_of_a_store_are_interrupted() {
    let engine = engine();
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::<()>::new();
    let callee = linker.instantiate(&mut store, &module(&engine, r#"(module (func (export "loop") (loop br 0)))"#)).unwrap();
    linker.instance(&store, "a", callee).unwrap();
    let caller = module(&engine, r#"(module (import "a" "loop" (func $loop)) (func (export "run") call $loop))"#);
    let caller = linker.instantiate(&mut store, &caller).unwrap();
    store.set_deadline(Some(Instant::now() + Duration::from_millis(20)));
    let error = caller.func(&store, "run").unwrap().call(&mut store, &[]).unwrap_err();
    assert_eq!(error.trap().unwrap().code, TrapCode::Interrupt);
    assert_eq!(error.trap().unwrap().frames.len(), 2);
}

/// The mappings of this process with something of the range.
fn mappings(range: &std::ops::Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mappings = maps.lines().filter(|line| {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split_once(' ').unwrap().0;
        let (start, end) = (usize::from_str_radix(start, 16).unwrap(), usize::from_str_radix(end, 16).unwrap());
        start < range.end && range.start < end
    });
    mappings.count()
}

#[test]
fn an_instance_has_few_mappings_however_scattered_its_memory_is() {
    let engine = engine();
    let mut wat = String::from("(module (memory (export \"m\") 100) (table 5000 funcref) (elem (i32.const 0) $f) (func $f)");
    for page in 0..400 {
        write!(wat, "(data (i32.const {}) \"{page:03}\")", page * 4 * 4096 + 17).unwrap();
    }
    wat.push(')');
    let module = module(&engine, &wat);
    let before = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &module).unwrap();
    let after = std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    assert!(after.saturating_sub(before) <= 24, "{} mappings", after - before);
    let memory = instance.memory(&store, "m").unwrap();
    let base = memory.bytes(&store).as_ptr().addr();
    assert!(mappings(&(base..base + (4 << 30))) <= 18);
    for page in 0..400 {
        assert_eq!(&memory.bytes(&store)[page * 4 * 4096 + 17..][..3], format!("{page:03}").as_bytes());
    }
}

#[test]
fn no_page_is_writable_and_executable() {
    let engine = engine();
    let _running = instance(&engine, SCRIBBLER);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let text: Vec<_> = maps.lines().filter(|line| line.contains("memfd:preheat") && line.contains("r-xp")).collect();
    assert!(!text.is_empty());
    assert!(!maps.lines().any(|line| line.contains("wx")), "{maps}");
}

#[test]
fn handles_of_another_store_are_refused() {
    let engine = engine();
    let (mut first, one) = instance(&engine, SCRIBBLER);
    let (mut second, _) = instance(&engine, SCRIBBLER);
    let memory = one.memory(&first, "m").unwrap();
    let function = one.func(&first, "sizes").unwrap();
    let typed = one.typed_func::<(), (i32, i32)>(&first, "sizes").unwrap();
    assert!(function.call(&mut second, &[]).is_err());
    let panics = |what: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(what)).is_err();
    assert!(panics(&mut || drop(typed.call(&mut second, ()))));
    assert!(panics(&mut || assert!(memory.bytes(&second).is_empty())));
    assert!(panics(&mut || drop(one.export(&second, "m"))));
    let table = one.export(&first, "t").unwrap().into_table().unwrap();
    let (other, instance) = instance(&engine, SCRIBBLER);
    let foreign = instance.func(&other, "sizes").unwrap();
    assert!(table.set(&mut first, 0, &Val::FuncRef(Some(foreign))).is_err());
    let something = preheat_native::ExternRef::new(&mut second, 1u8);
    assert!(one.export(&first, "x").unwrap().into_table().unwrap().set(&mut first, 0, &Val::ExternRef(Some(something))).is_err());
    let mut linker = Linker::<()>::new();
    linker.define("a", "m", Extern::Memory(memory)).unwrap();
}
