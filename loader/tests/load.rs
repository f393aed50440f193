//! From a publication to files that may be mapped, and all the reasons why not.

mod common;

use common::{CDS, ENGINE, Env, Recipe, TARGET, assert_clear, change, contents, envelope, fields, flip, run};
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::record::{Record, Seal};
use preheat_image::statement::{Envelope, Kind, StatementError};
use preheat_image::{CpuLevel, Digest, media};
use preheat_loader::store::Collection;
use preheat_loader::trust::{Refusal, Revocations};
use preheat_loader::{LoadOptions, StoreError, TrustPolicy};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

const REHASH: LoadOptions = LoadOptions { rehash: true };

fn refusal(error: StoreError) -> Refusal {
    assert_clear(&error);
    match error {
        StoreError::Refused { refusal, .. } => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_published_is_loaded() {
    let env = Env::new();
    let made = env.image("app");
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    assert_eq!((image.digest(), image.manifest()), (made.image, &made.manifest));
    assert_eq!(image.statement().statement, made.statement);
    let code = image.code(ENGINE, TARGET, CpuLevel::V1).unwrap();
    assert_eq!(contents(code.file()), b"code of app");
    assert_eq!((code.engine(), code.file().artefact().digest), (ENGINE, made.code()));
    assert_eq!(code.file().path(), env.store.blob_path(&made.code()));
    assert_eq!(fs::metadata(code.file().path()).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(env.store.built(&made.key).unwrap().unwrap().statements[0].outputs[0].digest, made.image);
    assert_eq!(env.verify().problems, []);
    // The same again is the same, and changes no file.
    let before = fs::metadata(env.store.blob_path(&made.code())).unwrap().ino();
    assert_eq!(env.image("app").image, made.image);
    assert_eq!(fs::metadata(env.store.blob_path(&made.code())).unwrap().ino(), before);
}

#[test]
fn a_blob_that_is_written_in_pieces_is_the_same_blob() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let mut blob = publication.blob().unwrap();
    for piece in [b"co".as_slice(), b"", b"de"] {
        blob.write(piece).unwrap();
    }
    assert_eq!(publication.finish_blob(blob, CDS).unwrap(), Descriptor::of(CDS, b"code"));
    // One that is not finished leaves nothing.
    publication.blob().unwrap().write(b"half").unwrap();
    assert_eq!(common::files(&env.store.root().join("tmp")).len(), 0);
    publication.finish().unwrap();
    assert_eq!(env.store.read_blob(&Digest::of(b"code"), 100).unwrap(), b"code");
}

#[test]
fn artefacts_of_other_runtimes_are_kept_like_all_else() {
    let env = Env::new();
    let recipe = Recipe { code: Vec::new(), others: vec![(CDS, b"a JVM's archive".to_vec())], ..Recipe::new("jvm") };
    let made = env.publish(&recipe);
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    let archive = image.artefact(&Digest::of(b"a JVM's archive")).unwrap();
    assert_eq!(contents(&archive), b"a JVM's archive");
    assert_eq!(archive.artefact().media_type, CDS);
    assert!(matches!(image.artefact(&Digest::of(b"another")), Err(StoreError::Missing(_))));
    let error = image.code(ENGINE, TARGET, CpuLevel::V4).unwrap_err();
    assert!(matches!(error, StoreError::NoVariant { .. }) && error.to_string().contains("nothing"), "{error}");
    assert_eq!(env.verify().problems, []);
}

#[test]
fn code_is_never_handed_out_as_something_else() {
    let env = Env::new();
    let made = env.image("app");
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    assert_eq!(refusal(image.artefact(&made.code()).unwrap_err()), Refusal::NotCovered(made.code()));
}

#[test]
fn takes_the_best_code_for_the_host_and_never_better_code() {
    let env = Env::new();
    let code = [CpuLevel::V2, CpuLevel::V3].map(|cpu| (cpu, cpu.name().as_bytes().to_vec()));
    let made = env.publish(&Recipe { code: code.to_vec(), ..Recipe::new("app") });
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    for (host, expected) in [(CpuLevel::V2, "x86-64-v2"), (CpuLevel::V3, "x86-64-v3"), (CpuLevel::V4, "x86-64-v3")] {
        assert_eq!(contents(image.code(ENGINE, TARGET, host).unwrap().file()), expected.as_bytes());
    }
    let error = image.code(ENGINE, TARGET, CpuLevel::V1).unwrap_err();
    assert_clear(&error);
    assert!(matches!(error, StoreError::NoVariant { .. }));
    let text = error.to_string();
    assert!(text.contains("x86-64-v2") && text.contains("x86-64-v3") && text.contains("--cpu v1"), "{text}");
    assert!(matches!(image.code("native", TARGET, CpuLevel::V4), Err(StoreError::NoVariant { .. })));
    assert!(matches!(image.code(ENGINE, "riscv64gc-unknown-linux-gnu", CpuLevel::V4), Err(StoreError::NoVariant { .. })));
}

#[test]
fn whom_the_policy_does_not_trust_does_not_count() {
    let env = Env::new();
    let made = env.image("app");
    let load = |policy: &TrustPolicy| env.store.load(&made.image, policy, LoadOptions::default());
    assert!(load(&env.policy()).is_ok());
    let signer = env.key.public().id();
    assert_eq!(refusal(load(&TrustPolicy::default()).unwrap_err()), Refusal::UnknownSigner(signer));
    let other = TrustPolicy::trusting("other", SecretKey::from_seed([9; 32]).public());
    assert_eq!(refusal(load(&other).unwrap_err()), Refusal::UnknownSigner(signer));
    let mut elsewhere = env.policy();
    elsewhere.builders[0].namespaces = vec!["production".into()];
    assert_eq!(refusal(load(&elsewhere).unwrap_err()), Refusal::WrongNamespace { signer, namespace: "default".into() });
    elsewhere.builders[0].namespaces.push("default".into());
    assert!(load(&elsewhere).is_ok());
    assert!(matches!(env.store.load(&made.code(), &env.policy(), REHASH).map_err(refusal), Err(Refusal::NoStatement)));
    assert!(matches!(env.store.load(&Digest::of(b"x"), &env.policy(), REHASH), Err(StoreError::Missing(_))));
}

#[test]
fn a_second_builder_can_vouch_for_the_same_image() {
    let env = Env::new();
    let second = SecretKey::from_seed([9; 32]);
    let made = env.image("app");
    assert_eq!(Recipe::new("app").publish(&env.store, &second).unwrap().image, made.image);
    for key in [&env.key, &second] {
        let image = env.store.load(&made.image, &TrustPolicy::trusting("one", key.public()), LoadOptions::default()).unwrap();
        assert_eq!(image.statement().signer, key.public().id());
        assert_eq!(contents(image.code(ENGINE, TARGET, CpuLevel::V1).unwrap().file()), b"code of app");
    }
    let report = env.verify();
    assert_eq!((report.signatures, report.unknown_signers), (2, 2), "a statement each about code and image");
}

#[test]
fn a_revocation_counts_at_the_next_load() {
    let env = Env::new();
    let made = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::new("app") });
    let revoked = |change: &dyn Fn(&mut Revocations)| {
        let mut policy = env.policy();
        change(&mut policy.revoked);
        refusal(env.store.load(&made.image, &policy, LoadOptions::default()).unwrap_err())
    };
    let signer = env.key.public().id();
    assert_eq!(revoked(&|r| assert!(r.keys.insert(signer))), Refusal::RevokedKey(signer));
    assert_eq!(revoked(&|r| assert!(r.build_ids.insert("build-1".into()))), Refusal::RevokedBuild("build-1".into()));
    let source = Digest::of(b"app");
    assert_eq!(revoked(&|r| assert!(r.sources.insert(source))), Refusal::RevokedSource(source));
    for blob in [made.image, made.code(), Digest::of(b"archive")] {
        assert_eq!(revoked(&|r| assert!(r.blobs.insert(blob))), Refusal::RevokedBlob(blob));
    }
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
}

#[test]
fn code_that_the_statement_does_not_cover_is_refused() {
    let env = Env::new();
    let made = env.publish(&Recipe { covers_code: false, ..Recipe::new("app") });
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    assert_eq!(refusal(image.code(ENGINE, TARGET, CpuLevel::V4).unwrap_err()), Refusal::NotCovered(made.code()));
}

#[test]
fn a_valid_statement_about_something_else_is_of_no_use() {
    let env = Env::new();
    let (good, other) = (env.image("good"), env.image("other"));
    // The record of one image in the place of another's.
    let (from, to) = (env.record_path("entries", &good.image), env.record_path("entries", &other.image));
    let original = fs::read(&to).unwrap();
    let record = fs::read(&from).unwrap();
    change(&to, |bytes| *bytes = record);
    let error = env.store.load(&other.image, &env.policy(), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Format { .. }) && error.to_string().contains("it is about"), "{error}");
    // The same, with a subject that fits.
    let mut forged = Record::parse(&fs::read(&from).unwrap(), &good.image).unwrap();
    forged.subject = other.image;
    change(&to, |bytes| *bytes = forged.to_bytes());
    let error = env.store.load(&other.image, &env.policy(), LoadOptions::default()).unwrap_err();
    assert_eq!(refusal(error), Refusal::NoStatement, "one about something else is none");
    assert!(env.verify().problems[0].what.contains("about something else"));
    change(&to, |bytes| *bytes = original);
    assert_eq!(env.verify().problems, []);
    // One image's record under another's key.
    let (from, to) = (env.record_path("keys", &good.key), env.record_path("keys", &other.key));
    fs::rename(from, to).unwrap();
    assert!(env.store.built(&other.key).unwrap_err().to_string().contains("it is about"));
}

#[test]
fn a_statement_enters_only_with_the_key_that_made_it() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let manifest = preheat_image::Manifest::new(None, None, Vec::new()).to_bytes();
    let blob = publication.put(media::MANIFEST, &manifest).unwrap();
    let other = SecretKey::from_seed([9; 32]);
    let made = |outputs| envelope(Kind::Image, "default", fields(Kind::Image, "app"), outputs, &env.key);
    let good = made(vec![blob.clone()]);
    let source = |error| match error {
        StoreError::Statement { subject, source } => (subject, source),
        other => panic!("{other}"),
    };
    let unknown = publication.add_statement(&good, &other.public()).unwrap_err();
    assert_clear(&unknown);
    assert_eq!(source(unknown), (blob.digest, StatementError::UnknownSigner(env.key.public().id())));
    // It says that the other key made it.
    let text = String::from_utf8(good.to_bytes()).unwrap();
    let renamed = text.replace(&env.key.public().id().to_string(), &other.public().id().to_string());
    let wrong = publication.add_statement(&Envelope::parse(renamed.as_bytes()).unwrap(), &other.public()).unwrap_err();
    assert_clear(&wrong);
    assert_eq!(source(wrong), (blob.digest, StatementError::WrongSignature(other.public().id())));
    // Outputs that are not there, or not of that size.
    let absent = Descriptor::of(CDS, b"absent");
    assert!(matches!(publication.add_statement(&made(vec![blob.clone(), absent]), &env.key.public()), Err(StoreError::Missing(_))));
    let shorter = Descriptor { size: 1, ..blob.clone() };
    assert!(matches!(publication.add_statement(&made(vec![shorter]), &env.key.public()), Err(StoreError::Damaged { .. })));
    assert_eq!(env.store.entry(&blob.digest).unwrap(), None, "nothing of that was recorded");
    publication.add_statement(&good, &env.key.public()).unwrap();
    publication.finish().unwrap();
    assert!(env.store.load(&blob.digest, &env.policy(), LoadOptions::default()).is_ok());
}

#[test]
fn an_image_enters_only_with_all_its_parts() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let absent = preheat_image::manifest::Artefact::of(Descriptor::of(CDS, b"absent"));
    let manifest = preheat_image::Manifest::new(None, None, vec![absent]).to_bytes();
    let blob = publication.put(media::MANIFEST, &manifest).unwrap();
    let statement = envelope(Kind::Image, "default", fields(Kind::Image, "app"), vec![blob.clone()], &env.key);
    let error = publication.add_statement(&statement, &env.key.public()).unwrap_err();
    assert!(matches!(error, StoreError::Missing(digest) if digest == Digest::of(b"absent")));
    publication.finish().unwrap();
    assert_eq!(env.store.entry(&blob.digest).unwrap(), None);
}

#[test]
fn code_that_a_host_has_no_use_for_may_be_left_out_and_nothing_else() {
    let (from, to) = (Env::new(), Env::new());
    let levels = [CpuLevel::V1, CpuLevel::V2, CpuLevel::V3];
    let mut recipe = Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") };
    recipe.code = levels.iter().map(|level| (*level, [recipe.code[0].1.as_slice(), level.name().as_bytes()].concat())).collect();
    let made = from.publish(&recipe);
    let envelope = Envelope::parse(&from.store.read_blob(&made.statement, 1 << 20).unwrap()).unwrap();
    let unused = made.manifest.unused_by(TARGET, CpuLevel::V2);
    assert_eq!(unused.len(), 4, "two code objects and their chunk lists");
    // Takes what is in the other store and `wanted`, and then the statement.
    let pull = |left_out: &BTreeSet<Digest>, wanted: &dyn Fn(&Digest) -> bool| {
        let mut publication = to.store.publish().unwrap();
        publication.leave_out(left_out.iter().copied());
        for blob in made.manifest.blobs().map(|blob| blob.digest).chain([made.image]).filter(wanted) {
            publication.put(CDS, &from.store.read_blob(&blob, 16 << 20).unwrap()).unwrap();
        }
        publication.add_statement(&envelope, &from.key.public())?;
        publication.finish()
    };
    let missing = |result: Result<(), StoreError>| match result {
        Err(StoreError::Missing(digest)) => digest,
        other => panic!("{other:?}"),
    };
    let (archive, level) = (Digest::of(b"archive"), |index: usize| made.manifest.artefacts[index].digest);
    let everything = made.manifest.blobs().map(|blob| blob.digest).chain([made.image]).collect();
    assert_eq!(missing(pull(&everything, &|digest| *digest != archive && !unused.contains(digest))), archive, "that is no code");
    assert!(unused.contains(&missing(pull(&BTreeSet::new(), &|digest| !unused.contains(digest)))), "nobody said that it may be lacking");
    assert_eq!(to.store.entry(&made.image).unwrap(), None);
    pull(&unused, &|digest| !unused.contains(digest)).unwrap();
    assert_eq!(to.store.entry(&made.image).unwrap().unwrap().left_out, unused);
    let verify = || to.store.verify(&from.policy(), false, &mut |_, _| {}).unwrap().problems;
    assert_eq!(verify(), []);
    // The best that is there is taken; what is not there is said to be so.
    let code = |level| to.store.load(&made.image, &from.policy(), LoadOptions::default()).unwrap().code(ENGINE, TARGET, level);
    for host in [CpuLevel::V2, CpuLevel::V4] {
        assert_eq!(code(host).unwrap().file().artefact().digest, level(1));
    }
    let error = code(CpuLevel::V1).unwrap_err();
    assert!(matches!(error, StoreError::NoVariant { .. }) && error.to_string().contains("x86-64-v1 (not pulled)"), "{error}");
    // Code that was there and is lost is missed.
    let path = to.store.blob_path(&level(1));
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(verify().len(), 2, "the image's entry and its key record");
    assert!(matches!(code(CpuLevel::V2), Err(StoreError::Missing(digest)) if digest == level(1)));
    fs::write(&path, bytes).unwrap();
    // A record that lets something go that is no code is not believed.
    let entry = to.record_path("entries", &made.image);
    let record = to.store.entry(&made.image).unwrap().unwrap();
    let mut lying = record.clone();
    lying.left_out.insert(archive);
    change(&entry, |bytes| *bytes = lying.to_bytes());
    fs::rename(to.store.blob_path(&archive), to.dir.path().join("archive")).unwrap();
    assert_eq!(verify().len(), 2);
    fs::rename(to.dir.path().join("archive"), to.store.blob_path(&archive)).unwrap();
    change(&entry, |bytes| *bytes = record.to_bytes());
    assert_eq!(verify(), []);
    // Collection keeps it as it is, and the rest can follow.
    to.store.pin(&made.image, true).unwrap();
    to.store.collect(&Collection::default()).unwrap();
    assert_eq!(verify(), []);
    pull(&BTreeSet::new(), &|_| true).unwrap();
    assert_eq!(to.store.entry(&made.image).unwrap().unwrap().left_out, BTreeSet::new());
    assert_eq!(code(CpuLevel::V1).unwrap().file().artefact().digest, level(0));
}

#[test]
fn a_file_that_was_written_since_is_hashed_again() {
    let env = Env::new();
    let made = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::new("app") });
    let path = env.store.blob_path(&made.code());
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    flip(&path, 3);
    let error = env.run(&made.image).unwrap_err();
    assert_clear(&error);
    assert!(matches!(&error, StoreError::Damaged { digest, .. } if *digest == made.code()), "{error}");
    // Who sets the time of modification back can't set that of the change back.
    let file = fs::File::open(&path).unwrap();
    file.set_modified(modified).unwrap();
    assert!(matches!(env.run(&made.image), Err(StoreError::Damaged { .. })));
    // A file that was only touched is as good as before, and known to be so from then on.
    flip(&path, 3);
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
    let record = env.store.entry(&made.image).unwrap().unwrap();
    assert_eq!(record.seals[&made.code()], seal(&path));
    // Other artefacts likewise.
    flip(&env.store.blob_path(&Digest::of(b"archive")), 0);
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    assert!(matches!(image.artefact(&Digest::of(b"archive")), Err(StoreError::Damaged { .. })));
}

fn seal(path: &std::path::Path) -> Seal {
    let metadata = fs::metadata(path).unwrap();
    let time = |seconds: i64, nanoseconds: i64| seconds * 1_000_000_000 + nanoseconds;
    Seal {
        inode: metadata.ino(),
        size: metadata.len(),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
    }
}

#[test]
fn all_parts_are_sealed_when_they_enter() {
    let env = Env::new();
    let made = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") });
    let seals = env.store.entry(&made.image).unwrap().unwrap().seals;
    for blob in made.manifest.blobs() {
        assert_eq!(seals[&blob.digest], seal(&env.store.blob_path(&blob.digest)));
    }
}

#[test]
fn what_was_hashed_for_one_image_is_not_hashed_again_for_another_that_says_so() {
    let env = Env::new();
    let heap = b"a heap that two have".to_vec();
    let one = env.publish(&Recipe { others: vec![(CDS, heap.clone())], ..Recipe::new("one") });
    let recipe = |label: &str| Recipe { others: vec![(CDS, heap.clone())], ..Recipe::new(label) };
    let publish = |label: &str| {
        let mut publication = env.store.publish().unwrap();
        publication.shares_blobs_of(&one.image);
        let made = recipe(label).put(&mut publication, &env.key).unwrap();
        publication.finish().unwrap();
        env.store.entry(&made.image).unwrap().unwrap().seals.get(&Digest::of(&heap)).copied()
    };
    let path = env.store.blob_path(&Digest::of(&heap));
    assert_eq!(env.store.entry(&env.publish(&recipe("two")).image).unwrap().unwrap().seals.get(&Digest::of(&heap)), None);
    assert_eq!(publish("three"), Some(seal(&path)));
    // A file that was touched since is not the one that was hashed.
    fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(publish("four"), None);
}

#[test]
fn damage_that_no_time_betrays_is_found_by_rehashing() {
    let env = Env::new();
    let made = env.image("app");
    let path = env.store.blob_path(&made.code());
    flip(&path, 3);
    // A disk that forgets a bit changes no time: the record is made to say that the file looked like this already.
    let entry = env.record_path("entries", &made.image);
    let mut record = env.store.entry(&made.image).unwrap().unwrap();
    record.seals.insert(made.code(), seal(&path));
    change(&entry, |bytes| *bytes = record.to_bytes());
    assert_ne!(env.run(&made.image).unwrap(), b"code of app");
    let error = run(&env.store, &env.policy(), &made.image, REHASH).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { digest, .. } if digest == made.code()));
    assert_eq!(env.verify().problems.len(), 1);
}

#[test]
fn a_file_put_in_the_place_of_another_is_another_file() {
    let env = Env::new();
    let made = env.image("app");
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    let path = env.store.blob_path(&made.code());
    let put_in_place = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap()).unwrap();
        file.write_all(bytes).unwrap();
        file.persist(&path).unwrap();
    };
    let code = image.code(ENGINE, TARGET, CpuLevel::V4).unwrap();
    put_in_place(b"EVIL of app");
    assert_eq!(contents(code.file()), b"code of app");
    // Between the load of the image and that of the code: seen.
    assert!(matches!(image.code(ENGINE, TARGET, CpuLevel::V4), Err(StoreError::Damaged { .. })));
    put_in_place(b"longer than it was");
    let error = image.code(ENGINE, TARGET, CpuLevel::V4).unwrap_err();
    assert!(error.to_string().contains("it has 18 bytes, not 11"), "{error}");
    // A good copy in another file is good.
    put_in_place(b"code of app");
    assert_eq!(contents(image.code(ENGINE, TARGET, CpuLevel::V4).unwrap().file()), b"code of app");
    fs::remove_file(&path).unwrap();
    assert!(matches!(image.code(ENGINE, TARGET, CpuLevel::V4), Err(StoreError::Missing(digest)) if digest == made.code()));
}
