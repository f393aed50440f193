//! The runner, beside `preheat` on the same images.

use preheat::{Builder, CpuLevel, Engine, EngineChoice, Home};
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn build(&self, engine: Engine, wat: &str) -> String {
        let builder = Builder::new(&Home::at(self.dir.path())).unwrap();
        let builder = builder.engine(EngineChoice::Only(engine)).levels([CpuLevel::V1]).args(["built-in"]).tag("app:v1".parse().unwrap());
        builder.build_bytes("app", wat.as_bytes()).unwrap().digest.to_string()
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_preheat-exec"));
        command.args(args).env("PREHEAT_HOME", self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Writes its arguments, each with a zero byte behind it, and ends with the number of its variables.
const ARGUMENTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
    (memory (export "memory") 1)
    (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
    (func (export "_start")
        (drop (call $sizes (i32.const 0) (i32.const 12)))
        (drop (call $args (i32.const 100) (i32.const 1000)))
        (i32.store (i32.const 8) (i32.const 1000))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))
        (drop (call $env (i32.const 0) (i32.const 4)))
        (call $exit (i32.load (i32.const 0)))))"#;

#[test]
fn it_runs_images_by_name_and_by_digest() {
    let world = World::new();
    let digest = world.build(Engine::Native, ARGUMENTS);
    for image in ["app:v1", digest.as_str()] {
        let ran = world.run(&["--env", "A=1", "--env=B=2", "--timeout", "30s", image, "x", "--y"]);
        assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(2), "app\0built-in\0x\0--y\0".to_owned()), "{ran:?}");
    }
    let ran = world.run(&["--invoke", "add", "app:v1", "40", "2"]);
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(0), "42\n".to_owned()), "{ran:?}");
}

#[test]
fn failures_have_the_codes_of_the_command() {
    let world = World::new();
    let fails = |args: &[&str], code: i32, what: &str| {
        let ran = world.run(args);
        assert_eq!(ran.status.code(), Some(code), "{ran:?}");
        assert!(text(&ran.stderr).contains(what) && !text(&ran.stderr).contains("panicked"), "{ran:?}");
    };
    fails(&["absent:v1"], 120, "no image is named");
    fails(&[], 2, "Usage: preheat-exec");
    world.build(Engine::Native, r#"(module (func (export "_start") (loop br 0)))"#);
    fails(&["--timeout", "50ms", "app:v1"], 124, "deadline");
    world.build(Engine::Native, r#"(module (func $inner unreachable) (func (export "_start") call $inner))"#);
    fails(&["app:v1"], 134, "trap: unreachable\n  0: wasm function 0 `inner`");
    world.build(Engine::Native, r#"(module (memory 64) (func (export "_start")))"#);
    fails(&["--max-memory", "1M", "app:v1"], 121, "can't be instantiated");
    fails(&["--ro-dir", "/absent/directory", "app:v1"], 120, "can't open the directory");
    world.build(Engine::Wasmtime, r#"(module (func (export "_start")))"#);
    fails(&["app:v1"], 123, "--engine native");
    // What nobody vouches for does not run, here as anywhere.
    world.build(Engine::Native, r#"(module (func (export "_start")))"#);
    let policy = world.dir.path().join("trust.json");
    let text = std::fs::read_to_string(&policy).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["builders"] = serde_json::json!([]);
    std::fs::write(&policy, json.to_string()).unwrap();
    fails(&["app:v1"], 122, "");
}

/// A runner with a compiler or another engine in it would be neither small nor safe.
#[test]
fn it_has_no_compiler_and_no_other_engine_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "preheat-exec", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .current_dir(root)
        .output()
        .unwrap();
    let tree = text(&tree.stdout);
    assert!(tree.contains("preheat-native "), "{tree}");
    // wiggle brings containers of theirs (cranelift-entity and the like), and no code that compiles or runs anything.
    let absent = ["wasmtime ", "wasmtime-wasi ", "wasmtime-internal-cranelift ", "cranelift-codegen ", "cranelift-frontend ", "regalloc2 "];
    for package in absent.into_iter().chain(["preheat-compiler ", "preheat-wasmtime ", "tokio ", "clap "]) {
        assert!(!tree.lines().any(|line| line.starts_with(package)), "{package} in {tree}");
    }
}
