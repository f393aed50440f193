//! Computes the build id of the compiler.

/// Packages whose code decides which bytes come out.
const COMPILER: [&str; 10] =
    ["wasmtime", "wasm-encoder", "cranelift", "regalloc2", "wasmparser", "pulley", "object", "gimli", "target-lexicon", "addr2line"];

fn main() {
    preheat_build_id::emit(&["src/config.rs", "src/compile.rs", "src/sys.rs"], &COMPILER, "../../Cargo.lock");
}
