//! The command line, as people and scripts use it.

mod common;

use common::{Home, hello, repo};

#[test]
fn build_prints_the_digest_last_and_run_uses_it() {
    let home = Home::new();
    home.write("hello.wat", hello("hi", 7));
    let digest = home.ok(["build", "hello.wat", "--tag", "greet:v1"]);
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    for image in [digest.as_str(), "greet:v1", "local/default/greet:v1", &digest[7..19], &format!("greet:v1@{digest}")] {
        let ran = home.run(["run", image]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(7), "hi", ""), "{image}");
    }
    home.assert_whole();
}

#[test]
fn run_builds_when_needed_and_then_compiles_nothing() {
    let home = Home::new();
    let wasm = home.write("hello.wat", hello("hi", 0));
    // Memory of a file begins two seconds after it was last changed.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::File::options().write(true).open(&wasm).unwrap().set_modified(old).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let report = |ran: &common::Ran| -> serde_json::Value {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hi"), "{ran:?}");
        serde_json::from_str(ran.stderr.trim()).unwrap()
    };
    let first = report(&home.run(["run", "--json", "hello.wat"]));
    assert_eq!(first["compiled"], 2, "{first}");
    let second = report(&home.run(["run", "--json", "hello.wat"]));
    assert_eq!((&second["compiled"], &second["build"]), (&0.into(), &serde_json::Value::Null), "{second}");
    assert_eq!(first["image"], second["image"]);
    // The file is another one now: its bytes are looked at again.
    home.write("hello.wat", hello("ho", 0));
    let ran = home.run(["run", "--json", "hello.wat"]);
    assert_eq!(ran.stdout, "ho");
    // What a file led to may have been collected since.
    home.ok(["gc"]);
    let ran = home.run(["run", "--json", "hello.wat"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "ho"), "{ran:?}");
}

#[test]
fn a_second_build_is_a_hit_and_other_options_are_another_image() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let first = home.json(["build", "a.wat"]);
    assert_eq!((&first["cached"], &first["compiled"]), (&false.into(), &2.into()));
    assert_eq!(first["code"][0]["cpu"], "x86-64-v2");
    assert_eq!(first["code"][1]["cpu"], "x86-64-v3");
    let second = home.json(["build", "a.wat"]);
    assert_eq!((&second["cached"], &second["compiled"], &second["image"]), (&true.into(), &0.into(), &first["image"]));
    // Other arguments: another image over the same code objects.
    let other = home.json(["build", "a.wat", "--", "--serve"]);
    assert_eq!((&other["cached"], &other["compiled"]), (&false.into(), &0.into()));
    assert_ne!(other["image"], first["image"]);
    assert_eq!(other["code"][0]["digest"], first["code"][0]["digest"]);
    // Another level: another code object.
    let v1 = home.json(["build", "a.wat", "--cpu", "v1"]);
    assert_eq!((&v1["compiled"], &v1["code"][0]["cpu"]), (&1.into(), &"x86-64-v1".into()));
}

#[test]
fn diff_key_names_the_field() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    home.ok(["build", "a.wat", "--tag", "a:1"]);
    home.ok(["build", "a.wat", "--tag", "a:2", "--env", "LANG=C"]);
    let ran = home.run(["diff-key", "a:1", "a:2"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "env\n  - {}\n  + {\"LANG\":\"C\"}\n"), "{ran:?}");
    let v2 = home.json(["build", "a.wat", "--cpu", "v2"])["code"][0]["key"].as_str().unwrap().to_owned();
    let size = home.json(["build", "a.wat", "--cpu", "v2", "--optimize", "size"])["code"][0]["key"].as_str().unwrap().to_owned();
    let ran = home.run(["diff-key", &v2, &size, "--json"]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let fields: Vec<_> = report["differences"].as_array().unwrap().iter().map(|row| row["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["options", "options-digest"]);
    assert_eq!(home.run(["diff-key", "a:1", "a:1"]).code, Some(0));
}

#[test]
fn names_move_and_go_and_gc_frees() {
    let home = Home::new();
    home.write("a.wat", hello("a", 0));
    home.write("b.wat", hello("b", 0));
    let a = home.ok(["build", "a.wat", "--tag", "app"]);
    let b = home.ok(["build", "b.wat"]);
    home.ok(["tag", "app", "kept:v1"]);
    home.run(["tag", "app", &format!("other@{b}")]).assert_fails(122, "the name was moved");
    home.run(["rm", &format!("kept:v1@{b}")]).assert_fails(122, "the name was moved");
    home.ok(["tag", &b, "app"]);
    assert_eq!(home.run(["run", "app"]).stdout, "b");
    home.run(["run", &format!("app@{a}")]).assert_fails(122, "the name was moved");
    home.ok(["rm", "app"]);
    home.run(["rm", "app"]).assert_fails(120, "no image is named");
    home.ok(["tag", &b, "--pin"]);
    let dry = home.json(["gc", "--dry-run"]);
    assert_eq!(dry["images"], 0);
    home.ok(["tag", &b, "--unpin"]);
    let freed = home.json(["gc"]);
    assert_eq!((&freed["images"], freed["bytes"].as_u64() > Some(10_000)), (&1.into(), true), "{freed}");
    home.run(["run", &b]).assert_fails(120, "is not in this store");
    assert_eq!(home.run(["run", "kept:v1"]).stdout, "a");
    let list = home.json(["ls"]);
    assert_eq!(list["images"].as_array().unwrap().len(), 1);
    assert_eq!(list["images"][0]["names"][0], "local/default/kept:v1");
    home.assert_whole();
}

#[test]
fn the_size_limit_evicts_the_least_recently_used() {
    let home = Home::new();
    let image = |name: &str| {
        home.write(&format!("{name}.wat"), hello(name, 0));
        home.json(["build", &format!("{name}.wat"), "--cpu", "v2"])["image"].as_str().unwrap().to_owned()
    };
    let first = image("aa");
    let size = home.json(["ls"])["bytes"].as_u64().unwrap();
    home.ok(["gc", "--set-limit", &(size * 5 / 2).to_string()]);
    let second = image("bb");
    assert_eq!(home.json(["ls"])["images"].as_array().unwrap().len(), 2);
    // Age both; using the first again makes the second the oldest.
    for image in [&first, &second] {
        let entry = home.blob(image).to_string_lossy().replace("/blobs/sha256/", "/entries/") + ".json";
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(86_400);
        std::fs::File::options().write(true).open(entry).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(home.run(["run", &first]).stdout, "aa");
    let third = image("cc");
    let left: Vec<_> = home.json(["ls"])["images"].as_array().unwrap().iter().map(|row| row["image"].clone()).collect();
    assert!(left.contains(&first.into()) && left.contains(&third.into()) && !left.contains(&second.into()), "{left:?}");
    home.assert_whole();
}

#[test]
fn inspect_shows_what_and_who() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    home.ok(["build", "a.wat", "--tag", "a", "--keep-source", "--", "-v"]);
    let report = home.json(["inspect", "a"]);
    assert_eq!(report["manifest"]["function"]["kind"], "command");
    assert_eq!(report["manifest"]["function"]["args"][0], "-v");
    assert_eq!(report["manifest"]["artefacts"][2]["mediaType"], "application/wasm");
    assert_eq!(report["statements"][0]["trusted"], true);
    let text = home.ok(["inspect", "a"]);
    assert!(text.contains("function  a (command)") && text.contains("x86-64-v3") && text.contains("trusted"), "{text}");
}

#[test]
fn the_guest_sees_what_is_granted_and_nothing_else() {
    let home = Home::new();
    // Prints the number of arguments, variables and granted directories, then opens `x` in the first directory.
    home.write(
        "look.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $env (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 200) "../secret")
            (func $digit (param $at i32) (param $value i32)
                (i32.store8 (local.get $at) (i32.add (local.get $value) (i32.const 48))))
            (func (export "_start")
                (drop (call $args (i32.const 0) (i32.const 4)))
                (call $digit (i32.const 100) (i32.load (i32.const 0)))
                (drop (call $env (i32.const 0) (i32.const 4)))
                (call $digit (i32.const 101) (i32.load (i32.const 0)))
                (call $digit (i32.const 102) (i32.eqz (call $prestat (i32.const 3) (i32.const 16))))
                (call $digit (i32.const 103) (i32.eqz (call $prestat (i32.const 4) (i32.const 16))))
                (call $digit (i32.const 104)
                    (i32.eqz (call $open (i32.const 3) (i32.const 1) (i32.const 200) (i32.const 9) (i32.const 0)
                        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 32))))
                (i32.store (i32.const 40) (i32.const 100))
                (i32.store (i32.const 44) (i32.const 5))
                (drop (call $write (i32.const 1) (i32.const 40) (i32.const 1) (i32.const 48)))))"#,
    );
    home.write("secret", "s");
    home.write("granted/x", "x");
    assert_eq!(home.run(["run", "look.wat"]).stdout, "10000");
    let ran = home.run(["run", "--env", "A=1", "--env", "B=2", "--dir", "granted::/data", "look.wat", "x", "--y"]);
    assert_eq!(ran.stdout, "32100", "the parent of a granted directory stays closed: {ran:?}");
    home.run(["run", "--dir", "absent", "look.wat"]).assert_fails(120, "can't open the directory absent");
}

#[test]
fn invoke_calls_exports_of_modules_and_components() {
    let home = Home::new();
    home.write("m.wat", r#"(module (func (export "add") (param i32 i64) (result i64) local.get 0 i64.extend_i32_s local.get 1 i64.add))"#);
    assert_eq!(home.ok(["run", "--invoke", "add", "m.wat", "-2", "44"]), "42");
    home.run(["run", "--invoke", "add", "m.wat", "2"]).assert_fails(121, "takes 2 arguments, 1 were given");
    home.run(["run", "--invoke", "add", "m.wat", "2", "x"]).assert_fails(121, "`x` is no I64");
    home.run(["run", "--invoke", "sub", "m.wat"]).assert_fails(121, "no exported function `sub`");
    home.run(["run", "m.wat"]).assert_fails(121, "--invoke");
    home.write(
        "c.wat",
        r#"(component
            (core module $m (func (export "f") (param i32) (result i32) local.get 0 i32.const 1 i32.add))
            (core instance $i (instantiate $m))
            (func $f (param "x" u32) (result u32) (canon lift (core func $i "f")))
            (export "next" (func $f)))"#,
    );
    assert_eq!(home.ok(["run", "--invoke", "next", "c.wat", "41"]), "42");
    home.run(["run", "--invoke", "next", "c.wat", "minus"]).assert_fails(121, "parameter `x`");
}

#[test]
fn deadlines_limits_and_traps_have_their_codes() {
    let home = Home::new();
    home.write("spin.wat", r#"(module (func (export "_start") (loop br 0)))"#);
    home.run(["run", "--timeout", "50ms", "spin.wat"]).assert_fails(124, "deadline");
    home.write("trap.wat", r#"(module (func $inner unreachable) (func (export "_start") call $inner))"#);
    let ran = home.run(["run", "trap.wat"]);
    assert_eq!(ran.code, Some(134), "{ran:?}");
    assert!(ran.stderr.contains("unreachable") && ran.stderr.contains("inner"), "{ran:?}");
    home.write("deep.wat", r#"(module (func $f (export "_start") call $f))"#);
    let ran = home.run(["run", "deep.wat"]);
    assert_eq!(ran.code, Some(134), "{ran:?}");
    assert!(ran.stderr.contains("call stack exhausted"), "{ran:?}");
    home.write(
        "big.wat",
        r#"(module (memory (export "memory") 64) (func (export "_start")) (func (export "grow") (result i32) i32.const 64 memory.grow))"#,
    );
    assert_eq!(home.ok(["run", "--invoke", "grow", "big.wat"]), "64");
    assert_eq!(home.ok(["run", "--max-memory", "4M", "--invoke", "grow", "big.wat"]), "-1");
    home.run(["run", "--max-memory", "1M", "big.wat"]).assert_fails(121, "can't be instantiated");
    // A guest that waits in a host call is ended as well: it sleeps for an hour.
    home.write(
        "sleep.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (i32.store (i32.const 16) (i32.const 1))
                (i64.store (i32.const 24) (i64.const 3600000000000))
                (drop (call $poll (i32.const 0) (i32.const 100) (i32.const 1) (i32.const 200)))))"#,
    );
    home.run(["run", "--timeout", "50ms", "sleep.wat"]).assert_fails(124, "deadline");
    // A deadline beyond what a clock can count is none.
    home.write("quick.wat", hello("hi", 0));
    assert_eq!(home.run(["run", "--timeout", "10000000000000000000s", "quick.wat"]).stdout, "hi");
}

#[test]
fn doctor_completions_and_help_answer() {
    let home = Home::new();
    let report = home.json(["doctor"]);
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["state"] != "broken"), "{report}");
    assert!(home.ok(["completions", "bash"]).contains("complete -F"));
    for command in ["build", "run", "inspect", "ls", "tag", "rm", "gc", "verify", "diff-key", "doctor", "demo", "bench", "completions"] {
        assert!(home.ok([command, "--help"]).contains("Usage: preheat"), "{command}");
    }
    assert_eq!(home.run(["nonsense"]).code, Some(2));
}

#[test]
fn the_benchmark_of_engines_has_every_part() {
    let home = Home::new();
    let examples = repo("examples").display().to_string();
    let names = "a small code object,64 pages,fib,json-c,nonsense";
    let report = home.json(["bench", "engine", "--rounds", "1", "--name", names, "--examples", &examples]);
    let rows: Vec<(&str, &str)> =
        report["rows"].as_array().unwrap().iter().map(|row| (row["kind"].as_str().unwrap(), row["name"].as_str().unwrap())).collect();
    let absent: Vec<&str> = report["absent"].as_array().unwrap().iter().map(|absent| absent["what"].as_str().unwrap()).collect();
    for row in [("open", "a small code object"), ("slots", "64 pages"), ("corpus", "json-c"), ("compile-memory", "json-c")] {
        assert!(rows.contains(&row), "{row:?}: {report}");
    }
    assert!(rows.contains(&("kernels", "fib")) != (absent.contains(&"kernels") || absent.contains(&"fib")), "{report}");
    for column in report["rows"].as_array().unwrap().iter().flat_map(|row| row["systems"].as_array().unwrap()) {
        assert!(column["estimate"]["median"].as_f64().unwrap() > 0.0, "{column}");
    }
    let asked: Vec<&str> = report["lines"].as_array().unwrap().iter().map(|line| line["what"].as_str().unwrap()).collect();
    assert!(asked.contains(&"interrupt checks on by off, geometric mean"), "{asked:?}");
    assert!(!home.root().exists(), "the benchmark leaves the user's store alone");
    let text = home.ok(["bench", "engine", "--rounds", "1", "--part", "compile", "--name", "json-c", "--examples", &examples]);
    assert!(text.contains("### Peak memory to compile") && text.contains("| what | native | wasmtime | first by it | rounds |"), "{text}");
    assert!(!text.contains("slot"), "only that part: {text}");
    home.run(["bench", "engine", "--name", "nonsense", "--part", "slots"]).assert_fails(125, "no row has such a name");
    assert_eq!(home.run(["bench", "engine", "--part", "nonsense"]).code, Some(2));
}

#[test]
fn the_demo_shows_both_starts() {
    let home = Home::new();
    let shown = home.ok(["demo"]);
    assert!(shown.contains(r#""total":603"#) && shown.contains("JIT start") && shown.contains("image start"), "{shown}");
    assert!(!home.root().exists(), "the demo leaves the user's store alone");
}

#[test]
fn the_shipped_example_answers() {
    let home = Home::new();
    let input = std::fs::read(repo("examples/inputs/orders.json")).unwrap();
    let wasm = repo("examples/json-c/json.wasm").display().to_string();
    let ran = home.run_with(["run", &wasm], &input);
    assert_eq!(ran.stdout, std::fs::read_to_string(repo("examples/expected/orders.json")).unwrap(), "{ran:?}");
    let ran = home.run_with(["run", &wasm], b"{");
    assert_eq!(ran.code, Some(2), "the guest's own exit code: {ran:?}");
}

#[test]
fn what_was_built_for_another_namespace_is_no_hit() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let first = home.json(["build", "a.wat", "--namespace", "pull-request"]);
    let second = home.json(["build", "a.wat", "--namespace", "production"]);
    assert_eq!((&second["cached"], &second["compiled"]), (&false.into(), &2.into()), "{second}");
    assert_eq!(first["image"], second["image"], "the bytes are the same; who vouches for them, and for whom, is not");
    let signed: Vec<_> = home.json(["inspect", second["image"].as_str().unwrap()])["statements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["namespace"].to_string())
        .collect();
    assert_eq!(signed.len(), 2, "{signed:?}");
    assert_eq!(home.json(["build", "a.wat", "--namespace", "production"])["cached"], true);
}

#[test]
fn a_reader_that_stops_does_not_outlive_the_deadline() {
    let home = Home::new();
    // Writes 4 KiB for ever; nobody reads.
    home.write(
        "flood.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\00\10\00\00")
            (func (export "_start") (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))"#,
    );
    let mut child = home.command(["run", "--timeout", "100ms", "flood.wat"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let _nobody_reads = child.stdout.take();
    assert_eq!(child.wait().unwrap().code(), Some(124));
}

#[test]
fn a_reader_that_has_enough_is_no_panic() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    home.ok(["build", "a.wat", "--tag", "a"]);
    let mut command = home.command(["inspect", "a"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran: common::Ran = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(126), ""), "{ran:?}");
}
