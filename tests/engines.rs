//! The same function on both engines: whoever calls it can't tell them apart.

mod common;

use common::{Home, Ran, hello, repo};
use preheat::{Builder, Engine, EngineChoice, Request, RunError, Runtime};
use std::time::{Duration, Instant};

/// Runs on both engines, which must do the same to the last byte, and says what.
fn both(home: &Home, options: &[&str], file: &str, args: &[&str], stdin: &[u8]) -> Ran {
    let run = |engine: &str| home.run_with(["run", "--engine", engine].iter().chain(options).chain(&[file]).chain(args), stdin);
    let (native, wasmtime) = (run("native"), run("wasmtime"));
    assert_eq!((native.code, &native.stdout, &native.stderr), (wasmtime.code, &wasmtime.stdout, &wasmtime.stderr), "{file}");
    native
}

#[test]
fn the_shipped_example_answers_alike() {
    let home = Home::new();
    let input = std::fs::read(repo("examples/inputs/orders.json")).unwrap();
    let wasm = repo("examples/json-c/json.wasm").display().to_string();
    let ran = both(&home, &[], &wasm, &[], &input);
    assert_eq!((ran.code, ran.stdout), (Some(0), std::fs::read_to_string(repo("examples/expected/orders.json")).unwrap()));
    assert_eq!(both(&home, &[], &wasm, &[], b"{").code, Some(2), "the guest's own exit code");
    home.assert_whole();
}

/// A module of one function that does `body`.
fn start(body: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1) (table 2 funcref) (func $f (param i32)) (func $inner {body}) (func (export "_start") call $inner))"#
    )
}

#[test]
fn traps_are_told_alike() {
    let home = Home::new();
    for (body, message) in [
        ("unreachable", "unreachable"),
        ("(drop (i32.load (i32.const 65533)))", "out of bounds memory access"),
        ("(drop (i32.div_s (i32.const 1) (i32.load (i32.const 0))))", "integer divide by zero"),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.sub (i32.load (i32.const 0)) (i32.const 1))))", "integer overflow"),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", "invalid conversion to integer"),
        ("(call_indirect (i32.load (i32.const 0)))", "uninitialized element"),
        ("(call_indirect (i32.const 7))", "table"),
        ("(table.copy (i32.const 0) (i32.const 1) (i32.const 9))", "out of bounds table access"),
        ("(memory.fill (i32.const 65000) (i32.const 1) (i32.const 1000))", "out of bounds memory access"),
        ("call $inner", "call stack exhausted"),
    ] {
        home.write("trap.wat", start(body));
        // The frames below the first line differ: wasmtime names no function by its export, and takes the beginning of a function for the place of a
        // trap in its first instruction.
        let first = ["native", "wasmtime"].map(|engine| {
            let ran = home.run(["run", "--engine", engine, "trap.wat"]);
            assert_eq!((ran.code, ran.stdout.as_str()), (Some(134), ""), "{ran:?}");
            assert!(ran.stderr.contains(message) && ran.stderr.contains("`inner`"), "{message}: {ran:?}");
            ran.stderr.lines().next().unwrap_or_default().to_owned()
        });
        assert_eq!(first[0], first[1]);
    }
}

#[test]
fn limits_and_deadlines_end_alike() {
    let home = Home::new();
    home.write("spin.wat", r#"(module (func (export "_start") (loop br 0)))"#);
    both(&home, &["--timeout", "50ms"], "spin.wat", &[], b"").assert_fails(124, "the deadline of 50ms has passed");
    home.write("startless.wat", r#"(module (func $s (loop br 0)) (start $s) (func (export "_start")))"#);
    both(&home, &["--timeout", "50ms"], "startless.wat", &[], b"").assert_fails(124, "deadline");
    home.write("grow.wat", r#"(module (memory (export "memory") 2) (func (export "grow") (result i32) i32.const 62 memory.grow))"#);
    assert_eq!(both(&home, &["--invoke", "grow"], "grow.wat", &[], b"").stdout, "2\n");
    assert_eq!(both(&home, &["--max-memory", "4M", "--invoke", "grow"], "grow.wat", &[], b"").stdout, "2\n");
    assert_eq!(both(&home, &["--max-memory", "3M", "--invoke", "grow"], "grow.wat", &[], b"").stdout, "-1\n");
    for engine in ["native", "wasmtime"] {
        home.run(["run", "--engine", engine, "--max-memory", "64K", "--invoke", "grow", "grow.wat"])
            .assert_fails(121, "can't be instantiated");
    }
    // Waits: a sleep of an hour, and a read from a pipe to which nobody writes.
    home.write(
        "wait.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "sleep")
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const 3600000000000))
                (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200))))
            (func (export "read")
                (i32.store (i32.const 4) (i32.const 64))
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    );
    both(&home, &["--timeout", "50ms", "--invoke", "sleep"], "wait.wat", &[], b"").assert_fails(124, "deadline");
    for engine in ["native", "wasmtime"] {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = home.command(["run", "--engine", engine, "--timeout", "50ms", "--invoke", "read", "wait.wat"]);
        let ran: Ran = command.stdin(reader).output().unwrap().into();
        ran.assert_fails(124, "deadline");
        drop(writer);
    }
}

#[test]
fn calls_by_name_answer_alike() {
    let home = Home::new();
    home.write(
        "m.wat",
        r#"(module
            (global $ready (mut i32) (i32.const 0))
            (func (export "_initialize") (global.set $ready (i32.const 40)))
            (func (export "add") (param i32 i64) (result i64) (i64.add (i64.extend_i32_s (local.get 0)) (local.get 1)))
            (func (export "ready") (result i32 f64) (i32.add (global.get $ready) (i32.const 2)) (f64.const 0.5))
            (func (export "reference") (param externref)))"#,
    );
    assert_eq!(both(&home, &["--invoke", "add"], "m.wat", &["-2", "44"], b"").stdout, "42\n");
    assert_eq!(both(&home, &["--invoke", "ready"], "m.wat", &[], b"").stdout, "42\n0.5\n");
    both(&home, &["--invoke", "add"], "m.wat", &["2"], b"").assert_fails(121, "takes 2 arguments, 1 were given");
    both(&home, &["--invoke", "add"], "m.wat", &["2", "x"], b"").assert_fails(121, "`x` is no I64");
    both(&home, &["--invoke", "sub"], "m.wat", &[], b"").assert_fails(121, "no exported function `sub`");
    both(&home, &["--invoke", "reference"], "m.wat", &["1"], b"").assert_fails(121, "takes a externref");
    both(&home, &[], "m.wat", &[], b"").assert_fails(121, "--invoke");
    both(&home, &["--dir", "absent"], "m.wat", &[], b"").assert_fails(120, "can't open the directory absent");
    home.write("import.wat", r#"(module (import "env" "nothing" (func)) (func (export "_start")))"#);
    for engine in ["native", "wasmtime"] {
        home.run(["run", "--engine", engine, "import.wat"]).assert_fails(121, "the function can't be linked: unknown import");
    }
}

#[test]
fn auto_takes_the_native_engine_or_says_why_not() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let built = home.json(["build", "--engine", "auto", "a.wat", "--tag", "a"]);
    assert_eq!((&built["engine"], &built["engineReason"]), (&"native".into(), &serde_json::Value::Null), "{built}");
    let inspected = home.json(["inspect", "a"]);
    assert_eq!(inspected["manifest"]["artefacts"][0]["mediaType"], preheat::media::CODE);
    assert_eq!(inspected["manifest"]["artefacts"][0]["variant"]["engine"], "native");
    assert_eq!(home.run(["run", "a"]).stdout, "hi");
    // The image is the one of `--engine native`: what chose the engine is not part of it.
    assert_eq!(home.json(["build", "--engine", "native", "a.wat"])["image"], built["image"]);

    for (name, wat, feature) in [
        ("wide.wat", r#"(module (memory i64 1) (func (export "_start")))"#, "64-bit memories"),
        ("threads.wat", r#"(module (memory 1 1 shared) (func (export "_start") (drop (i32.atomic.load (i32.const 0)))))"#, "threads"),
        ("component.wat", "(component)", "components"),
    ] {
        home.write(name, wat);
        home.run(["build", "--engine", "native", name]).assert_fails(123, feature);
        let ran = home.run(["build", "--engine", "auto", name, "--tag", "fallback"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stderr.contains(&format!("wasmtime: the native engine does not support {feature}")), "{ran:?}");
        let again = home.json(["build", "--engine", "auto", name]);
        assert_eq!((&again["cached"], &again["engine"]), (&true.into(), &"wasmtime".into()), "{again}");
        assert!(again["engineReason"].as_str().unwrap().contains(feature), "{again}");
        assert!(home.ok(["inspect", "fallback"]).contains(feature));
    }
    home.run(["build", "--engine", "jvm", "a.wat"]).assert_usage();
    home.run(["build", "--engine", "auto", "absent.wat"]).assert_fails(120, "absent.wat");
    home.write("bad.wasm", b"\0asm\x01\0\0\0\x0a\xff");
    home.run(["build", "--engine", "auto", "bad.wasm"]).assert_fails(121, "invalid Wasm");
    home.assert_whole();
}

#[test]
fn engines_have_images_and_keys_of_their_own() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let native = home.json(["build", "--engine", "native", "a.wat", "--tag", "a:native"]);
    let wasmtime = home.json(["build", "--engine", "wasmtime", "a.wat", "--tag", "a:wasmtime"]);
    assert_eq!(wasmtime["engine"], "wasmtime");
    let default = home.json(["build", "a.wat"]);
    assert_eq!(
        (&default["engine"], &default["compiled"], &default["image"]),
        (&"native".into(), &0.into(), &native["image"]),
        "the default"
    );
    assert_eq!((&native["compiled"], &wasmtime["compiled"]), (&2.into(), &2.into()));
    let key = |built: &serde_json::Value, code: usize| built["code"][code]["key"].as_str().unwrap().to_owned();
    let differing = |a: &str, b: &str| {
        let ran = home.run(["diff-key", a, b, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        report["differences"].as_array().unwrap().iter().map(|row| row["field"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(differing(&key(&native, 0), &key(&native, 1)), ["cpu", "options-digest"]);
    let fields = differing(&key(&native, 0), &key(&wasmtime, 0));
    assert_eq!(fields, ["build-id", "compiler", "engine", "features", "options", "options-digest"]);
    let unoptimised = home.json(["build", "--engine", "native", "--optimize", "none", "a.wat"]);
    assert_eq!(differing(&key(&native, 0), &key(&unoptimised, 0)), ["options", "options-digest"]);
    assert_eq!(differing("a:native", "a:wasmtime"), ["build-id", "code", "compiler", "engine"]);
    // The same inputs, the same bytes, in another home.
    let other = Home::new();
    other.write("a.wat", hello("hi", 0));
    assert_eq!(other.json(["build", "--engine", "native", "a.wat"])["image"], native["image"]);
    // A run of a file asks for an engine too, and remembers which.
    assert_eq!(home.run(["run", "--engine", "native", "a.wat"]).stdout, "hi");
    home.ok(["gc"]);
    home.assert_whole();
}

#[test]
fn a_native_image_is_revoked_rebuilt_damaged_like_any_other() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let built = home.json(["build", "--engine", "native", "a.wat", "--tag", "a", "--keep-source", "--cpu", "v1"]);
    let doctor = home.json(["doctor"]);
    let build_id = doctor["engines"].as_array().unwrap().iter().find(|engine| engine["engine"] == "native").unwrap()["buildId"].clone();
    assert_eq!(build_id, Engine::Native.build_id());
    home.ok(["trust", "revoke", "--build-id", build_id.as_str().unwrap()]);
    home.run(["run", "a"]).assert_fails(122, "revoked");
    assert_eq!(home.run(["audit"]).code, Some(122));
    home.ok(["trust", "revoke", "--undo", "--build-id", build_id.as_str().unwrap()]);
    assert_eq!(home.run(["run", "a"]).stdout, "hi");
    // A code object whose bytes were changed is not mapped.
    let code = home.blob(built["code"][0]["digest"].as_str().unwrap());
    let mut bytes = std::fs::read(&code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = home.write("changed", bytes);
    std::fs::rename(file, &code).unwrap();
    home.run(["run", "a"]).assert_fails(122, "its bytes have digest");
    assert_eq!(home.run(["verify"]).code, Some(122));
}

#[test]
fn waits_and_loops_of_a_native_guest_are_cancelled() {
    let home = Home::new();
    let library = home.library();
    let load = |wat: &str| {
        let builder = Builder::new(&library).unwrap().levels([preheat::CpuLevel::V1]).engine(EngineChoice::Only(Engine::Native));
        let built = builder.build_bytes("test", wat.as_bytes()).unwrap();
        Runtime::new().unwrap().load(&library, &built.digest).unwrap()
    };
    let images = [
        load(r#"(module (func (export "_start") (loop br 0)))"#),
        load(
            r#"(module
                (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
                (memory (export "memory") 1)
                (func (export "_start")
                    (i32.store (i32.const 16) (i32.const 1))
                    (i64.store (i32.const 24) (i64.const 3600000000000))
                    (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))"#,
        ),
    ];
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let started = Instant::now();
    tokio.block_on(async {
        for image in &images {
            // At any moment, also before it has begun.
            for micros in [0, 100, 20_000] {
                let request = Request::new();
                let call = image.run_async(&request);
                assert!(tokio::time::timeout(Duration::from_micros(micros), call).await.is_err());
            }
            let error = image.run_async(&Request::new().timeout(Duration::from_millis(20))).await.unwrap_err();
            assert!(matches!(error, RunError::Timeout(_)), "{error}");
        }
        // An instance whose call was cancelled is gone.
        let mut instance = images[0].instance_async(&Request::new()).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(5), instance.call_async("_start", &[])).await.is_err());
        assert!(instance.call_async("_start", &[]).await.unwrap_err().to_string().contains("ended"));
    });
    // Waits for the threads on which guests run: none is left.
    drop(tokio);
    assert!(started.elapsed() < Duration::from_secs(20));
}
