//! Frozen images over the heap of another: built both ways by the command, compared with images that have their heap for themselves.

mod common;

use common::corpus::program;
use common::service::Service;
use common::{Home, Ran, repo};
use serde_json::Value;
use std::path::PathBuf;

/// A home, and a module of which frozen images are built in it.
struct Images {
    home: Home,
    wasm: PathBuf,
}

impl Images {
    fn small(functions: &str) -> Self {
        let home = Home::new();
        let wasm = home.write("program.wat", small(functions));
        Self { home, wasm }
    }

    /// Builds what is frozen at its standard input.
    fn try_build(&self, tag: &str, options: &[&str], args: &[&str]) -> Ran {
        let tag = format!("--tag={tag}");
        let command = ["build", &tag, "--cpu=v2", "--freeze=stdin"].into_iter().chain(options.iter().copied());
        self.home.run(command.chain([self.wasm.to_str().unwrap(), "--"]).chain(args.iter().copied()))
    }

    /// The same, which must work; the image's digest.
    fn build(&self, tag: &str, options: &[&str], args: &[&str]) -> String {
        let built = self.try_build(tag, options, args);
        assert_eq!(built.code, Some(0), "{built:?}");
        built.stdout.trim().to_owned()
    }

    fn wake(&self, image: &str, input: &[u8]) -> (Option<i32>, String, String) {
        let ran = self.home.run_with(["run", image], input);
        (ran.code, ran.stdout, ran.stderr)
    }

    fn inspect(&self, image: &str) -> Value {
        serde_json::from_str(&self.home.ok(["inspect", "--json", image])).unwrap()
    }

    /// The digests of an image's artefacts of a media type.
    fn artefacts(&self, image: &str, media_type: &str) -> Vec<String> {
        let manifest = &self.inspect(image)["manifest"];
        let of_type = |artefact: &&Value| artefact["mediaType"].as_str().unwrap().contains(media_type);
        manifest["artefacts"].as_array().unwrap().iter().filter(of_type).map(|artefact| artefact["digest"].to_string()).collect()
    }

    fn layers(&self, image: &str) -> Vec<String> {
        let manifest = &self.inspect(image)["manifest"];
        manifest["function"]["frozen"]["layers"].as_array().unwrap().iter().map(Value::to_string).collect()
    }

    /// Bytes of an image's own layer.
    fn own_layer(&self, image: &str) -> u64 {
        let manifest = &self.inspect(image)["manifest"];
        let top = manifest["function"]["frozen"]["layers"].as_array().unwrap().last().unwrap();
        let artefacts = manifest["artefacts"].as_array().unwrap();
        artefacts.iter().find(|artefact| artefact["digest"] == *top).unwrap()["size"].as_u64().unwrap()
    }
}

/// Memory of 8 MiB, whose first half is written before anything is read; `read` reads up to 100 bytes to 1000 and gives their number, `write`
/// writes that many from there.
fn small(functions: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (memory (export "memory") 128)
            (func $fill (local $at i32)
                (local.set $at (i32.const 65536))
                (loop $next
                    (i32.store (local.get $at) (local.get $at))
                    (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 512))) (i32.const 4194304)))))
            (func $read (result i32)
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (i32.const 100))
                (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (i32.load (i32.const 8)))
            (func $write (param $len i32)
                (i32.store (i32.const 0) (i32.const 1000))
                (i32.store (i32.const 4) (local.get $len))
                (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
            {functions})"#
    )
}

/// Reads once, keeps what it read as its greeting, and answers all that it reads then: each behind the greeting.
const GREETER: &str = r#"
    (func $greeting (local $len i32)
        (local.set $len (call $read))
        (i32.store (i32.const 2000) (local.get $len))
        (memory.copy (i32.const 3000000) (i32.const 1000) (local.get $len)))
    (func (export "_start") (local $len i32)
        (call $fill)
        (call $greeting)
        (loop $more
            (local.set $len (call $read))
            (if (local.get $len) (then
                (memory.copy (i32.add (i32.const 1000) (i32.load (i32.const 2000))) (i32.const 1000) (local.get $len))
                (memory.copy (i32.const 1000) (i32.const 3000000) (i32.load (i32.const 2000)))
                (call $write (i32.add (local.get $len) (i32.load (i32.const 2000))))
                (br $more)))))"#;

#[test]
fn a_base_is_woken_reads_and_is_frozen_again() {
    let images = Images::small(GREETER);
    let file = |name: &str, text: &str| format!("--base-input={}", images.home.write(name, text).display());
    images.build("base", &[], &[]);
    let (hello, bye) = (file("hello.txt", "hello "), file("bye.txt", "bye "));
    images.build("hello", &["--base=base", &hello], &[]);
    images.build("bye", &["--base=base", &bye], &[]);
    // The base is what it was: it has still to read its greeting.
    assert_eq!(images.wake("base", b"x").1, "");
    for (image, input, answer) in [("hello", "you", "hello you"), ("bye", "you", "bye you"), ("hello", "", "")] {
        assert_eq!(images.wake(image, input.as_bytes()), (Some(0), answer.to_owned(), String::new()), "{image}");
    }
    // Input is only a part of the input: the program that begins reads the same.
    let began = images.home.run_with(["run", "--engine=wasmtime", images.wasm.to_str().unwrap()], b"hello ");
    assert_eq!((began.code, began.stdout.as_str()), (Some(0), ""));
    // What they have in common is the same to the byte.
    for media_type in ["vnd.preheat.code", "vnd.preheat.resume"] {
        assert_eq!(images.artefacts("hello", media_type), images.artefacts("bye", media_type), "{media_type}");
    }
    let (base, hello, bye) = (images.layers("base"), images.layers("hello"), images.layers("bye"));
    assert_eq!((base.len(), &hello[..1], &bye[..1], hello.len()), (1, &base[..], &base[..], 2));
    assert_ne!(hello[1], bye[1]);
    assert!(images.own_layer("base") > 4_000_000 && images.own_layer("hello") < 40_000, "{}", images.own_layer("hello"));
    let shown = images.home.ok(["inspect", "hello"]);
    assert!(shown.contains("2 heap layers") && shown.matches("layer     ").count() == 2, "{shown}");
}

#[test]
fn layers_are_laid_over_layers_up_to_a_limit() {
    let images = Images::small(
        r#"(func (export "_start") (local $sum i32)
            (call $fill)
            (loop $more
                (if (call $read) (then
                    (local.set $sum (i32.add (local.get $sum) (i32.sub (i32.load8_u (i32.const 1000)) (i32.const 48))))
                    (br $more))))
            (i32.store8 (i32.const 1000) (i32.add (local.get $sum) (i32.const 65)))
            (call $write (i32.const 1)))"#,
    );
    let one = format!("--base-input={}", images.home.write("one.txt", "1").display());
    images.build("sum0", &[], &[]);
    for count in 1..16 {
        let (base, tag) = (format!("--base=sum{}", count - 1), format!("sum{count}"));
        images.build(&tag, &[&base, &one], &[]);
        let letter = char::from(b'A' + count);
        assert_eq!(images.wake(&tag, b"").1, letter.to_string());
    }
    assert_eq!(images.wake("sum15", b"3").1, "S");
    images.try_build("more", &["--base=sum15", &one], &[]).assert_fails(121, "its heap has 16 layers");
}

#[test]
fn what_begins_afresh_keeps_only_what_differs() {
    // With a number of arguments as its only difference.
    let images = Images::small(
        r#"(func (export "_start")
            (call $fill)
            (drop (call $args (i32.const 3000000) (i32.const 3000004)))
            (drop (call $read))
            (i32.store8 (i32.const 1000) (i32.add (i32.const 48) (i32.load (i32.const 3000000))))
            (call $write (i32.const 1)))"#,
    );
    images.build("base", &[], &[]);
    images.build("alone", &[], &["a", "b"]);
    images.build("over", &["--base=base"], &["a", "b"]);
    assert_eq!(images.wake("over", b"x"), images.wake("alone", b"x"));
    assert_eq!((images.wake("over", b"x").1.as_str(), images.wake("base", b"x").1.as_str()), ("3", "1"));
    assert!(images.own_layer("over") < 40_000 && images.own_layer("alone") > 4_000_000);
    assert_eq!(images.artefacts("over", "vnd.preheat.resume"), images.artefacts("base", "vnd.preheat.resume"));
}

#[test]
fn the_same_inputs_give_the_same_layered_image() {
    let images = Images::small(GREETER);
    let hello = format!("--base-input={}", images.home.write("hello.txt", "hello ").display());
    let base = images.build("base", &[], &[]);
    let first = images.build("hello", &["--base=base", &hello], &[]);
    assert_eq!(images.build("hello", &[&format!("--base={base}"), &hello], &[]), first);
    // In another home, where nothing is there, too.
    let other = Images::small(GREETER);
    let hello = format!("--base-input={}", other.home.write("greeting.txt", "hello ").display());
    assert_eq!(other.build("base", &[], &[]), base);
    assert_eq!(other.build("hello", &["--base=base", &hello], &[]), first);
    // Another input is another image, and so is another base.
    let bye = format!("--base-input={}", other.home.write("greeting.txt", "bye ").display());
    assert_ne!(other.build("bye", &["--base=base", &bye], &[]), first);
    other.build("late", &["--late-env=A"], &[]);
    let key = |image: &str| other.inspect(image)["statements"][0]["key"].to_string();
    let late = other.build("over-late", &["--base=late", &hello], &[]);
    assert_ne!(late, first);
    assert_ne!(key("over-late"), key("hello"));
}

#[test]
fn what_is_no_base_is_refused_with_the_reason() {
    let images = Images::small(GREETER);
    let input = format!("--base-input={}", images.home.write("hello.txt", "hello ").display());
    let refused = |options: &[&str], args: &[&str], why: &str| images.try_build("no", options, args).assert_fails(121, why);
    images.home.ok(["build", "--engine=native", "--cpu=v2", "--tag=plain", images.wasm.to_str().unwrap()]);
    refused(&["--base=plain"], &[], "it is not frozen");
    refused(&["--base=plain", &input], &[], "it is not frozen");
    let other = images.home.write("other.wat", small(r#"(func (export "_start") (drop (call $read)))"#));
    images.home.ok(["build", "--freeze=stdin", "--cpu=v2", "--tag=other", other.to_str().unwrap()]);
    refused(&["--base=other"], &[], "it is of another module");
    refused(&["--base=other", &input], &[], "it is of another module");
    let dir = format!("--ro-dir={}::/data", images.home.path().display());
    images.build("base", &["--env=A=1", "--late-env=B", &dir], &["x"]);
    refused(&["--base=base", &input, &dir], &["y"], "it was frozen with the arguments [\"x\"]");
    refused(&["--base=base", &input, &dir, "--env=A=2"], &[], "it was frozen with the variables");
    refused(&["--base=base", &input, &dir, "--late-env=C"], &[], "it was frozen with the late variables");
    refused(&["--base=base", &input], &[], "frozen with the directory `/data`");
    let second = format!("--ro-dir={}::/other", images.home.path().display());
    refused(&["--base=base", &input, &dir, &second], &[], "frozen without the directory `/other`");
    images.build("same", &["--base=base", &input, &dir, "--env=A=1", "--late-env=B"], &["x"]);
    images.build("inherits", &["--base=base", &input, &dir], &[]);
    assert!(images.home.ok(["inspect", "inherits"]).contains("late env  B"));
    refused(&["--base=base", "--namespace=team"], &[], "it was built for the namespace `default`, this is for `team`");
    refused(&["--base=base", &input, &dir, "--namespace=team"], &[], "it was built for the namespace `default`");
    // Where it stops must be where it goes on.
    let import = ["build", "--freeze=import:wasi_snapshot_preview1.fd_read", "--cpu=v2", "--tag=import", images.wasm.to_str().unwrap()];
    images.home.ok(import);
    refused(&["--base=import", &input], &[], "it is frozen at `import:wasi_snapshot_preview1.fd_read`");
    images.build("afresh", &["--base=import"], &[]);
    assert!(images.try_build("no", &["--base=missing"], &[]).code == Some(120));
    images.home.run(["build", "--base=base", images.wasm.to_str().unwrap()]).assert_usage();
    images.try_build("no", &[&input], &[]).assert_usage();
}

#[test]
fn a_base_that_ends_or_fails_is_said() {
    let images = Images::small(
        r#"(func (export "_start")
            (if (call $read) (then (if (i32.eq (i32.load8_u (i32.const 1000)) (i32.const 33)) (then unreachable))))
            (call $write (i32.const 1)))"#,
    );
    images.build("base", &[], &[]);
    let input = |name: &str, text: &str| format!("--base-input={}", images.home.write(name, text).display());
    images
        .try_build("no", &["--base=base", &input("a.txt", "a")], &[])
        .assert_fails(121, "ended with exit code 0 before it came to its freeze point");
    images.try_build("no", &["--base=base", &input("b.txt", "!")], &[]).assert_fails(121, "unreachable");
    // Nothing to read: it stops where it was.
    images.build("again", &["--base=base", &input("c.txt", "")], &[]);
    assert_eq!(images.wake("again", b"x").1, "x");
}

#[test]
fn what_the_base_learned_is_in_the_record_of_its_layers() {
    let images = Images::small(
        r#"(func (export "_start")
            (call $fill)
            (drop (call $random (i32.const 65536) (i32.const 16)))
            (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 3000)))
            (call $write (i32.const 1))
            (drop (call $read))
            (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 3008)))
            (drop (call $read))
            (call $write (i32.const 1)))"#,
    );
    let input = format!("--base-input={}", images.home.write("a.txt", "a").display());
    images.build("base", &["--allow-frozen-random"], &[]);
    let over = ["--base=base", input.as_str(), "--allow-frozen-random"];
    images.build("over", &over, &[]);
    let learned = images.inspect("over")["learned"].clone();
    assert_eq!((&learned["randomBytes"], &learned["clocks"]["realtime"]), (&16.into(), &2.into()), "{learned}");
    images.try_build("no", &over[..2], &[]).assert_fails(121, "random bytes before it was frozen and none after waking");
    images.try_build("no", &[&over[..], &["--deny-frozen=clock"]].concat(), &[]).assert_fails(121, "read a clock before it was frozen");
    // Its early output comes with each waking, once.
    assert_eq!(images.wake("over", b"z").1, "\0z");
}

#[test]
fn a_layered_image_needs_no_base_beside_it() {
    let images = Images::small(GREETER);
    let hello = format!("--base-input={}", images.home.write("hello.txt", "hello ").display());
    images.build("base", &[], &[]);
    let digest = images.build("hello", &["--base=base", &hello], &[]);
    images.home.ok(["rm", "base"]);
    images.home.ok(["gc"]);
    assert_eq!(images.wake("hello", b"you").1, "hello you");
    images.home.assert_whole();
    // Taken elsewhere as a whole.
    let bundle = images.home.path().join("hello.tar");
    images.home.ok(["export", "hello", bundle.to_str().unwrap()]);
    let other = Home::new();
    assert!(other.run(["run", digest.as_str()]).code == Some(120));
}

#[test]
fn a_layered_image_is_pushed_and_pulled_as_a_whole() {
    let server = Home::new();
    let service = Service::start(&server);
    let (builder, fingerprint) = service.with_root();
    let wasm = builder.write("program.wat", small(GREETER));
    let hello = format!("--base-input={}", builder.write("hello.txt", "hello ").display());
    let images = Images { home: builder, wasm };
    images.build("base", &[], &[]);
    let digest = images.build("hello", &["--base=base", &hello], &[]);
    images.home.ok(["push", "hello", &service.place("hello:v1")]);

    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    assert_eq!(node.ok(["pull", &service.place("hello:v1")]), digest);
    let ran = node.run_with(["run", &service.place("hello:v1")], b"you");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hello you"), "{ran:?}");
    node.assert_whole();

    // What is pulled is a base like any other, for whoever trusts its builder; for others it is none.
    let mine = Images { wasm: node.write("program.wat", small(GREETER)), home: node };
    mine.build("nothing-more", &[&format!("--base={digest}"), &format!("--base-input={}", mine.home.write("a.txt", "").display())], &[]);
    assert_eq!(mine.wake("nothing-more", b"me").1, "hello me");
    assert_eq!(mine.layers("nothing-more").len(), 3);
    mine.home.ok(["trust", "rm", &fingerprint]);
    mine.try_build("no", &[&format!("--base={digest}")], &[]).assert_fails(122, "it is vouched for by unknown key");
}

const BASE: &str = "import os, sys, json, re, calendar, datetime\nscope = {}\nexec(SOURCE, scope)\ntext = sys.stdin.read()\n\
    sys.stdout.write(json.dumps(scope['handle'](json.loads(text))) + '\\n')\nsys.stdout.flush()\nos._exit(0)";
const HANDLERS: [&str; 2] = [
    "import datetime\ndef handle(event):\n    return {'next': str(datetime.date.fromisoformat(event['date']) + datetime.timedelta(days=1))}",
    "import re, calendar\nDAY = re.compile('-([0-9]+)$')\ndef handle(event):\n    return [calendar.month_name[3], DAY.findall(event['date'])]",
];

/// CPython with a handler: three ways to the same program.
#[test]
fn python_handlers_answer_the_same_whatever_their_heap_lies_over() {
    let Some(wasm) = program("cpython") else { return };
    let images = Images { home: Home::new(), wasm };
    let hosts = BASE.replace("SOURCE", "os.read(0, 1 << 20)");
    let options = ["--env=PYTHONHASHSEED=0", "--allow-frozen-random"];
    images.build("base", &options, &["-c", &hosts]);
    let events = [r#"{"date":"2024-02-28"}"#, r#"{"date":"1999-12-31"}"#];
    for (number, handler) in HANDLERS.iter().enumerate() {
        let input = format!("--base-input={}", images.home.write("handler.py", handler).display());
        let whole = BASE.replace("SOURCE", &serde_json::to_string(handler).unwrap());
        let [alone, afresh, woken] = ["alone", "afresh", "woken"].map(|name| format!("{name}{number}"));
        images.build(&alone, &options, &["-c", &whole]);
        images.build(&afresh, &[&options[..], &["--base=base"]].concat(), &["-c", &whole]);
        images.build(&woken, &["--base=base", &input, "--allow-frozen-random"], &[]);
        for event in events {
            let expected = images.wake(&alone, event.as_bytes());
            assert_eq!(expected.0, Some(0), "{expected:?}");
            assert_eq!(images.wake(&afresh, event.as_bytes()), expected);
            assert_eq!(images.wake(&woken, event.as_bytes()), expected);
        }
        let whole = images.own_layer(&alone);
        assert!(images.own_layer(&woken) < whole / 4 && images.own_layer(&afresh) < whole, "{whole}");
        assert!(images.own_layer(&woken) < 1 << 20, "{}", images.own_layer(&woken));
        assert_eq!(images.artefacts(&woken, "vnd.preheat.code"), images.artefacts("base", "vnd.preheat.code"));
    }
    assert_eq!(images.artefacts("woken0", "vnd.preheat.resume"), images.artefacts("woken1", "vnd.preheat.resume"));
    check_example(&images);
}

/// `examples/frozen-python-handlers`, in a home in which CPython is compiled.
fn check_example(images: &Images) {
    let example = repo("examples/frozen-python-handlers");
    let host = std::fs::read_to_string(example.join("host.py")).unwrap();
    images.build("host", &["--env=PYTHONHASHSEED=0", "--allow-frozen-random"], &["-c", &host]);
    let build = |name: &str| {
        let input = format!("--base-input={}", example.join(format!("handlers/{name}.py")).display());
        images.build(name, &["--base=host", &input], &[])
    };
    let words = build("words");
    build("weekday");
    assert_eq!(images.wake("words", br#"{"text":"good morning"}"#).1, "{\"words\": 2, \"longest\": \"morning\"}\n");
    assert_eq!(images.wake("weekday", br#"{"date":"2024-02-29"}"#).1, "{\"weekday\": \"Thursday\", \"days\": 29}\n");
    assert_eq!(images.wake("words", b"[]").0, Some(1));
    assert_eq!(build("words"), words);
}
