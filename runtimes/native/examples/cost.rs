//! What it costs to open code and to use a slot again: `cargo run --release -p preheat-native --example cost`. Prints medians.
//!
//! The modules are made here: functions that nobody calls give the size, and a guest writes to as many pages as the row says.

#![allow(unsafe_code, reason = "code objects without a store")]

use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_loader::TrustedCode;
use preheat_native::{Config, Engine, InstancePre, Linker, Module, Store, WrittenPages};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A module with `functions` that are never called, and one that writes to `pages` pages.
fn source(functions: usize) -> String {
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
        write!(wat, "(func (param i64 i64) (result i64) (local i64)").unwrap();
        for step in 0..40 {
            write!(
                wat,
                "(local.set 2 (i64.xor (i64.mul (local.get {}) (i64.const {})) (i64.rotl (local.get 2) (local.get {}))))",
                step % 2,
                function * 64 + step,
                step % 2
            )
            .unwrap();
        }
        wat.push_str("(local.get 2))");
    }
    wat.push(')');
    wat
}

fn cycle(pre: &InstancePre<()>, engine: &Engine, pages: i32) -> Duration {
    let start = Instant::now();
    let mut store = Store::new(engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    let dirty = instance.typed_func::<i32, i32>(&store, "dirty").unwrap();
    let taken = start.elapsed();
    dirty.call(&mut store, pages).unwrap();
    let start = Instant::now();
    drop(store);
    taken + start.elapsed()
}

fn main() {
    let compiler = Compiler::new(CompileOptions::new(CpuLevel::of_host().unwrap())).unwrap();
    for functions in [0, 400, 17_000] {
        let code = compiler.compile(&wat::parse_str(source(functions)).unwrap(), Digest::of(b"cost")).unwrap();
        let engine = Engine::new(Config { prepared: 4, ..Config::default() }).unwrap();
        // SAFETY: the compiler made it.
        let original = unsafe { TrustedCode::vouch(&code, "native") }.unwrap();
        let times = (0..500).map(|_| {
            let trusted = original.try_clone().unwrap();
            let start = Instant::now();
            let module = Module::load(&engine, trusted).unwrap();
            let loaded = start.elapsed();
            let pre = Linker::<()>::new().instantiate_pre(&module).unwrap();
            let mut store = Store::new(&engine, ()).unwrap();
            let instance = pre.instantiate(&mut store).unwrap();
            let dirty = instance.typed_func::<i32, i32>(&store, "dirty").unwrap();
            let ready = start.elapsed();
            dirty.call(&mut store, 1).unwrap();
            (loaded, ready, start.elapsed())
        });
        let times: Vec<_> = times.collect();
        let of = |part: fn(&(Duration, Duration, Duration)) -> Duration| median(times.iter().map(part).collect());
        println!("{:>9} bytes: loaded {:?}, ready {:?}, called {:?}", code.len(), of(|t| t.0), of(|t| t.1), of(|t| t.2));
    }
    for method in [WrittenPages::Scan, WrittenPages::Pagemap, WrittenPages::Remap] {
        let engine = Engine::new(Config { written_pages: Some(method), ..Config::default() }).unwrap();
        let code = compiler.compile(&wat::parse_str(source(10)).unwrap(), Digest::of(b"cost")).unwrap();
        // SAFETY: the compiler made it.
        let module = Module::load(&engine, unsafe { TrustedCode::vouch(&code, "native") }.unwrap()).unwrap();
        let pre = Linker::<()>::new().instantiate_pre(&module).unwrap();
        for pages in [1, 64, 500, 1000] {
            (0..50).for_each(|_| _ = cycle(&pre, &engine, pages));
            let time = median((0..1000).map(|_| cycle(&pre, &engine, pages)).collect());
            println!("{method:?}: taken and given back with {pages} written pages: {time:?}");
        }
    }
    let engine = Engine::new(Config::default()).unwrap();
    let code = compiler.compile(&wat::parse_str(source(0)).unwrap(), Digest::of(b"cost")).unwrap();
    // SAFETY: the compiler made it.
    let module = Module::load(&engine, unsafe { TrustedCode::vouch(&code, "native") }.unwrap()).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &module).unwrap();
    let dirty = instance.typed_func::<i32, i32>(&store, "dirty").unwrap();
    let start = Instant::now();
    (0..1_000_000).for_each(|_| drop(dirty.call(&mut store, 1)));
    println!("a call from the host: {:?}", start.elapsed() / 1_000_000);
}
