//! Opening code, and using a slot again.

use crate::engines::{Native, System, Wasmtime};
use crate::{Options, Row};
use std::fmt::Write as _;
use std::time::Instant;

const SYSTEMS: [&str; 2] = ["native", "wasmtime"];

/// A module with `functions` that are never called, and one that writes to `pages` pages.
fn source(functions: usize) -> Vec<u8> {
    let mut wat = String::from(
        "(module (memory (export \"m\") 400 1000) (table 1000 funcref) (elem (i32.const 1) $dirty) (data (i32.const 4096) \"something\")
        (global (mut i32) (i32.const 65536))
        (func $dirty (export \"dirty\") (param $pages i32) (result i32) (local $at i32)
            (loop
                (i32.store (local.get $at) (i32.const 77))
                (local.set $at (i32.add (local.get $at) (i32.const 20480)))
                (br_if 0 (local.tee $pages (i32.sub (local.get $pages) (i32.const 1)))))
            (local.get $at))",
    );
    for function in 0..functions {
        wat.push_str("(func (param i64 i64) (result i64) (local i64)");
        for step in 0..40 {
            let (from, number) = (step % 2, function * 64 + step);
            let value = format!("(i64.mul (local.get {from}) (i64.const {number}))");
            write!(wat, "(local.set 2 (i64.xor {value} (i64.rotl (local.get 2) (local.get {from}))))").unwrap();
        }
        wat.push_str("(local.get 2))");
    }
    wat.push(')');
    wat::parse_str(wat).unwrap()
}

/// From the name of a file to an instance that can be called.
pub(crate) fn open(options: &Options) -> Vec<Row> {
    let (native, wasmtime) = (Native::new(true, None), Wasmtime::new(true, true));
    let scratch = tempfile::tempdir().unwrap();
    let mut rows = Vec::new();
    for functions in [400, 17_500] {
        let wasm = source(functions);
        let (ours, theirs) = (native.compile(&wasm).unwrap(), wasmtime.compile(&wasm).unwrap());
        let (our_file, file) = (scratch.path().join("native"), scratch.path().join("wasmtime"));
        std::fs::write(&our_file, &ours).unwrap();
        std::fs::write(&file, &theirs).unwrap();
        let mut row = Row::new("open", format!("{:.1} MB", ours.len() as f64 / 1e6), "µs", &SYSTEMS);
        for _ in 0..options.rounds * 5 {
            // The store gives a descriptor of a file that it checked; opening is counted, that check is not.
            let trusted = Native::trust(&ours);
            let started = Instant::now();
            let opened = std::fs::File::open(&our_file).unwrap();
            let module = native.load(trusted);
            let pre = preheat_native::Linker::<()>::new().instantiate_pre(&module).unwrap();
            let mut store = preheat_native::Store::new(&native.engine, ()).unwrap();
            let instance = pre.instantiate(&mut store).unwrap();
            let dirty = instance.typed_func::<i32, i32>(&store, "dirty").unwrap();
            row.push(0, started.elapsed().as_secs_f64() * 1e6);
            dirty.call(&mut store, 1).unwrap();
            drop((opened, store));

            let started = Instant::now();
            let module = wasmtime.load_file(&file);
            let pre = wasmtime::Linker::<()>::new(&wasmtime.engine).instantiate_pre(&module).unwrap();
            let mut store = wasmtime::Store::new(&wasmtime.engine, ());
            store.set_epoch_deadline(1 << 40);
            let instance = pre.instantiate(&mut store).unwrap();
            let dirty = instance.get_typed_func::<i32, i32>(&mut store, "dirty").unwrap();
            row.push(1, started.elapsed().as_secs_f64() * 1e6);
            dirty.call(&mut store, 1).unwrap();
        }
        rows.push(row);
    }
    rows
}

/// An instance taken from a slot and given back, without the time that the guest takes to write.
pub(crate) fn slot(options: &Options) -> Vec<Row> {
    let (native, wasmtime) = (Native::new(true, None), Wasmtime::new(true, true));
    let wasm = source(10);
    let ours = native.load(Native::trust(&native.compile(&wasm).unwrap()));
    let theirs = wasmtime.load(&wasmtime.compile(&wasm).unwrap());
    let our_pre = preheat_native::Linker::<()>::new().instantiate_pre(&ours).unwrap();
    let pre = wasmtime::Linker::<()>::new(&wasmtime.engine).instantiate_pre(&theirs).unwrap();
    let mut rows = Vec::new();
    for pages in [1, 64, 500] {
        let mut row = Row::new("slot", format!("{pages} pages"), "µs", &SYSTEMS);
        for round in 0..options.rounds * 30 {
            let started = Instant::now();
            let mut store = preheat_native::Store::new(&native.engine, ()).unwrap();
            let instance = our_pre.instantiate(&mut store).unwrap();
            let dirty = instance.typed_func::<i32, i32>(&store, "dirty").unwrap();
            let taken = started.elapsed();
            dirty.call(&mut store, pages).unwrap();
            let started = Instant::now();
            drop(store);
            let ours = taken + started.elapsed();

            let started = Instant::now();
            let mut store = wasmtime::Store::new(&wasmtime.engine, ());
            store.set_epoch_deadline(1 << 40);
            let instance = pre.instantiate(&mut store).unwrap();
            let dirty = instance.get_typed_func::<i32, i32>(&mut store, "dirty").unwrap();
            let taken = started.elapsed();
            dirty.call(&mut store, pages).unwrap();
            let started = Instant::now();
            drop(store);
            let theirs = taken + started.elapsed();
            if round >= 50 {
                row.push(0, ours.as_secs_f64() * 1e6);
                row.push(1, theirs.as_secs_f64() * 1e6);
            }
        }
        rows.push(row);
    }
    rows
}
