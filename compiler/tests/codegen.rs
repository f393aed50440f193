//! What instructions become. Each file in `codegen/` is a module with what its CLIF must have, in comments:
//! `;; check: TEXT` for a line that must come behind those of earlier checks, and `;; not: TEXT` for what must be nowhere.
//! `;; options: v1 uninterruptible` chooses options.

use preheat_compiler::{CompileOptions, Compiler};
use preheat_image::{CpuLevel, Digest};

fn options(text: &str) -> CompileOptions {
    let mut options = CompileOptions { verify: true, ..CompileOptions::new(CpuLevel::V3) };
    for word in text.lines().filter_map(|line| line.strip_prefix(";; options: ")).flat_map(str::split_whitespace) {
        match word {
            "uninterruptible" => options.interruptible = false,
            level => options.cpu = level.parse().unwrap(),
        }
    }
    options
}

#[test]
fn instructions_become_what_their_files_say() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/codegen");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut checks = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let wasm = wat::parse_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let compiler = Compiler::new(options(&text)).unwrap();
        let clif = compiler.clif(&wasm).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut lines = clif.lines();
        for line in text.lines() {
            if let Some(expected) = line.trim_start().strip_prefix(";; check: ") {
                assert!(lines.any(|line| line.contains(expected)), "{name}: no `{expected}` behind the earlier checks in\n{clif}");
                checks += 1;
            } else if let Some(forbidden) = line.trim_start().strip_prefix(";; not: ") {
                assert!(!clif.contains(forbidden), "{name}: `{forbidden}` in\n{clif}");
                checks += 1;
            }
        }
        compiler.compile(&wasm, Digest::ZERO).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(checks > 30, "{checks} checks");
}
