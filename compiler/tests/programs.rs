//! Whole programs: real ones, and random ones with every instruction.

use object::{Object as _, ObjectSymbol as _};
use preheat_compiler::{CompileError, CompileOptions, Compiler};
use preheat_image::native::NativeCode;
use preheat_image::{CpuLevel, Digest};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use wasm_smith::{Config, Module};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/json-c/json.wasm")
}

fn compile(wasm: &[u8], cpu: CpuLevel, threads: usize) -> Result<Vec<u8>, CompileError> {
    let options = CompileOptions { verify: true, threads: NonZeroUsize::new(threads), ..CompileOptions::new(cpu) };
    Compiler::new(options).unwrap().compile(wasm, Digest::of(b"key"))
}

#[test]
fn a_program_gives_the_same_code_on_one_thread_and_on_several() {
    let wasm = std::fs::read(example()).unwrap();
    let one = compile(&wasm, CpuLevel::V3, 1).unwrap();
    assert!(one == compile(&wasm, CpuLevel::V3, 2).unwrap());
    assert!(one == compile(&wasm, CpuLevel::V3, 7).unwrap());
    assert!(one != compile(&wasm, CpuLevel::V2, 2).unwrap());
    let code = NativeCode::parse(&one).unwrap();
    assert_eq!(code.export("_start").unwrap().map(|export| export.kind.get()), Some(0));
    let sizes = (code.functions.len(), code.trap_offsets.len(), code.memory_image.size);
    assert!(sizes.0 > 40 && sizes.1 > 500 && sizes.2 > 0, "{sizes:?}");
}

#[test]
fn a_program_from_clang_shows_its_functions_to_objdump() {
    let tools = ["clang-14", "objdump"].map(|tool| Command::new(tool).arg("--version").output().is_ok());
    if tools != [true, true] {
        eprintln!("skipped: needs clang-14 with wasi-libc, and objdump");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, wasm, object) = (directory.path().join("a.c"), directory.path().join("a.wasm"), directory.path().join("a.code"));
    std::fs::write(
        &source,
        "#include <stdio.h>\n__attribute__((export_name(\"collatz\"))) int collatz(unsigned n) { int c = 0; while (n != 1) n = n % 2 ? 3 * n + 1 : n / 2, c++; return c; }\n\
         int main(int argc, char **argv) { printf(\"%d\\n\", collatz(27 + argc)); return 0; }\n",
    )
    .unwrap();
    let made = Command::new("clang-14").args(["--target=wasm32-wasi", "-O2", "-o"]).args([&wasm, &source]).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: needs wasi-libc, lld-14 and libclang-rt-14-dev-wasm32: {}", String::from_utf8_lossy(&made.stderr));
        return;
    }
    let code = compile(&std::fs::read(&wasm).unwrap(), CpuLevel::V3, 2).unwrap();
    std::fs::write(&object, &code).unwrap();
    let listing = Command::new("objdump").arg("-d").arg(&object).output().unwrap();
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    let listing = String::from_utf8(listing.stdout).unwrap();
    for name in ["<collatz>:", "<_start>:", "<libcall.memory.grow>:", "<enter["] {
        assert!(listing.contains(name), "no {name}");
    }
    assert!(object::File::parse(&*code).unwrap().symbols().any(|symbol| symbol.name() == Ok("collatz")));
}

/// What the random modules may contain: everything that is supported.
fn config() -> Config {
    Config {
        allow_start_export: true,
        bulk_memory_enabled: true,
        custom_page_sizes_enabled: false,
        exceptions_enabled: true,
        extended_const_enabled: true,
        gc_enabled: false,
        max_memories: 3,
        max_tables: 3,
        memory64_enabled: false,
        min_funcs: 2,
        multi_value_enabled: true,
        reference_types_enabled: true,
        relaxed_simd_enabled: true,
        saturating_float_to_int_enabled: true,
        sign_extension_ops_enabled: true,
        simd_enabled: true,
        tail_call_enabled: true,
        threads_enabled: false,
        wide_arithmetic_enabled: false,
        ..Config::default()
    }
}

#[test]
fn random_modules_are_compiled_for_every_cpu_level() {
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut compiled = 0;
    for round in 0..300 {
        // xorshift: the bytes need only be different and always the same.
        let bytes: Vec<u8> = std::iter::repeat_with(|| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed.to_le_bytes()
        })
        .take(256)
        .flatten()
        .collect();
        let Ok(module) = Module::new(config(), &mut arbitrary::Unstructured::new(&bytes)) else { continue };
        let cpu = CpuLevel::ALL[round % 4];
        let code = compile(&module.to_bytes(), cpu, 2).unwrap_or_else(|error| panic!("round {round} for {cpu}: {error}"));
        NativeCode::parse(&code).unwrap();
        compiled += 1;
    }
    assert!(compiled > 250, "{compiled}");
}
