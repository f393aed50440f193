//! `memory.copy` and `memory.fill` of every small length at every edge, which code does by itself, against slices.

mod common;

use common::{engine, load, trap_of};
use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};
use preheat_native::{Engine, Linker, Memory, Module, Store, TrapCode, TypedFunc};

const PAGE: usize = 65536;
/// Beyond the length from which on the runtime copies.
const LENGTHS: u32 = 80;

const FUNCTIONS: &str = r#"
    (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
    (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))"#;

type Function = TypedFunc<(u32, u32, u32), ()>;

struct Guest {
    store: Store<()>,
    memory: Memory,
    copy: Function,
    fill: Function,
}

fn compile(engine: &Engine, wat: &str, cpu: CpuLevel) -> Module {
    let options = CompileOptions { verify: true, ..CompileOptions::new(cpu) };
    let code = Compiler::new(options).unwrap().compile(&wat::parse_str(wat).unwrap(), Digest::of(b"test")).unwrap();
    load(engine, &code).unwrap()
}

fn guest(wat: &str, cpu: CpuLevel) -> Guest {
    let module = compile(&engine(), wat, cpu);
    let mut store = Store::new(module.engine(), ()).unwrap();
    let instance = Linker::new().instantiate(&mut store, &module).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let (copy, fill) = (instance.typed_func(&store, "copy").unwrap(), instance.typed_func(&store, "fill").unwrap());
    let mut guest = Guest { store, memory, copy, fill };
    for (at, byte) in (0u32..).zip(guest.memory.bytes_mut(&mut guest.store)) {
        *byte = at.wrapping_mul(2_654_435_761).to_be_bytes()[0];
    }
    guest
}

/// Copies and fills as slices do; `false` where they are out of bounds.
fn expected(bytes: &mut [u8], to: u32, from: Option<u32>, len: u32, byte: u8) -> bool {
    let range = |at: u32| at as usize..at as usize + len as usize;
    let fits = |at: u32| range(at).end <= bytes.len();
    if !fits(to) || !from.is_none_or(fits) {
        return false;
    }
    match from {
        Some(from) => bytes.copy_within(range(from), to as usize),
        None => bytes[range(to)].fill(byte),
    }
    true
}

impl Guest {
    fn check(&mut self, to: u32, from: Option<u32>, len: u32) {
        let mut model = self.memory.bytes(&self.store).to_vec();
        // Only the lowest byte counts.
        let byte = 0xabcd_ef00 + len * 3 + 1;
        let fits = expected(&mut model, to, from, len, byte.to_le_bytes()[0]);
        let result = match from {
            Some(from) => self.copy.call(&mut self.store, (to, from, len)),
            None => self.fill.call(&mut self.store, (to, byte, len)),
        };
        match result {
            Ok(()) => assert!(fits, "{to} {from:?} {len}"),
            error => assert_eq!((trap_of(error), fits), (TrapCode::MemoryOutOfBounds, false), "{to} {from:?} {len}"),
        }
        assert!(self.memory.bytes(&self.store) == model, "{to} {from:?} {len}");
    }

    fn check_all(&mut self) {
        let end = u32::try_from(self.memory.bytes(&self.store).len()).unwrap();
        for len in 0..=LENGTHS {
            for to in [0, 1, 100, end.saturating_sub(len), end.saturating_sub(len) + 1, end, end + 1, u32::MAX - len, u32::MAX] {
                self.check(to, None, len);
                for from in [0, 100, end.saturating_sub(len), end.saturating_sub(len) + 1, end, u32::MAX] {
                    self.check(to, Some(from), len);
                }
            }
        }
    }
}

#[test]
fn small_copies_and_fills_do_what_large_ones_do() {
    for cpu in [CpuLevel::V1, CpuLevel::of_host().unwrap()] {
        for pages in [0, 1] {
            guest(&format!("(module (memory (export \"m\") {pages}) {FUNCTIONS})"), cpu).check_all();
        }
    }
}

#[test]
fn source_and_target_may_overlap() {
    let mut guest = guest(&format!("(module (memory (export \"m\") 1) {FUNCTIONS})"), CpuLevel::of_host().unwrap());
    for len in 0..=LENGTHS {
        for to in (0..200).step_by(3) {
            guest.check(to, Some(100), len);
        }
    }
}

#[test]
fn a_memory_that_has_grown_is_larger() {
    let wat = format!("(module (memory (export \"m\") 1) (func (export \"grow\") (drop (memory.grow (i32.const 1)))) {FUNCTIONS})");
    let mut guest = guest(&wat, CpuLevel::of_host().unwrap());
    let end = u32::try_from(PAGE).unwrap();
    guest.check(end - 8, Some(0), 16);
    guest.memory.grow(&mut guest.store, 1).unwrap();
    guest.check(end - 8, Some(0), 16);
    guest.check(end - 8, None, 64);
    guest.check(2 * end - 64, Some(end - 32), 64);
    guest.check(2 * end - 63, Some(end - 32), 64);
}

#[test]
fn each_memory_is_its_own() {
    let cpu = CpuLevel::of_host().unwrap();
    let engine = engine();
    let owner = compile(&engine, "(module (memory (export \"a\") 1) (memory (export \"b\") 1))", cpu);
    let wat = r#"(module
        (import "owner" "a" (memory $a 1)) (import "owner" "b" (memory $b 1)) (memory $own (export "own") 1)
        (func (export "a_b") (memory.copy $a $b (i32.const 0) (i32.const 0) (i32.const 5)))
        (func (export "own_a") (memory.copy $own $a (i32.const 0) (i32.const 0) (i32.const 5)))
        (func (export "a_a") (memory.copy $a $a (i32.const 8) (i32.const 0) (i32.const 5)))
        (func (export "fill_b") (memory.fill $b (i32.const 2) (i32.const 98) (i32.const 3)))
        (func (export "fill_own") (memory.fill $own (i32.const 2) (i32.const 111) (i32.const 3))))"#;
    let user = compile(&engine, wat, cpu);
    let mut store = Store::new(&engine, ()).unwrap();
    let mut linker = Linker::new();
    let owner = linker.instantiate(&mut store, &owner).unwrap();
    linker.instance(&store, "owner", owner).unwrap();
    let user = linker.instantiate(&mut store, &user).unwrap();
    let [a, b] = ["a", "b"].map(|name| owner.memory(&store, name).unwrap());
    let own = user.memory(&store, "own").unwrap();
    a.bytes_mut(&mut store)[..5].copy_from_slice(b"aaaaa");
    b.bytes_mut(&mut store)[..5].copy_from_slice(b"bbbbb");
    let mut run = |name: &str, expected: [&[u8]; 3]| {
        user.typed_func::<(), ()>(&store, name).unwrap().call(&mut store, ()).unwrap();
        let found = [a, b, own].map(|memory| memory.bytes(&store)[..13].to_vec());
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found, &[expected, &[0; 13][expected.len()..]].concat(), "{name}");
        }
    };
    run("own_a", [b"aaaaa", b"bbbbb", b"aaaaa"]);
    run("a_b", [b"bbbbb", b"bbbbb", b"aaaaa"]);
    run("fill_own", [b"bbbbb", b"bbbbb", b"aaooo"]);
    run("a_a", [b"bbbbb\0\0\0bbbbb", b"bbbbb", b"aaooo"]);
    run("fill_b", [b"bbbbb\0\0\0bbbbb", b"bbbbb", b"aaooo"]);
}
