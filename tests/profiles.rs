//! `preheat profile` and builds with a profile, with the commands that people use.

mod common;

use common::Home;

/// Reads its input and calls the first function for each byte of it; the last bit of the input's first byte decides whether it calls the other. `front` is
/// declared before them.
fn app(front: &str) -> String {
    format!(
        r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\00\10\00\00")
    {front}
    (func $hot (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
    (func $rare (param i32) (result i32) (i32.xor (local.get 0) (i32.const 77)))
    (func (export "_start") (local $at i32) (local $sum i32)
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (block $done
            (loop $next
                (br_if $done (i32.ge_u (local.get $at) (i32.load (i32.const 8))))
                (local.set $sum (i32.add (local.get $sum) (call $hot (i32.load8_u (i32.add (i32.const 16) (local.get $at))))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
        (if (i32.and (i32.load8_u (i32.const 16)) (i32.const 1)) (then (local.set $sum (call $rare (local.get $sum)))))
        (i32.store (i32.const 8) (i32.add (i32.const 0x20202020) (i32.and (local.get $sum) (i32.const 0x3f3f3f3f))))
        (i32.store (i32.const 0) (i32.const 8))
        (i32.store (i32.const 4) (i32.const 4))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#
    )
}

/// A home with the program, and with a profile of these inputs.
fn recorded(inputs: &[&str]) -> Home {
    let home = Home::new();
    home.write("app.wat", app(""));
    record(&home, "app.profile", inputs);
    home
}

fn record(home: &Home, profile: &str, inputs: &[&str]) -> serde_json::Value {
    let mut args: Vec<String> = ["profile", "record", "app.wat", "-o", profile].map(str::to_owned).into();
    for (number, input) in inputs.iter().enumerate() {
        home.write(&format!("input-{number}"), input);
        args.extend(["--input".to_owned(), format!("input-{number}")]);
    }
    home.json(args)
}

fn read(home: &Home, name: &str) -> Vec<u8> {
    std::fs::read(home.path().join(name)).unwrap()
}

#[test]
fn what_was_recorded_is_shown_with_names_and_shares() {
    let home = Home::new();
    home.write("app.wat", app(""));
    let report = record(&home, "app.profile", &["bbbbbbbbbb", "dd"]);
    assert_eq!((&report["calls"], &report["functions"], &report["contributions"]), (&2.into(), &2.into(), &2.into()), "{report}");
    let shown = home.json(["profile", "show", "app.profile", "--wasm", "app.wat"]);
    assert_eq!((&shown["contributions"], &shown["contributors"], &shown["called"]), (&2.into(), &1.into(), &2.into()), "{shown}");
    assert_eq!(shown["carriedOver"], serde_json::Value::Null);
    let functions = shown["functions"].as_array().unwrap();
    let calls = |name: &str| functions.iter().find(|row| row["name"] == name).map(|row| row["calls"].as_u64().unwrap());
    assert!(calls("hot").unwrap() > 0 && calls("rare").is_none(), "{shown}");
    let text = home.ok(["profile", "show", "app.profile", "--wasm", "app.wat", "--top", "1"]);
    assert!(text.contains("2 functions that were called") && text.contains(" %"), "{text}");
    // Once more into the same file: what is there stays.
    assert_eq!(record(&home, "app.profile", &["cccc"])["contributions"], 3);
    home.assert_whole();
}

#[test]
fn what_comes_before_the_input_is_left_out_on_request() {
    let home = recorded(&["bbbb"]);
    home.write("in", "bbbb");
    home.ok(["profile", "record", "app.wat", "--after-stdin", "--input", "in", "-o", "late.profile"]);
    let shown = home.json(["profile", "show", "late.profile", "--wasm", "app.wat"]);
    // `_start` had been entered before.
    let functions = shown["functions"].as_array().unwrap();
    assert!(functions.iter().any(|row| row["name"] == "hot"), "{shown}");
    assert!(functions.iter().all(|row| row["function"] != 4 || row["calls"] == 0), "{shown}");
}

#[test]
fn merging_knows_no_order_and_nothing_counts_twice() {
    let home = recorded(&["bbbb"]);
    record(&home, "other.profile", &["dddddd", "a"]);
    home.ok(["profile", "merge", "app.profile", "other.profile", "-o", "one"]);
    home.ok(["profile", "merge", "other.profile", "app.profile", "other.profile", "-o", "two"]);
    assert_eq!(read(&home, "one"), read(&home, "two"));
    let merged = home.json(["profile", "merge", "one", "two", "-o", "three"]);
    assert_eq!((&merged["contributions"], read(&home, "three")), (&3.into(), read(&home, "one")));
    let same = home.json(["profile", "diff", "one", "two"]);
    assert_eq!(same["overlap"], 1.0, "{same}");
    let differ = home.json(["profile", "diff", "app.profile", "other.profile"]);
    assert!(differ["overlap"].as_f64().unwrap() < 1.0 && !differ["functions"].as_array().unwrap().is_empty(), "{differ}");
    assert!(home.ok(["profile", "diff", "app.profile", "other.profile"]).contains("overlap"));
}

#[test]
fn a_build_with_a_profile_is_another_build_that_does_the_same() {
    let home = recorded(&["bbbbbbbbbbbbbbbb"]);
    let plain = home.json(["build", "app.wat", "--tag", "app:plain", "--cpu", "v1"]);
    let steered = home.json(["build", "app.wat", "--profile", "app.profile", "--tag", "app:steered", "--cpu", "v1"]);
    let code = |built: &serde_json::Value, field: &str| built["code"][0][field].as_str().unwrap().to_owned();
    assert_ne!(code(&plain, "digest"), code(&steered, "digest"));
    let ran = home.run(["diff-key", &code(&plain, "key"), &code(&steered, "key"), "--json"]);
    let differences: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        differences["differences"].as_array().unwrap().iter().map(|row| row["field"].as_str().unwrap()).collect::<Vec<_>>(),
        ["profile"]
    );
    for input in ["", "a", "bcd", "zzzzzzzzzzzzzzzzzzzz"] {
        let run = |image: &str| home.run_with(["run", image], input.as_bytes());
        let (one, other) = (run("app:plain"), run("app:steered"));
        assert_eq!((one.code, &one.stdout), (Some(0), &other.stdout), "{input}: {other:?}");
    }
    // The same profile, the same build; without any pass the code is the plain one.
    let again = home.json(["build", "app.wat", "--profile", "app.profile", "--cpu", "v1"]);
    assert_eq!((&again["cached"], &again["image"]), (&true.into(), &steered["image"]));
    let none = home.json(["build", "app.wat", "--profile", "app.profile", "--passes", "none", "--cpu", "v1"]);
    let text = |built: &serde_json::Value| {
        let bytes = std::fs::read(home.blob(&code(built, "digest"))).unwrap();
        let native = preheat_image::native::NativeCode::parse(&bytes).unwrap();
        let start = usize::try_from(native.text.offset).unwrap();
        bytes[start..start + usize::try_from(native.text.size).unwrap()].to_vec()
    };
    assert_eq!(text(&none), text(&plain));
    assert_ne!(text(&steered), text(&plain));
    home.run(["build", "app.wat", "--profile", "app.profile", "--passes", "magic"]).assert_usage();
    home.run(["build", "app.wat", "--passes", "layout"]).assert_usage();
    home.assert_whole();
}

#[test]
fn a_frozen_program_wakes_on_code_that_a_profile_steers() {
    let home = recorded(&["bbbbbbbbbbbbbbbb"]);
    home.ok(["build", "app.wat", "--freeze", "stdin", "--profile", "app.profile", "--tag", "f"]);
    home.ok(["build", "app.wat", "--tag", "app"]);
    for input in ["", "a", "bcd"] {
        let run = |image: &str| home.run_with(["run", image], input.as_bytes()).stdout;
        assert_eq!(run("f"), run("app"), "{input}");
    }
}

#[test]
fn a_profile_of_another_build_is_carried_over() {
    let home = recorded(&["bbbbbbbbbbbbbbbb"]);
    // Everything moves by one, and one function is new.
    home.write("next.wat", app(r#"(func $new (param i32) (result i32) (local.get 0)) (global $g (mut i32) (i32.const 0))"#));
    let shown = home.json(["profile", "show", "app.profile", "--wasm", "next.wat"]);
    assert_eq!((&shown["carriedOver"]["share"], &shown["carriedOver"]["sameBody"]), (&1.0.into(), &2.into()), "{shown}");
    assert!(shown["functions"].as_array().unwrap().iter().any(|row| row["name"] == "hot" && row["function"] == 3), "{shown}");
    let carried = home.json(["build", "next.wat", "--profile", "app.profile", "--cpu", "v1"]);
    let plain = home.json(["build", "next.wat", "--cpu", "v1"]);
    assert_ne!(carried["code"][0]["digest"], plain["code"][0]["digest"]);
    // Nothing of it fits: then it is as if there was none.
    home.write("other.wat", r#"(module (func (export "_start")))"#);
    home.ok(["build", "other.wat", "--profile", "app.profile"]);
}

#[test]
fn what_is_no_profile_is_refused_and_nothing_is_half_written() {
    let home = recorded(&["bbbb"]);
    let whole = read(&home, "app.profile");
    home.write("cut.profile", &whole[..whole.len() - 1]);
    home.write("text", "not a profile");
    for file in ["cut.profile", "text"] {
        for command in [vec!["profile", "show", file], vec!["build", "app.wat", "--profile", file]] {
            home.run(command).assert_fails(121, file);
        }
        home.run(["profile", "merge", "app.profile", file, "-o", "out"]).assert_fails(121, file);
    }
    home.run(["profile", "show", "absent"]).assert_fails(120, "absent");
    home.write("other.wat", r#"(module (func (export "_start")))"#);
    home.ok(["profile", "record", "other.wat", "-o", "other.profile"]);
    home.run(["profile", "merge", "app.profile", "other.profile", "-o", "out"]).assert_fails(121, "other.profile");
    home.run(["profile", "record", "app.wat", "-o", "other.profile"]).assert_fails(121, "other.profile");
    home.run(["profile", "record", "app.wat", "--input", "absent", "-o", "out"]).assert_fails(120, "absent");
    home.run(["profile", "record", "absent.wat", "-o", "out"]).assert_fails(120, "absent.wat");
    home.write("component.wat", "(component)");
    assert!(matches!(home.run(["profile", "record", "component.wat", "-o", "out"]).code, Some(121 | 123)));
    home.write("trap.wat", r#"(module (func (export "_start") unreachable))"#);
    home.run(["profile", "record", "trap.wat", "-o", "out"]).assert_fails(134, "call 1");
    home.write("taken.wat", r#"(module (memory (export "preheat.counters") 1) (func (export "_start")))"#);
    home.run(["profile", "record", "taken.wat", "-o", "out"]).assert_fails(121, "preheat.counters");
    home.run(["profile", "record", "app.wat", "-o", "no/such/dir/out"]).assert_fails(125, "no/such/dir/out");
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "out" || name.to_string_lossy().starts_with(".tmp")), "{left:?}");
    assert_eq!(read(&home, "app.profile"), whole);
}
