//! Capture code and resume objects: what is around a site in every way, in real programs, and in random ones. The code generator's verifier is on.
//! That woken programs compute the same is shown in `runtimes/native/tests/freeze.rs`, which runs them.

mod common;

use common::{calls, compiler, module};
use preheat_compiler::{CompileError, CompileOptions, Compiler, Site};
use preheat_image::abi::{NONE, ValueType};
use preheat_image::native::{FunctionRecord, ImportRecord, NativeCode, NativeParts, RangeKind, StringRange};
use preheat_image::{CpuLevel, Digest};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use wasmparser::{Parser, Payload, TypeRef};

/// The types of the values at each site of capture code.
fn captured(bytes: &[u8]) -> BTreeMap<Site, Vec<u8>> {
    let code = NativeCode::parse(bytes).unwrap();
    assert!(code.captures());
    let mut sites = BTreeMap::new();
    for record in code.sites {
        let site = Site { function: record.function.get(), offset: record.site.get() };
        // The return address is in the function, directly behind the call's place in the Wasm.
        let range = code.range(record.return_to.get() - 1).unwrap();
        assert_eq!((range.kind.get(), range.index.get()), (RangeKind::Function as u32, site.function));
        assert_eq!(code.wasm_offset(record.return_to.get() - 1), Some(site.offset));
        assert!(std::ptr::eq(code.site(record.return_to.get()).unwrap(), record));
        let values = code.site_values(record).unwrap();
        let slots: BTreeSet<_> = values.iter().map(|value| value.slot.get()).collect();
        assert_eq!(slots.len(), values.len(), "no two values are in one slot");
        let types: Vec<_> = values.iter().map(|value| value.ty).collect();
        // Copies of one site in a resume function have one layout.
        assert_eq!(sites.entry(site).or_insert_with(|| types.clone()), &types);
    }
    sites
}

/// Makes resume objects of all sites that capture code has, without and with capture, and compares layouts and types.
fn resumes_everywhere(wasm: &[u8], cpu: CpuLevel) -> usize {
    let base = compiler(cpu, false).compile(wasm, Digest::ZERO).unwrap();
    let capture = compiler(cpu, true).compile(wasm, Digest::ZERO).unwrap();
    let layouts = captured(&capture);
    let (calls, imported) = calls(wasm);
    assert!(layouts.keys().all(|site| calls.contains(site)));
    let mut sites: Vec<Site> = layouts.keys().copied().collect();
    sites.extend((0..imported).map(|function| Site { function, offset: NONE }));
    for (capturing, base) in [(false, &base), (true, &capture)] {
        let bytes = compiler(cpu, capturing).resume(wasm, base, &sites, Digest::of(b"key")).unwrap();
        check_resume_object(&bytes, base, &layouts);
        let code = NativeCode::parse(&bytes).unwrap();
        assert_eq!((code.captures(), code.resume.unwrap().records.len()), (capturing, sites.len()));
        if capturing {
            let again = captured(&bytes);
            // All that goes on behind a site has the sites themselves, with the same layouts.
            assert!(layouts.iter().all(|(site, types)| again.get(site) == Some(types)));
        }
    }
    layouts.len()
}

fn check_resume_object(bytes: &[u8], base: &[u8], layouts: &BTreeMap<Site, Vec<u8>>) {
    let code = NativeCode::parse(bytes).unwrap();
    let base_code = NativeCode::parse(base).unwrap();
    let resume = code.resume.unwrap();
    assert_eq!((resume.base, code.object.source), (Digest::of(base), base_code.object.source));
    assert!(resume.records.is_sorted_by_key(|record| (record.function.get(), record.site.get())));
    for record in resume.records {
        let function = record.function.get();
        let (params, results) = base_code.signature(base_code.type_of(function).unwrap()).unwrap();
        let ty = &code.types[record.ty.get() as usize];
        assert_eq!(code.signature(ty).unwrap(), (&[ValueType::I64.number()][..], results));
        let range = code.range(record.code.get()).unwrap();
        assert_eq!((range.start, range.index.get()), (record.code, function));
        if record.site.get() == NONE {
            assert_eq!((range.kind.get(), record.callee.get()), (RangeKind::Import as u32, NONE));
            assert_eq!(resume.value_types(record).unwrap(), params);
        } else {
            let expected = &layouts[&Site { function, offset: record.site.get() }];
            assert_eq!((range.kind.get(), resume.value_types(record).unwrap()), (RangeKind::Function as u32, &expected[..]));
            assert!((record.callee.get() as usize) < code.types.len());
            assert_ne!(ty.enter.get(), NONE);
            assert_eq!(code.name(function), base_code.name(function));
        }
    }
}

/// Modules with sites in all kinds of places.
const PLACES: [(&str, usize, &str); 20] = [
    (
        "plain",
        2,
        r#"(func (export "f") (param i32 f64) (result i32) (local i64) (call $f (local.get 0)) (call $g) (i32.add (local.get 0)))"#,
    ),
    (
        "loops in loops",
        4,
        r#"(func (param i32 i64) (result i64) (local f32 v128)
            (loop $a
                (call $g) (local.set 0)
                (block $out
                    (loop $b
                        (call $f (local.get 0))
                        (loop $c
                            (local.set 3 (i32x4.splat (call $g)))
                            (br_if $c (i32x4.extract_lane 1 (local.get 3)))
                            (br_if $a (local.get 0))
                            (br_table $c $b $a $out (local.get 0)))
                        (unreachable)))
                (br_if $a (call $g)))
            (local.get 1))"#,
    ),
    (
        "parts of conditions",
        5,
        r#"(func (param i32) (result i32)
            (if (result i32) (call $g)
                (then (if (result i32) (local.get 0) (then (call $f (i32.const 1)) (i32.const 2)) (else (call $g))))
                (else (call $f (local.get 0)) (if (local.get 0) (then (call $f (i32.const 2)))) (local.get 0))))"#,
    ),
    (
        "blocks with parameters and results",
        3,
        r#"(func (param i32) (result i64 f32) (local i64)
            (i64.const 5) (i32.const 6) (f32.const 7)
            (block (param i64 i32 f32) (result i64 f32)
                (local.set 0 (i32.trunc_f32_s)) (call $f) (call $g) (drop) (f32.const 1)
                (loop (param i64 f32) (result i64 f32)
                    (drop) (local.set 1) (call $g) (br_if 1 (i64.const 1) (f32.const 2) (local.get 0)) (drop) (drop) (drop)
                    (local.get 1) (f32.const 3) (br_if 0 (local.get 0)))))"#,
    ),
    (
        "operands below",
        4,
        r#"(func (param i32) (result i32) (local f64)
            (i32.add (local.get 0) (i32.add (call $g) (block (result i32) (f64.const 1) (v128.const i64x2 1 2) (call $g) (local.set 0) (drop) (drop)
                (i32.sub (local.get 0) (i32.mul (call $g) (call $g)))))))"#,
    ),
    (
        "out of the frozen loop into others",
        2,
        r#"(func (param i32)
            (loop $outer (loop $middle (loop $inner (call $f (local.get 0))
                (block $block (br_table $inner $middle $outer $block $outer (local.get 0)))
                (call $f (i32.const 3))) (br $outer))))"#,
    ),
    (
        "calls through tables",
        3,
        r#"(func (param i32 i32) (result i32) (local funcref externref)
            (local.set 2 (ref.func $own))
            (loop (call_indirect $t (type $f) (local.get 0) (local.get 1))
                (i32.const 3) (call_indirect $t (type $g) (local.get 1)) (i32.add) (local.set 1) (br_if 0 (local.get 0)))
            (table.set $t (i32.const 0) (local.get 2))
            (call $x (local.get 3)) (ref.is_null (local.get 2)))"#,
    ),
    (
        "exceptions",
        5,
        r#"(func (param i32 i64) (result i32) (local f32)
            (block $caught (result i32)
                (loop $again
                    (block $all
                        (try_table (catch $e $caught) (catch_all $all)
                            (call $f (local.get 0))
                            (try_table (catch_all $again) (call $f (i32.const 1)) (if (local.get 0) (then (throw $e (local.get 0)))))
                            (call $f (i32.const 2))))
                    (try_table (result i32) (catch_all $again) (call $g))
                    (br_if $again (i32.eqz)))
                (call $f (i32.wrap_i64 (local.get 1)))
                (i32.const 0)))"#,
    ),
    (
        "loops with operands below and parameters, in conditions in loops",
        7,
        r#"(func (param i32 i64) (result i32) (local f32 v128)
            (loop $a (result i32)
                (call $g) (f64.const 1.5) (v128.const i32x4 1 2 3 4) (f32x4.splat (f32.const 2))
                (if (param f64 v128 v128) (result f64) (local.get 0)
                    (then (local.set 3) (drop)
                        (i64.const 5) (i32.const 6)
                        (loop $b (param i64 i32) (result i64)
                            (local.set 0) (call $f (local.get 0))
                            (f32.const 3) (f64.const 4)
                            (block (param f64) (result f64)
                                (loop $c (param f64) (result f64) (call $f (i32.const 1)) (br_if $c (call $g))
                                    (drop) (br_if $b (i64.const 7) (i32.const 8) (local.get 0)) (drop) (drop)
                                    (br_if $a (i32.eqz (local.get 0))) (f64.const 9)))
                            (drop) (drop))
                        (drop))
                    (else (i32x4.add) (local.set 3) (loop $d (param f64) (result f64) (call $f (local.get 0)) (br_if $d (call $g)))))
                (drop)
                (br_if $a (local.get 0)))
            (call $f (i32.const 2)))"#,
    ),
    (
        "loops in the second parts of conditions and in blocks with catch clauses",
        4,
        r#"(func (param i32) (result i32)
            (loop $a (result i32)
                (call $g)
                (if (local.get 0) (then (br $a)) (else
                    (block $caught (result i32)
                        (i64.const 3)
                        (try_table (catch $e $caught) (catch_all $a)
                            (loop $b (call $f (local.get 0)) (f64.const 1) (br_if $b (call $g)) (drop)))
                        (drop) (i32.const 0))
                    (br_if $a (local.get 0)) (drop)))
                (br_if $a (call $g))))"#,
    ),
    (
        "operands below a loop that come and go",
        2,
        r#"(func (param i32)
            (loop $a
                (br_if $a (local.get 0))
                (i32.const 1)
                (loop $b (result i64) (call $f (i32.const 1)) (br_if $b (local.get 0)) (br_if $a (local.get 0)) (i64.const 1))
                (drop) (drop) (br_if $a (local.get 0)))
            (call $f (i32.const 2)))"#,
    ),
    (
        "four loops, of which one has no way back",
        3,
        r#"(func (param i32) (result i32)
            (loop $a (result i32) (i32.const 1) (loop $b (param i32) (result i32) (i32.const 2) (loop $c (result i32) (i32.const 3)
                (loop $d (call $f (local.get 0)) (br_if $d (local.get 0)) (br_if $b (i32.const 4) (local.get 0)) (drop))
                (br_if $c (call $g)))
                (i32.add) (i32.add))
                (br_if $a (call $g))))"#,
    ),
    (
        "a loop behind what always traps",
        1,
        r#"(func (param i32)
            (loop $a
                (i64.const 1)
                (block $never
                    (loop $b (call $f (i32.const 1)) (br_if $b (local.get 0)))
                    (drop (i32.load offset=0xffffffff (local.get 0)))
                    (loop $c (call $f (i32.const 2)) (br_if $c (local.get 0)) (br_if $a (local.get 0)) (br_if $never (local.get 0))))
                (drop)))"#,
    ),
    (
        "exceptions with references",
        2,
        r#"(func (param i32) (result i32) (local exnref)
            (block $b (result exnref)
                (try_table (catch_all_ref $b) (loop $l (call $f (local.get 0)) (br_if $l (local.get 0))))
                (return (i32.const 1)))
            (local.set 1) (call $f (i32.const 1)) (throw_ref (local.get 1)))"#,
    ),
    (
        "last calls behind",
        2,
        r#"(func $tail (param i32) (result i32)
            (call $f (local.get 0))
            (if (local.get 0) (then (return_call $tail (i32.sub (local.get 0) (i32.const 1)))))
            (drop (call $g)) (return_call_indirect $t (type $g) (local.get 0)))"#,
    ),
    (
        "nothing is reached behind",
        3,
        r#"(func (param i32) (result i32) (call $f (i32.const 0)) (unreachable))
           (func (loop (call $f (i32.const 1)) (br 0)))
           (func (param i32) (block (loop (call $f (i32.const 1)) (br_if 1 (local.get 0)) (br 0))))"#,
    ),
    (
        "dead code has no sites",
        2,
        r#"(func (param i32) (result i32)
            (block (br 0) (call $f (local.get 0)) (block (call $f (i32.const 1)) (drop (call $g))))
            (call $g) (drop) (return (call $g)) (if (result i32) (call $g) (then (call $g)) (else (call $g))))"#,
    ),
    (
        "several memories and everything that calls the runtime",
        1,
        r#"(func (param i32) (result i32)
            (memory.fill $m (i32.const 0) (i32.const 1) (i32.const 2)) (memory.copy $m 0 (i32.const 0) (i32.const 0) (i32.const 8))
            (loop (call $f (local.get 0)) (local.set 0 (i32.load8_u $m offset=4 (memory.grow (i32.const 1)))) (br_if 0 (local.get 0)))
            (drop (table.get $t (local.get 0))) (drop (ref.func $own)) (global.set 0 (i64.const 5))
            (i32.trunc_f32_s (f32.nearest (f32.load $m (local.get 0)))))"#,
    ),
    (
        "a vector below a condition, of another type than it is kept as",
        2,
        r#"(func (param i32) (result v128)
            (f32x4.splat (f32.const 1)) (if (local.get 0) (then (call $f (i32.const 1))) (else (call $f (i32.const 2)))) (i8x16.neg))"#,
    ),
    (
        "many results",
        2,
        r#"(func (param i32) (result i32 i64 f64 v128 i32 i32)
            (loop $l (call $many (local.get 0)) (drop) (drop) (drop) (drop) (drop) (br_if $l)) (call $many (i32.const 1)))
           (func $many (param i32) (result i32 i64 f64 v128 i32 i32)
            (i32.const 1) (i64.const 2) (f64.const 3) (v128.const i64x2 4 5) (local.get 0) (local.get 0))"#,
    ),
];

#[test]
fn whatever_is_around_a_site_it_can_be_resumed() {
    for (number, (name, sites, functions)) in PLACES.into_iter().enumerate() {
        let wasm = module(functions);
        wasmparser::validate(&wasm).unwrap_or_else(|error| panic!("{name}: {error}"));
        for cpu in [CpuLevel::V3, CpuLevel::ALL[number % 4]] {
            assert_eq!(resumes_everywhere(&wasm, cpu), sites, "{name}");
        }
    }
}

#[test]
fn layouts_are_the_live_locals_and_then_the_operands() {
    use ValueType::{F64, FuncRef, I32, I64, V128};
    let wasm = module(
        r#"(func (param i32 f64 i64 v128 funcref) (result f64) (local i32)
            (i64.const 1) (v128.const i64x2 0 0)
            (loop (param i64 v128)
                (call $f (local.get 0))
                (drop) (drop)
                (local.set 5 (i32.const 2))
                (i64.const 3) (local.get 3) (br_if 0 (ref.is_null (local.get 4)))
                (drop) (local.set 2) (call $f (local.get 5)) (drop (local.get 2)))
            (local.get 1))"#,
    );
    let layouts = captured(&compiler(CpuLevel::V3, true).compile(&wasm, Digest::ZERO).unwrap());
    let layouts: Vec<Vec<u8>> = layouts.into_values().collect();
    let numbers = |types: &[ValueType]| types.iter().map(|ty| ty.number()).collect::<Vec<_>>();
    // Local 0 is read again when the loop goes on; 5 is not, for it is set before.
    assert_eq!(layouts, [numbers(&[I32, F64, V128, FuncRef, I64, V128]), numbers(&[F64, I64])]);
}

#[test]
fn a_reference_to_a_function_of_one_type_is_an_operand_like_any_other() {
    let wasm = wat::parse_str(
        r#"(module (import "" "f" (func $f)) (elem declare func $g) (func $g)
            (func (export "h") (ref.func $g) (call $f) (drop)))"#,
    );
    let layouts = captured(&compiler(CpuLevel::V3, true).compile(&wasm.unwrap(), Digest::ZERO).unwrap());
    assert_eq!(layouts.into_values().collect::<Vec<_>>(), [[ValueType::FuncRef.number()]]);
}

#[test]
fn a_value_that_the_shadow_frame_holds_is_not_stored_again() {
    let stores = |function: &str| {
        let clif = compiler(CpuLevel::V3, true).clif(&module(function)).unwrap();
        clif.matches("store notrap aligned").count() + clif.matches("store little").count()
    };
    let twice = stores("(func (param i32 i64) (result i64) (call $f (local.get 0)) (call $f (local.get 0)) (local.get 1))");
    let once = stores("(func (param i32 i64) (result i64) (call $f (local.get 0)) (local.get 1))");
    // The first call also keeps local 0, which the second reads.
    assert_eq!((once, twice), (1, 2));
    // Nor behind a condition that does not change it, whichever way was taken.
    let behind = "(func (param i32 i64) (result i64) (call $f (local.get 0)) (if (local.get 0) (then (call $f (i32.const 1)))) (call $f (i32.const 1)) (local.get 1))";
    assert_eq!(stores(behind), 2);
    // But where it may have been overwritten.
    let changed = "(func (param i32 i64) (result i64) (call $f (i32.const 1)) (if (local.get 0) (then (local.set 1 (i64.const 5)) (call $f (i32.const 1)))) (call $f (i32.const 1)) (local.get 1))";
    assert_eq!(stores(changed), 4);
}

#[test]
fn what_is_no_site_is_refused() {
    let wasm = module("(func (param i32) (result i32) (call $f (local.get 0)) (return_call $g))");
    let base = compiler(CpuLevel::V3, false).compile(&wasm, Digest::ZERO).unwrap();
    let (calls, imported) = calls(&wasm);
    let resume = |site| compiler(CpuLevel::V3, false).resume(&wasm, &base, &[site], Digest::ZERO);
    let Site { function, offset } = calls[0];
    assert!(resume(calls[0]).is_ok());
    // Between instructions, a last call, another function, no function, a call in an imported function, the import in an own one.
    let last_call = offset + 2;
    assert_eq!(wasm[last_call as usize], 0x12);
    for (function, offset) in
        [(function, offset + 1), (function, last_call), (imported, offset), (99, offset), (0, offset), (function, NONE), (99, NONE)]
    {
        match resume(Site { function, offset }) {
            Err(CompileError::NoSite { offset: found, .. }) => assert_eq!(found, offset),
            other => panic!("{function} {offset:#x}: {:?}", other.map(|bytes| bytes.len())),
        }
    }
}

#[test]
fn a_base_that_does_not_fit_is_refused() {
    let wasm = module("(func (call $f (i32.const 1)))");
    let base = compiler(CpuLevel::V3, false).compile(&wasm, Digest::ZERO).unwrap();
    let (calls, _) = calls(&wasm);
    let resume = |wasm: &[u8], base: &[u8], cpu| match compiler(cpu, false).resume(wasm, base, &calls, Digest::ZERO) {
        Err(CompileError::Base { message }) => message,
        Err(other) => other.to_string(),
        Ok(_) => String::new(),
    };
    assert_eq!(resume(&wasm, &base, CpuLevel::V3), "");
    assert!(resume(&wasm, &base, CpuLevel::V2).contains("x86-64-v3"));
    assert!(resume(&module("(func (call $f (i32.const 2)))"), &base, CpuLevel::V3).contains("other Wasm"));
    let resumed = compiler(CpuLevel::V3, false).resume(&wasm, &base, &calls, Digest::ZERO).unwrap();
    assert!(resume(&wasm, &resumed, CpuLevel::V3).contains("resume object"));
    assert!(resume(&wasm, b"\x7fELF", CpuLevel::V3).contains("code object"));
}

#[test]
fn the_order_of_sites_and_the_number_of_threads_do_not_matter() {
    let wasm = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/json-c/json.wasm")).unwrap();
    let base = compiler(CpuLevel::V3, false).compile(&wasm, Digest::ZERO).unwrap();
    let (mut sites, imported) = calls(&wasm);
    sites.extend((0..imported).map(|function| Site { function, offset: NONE }));
    let reachable = captured(&compiler(CpuLevel::V3, true).compile(&wasm, Digest::ZERO).unwrap());
    sites.retain(|site| site.offset == NONE || reachable.contains_key(site));
    assert!(sites.len() > 100);
    let resume = |sites: &[Site], threads| {
        let options = CompileOptions { threads: std::num::NonZero::new(threads), ..CompileOptions::new(CpuLevel::V3) };
        Compiler::new(options).unwrap().resume(&wasm, &base, sites, Digest::ZERO).unwrap()
    };
    let one = resume(&sites, 1);
    sites.reverse();
    sites.push(sites[0]);
    assert!(one == resume(&sites, 3));
}

#[test]
fn all_sites_of_a_program_can_be_resumed() {
    let wasm = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/json-c/json.wasm")).unwrap();
    let sites = resumes_everywhere(&wasm, CpuLevel::V3);
    assert!(sites > 100, "{sites}");
}

/// A code object that has as many functions as `wasm`, but no code: resume functions only need to know where the base's functions are.
fn hollow_base(wasm: &[u8]) -> Vec<u8> {
    let (mut own, mut imports) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::ImportSection(section) => imports.extend(section.into_imports().map(|import| import.unwrap().ty)),
            Payload::CodeSectionStart { count, .. } => own = count,
            _ => {}
        }
    }
    let count = |is: fn(&TypeRef) -> bool| u32::try_from(imports.iter().filter(|import| is(import)).count()).unwrap();
    let functions = count(|import| matches!(import, TypeRef::Func(_)));
    assert_eq!(functions as usize, imports.len(), "the programs of the corpus import functions only");
    let empty = StringRange::default();
    let zero = 0.into();
    let import =
        ImportRecord { module: empty, name: empty, kind: zero, ty: zero, mutable: zero, reserved: zero, min: 0.into(), max: 0.into() };
    let parts = NativeParts {
        text: vec![0xcc; 16],
        imported_functions: functions,
        imports: vec![import; imports.len()],
        functions: (0..functions + own).map(|index| FunctionRecord { code: (index * 16).into(), ty: 0.into() }).collect(),
        ..NativeParts::default()
    };
    parts.encode(Digest::of(wasm), Digest::ZERO, CpuLevel::V3).unwrap()
}

#[test]
fn sites_of_large_programs_can_be_resumed() {
    for name in ["quickjs", "esbuild", "cpython"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/fetched").join(name).with_extension("wasm");
        let Ok(wasm) = std::fs::read(&path) else {
            eprintln!("skipped: {} is not there; benches/corpus.toml says what it is", path.display());
            continue;
        };
        let base = hollow_base(&wasm);
        let (calls, _) = calls(&wasm);
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut done = 0;
        while done < 300 {
            let sites: Vec<Site> = (0..30)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    calls[usize::try_from(seed % calls.len() as u64).unwrap()]
                })
                .collect();
            match compiler(CpuLevel::V3, done % 60 == 0).resume(&wasm, &base, &sites, Digest::ZERO) {
                Ok(bytes) => assert!(NativeCode::parse(&bytes).unwrap().resume.unwrap().records.len() > 20),
                // In dead code: compilers leave some behind calls that do not return.
                Err(CompileError::NoSite { .. }) => continue,
                Err(error) => panic!("{name}: {error}"),
            }
            done += 30;
        }
    }
}

#[test]
fn sites_of_random_modules_can_be_resumed() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let (mut modules, mut sites) = (0, 0);
    for round in 0..200 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        })
        .take(2048)
        .flatten()
        .collect();
        let config = wasm_smith::Config {
            exceptions_enabled: true,
            gc_enabled: false,
            max_memories: 2,
            memory64_enabled: false,
            min_funcs: 4,
            simd_enabled: true,
            tail_call_enabled: true,
            threads_enabled: false,
            custom_page_sizes_enabled: false,
            wide_arithmetic_enabled: false,
            ..wasm_smith::Config::default()
        };
        let Ok(module) = wasm_smith::Module::new(config, &mut arbitrary::Unstructured::new(&bytes)) else { continue };
        modules += 1;
        sites += resumes_everywhere(&module.to_bytes(), CpuLevel::ALL[round % 4]);
    }
    assert!(modules > 150 && sites > 100, "{sites} sites in {modules} modules");
}
