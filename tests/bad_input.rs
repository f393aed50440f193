//! What must not work, and how it fails: one clear message, an exit code of its own, no panic.

mod common;

use common::disk::Disk;
use common::{Home, Ran, hello};
use preheat::{Digest, TrustPolicy};
use preheat_image::keys::SecretKey;
use preheat_image::statement::Envelope;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn built(home: &Home) -> serde_json::Value {
    home.write("a.wat", hello("hi", 0));
    home.json(["build", "a.wat", "--tag", "a"])
}

/// Changes a file of the store, as a person with the right to do so could.
fn tamper(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn flip_middle(bytes: &mut [u8]) {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
}

fn host_code(image: &serde_json::Value) -> String {
    let level = preheat::CpuLevel::of_host().unwrap().min(preheat::CpuLevel::V3);
    let code = image["code"].as_array().unwrap().iter().find(|code| code["cpu"] == level.name()).unwrap();
    code["digest"].as_str().unwrap().to_owned()
}

#[test]
fn what_is_not_wasm() {
    let home = Home::new();
    for (name, bytes, message) in [
        ("empty.wasm", &b""[..], "the file is empty"),
        ("elf.wasm", b"\x7fELF\x02\x01\x01\xff\xfe", "not Wasm"),
        ("text.wat", b"hello", "not Wasm"),
        ("short.wasm", b"\0asm", "invalid Wasm"),
        ("version.wasm", b"\0asm\x09\0\0\0", "invalid Wasm"),
        ("type.wat", b"(module (func (result i32) i64.const 0))", "type mismatch"),
        ("syntax.wat", b"(module (func", "expected"),
    ] {
        home.write(name, bytes);
        home.run(["build", name]).assert_fails(121, message);
        home.run(["run", name]).assert_fails(121, name);
    }
    home.run(["build", "absent.wasm"]).assert_fails(120, "absent.wasm");
    home.run(["build", "."]).assert_fails(126, "can't read .");
    let private = home.write("private.wasm", "x");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&private).is_err() {
        home.run(["build", "private.wasm"]).assert_fails(126, "Permission denied");
    }
    home.write("import.wat", r#"(module (import "env" "f" (func)) (func (export "_start")))"#);
    home.run(["run", "import.wat"]).assert_fails(121, "env::f");
}

#[test]
fn unknown_names_and_digests() {
    let home = Home::new();
    home.run(["run", "nobody"]).assert_fails(120, "no image is named `local/default/nobody:latest`");
    let digest = Digest::of(b"nothing").to_string();
    home.run(["run", &digest]).assert_fails(120, "not in this store");
    home.run(["run", "a//b"]).assert_fails(121, "not a reference");
    home.run(["inspect", "../etc/passwd"]).assert_fails(121, "not a reference");
    home.write("a.wat", hello("hi", 0));
    assert_eq!(home.run(["build", "a.wat", "--tag", "../x"]).code, Some(2));
    home.run(["build", "a.wat", "--namespace", "a/b"]).assert_fails(121, "can't be a namespace");
}

#[test]
fn damaged_code_objects() {
    for cut in [true, false] {
        let home = Home::new();
        let code = host_code(&built(&home));
        tamper(&home.blob(&code), |bytes| if cut { bytes.truncate(bytes.len() / 2) } else { flip_middle(bytes) });
        home.run(["run", "a"]).assert_fails(122, "is damaged in this store");
        let ran = home.run(["verify"]);
        assert_eq!(ran.code, Some(122), "{ran:?}");
        assert!(ran.stdout.contains(&code[9..]), "{ran:?}");
        // The way out that the message names: put aside, build again.
        assert_eq!(home.run(["verify", "--repair"]).code, Some(0));
        home.ok(["build", "a.wat", "--tag", "a"]);
        assert_eq!(home.run(["run", "a"]).stdout, "hi");
        home.assert_whole();
    }
}

#[test]
fn damage_that_left_no_trace_in_the_file_times_is_found_on_request() {
    let home = Home::new();
    let image = built(&home);
    let record = preheat::Store::open(home.root().join("store")).unwrap();
    let code = host_code(&image);
    let path = home.blob(&code);
    tamper(&path, |bytes| flip_middle(bytes));
    // Make the record say that this is how the file looked when it was hashed, as if the disk itself had changed it.
    let digest: Digest = image["image"].as_str().unwrap().parse().unwrap();
    let mut entry = record.entry(&digest).unwrap().unwrap();
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(&path).unwrap();
    let seal = entry.seals.get_mut(&code.parse().unwrap()).unwrap();
    seal.mtime = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
    seal.ctime = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
    seal.inode = metadata.ino();
    let file = home.blob(image["image"].as_str().unwrap()).to_string_lossy().replace("/blobs/sha256/", "/entries/") + ".json";
    std::fs::write(file, entry.to_bytes()).unwrap();
    home.run(["run", "--verify", "a"]).assert_fails(122, "is damaged in this store");
}

#[test]
fn damaged_manifests_records_names_and_settings() {
    let sharded = |home: &Home, digest: &str, dir: &str, suffix: &str| {
        let blob = home.blob(digest).to_string_lossy().replace("/blobs/sha256/", dir);
        std::path::PathBuf::from(blob + suffix)
    };
    type Find = fn(&Home, &serde_json::Value) -> std::path::PathBuf;
    let cases: [(&str, Find); 4] = [
        ("manifest", |home, image| home.blob(image["image"].as_str().unwrap())),
        ("name", |home, _| home.root().join("store/names/local/default/a/latest")),
        ("settings", |home, _| home.root().join("store/store.json")),
        ("policy", |home, _| home.root().join("trust.json")),
    ];
    for (what, find) in cases {
        for cut in [true, false] {
            let home = Home::new();
            let image = built(&home);
            tamper(&find(&home, &image), |bytes| if cut { bytes.truncate(bytes.len() / 2) } else { flip_middle(bytes) });
            let ran = home.run(["run", "a"]);
            assert!(matches!(ran.code, Some(120..=122)), "{what}: {ran:?}");
            assert_eq!(ran.stderr.lines().count(), 1, "{what}: {ran:?}");
        }
    }
    let home = Home::new();
    let image = built(&home);
    let entry = sharded(&home, image["image"].as_str().unwrap(), "/entries/", ".json");
    tamper(&entry, |bytes| bytes.truncate(bytes.len() / 2));
    home.run(["run", "a"]).assert_fails(122, "store record is damaged");
    // An index that is damaged is made anew.
    let home = Home::new();
    built(&home);
    std::fs::write(home.root().join("store/index.redb"), b"junk").unwrap();
    assert_eq!(home.json(["ls"])["images"].as_array().unwrap().len(), 1);
    home.assert_whole();
}

/// Replaces what the store knows about the image `a` by statements of the test's making.
fn with_statement(
    home: &Home,
    image: &serde_json::Value,
    key: &SecretKey,
    change: impl FnOnce(&mut preheat_image::Statement),
) -> Result<(), preheat::StoreError> {
    let store = preheat::Store::open(home.root().join("store")).unwrap();
    let digest: Digest = image["image"].as_str().unwrap().parse().unwrap();
    let record = store.entry(&digest).unwrap().unwrap();
    let envelope = store.read_blob(&record.statements[0].statement, 1 << 20).unwrap();
    let mut statement = Envelope::parse(&envelope).unwrap().unverified().clone();
    change(&mut statement);
    for path in ["entries", "keys"] {
        std::fs::remove_dir_all(store.root().join(path)).unwrap();
        std::fs::create_dir(store.root().join(path)).unwrap();
    }
    let mut publication = store.publish().unwrap();
    publication.add_statement(&statement.sign(key), &key.public())?;
    publication.finish()
}

#[test]
fn a_statement_by_an_unknown_key() {
    let home = Home::new();
    let image = built(&home);
    let stranger = SecretKey::from_seed([9; 32]);
    with_statement(&home, &image, &stranger, |_| {}).unwrap();
    home.run(["run", "a"]).assert_fails(122, "unknown key");
    assert!(home.ok(["inspect", "a"]).contains("not trusted"));
    // Trusting the builder is enough, and revoking a compiler build takes effect at once.
    let library = home.library();
    let mut policy = library.trust().unwrap();
    policy.builders.extend(TrustPolicy::trusting("stranger", stranger.public()).builders);
    let save = |policy: &TrustPolicy| std::fs::write(home.root().join("trust.json"), serde_json::to_vec(policy).unwrap()).unwrap();
    save(&policy);
    assert_eq!(home.run(["run", "a"]).stdout, "hi");
    policy.revoked.build_ids.insert(preheat::Engine::Native.build_id().to_owned());
    save(&policy);
    home.run(["run", "a"]).assert_fails(122, "revoked");
}

#[test]
fn a_cache_hit_by_an_unknown_builder_is_no_hit() {
    let home = Home::new();
    let image = built(&home);
    with_statement(&home, &image, &SecretKey::from_seed([9; 32]), |_| {}).unwrap();
    let again = home.json(["build", "a.wat"]);
    assert_eq!((&again["cached"], &again["compiled"]), (&false.into(), &2.into()), "{again}");
    assert_eq!(home.run(["run", "a"]).stdout, "hi");
}

#[test]
fn a_valid_statement_for_another_blob() {
    let home = Home::new();
    let image = built(&home);
    let own = home.library().builder_key().unwrap();
    // It covers the manifest, but of the code objects only the one that this host does not take.
    let code: Digest = host_code(&image).parse().unwrap();
    with_statement(&home, &image, &own, |statement| statement.outputs.retain(|output| output.digest != code)).unwrap();
    home.run(["run", "a"]).assert_fails(122, "does not cover code object");
    // One that is about another key is not let in.
    let home = Home::new();
    let image = built(&home);
    let own = home.library().builder_key().unwrap();
    let error = with_statement(&home, &image, &own, |statement| {
        let manifest = &mut statement.outputs[0];
        manifest.digest = Digest::of(b"something else");
    });
    assert!(error.unwrap_err().to_string().contains("not in this store"));
    let mut statement = preheat_image::Statement::new(
        preheat_image::statement::Kind::Image,
        "local",
        preheat_image::KeyFields::new().with("kind", "image"),
        Vec::new(),
    );
    statement.key = Digest::of(b"another key");
    assert!(Envelope::parse(&statement.sign(&own).to_bytes()).unwrap_err().to_string().contains("claims key"));
}

#[test]
fn an_image_for_a_cpu_that_this_is_not() {
    let home = Home::new();
    home.write("a.wat", hello("hi", 0));
    let mut levels = preheat::CpuLevel::ALL.into_iter().rev();
    let above = levels.find(|level| Some(*level) > preheat::CpuLevel::of_host());
    match above {
        Some(level) => {
            home.ok(["build", "a.wat", "--tag", "a", "--cpu", level.name()]);
            home.run(["run", "a"]).assert_fails(123, "can't run the image");
        }
        None => {
            // This host has the highest level: make an image that has code for an engine of another architecture only.
            let image = built(&home);
            let manifest = std::fs::read_to_string(home.blob(image["image"].as_str().unwrap())).unwrap();
            let manifest = manifest.replace("x86_64-unknown-linux-gnu", "riscv64gc-unknown-linux-gnu");
            let own = home.library().builder_key().unwrap();
            let store = home.library().store().unwrap();
            let mut publication = store.publish().unwrap();
            let blob = publication.put(preheat::media::MANIFEST, manifest.as_bytes()).unwrap();
            let fields = preheat_image::KeyFields::new().with("kind", "image");
            let digest = blob.digest;
            let statement = preheat_image::Statement::new(preheat_image::statement::Kind::Image, "local", fields, vec![blob]);
            publication.add_statement(&statement.sign(&own), &own.public()).unwrap();
            publication.finish().unwrap();
            home.run(["run", &digest.to_string()]).assert_fails(123, "can't run the image");
        }
    }
}

#[test]
fn a_full_disk() {
    let home = Home::new();
    let root = home.root();
    let Some(_disk) = Disk::mount(&root, "size=200k") else { return };
    home.write("small.wat", hello("hi", 0));
    home.write("a.wat", hello("ho", 0));
    let filler = root.join("filler");
    home.run(["ls"]);
    std::fs::write(&filler, vec![1; 150_000]).unwrap();
    home.run(["build", "a.wat"]).assert_fails(126, "No space left on device");
    std::fs::remove_file(&filler).unwrap();
    let left: Vec<_> = std::fs::read_dir(root.join("store/tmp"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    home.assert_whole();
    home.ok(["build", "small.wat", "--cpu", "v2", "--tag", "small"]);
    assert_eq!(home.run(["run", "small"]).stdout, "hi");
}

#[test]
fn a_read_only_store() {
    let home = Home::new();
    let root = home.root();
    let Some(disk) = Disk::mount(&root, "size=20m") else { return };
    built(&home);
    disk.read_only();
    assert_eq!(home.run(["run", "a"]).stdout, "hi", "running from it works");
    assert_eq!(home.json(["ls"])["images"].as_array().unwrap().len(), 1);
    home.write("b.wat", hello("ho", 0));
    let ran: Ran = home.run(["build", "b.wat"]);
    ran.assert_fails(126, "read-only");
    home.run(["tag", "a", "b"]).assert_fails(126, "read-only");
    home.assert_whole();
}
