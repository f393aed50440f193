//! Frozen programs: real ones and small ones, built and run by the command, compared with the same program that starts from the beginning on
//! wasmtime.

mod common;

use common::corpus::program;
use common::{Home, Ran, repo};
use std::path::{Path, PathBuf};

fn text(path: &str) -> String {
    std::fs::read_to_string(repo(path)).unwrap()
}

/// A program, frozen and not, in one home.
struct Frozen {
    home: Home,
    wasm: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
}

impl Frozen {
    /// Builds the frozen image `frozen:latest` with these options of `build`.
    fn new(wasm: &Path, options: &[&str], env: &[&str], args: &[&str]) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let this = Self { home: Home::new(), wasm: wasm.to_owned(), args: owned(args), env: owned(env) };
        let built = this.build(options);
        assert_eq!(built.code, Some(0), "{built:?}");
        this
    }

    fn build(&self, options: &[&str]) -> Ran {
        let mut command = vec!["build".to_owned(), "--tag=frozen".to_owned(), "--cpu=v2".to_owned()];
        command.extend(options.iter().map(|option| (*option).to_owned()));
        command.extend(self.env.iter().map(|variable| format!("--env={variable}")));
        command.push(self.wasm.display().to_string());
        command.push("--".to_owned());
        command.extend(self.args.iter().cloned());
        self.home.run(command)
    }

    fn wake(&self, options: &[&str], input: &[u8]) -> Ran {
        self.home.run_with(["run"].iter().chain(options).chain(&["frozen"]), input)
    }

    /// The same program from the beginning, on wasmtime.
    fn start(&self, options: &[&str], input: &[u8]) -> Ran {
        let mut command = vec!["run".to_owned(), "--engine=wasmtime".to_owned(), "--cpu=v2".to_owned()];
        command.extend(options.iter().map(|option| (*option).to_owned()));
        command.extend(self.env.iter().map(|variable| format!("--env={variable}")));
        command.push(self.wasm.display().to_string());
        command.push("--".to_owned());
        command.extend(self.args.iter().cloned());
        self.home.run_with(command, input)
    }

    /// Wakes and starts with each input, and compares all that can be seen.
    fn assert_same(&self, options: &[&str], inputs: &[&[u8]]) {
        for input in inputs {
            let (woken, started) = (self.wake(options, input), self.start(options, input));
            let shown = String::from_utf8_lossy(&input[..input.len().min(200)]);
            assert_eq!(woken.stdout, started.stdout, "{shown}: {woken:?}");
            assert_eq!(woken.code, started.code, "{shown}: {woken:?} {started:?}");
            assert_eq!(woken.stderr, started.stderr, "{shown}");
        }
    }
}

const EVENTS: [&[u8]; 6] = [
    br#"{"name":"Ada","lang":"de","text":"the quick brown fox's jump"}"#,
    br#"{"name":"Grace","lang":"fr","text":""}"#,
    b"{}",
    br#"{"name":"\u00e9\u4e2d","lang":"xx","text":"a bb ccc dddd eeeee ffffff"}"#,
    b"not json",
    b"",
];

fn orders() -> Vec<Vec<u8>> {
    let mut inputs: Vec<Vec<u8>> =
        ["orders", "orders-empty", "orders-large"].iter().map(|name| text(&format!("examples/inputs/{name}.json")).into_bytes()).collect();
    inputs.extend([b"[]".to_vec(), b"".to_vec(), b"[{\"customer\":".to_vec(), vec![b' '; 200_000]]);
    inputs
}

fn check_orders(name: &str) {
    let Some(wasm) = program(name) else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--allow-frozen-random"], &[], &[]);
    let inputs = orders();
    frozen.assert_same(&[], &inputs.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

#[test]
fn c_wakes_where_it_reads() {
    check_orders("json-c");
}

#[test]
fn go_wakes_where_it_reads() {
    check_orders("json-go");
}

#[test]
fn assemblyscript_wakes_where_it_reads() {
    check_orders("json-as");
}

#[test]
fn esbuild_wakes_where_it_reads() {
    let Some(wasm) = program("esbuild") else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--allow-frozen-random"], &[], &["--loader=ts"]);
    let sample = text("examples/inputs/sample.ts");
    let inputs: [&[u8]; 5] =
        [sample.as_bytes(), b"const x: number = 1", b"", b"const = ;", b"enum A { B, C = 'x' }\nexport default A satisfies unknown"];
    frozen.assert_same(&[], &inputs);
}

#[test]
fn quickjs_wakes_where_it_reads() {
    let Some(wasm) = program("quickjs") else { return };
    let handler = text("examples/frozen-javascript/handler.js");
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--wake-dir"], &[], &["--std", "-e", &handler]);
    // The program that starts from the beginning is given what the frozen one finds in its wake directory.
    let random = frozen.home.write("wake/random", [7; 64]);
    let dir = format!("--ro-dir={}::/preheat", random.parent().unwrap().display());
    for event in EVENTS {
        let (woken, started) = (frozen.wake(&[], event), frozen.start(&[&dir], event));
        assert_eq!((woken.stdout, woken.code, woken.stderr), (started.stdout, started.code, started.stderr));
    }
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("pick") && first != second, "{first}{second}");
}

#[test]
fn cpython_wakes_where_it_reads() {
    let Some(wasm) = program("cpython") else { return };
    let handler = text("examples/frozen-python/handler.py");
    let frozen = Frozen::new(&wasm, &["--freeze=stdin"], &["PYTHONHASHSEED=0"], &["-c", &handler]);
    let mut events = EVENTS.to_vec();
    events.push(br#"{"date":"2024-02-29"}"#);
    frozen.assert_same(&[], &events);
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b c d e f g h"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("\"id\"") && first != second, "{first}{second}");
}

#[test]
fn go_draws_anew_after_waking() {
    let Some(wasm) = program("frozen-go") else { return };
    let frozen = Frozen::new(&wasm, &["--freeze=stdin", "--wake-dir"], &[], &[]);
    let pick = || frozen.wake(&[], br#"{"random":true,"text":"a b"}"#).stdout;
    let (first, second) = (pick(), pick());
    assert!(first.contains("pick") && first != second, "{first}{second}");
}

#[test]
fn random_numbers_are_not_frozen_unless_that_is_allowed() {
    let Some(wasm) = program("json-go") else { return };
    let frozen = Frozen { home: Home::new(), wasm, args: Vec::new(), env: Vec::new() };
    let refused = frozen.build(&["--freeze=stdin"]);
    refused.assert_fails(121, "random bytes before it was frozen and none after waking");
    assert!(frozen.home.run(["run", "frozen"]).code == Some(120), "a refused image has no name");
    assert_eq!(frozen.build(&["--freeze=stdin", "--allow-frozen-random"]).code, Some(0));
    let shown = frozen.home.ok(["inspect", "frozen"]);
    assert!(shown.contains("frozen    at stdin") && shown.contains("risk "), "{shown}");
}

/// What small programs here import, and `read`, which reads up to 100 bytes of standard input to address 1000 and gives their number;
/// `write`, which writes that many from there; and `put`, which writes the digit in its parameter.
fn small(functions: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func $read (result i32)
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (i32.const 100))
                (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then (call $exit (i32.const 77))))
                (i32.load (i32.const 8)))
            (func $write (param $len i32)
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (local.get $len))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            (func $put (param $digit i32)
                (i32.store8 (i32.const 1000) (i32.add (local.get $digit) (i32.const 48)))
                (call $write (i32.const 1)))
            {functions})"#
    )
}

/// Freezes a small program at its first read, and compares it with itself for each input.
fn check_small(functions: &str, inputs: &[&[u8]]) -> Frozen {
    let home = Home::new();
    let wasm = home.write("program.wat", small(functions));
    let frozen = Frozen { home, wasm, args: Vec::new(), env: Vec::new() };
    let built = frozen.build(&["--freeze=stdin"]);
    assert_eq!(built.code, Some(0), "{built:?}");
    frozen.assert_same(&[], inputs);
    frozen
}

#[test]
fn input_is_read_in_several_pieces() {
    let echo = r#"(func (export "_start") (local $len i32)
        (loop $more
            (local.set $len (call $read))
            (if (local.get $len) (then (call $write (local.get $len)) (br $more)))))"#;
    let long: Vec<u8> = (0..1000u32).map(|at| b'a' + u8::try_from(at % 26).unwrap()).collect();
    check_small(echo, &[b"", b"a", b"hello", &long, &long[..100]]);
}

#[test]
fn a_program_that_waits_for_its_input_wakes_in_the_wait() {
    let poll = r#"(func (export "_start")
        (i32.store8 (i32.const 8) (i32.const 1))                            ;; subscription: fd_read
        (i32.store (i32.const 16) (i32.const 0))                            ;; of descriptor 0
        (if (call $poll (i32.const 0) (i32.const 200) (i32.const 1) (i32.const 300)) (then (call $exit (i32.const 78))))
        (call $put (i32.load (i32.const 300)))
        (call $write (call $read)))"#;
    check_small(poll, &[b"event", b"x", b"123"]);
}

#[test]
fn output_before_the_freeze_comes_with_each_waking() {
    let greet = r#"(data (i32.const 1000) "ready ")
        (func (export "_start") (call $write (i32.const 6)) (call $write (call $read)))"#;
    let frozen = check_small(greet, &[b"one", b"two", b""]);
    assert!(frozen.home.ok(["inspect", "frozen"]).contains("output that was written before the freeze"));
    frozen.build(&["--freeze=stdin", "--deny-frozen=output"]).assert_fails(121, "wrote output before it was frozen");
}

#[test]
fn it_recurses_deeply_at_the_freeze() {
    let deep = r#"(func $down (param $n i32) (result i32)
            (if (result i32) (local.get $n)
                (then (i32.add (local.get $n) (call $down (i32.sub (local.get $n) (i32.const 1)))))
                (else (call $read))))
        (func (export "_start") (call $put (i32.rem_u (call $down (i32.const 3000)) (i32.const 10))))"#;
    check_small(deep, &[b"", b"a", b"12345"]);
}

#[test]
fn exit_codes_and_traps_are_those_of_the_program() {
    let ends = r#"(func (export "_start") (local $len i32)
        (local.set $len (call $read))
        (if (i32.eq (local.get $len) (i32.const 3)) (then unreachable))
        (call $exit (local.get $len)))"#;
    let frozen = check_small(ends, &[b"", b"ab", b"abcde"]);
    let trapped = frozen.wake(&[], b"abc");
    assert_eq!(trapped.code, Some(134), "{trapped:?}");
    assert!(trapped.stderr.contains("unreachable") && trapped.stderr.contains("function"), "{trapped:?}");
}

#[test]
fn what_does_not_come_to_its_freeze_point_is_said() {
    let build = |functions: &str, options: &[&str]| {
        let home = Home::new();
        let wasm = home.write("program.wat", small(functions));
        Frozen { home, wasm, args: Vec::new(), env: Vec::new() }.build(options)
    };
    let stdin = ["--freeze=stdin"];
    build(r#"(func (export "_start"))"#, &stdin).assert_fails(121, "ended with exit code 0 before it came to its freeze point");
    let closes = r#"(func (export "_start") (drop (call $fd_close (i32.const 0))) (call $exit (i32.const 3)))"#;
    build(closes, &stdin).assert_fails(121, "ended with exit code 3 before it came to its freeze point");
    build(r#"(func (export "_start") unreachable)"#, &stdin).assert_fails(121, "unreachable");
    let endless = [stdin[0], "--freeze-timeout=100ms"];
    build(r#"(func (export "_start") (loop br 0))"#, &endless).assert_fails(121, "deadline");
    build(r#"(func (export "f"))"#, &stdin).assert_fails(121, "no `_start` that could be frozen");
    build(r#"(func (export "f"))"#, &["--freeze=init"]).assert_fails(121, "exports neither `_initialize` nor `wizer-initialize`");
    build(r#"(func (export "_start"))"#, &["--freeze=init"]).assert_fails(121, "freeze it at `stdin`");
    build(r#"(func (export "_start"))"#, &["--freeze=stdin", "--engine=wasmtime"]).assert_fails(121, "only the native engine freezes");
    build(r#"(func (export "_start"))"#, &["--freeze=import:a.b"]).assert_fails(121, "imports no function `b` from `a`");
    build(r#"(func (export "_start"))"#, &["--freeze=soon"]).assert_usage();
}

#[test]
fn a_program_marks_the_point_itself() {
    let home = Home::new();
    let text = small(
        r#"(func (export "_start") (local $n i32)
        (loop $again
            (call $mark)
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 3))))
        (call $put (local.get $n)))"#,
    );
    let wasm = home.write("program.wat", text.replacen("(memory", "(import \"my\" \"mark\" (func $mark))\n(memory", 1));
    let frozen = Frozen { home, wasm, args: Vec::new(), env: Vec::new() };
    assert_eq!(frozen.build(&["--freeze=import:my.mark"]).code, Some(0));
    let woken = frozen.wake(&[], b"");
    assert_eq!((woken.code, woken.stdout.as_str()), (Some(0), "3"), "{woken:?}");
}

#[test]
fn a_module_wakes_behind_its_initialisation() {
    let home = Home::new();
    let text = r#"(module (memory 1) (global $count (mut i32) (i32.const 0))
        (func (export "_initialize")
            (if (global.get $count) (then unreachable))
            (global.set $count (i32.const 40))
            (i32.store (i32.const 70000) (i32.const 7)))
        (func (export "grow") (drop (memory.grow (i32.const 1))))
        (func (export "init") (drop (memory.grow (i32.const 1))) (i32.store (i32.const 70000) (i32.const 2)))
        (func (export "next") (result i32)
            (global.set $count (i32.add (global.get $count) (i32.const 1)))
            (i32.add (global.get $count) (i32.load (i32.const 70000)))))"#;
    let wasm = home.write("counter.wat", text);
    let build = |options: &[&str]| home.run(["build", "--tag=counter", "--cpu=v2"].iter().chain(options).chain(&[wasm.to_str().unwrap()]));
    build(&["--freeze=init"]).assert_fails(121, "out of bounds");
    assert_eq!(build(&["--freeze=init", "--init-export=init"]).code, Some(0));
    for _ in 0..2 {
        assert_eq!(home.ok(["run", "--invoke=next", "counter"]), "3", "each instance wakes in the same state");
    }
    assert!(home.ok(["inspect", "counter"]).contains("frozen    at init"));
    build(&["--freeze=init", "--init-export=nothing"]).assert_fails(121, "`nothing`");
    build(&["--freeze=stdin", "--init-export=init"]).assert_fails(121, "belongs to `--freeze init`");
}

#[test]
fn clocks_do_not_go_back() {
    // Writes 1 if the monotonic clock has gone on since the freeze, and the real one is not that of the build.
    let clocks = r#"(func (export "_start")
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 504)))
        (drop (call $read))
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 512)))
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 520)))
        (call $put (i64.lt_u (i64.load (i32.const 504)) (i64.load (i32.const 512))))
        (call $put (i64.gt_u (i64.load (i32.const 520)) (i64.const 1600000000000000000))))"#;
    let frozen = check_small(clocks, &[b"", b"x"]);
    assert_eq!(frozen.wake(&[], b"").stdout, "11");
    frozen.build(&["--freeze=stdin", "--deny-frozen=clock"]).assert_fails(121, "read a clock before it was frozen");
}

#[test]
fn arguments_and_environment_are_those_of_the_build() {
    let frozen = check_small(r#"(func (export "_start") (call $write (call $read)))"#, &[b"x"]);
    frozen.home.run(["run", "frozen", "--", "other"]).assert_fails(121, "frozen with the arguments");
    frozen.home.run(["run", "--env=A=b", "frozen"]).assert_fails(121, "--late-env A");
    frozen.home.run(["run", "--dir=.::/data", "frozen"]).assert_fails(121, "frozen without the directory `/data`");
    assert_eq!(frozen.build(&["--freeze=stdin", "--late-env=A"]).code, Some(0));
    assert_eq!(frozen.home.run_with(["run", "--env=A=b", "frozen"], b"y").stdout, "y");
    assert!(frozen.home.ok(["inspect", "frozen"]).contains("late env  A"));
}

#[test]
fn the_same_inputs_give_the_same_image_and_files_that_were_read_are_among_them() {
    let Some(wasm) = program("cpython") else { return };
    let script = "import sys; text = open('/data/table').read(); sys.stdin.read(); print(text)";
    let frozen = Frozen { home: Home::new(), wasm, args: ["-c", script].map(str::to_owned).to_vec(), env: vec!["PYTHONHASHSEED=0".into()] };
    let table = frozen.home.write("data/table", "one");
    let dir = format!("--ro-dir={}::/data", table.parent().unwrap().display());
    let build = || {
        let built = frozen.build(&["--freeze=stdin", "--allow-frozen-random", &dir]);
        assert_eq!(built.code, Some(0), "{built:?}");
        built.stdout
    };
    let first = build();
    assert_eq!(build(), first);
    assert!(frozen.home.ok(["inspect", "frozen"]).contains("file /data/table (3 B)"));
    assert_eq!(frozen.wake(&[&dir], b"").stdout, "one\n");
    std::fs::write(&table, "two").unwrap();
    assert_ne!(build(), first);
    assert_eq!(frozen.wake(&[&dir], b"").stdout, "two\n");
    frozen.wake(&[], b"").assert_fails(121, "frozen with the directory `/data`");
    // Another directory of the same guest name will do: what was read is in the image.
    let other = format!("--ro-dir={}::/data", frozen.home.path().display());
    assert_eq!(frozen.wake(&[&other], b"").stdout, "two\n");
}

#[test]
fn a_trial_tells_whether_freezing_would_pay() {
    let home = Home::new();
    home.write("event", "event");
    let work = "(loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))";
    let begin = r#"(func (export "_start") (local $n i32) (local.set $n (i32.const 100000000))"#;
    let initialises = home.write("initialises.wat", small(&format!("{begin} {work} (call $write (call $read)))")));
    let works = home.write("works.wat", small(&format!("{begin} (drop (call $read)) {work} (call $exit (i32.const 3)))")));
    let blind = home.write("blind.wat", small(r#"(func (export "_start"))"#));
    for engine in ["--engine=native", "--engine=wasmtime"] {
        let build = |wasm: &Path| home.run(["build", "--cpu=v2", engine, "--trial-input=event", wasm.to_str().unwrap()]);
        let ran = build(&initialises);
        assert_eq!((ran.code, ran.stdout.lines().count()), (Some(0), 1), "its output is not the build's: {ran:?}");
        assert!(ran.stderr.contains("suggestion: `--freeze stdin`"), "{ran:?}");
        let ran = build(&works);
        assert!(ran.stderr.contains("until it asked for its input") && !ran.stderr.contains("suggestion"), "{ran:?}");
        assert!(build(&blind).stderr.contains("it did not ask for its input"));

        let json = |wasm: &Path| home.json(["build", "--cpu=v2", engine, "--trial-input=event", wasm.to_str().unwrap()]);
        assert_eq!(json(&initialises)["trial"]["suggestion"], "stdin");
        let report = json(&works);
        assert_eq!((&report["trial"]["suggestion"], &report["trial"]["exit"]), (&serde_json::Value::Null, &serde_json::json!(3)));
        assert!(report["trial"]["untilInputSeconds"].is_number());
        assert!(json(&blind)["trial"]["untilInputSeconds"].is_null());
    }
    // What does not end is said, and its image is there. Nothing is run unasked.
    let endless = home.write("endless.wat", small(r#"(func (export "_start") (loop br 0))"#));
    let endless = endless.to_str().unwrap();
    let ran = home.run(["build", "--cpu=v2", "--trial-input=event", "--freeze-timeout=50ms", endless]);
    assert!(ran.code == Some(0) && ran.stderr.contains("trial: the deadline of 50ms has passed"), "{ran:?}");
    let report = home.json(["build", "--cpu=v2", endless]);
    assert!(report["trial"].is_null() && report["frozen"].is_null());
    home.run(["build", "--dir=.", endless]).assert_usage();
    home.run(["build", "--trial-input=nothing", endless]).assert_fails(125, "can't read nothing");
}

#[test]
fn sample_requests_tell_which_pages_calls_write() {
    // It writes to page 11, to page 12 if the input begins with `a`, and to pages that it grows by.
    let wat = small(
        r#"(func (export "_start")
            (drop (call $read))
            (i32.store (i32.const 45056) (i32.const 1))
            (drop (memory.grow (i32.const 1)))
            (i32.store (i32.const 65532) (i32.const 1))
            (i32.store (i32.const 70000) (i32.const 1))
            (if (i32.eq (i32.load8_u (i32.const 1000)) (i32.const 97)) (then (i32.store (i32.const 49152) (i32.const 1))))
            (call $put (i32.const 1)))"#,
    );
    let build = |requests: &[&str]| {
        let home = Home::new();
        let wasm = home.write("program.wat", &wat);
        let mut command = vec!["build".to_owned(), "--freeze=stdin".to_owned(), "--tag=frozen".to_owned(), "--cpu=v2".to_owned()];
        for (number, request) in requests.iter().enumerate() {
            command.push(format!("--warmup-request={}", home.write(&format!("request-{number}"), request).display()));
        }
        command.push(wasm.display().to_string());
        let report = home.json(command);
        let woken = home.run_with(["run", "frozen"], b"abc");
        assert_eq!((woken.code, woken.stdout.as_str()), (Some(0), "1"), "{woken:?}");
        home.assert_whole();
        let text = |field: &str| report[field].as_str().unwrap().to_owned();
        (report["frozen"]["writtenPages"].as_u64().unwrap(), text("image"), text("key"))
    };
    assert_eq!(build(&[]).0, 0);
    let (pages, image, key) = build(&["b"]);
    assert_eq!(pages, 3, "what it reads and what it writes");
    assert_eq!(build(&["a", "b"]).0, 4, "half of the requests");
    assert_eq!(build(&["a", "b", "b"]).0, 3, "less than half");
    assert_eq!(build(&["b"]), (3, image, key.clone()), "the same requests give the same image");
    assert_ne!(build(&["c"]).2, key, "the key names the requests");
}

#[test]
fn a_sample_request_has_to_come_to_an_answer() {
    let home = Home::new();
    let wat = small(
        r#"(func (export "_start")
            (drop (call $read))
            (if (i32.eq (i32.load8_u (i32.const 1000)) (i32.const 97)) (then unreachable))
            (if (i32.eq (i32.load8_u (i32.const 1000)) (i32.const 98)) (then (loop (br 0))))
            (call $exit (i32.const 3)))"#,
    );
    let wasm = home.write("program.wat", wat);
    let build = |freeze: &str, wasm: &Path, requests: &[&str]| {
        let files = requests.iter().map(|request| home.write(request, request).display().to_string());
        let options = files.map(|file| format!("--warmup-request={file}"));
        let command = ["build".to_owned(), format!("--freeze={freeze}"), "--freeze-timeout=500ms".to_owned(), wasm.display().to_string()];
        home.run(command.into_iter().chain(options))
    };
    assert_eq!(build("stdin", &wasm, &["c"]).code, Some(0), "an exit code is an answer");
    build("stdin", &wasm, &["c", "a"]).assert_fails(121, "woken with sample request 2");
    build("stdin", &wasm, &["b"]).assert_fails(121, "woken with sample request 1");
    let module = home.write("module.wat", r#"(module (func (export "_initialize")))"#);
    build("init", &module, &["c"]).assert_fails(121, "nothing is running after `--freeze init`");
}
