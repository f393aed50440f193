//! Frozen components: small ones, initialised by the command while it builds, and called.

mod common;

use common::{Home, Ran};
use preheat::manifest::FunctionKind;
use preheat::{FreezePoint, Manifest};

/// A component with a core module of these imports and fields, whose functions `init` and `next` it exports.
fn component(wasi: &str, with: &str, fields: &str) -> String {
    format!(
        r#"(component {wasi}
            (core module $m {fields})
            (core instance $i (instantiate $m {with}))
            (func $init (canon lift (core func $i "init")))
            (func $next (result u64) (canon lift (core func $i "next")))
            (export "wizer-initialize" (func $init))
            (export "next" (func $next)))"#
    )
}

/// Variables of all types, a memory that grows, and a segment. `next` counts on from what was left.
const COUNTER: &str = r#"(memory 1) (data (i32.const 8) "\01")
    (global $i (mut i32) (i32.const 0)) (global $l (mut i64) (i64.const 0)) (global $never i32 (i32.const 3))
    (global $f (mut f32) (f32.const 0)) (global $d (mut f64) (f64.const 0))
    (func (export "init")
        (if (global.get $i) (then unreachable))
        (global.set $i (i32.const -1)) (global.set $l (i64.const 40)) (global.set $f (f32.const 0.5)) (global.set $d (f64.const -2.5))
        (drop (memory.grow (i32.const 1)))
        (i32.store8 (i32.const 8) (i32.add (i32.load8_u (i32.const 8)) (i32.const 1)))
        (i32.store (i32.const 70000) (i32.const 7)))
    (func (export "next") (result i64)
        (if (i32.ne (global.get $i) (i32.const -1)) (then (return (i64.const 0))))
        (if (i32.ne (memory.size) (i32.const 2)) (then (return (i64.const 1))))
        (if (f64.ne (f64.add (f64.promote_f32 (global.get $f)) (global.get $d)) (f64.const -2)) (then (return (i64.const 2))))
        (global.set $l (i64.add (global.get $l) (i64.const 1)))
        (i64.add (global.get $l) (i64.extend_i32_u (i32.add (i32.load (i32.const 70000)) (i32.load8_u (i32.const 8))))))"#;

const RANDOM: &str = r#"(import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (core func $draw (canon lower (func $random "get-random-u64")))
    (core instance $wasi (export "draw" (func $draw)))"#;

const CLOCKS: &str = r#"(import "wasi:io/poll@0.2.0" (instance $poll
        (export "pollable" (type $p (sub resource))) (export "[method]pollable.block" (func (param "self" (borrow $p))))))
    (alias export $poll "pollable" (type $pollable))
    (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
        (alias outer 1 $pollable (type $p))
        (export "now" (func (result u64))) (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
    (core func $now (canon lower (func $clock "now")))
    (core func $wait (canon lower (func $clock "subscribe-duration")))
    (core func $block (canon lower (func $poll "[method]pollable.block")))
    (core func $drop (canon resource.drop $pollable))
    (core instance $wasi
        (export "now" (func $now)) (export "wait" (func $wait)) (export "block" (func $block)) (export "drop" (func $drop)))"#;

const WITH_WASI: &str = r#"(with "wasi" (instance $wasi))"#;

const CLOCK_IMPORTS: &str = r#"(import "wasi" "now" (func $now (result i64))) (import "wasi" "wait" (func $wait (param i64) (result i32)))
    (import "wasi" "block" (func $block (param i32))) (import "wasi" "drop" (func $drop (param i32)))
    (global $t (mut i64) (i64.const 0)) (func (export "next") (result i64) (global.get $t))"#;

fn build(home: &Home, text: &str, options: &[&str]) -> Ran {
    let wasm = home.write("app.wat", text);
    home.run(["build", "--tag=app", "--cpu=v2", "--freeze=init"].iter().chain(options).chain(&[wasm.to_str().unwrap()]))
}

fn built(home: &Home, text: &str, options: &[&str]) -> String {
    let ran = build(home, text, options);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout.trim().to_owned()
}

#[test]
fn a_component_wakes_behind_its_initialisation() {
    let home = Home::new();
    let text = component("", "", COUNTER);
    let image = built(&home, &text, &[]);
    for _ in 0..2 {
        assert_eq!(home.ok(["run", "--invoke=next", "app"]), "50", "each instance wakes in the same state");
    }
    assert_eq!(home.ok(["run", "--invoke=next", "app.wat"]), "0", "without freezing nobody initialises it");
    assert!(home.ok(["inspect", "app"]).contains("frozen    at init, as the component sha256:"));
    home.assert_whole();

    // Its source is what was given, and what was compiled is named as well.
    let bytes = std::fs::read(home.blob(&image)).unwrap();
    let manifest = Manifest::parse(&bytes).unwrap();
    assert_eq!(manifest.schema_version, 2);
    assert_eq!(manifest.source.as_ref().unwrap().digest, preheat::Digest::of(&wat::parse_str(&text).unwrap()));
    let function = manifest.function.unwrap();
    let frozen = function.frozen.unwrap();
    assert_eq!((function.kind, &frozen.point), (FunctionKind::Component, &FreezePoint::Init));
    assert!(frozen.layers.is_empty() && frozen.component.is_some());

    // The same from the beginning: bytes, digests and all.
    let other = Home::new();
    assert_eq!(built(&other, &text, &[]), image);
    // With its sources, it has the component that it became in it.
    let kept = built(&other, &text, &["--keep-source"]);
    let manifest = Manifest::parse(&std::fs::read(other.blob(&kept)).unwrap()).unwrap();
    assert!(manifest.artefacts.iter().any(|artefact| Some(artefact.digest) == frozen.component));
    // It says itself what it became.
    let report = other.json(["build", "--cpu=v1", "--freeze=init", "--engine=wasmtime", "app.wat"]);
    assert_eq!(report["frozen"]["component"], serde_json::json!(frozen.component));
    assert_eq!(report["engine"], "wasmtime");
}

#[test]
fn another_export_initialises_it_if_that_is_said() {
    let home = Home::new();
    let text = r#"(component
        (core module $m (global $n (mut i32) (i32.const 0)) (func (export "init") (global.set $n (i32.const 5)))
            (func (export "get") (result i32) (global.get $n)))
        (core instance $i (instantiate $m))
        (func $init (canon lift (core func $i "init")))
        (func $get (result u32) (canon lift (core func $i "get")))
        (instance $admin (export "set-up" (func $init)))
        (export "test:app/admin" (instance $admin))
        (export "warm-up" (func $init))
        (export "get" (func $get)))"#;
    let no_init = build(&home, text, &[]);
    no_init.assert_fails(121, "does not export `wizer-initialize`; its functions are `warm-up`, `get`, its interfaces `test:app/admin`");
    for init in ["warm-up", "test:app/admin#set-up"] {
        built(&home, text, &["--init-export", init]);
        assert_eq!(home.ok(["run", "--invoke=get", "app"]), "5");
    }
    build(&home, text, &["--init-export=get"]).assert_fails(121, "`get` takes or returns values");
    build(&home, text, &["--init-export=test:app/admin#tear-down"]).assert_fails(121, "tear-down");
    build(&home, text, &["--init-export=test:app/other#set-up"]).assert_fails(121, "does not export `test:app/other#set-up`");
}

#[test]
fn random_numbers_are_not_frozen_unless_that_is_allowed() {
    let home = Home::new();
    let text = component(
        RANDOM,
        WITH_WASI,
        r#"(import "wasi" "draw" (func $draw (result i64))) (global $r (mut i64) (i64.const 0))
            (func (export "init") (global.set $r (call $draw)))
            (func (export "next") (result i64) (global.get $r))"#,
    );
    build(&home, &text, &[]).assert_fails(121, "it drew 8 random bytes in its initialisation");
    build(&home, &text, &["--allow-frozen-random", "--deny-frozen=random"]).assert_fails(121, "drew random bytes before it was frozen");
    let image = built(&home, &text, &["--allow-frozen-random"]);
    assert_eq!(home.ok(["run", "--invoke=next", "app"]), home.ok(["run", "--invoke=next", "app"]));
    let shown = home.ok(["inspect", "app"]);
    assert!(shown.contains("learned   8 random bytes") && shown.contains("risk      8 random bytes"), "{shown}");
    assert_eq!(built(&Home::new(), &text, &["--allow-frozen-random"]), image, "what it drew is the same for the same build");

    // One that draws when it is called gets fresh bytes.
    let late = component(
        RANDOM,
        WITH_WASI,
        r#"(import "wasi" "draw" (func $draw (result i64))) (func (export "init"))
            (func (export "next") (result i64) (call $draw))"#,
    );
    built(&home, &late, &[]);
    assert_ne!(home.ok(["run", "--invoke=next", "app"]), home.ok(["run", "--invoke=next", "app"]));
}

#[test]
fn time_stands_still_but_for_what_it_waits_for() {
    let home = Home::new();
    let init = r#"(func (export "init") (local $timer i32)
        (local.set $timer (call $wait (i64.const 3600000000000)))
        (call $block (local.get $timer))
        (call $drop (local.get $timer))
        (global.set $t (call $now)))"#;
    let text = component(CLOCKS, WITH_WASI, &format!("{CLOCK_IMPORTS}{init}"));
    built(&home, &text, &[]);
    assert_eq!(home.ok(["run", "--invoke=next", "app"]), "3600000000000", "an hour has passed, and nobody waited");
    build(&home, &text, &["--deny-frozen=clock"]).assert_fails(121, "read a clock before it was frozen");
}

#[test]
fn what_it_holds_of_its_host_refuses_the_freeze() {
    let home = Home::new();
    let init = r#"(func (export "init") (drop (call $wait (i64.const 1))))"#;
    let text = component(CLOCKS, WITH_WASI, &format!("{CLOCK_IMPORTS}{init}"));
    build(&home, &text, &[]).assert_fails(121, "still holds something of its host");
}

#[test]
fn what_it_was_initialised_with_can_not_be_exchanged() {
    let home = Home::new();
    built(&home, &component("", "", COUNTER), &["--env=A=1", "--late-env=TOKEN"]);
    assert_eq!(home.ok(["run", "--env=TOKEN=t", "--env=A=1", "--invoke=next", "app"]), "50");
    home.run(["run", "--env=A=2", "--invoke=next", "app"]).assert_fails(121, "with another value of the environment variable `A`");
    home.run(["run", "--env=B=2", "--invoke=next", "app"]).assert_fails(121, "--late-env B");
    assert!(home.ok(["inspect", "app"]).contains("late env  TOKEN"));
}

#[test]
fn limits_traps_and_what_is_not_granted_are_said() {
    let home = Home::new();
    let init = |body: &str| component("", "", &format!(r#"(memory 1) {body} (func (export "next") (result i64) (i64.const 1))"#));
    build(&home, &init(r#"(func (export "init") (loop br 0))"#), &["--freeze-timeout=100ms"]).assert_fails(121, "deadline");
    build(&home, &init(r#"(func $inner unreachable) (func (export "init") (call $inner))"#), &[]).assert_fails(121, "unreachable");
    let start = init(r#"(func $s (loop br 0)) (start $s) (func (export "init"))"#);
    build(&home, &start, &["--freeze-timeout=100ms"]).assert_fails(121, "deadline");
    // Growing beyond the limit answers -1.
    let grow = r#"(func (export "init") (if (i32.eq (memory.grow (i32.const 64)) (i32.const -1)) (then unreachable)))"#;
    built(&home, &init(grow), &[]);
    build(&home, &init(grow), &["--freeze-max-memory=1M"]).assert_fails(121, "unreachable");
    let ungranted = r#"(component
        (import "my:company/database" (instance $db (export "query" (func))))
        (core func $query (canon lower (func $db "query")))
        (core instance $host (export "query" (func $query)))
        (core module $m (import "host" "query" (func $q)) (func (export "init") (call $q)))
        (core instance $i (instantiate $m (with "host" (instance $host))))
        (func $init (canon lift (core func $i "init")))
        (export "wizer-initialize" (func $init)))"#;
    build(&home, ungranted, &[]).assert_fails(121, "my:company/database");
}

#[test]
fn what_can_not_be_kept_is_refused_before_it_is_run() {
    let home = Home::new();
    let with =
        |fields: &str| component("", "", &format!(r#"{fields} (func (export "init")) (func (export "next") (result i64) (i64.const 1))"#));
    for (fields, what) in [
        ("(memory i64 1)", "addresses of 64 bits"),
        ("(global (mut v128) (v128.const i64x2 1 2))", "a type other than"),
        ("(global (mut funcref) (ref.null func))", "a type other than"),
        ("(table 3 funcref) (func (table.set (i32.const 0) (ref.null func)))", "table.set"),
        ("(data $d \"x\") (func (data.drop $d))", "data.drop"),
        ("(memory 1 1)", "as large as it may be"),
    ] {
        build(&home, &with(fields), &[]).assert_fails(121, what);
    }
    let plain = r#"(core module $m (memory (export "m") 1) (func (export "f"))) (core instance $i (instantiate $m))
        (func $f (canon lift (core func $i "f"))) (export "wizer-initialize" (func $f))"#;
    let closed = r#"(core module $closed (memory 1) (func $f (i32.store (i32.const 0) (i32.const 1))) (start $f)) (core instance (instantiate $closed))"#;
    let resource = r#"(type $r (resource (rep i32))) (core func $new (canon resource.new $r))"#;
    for (more, what) in [
        (closed, "no exports"),
        ("(core instance (instantiate $m))", "at most once"),
        ("(component (core module))", "nested components"),
        (resource, "resources of its own"),
    ] {
        build(&home, &format!("(component {plain} {more})"), &[]).assert_fails(121, what);
    }
}

#[test]
fn options_that_do_not_go_with_components_are_said() {
    let home = Home::new();
    let text = component("", "", COUNTER);
    let wasm = home.write("app.wat", &text);
    home.run(["build", "--freeze=stdin", wasm.to_str().unwrap()]).assert_fails(121, "freeze it at `init`");
    build(&home, &text, &["--engine=native"]).assert_fails(121, "frozen on the wasmtime engine");
    build(&home, &text, &["--dir=."]).assert_fails(121, "grant them to `run`");
    build(&home, &text, &["--wake-dir"]).assert_fails(121, "no wake directory");
    build(&home, &text, &["--trial-input=app.wat"]).assert_fails(121, "leave --trial-input out");
    build(&home, &text, &["--warmup-request=app.wat"]).assert_fails(121, "leave --warmup-request out");
    let other = home.write("frozen.wat", "(module)");
    let other = home.ok([std::ffi::OsStr::new("build"), other.as_os_str()]);
    let other = other.lines().last().unwrap().to_owned();
    build(&home, &text, &[&format!("--base={other}")]).assert_fails(121, "leave --base out");
}

/// A core module that uses WASI preview 1, made a component by the adapter: five core modules that share a memory and a table.
fn adapted(fields: &str) -> Vec<u8> {
    use wasi_preview1_component_adapter_provider as adapter;
    let mut resolve = wit_parser::Resolve::default();
    let wit = "package test:app; world app { export wizer-initialize: func(); export next: func() -> u64; }";
    let package = resolve.push_source("app.wit", wit).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let text = format!(
        r#"(module
            (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\05\00\00\00") (data (i32.const 16) "hello")
            {fields})"#
    );
    let mut module = wat::parse_str(text).unwrap();
    wit_component::embed_component_metadata(&mut module, &resolve, world, wit_component::StringEncoding::UTF8).unwrap();
    let encoder = wit_component::ComponentEncoder::default().module(&module).unwrap();
    let name = adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME;
    encoder.adapter(name, adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER).unwrap().encode().unwrap()
}

fn build_adapted(home: &Home, fields: &str, options: &[&str]) -> Ran {
    let wasm = home.write("app.wasm", adapted(fields));
    home.run(["build", "--tag=app", "--cpu=v2", "--freeze=init"].iter().chain(options).chain(&[wasm.to_str().unwrap()]))
}

#[test]
fn a_module_with_the_adapter_wakes_behind_its_initialisation() {
    let home = Home::new();
    // How many variables there are, and the seconds of the time of day.
    let fields = r#"(func (export "wizer-initialize")
            (drop (call $environ (i32.const 1000) (i32.const 1004)))
            (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 1008))))
        (func (export "next") (result i64)
            (drop (call $environ (i32.const 1020) (i32.const 1024)))
            (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 1032)))
            (i64.add (i64.extend_i32_u (i32.add (i32.load (i32.const 1000)) (i32.mul (i32.load (i32.const 1020)) (i32.const 10))))
                (i64.mul (i64.const 100) (i64.extend_i32_u (i64.gt_u (i64.load (i32.const 1032)) (i64.add (i64.load (i32.const 1008)) (i64.const 100000000000000000)))))))"#;
    let ran = build_adapted(&home, fields, &["--env=A=1", "--env=B=2", "--late-env=C"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("risk: environment variables are those of the build: A, B"), "{ran:?}");
    assert!(ran.stderr.contains("risk: it read the time of day before the freeze"), "{ran:?}");
    assert_eq!(home.ok(["run", "--invoke=next", "app"]), "122", "two variables then and now, and years have passed");
    assert_eq!(home.ok(["run", "--env=C=3", "--invoke=next", "app"]), "132", "three variables now");
    let shown = home.ok(["inspect", "app"]);
    assert!(shown.contains("learned   variable A") && shown.contains("learned   variable B") && !shown.contains("variable C"), "{shown}");
    build_adapted(&home, fields, &["--deny-frozen=env", "--env=A=1"]).assert_fails(121, "read its environment variables");
}

#[test]
fn what_a_module_with_the_adapter_may_not_do_is_said() {
    let home = Home::new();
    let init = |body: &str| format!(r#"(func (export "wizer-initialize") {body}) (func (export "next") (result i64) (i64.const 1))"#);
    let writes = init("(drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 500)))");
    build_adapted(&home, &writes, &[]).assert_fails(121, "it wrote output in its initialisation, which no call would see: `hello`");
    let reads = init("(drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 500)))");
    build_adapted(&home, &reads, &[]).assert_fails(121, "app.wasm: it reads standard input in its initialisation");
    let exits = init("(call $exit (i32.const 1))");
    build_adapted(&home, &exits, &[]).assert_fails(121, "ended with exit code 1 before it came to its freeze point, init");
    let draws = init("(drop (call $random (i32.const 600) (i32.const 24)))");
    build_adapted(&home, &draws, &[]).assert_fails(121, "it drew 24 random bytes");
}
