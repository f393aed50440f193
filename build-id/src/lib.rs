//! For build scripts: computes the build id of a compiler, a digest over all that went into it and can change what it makes. It is part of
//! every build key, and what is revoked when a compiler turns out to be wrong.

#![forbid(unsafe_code)]

use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};

/// Sets `PREHEAT_BUILD_ID` and `PREHEAT_CRANELIFT_VERSION` for the crate whose build script calls this.
///
/// `sources` are files and directories relative to the crate, `packages` the beginnings of the names of packages whose code decides which
/// bytes come out. Their versions and checksums are in the workspace's lock file, `lock` relative to the crate.
///
/// # Panics
/// When something can't be read, as a build script should.
pub fn emit(sources: &[&str], packages: &[&str], lock: &str) {
    let mut hasher = Sha256::new();
    // Asked when it runs, not when it was compiled: checkouts may share a target directory.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let root = Path::new(&root);
    for source in sources {
        println!("cargo::rerun-if-changed={}", root.join(source).display());
        for file in files(&root.join(source)) {
            let name = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
            let bytes = read(&file);
            hasher.update(format!("{name} {}\n", bytes.len()));
            hasher.update(bytes);
        }
    }

    let lock = root.join(lock);
    println!("cargo::rerun-if-changed={}", lock.display());
    let lock = String::from_utf8_lossy(&read(&lock)).into_owned();
    let mut cranelift = "unknown";
    for package in lock.split("[[package]]") {
        let field = |name: &str| package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'));
        let Some(name) = field("name").filter(|name| packages.iter().any(|prefix| name.starts_with(prefix))) else { continue };
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

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file, or all files below a directory in the order of their names.
fn files(path: &Path) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let entries = std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap_or_else(|error| panic!("{}: {error}", path.display())).path()).collect();
    paths.sort();
    paths.iter().flat_map(|path| files(path)).collect()
}
