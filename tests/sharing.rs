//! The shared cache as people use it: a server in one terminal, builders and nodes in others, each with a home of its own.

mod common;

use common::disk::Disk;
use common::service::{Service, build};
use common::{Home, Ran, hello};

#[test]
fn built_here_pushed_pulled_and_run_there() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    let digest = build(&builder, "hello from afar", "app");
    assert_eq!(builder.ok(["push", "app", &service.place("app:v1")]), digest);
    let again = builder.json(["push", "app", &service.place("app:v1")]);
    assert_eq!(again["blobs"], 0, "what is there is not brought again: {again}");

    let node = Home::new();
    service.login(&node, &[]);
    // Nobody is trusted because of a login or a pull.
    node.run(["pull", &service.place("app:v1")]).assert_fails(120, "no trusted root speaks for");
    node.run(["pull", &format!("{}/default@{digest}", service.host)]).assert_fails(122, "refused before anything of it was fetched");
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let ran = node.run(["run", &service.place("app:v1")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hello from afar"), "{ran:?}");
    let pulled = node.json(["pull", &service.place("app:v1")]);
    assert_eq!((pulled["blobs"].as_u64(), pulled["image"].as_str()), (Some(0), Some(digest.as_str())));
    node.assert_whole();
}

#[test]
fn another_root_than_the_one_that_people_were_told_is_refused() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    service.with_root();
    let node = Home::new();
    service.login(&node, &[]);
    let other = format!("sha256:{}", "0".repeat(64));
    node.run(["trust", "add", "--from", &service.host, "--fingerprint", &other]).assert_fails(122, "fingerprint");
    assert_eq!(node.json(["trust", "ls"])["roots"].as_array().unwrap().len(), 0);
    let ran: Ran = node.command(["trust", "add", "--from", &service.host]).output().unwrap().into();
    assert_eq!(ran.code, Some(2), "a cache's root is not believed without a fingerprint: {ran:?}");
}

#[test]
fn what_one_builder_compiled_another_need_not() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (first, fingerprint) = service.with_root();
    service.login(&first, &["--push"]);
    let wat = hello("shared", 0);
    let file = first.write("shared.wat", &wat);
    let built = first.json(["build", file.to_str().unwrap(), "--cpu", "v2"]);
    assert_eq!(built["compiled"], 1);

    let second = Home::new();
    service.login(&second, &["--builds"]);
    second.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let file = second.write("shared.wat", &wat);
    let hit = second.json(["build", file.to_str().unwrap(), "--cpu", "v2"]);
    assert_eq!((hit["compiled"].as_u64(), &hit["image"]), (Some(0), &built["image"]), "{hit}");
    // Without trust the same cache is of no use, and does no harm.
    let stranger = Home::new();
    service.login(&stranger, &["--builds"]);
    let file = stranger.write("shared.wat", &wat);
    assert_eq!(stranger.json(["build", file.to_str().unwrap(), "--cpu", "v2"])["compiled"], 1);
    // Nor is it asked by whoever wants to stay offline.
    let offline = Home::new();
    service.login(&offline, &["--builds"]);
    offline.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let file = offline.write("shared.wat", &wat);
    assert_eq!(offline.json(["build", file.to_str().unwrap(), "--cpu", "v2", "--offline"])["compiled"], 1);
}

#[test]
fn a_cache_that_is_down_makes_a_build_a_local_build_and_says_so_once() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, _) = service.with_root();
    service.login(&builder, &["--push"]);
    drop(service);
    let file = builder.write("local.wat", hello("local", 0));
    let ran = builder.run(["run", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "local"), "{ran:?}");
    assert_eq!(ran.stderr.matches("is left out of this build").count(), 1, "{ran:?}");
}

#[test]
fn names_are_promoted_rolled_back_and_never_shown_older_than_they_were_seen() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    let one = build(&builder, "one", "one");
    let two = build(&builder, "two", "two");
    let stable = service.place("app:stable");
    builder.ok(["push", "one", &service.place("app:v1")]);
    builder.ok(["push", "two", &service.place("app:v2")]);
    builder.ok(["promote", &stable, "app:v1"]);
    builder.ok(["promote", &stable, &two]);

    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    assert_eq!(node.ok(["pull", &stable]), two);
    builder.ok(["rollback", &stable]);
    assert_eq!(node.ok(["pull", &stable]), one);
    let names = node.json(["names", &format!("{}/default", service.host)]);
    let kinds: Vec<_> = names["snapshot"]["moves"].as_array().unwrap().iter().map(|one| one["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["push", "push", "promote", "promote", "rollback"]);
    // Somebody who has no key of a namer moves nothing.
    node.run(["promote", &stable, "app:v2"]).assert_fails(125, "no key of a namer is here");
    let stranger = node.path().join("stranger.json");
    node.ok(["key", "new", "--out", stranger.to_str().unwrap()]);
    let ran = node.run(["promote", &stable, "app:v2", "--namer-key", stranger.to_str().unwrap()]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert_eq!(node.ok(["pull", &stable]), one);
    // The cache is gone: what was seen last counts, and says so.
    let gone = stable.clone();
    drop(service);
    let ran = node.run(["pull", &gone]);
    assert_eq!((ran.code, ran.stdout.trim()), (Some(0), one.as_str()), "{ran:?}");
    assert!(ran.stderr.contains("names that were seen last"), "{ran:?}");
}

#[test]
fn a_revoked_compiler_build_is_not_run_and_not_pulled() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    let digest = build(&builder, "soon revoked", "app");
    builder.ok(["push", "app", &service.place("app:v1")]);
    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    node.ok(["run", &service.place("app:v1")]);

    // The only root key signs the list, as long as no revoker is delegated.
    let keys = builder.root().join("keys/root.json");
    let root = builder.root().join("trust/roots").join(fingerprint.strip_prefix("sha256:").unwrap()).join("1.json");
    let build_id = builder.json(["doctor"])["buildId"].as_str().unwrap().to_owned();
    let list = builder.path().join("revocations.json");
    builder.ok([
        "root",
        "revoke",
        "--root",
        root.to_str().unwrap(),
        "--key",
        keys.to_str().unwrap(),
        "--build-id",
        &build_id,
        "--reason",
        "miscompiles",
        "--expires",
        "7d",
        "--out",
        list.to_str().unwrap(),
    ]);
    builder.ok(["cache", "publish", &service.host, list.to_str().unwrap()]);
    node.ok(["trust", "update"]);
    node.run(["run", &service.place("app:v1")]).assert_fails(122, "revoked");
    let ran = node.run(["audit"]);
    assert!(ran.code == Some(122) && ran.stdout.contains(&digest[7..19]), "{ran:?}");
    // A node that never had it does not get it either: the service withholds it, and the client would refuse it.
    let late = Home::new();
    service.login(&late, &[]);
    late.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    late.run(["pull", &service.place("app:v1")]).assert_fails(122, "refused");
}

#[test]
fn pulling_the_second_function_moves_only_what_is_new() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    // Two images of the same code that differ in their arguments: what they share is large, what they do not is a manifest.
    let file = builder.write("same.wat", hello("same", 0));
    for name in ["a", "b"] {
        builder.ok(["build", file.to_str().unwrap(), "--tag", name, "--cpu", "v2", "--", name]);
        builder.ok(["push", name, &service.place(&format!("{name}:v1"))]);
    }
    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let first = node.json(["pull", &service.place("a:v1")]);
    let second = node.json(["pull", &service.place("b:v1")]);
    assert_eq!(second["blobs"], 1, "only the manifest: {second}");
    assert!(second["bytes"].as_u64() < first["bytes"].as_u64(), "{first} {second}");
}

#[test]
fn a_node_pulls_the_code_that_it_would_run_and_a_mirror_all() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    let file = builder.write("levels.wat", hello("levels", 0));
    let digest = builder.ok(["build", file.to_str().unwrap(), "--tag", "app", "--cpu", "v1,v2,v3,v4"]);
    let place = service.place("app:v1");
    builder.ok(["push", "app", &place]);

    let node = Home::new();
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let pulled = node.json(["pull", &place]);
    assert_eq!((pulled["blobs"].as_u64(), pulled["leftOut"].as_u64()), (Some(2), Some(3)), "the manifest and one code object: {pulled}");
    let best = preheat_image::CpuLevel::of_host().unwrap().name();
    let artefacts = |home: &Home| home.json(["inspect", &digest])["manifest"]["artefacts"].as_array().unwrap().clone();
    let here = |home: &Home| -> Vec<String> {
        let there = |artefact: &&serde_json::Value| home.blob(artefact["digest"].as_str().unwrap()).exists();
        artefacts(home).iter().filter(there).map(|artefact| artefact["variant"]["cpu"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(here(&node), [best]);
    node.assert_whole();
    let ran = node.run(["run", &place]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "levels"), "{ran:?}");
    let again = node.json(["pull", &place]);
    assert_eq!((again["blobs"].as_u64(), again["leftOut"].as_u64()), (Some(0), Some(3)), "{again}");
    node.ok(["gc"]);
    node.assert_whole();

    // What is there need not be brought again; what is nowhere is named.
    assert_eq!(node.json(["push", &digest, &format!("{}/default", service.host)])["blobs"], 0);
    let other_home = Home::new();
    let other = Service::start(&other_home);
    other.login(&node, &[]);
    node.run(["push", &digest, &format!("{}/default", other.host)]).assert_fails(126, "was left out when the image was pulled");
    // For a build it is not there.
    let file = node.write("levels.wat", hello("levels", 0));
    assert_eq!(node.json(["build", file.to_str().unwrap(), "--cpu", "v1,v2,v3,v4"])["cached"], false);

    let mirror = Home::new();
    service.login(&mirror, &[]);
    mirror.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    mirror.ok(["pull", &place]);
    let rest = mirror.json(["pull", &place, "--all-cpus"]);
    assert_eq!((rest["blobs"].as_u64(), rest["leftOut"].as_u64()), (Some(4), Some(0)), "the manifest and what was left out: {rest}");
    assert_eq!(here(&mirror).len(), 4);
    mirror.assert_whole();
    let layout = mirror.path().join("layout");
    mirror.ok(["export", &digest, layout.to_str().unwrap()]);

    // A home that moved to another machine gets what that one needs when it is run there.
    let moved = Home::new();
    service.login(&moved, &[]);
    moved.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    moved.ok(["pull", &place]);
    let code: Vec<_> = artefacts(&moved).iter().map(|artefact| artefact["digest"].as_str().unwrap().to_owned()).collect();
    for blob in &code {
        let _ = std::fs::remove_file(moved.blob(blob));
    }
    let hex = digest.strip_prefix("sha256:").unwrap();
    let entry = moved.root().join("store/entries").join(&hex[..2]).join(format!("{}.json", &hex[2..]));
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&entry).unwrap()).unwrap();
    record["leftOut"] = code.into();
    std::fs::write(&entry, record.to_string()).unwrap();
    moved.run(["run", &place, "--pull", "never"]).assert_fails(123, "not pulled");
    let ran = moved.run(["run", &place]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "levels"), "{ran:?}");
    moved.assert_whole();
}

#[test]
fn an_image_goes_through_a_layout_directory_and_is_trusted_by_its_statements_only() {
    let builder = Home::new();
    let digest = build(&builder, "by hand", "app");
    let layout = builder.path().join("layout");
    let exported = builder.json(["export", "app", layout.to_str().unwrap(), "--name", "app:v1"]);
    assert!(exported["blobs"].as_u64().unwrap() >= 2, "{exported}");
    let again = builder.json(["export", "app", layout.to_str().unwrap(), "--name", "app:v1"]);
    assert_eq!((&again["manifest"], again["blobs"].as_u64()), (&exported["manifest"], Some(0)), "the same image is the same artefact");

    let node = Home::new();
    node.run(["import", layout.to_str().unwrap()]).assert_fails(122, "refused before anything of it was fetched");
    let public = builder.json(["key", "show"])["public"].as_str().unwrap().to_owned();
    node.ok(["trust", "add", "--builder", "them", &public, "--namespace", "default"]);
    assert_eq!(node.ok(["import", layout.to_str().unwrap(), "--name", "app:v1", "--tag", "app:v1"]), digest);
    let ran = node.run(["run", "app:v1"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "by hand"), "{ran:?}");
    node.assert_whole();

    // A byte of the code is another: nothing of it is kept.
    let other = Home::new();
    other.ok(["trust", "add", "--builder", "them", &public, "--namespace", "default"]);
    let manifest = builder.json(["inspect", "app"]);
    let code = manifest["manifest"]["artefacts"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let blob = layout.join("blobs/sha256").join(&code);
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[4096] ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    let ran = other.run(["import", layout.to_str().unwrap()]);
    assert_eq!(ran.code, Some(122), "{ran:?}");
    assert_eq!(other.run(["run", &digest]).code, Some(120));
    other.assert_whole();
}

#[test]
fn a_full_disk_ends_a_pull_which_goes_on_where_there_is_space() {
    let server_home = Home::new();
    let service = Service::start(&server_home);
    let (builder, fingerprint) = service.with_root();
    build(&builder, "large enough", "app");
    builder.ok(["push", "app", &service.place("app:v1")]);
    let node = Home::new();
    let root = node.root();
    let Some(_disk) = Disk::mount(&root, "size=2m") else { return };
    service.login(&node, &[]);
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    let filler = root.join("filler");
    let mut all = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write(&mut all, &[1; 4096]).is_ok_and(|written| written > 0) {}
    // Enough for names and the manifest, not for the code.
    all.set_len(all.metadata().unwrap().len() - (24 << 10)).unwrap();
    let ran = node.run(["pull", &service.place("app:v1")]);
    ran.assert_fails(126, "No space left on device");
    assert!(ran.stderr.contains(root.to_str().unwrap()), "which file: {ran:?}");
    node.assert_whole();
    drop(all);
    std::fs::remove_file(&filler).unwrap();
    node.ok(["pull", &service.place("app:v1")]);
    assert_eq!(node.run(["run", &service.place("app:v1")]).stdout, "large enough");
    node.assert_whole();
}
