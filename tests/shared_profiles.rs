//! What nodes recorded, brought to a cache, and what a builder makes of it: with the commands that people use.

mod common;

use common::Home;
use common::service::Service;

/// Calls the first function for each byte of its input, and the second once.
const COUNTS: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "\10\00\00\00\00\10\00\00")
    (func $hot (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
    (func $cold (param i32) (result i32) (i32.add (local.get 0) (i32.const 7)))
    (func (export "_start") (local $at i32) (local $sum i32)
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (block $done
            (loop $next
                (br_if $done (i32.ge_u (local.get $at) (i32.load (i32.const 8))))
                (local.set $sum (i32.add (local.get $sum) (call $hot (i32.load8_u (i32.add (i32.const 16) (local.get $at))))))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
        (i32.store (i32.const 8) (call $cold (local.get $sum)))
        (i32.store (i32.const 0) (i32.const 8))
        (i32.store (i32.const 4) (i32.const 4))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"#;

/// A home that knows the module and has recorded a profile of it, with one call for each input.
fn recorded(inputs: &[&str]) -> Home {
    let home = Home::new();
    home.write("app.wat", COUNTS);
    let mut args: Vec<String> = ["profile", "record", "app.wat", "-o", "app.profile"].map(str::to_owned).into();
    for (number, input) in inputs.iter().enumerate() {
        let file = home.write(&format!("input-{number}"), input);
        args.extend(["--input".to_owned(), file.to_str().unwrap().to_owned()]);
    }
    home.ok(args);
    home
}

/// A node that may bring profiles, logged in with a token of its own.
fn node(service: &Service, operator: &Home, name: &str, rights: &[&str], inputs: &[&str]) -> Home {
    let home = recorded(inputs);
    let token = service.token(operator, name, "default", rights);
    assert_eq!(service.try_login(&home, &[], &token).code, Some(0));
    home
}

#[test]
fn what_nodes_recorded_a_builder_builds_with() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, _) = service.with_root();
    let rights = ["read", "write-blob"];
    let one = node(&service, &server_home, "node-1", &rights, &["a long input", "another"]);
    let two = node(&service, &server_home, "node-2", &rights, &["x"]);
    let host = service.host.as_str();
    // The host alone is its namespace `default`.
    let pushed = one.json(["profile", "push", "app.profile", host]);
    assert_eq!((pushed["known"].as_u64(), pushed["place"].as_str()), (Some(0), Some(format!("{host}/default").as_str())), "{pushed}");
    let brought = pushed["contributions"].as_u64().unwrap();
    assert!(brought > 0);
    let again = one.json(["profile", "push", "app.profile", &format!("{host}/default")]);
    assert_eq!((again["contributions"].as_u64(), again["known"].as_u64()), (Some(0), Some(brought)), "{again}");

    builder.write("app.wat", COUNTS);
    let pull = ["profile", "pull", host, "--wasm", "app.wat", "-o", "app.summary"];
    let first = builder.json(pull);
    assert_eq!(
        (first["contributors"].as_u64(), first["generation"].as_u64(), first["calls"].as_u64()),
        (Some(1), Some(1), Some(2)),
        "{first}"
    );
    two.ok(["profile", "push", "app.profile", host]);
    let pulled = builder.json(pull);
    assert_eq!((pulled["contributors"].as_u64(), pulled["generation"].as_u64(), pulled["calls"].as_u64()), (Some(2), Some(2), Some(3)));
    let said = builder.ok(pull);
    assert!(said.contains("from     2 contributors") && said.contains("generation 2") && said.contains("3 calls"), "{said}");
    let shown = builder.json(["profile", "show", "app.summary", "--wasm", "app.wat"]);
    assert_eq!((&shown["digest"], &shown["source"]), (&pulled["digest"], &pushed["source"]));
    // By the module's digest it is the same.
    let source = pushed["source"].as_str().unwrap();
    let by_digest = builder.json(["profile", "pull", host, "--source", source, "-o", "other.summary"]);
    assert_eq!(by_digest["digest"], pulled["digest"]);
    assert_eq!(std::fs::read(builder.path().join("app.summary")).unwrap(), std::fs::read(builder.path().join("other.summary")).unwrap());

    let built = builder.json(["build", "app.wat", "--profile", "app.summary", "--tag", "app:v2", "--cpu", "v2"]);
    assert_eq!(built["compiled"], 1, "{built}");
    let same = builder.json(["build", "app.wat", "--profile", "other.summary", "--cpu", "v2"]);
    assert_eq!((same["compiled"].as_u64(), &same["image"]), (Some(0), &built["image"]), "the same profile is the same build");
    let plain = builder.json(["build", "app.wat", "--cpu", "v2"]);
    assert_ne!(plain["image"], built["image"]);
    let input = "a request".as_bytes();
    let (steered, as_it_was) = (builder.run_with(["run", "app:v2"], input), builder.run_with(["run", "app.wat"], input));
    assert_eq!((steered.code, &steered.stdout), (Some(0), &as_it_was.stdout));
}

#[test]
fn sharing_a_profile_fails_as_everything_with_a_cache_does() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    service.with_root();
    let reader = node(&service, &server_home, "reader", &["read"], &["x"]);
    let host = service.host.clone();
    reader.run(["profile", "push", "app.profile", &host]).assert_fails(127, "is not allowed");
    reader.run(["profile", "push", "app.profile", &format!("{host}/nowhere")]).assert_fails(120, "no namespace");
    reader.run(["profile", "push", "app.wat", &host]).assert_fails(121, "profile");
    reader.run(["profile", "pull", &host, "--wasm", "app.wat", "-o", "none"]).assert_fails(120, "nothing was contributed");
    reader.run(["profile", "pull", &host, "-o", "none"]).assert_usage();
    reader.run(["profile", "pull", &format!("{host}/default/app"), "--wasm", "app.wat", "-o", "none"]).assert_usage();
    reader.run(["profile", "pull", &host, "--wasm", "app.wat", "--half-life", "5s", "-o", "none"]).assert_fails(122, "half-life");
    assert!(!reader.path().join("none").exists());
    drop(service);
    reader.run(["profile", "push", "app.profile", &host]).assert_fails(127, "can't reach");
    reader.run(["profile", "pull", &host, "--wasm", "app.wat", "-o", "none"]).assert_fails(127, "can't reach");
}
