//! Trust that changes: the ceremony of a root, revocation, keys that end, and what that means for images that are built, kept and running.

mod common;

use common::{Home, hello};
use preheat::trust::{Builder as TrustedBuilder, Refusal, now};
use preheat::{Builder, Digest, Engine, Output, Rebuild, Request, RunError, Runtime, StoreError, Value};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, KeyFields, Statement, media};
use std::time::Duration;

fn revoke_by_hand(home: &Home, change: impl Fn(&mut preheat::trust::Revocations)) {
    home.library()
        .change_trust(|policy| {
            change(&mut policy.revoked);
            Ok::<_, StoreError>(())
        })
        .unwrap();
}

fn build(home: &Home, wat: &str) -> Digest {
    Builder::new(&home.library()).unwrap().levels([CpuLevel::V1]).build_bytes("test", wat.as_bytes()).unwrap().digest
}

const COUNTER: &str = r#"(module (memory 1) (func (export "one") (result i32) i32.const 1))"#;

#[track_caller]
fn assert_refused<T>(result: Result<T, RunError>) {
    match result {
        Err(RunError::Store(StoreError::Refused { .. })) => {}
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it ran"),
    }
}

#[test]
fn a_running_image_whose_compiler_is_revoked_runs_no_more() {
    let home = Home::new();
    let runtime = Runtime::builder().slots(1).build().unwrap();
    let image = runtime.load(&home.library(), &build(&home, COUNTER)).unwrap();
    let hello_image = runtime.load(&home.library(), &build(&home, &hello("hi", 0)));
    let command = hello_image.unwrap();
    let mut instance = image.instance(&Request::new()).unwrap();
    assert_eq!(instance.call("one", &[]).unwrap(), [Value::I32(1)]);
    assert!(runtime.enforce(&home.library().trust().unwrap()).is_empty());

    let trusting = home.library().trust().unwrap();
    revoke_by_hand(&home, |revoked| assert!(revoked.build_ids.insert(Engine::Native.build_id().into())));
    assert_eq!(instance.call("one", &[]).unwrap(), [Value::I32(1)], "nobody has told the runtime yet");
    let refused = runtime.enforce(&home.library().trust().unwrap());
    assert!(refused.iter().all(|error| matches!(error, StoreError::Refused { refusal: Refusal::RevokedBuild(_), .. })));
    assert_eq!(refused.len(), 2);
    assert_refused(instance.call("one", &[]));
    assert_refused(image.instance(&Request::new()).map(drop));
    assert_refused(image.clone().instance(&Request::new()).map(drop));
    assert_refused(command.run(&Request::new().stdout(Output::buffer(10).0)));
    assert_refused(runtime.load(&home.library(), &image.digest()).map(drop));

    // Trusted again, as after a late list: new instances can be made, in the slot that the refused one gave back; that one stays ended.
    assert!(runtime.enforce(&trusting).is_empty());
    assert!(matches!(instance.call("one", &[]), Err(RunError::Usage(_))));
    assert_eq!(image.instance(&Request::new()).unwrap().call("one", &[]).unwrap(), [Value::I32(1)]);
}

#[test]
fn a_runtime_that_watches_notices_by_itself() {
    let home = Home::new();
    let runtime = Runtime::new().unwrap();
    let image = runtime.load(&home.library(), &build(&home, COUNTER)).unwrap();
    let watch = runtime.watch_trust(&home.library(), Duration::from_millis(10)).unwrap();
    let runs = || image.instance(&Request::new()).is_ok();
    let comes = |expected| {
        (0..3000).any(|_| {
            runs() == expected || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        })
    };
    assert!(runs());
    revoke_by_hand(&home, |revoked| assert!(revoked.blobs.insert(image.digest())));
    assert!(comes(false), "a revocation");
    // A policy that can't be read changes nothing for what is loaded: what is refused stays refused.
    let path = home.root().join("trust.json");
    let policy = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!runs());
    std::fs::write(&path, policy).unwrap();
    revoke_by_hand(&home, |revoked| assert!(revoked.blobs.remove(&image.digest())));
    assert!(comes(true), "and taken back");
    drop(watch);
    revoke_by_hand(&home, |revoked| assert!(revoked.blobs.insert(image.digest())));
    std::thread::sleep(Duration::from_millis(100));
    assert!(runs(), "nobody watches any more");
}

#[test]
fn what_a_pull_requests_builder_puts_into_a_shared_store_is_no_hit_for_production() {
    let home = Home::new();
    let library = home.library();
    let store = library.store().unwrap();
    let builder = |namespace: &str| Builder::new(&library).unwrap().levels([CpuLevel::V1]).namespace(namespace);
    let wat = hello("good", 0);
    // What production would look for, found out by building it in a store of its own.
    let elsewhere = Home::new();
    let prod = Builder::new(&elsewhere.library()).unwrap().levels([CpuLevel::V1]).namespace("prod");
    let wanted = prod.build_bytes("test", wat.as_bytes()).unwrap();
    let its_store = elsewhere.library().store().unwrap();
    let record = its_store.built(&wanted.code[0].key).unwrap().unwrap();
    let envelope = its_store.read_blob(&record.statements[0].statement, 1 << 20).unwrap();
    let fields: KeyFields = preheat_image::statement::Envelope::parse(&envelope).unwrap().unverified().fields.clone();
    assert_eq!(fields.get(field::KIND), Some(Kind::CodeObject.name()));

    // The pull request's builder may speak for `pr` only. It claims evil code under that key: for `pr`, and for `prod`.
    let evil = SecretKey::from_seed([66; 32]);
    library.builder_signer().unwrap();
    library.add_builder(TrustedBuilder::new("pr", evil.public(), &["pr"])).unwrap();
    for namespace in ["pr", "prod"] {
        let mut publication = store.publish().unwrap();
        let code = publication.put(media::CODE_WASMTIME, b"evil code").unwrap();
        let statement = Statement::new(Kind::CodeObject, namespace, fields.clone(), vec![code]);
        publication.add_statement(&statement.sign(&evil), &evil.public()).unwrap();
        publication.finish().unwrap();
    }
    let built = builder("prod").build_bytes("test", wat.as_bytes()).unwrap();
    assert_eq!(built.compiled(), 1, "compiled, not taken");
    assert_eq!(built.code[0].digest, wanted.code[0].digest);
    // In its own namespace it is a hit: the test shows what it means to show.
    let built = builder("pr").build_bytes("test", wat.as_bytes()).unwrap();
    assert_eq!((built.compiled(), built.code[0].digest), (0, Descriptor::of(media::CODE_WASMTIME, b"evil code").digest));
}

#[test]
fn a_root_from_the_ceremony_to_a_revocation_on_another_machine() {
    let operator = Home::new();
    for name in ["alice", "bob", "carol", "dave", "oncall"] {
        operator.ok(["key", "new", "--out", &format!("{name}.json")]);
    }
    let node = Home::new();
    // The builder of the fleet is a third machine.
    let builder = Home::new();
    builder.write("app.wat", hello("hi", 0));
    let image = builder.ok(["build", "app.wat", "--cpu", "v1", "--namespace", "team"]);
    let public = builder.json(["key", "show"])["public"].as_str().unwrap().to_owned();

    let new = ["root", "new", "--installation", "acme", "--threshold", "2", "--out", "root.json"];
    let keys = ["--key", "alice.json", "--key", "bob.json", "--key", "carol.json"];
    operator.ok(new.into_iter().chain(keys));
    operator.run(new.into_iter().chain(keys)).assert_fails(126, "root.json");
    let delegate = |args: &[&str]| operator.ok(["root", "delegate", "root.json"].iter().chain(args).chain(&["--out", "root.json"]));
    delegate(&["--role", "builder", "--name", "ci", "--key", &public, "--namespace", "team"]);
    delegate(&["--role", "revoker", "--name", "oncall", "--key", "oncall.json"]);
    operator.ok(["root", "sign", "root.json", "--key", "alice.json"]);
    node.run(["trust", "add", operator.path().join("root.json").to_str().unwrap()]).assert_fails(122, "1 good signatures of the 2");
    let shown = operator.json(["root", "sign", "root.json", "--key", "carol.json"]);
    assert_eq!((&shown["signatures"]["enough"], &shown["root"]["number"]), (&true.into(), &1.into()));
    let fingerprint = shown["fingerprint"].as_str().unwrap();
    operator.ok(["root", "revoke", "--root", "root.json", "--key", "oncall.json", "--out", "1.list"]);

    // The node has the image, by whatever way it came: it is the same store, copied.
    std::fs::create_dir_all(node.root()).unwrap();
    copy_store(&builder, &node).unwrap();
    let file = |name: &str| operator.path().join(name).to_str().unwrap().to_owned();
    node.run(["run", &image]).assert_fails(122, "unknown key");
    node.run(["trust", "add", &file("root.json"), "--fingerprint", &image]).assert_fails(122, "fingerprint");
    node.ok(["trust", "add", &file("root.json"), "--host", "cache.example", "--fingerprint", fingerprint]);
    node.run(["run", &image]).assert_fails(122, "preheat trust update");
    node.ok(["trust", "import", &file("1.list")]);
    assert_eq!(node.ok(["run", &image]), "hi");
    let listed = node.json(["trust", "ls"]);
    assert_eq!((&listed["roots"][0]["fingerprint"], &listed["roots"][0]["counts"]), (&fingerprint.into(), &true.into()));
    assert!(listed["builders"].as_array().unwrap().iter().any(|one| one["name"] == "ci" && one["root"] == "acme"));

    // A key of the root is exchanged; two of the old ones and two of the new ones sign.
    operator.ok(["root", "rotate-keys", "root.json", "--add", "dave.json", "--remove", "alice.json", "--out", "2.root"]);
    operator.ok(["root", "sign", "2.root", "--key", "dave.json"]);
    operator.ok(["root", "sign", "2.root", "--key", "bob.json"]);
    node.run(["trust", "import", &file("2.root")]).assert_fails(122, "1 good signatures of the 2");
    operator.ok(["root", "sign", "2.root", "--key", "carol.json"]);
    let shown = operator.json(["root", "show", "2.root", "--previous", "root.json"]);
    assert_eq!(shown["follows"], true, "{shown}");
    node.ok(["trust", "import", &file("2.root")]);
    assert_eq!(node.ok(["run", &image]), "hi");

    // The compiler had a bug.
    let revoke = [
        "root",
        "revoke",
        "--root",
        "2.root",
        "--list",
        "1.list",
        "--build-id",
        Engine::Native.build_id(),
        "--reason",
        "miscompiles",
        "--out",
        "2.list",
    ];
    operator.ok(revoke.into_iter().chain(["--key", "oncall.json"]));
    node.ok(["trust", "import", &file("2.list")]);
    node.run(["run", &image]).assert_fails(122, "is revoked");
    node.run(["trust", "import", &file("1.list")]).assert_fails(122, "2 was seen already");
    let ran = node.run(["audit", "--json"]);
    assert_eq!(ran.code, Some(122), "{ran:?}");
    let audit: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(audit["affected"][0]["digest"], image.as_str());
    assert!(audit["affected"][0]["whyNot"].as_str().unwrap().contains("this preheat is a revoked build itself"), "{audit}");
    assert_eq!(node.run(["rebuild", "--revoked"]).code, Some(122));
    // Without the root its builder is nobody's, and nothing is left of it.
    node.ok(["trust", "rm", "acme"]);
    node.run(["run", &image]).assert_fails(122, "unknown key");
    assert_eq!(node.run(["audit"]).code, Some(0));
}

#[test]
fn each_kind_of_revocation_is_made_and_taken_back_by_a_person() {
    let home = Home::new();
    home.write("app.wat", hello("hi", 0));
    let image = home.ok(["build", "app.wat", "--cpu", "v1", "--tag", "app:v1"]);
    let shown = home.json(["inspect", "app:v1"]);
    let (manifest, statement) = (&shown["manifest"], &shown["statements"][0]);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    for (kind, what) in [
        ("--build-id", text(&statement["buildId"])),
        ("--key-id", text(&statement["signer"])),
        ("--source", text(&manifest["source"]["digest"])),
        ("--blob", image.clone()),
        ("--blob", text(&manifest["artefacts"][0]["digest"])),
    ] {
        assert_eq!(home.json(["trust", "revoke", kind, &what])["changed"], 1);
        assert_eq!(home.json(["trust", "revoke", kind, &what])["changed"], 0, "it is revoked already");
        home.run(["run", "app:v1"]).assert_fails(122, "revoked");
        assert_eq!(home.run(["audit"]).code, Some(122));
        assert_eq!(home.json(["trust", "revoke", kind, &what, "--undo"])["changed"], 1);
        assert_eq!(home.ok(["run", "app:v1"]), "hi", "{kind}");
    }
    for bad in [&["--build-id", ""][..], &["--source", "sha256:12"], &["--key-id", "nobody"], &["--undo"], &[]] {
        assert_ne!(home.run(["trust", "revoke"].iter().chain(bad)).code, Some(0), "{bad:?}");
    }
    assert_eq!(home.ok(["run", "app:v1"]), "hi");
}

fn copy_store(from: &Home, to: &Home) -> Result<(), String> {
    let status = std::process::Command::new("cp").arg("-a").arg(from.root().join("store")).arg(to.root().join("store")).status();
    status.map_err(|error| error.to_string()).and_then(|status| if status.success() { Ok(()) } else { Err("cp failed".into()) })
}

#[test]
fn an_image_whose_key_has_ended_is_built_again_with_the_new_one_and_names_follow() {
    let home = Home::new();
    home.write("app.wat", hello("hi", 0));
    home.write("lost.wat", hello("ho", 0));
    let build = ["build", "app.wat", "--cpu", "v1", "--optimize", "none", "--env", "A=1", "--tag", "app:v1", "--keep-source"];
    let old = home.ok(build.into_iter().chain(["--", "--serve"]));
    let lost = home.ok(["build", "lost.wat", "--cpu", "v1", "--tag", "lost:v1"]);
    assert_eq!(home.run(["audit"]).code, Some(0));
    home.ok(["key", "rotate", "--overlap", "0s"]);
    home.run(["run", "app:v1"]).assert_fails(122, "expired");
    let ran = home.run(["audit"]);
    assert_eq!(ran.code, Some(122));
    assert!(ran.stdout.contains("app:v1") && ran.stdout.contains("can be built again"), "{ran:?}");
    assert!(ran.stdout.contains("lost:v1") && ran.stdout.contains("--keep-source"), "{ran:?}");
    let dry = home.run(["rebuild", "--revoked", "--dry-run"]);
    assert_eq!(dry.code, Some(122), "one of two can't be: {dry:?}");
    home.run(["run", "app:v1"]).assert_fails(122, "expired");
    home.ok(["rebuild", "--revoked", "app:v1"]);
    assert_eq!(home.ok(["run", "app:v1"]), "hi");
    // The same inputs are the same image: all that was said about how to build it was found again.
    let shown = home.json(["inspect", "app:v1"]);
    assert_eq!(shown["image"], old.as_str());
    assert_eq!(shown["statements"].as_array().unwrap().len(), 2);
    home.ok(["rebuild", "--revoked", "lost:v1", "--source", "lost.wat"]);
    assert_eq!(home.ok(["run", "lost:v1"]), "ho");
    assert_eq!(home.json(["inspect", "lost:v1"])["image"], lost.as_str());
    assert_eq!(home.run(["audit"]).code, Some(0));
    home.run(["rebuild", "--revoked", "app:v1"]).assert_fails(121, "is not affected");
    home.assert_whole();
}

#[test]
fn who_stole_a_key_gets_nothing_signed_anew() {
    let home = Home::new();
    let library = home.library();
    let thief = Home::new();
    let made = Builder::new(&thief.library()).unwrap().levels([CpuLevel::V1]).keep_source(true).namespace("team");
    let image = made.build_bytes("evil", hello("evil", 0).as_bytes()).unwrap().digest;
    let key = thief.library().builder_key().unwrap().public();
    library.add_builder(TrustedBuilder::new("ci", key.clone(), &["team"])).unwrap();
    copy_store(&thief, &home).unwrap();
    assert_eq!(home.ok(["run", &image.to_string()]), "evil");
    revoke_by_hand(&home, |revoked| assert!(revoked.keys.insert(key.id())));
    let rebuild = Rebuild::new(&library).unwrap();
    let affected = &rebuild.audit().affected[0];
    assert_eq!((affected.digest, affected.refusal.clone()), (image, Refusal::RevokedKey(key.id())));
    assert!(rebuild.rebuild(affected).outcome.unwrap_err().contains("--vouch"));
    home.run(["run", &image.to_string()]).assert_fails(122, "is revoked");
    // An end is no different, for keys of others: nobody knows when it was signed.
    library
        .change_trust(|policy| {
            policy.revoked.keys.clear();
            policy.builders.iter_mut().filter(|builder| builder.key == key).for_each(|builder| builder.expires = Some(now() - 1));
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert!(Rebuild::new(&library).unwrap().rebuild(affected).outcome.unwrap_err().contains("--vouch"));
    assert_eq!(home.run(["rebuild", "--revoked"]).code, Some(122));
    home.run(["run", &image.to_string()]).assert_fails(122, "expired");
    // Somebody looked at it.
    home.ok(["rebuild", "--revoked", "--vouch", &image.to_string()]);
    assert_eq!(home.ok(["run", &image.to_string()]), "evil");
}

#[test]
fn code_that_a_revoked_key_made_is_found_in_the_images_of_others_and_replaced() {
    let home = Home::new();
    let library = home.library();
    let builder = || Builder::new(&library).unwrap().levels([CpuLevel::V1]).keep_source(true).tag("app:v1".parse().unwrap());
    let wat = hello("hi", 0);
    // Evil code under the right key, by a builder who is trusted until it is found out.
    let elsewhere = Home::new();
    let honest = Builder::new(&elsewhere.library()).unwrap().levels([CpuLevel::V1]).build_bytes("app", wat.as_bytes()).unwrap();
    let its_store = elsewhere.library().store().unwrap();
    let record = its_store.built(&honest.code[0].key).unwrap().unwrap();
    let envelope = its_store.read_blob(&record.statements[0].statement, 1 << 20).unwrap();
    let fields = preheat_image::statement::Envelope::parse(&envelope).unwrap().unverified().fields.clone();
    let evil = SecretKey::from_seed([66; 32]);
    library.add_builder(TrustedBuilder::new("ci", evil.public(), &["*"])).unwrap();
    let store = library.store().unwrap();
    let mut publication = store.publish().unwrap();
    let code = publication.put(media::CODE_WASMTIME, b"evil code").unwrap();
    publication
        .add_statement(&Statement::new(Kind::CodeObject, "default", fields, vec![code.clone()]).sign(&evil), &evil.public())
        .unwrap();
    publication.finish().unwrap();
    let old = builder().build_bytes("app", wat.as_bytes()).unwrap();
    assert_eq!(old.code[0].digest, code.digest);
    revoke_by_hand(&home, |revoked| assert!(revoked.keys.insert(evil.public().id())));
    let audit = home.run(["audit", "--json"]);
    assert_eq!(audit.code, Some(122), "{audit:?}");
    let audit: serde_json::Value = serde_json::from_str(&audit.stdout).unwrap();
    assert_eq!(
        (&audit["affected"][0]["digest"], &audit["affected"][0]["part"]),
        (&old.digest.to_string().into(), &code.digest.to_string().into())
    );
    home.ok(["rebuild", "--revoked"]);
    assert_eq!(home.ok(["run", "app:v1"]), "hi");
    let image = store.resolve(&"app:v1".parse().unwrap()).unwrap();
    assert_ne!(image, old.digest);
    home.ok(["gc"]);
    assert_eq!(home.run(["audit"]).code, Some(0));
}

#[test]
fn a_build_is_signed_by_a_command_that_has_the_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let key = SecretKey::from_seed([7; 32]);
    // The command hands the bytes to this test, which plays the HSM.
    let dir = home.path().join("hsm");
    std::fs::create_dir(&dir).unwrap();
    let script = home.write(
        "sign",
        "#!/bin/sh\ncd hsm || exit 9\ncat > request.$$.tmp && mv request.$$.tmp request.$$\n\
         while [ ! -e answer.$$ ]; do sleep 0.02; done\ncat answer.$$\n",
    );
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let signer = SecretKey::from_seed([7; 32]);
    let hsm = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            for entry in std::fs::read_dir(&dir).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let Some(process) = name.strip_prefix("request.").filter(|process| !process.ends_with(".tmp")) else { continue };
                let signature = signer.sign(&std::fs::read(entry.path()).unwrap());
                std::fs::remove_file(entry.path()).unwrap();
                std::fs::write(dir.join("tmp"), signature).unwrap();
                std::fs::rename(dir.join("tmp"), dir.join(format!("answer.{process}"))).unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let public = key.public().to_base64();
    home.ok(["key", "new", "--out", "hsm.json", "--public", &public, "--", "./sign", "--slot", "1"]);
    let other = SecretKey::from_seed([8; 32]).public().to_base64();
    home.run(["key", "new", "--out", "other.json", "--public", &other, "--", "./sign"]).assert_fails(125, "another key");
    assert!(!home.path().join("other.json").exists());
    home.ok(["key", "rotate", "--key", "hsm.json"]);
    home.write("app.wat", hello("hi", 0));
    let image = home.ok(["build", "app.wat", "--cpu", "v1"]);
    assert_eq!(home.ok(["run", &image]), "hi");
    let shown = home.json(["inspect", &image]);
    assert_eq!(shown["statements"][0]["signer"], key.public().id().to_string());
    stop.send(()).unwrap();
    hsm.join().unwrap();
    // A command that fails makes no image, and says itself why.
    home.write("sign", "#!/bin/sh\necho nothing >&2\necho the HSM is on fire >&2\nexit 3\n");
    home.write("other.wat", hello("ho", 0));
    home.run(["build", "other.wat", "--cpu", "v1"]).assert_fails(125, "the HSM is on fire");
    home.assert_whole();
}
