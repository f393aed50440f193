//! Collection and eviction: what a name, a pin or the present leads to stays, whatever happens.

mod common;

use common::{CDS, Env, Made, Recipe, envelope, fields, files, reference};
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, Digest};
use preheat_loader::store::{Collected, Collection};
use preheat_loader::{LoadOptions, TrustPolicy};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, SystemTime};

fn gc(env: &Env) -> Collected {
    env.store.collect(&Collection::default()).unwrap()
}

/// Makes the last use of an image as long ago as `hours` say.
fn used(env: &Env, made: &Made, hours: u64) {
    let entry = fs::File::open(env.record_path("entries", &made.image)).unwrap();
    entry.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
}

fn is_there(env: &Env, made: &Made) -> bool {
    let there = env.store.entry(&made.image).unwrap().is_some();
    assert_eq!(there, env.run(&made.image).is_ok(), "there whole or not at all");
    there
}

#[test]
fn named_and_pinned_images_stay_and_the_rest_goes() {
    let env = Env::new();
    let (named, pinned, rest) = (env.image("named"), env.publish(&Recipe::large("pinned")), env.publish(&Recipe::large("rest")));
    env.store.tag(&reference("app"), &named.image).unwrap();
    env.store.pin(&pinned.image, true).unwrap();
    let before: u64 = env.store.blobs().unwrap().iter().map(|blob| blob.size).sum();
    let all = files(env.dir.path());

    let would = env.store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap();
    assert_eq!(files(env.dir.path()), all, "a dry run removes nothing");
    assert!([&named, &pinned, &rest].into_iter().all(|made| is_there(&env, made)));

    let did = gc(&env);
    assert_eq!(did, would);
    // Manifest, code, chunk list, two statements.
    assert_eq!((did.images, did.blobs, did.bytes + did.kept_bytes), (1, 5, before));
    assert!(is_there(&env, &named) && is_there(&env, &pinned) && !is_there(&env, &rest));
    assert_eq!(env.store.built(&rest.key).unwrap(), None, "who builds it again is not told that it is there");
    assert_eq!(env.image_digests().len(), 2);
    assert_eq!(env.store.blobs().unwrap().iter().map(|blob| blob.size).sum::<u64>(), did.kept_bytes);
    let report = env.verify();
    assert!(report.problems.is_empty() && !report.index_rebuilt);
    assert_eq!(gc(&env), Collected { kept_bytes: did.kept_bytes, ..Collected::default() }, "nothing is left for a second one");

    env.store.untag(&reference("app")).unwrap();
    env.store.pin(&pinned.image, false).unwrap();
    assert_eq!(gc(&env).kept_bytes, 0);
    assert_eq!(files(&env.store.root().join("blobs")), Vec::<std::path::PathBuf>::new());
    for dir in ["entries", "keys", "memo"] {
        assert_eq!(files(&env.store.root().join(dir)).len(), 0, "{dir}");
    }
}

#[test]
fn what_two_images_share_stays_with_the_second() {
    let env = Env::new();
    let shared = vec![(CpuLevel::V1, b"shared code".to_vec())];
    let recipe = |label| Recipe { code: shared.clone(), ..Recipe::new(label) };
    let (one, two) = (env.publish(&recipe("one")), env.publish(&recipe("two")));
    env.store.tag(&reference("two"), &two.image).unwrap();
    gc(&env);
    assert!(!is_there(&env, &one));
    assert_eq!(env.run(&two.image).unwrap(), b"shared code");
    assert_eq!(env.verify().problems, []);
}

#[test]
fn recently_used_images_may_stay() {
    let env = Env::new();
    let (old, new) = (env.image("old"), env.image("new"));
    used(&env, &old, 48);
    let day = Collection { keep_used_within: Duration::from_secs(24 * 3600), ..Collection::default() };
    env.store.collect(&day).unwrap();
    assert!(!is_there(&env, &old) && is_there(&env, &new));
    // Loading is using.
    used(&env, &new, 48);
    env.run(&new.image).unwrap();
    env.store.collect(&day).unwrap();
    assert!(is_there(&env, &new));
}

#[test]
fn leftovers_of_killed_writers_go() {
    let env = Env::new();
    let made = env.image("app");
    env.store.tag(&reference("app"), &made.image).unwrap();
    for name in [".tmp-1-0", ".tmp-4194304-17"] {
        fs::write(env.store.root().join("tmp").join(name), "half").unwrap();
    }
    // A process that now has the number of one that was killed is not held up by what that left.
    fs::write(env.store.root().join("tmp").join(format!(".tmp-{}-0", std::process::id())), "half").unwrap();
    env.store.tag(&reference("app:2"), &made.image).unwrap();
    assert_eq!(env.verify().temp_files, 3);
    assert_eq!(env.verify().problems, [], "they are no damage");
    assert_eq!(env.store.collect(&Collection { dry_run: true, ..Collection::default() }).unwrap().temp_files, 3);
    assert_eq!(gc(&env).temp_files, 3);
    assert_eq!(env.verify().temp_files, 0);
    // A blob without any record of it, from a builder killed before it signed.
    env.store.publish().unwrap().put(CDS, b"orphan").unwrap();
    assert_eq!(gc(&env).blobs, 1);
    assert!(is_there(&env, &made));
}

#[test]
fn the_least_recently_used_goes_first_and_never_what_is_protected() {
    let env = Env::new();
    let big = |label: &str| Recipe { code: vec![(CpuLevel::V1, label.repeat(100_000 / label.len()).into_bytes())], ..Recipe::new(label) };
    let names = ["named", "pinned", "older", "old", "newer"];
    let made: BTreeMap<_, _> = names.iter().map(|label| (*label, env.publish(&big(label)))).collect();
    env.store.tag(&reference("app"), &made["named"].image).unwrap();
    env.store.pin(&made["pinned"].image, true).unwrap();
    for (label, hours) in [("named", 1000), ("pinned", 900), ("older", 50), ("old", 40), ("newer", 30)] {
        used(&env, &made[label], hours);
    }
    // Five are there, a sixth comes, and about four have room.
    env.store.set_max_bytes(Some(450_000)).unwrap();
    let just_built = env.publish(&big("just built"));
    let there = |label| is_there(&env, &made[label]);
    assert!(there("named") && there("pinned") && is_there(&env, &just_built));
    assert_eq!((there("older"), there("old"), there("newer")), (false, false, true));
    assert_eq!(env.verify().problems, []);
    // What was just built stays even if it alone is too much.
    env.store.set_max_bytes(Some(1)).unwrap();
    let alone = env.publish(&big("alone"));
    assert!(is_there(&env, &alone) && there("named") && there("pinned"));
    assert!(!there("newer") && !is_there(&env, &just_built));
    assert_eq!(env.image_digests().len(), 3);
    // A collection to a size keeps the same ones.
    env.store.set_max_bytes(None).unwrap();
    assert_eq!(env.store.max_bytes().unwrap(), None);
    let to_size = Collection { keep_used_within: Duration::MAX, max_bytes: Some(1), dry_run: false };
    assert_eq!(env.store.collect(&to_size).unwrap().images, 1);
    assert!(there("named") && there("pinned") && !is_there(&env, &alone));
    assert_eq!(env.verify().problems, []);
}

#[test]
fn shared_blobs_count_once_for_the_limit() {
    let env = Env::new();
    let shared = vec![(CpuLevel::V1, vec![7; 100_000])];
    let recipe = |label: &str| Recipe { code: shared.clone(), ..Recipe::new(label) };
    env.store.set_max_bytes(Some(150_000)).unwrap();
    for label in ["a", "b", "c", "d"] {
        env.publish(&recipe(label));
    }
    assert_eq!(env.image_digests().len(), 4, "together they are hardly more than one");
}

#[test]
fn nothing_goes_while_something_is_published() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let made = Recipe::new("app").put(&mut publication, &env.key).unwrap();
    std::thread::scope(|scope| {
        let collecting = scope.spawn(|| gc(&env));
        // Whether the collector waits already or comes later: the name is there before it may begin.
        env.store.tag(&reference("app"), &made.image).unwrap();
        publication.finish().unwrap();
        assert_eq!(collecting.join().unwrap().images, 0);
    });
    assert!(is_there(&env, &made));
}

#[test]
fn what_a_kept_statement_vouches_for_stays_too() {
    let env = Env::new();
    let mut publication = env.store.publish().unwrap();
    let made = Recipe::new("app").put(&mut publication, &env.key).unwrap();
    // A statement by another builder about the same image, and something beside it that has a statement of its own.
    let other = SecretKey::from_seed([9; 32]);
    let (image, beside) = (made.manifest.to_bytes(), publication.put(CDS, b"beside").unwrap());
    let outputs = vec![Descriptor::of(preheat_image::media::MANIFEST, &image), beside.clone()];
    publication.add_statement(&envelope(Kind::Image, "default", fields(Kind::Image, "app"), outputs, &other), &other.public()).unwrap();
    let own = envelope(Kind::CodeObject, "default", fields(Kind::CodeObject, "beside"), vec![beside], &other);
    publication.add_statement(&own, &other.public()).unwrap();
    publication.finish().unwrap();
    env.store.tag(&reference("app"), &made.image).unwrap();
    gc(&env);
    assert_eq!(env.verify().problems, []);
    assert_eq!(env.store.read_blob(&Digest::of(b"beside"), 100).unwrap(), b"beside");
    let policy = TrustPolicy::trusting("other", other.public());
    assert!(env.store.load(&made.image, &policy, LoadOptions::default()).is_ok());
}

#[test]
fn a_key_forgets_the_outputs_that_are_gone() {
    let env = Env::new();
    // Two outputs under one key, as two builders of one version may make them; only one of them is kept.
    let mut publication = env.store.publish().unwrap();
    let other = SecretKey::from_seed([9; 32]);
    let gone = Recipe { others: vec![(CDS, b"made elsewhere".to_vec())], ..Recipe::new("app") }.put(&mut publication, &other).unwrap();
    publication.finish().unwrap();
    let kept = env.image("app");
    assert_eq!(kept.key, gone.key);
    assert_eq!(env.store.built(&kept.key).unwrap().unwrap().statements.len(), 2);
    env.store.tag(&reference("app"), &kept.image).unwrap();
    gc(&env);
    let record = env.store.built(&kept.key).unwrap().unwrap();
    assert_eq!(record.statements.iter().map(|signed| signed.outputs[0].digest).collect::<Vec<_>>(), [kept.image]);
    assert_eq!(env.verify().problems, []);
}

#[test]
fn after_a_repair_a_collection_leaves_a_whole_store() {
    let env = Env::new();
    let shared = vec![(CpuLevel::V1, b"shared code".to_vec())];
    let made = env.publish(&Recipe { code: shared, ..Recipe::new("app") });
    env.store.tag(&reference("app"), &made.image).unwrap();
    // The record about the code goes; the key under which it was built still leads to it.
    common::change(&env.record_path("entries", &made.code()), |bytes| bytes.truncate(10));
    assert_eq!(env.repair().problems.len(), 1);
    gc(&env);
    assert_eq!(env.verify().problems, []);
    assert_eq!(env.run(&made.image).unwrap(), b"shared code");
}

#[test]
fn a_named_image_whose_manifest_is_damaged_keeps_its_code() {
    let env = Env::new();
    let made = env.image("app");
    env.store.tag(&reference("app"), &made.image).unwrap();
    common::flip(&env.store.blob_path(&made.image), 9);
    gc(&env);
    assert!(env.store.blob_path(&made.code()).exists(), "what took long to compile is not lost with it");
    assert_eq!(env.repair().problems.iter().filter(|problem| problem.repaired.is_none()).count(), 0);
    assert_eq!(env.verify().problems, []);
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8),
    Tag(u8, u8),
    Untag(u8),
    Pin(u8, bool),
    Gc,
    GcTo(u16),
    Limit(Option<u16>),
    Load(u8),
    LoseIndex,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6).prop_map(Step::Put),
        3 => (0u8..3, 0u8..6).prop_map(|(name, image)| Step::Tag(name, image)),
        1 => (0u8..3).prop_map(Step::Untag),
        1 => (0u8..6, any::<bool>()).prop_map(|(image, pinned)| Step::Pin(image, pinned)),
        1 => Just(Step::Gc),
        1 => (0u16..20_000).prop_map(Step::GcTo),
        1 => proptest::option::of(0u16..20_000).prop_map(Step::Limit),
        1 => (0u8..6).prop_map(Step::Load),
        1 => Just(Step::LoseIndex),
    ]
}

/// Image `number`: 3000 bytes of its own, and code that it shares with every third other.
fn recipe(number: u8) -> Recipe {
    let code = vec![(CpuLevel::V1, vec![number % 3; 3000]), (CpuLevel::V2, vec![100 + number; 3000])];
    Recipe { code, ..Recipe::new(&number.to_string()) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_named_and_pinned_images_load(steps in proptest::collection::vec(step(), 1..16)) {
        let env = Env::new();
        let policy = env.policy();
        let mut digests: BTreeMap<u8, Digest> = BTreeMap::new();
        let (mut names, mut pins) = (BTreeMap::new(), BTreeSet::new());
        for step in &steps {
            let there = |image: &u8| digests.get(image).filter(|digest| env.store.entry(digest).unwrap().is_some()).copied();
            match step {
                Step::Put(image) => {
                    let digest = env.publish(&recipe(*image)).image;
                    digests.insert(*image, digest);
                    prop_assert!(env.run(&digest).is_ok(), "just built");
                }
                Step::Tag(name, image) => {
                    if let Some(digest) = there(image) {
                        env.store.tag(&reference(&format!("n{name}")), &digest).unwrap();
                        names.insert(*name, digest);
                    }
                }
                Step::Untag(name) => {
                    let was = env.store.untag(&reference(&format!("n{name}"))).unwrap();
                    prop_assert_eq!(was, names.remove(name).is_some());
                }
                Step::Pin(image, pinned) => {
                    if let Some(digest) = there(image) {
                        env.store.pin(&digest, *pinned).unwrap();
                        if *pinned { pins.insert(digest) } else { pins.remove(&digest) };
                    }
                }
                Step::Gc => drop(gc(&env)),
                Step::GcTo(max) => {
                    let to_size = Collection { keep_used_within: Duration::MAX, max_bytes: Some((*max).into()), dry_run: false };
                    env.store.collect(&to_size).unwrap();
                }
                Step::Limit(max) => env.store.set_max_bytes(max.map(u64::from)).unwrap(),
                Step::Load(image) => {
                    if let Some(digest) = there(image) {
                        prop_assert!(env.run(&digest).is_ok());
                    }
                }
                Step::LoseIndex => drop(fs::remove_file(env.store.root().join("index.redb"))),
            }
            for digest in names.values().chain(&pins) {
                let image = env.store.load(digest, &policy, LoadOptions { rehash: true });
                prop_assert!(image.is_ok(), "{image:?} after {step:?}");
                let image = image.unwrap();
                for level in [CpuLevel::V1, CpuLevel::V2] {
                    prop_assert!(image.code(common::ENGINE, common::TARGET, level).is_ok());
                }
            }
        }
        for (name, digest) in &names {
            prop_assert_eq!(env.store.resolve(&reference(&format!("n{name}"))).unwrap(), *digest);
        }
        let report = env.verify();
        prop_assert_eq!(report.problems, []);
        prop_assert!(!report.index_rebuilt, "the index says what the files say");
    }
}
