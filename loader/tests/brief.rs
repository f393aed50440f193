//! Briefs: what a load reads instead of the entry and the manifest. Whatever becomes of a brief, a load does what it would have done without.

mod common;

use common::{CDS, Env, Made, Recipe, change, contents, run};
use preheat_image::brief::Brief;
use preheat_image::keys::SecretKey;
use preheat_image::{CpuLevel, Digest};
use preheat_loader::store::Collection;
use preheat_loader::trust::Refusal;
use preheat_loader::{LoadOptions, StoreError};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

fn brief_path(env: &Env, image: &Digest) -> PathBuf {
    let hex = image.hex();
    env.store.root().join("briefs").join(&hex[..2]).join(&hex[2..])
}

/// The brief that is there, if it is one that a load would go by.
fn current(env: &Env, image: &Digest) -> Option<Brief> {
    let brief = Brief::parse(&fs::read(brief_path(env, image)).ok()?, image).ok()?;
    let entry = fs::metadata(env.record_path("entries", image)).unwrap();
    (brief.entry.inode == entry.ino() && brief.entry.ctime % 1_000_000_000 == entry.ctime_nsec()).then_some(brief)
}

fn home() -> (Env, Made) {
    let env = Env::new();
    let made = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") });
    (env, made)
}

fn load(env: &Env, made: &Made) -> Result<preheat_loader::TrustedImage, StoreError> {
    env.store.load(&made.image, &env.policy(), LoadOptions::default())
}

fn refusal(env: &Env, made: &Made) -> Refusal {
    match load(env, made) {
        Err(StoreError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    }
}

/// What a load goes by when the entry and the manifest can't be read any more: nothing but the brief.
#[test]
fn a_load_goes_by_the_brief() {
    let (env, made) = home();
    let brief = current(&env, &made.image).unwrap();
    assert_eq!(brief.manifest, made.manifest);
    assert_eq!(Some(&brief.record), env.store.entry(&made.image).unwrap().as_ref());
    assert_eq!(brief.keys, [Some(env.key.public())]);
    // A brief that says something else shows that it is what is read. Only whoever can write into the store can make one.
    let mut other = brief.clone();
    other.manifest.annotations.insert("label".into(), "from the brief".into());
    fs::write(brief_path(&env, &made.image), other.to_bytes().unwrap()).unwrap();
    assert_eq!(load(&env, &made).unwrap().manifest().annotations["label"], "from the brief");
    // Who asks for everything to be hashed goes by the manifest itself, and `verify` finds the difference.
    let careful = env.store.load(&made.image, &env.policy(), LoadOptions { rehash: true }).unwrap();
    assert_eq!(careful.manifest(), &made.manifest);
    let problems = env.verify().problems;
    assert!(problems.len() == 1 && problems[0].what.contains("says other things"), "{problems:?}");
    assert_eq!(env.repair().problems[0].repaired, Some("brief removed"));
    assert_eq!(load(&env, &made).unwrap().manifest(), &made.manifest);
    assert_eq!(current(&env, &made.image).unwrap(), brief);
    assert_eq!(env.verify().problems, []);
}

#[test]
fn a_brief_that_is_damaged_cut_missing_or_of_another_version_is_written_anew() {
    let (env, made) = home();
    let path = brief_path(&env, &made.image);
    let good = fs::read(&path).unwrap();
    let mut ways: Vec<Vec<u8>> = [0, 1, 8, 255, good.len() / 2, good.len() - 1].map(|len| good[..len].to_vec()).to_vec();
    ways.extend((0..good.len()).step_by(29).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    }));
    let mut other_version = good.clone();
    other_version[8] = 9;
    ways.push(other_version);
    ways.push(b"{\"version\":1}".to_vec());
    for way in ways {
        fs::write(&path, &way).unwrap();
        let image = load(&env, &made).unwrap();
        assert_eq!((image.manifest(), image.statement().statement), (&made.manifest, made.statement));
        assert!(contents(image.code(common::ENGINE, common::TARGET, CpuLevel::V4).unwrap().file()).len() > 100_000);
        let written = Brief::parse(&fs::read(&path).unwrap(), &made.image).unwrap();
        assert_eq!((written.manifest, written.keys), (made.manifest.clone(), vec![Some(env.key.public())]));
    }
    fs::remove_file(&path).unwrap();
    load(&env, &made).unwrap();
    assert!(current(&env, &made.image).is_some());
    // Another image's brief is none of this one.
    let other = env.image("other");
    fs::copy(brief_path(&env, &other.image), &path).unwrap();
    assert_eq!(load(&env, &made).unwrap().manifest(), &made.manifest);
}

#[test]
fn damage_to_a_brief_is_found_by_verify() {
    let (env, made) = home();
    let path = brief_path(&env, &made.image);
    let good = fs::read(&path).unwrap();
    for at in (12..good.len()).step_by(37) {
        let mut bytes = good.clone();
        bytes[at] ^= 16;
        fs::write(&path, bytes).unwrap();
        assert_eq!(env.verify().problems.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [&path], "byte {at}");
    }
    assert_eq!(env.repair().problems[0].repaired, Some("brief removed"));
    assert_eq!(env.verify().problems, []);
}

/// An entry that was changed without its brief, as an older preheat would: the brief counts no more.
#[test]
fn a_brief_of_an_entry_as_it_was_before_does_not_count() {
    let (env, made) = home();
    let path = brief_path(&env, &made.image);
    let old = fs::read(&path).unwrap();
    let entry = env.record_path("entries", &made.image);
    let text = fs::read_to_string(&entry).unwrap();
    // Replaced by one that knows of no statement.
    let empty = preheat_image::record::Record::new(made.image).to_bytes();
    let beside = entry.with_extension("new");
    fs::write(&beside, &empty).unwrap();
    fs::rename(&beside, &entry).unwrap();
    assert_eq!(refusal(&env, &made), Refusal::NoStatement);
    // Put back, and changed in place.
    fs::write(&entry, &text).unwrap();
    load(&env, &made).unwrap();
    change(&entry, |bytes| *bytes = text.replace(&env.key.public().id().to_string(), &Digest::of(b"somebody").to_string()).into_bytes());
    fs::write(&path, &old).unwrap();
    assert!(matches!(refusal(&env, &made), Refusal::UnknownSigner(_)));
    // Damaged: an error, as without a brief.
    change(&entry, |bytes| bytes.truncate(100));
    fs::write(&path, &old).unwrap();
    assert!(matches!(load(&env, &made), Err(StoreError::Format { .. })));
    fs::remove_file(&entry).unwrap();
    fs::write(&path, &old).unwrap();
    assert!(matches!(load(&env, &made), Err(StoreError::Missing(digest)) if digest == made.image));
}

#[test]
fn a_manifest_that_was_written_or_removed_since_is_noticed_beside_a_good_brief() {
    let (env, made) = home();
    let manifest = env.store.blob_path(&made.image);
    common::flip(&manifest, 20);
    assert!(matches!(load(&env, &made), Err(StoreError::Damaged { digest, .. }) if digest == made.image));
    common::flip(&manifest, 20);
    // As good as before, and known to be so from then on.
    load(&env, &made).unwrap();
    let brief = current(&env, &made.image).unwrap();
    assert_eq!(brief.record.seals[&made.image].ctime % 1_000_000_000, fs::metadata(&manifest).unwrap().ctime_nsec());
    fs::remove_file(&manifest).unwrap();
    assert!(matches!(load(&env, &made), Err(StoreError::Missing(digest)) if digest == made.image));
}

#[test]
fn what_is_revoked_or_no_longer_trusted_is_refused_at_once_whatever_the_brief_says() {
    let (env, made) = home();
    load(&env, &made).unwrap();
    let before = current(&env, &made.image).unwrap();
    let revoke = |change: &dyn Fn(&mut preheat_loader::TrustPolicy)| {
        let good = env.policy();
        env.home
            .change_trust(|policy| {
                change(policy);
                Ok::<_, StoreError>(())
            })
            .unwrap();
        let refusal = refusal(&env, &made);
        env.home
            .change_trust(|policy| {
                *policy = good;
                Ok::<_, StoreError>(())
            })
            .unwrap();
        load(&env, &made).unwrap();
        refusal
    };
    let id = env.key.public().id();
    let inserted = |inserted: bool| assert!(inserted);
    assert_eq!(revoke(&|policy| policy.builders.clear()), Refusal::UnknownSigner(id));
    assert_eq!(revoke(&|policy| policy.builders[0].key = SecretKey::from_seed([9; 32]).public()), Refusal::UnknownSigner(id));
    assert!(matches!(revoke(&|policy| policy.builders[0].namespaces = vec!["other".into()]), Refusal::WrongNamespace { .. }));
    assert!(matches!(revoke(&|policy| policy.builders[0].expires = Some(1)), Refusal::Expired { .. }));
    assert_eq!(revoke(&|policy| inserted(policy.revoked.keys.insert(id))), Refusal::RevokedKey(id));
    assert_eq!(revoke(&|policy| inserted(policy.revoked.build_ids.insert("build-1".into()))), Refusal::RevokedBuild("build-1".into()));
    assert_eq!(revoke(&|policy| inserted(policy.revoked.sources.insert(Digest::of(b"app")))), Refusal::RevokedSource(Digest::of(b"app")));
    for blob in [made.image, made.code(), Digest::of(b"archive")] {
        assert_eq!(revoke(&|policy| inserted(policy.revoked.blobs.insert(blob))), Refusal::RevokedBlob(blob));
    }
    assert_eq!(current(&env, &made.image).unwrap(), before, "it was the same brief all the time");
}

#[test]
fn a_statement_that_comes_later_is_in_the_brief() {
    let (env, made) = home();
    let second = SecretKey::from_seed([7; 32]);
    Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") }.publish(&env.store, &second).unwrap();
    let brief = current(&env, &made.image).unwrap();
    assert_eq!(brief.record.statements.len(), 2);
    // Only the key with which the second was let in was at hand.
    let known: Vec<_> = brief.keys.iter().flatten().cloned().collect();
    assert_eq!(known, [second.public()]);
    let alone = preheat_loader::TrustPolicy::trusting("second", second.public());
    assert_eq!(env.store.load(&made.image, &alone, LoadOptions::default()).unwrap().statement().signer, second.public().id());
    assert_eq!(load(&env, &made).unwrap().statement().signer, env.key.public().id());
}

#[test]
fn a_use_that_is_noted_keeps_the_brief() {
    let (env, made) = home();
    let entry = env.record_path("entries", &made.image);
    let old = SystemTime::now() - Duration::from_secs(7200);
    fs::File::open(&entry).unwrap().set_modified(old).unwrap();
    assert!(current(&env, &made.image).is_none());
    load(&env, &made).unwrap();
    assert!(fs::metadata(&entry).unwrap().modified().unwrap() > old + Duration::from_secs(3600));
    assert!(current(&env, &made.image).is_some());
}

#[test]
fn briefs_go_with_their_images() {
    let (env, made) = home();
    let kept = env.image("kept");
    env.store.pin(&kept.image, true).unwrap();
    env.store.collect(&Collection::default()).unwrap();
    assert!(!brief_path(&env, &made.image).exists() && brief_path(&env, &kept.image).exists());
    assert!(load(&env, &made).unwrap_err().is_missing());
    assert_eq!(env.run(&kept.image).unwrap(), b"code of kept");
}

#[test]
fn a_store_without_room_for_briefs_loads_all_the_same() {
    let (env, made) = home();
    // No directory can be made where a file is.
    let path = brief_path(&env, &made.image);
    let shard = path.parent().unwrap();
    fs::remove_dir_all(shard).unwrap();
    fs::write(shard, b"").unwrap();
    for _ in 0..2 {
        assert_eq!(load(&env, &made).unwrap().manifest(), &made.manifest);
        assert!(run(&env.store, &env.policy(), &made.image, LoadOptions::default()).is_ok());
    }
    let again = env.publish(&Recipe { others: vec![(CDS, b"archive".to_vec())], ..Recipe::large("app") });
    assert_eq!(again.image, made.image);
    assert_eq!(fs::read_dir(env.store.root().join("tmp")).unwrap().count(), 0, "nothing is left behind");
    assert_eq!(env.verify().problems, []);
}
