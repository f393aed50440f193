//! Tables that lie. A signed code object's text is trusted, but what its tables say must not make the host misbehave.

mod common;

use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::abi::NONE;
use preheat_image::code::{CodeObject, SectionKind};
use preheat_image::native::{NativeCode, tag};
use preheat_image::{CpuLevel, Digest};
use preheat_native::{Caller, Engine, Linker, Store};
use proptest::prelude::*;
use std::sync::LazyLock;

const MODULE: &str = r#"(module
    (import "a" "f" (func $f (param i32) (result i32))) (import "a" "g" (global $g i32)) (import "a" "m" (memory 1 4))
    (import "a" "t" (table 2 funcref))
    (memory (export "own") 2 4) (table (export "table") 20 30 funcref) (table 3 externref)
    (global (export "global") (mut i32) (i32.add (global.get $g) (i32.const 7))) (global funcref (ref.func $f))
    (data (memory 1) (i32.const 5) "in the image") (data (global.get $g) "at run time") (data "passive")
    (elem (table 1) (i32.const 0) func $f $h) (elem (table 0) (global.get $g) func $h)
    (elem (table 1) (i32.const 8) funcref (ref.null func) (ref.func $h))
    (func $h (export "h") (param i32) (result i32) (i32.div_u (i32.const 100) (call $f (local.get 0)))))"#;

/// Loads, looks at everything and makes an instance; runs no code of it.
fn handle(engine: &Engine, code: &[u8]) -> bool {
    let Ok(module) = common::load(engine, code) else { return false };
    drop((module.imports(), module.exports()));
    let mut store = Store::new(engine, ()).unwrap();
    let mut linker = Linker::<()>::new();
    let exporter = common::module(
        engine,
        r#"(module (memory (export "m") 1 4) (table (export "t") 2 funcref) (global (export "g") i32 (i32.const 1)))"#,
    );
    let exporter = Linker::new().instantiate(&mut store, &exporter).unwrap();
    linker.instance(&store, "a", exporter).unwrap();
    linker.func_wrap("a", "f", |_: Caller<'_, ()>, n: i32| n).unwrap();
    let Ok(instance) = linker.instantiate(&mut store, &module) else { return true };
    for (_, item) in instance.exports(&store) {
        if let preheat_native::Extern::Table(table) = item {
            (0..table.size(&store)).for_each(|index| drop(table.get(&mut store, index)));
        }
    }
    true
}

#[test]
fn damaged_tables_are_refused_or_do_no_harm() {
    let engine = common::engine();
    let code = common::compile(&wat::parse_str(MODULE).unwrap()).unwrap();
    assert!(handle(&engine, &code));
    let sections = CodeObject::parse(&code, code.len() as u64).unwrap().sections;
    let mut places: Vec<usize> = (64..1024).collect();
    for section in sections.iter().filter(|section| section.kind == SectionKind::ReadOnly) {
        let start = usize::try_from(section.offset).unwrap();
        places.extend(start..start + usize::try_from(section.size.min(6000)).unwrap());
    }
    // Every so many bytes, with numbers that are likely to be one too many.
    let mut loaded = 0;
    for (round, place) in places.iter().enumerate().step_by(3) {
        let mut damaged = code.clone();
        damaged[*place] = [0xff, 0, 0x80, damaged[*place].wrapping_add(1)][round % 4];
        loaded += usize::from(handle(&engine, &damaged));
    }
    assert!(loaded > 100, "only {loaded} could be loaded: the test does not get far");
}

/// Numbers that are likely to be wrong.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0u32..40, 2 => any::<u8>().prop_map(|bit| 1 << (bit % 32)), 1 => any::<u32>(), 2 => (0u32..9).prop_map(|less| u32::MAX - less)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn several_wrong_numbers_are_refused_or_do_no_harm(
        numbers in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), number()), 1..5),
    ) {
        static ENGINE: LazyLock<Engine> = LazyLock::new(common::engine);
        static CODE: LazyLock<Vec<u8>> = LazyLock::new(|| common::compile(&wat::parse_str(MODULE).unwrap()).unwrap());
        let mut damaged = CODE.clone();
        let sections = CodeObject::parse(&CODE, CODE.len() as u64).unwrap().sections;
        let tables = sections.iter().filter(|section| section.kind == SectionKind::ReadOnly);
        // Most of what matters to instances is in one section.
        let tables = tables.flat_map(|section| std::iter::repeat_n(section, if section.tag == tag::MODULE { 9 } else { 1 }));
        let words: Vec<(u64, u64)> = tables.map(|section| (section.offset, section.size / 4)).filter(|(_, words)| *words > 0).collect();
        for (section, place, number) in numbers {
            let (offset, words) = section.get(&words);
            let place = usize::try_from(*offset).unwrap() + place.index(usize::try_from(*words).unwrap()) * 4;
            damaged[place..place + 4].copy_from_slice(&number.to_le_bytes());
        }
        // With a start function, code would run.
        if NativeCode::parse(&damaged).is_ok_and(|code| code.header.start.get() == NONE) {
            handle(&ENGINE, &damaged);
        }
    }
}

/// The fuzzer begins with the same module. Where the format has changed, `PREHEAT_WRITE_SEEDS=1` writes it anew.
#[test]
fn the_seed_of_the_fuzz_target_is_loaded() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/load/module");
    if std::env::var_os("PREHEAT_WRITE_SEEDS").is_some() {
        let options = CompileOptions::new(CpuLevel::V1);
        let code = Compiler::new(options).unwrap().compile(&wat::parse_str(MODULE).unwrap(), Digest::of(b"seed")).unwrap();
        std::fs::write(&path, code).unwrap();
    }
    assert!(handle(&common::engine(), &std::fs::read(&path).unwrap()));
}
