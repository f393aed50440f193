//! Code objects of small modules, read back.

use object::{Object as _, ObjectSymbol as _};
use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::abi::{Entry, NONE, TrapCode, ValueType};
use preheat_image::native::{Elements, ExternKind, NativeCode, RangeKind, SegmentMode};
use preheat_image::{CpuLevel, Digest};

fn compile(text: &str) -> Vec<u8> {
    let options = CompileOptions { verify: true, ..CompileOptions::new(CpuLevel::V2) };
    let wasm = wat::parse_str(text).unwrap();
    Compiler::new(options).unwrap().compile(&wasm, Digest::of(b"key")).unwrap()
}

fn entries(bytes: &[u8], code: &NativeCode<'_>, table: usize) -> Vec<Entry> {
    let range = code.initial_entries(&code.tables[table]).unwrap();
    let bytes = &bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
    bytes.chunks_exact(8).map(|entry| Entry::of(u64::from_le_bytes(entry.try_into().unwrap()))).collect()
}

fn modes<'a>(modes: impl Iterator<Item = &'a zerocopy::little_endian::U32>) -> Vec<SegmentMode> {
    modes.map(|mode| SegmentMode::from_number(mode.get()).unwrap()).collect()
}

#[test]
fn everything_that_a_module_declares_is_there() {
    let bytes = compile(
        r#"(module $name
            (type $same (func (param i32) (result i64)))
            (import "env" "call" (func $call (type $same)))
            (import "env" "table" (table 1 2 externref))
            (import "env" "memory" (memory 1))
            (import "env" "global" (global (mut f32)))
            (type $again (func (param i32) (result i64)))
            (func $start)
            (func $f (export "f") (type $again) (call $call (local.get 0)))
            (func (export "a") (param v128 funcref) (result f64 externref) (f64.const 0) (ref.null extern))
            (memory (export "m") 2 3)
            (table $t (export "t") 4 8 funcref)
            (global $i (mut i32) (i32.const -1))
            (global $r funcref (ref.func $f))
            (global $sum i32 (i32.add (i32.const 40) (i32.const 2)))
            (start $start))"#,
    );
    let code = NativeCode::parse(&bytes).unwrap();
    assert_eq!((code.object.key, code.object.cpu), (Digest::of(b"key"), CpuLevel::V2));
    // Equal types are one.
    assert_eq!(code.types.len(), 3);
    assert_eq!(code.signature(code.type_of(2).unwrap()).unwrap(), (&[ValueType::I32.number()][..], &[ValueType::I64.number()][..]));
    assert_eq!(code.signature(code.type_of(3).unwrap()).unwrap(), (&[5u8, 6][..], &[4u8, 7][..]));
    let kinds: Vec<_> = code.imports.iter().map(|import| ExternKind::from_number(import.kind.get()).unwrap()).collect();
    assert_eq!(kinds, [ExternKind::Function, ExternKind::Table, ExternKind::Memory, ExternKind::Global]);
    assert_eq!((code.imports[1].ty.get(), code.imports[1].min.get(), code.imports[1].max.get()), (7, 1, 2));
    assert_eq!((code.imports[2].min.get(), code.imports[2].max.get(), code.imports[3].mutable.get()), (1, u64::MAX, 1));
    let names: Vec<_> = code.exports.iter().map(|export| code.string(export.name).unwrap()).collect();
    assert_eq!(names, ["a", "f", "m", "t"]);
    assert_eq!(code.export("m").unwrap().map(|export| (export.kind.get(), export.index.get())), Some((2, 1)));
    assert_eq!((code.functions.len(), code.functions[0].code.get(), code.header.start.get()), (4, NONE, 1));
    assert_eq!((code.memories[0].min.get(), code.memories[0].max.get()), (2, 3));
    assert_eq!((code.tables[0].min.get(), code.tables[0].max.get(), code.tables[0].entries.get()), (4, 8, 0));
    assert_eq!(code.global_values[0][..4], (-1i32).to_le_bytes());
    assert_eq!((code.globals[0].init.count.get(), code.globals[1].init.count.get(), code.global_values[2][0]), (0, 1, 42));
    assert_eq!(code.expression(code.globals[1].init).unwrap()[0].index.get(), 2);
    // All functions that can be reached from outside have an enter trampoline, imported ones a host trampoline.
    assert_ne!(code.type_of(2).unwrap().enter.get(), NONE);
    assert_ne!(code.type_of(1).unwrap().enter.get(), NONE);
    assert_ne!(code.type_of(0).unwrap().host.get(), NONE);
    assert_eq!(code.type_of(3).unwrap().host.get(), NONE);
    assert!(code.interruptible());
}

#[test]
fn places_in_the_text_lead_back() {
    let text = r#"(module
        (func $divide (export "divide") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
        (func $stop (unreachable))
        (func (param i32) (drop (memory.grow (local.get 0))))
        (memory 1))"#;
    let bytes = compile(text);
    let code = NativeCode::parse(&bytes).unwrap();
    let wasm = wat::parse_str(text).unwrap();
    for (index, range) in code.ranges.iter().enumerate() {
        assert_eq!(code.range(range.start.get()).unwrap(), range);
        assert_eq!(code.range(range.start.get() + range.size.get() - 1).unwrap(), range);
        let is_function = RangeKind::from_number(range.kind.get()) == Some(RangeKind::Function);
        assert_eq!(is_function, index < 3);
        if is_function {
            // The body begins with its number of local declarations and ends with `end`.
            let body = &wasm[range.body.get() as usize..][..range.body_size.get() as usize];
            assert_eq!((body[0], body[body.len() - 1]), (0, 0x0b));
            assert_eq!(range.start.get() % 32, 0);
        }
    }
    assert_eq!((code.name(0), code.name(1), code.name(2)), (Some("divide"), Some("stop"), None));
    let traps: Vec<_> =
        code.trap_offsets.iter().map(|at| (code.range(at.get()).unwrap().index.get(), code.trap(at.get()).unwrap())).collect();
    assert!(traps.contains(&(0, TrapCode::DivisionByZero)) && traps.contains(&(0, TrapCode::IntegerOverflow)), "{traps:?}");
    let (at, _) = code.trap_offsets.iter().zip(&traps).find(|(_, trap)| trap.1 == TrapCode::Unreachable).unwrap();
    let origin = code.wasm_offset(at.get()).unwrap();
    assert_eq!(wasm[origin as usize], 0x00, "not the opcode of `unreachable` at {origin:#x}");
    let offsets: Vec<u32> = code.trap_offsets.iter().map(|at| at.get()).collect();
    assert!(offsets.is_sorted());
    assert!(code.addresses.is_sorted_by_key(|record| record.code.get()));

    let file = object::File::parse(&*bytes).unwrap();
    let symbols: Vec<_> = file.symbols().map(|symbol| symbol.name().unwrap()).collect();
    assert_eq!(symbols, ["divide", "stop", "function[2]", "enter[0]", "libcall.memory.grow"]);
}

#[test]
fn segments_with_known_places_are_applied() {
    let bytes = compile(
        r#"(module
            (import "env" "f" (func $imported))
            (func $own)
            (table 10 funcref) (memory 4)
            (elem (i32.const 2) $own $imported) (elem func $own) (elem declare func $own)
            (elem (i32.const 8) funcref (ref.null func) (ref.func $own))
            (data (i32.const 4094) "abcd") (data "passive") (data (i32.const 0) "\00\00") (data (i32.const 4095) "X")
            (data (i32.const 262143) "Z"))"#,
    );
    let code = NativeCode::parse(&bytes).unwrap();
    let own = Entry::Local { offset: code.functions[1].code.get(), ty: code.functions[1].ty.get() };
    let null = Entry::Null;
    assert_eq!(entries(&bytes, &code, 0), [null, null, own, null, null, null, null, null, null, own]);
    let fixups: Vec<_> = code.table_fixups.iter().map(|at| (at.table.get(), at.index.get(), at.function.get())).collect();
    assert_eq!(fixups, [(0, 3, 0)]);
    use SegmentMode::{Declared, Initial, Passive};
    assert_eq!(modes(code.element_segments.iter().map(|segment| &segment.mode)), [Initial, Passive, Declared, Initial]);
    assert_eq!(code.elements(&code.element_segments[1]).unwrap(), Elements::Functions(&[1.into()]));
    assert_eq!(modes(code.data_segments.iter().map(|segment| &segment.mode)), [Initial, Passive, Initial, Initial, Initial]);
    assert_eq!(code.data(&code.data_segments[1]).unwrap(), b"passive");
    let runs = code.runs(&code.memories[0]).unwrap();
    assert_eq!(runs.iter().map(|run| (run.first.get(), run.pages.get())).collect::<Vec<_>>(), [(0, 2), (63, 1)]);
    let image = usize::try_from(code.memory_image.offset).unwrap();
    assert_eq!(&bytes[image + 4093..image + 4099], b"\0aXcd\0");
    assert_eq!(bytes[image + 3 * 4096 - 1], b'Z');
}

#[test]
fn what_depends_on_instantiation_waits_for_it_with_all_that_follows() {
    let data = |first: &str| {
        let text = format!(
            r#"(module (import "env" "g" (global $g i32)) (memory 1) (data (i32.const 1) "a") (data {first} "b") (data (i32.const 3) "c"))"#
        );
        let bytes = compile(&text);
        let code = NativeCode::parse(&bytes).unwrap();
        let at = code.expression(code.data_segments[2].at).unwrap().first().map(|op| op.value[0]);
        (modes(code.data_segments.iter().map(|segment| &segment.mode)), at)
    };
    use SegmentMode::{Active, Initial};
    assert_eq!(data("(global.get $g)"), (vec![Initial, Active, Active], Some(3)));
    assert_eq!(data("(i32.const 65536)"), (vec![Initial, Active, Active], Some(3)));
    assert_eq!(data("(i32.const 65535)"), (vec![Initial, Initial, Initial], None));

    // An element segment that may trap comes before all data.
    let bytes = compile(
        r#"(module (table 1 funcref) (memory 1) (func $f) (elem (i32.const 1) $f) (elem (i32.const 0) $f) (data (i32.const 0) "a"))"#,
    );
    let code = NativeCode::parse(&bytes).unwrap();
    assert_eq!(modes(code.element_segments.iter().map(|segment| &segment.mode)), [Active, Active]);
    assert_eq!(modes(code.data_segments.iter().map(|segment| &segment.mode)), [Active]);
    assert_eq!((code.memories[0].runs.get(), code.tables[0].entries.get()), (0, 0));
    assert_eq!(code.data(&code.data_segments[0]).unwrap(), b"a");
}

#[test]
fn a_small_module_makes_no_large_initial_memory_or_table() {
    let mut text = String::from("(module (memory 65536) (table 10000000 funcref) (func $f) (elem (i32.const 9999999) $f)");
    for page in 0..3000u32 {
        text.push_str(&format!("(data (i32.const {}) \"x\")", page * 65536 * 5));
    }
    text.push(')');
    let bytes = compile(&text);
    assert!(bytes.len() < 6 << 20, "{} bytes", bytes.len());
    let code = NativeCode::parse(&bytes).unwrap();
    assert_eq!(SegmentMode::from_number(code.element_segments[0].mode.get()), Some(SegmentMode::Active));
}

#[test]
fn calls_with_handlers_lead_to_landing_pads_of_their_function() {
    let bytes = compile(
        r#"(module
            (tag $imported (import "env" "tag") (param i32)) (tag $own (param i64))
            (func $plain) (func $f (param i32) (result i32)
                (block $i (result i32)
                    (block $l (result i64)
                        (try_table (catch $imported $i) (catch $own $l) (call $plain))
                        (return (local.get 0)))
                    (return (i32.wrap_i64)))))"#,
    );
    let code = NativeCode::parse(&bytes).unwrap();
    assert_eq!((code.header.imported_tags.get(), code.tags.len()), (1, 1));
    let [site] = code.call_sites else { panic!("{:?}", code.call_sites) };
    let function = code.range(site.return_to.get()).unwrap();
    assert_eq!(function.index.get(), 1);
    assert_eq!(code.call_site(site.return_to.get()), Some(site));
    // A call of a distance ends where it returns to.
    let text = usize::try_from(code.text.offset).unwrap();
    assert_eq!(bytes[text + site.return_to.get() as usize - 5], 0xe8);
    let handlers = code.handlers(site).unwrap();
    assert_eq!(handlers.iter().map(|handler| handler.tag.get()).collect::<Vec<_>>(), [0, 1]);
    for handler in handlers {
        assert_eq!(code.range(handler.target.get()), Some(function));
        assert!(handler.context.get() < site.frame_size.get() && handler.context.get() % 8 == 0);
    }
}

#[test]
fn an_empty_module_is_a_code_object() {
    let bytes = compile("(module)");
    let code = NativeCode::parse(&bytes).unwrap();
    assert_eq!((code.functions.len(), code.text.size, code.header.start.get()), (0, 0, NONE));
}
