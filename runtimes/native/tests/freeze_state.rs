//! States without a call stack: what an instance was when it was captured, the instances that wake are.

mod common;

use common::{compile, engine, load, trap_of};
use preheat_image::abi::ValueType;
use preheat_image::heap::{HeapBuilder, HeapSnapshot, Value};
use preheat_native::{
    Config, Engine, Error, Extern, Frozen, Func, HeapFile, Instance, Limits, Linker, Module, PoolLimits, SnapshotParts, Store, TrapCode,
    Val,
};

fn module(engine: &Engine, wat: &str) -> Module {
    load(engine, &compile(&wat::parse_str(wat).unwrap()).unwrap()).unwrap()
}

/// The state of an instance over `layers`.
fn frozen_bytes(store: &Store<()>, instance: Instance, layers: &[HeapFile]) -> Vec<u8> {
    instance.capture(store).unwrap().to_snapshot(&SnapshotParts { layers, ..SnapshotParts::default() }).unwrap()
}

fn call(store: &mut Store<()>, instance: Instance, name: &str, params: &[i32]) -> i32 {
    let params: Vec<Val> = params.iter().map(|param| Val::I32(*param)).collect();
    let results = instance.func(&*store, name).unwrap().call(&mut *store, &params).unwrap();
    results.first().map_or(0, |result| if let Val::I32(value) = result { *value } else { panic!("{result:?}") })
}

/// Everything: two memories (one with a maximum), globals of all types, tables of functions (own and imported) and of externrefs,
/// passive and active segments.
const REACTOR: &str = r#"(module
    (import "host" "twice" (func $twice (param i32) (result i32)))
    (type $unary (func (param i32) (result i32)))
    (memory $first 2)
    (memory $second 1 4)
    (global $i (mut i32) (i32.const 1))
    (global $l (mut i64) (i64.const 2))
    (global $f (mut f32) (f32.const 3))
    (global $d (mut f64) (f64.const 4))
    (global $v (mut v128) (v128.const i32x4 1 2 3 4))
    (global $function (mut funcref) (ref.null func))
    (global $import (mut funcref) (ref.null func))
    (global $null (mut externref) (ref.null extern))
    (global $constant i32 (i32.const 77))
    (table $functions 8 20 funcref)
    (table $hosts 3 externref)
    (elem (table $functions) (i32.const 1) func $thrice $twice)
    (elem $passive func $thrice)
    (elem $kept func $thrice)
    (data (memory $first) (i32.const 10) "active")
    (data $gone "passive")
    (data $there "there")
    (func $thrice (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
    (func $plus (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
    (elem declare func $plus)
    (func (export "_initialize")
        (drop (memory.grow $second (i32.const 2)))
        (i32.store $first (i32.const 70000) (i32.const 5))
        (i32.store8 $first (i32.const 10) (i32.const 0x41))
        (i32.store $second (i32.const 190000) (i32.const 6))
        (memory.init $first $gone (i32.const 200) (i32.const 0) (i32.const 7))
        (data.drop $gone)
        (elem.drop $passive)
        (global.set $i (i32.const -5))
        (global.set $l (i64.const -6))
        (global.set $f (f32.const 7.5))
        (global.set $d (f64.const nan:0x123))
        (global.set $v (v128.const i64x2 -1 9))
        (global.set $function (ref.func $plus))
        (global.set $import (ref.func $twice))
        (drop (table.grow $functions (ref.func $plus) (i32.const 3)))
        (table.set $functions (i32.const 0) (ref.func $plus))
        (table.set $functions (i32.const 5) (ref.func $twice))
        (table.set $functions (i32.const 2) (ref.null func)))
    (func (export "call") (param i32 i32) (result i32) (call_indirect $functions (type $unary) (local.get 1) (local.get 0)))
    (func (export "call global") (param i32 i32) (result i32)
        (table.set $functions (i32.const 7) (select (result funcref) (global.get $function) (global.get $import) (local.get 0)))
        (call_indirect $functions (type $unary) (local.get 1) (i32.const 7)))
    (func (export "first") (param i32) (result i32) (i32.load $first (local.get 0)))
    (func (export "second") (param i32) (result i32) (i32.load $second (local.get 0)))
    (func (export "write") (param i32 i32) (i32.store $first (local.get 0) (local.get 1)))
    (func (export "size") (result i32) (memory.size $second))
    (func (export "grow") (param i32) (result i32) (memory.grow $second (local.get 0)))
    (func (export "entries") (result i32) (table.size $functions))
    (func (export "init gone") (memory.init $first $gone (i32.const 0) (i32.const 0) (i32.const 1)))
    (func (export "init there") (memory.init $first $there (i32.const 0) (i32.const 0) (i32.const 5)))
    (func (export "init passive") (table.init $functions $passive (i32.const 0) (i32.const 0) (i32.const 1)))
    (func (export "init kept") (table.init $functions $kept (i32.const 3) (i32.const 0) (i32.const 1)))
    (func (export "mix") (result i64)
        (local $sum i64)
        (local.set $sum (i64.add (i64.extend_i32_s (global.get $i)) (i64.extend_i32_s (global.get $constant))))
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (global.get $l)))
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.extend_i32_u (i32.reinterpret_f32 (global.get $f)))))
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64.reinterpret_f64 (global.get $d))))
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64x2.extract_lane 0 (global.get $v))))
        (local.set $sum (i64.add (i64.mul (local.get $sum) (i64.const 31)) (i64x2.extract_lane 1 (global.get $v))))
        (i64.add (local.get $sum) (i64.extend_i32_u (ref.is_null (global.get $null))))))"#;

fn linker() -> Linker<()> {
    let mut linker = Linker::new();
    linker.func_wrap("host", "twice", |_: preheat_native::Caller<'_, ()>, value: i32| value * 2).unwrap();
    linker
}

/// All that the reactor shows of itself.
fn observed(store: &mut Store<()>, instance: Instance) -> Vec<i64> {
    let mut all = vec![];
    for place in [10, 70000, 200, 203] {
        all.push(i64::from(call(store, instance, "first", &[place])));
    }
    all.push(i64::from(call(store, instance, "second", &[190_000])));
    all.push(i64::from(call(store, instance, "size", &[])));
    all.push(i64::from(call(store, instance, "entries", &[])));
    for entry in [0, 1, 5, 8, 10] {
        all.push(i64::from(call(store, instance, "call", &[entry, 100])));
    }
    for entry in [2, 3, 6, 11] {
        let func = instance.func(&*store, "call").unwrap();
        let trap = trap_of(func.call(&mut *store, &[Val::I32(entry), Val::I32(1)]));
        all.push(i64::from(trap.number()));
    }
    all.push(i64::from(call(store, instance, "call global", &[1, 100])));
    all.push(i64::from(call(store, instance, "call global", &[0, 100])));
    let mix = instance.func(&*store, "mix").unwrap().call(&mut *store, &[]).unwrap();
    let Val::I64(mix) = mix[0] else { panic!("{mix:?}") };
    all.push(mix);
    for (name, traps) in [("init gone", true), ("init passive", true), ("init there", false), ("init kept", false)] {
        assert_eq!(instance.func(&*store, name).unwrap().call(&mut *store, &[]).is_err(), traps, "{name}");
    }
    all.push(i64::from(call(store, instance, "call", &[3, 7])));
    all.push(i64::from(call(store, instance, "first", &[0])));
    all
}

#[test]
fn a_reactor_wakes_with_the_state_of_its_initialisation() {
    let engine = engine();
    let module = module(&engine, REACTOR);
    let pre = linker().instantiate_pre(&module).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    call(&mut store, instance, "_initialize", &[]);
    let bytes = frozen_bytes(&store, instance, &[]);
    assert_eq!(bytes, frozen_bytes(&store, instance, &[]), "the same state is the same bytes");
    let expected = observed(&mut store, instance);
    drop(store);
    let frozen = Frozen::load(&module, &[HeapFile::of_bytes(&bytes).unwrap()], None).unwrap();
    for round in 0..3 {
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        assert_eq!(frozen_bytes(&store, instance, &[]), bytes, "what wakes is captured as the same bytes");
        assert_eq!(observed(&mut store, instance), expected, "round {round}");
        // What it writes is nobody else's.
        assert_eq!(call(&mut store, instance, "grow", &[1]), 3);
        call(&mut store, instance, "write", &[70000, 99]);
        assert_eq!(call(&mut store, instance, "grow", &[1]), -1, "the declared maximum");
    }
    // The snapshot says what was asked for, and no more: two ranges of the table where something changed.
    let snapshot = HeapSnapshot::parse(&bytes).unwrap();
    let ranges: Vec<_> = snapshot.tables().flat_map(|(_, ranges)| ranges).map(|(first, elements)| (first, elements.len())).collect();
    assert_eq!(ranges, [(0, 1), (2, 1), (5, 1), (8, 3)]);
    assert_eq!((snapshot.dropped_data(), snapshot.dropped_elements()), (&[1, 1, 0][..], &[1, 1, 0, 1][..]));
}

#[test]
fn a_layer_is_over_what_was_captured_before() {
    let engine = engine();
    let module = module(&engine, REACTOR);
    let pre = linker().instantiate_pre(&module).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    call(&mut store, instance, "_initialize", &[]);
    let mut layers = vec![HeapFile::of_bytes(&frozen_bytes(&store, instance, &[])).unwrap()];
    // Each layer is made by waking the one below: a page becomes zero, another changes, one more is used.
    for step in 1..4 {
        let frozen = Frozen::load(&module, &layers, None).unwrap();
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        call(&mut store, instance, "write", &[70000, 0]);
        call(&mut store, instance, "write", &[100_000 + step * 4096, step]);
        call(&mut store, instance, "write", &[200, step]);
        let bytes = frozen_bytes(&store, instance, &layers);
        let snapshot = HeapSnapshot::parse(&bytes).unwrap();
        assert_eq!(snapshot.base(), Some(layers.last().unwrap().digest()));
        assert_eq!(snapshot.runs().iter().filter(|run| run.is_zero()).count(), usize::from(step == 1));
        assert!(bytes.len() < 4 * 4096, "{} bytes", bytes.len());
        layers.push(HeapFile::of_bytes(&bytes).unwrap());
    }
    let mut values = Vec::new();
    for count in 1..=layers.len() {
        let frozen = Frozen::load(&module, &layers[..count], None).unwrap();
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        let places = [70000, 200, 100_000 + 4096, 100_000 + 2 * 4096, 100_000 + 3 * 4096];
        values.push(places.map(|place| call(&mut store, instance, "first", &[place])));
        assert_eq!(frozen.digest(), layers[count - 1].digest());
    }
    let pass = i32::from_le_bytes(*b"pass");
    assert_eq!(values, [[5, pass, 0, 0, 0], [0, 1, 1, 0, 0], [0, 2, 1, 2, 0], [0, 3, 1, 2, 3]]);
}

#[test]
fn slots_that_others_use_next_show_nothing() {
    let one_slot = PoolLimits { slots: 2, ..PoolLimits::default() };
    let engine = Engine::new(Config { memories: one_slot, tables: one_slot, ..Config::default() }).unwrap();
    let module = module(&engine, REACTOR);
    let pre = linker().instantiate_pre(&module).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    let fresh = frozen_bytes(&store, instance, &[]);
    call(&mut store, instance, "_initialize", &[]);
    let bytes = frozen_bytes(&store, instance, &[]);
    drop(store);
    let frozen = Frozen::load(&module, &[HeapFile::of_bytes(&bytes).unwrap()], None).unwrap();
    for _ in 0..3 {
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        assert_eq!(frozen_bytes(&store, instance, &[]), bytes);
        call(&mut store, instance, "write", &[50, 1234]);
        call(&mut store, instance, "grow", &[1]);
        drop(store);
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.instantiate(&mut store).unwrap();
        assert_eq!(frozen_bytes(&store, instance, &[]), fresh, "an instance that does not wake begins as ever");
        call(&mut store, instance, "write", &[70000, 4321]);
    }
    drop(pre.wake(&mut Store::new(&engine, ()).unwrap(), &frozen));
    assert_eq!(engine.memory_slots(), (2, 2));
    drop(frozen);
    assert_eq!(engine.memory_slots(), (2, 2), "its slots are kept for others");
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    assert_eq!(frozen_bytes(&store, instance, &[]), fresh, "who find nothing of it");
}

/// Kilobytes of a mapping of this process by `/proc/self/smaps`, for those within a range: private and proportional.
fn resident(range: std::ops::Range<usize>) -> (usize, usize) {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut private, mut proportional, mut within) = (0, 0, false);
    for line in smaps.lines() {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-').filter(|_| !first.ends_with(':')) {
            let [start, end] = [start, end].map(|number| usize::from_str_radix(number, 16).unwrap());
            within = start >= range.start && end <= range.end;
        } else if within {
            let value = || line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap();
            match first {
                "Private_Dirty:" => private += value(),
                "Pss:" => proportional += value(),
                _ => {}
            }
        }
    }
    (private, proportional)
}

#[test]
fn instances_share_what_they_have_not_written() {
    const PAGES: usize = 1024;
    let engine = engine();
    let module = module(
        &engine,
        r#"(module (memory (export "memory") 64)
            (func (export "fill") (local $at i32)
                (loop
                    (i32.store (local.get $at) (i32.add (local.get $at) (i32.const 1)))
                    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                    (br_if 0 (i32.lt_u (local.get $at) (i32.const 0x400000)))))
            (func (export "sum") (result i32) (local $at i32) (local $sum i32)
                (loop
                    (local.set $sum (i32.add (local.get $sum) (i32.load (local.get $at))))
                    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                    (br_if 0 (i32.lt_u (local.get $at) (i32.const 0x400000))))
                (local.get $sum))
            (func (export "write") (param i32) (i32.store (local.get 0) (i32.const 1))))"#,
    );
    let pre = Linker::new().instantiate_pre(&module).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    call(&mut store, instance, "fill", &[]);
    let base = HeapFile::of_bytes(&frozen_bytes(&store, instance, &[])).unwrap();
    // A layer with scattered pages, more than may be mapped.
    (0..40).for_each(|page| _ = call(&mut store, instance, "write", &[page * 16 * 4096 + 8]));
    let layer = HeapFile::of_bytes(&frozen_bytes(&store, instance, std::slice::from_ref(&base))).unwrap();
    let expected = call(&mut store, instance, "sum", &[]);
    drop(store);
    let frozen = Frozen::load(&module, &[base, layer], None).unwrap();
    let mut all = Vec::new();
    for _ in 0..10 {
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        assert_eq!(call(&mut store, instance, "sum", &[]), expected);
        call(&mut store, instance, "write", &[4096 * 100]);
        all.push((store, instance));
    }
    for (store, instance) in &all {
        let memory = instance.memory(store, "memory").unwrap();
        let start = memory.bytes(store).as_ptr().addr();
        let (private, proportional) = resident(start..start + (4 << 30));
        // What it wrote, and what is copied since it is scattered; all else is read from the page cache by all.
        assert!(private <= 4 * (40 + 1 + 4), "{private} KiB are its own");
        assert!(proportional <= private + 4 * PAGES / 8, "{proportional} KiB of {} are counted as its own", 4 * PAGES);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let own = maps.lines().filter_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok());
        let count = own.filter(|address| (start..start + (4 << 30)).contains(address)).count();
        assert!(count <= 24, "{count} mappings");
    }
}

#[test]
fn what_can_not_be_named_is_refused() {
    let engine = engine();
    let refused = |wat: &str, init: fn(&mut Linker<()>, &mut Store<()>), run: fn(&mut Store<()>, Instance)| {
        let module = module(&engine, wat);
        let mut store = Store::new(&engine, ()).unwrap();
        let mut linker = Linker::new();
        init(&mut linker, &mut store);
        let instance = linker.instantiate(&mut store, &module).unwrap();
        run(&mut store, instance);
        match instance.capture(&store) {
            Err(Error::Freeze(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    let memory = |linker: &mut Linker<()>, store: &mut Store<()>| {
        let memory = preheat_native::Memory::new(&mut *store, preheat_native::MemoryType { min: 1, max: None }).unwrap();
        let global = preheat_native::Global::new(&mut *store, true, &Val::I32(1)).unwrap();
        let ty = preheat_native::TableType { element: ValueType::FuncRef, min: 1, max: None };
        let table = preheat_native::Table::new(&mut *store, ty).unwrap();
        linker.define("env", "memory", Extern::Memory(memory)).unwrap();
        linker.define("env", "global", Extern::Global(global)).unwrap();
        linker.define("env", "table", Extern::Table(table)).unwrap();
    };
    assert!(refused(r#"(module (import "env" "memory" (memory 1)))"#, memory, |_, _| ()).contains("the memory env::memory"));
    assert!(
        refused(r#"(module (import "env" "global" (global (mut i32))))"#, memory, |_, _| ()).contains("the variable global env::global")
    );
    assert!(refused(r#"(module (import "env" "table" (table 1 funcref)))"#, memory, |_, _| ()).contains("the table env::table"));
    let set = |store: &mut Store<()>, instance: Instance| {
        let reference = preheat_native::ExternRef::new(&mut *store, 5);
        let func = instance.func(&*store, "set").unwrap();
        func.call(store, &[Val::ExternRef(Some(reference))]).unwrap();
    };
    let global =
        r#"(module (global $g (mut externref) (ref.null extern)) (func (export "set") (param externref) (global.set $g (local.get 0))))"#;
    assert!(refused(global, |_, _| (), set).contains("global 0 is a reference to something of the host"));
    let table = r#"(module (table 3 externref) (func (export "set") (param externref) (table.set (i32.const 2) (local.get 0))))"#;
    assert!(refused(table, |_, _| (), set).contains("entry 2 of table 0 refers to something of the host"));
    let foreign = |store: &mut Store<()>, instance: Instance| {
        let other = module(store.engine(), r#"(module (func (export "f")))"#);
        let other = Linker::new().instantiate(&mut *store, &other).unwrap();
        let function: Func = other.func(&*store, "f").unwrap();
        instance.func(&*store, "set").unwrap().call(store, &[Val::FuncRef(Some(function))]).unwrap();
    };
    let table = r#"(module (table 3 funcref) (func (export "set") (param funcref) (table.set (i32.const 1) (local.get 0))))"#;
    assert!(refused(table, |_, _| (), foreign).contains("entry 1 of table 0 is a function that is not the instance's"));
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let engine = engine();
    let wat = r#"(module (memory 1 3) (global (mut i32) (i32.const 0)) (table 4 8 funcref) (table 2 externref) (func) (data "x"))"#;
    let module = module(&engine, wat);
    let wasm = wat::parse_str(wat).unwrap();
    let source = preheat_image::Digest::of(&wasm);
    let zero = Value::new(ValueType::I32, [0; 16]);
    let pages = vec![0u8; 4 << 16];
    let none = || Vec::<(u32, Vec<u32>)>::new();
    let build = |memory: &[u8], global: Value, table: u32, element: u32, second: (u32, Vec<u32>), data: &[bool]| {
        let builder = HeapBuilder::new().memory(0, memory).global(0, global);
        let builder = builder.table(0, table, [(1, vec![element])]).table(1, 2, [second]).dropped(data, &[]);
        HeapFile::of_bytes(&builder.encode(source).unwrap()).unwrap()
    };
    let good = build(&pages[..1 << 16], zero, 4, 1, (0, vec![0]), &[true]);
    assert!(Frozen::load(&module, std::slice::from_ref(&good), None).is_ok());
    let error = |layers: &[HeapFile]| Frozen::load(&module, layers, None).unwrap_err().to_string();
    assert!(error(&[]).contains("there is no heap snapshot"));
    assert!(error(&[build(&pages, zero, 4, 1, (0, vec![0]), &[true])]).contains("memory 0 has 262144 bytes"));
    assert!(error(&[build(&[], zero, 4, 1, (0, vec![0]), &[true])]).contains("memory 0 has 0 bytes"));
    let wide = Value::new(ValueType::I64, [0; 16]);
    assert!(error(&[build(&pages[..1 << 16], wide, 4, 1, (0, vec![0]), &[true])]).contains("global 0 has a value of kind 2, not i32"));
    assert!(error(&[build(&pages[..1 << 16], zero, 9, 1, (0, vec![0]), &[true])]).contains("table 0 has 9 entries"));
    assert!(error(&[build(&pages[..1 << 16], zero, 3, 1, (0, vec![0]), &[true])]).contains("table 0 has 3 entries"));
    assert!(error(&[build(&pages[..1 << 16], zero, 4, 2, (0, vec![0]), &[true])]).contains("it has function 1, the module only 1"));
    assert!(error(&[build(&pages[..1 << 16], zero, 4, 1, (0, vec![1]), &[true])]).contains("table 1 is not one of functions"));
    assert!(error(&[build(&pages[..1 << 16], zero, 4, 1, (0, vec![0]), &[])]).contains("0 data segments"));
    assert!(error(&[good.clone(), good.clone()]).contains("no base"));
    let layer = HeapBuilder::over(good.digest(), &[good.snapshot().unwrap()]).memory(0, &pages[..1 << 16]).global(0, zero);
    let layer = layer.table(0, 4, none()).table(1, 2, none()).dropped(&[true], &[]).encode(source).unwrap();
    let layer = HeapFile::of_bytes(&layer).unwrap();
    assert!(Frozen::load(&module, &[good.clone(), layer.clone()], None).is_ok());
    assert!(error(std::slice::from_ref(&layer)).contains("not no base"));
    let other = HeapBuilder::new().encode(preheat_image::Digest::of(b"other")).unwrap();
    assert!(error(&[HeapFile::of_bytes(&other).unwrap()]).contains("of module"));
    let less = HeapBuilder::new().memory(0, &pages[..1 << 16]).table(0, 4, none()).table(1, 2, none()).dropped(&[true], &[]);
    assert!(error(&[HeapFile::of_bytes(&less.encode(source).unwrap()).unwrap()]).contains("it has the globals []"));
    let cut = good.snapshot().map(|_| HeapFile::of_bytes(b"PREHHEAP").unwrap()).unwrap();
    assert!(matches!(Frozen::load(&module, &[cut], None), Err(Error::Format(_))));
}

#[test]
fn limits_and_modules_are_those_of_the_store_that_wakes() {
    let engine = engine();
    let wat = r#"(module (memory 2) (func (export "f")))"#;
    let (one, other) = (module(&engine, wat), module(&engine, wat));
    let pre = Linker::new().instantiate_pre(&one).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    let file = HeapFile::of_bytes(&frozen_bytes(&store, instance, &[])).unwrap();
    let frozen = Frozen::load(&one, std::slice::from_ref(&file), None).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    store.set_limits(Limits { memory_bytes: 1 << 16, ..Limits::default() });
    assert!(matches!(pre.wake(&mut store, &frozen), Err(Error::Limit(_))));
    let pre = Linker::new().instantiate_pre(&other).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    assert!(matches!(pre.wake(&mut store, &frozen), Err(Error::Frozen(_))));
}

#[test]
fn a_table_that_instantiation_fills_is_there_as_a_whole() {
    let engine = engine();
    let module = module(
        &engine,
        r#"(module (import "env" "at" (global $at i32)) (table 6 funcref) (func $f) (elem (global.get $at) func $f)
            (func (export "is null") (param i32) (result i32) (ref.is_null (table.get (local.get 0)))))"#,
    );
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::new();
    linker.define("env", "at", Extern::Global(preheat_native::Global::new(&mut store, false, &Val::I32(2)).unwrap())).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let bytes = frozen_bytes(&store, instance, &[]);
    let frozen = Frozen::load(&module, &[HeapFile::of_bytes(&bytes).unwrap()], None).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::new();
    linker.define("env", "at", Extern::Global(preheat_native::Global::new(&mut store, false, &Val::I32(5)).unwrap())).unwrap();
    let instance = linker.instantiate_pre(&module).unwrap().wake(&mut store, &frozen).unwrap();
    let nulls: Vec<i32> = (0..6).map(|entry| call(&mut store, instance, "is null", &[entry])).collect();
    assert_eq!(nulls, [1, 1, 0, 1, 1, 1]);
    let func = instance.func(&store, "is null").unwrap();
    assert_eq!(trap_of(func.call(&mut store, &[Val::I32(6)])), TrapCode::TableOutOfBounds);
}
