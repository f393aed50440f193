//! Images that are compiled again with a profile and take the place of those that are there, or do not: the command, with small programs. What is clearly
//! faster, and which answers are the same, is tested where it is decided; here a gain is asked for that is always or never there.

mod common;

use common::Home;
use common::service::Service;
use preheat_image::evidence::Evidence;
use preheat_image::{Digest, media};
use serde_json::Value;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A gain that there always is, and one that there never is.
const ALWAYS: &str = "--min-gain=-1000";
const NEVER: &str = "--min-gain=99";

/// What programs here import, `read`, which reads up to 100 bytes of standard input to address 1000 and gives their number, and `write`, which writes
/// that many from there.
fn program(functions: &str) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
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

/// Stirs each byte of its input a thousand times, writes what comes out as letters, and ends with the number of bytes. Traps if the first is `!`.
const STIR: &str = r#"
    (func $stir (param $byte i32) (result i32)
        (i32.rotl (i32.mul (i32.xor (local.get $byte) (i32.const 0x9e37)) (i32.const 0x85eb)) (i32.const 13)))
    (func $rare (param $byte i32) (result i32) (if (i32.eqz (local.get $byte)) (then unreachable)) (local.get $byte))
    (func (export "_start") (local $len i32) (local $at i32) (local $times i32) (local $byte i32)
        (local.set $len (call $read))
        (if (i32.eq (i32.load8_u (i32.const 1000)) (i32.const 33)) (then (drop (call $rare (i32.const 0)))))
        (block $done (loop $bytes
            (br_if $done (i32.ge_u (local.get $at) (local.get $len)))
            (local.set $byte (i32.load8_u offset=1000 (local.get $at)))
            (local.set $times (i32.const 1000))
            (loop $again
                (local.set $byte (call $stir (local.get $byte)))
                (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
            (i32.store8 offset=1000 (local.get $at) (i32.add (i32.const 97) (i32.rem_u (local.get $byte) (i32.const 26))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $bytes)))
        (call $write (local.get $len))
        (call $exit (local.get $len)))"#;

/// A home with a program in it, a profile of it, and recorded requests.
struct World {
    home: Home,
}

impl World {
    /// Builds the program as `app:v1` with these options.
    fn new(functions: &str, options: &[&str]) -> Self {
        let home = Home::new();
        home.write("app.wat", program(functions));
        home.write("requests/a", "first");
        home.write("requests/b", "second request");
        home.write("requests/.hidden", "none");
        let this = Self { home };
        this.home.ok(["profile", "record", "app.wat", "--input", "requests/a", "-o", "app.profile"]);
        this.home.ok(["build", "app.wat", "--tag", "app:v1", "--cpu=v2"].iter().chain(options));
        this
    }

    fn kept() -> Self {
        Self::new(STIR, &["--keep-source"])
    }

    fn args<'a>(gain: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let mut args = vec!["profile", "apply", "app:v1", "--profile=app.profile", "--requests=requests", "--rounds=6", gain];
        args.extend(more);
        args
    }

    /// What `apply --json` says, which has to end with `code`.
    fn apply(&self, gain: &str, more: &[&str], code: i32) -> Value {
        let ran = self.home.run(["--json"].into_iter().chain(Self::args(gain, more)));
        assert_eq!(ran.code, Some(code), "{ran:?}");
        serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    fn leads_to(&self, name: &str) -> Option<String> {
        let ran = self.home.run(["--json", "inspect", name]);
        (ran.code == Some(0)).then(|| serde_json::from_str::<Value>(&ran.stdout).unwrap()["image"].as_str().unwrap().to_owned())
    }

    fn answers(&self, name: &str) -> Vec<(Option<i32>, String)> {
        let runs = ["first", "second request", "", "!"].map(|input| self.home.run_with(["run", name], input.as_bytes()));
        runs.into_iter().map(|ran| (ran.code, ran.stdout)).collect()
    }

    fn store(&self) -> preheat::Store {
        self.home.library().store().unwrap()
    }
}

fn digest(value: &Value) -> Digest {
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn what_answers_alike_takes_the_place_and_goes_back_in_one_step() {
    let world = World::kept();
    world.home.write("requests/c", "!");
    let before = world.leads_to("app:v1").unwrap();
    let applied = world.apply(ALWAYS, &["--tag=app:v1"], 0);
    assert_eq!(applied["outcome"], "promoted");
    assert_eq!(applied["carriedOver"]["share"], 1.0);
    let image = applied["image"].as_str().unwrap().to_owned();
    assert_ne!(image, before);
    assert_eq!(world.leads_to("app:v1"), Some(image.clone()));
    assert_eq!(world.leads_to("app:v1-previous"), Some(before.clone()), "{applied}");
    assert_eq!(applied["previous"]["name"], "local/default/app:v1-previous");
    assert_eq!(world.answers("app:v1"), world.answers("app:v1-previous"));
    assert_eq!(world.answers("app:v1")[0].0, Some(5));

    // The evidence is there, is vouched for, and has digests only.
    let shown = world.home.json(["inspect", "app:v1"]);
    let evidence = &shown["evidence"];
    assert_eq!(shown["statements"][0]["trusted"], true);
    assert_eq!((evidence["control"]["image"].as_str(), evidence["rounds"].as_u64()), (Some(before.as_str()), Some(6)));
    let requests: Vec<Digest> = evidence["requests"].as_array().unwrap().iter().map(|request| digest(&request["request"])).collect();
    assert_eq!(requests, [&b"first"[..], b"second request", b"!"].map(Digest::of), "sorted by name, hidden ones left out");
    assert_eq!((evidence["requests"][0]["exit"].as_i64(), evidence["requests"][2]["trap"].as_str()), (Some(5), Some("unreachable")));
    assert_eq!(digest(&evidence["requests"][0]["stdout"]), Digest::of(world.answers("app:v1")[0].1.as_bytes()));
    let artefacts = shown["manifest"]["artefacts"].as_array().unwrap();
    let named: Vec<&Value> = artefacts.iter().filter(|artefact| artefact["mediaType"] == media::EVIDENCE).collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0]["digest"], applied["evidence"]);
    assert!(artefacts.iter().any(|artefact| artefact["mediaType"] == media::WASM), "the source stays kept");
    let bytes = std::fs::read(world.home.blob(applied["evidence"].as_str().unwrap())).unwrap();
    assert_eq!(Evidence::parse(&bytes).unwrap().to_bytes(), bytes);
    assert!(!String::from_utf8(bytes).unwrap().contains("second request"));
    let record = world.store().entry(&digest(&applied["image"])).unwrap().unwrap();
    assert!(record.statements[0].covers(&digest(&applied["evidence"])), "the statement covers it");
    let text = world.home.ok(["inspect", "app:v1"]);
    assert!(text.contains("3 requests with the same answers, 6 rounds") && text.contains(&format!("took the place of {before}")), "{text}");
    assert!(!world.home.ok(["inspect", "app:v1-previous"]).contains("evidence"));
    assert!(world.home.run(["diff-key", "app:v1", &applied["candidate"].as_str().unwrap()[7..27]]).stdout.contains("evidence"));

    // Both stay when the store is cleaned; what was only measured goes.
    world.home.ok(["gc"]);
    world.home.assert_whole();
    assert_eq!(world.leads_to(applied["candidate"].as_str().unwrap()), None);
    assert_eq!(world.answers("app:v1"), world.answers("app:v1-previous"));

    // The same once more has nothing to do.
    assert_eq!(world.apply(ALWAYS, &["--tag=app:v1"], 1)["outcome"], "unchanged");
    assert_eq!(world.leads_to("app:v1-previous"), Some(before.clone()));

    world.home.ok(["tag", "app:v1-previous", "app:v1"]);
    assert_eq!(world.leads_to("app:v1"), Some(before));
}

#[test]
fn what_is_not_clearly_faster_leaves_everything_as_it_was() {
    let world = World::kept();
    let before = world.leads_to("app:v1");
    let applied = world.apply(NEVER, &["--tag=app:v1"], 1);
    assert_eq!((applied["outcome"].as_str(), &applied["image"], &applied["evidence"]), (Some("not-clear"), &Value::Null, &Value::Null));
    assert!(applied["times"]["ratio"]["high"].as_u64().unwrap() >= applied["times"]["ratio"]["low"].as_u64().unwrap());
    assert_eq!((world.leads_to("app:v1"), world.leads_to("app:v1-previous")), (before, None));
    let ran = world.home.run(World::args(NEVER, &["--tag=app:v1"]));
    assert!(ran.code == Some(1) && ran.stdout.contains("not clear: ") && ran.stdout.contains("nothing was changed"), "{ran:?}");
    world.home.assert_whole();
}

#[test]
fn names_are_moved_only_as_asked() {
    let world = World::kept();
    let before = world.leads_to("app:v1");
    world.home.run(World::args(ALWAYS, &["--tag", &format!("app:v1@{}", before.clone().unwrap())])).assert_fails(121, "it has a digest");
    world.home.run(World::args(ALWAYS, &["--tag", &format!("app:{}", "t".repeat(125))])).assert_fails(121, "is not a reference");
    // Without a name none is moved; a new one leads nowhere back.
    let nameless = world.apply(ALWAYS, &[], 0);
    assert_eq!((&nameless["tag"], &nameless["previous"]), (&Value::Null, &Value::Null));
    let named = world.apply(ALWAYS, &["--tag=app:fast"], 0);
    assert_eq!((named["tag"].as_str(), &named["previous"]), (Some("local/default/app:fast"), &Value::Null));
    assert_eq!((world.leads_to("app:fast").as_deref(), world.leads_to("app:fast-previous")), (named["image"].as_str(), None));
    assert_eq!(world.leads_to("app:v1"), before);
}

#[test]
fn clocks_and_random_numbers_are_the_same_in_each_replay() {
    let odd = r#"(func (export "_start")
        (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 1000)))
        (drop (call $clock (i32.const 1) (i64.const 1) (i32.const 1008)))
        (drop (call $random (i32.const 1016) (i32.const 16)))
        (call $write (i32.const 32)))"#;
    let world = World::new(odd, &["--keep-source"]);
    let one = world.home.run(["run", "app:v1"]).stdout;
    assert_ne!(one, world.home.run(["run", "app:v1"]).stdout, "it differs each time otherwise");
    let applied = world.apply(ALWAYS, &[], 0);
    assert_eq!(applied["outcome"], "promoted", "{applied}");
}

#[test]
fn a_replay_changes_nothing_outside() {
    // Makes the file `new` in the directory that it is given, and ends with how that went.
    let make = r#"(data (i32.const 2000) "new")
        (func (export "_start")
            (call $exit (call $open (i32.const 3) (i32.const 0) (i32.const 2000) (i32.const 3) (i32.const 1)
                (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 3000))))"#;
    let world = World::new(make, &["--keep-source"]);
    let data = world.home.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let applied = world.apply(ALWAYS, &["--dir=data::/data"], 0);
    assert!(!data.join("new").exists());
    let evidence = world.home.json(["inspect", applied["image"].as_str().unwrap()]);
    assert_ne!(evidence["evidence"]["requests"][0]["exit"], 0, "it was told so");
    assert_eq!(world.home.run(["run", "app:v1", "--dir=data::/data"]).code, Some(0));
    assert!(data.join("new").exists());
    world.home.run(World::args(ALWAYS, &["--dir=nowhere"])).assert_fails(120, "can't open the directory nowhere");
}

#[test]
fn a_source_that_was_not_kept_has_to_be_given() {
    let world = World::new(STIR, &[]);
    world.home.run(World::args(ALWAYS, &[])).assert_fails(121, "was not kept: give it with --wasm FILE");
    world.home.write("other.wat", common::hello("other", 0));
    world.home.run(World::args(ALWAYS, &["--wasm=other.wat"])).assert_fails(121, "other.wat is another module");
    world.home.run(World::args(ALWAYS, &["--wasm=nowhere.wasm"])).assert_fails(120, "nowhere.wasm");
    let applied = world.apply(ALWAYS, &["--wasm=app.wat", "--tag=app:v1"], 0);
    let shown = world.home.json(["inspect", applied["image"].as_str().unwrap()]);
    let artefacts = shown["manifest"]["artefacts"].as_array().unwrap();
    assert!(artefacts.iter().all(|artefact| artefact["mediaType"] != media::WASM), "and is not kept now");
    assert_eq!(world.answers("app:v1"), world.answers("app:v1-previous"));
}

#[test]
fn a_profile_of_another_build_is_carried_over_and_one_of_another_module_is_not() {
    let world = World::kept();
    world.home.write("next.wat", program(&format!("{STIR}\n(func (export \"more\"))")));
    world.home.ok(["profile", "record", "next.wat", "--input=requests/a", "-o", "next.profile"]);
    let next = ["profile", "apply", "app:v1", "--profile=next.profile", "--requests=requests", "--rounds=6", ALWAYS];
    let applied = world.home.json(next);
    assert_eq!(applied["outcome"], "promoted");
    assert!(applied["carriedOver"]["sameBody"].as_u64().unwrap() >= 4, "{applied}");

    world.home.write("other.wat", common::hello("other", 0));
    world.home.ok(["profile", "record", "other.wat", "-o", "other.profile"]);
    let other = ["profile", "apply", "app:v1", "--profile=other.profile", "--requests=requests", ALWAYS];
    world.home.run(other).assert_fails(121, "nothing in the profile is of use");
    let none = ["profile", "apply", "app:v1", "--profile=app.wat", "--requests=requests", ALWAYS];
    world.home.run(none).assert_fails(121, "app.wat");
}

#[test]
fn without_requests_nothing_is_shown() {
    let world = World::kept();
    world.home.write("empty/.gitignore", "*");
    std::fs::create_dir(world.home.path().join("empty/dir")).unwrap();
    let at = |dir| ["profile", "apply", "app:v1", "--profile=app.profile", "--requests", dir, ALWAYS, "--tag=app:v1"];
    world.home.run(at("empty")).assert_fails(121, "there are no requests in empty");
    world.home.run(at("nowhere")).assert_fails(120, "nowhere");
    let few = ["profile", "apply", "app:v1", "--profile=app.profile", "--requests=requests", "--rounds=5"];
    world.home.run(few).assert_usage();
    let whole = ["profile", "apply", "app:v1", "--profile=app.profile", "--requests=requests", "--min-gain=100"];
    world.home.run(whole).assert_usage();
}

#[test]
fn what_can_not_be_replayed_is_refused() {
    let spin = r#"(func (export "_start") (drop (call $read)) (loop $on (br $on)))"#;
    let home = World::kept().home;
    let world = World { home };
    world.home.write("spin.wat", program(spin));
    world.home.ok(["build", "spin.wat", "--tag=spin", "--keep-source", "--cpu=v2"]);
    world.home.write("module.wat", r#"(module (func (export "f") (result i32) (i32.const 1)))"#);
    world.home.ok(["build", "module.wat", "--tag=module", "--keep-source", "--cpu=v2"]);
    world.home.ok(["build", "app.wat", "--tag=other", "--keep-source", "--cpu=v2", "--engine=wasmtime"]);
    let apply = |image| ["profile", "apply", image, "--profile=app.profile", "--requests=requests", ALWAYS, "--timeout=50ms"];
    world.home.run(apply("spin")).assert_fails(124, "request `a` does not come to its end in time on either image");
    world.home.run(apply("module")).assert_fails(121, "only commands can be replayed");
    world.home.run(apply("other")).assert_fails(121, "only the native engine follows a profile");
    world.home.run(apply("nobody")).assert_fails(120, "nobody");
}

#[test]
fn a_frozen_image_keeps_its_state() {
    let world = World::new(STIR, &["--keep-source", "--freeze=stdin"]);
    let before = world.home.json(["inspect", "app:v1"]);
    let applied = world.apply(ALWAYS, &["--tag=app:v1"], 0);
    assert_eq!(applied["outcome"], "promoted");
    let after = world.home.json(["inspect", "app:v1"]);
    let frozen = |shown: &Value| shown["manifest"]["function"]["frozen"].clone();
    assert_eq!(frozen(&after), frozen(&before), "the same layers and the same record");
    let kinds = |shown: &Value| {
        let artefacts = shown["manifest"]["artefacts"].as_array().unwrap();
        let mut kinds: Vec<_> = artefacts.iter().map(|artefact| artefact["mediaType"].as_str().unwrap().to_owned()).collect();
        kinds.retain(|kind| kind != media::EVIDENCE);
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&after), kinds(&before));
    assert_eq!(world.answers("app:v1"), world.answers("app:v1-previous"));
    assert_eq!(after["evidence"]["control"]["image"], before["image"]);
    assert_eq!(world.apply(ALWAYS, &[], 1)["outcome"], "unchanged");
    world.home.ok(["gc"]);
    world.home.assert_whole();
}

#[test]
fn evidence_goes_where_the_image_goes() {
    let server = Home::new();
    let service = Service::start(&server);
    let (builder, fingerprint) = service.with_root();
    builder.write("app.wat", program(STIR));
    builder.write("requests/a", "first");
    builder.ok(["profile", "record", "app.wat", "--input=requests/a", "-o", "app.profile"]);
    builder.ok(["build", "app.wat", "--tag=app:v1", "--cpu=v2"]);
    let applied = builder.json(World::args(ALWAYS, &["--wasm=app.wat", "--tag=app:v1"]));
    let (image, evidence) = (applied["image"].as_str().unwrap(), applied["evidence"].as_str().unwrap());
    builder.ok(["push", "app:v1", &service.place("app:v1")]);

    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    assert_eq!(node.ok(["pull", &service.place("app:v1")]), image);
    assert!(node.blob(evidence).exists());
    assert_eq!(node.json(["inspect", image])["evidence"], builder.json(["inspect", image])["evidence"]);
    assert_eq!(node.run_with(["run", &service.place("app:v1")], b"first").code, Some(5));
    node.assert_whole();

    let layout = builder.path().join("layout");
    builder.ok(["export", "app:v1", layout.to_str().unwrap(), "--name=app:v1"]);
    let other = Home::new();
    let public = builder.json(["key", "show"])["public"].as_str().unwrap().to_owned();
    other.ok(["trust", "add", "--builder", "them", &public, "--namespace", "default"]);
    assert_eq!(other.ok(["import", layout.to_str().unwrap(), "--name=app:v1"]), image);
    assert_eq!(other.json(["inspect", image])["evidence"]["control"], builder.json(["inspect", image])["evidence"]["control"]);
    other.assert_whole();

    // It is a part like others: what is damaged is found.
    let blob = builder.blob(evidence);
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, "{}").unwrap();
    assert_eq!(builder.run(["verify"]).code, Some(122));
    assert!(builder.run(["inspect", "app:v1"]).stdout.contains("evidence  does not count: "));
}

#[test]
fn an_interrupted_replay_leaves_the_name_where_it_was() {
    let world = World::kept();
    let before = world.leads_to("app:v1");
    let images = |world: &World| world.home.json(["ls"])["images"].as_array().unwrap().len();
    let at_first = images(&world);
    let args = ["profile", "apply", "app:v1", "--profile=app.profile", "--requests=requests", "--rounds=100000", ALWAYS, "--tag=app:v1"];
    let mut child = world.home.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The candidate is there: now it is replayed.
    let started = Instant::now();
    while images(&world) == at_first {
        assert!(started.elapsed() < Duration::from_secs(60), "no candidate came");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(100));
    assert!(child.try_wait().unwrap().is_none(), "it is still at it");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(2));
    assert_eq!((world.leads_to("app:v1"), world.leads_to("app:v1-previous")), (before, None));
    world.home.ok(["gc"]);
    world.home.assert_whole();
    assert_eq!(images(&world), 1, "nothing is left of it, nor of what counted");
    assert_eq!(world.apply(ALWAYS, &["--tag=app:v1"], 0)["outcome"], "promoted");
}

#[test]
fn a_name_that_is_moved_meanwhile_stays_where_it_was_moved() {
    let world = World::kept();
    world.home.write("new.wat", common::hello("new", 0));
    let images = |world: &World| world.home.json(["ls"])["images"].as_array().unwrap().len();
    let at_first = images(&world);
    let args = ["profile", "apply", "app:v1", "--profile=app.profile", "--requests=requests", "--rounds=20000", ALWAYS, "--tag=app:v1"];
    let child = world.home.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while images(&world) == at_first {
        assert!(started.elapsed() < Duration::from_secs(60), "no candidate came");
    }
    let new = world.home.ok(["build", "new.wat", "--tag=app:v1", "--cpu=v2"]);
    let ran = common::Ran::from(child.wait_with_output().unwrap());
    ran.assert_fails(125, "was moved by somebody else");
    assert_eq!((world.leads_to("app:v1"), world.leads_to("app:v1-previous")), (Some(new), None));
    world.home.assert_whole();
}
