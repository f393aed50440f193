//! A malicious service in front of an honest client: whatever it shows, nothing that is old, over, mixed or signed by others counts.

use crate::script::{Server, error, reply};
use preheat_cache_client::trust::{
    MAX_ROOT_STEPS, Namers, current_names, current_revocations, follow_roots, verify_names, verify_revocations,
};
use preheat_cache_client::{ClientError, trust::VerifiedNames};
use preheat_image::Digest;
use preheat_image::keys::{KeyId, PublicKey, SecretKey};
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::signed::SignedError;
use std::collections::BTreeSet;

const NOW: u64 = 1_000;
const NOBODY: &BTreeSet<KeyId> = &BTreeSet::new();

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn delegation(role: Role, seed: u8, namespace: &str, expires: u64) -> Delegation {
    Delegation { role, name: "x".into(), key: key(seed).public(), namespaces: vec![namespace.into()], expires }
}

/// Keys: 1 to 3 the root's, 11 a namer of `team`, 12 of `other`, 13 one whose time is over, 21 a revoker, 31 a builder.
fn root(number: u64) -> Root {
    Root {
        version: 1,
        installation: "here".into(),
        number,
        issued: 1,
        expires: 5_000,
        threshold: 2,
        keys: vec![key(1).public(), key(2).public(), key(3).public()],
        delegations: vec![
            delegation(Role::Namer, 11, "team", 5_000),
            delegation(Role::Namer, 12, "other", 5_000),
            delegation(Role::Namer, 13, "team", NOW),
            delegation(Role::Revoker, 21, "*", 5_000),
            delegation(Role::Builder, 31, "team", 5_000),
        ],
    }
}

fn sign_root(root: Root, seeds: &[u8]) -> SignedRoot {
    seeds.iter().fold(SignedRoot::new(root).unwrap(), |root, seed| root.sign(&key(*seed)).unwrap())
}

fn sign(names: Names, seed: u8) -> SignedNames {
    SignedNames::new(names).unwrap().sign(&key(seed)).unwrap()
}

fn first() -> SignedNames {
    sign(Names::first("team", 10, 2_000), 11)
}

fn next(old: &SignedNames, name: &str) -> SignedNames {
    let mut names = Names::after(old, 20, 2_000);
    names.set(MoveKind::Push, name, Some(Digest::of(name.as_bytes()))).unwrap();
    sign(names, 11)
}

fn verify(names: &SignedNames, known: Option<&SignedNames>) -> Result<VerifiedNames, SignedError> {
    let root = root(1);
    verify_names(names.clone(), "team", &Namers { root: Some(&root), keys: &[], revoked: NOBODY }, known, NOW)
}

#[test]
fn names_count_when_a_namer_of_the_namespace_signed_them() {
    assert_eq!(verify(&first(), None).unwrap().document(), &first());
    for seed in [1, 12, 13, 21, 31, 99] {
        let error = verify(&sign(Names::first("team", 10, 2_000), seed), None).unwrap_err();
        assert!(matches!(error, SignedError::TooFewSignatures { .. }), "{seed}: {error}");
    }
    let namers = |root, keys, revoked| Namers { root, keys, revoked };
    let keys: [PublicKey; 1] = [key(99).public()];
    let by_policy = sign(Names::first("team", 10, 2_000), 99);
    assert!(verify_names(by_policy.clone(), "team", &namers(None, &keys, NOBODY), None, NOW).is_ok());
    assert!(verify_names(by_policy.clone(), "team", &namers(None, &[], NOBODY), None, NOW).is_err());
    let revoked = BTreeSet::from([key(99).public().id(), key(11).public().id()]);
    assert!(verify_names(by_policy.clone(), "team", &namers(None, &keys, &revoked), None, NOW).is_err());
    let root = root(1);
    assert!(verify_names(first(), "team", &namers(Some(&root), &[], &revoked), None, NOW).is_err());
    // A root whose time is over vouches for nobody.
    let over = Root { expires: NOW, ..self::root(1) };
    assert!(matches!(verify_names(first(), "team", &namers(Some(&over), &[], NOBODY), None, NOW), Err(SignedError::Expired { .. })));
    assert!(verify_names(first(), "team", &namers(Some(&over), &keys, NOBODY), None, NOW).is_err());
    assert!(verify_names(by_policy, "team", &namers(Some(&over), &keys, NOBODY), None, NOW).is_ok());
}

#[test]
fn old_frozen_and_mixed_names_do_not_count() {
    let one = first();
    let two = next(&one, "a:v1");
    let three = next(&two, "b:v1");
    for (new, known) in [(&two, &one), (&three, &one), (&three, &three)] {
        assert!(verify(new, Some(known)).is_ok());
    }
    for (old, known) in [(&one, &two), (&two, &three), (&next(&one, "fork:v1"), &two), (&next(&next(&one, "fork:v1"), "b:v1"), &two)] {
        assert!(matches!(verify(old, Some(known)), Err(SignedError::NotNext { .. })));
    }
    let over = sign(Names { expires: NOW, ..Names::first("team", 10, 0) }, 11);
    assert!(matches!(verify(&over, None), Err(SignedError::Expired { .. })));
    // Signed by a namer of both, for the other namespace.
    let elsewhere = sign(Names::first("other", 10, 2_000), 12);
    let root = root(1);
    let keys = [key(12).public()];
    let namers = Namers { root: Some(&root), keys: &keys, revoked: NOBODY };
    assert!(matches!(verify_names(elsewhere, "team", &namers, None, NOW), Err(SignedError::NotNext { .. })));
}

#[tokio::test]
async fn a_service_can_neither_take_names_back_nor_lose_them() {
    let (one, two) = (first(), next(&first(), "a:v1"));
    let root = root(1);
    let namers = Namers { root: Some(&root), keys: &[], revoked: NOBODY };
    let bytes = one.to_bytes();
    let server = Server::start(move |_, _| reply(200, &[], &bytes)).await;
    let cache = server.cache();
    assert!(current_names(&cache, "team", &namers, Some(&one), NOW).await.unwrap().is_some());
    let older = current_names(&cache, "team", &namers, Some(&two), NOW).await.unwrap_err();
    assert!(matches!(&older, ClientError::Untrusted { source: SignedError::NotNext { .. }, .. }), "{older}");
    assert!(matches!(
        current_names(&cache, "team", &namers, Some(&one), 2_000).await,
        Err(ClientError::Untrusted { source: SignedError::Expired { .. }, .. })
    ));
    let empty = Server::start(|_, _| error(404, "no-names")).await;
    assert!(current_names(&empty.cache(), "team", &namers, None, NOW).await.unwrap().is_none());
    assert!(current_names(&empty.cache(), "team", &namers, Some(&one), NOW).await.is_err());
    // That they may not be seen does not say that there are none.
    let hidden = Server::start(|_, _| error(404, "no-namespace")).await;
    let unseen = current_names(&hidden.cache(), "team", &namers, None, NOW).await.unwrap_err();
    assert!(matches!(&unseen, ClientError::NotFound { code, .. } if code == "no-namespace"), "{unseen}");
}

fn error_404() -> crate::script::Reply {
    error(404, "not-found")
}

/// Serves these roots by number.
async fn roots(roots: Vec<SignedRoot>) -> Server {
    Server::start(move |seen, _| {
        let number: usize = seen.path.strip_prefix("/v1/root/").and_then(|number| number.parse().ok()).unwrap_or(0);
        number.checked_sub(1).and_then(|nth| roots.get(nth)).map_or_else(error_404, |root| reply(200, &[], &root.to_bytes()))
    })
    .await
}

#[tokio::test]
async fn roots_are_followed_step_by_step() {
    let changed = Root { keys: vec![key(2).public(), key(3).public(), key(4).public()], ..root(2) };
    let last = Root { keys: vec![key(3).public(), key(4).public(), key(5).public()], ..root(3) };
    let all = vec![sign_root(root(1), &[1, 2]), sign_root(changed, &[2, 3]), sign_root(last, &[3, 4])];
    let server = roots(all.clone()).await;
    let chain = follow_roots(&server.cache(), &root(1), NOW).await.unwrap();
    assert_eq!(chain.steps(), &all[1..]);
    assert_eq!(chain.newest(), Some(&all[2]));
    let chain = follow_roots(&server.cache(), all[2].unverified(), NOW).await.unwrap();
    assert!(chain.steps().is_empty() && chain.newest().is_none());
}

#[tokio::test]
async fn a_chain_with_a_bad_link_leads_nowhere() {
    let attacker = Root { keys: vec![key(91).public(), key(92).public()], ..root(2) };
    let skipped = sign_root(root(3), &[1, 2]);
    let elsewhere = Root { installation: "there".into(), ..root(2) };
    let over = Root { expires: NOW, ..root(2) };
    for second in [
        sign_root(attacker.clone(), &[91, 92]),
        sign_root(attacker, &[1, 91, 92]),
        sign_root(root(2), &[1]),
        sign_root(root(2), &[]),
        skipped,
        sign_root(elsewhere, &[1, 2]),
        sign_root(over, &[1, 2]),
    ] {
        let server = roots(vec![sign_root(root(1), &[1, 2]), second]).await;
        let error = follow_roots(&server.cache(), &root(1), NOW).await.unwrap_err();
        assert!(matches!(error, ClientError::Untrusted { .. } | ClientError::BadAnswer { .. }), "{error}");
    }
    // An old root that is over still hands over; frozen at it, it does not count.
    let old = Root { expires: NOW, ..root(1) };
    let server = roots(vec![sign_root(old.clone(), &[1, 2]), sign_root(root(2), &[1, 2])]).await;
    assert!(follow_roots(&server.cache(), &old, NOW).await.is_ok());
    let frozen = roots(vec![sign_root(old.clone(), &[1, 2])]).await;
    assert!(matches!(
        follow_roots(&frozen.cache(), &old, NOW).await,
        Err(ClientError::Untrusted { source: SignedError::Expired { .. }, .. })
    ));
}

#[tokio::test]
async fn a_chain_without_end_is_cut_off() {
    let server = Server::start(|seen, _| {
        let number = seen.path.strip_prefix("/v1/root/").and_then(|number| number.parse().ok()).unwrap_or(1);
        reply(200, &[], &sign_root(root(number), &[1, 2]).to_bytes())
    })
    .await;
    assert!(matches!(follow_roots(&server.cache(), &root(1), NOW).await, Err(ClientError::Untrusted { .. })));
    assert_eq!(server.seen().len(), MAX_ROOT_STEPS + 1);
}

fn list(number: u64, build_ids: &[&str]) -> RevocationList {
    RevocationList {
        version: 1,
        installation: "here".into(),
        number,
        issued: 1,
        expires: 2_000,
        build_ids: build_ids.iter().map(|id| (*id).to_owned()).collect(),
        ..RevocationList::default()
    }
}

fn sign_list(list: RevocationList, seeds: &[u8]) -> SignedRevocations {
    seeds.iter().fold(SignedRevocations::new(list).unwrap(), |list, seed| list.sign(&key(*seed)).unwrap())
}

#[test]
fn revocations_count_when_a_revoker_or_enough_of_the_root_signed_them() {
    let check = |list: &SignedRevocations, known| verify_revocations(list.clone(), &root(1), known, NOW);
    assert_eq!(check(&sign_list(list(1, &["a"]), &[21]), None).unwrap().list(), &list(1, &["a"]));
    assert!(check(&sign_list(list(1, &["a"]), &[1, 3]), None).is_ok());
    for seeds in [&[1][..], &[11], &[31], &[99], &[]] {
        assert!(matches!(check(&sign_list(list(1, &["a"]), seeds), None), Err(SignedError::TooFewSignatures { .. })), "{seeds:?}");
    }
    let elsewhere = RevocationList { installation: "there".into(), ..list(1, &[]) };
    assert!(matches!(check(&sign_list(elsewhere, &[21]), None), Err(SignedError::NotNext { .. })));
    let over = RevocationList { expires: NOW, ..list(1, &[]) };
    assert!(matches!(check(&sign_list(over, &[21]), None), Err(SignedError::Expired { .. })));
    let known = sign_list(list(3, &["a"]), &[21]);
    assert!(check(&sign_list(list(4, &["a", "b"]), &[21]), Some(&known)).is_ok());
    for old in [list(2, &["a"]), list(4, &["b"]), list(3, &["a", "b"])] {
        assert!(matches!(check(&sign_list(old, &[21]), Some(&known)), Err(SignedError::NotNext { .. })));
    }
    let old_root = Root { expires: NOW, ..root(1) };
    assert!(matches!(verify_revocations(known, &old_root, None, NOW), Err(SignedError::Expired { .. })));
}

#[tokio::test]
async fn a_service_can_neither_take_a_revocation_back_nor_lose_the_list() {
    let (old, new) = (sign_list(list(1, &["a"]), &[21]), sign_list(list(2, &["a", "b"]), &[21]));
    let bytes = old.to_bytes();
    let server = Server::start(move |_, _| reply(200, &[], &bytes)).await;
    assert!(current_revocations(&server.cache(), &root(1), Some(&old), NOW).await.unwrap().is_some());
    assert!(matches!(current_revocations(&server.cache(), &root(1), Some(&new), NOW).await, Err(ClientError::Untrusted { .. })));
    let empty = Server::start(|_, _| error_404()).await;
    assert!(current_revocations(&empty.cache(), &root(1), None, NOW).await.unwrap().is_none());
    assert!(current_revocations(&empty.cache(), &root(1), Some(&old), NOW).await.is_err());
}
