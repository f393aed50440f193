//! What it costs to wake: `cargo run --release -p preheat-native --example wake_cost`. Prints medians.
//!
//! A guest with 40 MiB of state wakes and writes to some of its pages, scattered or together: from nothing loaded (cold), with the state
//! loaded and no slot (warm), and again and again (hot); with and without knowing beforehand which pages it writes.

#![allow(unsafe_code, reason = "code objects without a store")]

use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_loader::TrustedCode;
use preheat_native::{Config, Engine, Frozen, HeapFile, InstancePre, Linker, Module, SnapshotParts, Store, WrittenMemory};
use std::time::{Duration, Instant};

const SOURCE: &str = r#"(module (memory (export "m") 640)
    (global $ready (mut i32) (i32.const 0))
    (func (export "init") (local $at i32)
        (loop
            (i32.store (local.get $at) (i32.add (local.get $at) (i32.const 1)))
            (local.set $at (i32.add (local.get $at) (i32.const 4096)))
            (br_if 0 (i32.lt_u (local.get $at) (i32.const 0x2800000))))
        (global.set $ready (i32.const 1)))
    (func (export "dirty") (param $pages i32) (param $step i32) (local $at i32)
        (loop
            (i32.store (local.get $at) (i32.const 77))
            (local.set $at (i32.add (local.get $at) (local.get $step)))
            (br_if 0 (local.tee $pages (i32.sub (local.get $pages) (i32.const 1)))))))"#;

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Wakes an instance that writes to pages, and gives its slots back: how long until it has answered, and with giving back.
fn cycle(pre: &InstancePre<()>, frozen: &Frozen, engine: &Engine, (pages, step): (i32, i32)) -> (Duration, Duration) {
    let start = Instant::now();
    let mut store = Store::new(engine, ()).unwrap();
    let instance = pre.wake(&mut store, frozen).unwrap();
    instance.typed_func::<(i32, i32), ()>(&store, "dirty").unwrap().call(&mut store, (pages, step)).unwrap();
    let answered = start.elapsed();
    drop(store);
    (answered, start.elapsed())
}

fn main() {
    let compiler = Compiler::new(CompileOptions::new(CpuLevel::of_host().unwrap())).unwrap();
    let code = compiler.compile(&wat::parse_str(SOURCE).unwrap(), Digest::of(b"cost")).unwrap();
    let engine = Engine::new(Config::default()).unwrap();
    // SAFETY: the compiler made it.
    let module = Module::load(&engine, unsafe { TrustedCode::vouch(&code, "native") }.unwrap()).unwrap();
    let pre = Linker::<()>::new().instantiate_pre(&module).unwrap();
    let mut store = Store::new(&engine, ()).unwrap();
    let instance = pre.instantiate(&mut store).unwrap();
    instance.typed_func::<(), ()>(&store, "init").unwrap().call(&mut store, ()).unwrap();
    let state = instance.capture(&store).unwrap();
    let file = |written: &[WrittenMemory]| {
        HeapFile::of_bytes(&state.to_snapshot(&SnapshotParts { written, ..SnapshotParts::default() }).unwrap()).unwrap()
    };
    let plain = file(&[]);
    for (pages, step) in [(1, 4096), (64, 4096), (64, 20480), (500, 4096), (500, 20480)] {
        // What a sample of it wrote.
        let frozen = Frozen::load(&module, std::slice::from_ref(&plain), None).unwrap();
        let mut sample = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut sample, &frozen).unwrap();
        instance.typed_func::<(i32, i32), ()>(&sample, "dirty").unwrap().call(&mut sample, (pages, step)).unwrap();
        let written = instance.written(&sample).unwrap();
        drop((sample, frozen));
        let known = file(&written);
        let mut rows = [(); 6].map(|()| Vec::new());
        for _ in 0..60 {
            for (index, file) in [&plain, &known].into_iter().enumerate() {
                let frozen = Frozen::load(&module, std::slice::from_ref(file), None).unwrap();
                let (answered, _) = cycle(&pre, &frozen, &engine, (pages, step));
                rows[index].push(answered);
                (0..5).for_each(|_| rows[2 + index].push(cycle(&pre, &frozen, &engine, (pages, step)).1));
                let frozen = Frozen::load(&module, std::slice::from_ref(file), None).unwrap();
                frozen.prepare(1).unwrap();
                rows[4 + index].push(cycle(&pre, &frozen, &engine, (pages, step)).0);
            }
        }
        let rows = rows.map(median);
        println!("{pages} pages, a step of {step} bytes; without and with the write set:");
        for (name, row) in [("first answer", 0), ("first answer, slot prepared", 4), ("hot, until given back", 2)] {
            println!("  {name}: {:?} {:?}", rows[row], rows[row + 1]);
        }
    }
    let frozen = Frozen::load(&module, std::slice::from_ref(&plain), None).unwrap();
    let times = (0..300).map(|_| {
        let start = Instant::now();
        let frozen = Frozen::load(&module, std::slice::from_ref(&plain), None).unwrap();
        let loaded = start.elapsed();
        drop(frozen);
        loaded
    });
    println!("a state is prepared in {:?}", median(times.collect()));
    let times = (0..2000).map(|_| {
        let start = Instant::now();
        let mut store = Store::new(&engine, ()).unwrap();
        let instance = pre.wake(&mut store, &frozen).unwrap();
        let woken = start.elapsed();
        instance.typed_func::<(i32, i32), ()>(&store, "dirty").unwrap().call(&mut store, (1, 4096)).unwrap();
        drop(store);
        woken
    });
    println!("hot, an instance wakes in {:?}", median(times.collect()));
}
