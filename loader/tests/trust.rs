//! Roots, revocation lists, names and keys of a home, played against by whoever would like to be trusted.

mod common;

use common::{Env, Recipe, change, run};
use preheat_image::Digest;
use preheat_image::keys::{SecretKey, Signer as _};
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::signed::SignedError;
use preheat_loader::trust::{Builder, Refusal, Stale, now};
use preheat_loader::{Home, KeyFile, LoadOptions, NewRoot, StoreError, TrustError, TrustUpdate};
use std::collections::BTreeSet;

const HOST: &str = "cache.example:8080";
const YEAR: u64 = 365 * 86_400;

const BUILDER: u8 = 101;
const NAMER: u8 = 102;
const REVOKER: u8 = 103;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn root(number: u64, keys: &[u8]) -> Root {
    let delegation = |role, seed, namespace: &str| Delegation {
        role,
        name: format!("key {seed}"),
        key: key(seed).public(),
        namespaces: vec![namespace.into()],
        expires: now() + YEAR,
    };
    Root {
        version: 1,
        installation: "acme".into(),
        number,
        issued: now(),
        expires: now() + YEAR,
        threshold: 2,
        keys: keys.iter().map(|seed| key(*seed).public()).collect(),
        delegations: vec![
            delegation(Role::Builder, BUILDER, "default"),
            delegation(Role::Namer, NAMER, "team"),
            delegation(Role::Revoker, REVOKER, "*"),
        ],
    }
}

fn signed(root: Root, seeds: &[u8]) -> Vec<u8> {
    seeds.iter().fold(SignedRoot::new(root).unwrap(), |root, seed| root.sign(&key(*seed)).unwrap()).to_bytes()
}

fn revocations(number: u64, expires: u64, build_ids: &[&str], seed: u8) -> Vec<u8> {
    let list = RevocationList {
        version: 1,
        installation: "acme".into(),
        number,
        issued: now(),
        expires,
        build_ids: build_ids.iter().map(|id| (*id).to_owned()).collect(),
        ..RevocationList::default()
    };
    SignedRevocations::new(list).unwrap().sign(&key(seed)).unwrap().to_bytes()
}

fn asked() -> NewRoot {
    NewRoot { name: None, hosts: vec![HOST.into()], stale: Stale::Refuse, fingerprint: None }
}

/// A home that trusts the first root of an installation, and has an image by its builder.
struct Installed {
    env: Env,
    id: Digest,
    image: Digest,
}

fn installed() -> Installed {
    let env = Env::new();
    let id = env.home.add_root(&asked(), &signed(root(1, &[1, 2, 3]), &[1, 2]), now()).unwrap().entry.id;
    let image = Recipe::new("app").publish(&env.store, &key(BUILDER)).unwrap().image;
    Installed { env, id, image }
}

impl Installed {
    fn load(&self) -> Result<Vec<u8>, StoreError> {
        run(&self.env.store, &self.env.policy(), &self.image, LoadOptions::default())
    }

    fn refusal(&self) -> Refusal {
        match self.load() {
            Err(StoreError::Refused { refusal, .. }) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn revoke(&self, number: u64, expires: u64, build_ids: &[&str]) -> Result<(), TrustError> {
        self.env.home.update_revocations(&self.id, &revocations(number, expires, build_ids, REVOKER), now()).map(drop)
    }
}

#[track_caller]
fn assert_not_next<T: std::fmt::Debug>(result: Result<T, TrustError>) {
    assert!(matches!(result, Err(TrustError::Signed(SignedError::NotNext { .. }))), "{result:?}");
}

#[track_caller]
fn assert_too_few<T: std::fmt::Debug>(result: Result<T, TrustError>) {
    assert!(matches!(result, Err(TrustError::Signed(SignedError::TooFewSignatures { .. }))), "{result:?}");
}

#[test]
fn a_roots_builder_counts_once_its_revocations_are_known_and_revoking_a_build_stops_it() {
    let home = installed();
    assert!(matches!(home.refusal(), Refusal::StaleRevocations { expires: None, .. }));
    assert!(home.refusal().to_string().contains("preheat trust update"));
    home.revoke(1, now() + 3600, &[]).unwrap();
    assert_eq!(home.load().unwrap(), b"code of app");
    home.revoke(2, now() + 3600, &["build-1"]).unwrap();
    assert_eq!(home.refusal(), Refusal::RevokedBuild("build-1".into()));
    // And for what was built here as well.
    let own = home.env.image("own").image;
    let error = run(&home.env.store, &home.env.policy(), &own, LoadOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Refused { refusal: Refusal::RevokedBuild(_), .. }), "{error}");
}

#[test]
fn stale_revocations_are_refused_unless_somebody_allowed_them() {
    let home = installed();
    home.revoke(1, now() - 1, &[]).unwrap();
    assert!(matches!(home.refusal(), Refusal::StaleRevocations { expires: Some(_), .. }));
    home.env
        .home
        .change_trust(|policy| {
            policy.roots[0].stale = Stale::Allow;
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(home.load().unwrap(), b"code of app");
    assert_eq!(home.env.run(&home.env.image("own").image).unwrap(), b"code of own", "what no root delegates needs no list");
}

#[test]
fn a_root_is_taken_over_only_with_enough_keys_of_both() {
    let home = installed();
    let update = |chain: &[Vec<u8>]| home.env.home.update_root(&home.id, chain);
    let evil = |number| Root { threshold: 1, ..root(number, &[66]) };
    assert_too_few(update(&[signed(evil(2), &[66])]));
    assert_too_few(update(&[signed(evil(2), &[66, 1])]));
    assert_too_few(update(&[signed(root(2, &[4, 5, 6]), &[4, 5])]));
    assert_not_next(update(&[signed(root(3, &[1, 2, 3]), &[1, 2])]));
    // One that was signed by too few of the old does not become good behind one that was not.
    assert_too_few(update(&[signed(root(2, &[1, 2, 4]), &[1, 2]), signed(evil(3), &[66])]));
    assert_eq!(home.env.policy().roots[0].number, 2, "what did follow is kept");
    let evil_builder =
        Root { delegations: vec![Delegation { key: key(66).public(), ..root(1, &[1]).delegations[0].clone() }], ..root(3, &[1, 2, 4]) };
    assert_too_few(update(&[signed(evil_builder, &[1])]));
    assert!(home.env.policy().builders.iter().all(|builder| builder.key != key(66).public()));
    // Somebody shows what is known again: nothing changes. Somebody shows the first one: nobody goes back.
    let before = home.env.policy();
    update(&[signed(root(1, &[1, 2, 3]), &[1, 2]), signed(root(2, &[1, 2, 4]), &[1, 2])]).unwrap();
    assert_eq!(home.env.policy(), before);
    // The key that left has no say any more.
    assert_too_few(update(&[signed(root(3, &[1, 2, 4]), &[1, 3])]));
    update(&[signed(root(3, &[1, 4, 5]), &[1, 4])]).unwrap();
    assert_eq!(home.env.home.trusted_root("acme").unwrap().root.number, 3);
}

#[test]
fn a_root_that_no_longer_delegates_a_builder_ends_it() {
    let home = installed();
    home.revoke(1, now() + 3600, &[]).unwrap();
    let mut next = root(2, &[1, 2, 3]);
    next.delegations.remove(0);
    let update = TrustUpdate { roots: vec![signed(next, &[2, 3])], revocations: None };
    home.env.home.update_trust(&home.id, &update, now()).unwrap();
    assert_eq!(home.refusal(), Refusal::UnknownSigner(key(BUILDER).public().id()));
    assert_eq!(home.env.run(&home.env.image("own").image).unwrap(), b"code of own");
}

#[test]
fn an_expired_root_ends_its_builders_and_can_still_be_followed() {
    let home = installed();
    home.revoke(1, now() + 3600, &[]).unwrap();
    let old = Root { expires: now() - 10, ..root(2, &[1, 2, 3]) };
    home.env.home.update_root(&home.id, &[signed(old, &[1, 2])]).unwrap();
    assert!(matches!(home.refusal(), Refusal::RootExpired { .. }));
    home.env.home.update_root(&home.id, &[signed(root(3, &[1, 2, 3]), &[1, 2])]).unwrap();
    assert_eq!(home.load().unwrap(), b"code of app");
    let fresh = Env::new();
    let old = Root { expires: now() - 10, ..root(1, &[1, 2, 3]) };
    assert!(matches!(fresh.home.add_root(&asked(), &signed(old, &[1, 2]), now()), Err(TrustError::Signed(SignedError::Expired { .. }))));
}

#[test]
fn a_root_is_pinned_only_if_it_is_the_one_that_was_meant() {
    let env = Env::new();
    let bytes = signed(root(1, &[1, 2, 3]), &[1, 2]);
    let before = env.policy();
    let expecting = NewRoot { fingerprint: Some(Digest::of(b"another")), ..asked() };
    assert!(matches!(env.home.add_root(&expecting, &bytes, now()), Err(TrustError::Fingerprint { .. })));
    assert_too_few(env.home.add_root(&asked(), &signed(root(1, &[1, 2, 3]), &[1]), now()));
    for bad in ["../x", "a/b", "", "host:0", "..", "HOST@x"] {
        let asked = NewRoot { hosts: vec![bad.into()], ..asked() };
        assert!(matches!(env.home.add_root(&asked, &bytes, now()), Err(TrustError::Usage(_))), "{bad}");
    }
    assert_eq!(env.policy(), before, "nothing of that is trusted");
    let trusted = env.home.add_root(&asked(), &bytes, now()).unwrap();
    assert_eq!(trusted.entry.id, SignedRoot::parse(&bytes).unwrap().digest());
    assert!(matches!(env.home.add_root(&asked(), &bytes, now()), Err(TrustError::Known(_))));
    let other = NewRoot { name: Some("other".into()), ..asked() };
    let second = signed(root(1, &[7, 8, 9]), &[7, 8]);
    assert!(matches!(env.home.add_root(&other, &second, now()), Err(TrustError::HostTaken { .. })));
    assert!(matches!(env.home.remove_builder("key 101"), Err(TrustError::Usage(what)) if what.contains("acme")));
    // Removing takes all that came with it, and nothing else.
    env.home.remove_root("acme").unwrap();
    assert_eq!(env.policy(), before);
    assert!(env.home.root_of_host(HOST).unwrap().is_none());
    assert!(matches!(env.home.remove_root("acme"), Err(TrustError::Unknown(_))));
}

#[test]
fn revocations_are_only_a_revokers_and_never_go_back() {
    let home = installed();
    let update = |bytes: &[u8]| home.env.home.update_revocations(&home.id, bytes, now());
    for seed in [BUILDER, NAMER, 66, 1] {
        assert_too_few(update(&revocations(1, now() + 60, &[], seed)));
    }
    update(&revocations(5, now() + 60, &["bad"], REVOKER)).unwrap();
    assert_not_next(update(&revocations(4, now() + 6000, &["bad"], REVOKER)));
    assert_not_next(update(&revocations(6, now() + 6000, &[], REVOKER)));
    assert_not_next(update(&revocations(5, now() + 6000, &["bad", "worse"], REVOKER)));
    // Enough keys of the root can revoke as well, should the revoker's be lost.
    let list =
        RevocationList { number: 6, ..SignedRevocations::parse(&revocations(5, now() + 60, &["bad"], 1)).unwrap().unverified().clone() };
    let by_root = [2, 3].iter().fold(SignedRevocations::new(list.clone()).unwrap(), |list, seed| list.sign(&key(*seed)).unwrap());
    update(&by_root.to_bytes()).unwrap();
    let elsewhere = SignedRevocations::new(RevocationList { installation: "other".into(), number: 7, ..list }).unwrap();
    assert_not_next(update(&elsewhere.sign(&key(REVOKER)).unwrap().to_bytes()));
    assert!(update(b"junk").is_err());
}

#[test]
fn what_people_revoke_survives_updates_and_what_roots_revoke_goes_with_them() {
    let home = installed();
    home.env
        .home
        .change_trust(|policy| {
            policy.revoked.build_ids.insert("by hand".into());
            Ok::<_, StoreError>(())
        })
        .unwrap();
    home.revoke(1, now() + 60, &["by root"]).unwrap();
    home.revoke(2, now() + 60, &["by root", "by root too"]).unwrap();
    let policy = home.env.policy();
    assert!(["by hand", "by root", "by root too"].iter().all(|id| policy.revokes_build(id)));
    assert_eq!(policy.revoked.build_ids, BTreeSet::from(["by hand".to_owned()]));
    home.env.home.remove_root("acme").unwrap();
    let policy = home.env.policy();
    assert!(policy.revokes_build("by hand") && !policy.revokes_build("by root"));
}

fn names(number: u64, label: &str) -> SignedNames {
    let mut names = Names { number, previous: (number > 1).then(|| Digest::of(b"before")), ..Names::first("team", now(), now() + 60) };
    names.set(MoveKind::Push, "app:v1", Some(Digest::of(label.as_bytes()))).unwrap();
    SignedNames::new(names).unwrap().sign(&key(NAMER)).unwrap()
}

#[test]
fn names_are_a_namers_and_neither_old_nor_frozen() {
    let home = installed();
    let accept = |names: &SignedNames| home.env.home.accept_names(HOST, "team", &names.to_bytes(), now());
    assert_eq!(home.env.home.known_names(HOST, "team").unwrap(), None);
    accept(&names(5, "a")).unwrap();
    accept(&names(5, "a")).unwrap();
    assert_not_next(accept(&names(4, "old")));
    assert_not_next(accept(&names(5, "another")));
    assert_not_next(accept(&names(6, "of another history")));
    accept(&names(7, "b")).unwrap();
    assert_eq!(home.env.home.known_names(HOST, "team").unwrap(), Some(names(7, "b")));
    // By the builder's key, by a key of nobody, for a namespace that the namer has not, at a host without a root, after its end.
    let by = |seed| SignedNames::new(names(8, "c").unverified().clone()).unwrap().sign(&key(seed)).unwrap();
    assert_too_few(accept(&by(BUILDER)));
    assert_too_few(accept(&by(66)));
    assert_too_few(home.env.home.accept_names(HOST, "default", &names(8, "c").to_bytes(), now()));
    assert!(matches!(home.env.home.accept_names("other.example", "team", &names(8, "c").to_bytes(), now()), Err(TrustError::NoRoot(_))));
    let late = home.env.home.accept_names(HOST, "team", &names(8, "c").to_bytes(), now() + 61);
    assert!(matches!(late, Err(TrustError::Signed(SignedError::Expired { .. }))), "{late:?}");
    for (host, namespace) in [("../x", "team"), (HOST, ".."), (HOST, "a/b"), ("", "team")] {
        assert!(matches!(home.env.home.known_names(host, namespace), Err(TrustError::Usage(_))), "{host} {namespace}");
    }
    // Damage is no way back.
    change(&home.env.dir.path().join("trust/names").join(HOST).join("team.json"), |bytes| bytes.truncate(40));
    assert!(accept(&names(1, "first")).is_err());
}

#[test]
fn names_by_a_key_that_is_revoked_do_not_count() {
    let home = installed();
    let accept = |names: &SignedNames| home.env.home.accept_names(HOST, "team", &names.to_bytes(), now());
    accept(&names(5, "a")).unwrap();
    let revoked = |number, end| {
        let list = SignedRevocations::parse(&revocations(number, end, &[], REVOKER)).unwrap();
        let list = RevocationList { keys: BTreeSet::from([key(NAMER).public().id()]), ..list.unverified().clone() };
        SignedRevocations::new(list).unwrap().sign(&key(REVOKER)).unwrap().to_bytes()
    };
    home.env.home.update_revocations(&home.id, &revoked(1, now() + 60), now()).unwrap();
    assert_too_few(accept(&names(6, "b")));
    assert_too_few(accept(&names(5, "a")));
    assert_too_few(home.env.home.verify_names(HOST, "team", &names(5, "a"), now()));
}

#[test]
fn the_highest_number_wins_however_many_remember_at_once() {
    let env = Env::new();
    std::thread::scope(|scope| {
        for start in 0..4u64 {
            let home = &env.home;
            scope.spawn(move || {
                for step in 0..10 {
                    // Every other number, so that none has to follow another directly.
                    let number = 2 + 2 * ((step * 4 + start * 7) % 40);
                    let _ = home.remember_names(HOST, "team", &names(number, "x"));
                    let known = home.known_names(HOST, "team").unwrap().unwrap();
                    assert!(known.unverified().number >= number);
                }
            });
        }
    });
    let highest = (0..4).flat_map(|start| (0..10).map(move |step| 2 + 2 * ((step * 4 + start * 7) % 40))).max().unwrap();
    assert_eq!(env.home.known_names(HOST, "team").unwrap().unwrap().unverified().number, highest);
}

#[test]
fn a_builder_of_another_namespace_or_whose_time_is_over_or_whose_key_is_revoked_does_not_count() {
    let env = Env::new();
    let made = Recipe { namespace: "prod".into(), ..Recipe::new("app") }.publish(&env.store, &key(50)).unwrap();
    let refusal = || match run(&env.store, &env.policy(), &made.image, LoadOptions::default()) {
        Err(StoreError::Refused { refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    let id = key(50).public().id();
    assert_eq!(refusal(), Refusal::UnknownSigner(id));
    env.home.add_builder(Builder::new("pr", key(50).public(), &["pr"])).unwrap();
    assert_eq!(refusal(), Refusal::WrongNamespace { signer: id, namespace: "prod".into() });
    assert!(matches!(env.home.add_builder(Builder::new("pr", key(51).public(), &["prod"])), Err(TrustError::Known(_))));
    assert!(matches!(env.home.add_builder(Builder::new("x", key(51).public(), &["a/b"])), Err(TrustError::Usage(_))));
    env.home.remove_builder("pr").unwrap();
    env.home.add_builder(Builder { expires: Some(now() - 1), ..Builder::new("ci", key(50).public(), &["prod"]) }).unwrap();
    assert!(matches!(refusal(), Refusal::Expired { .. }));
    env.home.remove_builder(&id.to_string()).unwrap();
    env.home.add_builder(Builder { expires: Some(now() + 60), ..Builder::new("ci", key(50).public(), &["prod"]) }).unwrap();
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
    env.home
        .change_trust(|policy| {
            policy.revoked.keys.insert(id);
            Ok::<_, StoreError>(())
        })
        .unwrap();
    assert_eq!(refusal(), Refusal::RevokedKey(id));
}

#[test]
fn an_image_in_use_is_judged_again() {
    let env = Env::new();
    let made = env.image("app");
    let image = env.store.load(&made.image, &env.policy(), LoadOptions::default()).unwrap();
    let check = || image.check_at(&env.policy(), Some(&made.code()), now());
    assert_eq!(check(), Ok(()));
    env.home.rotate_key(&KeyFile::Secret(key(50)), 0, now()).unwrap();
    assert!(matches!(check(), Err(Refusal::Expired { .. })));
    // Built again by the new key: the same bytes, and a statement that entered since.
    assert_eq!(Recipe::new("app").publish(&env.store, &key(50)).unwrap().image, made.image);
    assert_eq!(check(), Ok(()));
    assert!(matches!(image.check_at(&env.policy(), Some(&Digest::of(b"other code")), now()), Err(Refusal::NotCovered(_))));
    let mut policy = env.policy();
    policy.revoked.blobs.insert(made.code());
    assert_eq!(image.check_at(&policy, None, now()), Err(Refusal::RevokedBlob(made.code())));
}

#[test]
fn keys_rotate_with_an_overlap() {
    let env = Env::new();
    let made = env.image("app");
    let rotated = env.home.rotate_key(&KeyFile::generate().unwrap(), 3600, now()).unwrap();
    assert_eq!(rotated.old, env.key.public());
    assert_eq!(env.home.builder_signer().unwrap().public(), rotated.new);
    assert_eq!(KeyFile::read(&rotated.retired).unwrap().public(), rotated.old);
    assert_eq!(env.run(&made.image).unwrap(), b"code of app");
    let record = env.store.entry(&made.image).unwrap().unwrap();
    let judge = |at| env.policy().judge_at(&record.statements[0], at);
    assert_eq!(judge(rotated.old_expires - 1), Ok(()));
    assert!(matches!(judge(rotated.old_expires), Err(Refusal::Expired { .. })));
    use std::os::unix::fs::PermissionsExt as _;
    for path in [rotated.retired, env.dir.path().join("keys/builder.json")] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let same = KeyFile::read(&env.dir.path().join("keys/builder.json")).unwrap();
    assert!(env.home.rotate_key(&same, 0, now()).is_err(), "a key does not follow itself");
}

#[test]
fn a_home_that_trusts_others_first_goes_on_to_trust_itself() {
    let dir = tempfile::tempdir().unwrap();
    let home = Home::at(dir.path());
    home.add_builder(Builder::new("ci", key(50).public(), &["*"])).unwrap();
    let own = home.builder_signer().unwrap().public();
    assert_eq!(home.trust().unwrap().builders.iter().map(|builder| &builder.key).collect::<Vec<_>>(), [&own, &key(50).public()]);
    assert_eq!(home.trust().unwrap().version, 1);
}
