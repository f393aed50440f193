//! Computes the build id of the compiler: a digest over all that went into it and can change what it makes.

use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Packages whose code decides which bytes come out.
const PACKAGES: [&str; 3] = ["cranelift", "regalloc2", "wasmparser"];
/// Files of `preheat-image` that do.
const FORMATS: [&str; 4] = ["abi.rs", "native.rs", "code.rs", "elf.rs"];

fn main() {
    let mut hasher = Sha256::new();
    // Asked when it runs, not when it was compiled: checkouts may share a target directory.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);
    println!("cargo::rerun-if-changed=src");
    let mut sources = Vec::new();
    collect(&root.join("src"), &mut sources);
    sources.sort();
    sources.extend(FORMATS.map(|file| root.join("../image/src").join(file)));
    for source in sources {
        println!("cargo::rerun-if-changed={}", source.display());
        let name = source.strip_prefix(root).unwrap_or(&source);
        hasher.update(name.to_string_lossy().as_bytes());
        hasher.update([0]);
        hasher.update(std::fs::read(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display())));
    }

    // Versions and checksums of the packages; in a workspace the lock file knows them.
    let lock = root.join("../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = std::fs::read_to_string(&lock).unwrap_or_else(|error| panic!("{}: {error}", lock.display()));
    for package in lock.split("[[package]]") {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'));
        let Some(name) = field("name").filter(|name| PACKAGES.iter().any(|prefix| name.starts_with(prefix))) else { continue };
        hasher.update(format!("{name} {} {}\n", field("version").unwrap_or_default(), field("checksum").unwrap_or_default()));
    }

    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = std::process::Command::new(rustc).arg("-vV").output();
    hasher.update(version.unwrap_or_else(|error| panic!("rustc -vV: {error}")).stdout);
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=PREHEAT_COMPILER_BUILD_ID={digest}");
}

/// All files below a directory.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("{}: {error}", directory.display())).path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
