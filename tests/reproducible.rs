//! The same inputs give the same bytes, wherever and with however many threads they are built; other inputs give other keys.

mod common;

use common::{Home, repo};
use preheat_image::statement::Envelope;
use preheat_image::{Digest, KeyFields};
use std::collections::BTreeMap;

/// The fields under which the first code object of a build was made, out of its statement.
fn key_fields(home: &Home, report: &serde_json::Value) -> KeyFields {
    let store = home.library().store().unwrap();
    let key: Digest = report["code"][0]["key"].as_str().unwrap().parse().unwrap();
    let record = store.built(&key).unwrap().unwrap();
    let bytes = store.read_blob(&record.statements[0].statement, 1 << 20).unwrap();
    Envelope::parse(&bytes).unwrap().unverified().fields.clone()
}

/// All blobs of a store that are no statements: those differ, since each home has a key of its own.
fn blobs(home: &Home) -> BTreeMap<String, Vec<u8>> {
    let mut blobs = BTreeMap::new();
    for shard in std::fs::read_dir(home.root().join("store/blobs/sha256")).unwrap() {
        for blob in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            let path = blob.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            if !bytes.starts_with(b"{\"payloadType\"") {
                blobs.insert(Digest::of(&bytes).to_string(), bytes);
            }
        }
    }
    blobs
}

#[test]
fn directories_and_thread_counts_do_not_matter() {
    let wasm = std::fs::read(repo("examples/json-c/json.wasm")).unwrap();
    let build = |dir: &str, threads: &str| {
        let home = Home::new();
        let path = home.write(&format!("{dir}/json.wasm"), &wasm);
        let output = home.command(["build"]).arg(&path).env("RAYON_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        (String::from_utf8(output.stdout).unwrap(), blobs(&home))
    };
    let (first, first_blobs) = build("here", "1");
    let (second, second_blobs) = build("quite/another/place", "7");
    assert_eq!(first, second);
    assert_eq!(first_blobs.len(), 3, "two code objects and the manifest");
    assert!(first_blobs == second_blobs);
}

#[test]
fn every_field_of_the_key_matters_and_real_options_reach_it() {
    let home = Home::new();
    let wasm = repo("examples/json-c/json.wasm").display().to_string();
    let report = home.json(["build", &wasm, "--cpu", "v2"]);
    let fields = key_fields(&home, &report);
    let names: Vec<&str> = fields.iter().map(|(name, _)| name).collect();
    let expected =
        ["build-id", "compiler", "cpu", "engine", "features", "kind", "options", "options-digest", "profile", "source", "target"];
    assert_eq!(names, expected);
    for (name, value) in fields.iter() {
        let other = fields.clone().with(name, format!("{value}x"));
        assert_ne!(other.key(), fields.key(), "{name}");
    }
    // Through the command line: each option that changes code changes the key, in its own field.
    for (args, field) in [(&["--cpu", "v3"][..], "cpu"), (&["--cpu", "v2", "--optimize", "none"], "options")] {
        let other = home.json(["build", wasm.as_str()].into_iter().chain(args.iter().copied()));
        let differences: Vec<String> =
            key_fields(&home, &other).differences(&fields).into_iter().map(|(name, ..)| name.to_owned()).collect();
        assert_eq!(differences, [field, "options-digest"]);
    }
    home.write("other.wat", common::hello("x", 0));
    let other = home.json(["build", "other.wat", "--cpu", "v2"]);
    let differences = key_fields(&home, &other);
    assert_eq!(differences.differences(&fields).into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), ["source"]);
}
