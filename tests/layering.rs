//! Who may depend on whom in the workspace, as `docs/architecture.md` draws it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

#[test]
fn crates_depend_only_on_what_they_may_know() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::from([
        ("preheat-image", BTreeSet::new()),
        ("preheat-build-id", BTreeSet::new()),
        ("preheat-compiler", BTreeSet::from(["preheat-image"])),
        ("preheat-loader", BTreeSet::from(["preheat-image"])),
        ("preheat-native", BTreeSet::from(["preheat-image", "preheat-loader"])),
        ("preheat-call", BTreeSet::from(["preheat-image", "preheat-loader"])),
        ("preheat-wasmtime", BTreeSet::from(["preheat-call", "preheat-image", "preheat-loader", "preheat-wasi"])),
        ("preheat-native-wasi", BTreeSet::from(["preheat-call", "preheat-image", "preheat-loader", "preheat-native", "preheat-wasi"])),
        ("preheat-exec", BTreeSet::from(["preheat-call", "preheat-image", "preheat-loader", "preheat-native-wasi"])),
        ("preheat-wasi", BTreeSet::new()),
        ("preheat-bench", BTreeSet::from(["preheat-image"])),
        ("preheat-cache-server", BTreeSet::from(["preheat-image"])),
        ("preheat-cache-client", BTreeSet::from(["preheat-image"])),
        // Tests that are programs: they need a compiler and an engine at once.
        ("preheat-differential", BTreeSet::from(["preheat-image", "preheat-compiler", "preheat-loader", "preheat-native"])),
        ("preheat-freezing", BTreeSet::from(["preheat-image", "preheat-compiler", "preheat-loader", "preheat-native"])),
        (
            "preheat",
            BTreeSet::from([
                "preheat-call",
                "preheat-compiler",
                "preheat-image",
                "preheat-loader",
                "preheat-native",
                "preheat-native-wasi",
                "preheat-wasmtime",
                "preheat-bench",
                "preheat-cache-server",
                "preheat-cache-client",
            ]),
        ),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        seen.insert(name);
        let allowed =
            allowed.get(name).unwrap_or_else(|| panic!("{name} is not on the map: say in this test and in the map what it may know"));
        for dependency in package["dependencies"].as_array().unwrap() {
            // Tests of a crate may know more than the crate.
            let other = dependency["name"].as_str().unwrap();
            if other.starts_with("preheat") && dependency["kind"].is_null() {
                assert!(allowed.contains(other), "{name} must not depend on {other}");
            }
        }
    }
    assert_eq!(seen, allowed.keys().copied().collect());
}

/// Crates from outside that only one room may know.
#[test]
fn engines_and_databases_stay_in_their_rooms() {
    let manifest = |path: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let uses = |path: &str, name: &str| {
        let manifest: toml::Value = toml::from_str(&manifest(path)).unwrap();
        manifest.get("dependencies").and_then(|table| table.get(name)).is_some()
    };
    for path in ["Cargo.toml", "image/Cargo.toml", "loader/Cargo.toml"] {
        assert!(!uses(path, "wasmtime"), "{path}");
    }
    for path in ["Cargo.toml", "image/Cargo.toml", "runtimes/wasmtime/Cargo.toml", "benches/Cargo.toml", "cache-server/client/Cargo.toml"] {
        assert!(!uses(path, "redb"), "{path}");
    }
    for path in ["Cargo.toml", "image/Cargo.toml", "loader/Cargo.toml", "runtimes/wasmtime/Cargo.toml", "benches/Cargo.toml"] {
        assert!(!uses(path, "cranelift-codegen"), "{path}");
    }
    // An embedder that only runs native images must not get wasmtime with the guest's system interface.
    for name in ["wasmtime", "wasmtime-wasi"] {
        assert!(!uses("runtimes/wasi/Cargo.toml", name));
    }
    assert!(uses("runtimes/wasmtime/Cargo.toml", "wasmtime") && uses("loader/Cargo.toml", "redb"));
    assert!(uses("compiler/Cargo.toml", "cranelift-codegen"));
}

/// Unsafe code only where the design allows it: mapping, one sys module an engine, and the benchmark's peers that are nothing but such calls.
#[test]
fn unsafe_code_is_where_it_may_be() {
    const MAY: [&str; 23] = [
        "benches/src/engine/wasmtime.rs",
        "benches/src/peers/wasmtime.rs",
        "loader/src/map/dirty.rs",
        "loader/src/map/file.rs",
        "loader/src/map/region.rs",
        "loader/src/map/slot.rs",
        "runtimes/native/src/sys/border.rs",
        "runtimes/native/src/sys/cells.rs",
        "runtimes/native/src/sys/cpu.rs",
        "runtimes/native/src/sys/enter.rs",
        "runtimes/native/src/sys/exception.rs",
        "runtimes/native/src/sys/frames.rs",
        "runtimes/native/src/sys/owner.rs",
        "runtimes/native/src/sys/signal.rs",
        "runtimes/native/examples/cost.rs",
        "runtimes/native/examples/wake_cost.rs",
        "runtimes/native/tests/coexist.rs",
        "runtimes/native/tests/common/freeze.rs",
        "runtimes/native/tests/common/mod.rs",
        "runtimes/native/tests/sandbox.rs",
        "runtimes/wasmtime/src/sys.rs",
        "tests/differential/src/sys.rs",
        "tests/freezing/src/sys.rs",
    ];
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    let rooms = [
        "src",
        "image/src",
        "build-id",
        "compiler",
        "loader/src",
        "runtimes",
        "exec",
        "benches/src",
        "cache-server",
        "tests/differential/src",
        "tests/differential/tests",
        "tests/freezing/src",
    ];
    let mut dirs: Vec<_> = rooms.iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if text.lines().any(|line| {
            !line.trim_start().starts_with("//")
                && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"].iter().any(|kind| line.contains(kind))
        }) {
            found.insert(file.strip_prefix(root).unwrap().display().to_string());
        }
    }
    assert_eq!(found, MAY.iter().map(|path| (*path).to_owned()).collect());
}
