//! That the committed `.wasm` of the demo is what its source compiles to.

use preheat_bench::corpus::{Corpus, Rebuilt};
use std::path::Path;

#[test]
fn the_committed_program_is_what_its_source_compiles_to() {
    let corpus = Corpus::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus.toml")).unwrap();
    match corpus.rebuild("json-c").unwrap() {
        Rebuilt::Same => {}
        // Written past the test harness, which would hide it.
        Rebuilt::NoCompiler { why } => {
            use std::io::Write as _;
            writeln!(std::io::stderr(), "skipped: examples/json-c/json.wasm was not compiled again: {why}").unwrap();
        }
        Rebuilt::Different(digest) => {
            panic!("examples/json-c/build.sh now makes {digest}: commit its json.wasm and the digest in corpus.toml")
        }
    }
}
