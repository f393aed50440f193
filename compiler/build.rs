//! Computes the build id of the compiler.

/// Packages whose code decides which bytes come out.
const COMPILER: [&str; 4] = ["cranelift", "regalloc2", "wasmparser", "target-lexicon"];

/// The compiler, and what it has of `preheat-image`: the ABI, and the writer of code objects.
const SOURCES: [&str; 6] =
    ["src", "../image/src/abi.rs", "../image/src/code.rs", "../image/src/cpu.rs", "../image/src/elf.rs", "../image/src/native.rs"];

fn main() {
    preheat_build_id::emit(&SOURCES, &COMPILER, "../Cargo.lock");
}
