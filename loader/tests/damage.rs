//! Damage to every kind of file: one clear error each time, found by `verify`, put aside by its repair. And no panic.

mod common;

use common::{CDS, Env, Made, Recipe, assert_clear, change, flip, reference};
use preheat_image::{Digest, media};
use preheat_loader::{Home, Store, StoreError};
use std::fs;
use std::path::{Path, PathBuf};

type Damage = Box<dyn Fn(&mut Vec<u8>)>;

/// The ways in which a file may be damaged: cut off at a length, or one bit turned.
fn damages(len: usize) -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for keep in [0, 1, len / 2, len - 1] {
        damages.push(Box::new(move |bytes| bytes.truncate(keep)));
    }
    let step = (len / 24).max(1);
    for (number, at) in (0..len).step_by(step).enumerate() {
        damages.push(Box::new(move |bytes| bytes[at] ^= 1 << (number % 8)));
    }
    damages
}

fn home() -> (Env, Made) {
    let env = Env::new();
    let made = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") });
    env.store.tag(&reference("app"), &made.image).unwrap();
    (env, made)
}

/// All that a command does with an image: find it by its name, load it, read its code, look its key up.
fn use_it(env: &Env, made: &Made) -> Result<Vec<u8>, StoreError> {
    let store = env.home.store()?;
    env.home.builder_key()?;
    let policy = env.home.trust()?;
    let image = store.resolve(&reference("app"))?;
    store.built(&made.key)?;
    let loaded = store.load(&image, &policy, preheat_loader::LoadOptions::default())?;
    loaded.artefact(&Digest::of(b"archive"))?;
    common::run(&store, &policy, &image, preheat_loader::LoadOptions::default())
}

/// Damages one file in every way, and says how many ways an ordinary use noticed and how many `verify` noticed.
fn damage_each(env: &Env, made: &Made, path: &Path) -> (usize, usize, usize) {
    let original = fs::read(path).unwrap();
    let code = use_it(env, made).unwrap();
    let ways = damages(original.len());
    let (mut used, mut verified) = (0, 0);
    for damage in &ways {
        change(path, |bytes| damage(bytes));
        match use_it(env, made) {
            Ok(bytes) => assert!(bytes == code, "damaged code was handed out"),
            Err(error) => {
                assert_clear(&error);
                used += 1;
            }
        }
        let report = env.home.trust().and_then(|policy| env.home.store()?.verify(&policy, false, &mut |_, _| {}));
        if report.map_or(true, |report| !report.problems.is_empty()) {
            verified += 1;
        }
        change(path, |bytes| bytes.clone_from(&original));
    }
    use_it(env, made).unwrap();
    (ways.len(), used, verified)
}

#[test]
fn every_blob() {
    let (env, made) = home();
    let chunks = made.manifest.artefacts[0].chunks.as_ref().unwrap().digest;
    for (what, digest) in [("manifest", made.image), ("code", made.code()), ("artefact", Digest::of(b"archive"))] {
        let (ways, used, verified) = damage_each(&env, &made, &env.store.blob_path(&digest));
        assert_eq!((used, verified), (ways, ways), "{what}");
    }
    // Running an image needs neither its statement nor its chunk list again; `verify` looks at both.
    for (what, digest) in [("statement", made.statement), ("chunk list", chunks)] {
        let (ways, used, verified) = damage_each(&env, &made, &env.store.blob_path(&digest));
        assert_eq!((used, verified), (0, ways), "{what}");
    }
    assert_eq!(env.verify().problems, []);
}

#[test]
fn every_record() {
    let (env, made) = home();
    for (kind, digest) in [("entries", made.image), ("keys", made.key)] {
        let (ways, used, verified) = damage_each(&env, &made, &env.record_path(kind, &digest));
        // A turned bit may fall into a seal, which then only costs a hash, or into something that this policy does not ask for.
        assert!(used >= 8 && verified >= ways / 2, "{kind}: {used} and {verified} of {ways}");
    }
}

#[test]
fn the_other_files() {
    let (env, made) = home();
    let name = env.store.root().join("names/local/default/app/latest");
    let (ways, used, verified) = damage_each(&env, &made, &name);
    // Only the line's end may be missing.
    assert!(used >= ways - 2 && verified >= ways - 2, "name: {used} and {verified} of {ways}");
    for file in ["store/store.json", "trust.json", "keys/builder.json"] {
        let (ways, used, _) = damage_each(&env, &made, &env.dir.path().join(file));
        // Spaces and the name of a builder may be anything.
        assert!(used >= ways / 3, "{file}: {used} of {ways}");
    }
    fs::write(env.dir.path().join("store/store.json"), "{\"version\":2}").unwrap();
    let error = env.home.store().unwrap_err().to_string();
    assert!(error.contains("store.json") && error.contains("version 2") && error.contains("version 1"), "{error}");
}

#[test]
fn a_name_file_is_reported_with_its_path_and_repaired() {
    let (env, _) = home();
    let name = env.store.root().join("names/local/default/app/latest");
    change(&name, |bytes| bytes.truncate(20));
    let error = env.store.names().unwrap_err();
    assert!(error.to_string().contains("names/local/default/app/latest"), "{error}");
    // Who can't tell what a name leads to collects nothing.
    assert!(env.store.collect(&preheat_loader::store::Collection::default()).is_err());
    let report = env.verify();
    assert_eq!(report.problems.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [&name]);
    assert_eq!(env.repair().problems[0].repaired, Some("name removed"));
    assert_eq!(env.store.names().unwrap(), []);
    assert_eq!(env.verify().problems, []);
}

#[test]
fn verify_names_the_chunk() {
    let (env, made) = home();
    flip(&env.store.blob_path(&made.code()), 200_000);
    let what = &env.verify().problems[0].what;
    assert!(what.contains("1 of 18 chunks are damaged, the first at bytes 196608 to 262144"), "{what}");
    // Of another byte of another chunk too, and of an end that is missing.
    change(&env.store.blob_path(&made.code()), |bytes| bytes.truncate(1_000_000));
    let what = &env.verify().problems[0].what;
    assert!(what.contains("4 of 18 chunks are damaged, the first at bytes 196608 to 262144"), "{what}");
}

#[test]
fn repair_puts_aside_and_the_next_build_heals() {
    for what in ["manifest", "code", "statement", "chunk list", "artefact"] {
        let (env, made) = home();
        let part = match what {
            "manifest" => made.image,
            "code" => made.code(),
            "statement" => made.statement,
            "chunk list" => made.manifest.artefacts[0].chunks.as_ref().unwrap().digest,
            _ => Digest::of(b"archive"),
        };
        let other = env.image("other");
        env.store.tag(&reference("other"), &other.image).unwrap();
        let path = env.store.blob_path(&part);
        flip(&path, 5);
        let damaged = fs::read(&path).unwrap();
        let report = env.repair();
        assert!(report.problems.iter().all(|problem| problem.repaired.is_some()), "{what}: {:?}", report.problems);
        assert_eq!(report.problems[0].path, path, "{what}");
        assert_eq!(fs::read(env.store.root().join("quarantine").join(part.hex())).unwrap(), damaged);
        assert_eq!(env.verify().problems, [], "{what}: whole after a repair");
        assert!(use_it(&env, &made).unwrap_err().is_missing(), "{what}");
        assert_eq!(env.run(&other.image).unwrap(), b"code of other", "{what}: what is whole stays");
        let again = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") });
        env.store.tag(&reference("app"), &again.image).unwrap();
        use_it(&env, &made).unwrap();
        assert_eq!(env.verify().problems, [], "{what}");
    }
}

#[test]
fn records_that_say_too_much_are_found() {
    let (env, made) = home();
    let path = env.record_path("entries", &made.image);
    let text = fs::read_to_string(&path).unwrap();
    // A namespace for which nobody signed.
    change(&path, |bytes| *bytes = text.replace("\"default\"", "\"production\"").into_bytes());
    let report = env.verify();
    assert!(report.problems[0].what.contains("says other things than its statement"), "{:?}", report.problems);
    // A statement that is not there.
    change(&path, |bytes| *bytes = text.replace(&made.statement.to_string(), &Digest::of(b"no").to_string()).into_bytes());
    assert!(env.verify().problems[0].what.contains("its statement"));
    // A blob in the place of a statement.
    change(&path, |bytes| *bytes = text.replace(&made.statement.to_string(), &made.image.to_string()).into_bytes());
    assert_eq!(env.verify().problems.len(), 1);
    assert_eq!(env.repair().problems[0].repaired, Some("record removed"));
    assert_eq!(env.verify().problems, []);
}

#[test]
fn blobs_of_the_wrong_kind_are_no_manifests() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let blob = publication.put(media::MANIFEST, b"not json").unwrap();
    let statement = common::envelope(
        preheat_image::statement::Kind::Image,
        "default",
        common::fields(preheat_image::statement::Kind::Image, "x"),
        vec![blob],
        &env.key,
    );
    let error = publication.add_statement(&statement, &env.key.public()).unwrap_err();
    assert!(matches!(error, StoreError::Format { .. }));
    assert_clear(&error);
}

fn index(env: &Env) -> PathBuf {
    env.store.root().join("index.redb")
}

fn three_images() -> (Env, Vec<Digest>) {
    let env = Env::new();
    let mut images: Vec<Digest> = ["a", "b", "c"].iter().map(|label| env.image(label).image).collect();
    images.sort();
    (env, images)
}

#[test]
fn an_index_that_is_missing_or_no_index_is_made_anew() {
    let (env, images) = three_images();
    assert_eq!(env.image_digests(), images);
    let (good, blobs) = (fs::read(index(&env)).unwrap(), env.store.blobs().unwrap());
    let garbage: Vec<u8> = (0..5000u32).map(|i| (i * i / 7).to_le_bytes()[0]).collect();
    let mut cases: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new()), Some(garbage), Some(vec![0; 100_000])];
    for keep in [1, 9, 100, 4096, good.len() / 2, good.len() - 1] {
        cases.push(Some(good[..keep].to_vec()));
    }
    for case in cases {
        let len = case.as_ref().map(Vec::len);
        match case {
            None => fs::remove_file(index(&env)).unwrap(),
            Some(bytes) => fs::write(index(&env), bytes).unwrap(),
        }
        assert_eq!(env.image_digests(), images, "index of {len:?} bytes");
        assert_eq!(env.store.blobs().unwrap(), blobs);
        assert!(!env.verify().index_rebuilt, "it was healed by the reader");
    }
    // A publisher heals it too.
    fs::write(index(&env), &good[..100]).unwrap();
    env.image("d");
    assert_eq!(env.image_digests().len(), 4);
    assert_eq!(env.verify().problems, []);
}

#[test]
fn turned_bits_in_the_index_are_healed() {
    let (env, images) = three_images();
    let good = fs::read(index(&env)).unwrap();
    // The bytes that say something, and some others: a cheap generator spreads the positions.
    let used: Vec<usize> = (0..good.len()).filter(|at| good[*at] != 0).collect();
    let mut state = 12345u32;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    let rounds = std::env::var("PREHEAT_INDEX_ROUNDS").map_or(120, |text| text.parse().unwrap());
    for round in 0..rounds {
        let mut bytes = good.clone();
        for _ in 0..=next(3) {
            let at = if round % 3 == 0 { next(good.len()) } else { used[next(used.len())] };
            bytes[at] ^= 1 << next(8);
        }
        fs::write(index(&env), bytes).unwrap();
        assert_eq!(env.image_digests(), images);
    }
    assert_eq!(env.verify().problems, []);
}

#[test]
fn an_index_that_was_never_filled_is_filled() {
    let (env, images) = three_images();
    fs::remove_file(index(&env)).unwrap();
    // A builder that was killed between making it and filling it.
    let other = Store::open(env.dir.path().join("empty")).unwrap();
    assert_eq!(other.images().unwrap(), []);
    fs::write(index(&env), []).unwrap();
    assert_eq!(env.image_digests(), images);
    // One that is behind is for `verify`.
    fs::copy(other.root().join("index.redb"), index(&env)).unwrap();
    let report = env.verify();
    assert!(report.index_rebuilt && report.problems.is_empty());
    assert_eq!(env.image_digests(), images);
}

#[test]
fn a_builder_that_is_killed_leaves_no_image_unlisted() {
    let (env, images) = three_images();
    // Before it has finished: the entry is there, and so must be the row.
    let mut publication = env.store.publish().unwrap();
    let made = Recipe::new("d").put(&mut publication, &env.key).unwrap();
    drop(publication);
    assert!(env.image_digests().contains(&made.image));
    assert!(!env.verify().index_rebuilt);
    // Between row and entry: there is no image yet.
    fs::remove_file(env.record_path("entries", &made.image)).unwrap();
    assert_eq!(env.image_digests(), images);
    assert!(env.verify().index_rebuilt);
}

#[test]
fn a_home_that_is_no_directory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for error in [Home::at(&file).store().unwrap_err(), Home::at(&file).builder_key().unwrap_err()] {
        assert_clear(&error);
    }
}
