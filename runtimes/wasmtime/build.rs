//! Computes the build id of the compiler: a digest over all that went into it and can change what it makes.

use sha2::{Digest as _, Sha256};
use std::path::Path;

/// Packages whose code decides which bytes come out.
const COMPILER: [&str; 10] =
    ["wasmtime", "wasm-encoder", "cranelift", "regalloc2", "wasmparser", "pulley", "object", "gimli", "target-lexicon", "addr2line"];

fn main() {
    let mut hasher = Sha256::new();
    // Asked when it runs, not when it was compiled: checkouts may share a target directory.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);
    for source in ["src/config.rs", "src/compile.rs", "src/sys.rs"] {
        println!("cargo::rerun-if-changed={source}");
        hasher.update(std::fs::read(root.join(source)).unwrap_or_else(|error| panic!("{source}: {error}")));
    }

    // Versions and checksums of the compiler's packages; in a workspace the lock file knows them.
    let lock = root.join("../../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = std::fs::read_to_string(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display()));
    let mut cranelift = "unknown";
    for package in lock.split("[[package]]") {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'));
        let Some(name) = field("name").filter(|name| COMPILER.iter().any(|prefix| name.starts_with(prefix))) else { continue };
        let (version, checksum) = (field("version").unwrap_or_default(), field("checksum").unwrap_or_default());
        hasher.update(format!("{name} {version} {checksum}\n"));
        if name == "cranelift-codegen" {
            cranelift = version;
        }
    }
    println!("cargo::rustc-env=PREHEAT_CRANELIFT_VERSION={cranelift}");

    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = std::process::Command::new(rustc).arg("-vV").output();
    hasher.update(version.unwrap_or_else(|error| panic!("rustc -vV: {error}")).stdout);
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=PREHEAT_BUILD_ID={digest}");
}
