//! The root ceremony: making and following roots and revocation lists, offline. Nothing here reads a clock, draws a random number or looks
//! at the network: the same arguments make the same bytes, so that holders of keys can make what they sign themselves and compare it.

use crate::roots::TrustError;
use preheat_image::Digest;
use preheat_image::keys::{KeyId, PublicKey, Signer};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Delegation, Role, Root, SignedRoot};
use preheat_image::signed::{Document, SignedDocument};

/// The first root of an installation, without delegations and signatures.
///
/// # Errors
/// When the fields do not fit each other.
pub fn first_root(installation: &str, keys: Vec<PublicKey>, threshold: u32, now: u64, expires: u64) -> Result<SignedRoot, TrustError> {
    let (installation, delegations) = (installation.to_owned(), Vec::new());
    let root = Root { version: 1, installation, number: 1, issued: now, expires, threshold, keys, delegations };
    Ok(SignedRoot::new(root)?)
}

/// The root after `old`, changed by `change` and without signatures. A draft, which nobody has signed yet, keeps its number: there is nothing
/// that others could follow.
///
/// # Errors
/// What `change` says, or when the fields do not fit each other any more.
pub fn next_root(old: &SignedRoot, now: u64, change: impl FnOnce(&mut Root) -> Result<(), TrustError>) -> Result<SignedRoot, TrustError> {
    let mut root = old.unverified().clone();
    if old.signers().next().is_some() {
        root.number = root.number.saturating_add(1);
    }
    root.issued = now;
    change(&mut root)?;
    Ok(SignedRoot::new(root)?)
}

/// Adds a delegation; one of the same role to the same key is replaced.
///
/// # Errors
/// None so far; checked when the root is made.
pub fn delegate(root: &mut Root, delegation: Delegation) -> Result<(), TrustError> {
    root.delegations.retain(|known| known.role != delegation.role || known.key != delegation.key);
    root.delegations.push(delegation);
    Ok(())
}

/// Takes delegations back, by the holder's name or the id of the key.
///
/// # Errors
/// [`TrustError::Unknown`] when there is none.
pub fn withdraw(root: &mut Root, role: Option<Role>, holder: &str) -> Result<(), TrustError> {
    let before = root.delegations.len();
    let id = KeyId::parse(holder).ok();
    root.delegations
        .retain(|known| role.is_some_and(|role| role != known.role) || known.name != holder && id.is_none_or(|id| id != known.key.id()));
    if root.delegations.len() == before { Err(TrustError::Unknown(holder.to_owned())) } else { Ok(()) }
}

/// Exchanges keys of the root.
///
/// # Errors
/// [`TrustError::Unknown`] when a key that is to go is none of the root's.
pub fn rotate_keys(root: &mut Root, add: Vec<PublicKey>, remove: &[KeyId], threshold: Option<u32>) -> Result<(), TrustError> {
    if let Some(unknown) = remove.iter().find(|id| !root.keys.iter().any(|key| key.id() == **id)) {
        return Err(TrustError::Unknown(unknown.to_string()));
    }
    root.keys.retain(|key| !remove.contains(&key.id()));
    root.keys.extend(add);
    root.threshold = threshold.unwrap_or(root.threshold);
    Ok(())
}

/// What is to be revoked.
#[derive(Debug, Clone, Default)]
pub struct Revoke {
    /// Builders' keys.
    pub keys: Vec<KeyId>,
    /// Builds of compilers.
    pub build_ids: Vec<String>,
    /// Digests of Wasm sources.
    pub sources: Vec<Digest>,
    /// Digests of blobs.
    pub blobs: Vec<Digest>,
    /// For people: why.
    pub reason: Option<String>,
}

/// A revocation list with `revoke` in addition to what `old` has, without signatures. With nothing to revoke it is the old one, made fresh.
///
/// # Errors
/// When `old` is of another installation, or something can't be revoked.
pub fn revocations(
    installation: &str,
    old: Option<&SignedRevocations>,
    revoke: &Revoke,
    now: u64,
    expires: u64,
) -> Result<SignedRevocations, TrustError> {
    let mut list = match old {
        Some(old) => old.unverified().clone(),
        None => RevocationList { version: 1, installation: installation.to_owned(), ..RevocationList::default() },
    };
    if list.installation != installation {
        return Err(TrustError::Usage(format!(
            "the list is of `{}`, not of `{}`",
            list.installation.escape_default(),
            installation.escape_default()
        )));
    }
    list.number = list.number.saturating_add(1);
    (list.issued, list.expires) = (now, expires);
    if let Some(reason) = &revoke.reason {
        let keys = revoke.keys.iter().map(ToString::to_string);
        let digests = revoke.sources.iter().chain(&revoke.blobs).map(ToString::to_string);
        list.reasons.extend(keys.chain(digests).chain(revoke.build_ids.iter().cloned()).map(|what| (what, reason.clone())));
    }
    list.keys.extend(&revoke.keys);
    list.build_ids.extend(revoke.build_ids.iter().cloned());
    list.sources.extend(&revoke.sources);
    list.blobs.extend(&revoke.blobs);
    Ok(SignedRevocations::new(list)?)
}

/// Adds a signature. What was signed by others stays.
///
/// # Errors
/// When the signer fails.
pub fn sign<D: Document>(document: SignedDocument<D>, signer: &dyn Signer) -> Result<SignedDocument<D>, TrustError> {
    Ok(document.sign(signer)?)
}

/// How far the signing of a root has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatures {
    /// Keys of the set that have signed, and whose signature is good.
    pub good: Vec<KeyId>,
    /// Keys of the set whose signature is wrong.
    pub wrong: Vec<KeyId>,
    /// Keys of the set that have not signed.
    pub missing: Vec<KeyId>,
    /// How many must sign.
    pub threshold: u32,
}

impl Signatures {
    /// Whether enough have signed, and none wrongly.
    #[must_use]
    pub fn enough(&self) -> bool {
        self.wrong.is_empty() && self.good.len() >= self.threshold as usize
    }
}

/// Who of `keys` has signed `document`.
#[must_use]
pub fn signatures<D: Document>(document: &SignedDocument<D>, keys: &[PublicKey], threshold: u32) -> Signatures {
    let mut found = Signatures { good: Vec::new(), wrong: Vec::new(), missing: Vec::new(), threshold };
    for key in keys {
        let id = key.id();
        if !document.signers().any(|signer| signer == id) {
            found.missing.push(id);
        } else if document.verify([key], 1).is_ok() {
            found.good.push(id);
        } else {
            found.wrong.push(id);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use preheat_image::keys::SecretKey;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn first() -> SignedRoot {
        let keys = [1, 2, 3].map(|seed| key(seed).public()).to_vec();
        first_root("acme", keys, 2, 10, 1000).unwrap()
    }

    fn builder() -> Delegation {
        Delegation { role: Role::Builder, name: "ci".into(), key: key(9).public(), namespaces: vec!["team".into()], expires: 500 }
    }

    #[test]
    fn a_ceremony_from_the_first_root_to_a_changed_key() {
        let draft = next_root(&first(), 20, |root| delegate(root, builder())).unwrap();
        assert_eq!(draft.unverified().number, 1, "nobody has signed it yet");
        let one = sign(sign(draft, &key(1)).unwrap(), &key(3)).unwrap();
        assert_eq!(one.verify_first().unwrap().delegations, [builder()]);
        let change = |root: &mut Root| rotate_keys(root, vec![key(4).public()], &[key(1).public().id()], None);
        let two = next_root(&one, 30, change).unwrap();
        assert_eq!((two.unverified().number, two.signers().count()), (2, 0));
        let (old, new) = (one.unverified(), two.unverified().clone());
        let two = sign(two, &key(2)).unwrap();
        let missing = signatures(&two, &old.keys, old.threshold);
        assert_eq!((missing.enough(), missing.good, missing.missing.len()), (false, vec![key(2).public().id()], 2));
        assert!(two.verify_next(old).is_err());
        let two = sign(two, &key(3)).unwrap();
        assert!(signatures(&two, &new.keys, new.threshold).enough() && signatures(&two, &old.keys, old.threshold).enough());
        assert_eq!(two.verify_next(old).unwrap(), &new);
    }

    #[test]
    fn the_same_arguments_make_the_same_bytes() {
        let make = || {
            let root = next_root(&first(), 20, |root| delegate(root, builder())).unwrap();
            sign(root, &key(1)).unwrap().to_bytes()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn delegations_are_replaced_and_taken_back() {
        let longer = Delegation { expires: 900, ..builder() };
        let root = next_root(&first(), 20, |root| delegate(root, builder()).and_then(|()| delegate(root, longer.clone()))).unwrap();
        assert_eq!(root.unverified().delegations, [longer]);
        for holder in ["ci".to_owned(), key(9).public().id().to_string()] {
            let without = next_root(&root, 30, |root| withdraw(root, None, &holder)).unwrap();
            assert!(without.unverified().delegations.is_empty());
        }
        assert!(matches!(next_root(&root, 30, |root| withdraw(root, Some(Role::Namer), "ci")), Err(TrustError::Unknown(_))));
        assert!(matches!(next_root(&root, 30, |root| withdraw(root, None, "nobody")), Err(TrustError::Unknown(_))));
        let unknown = next_root(&root, 30, |root| rotate_keys(root, Vec::new(), &[key(9).public().id()], None));
        assert!(matches!(unknown, Err(TrustError::Unknown(_))));
        assert!(next_root(&root, 30, |root| rotate_keys(root, Vec::new(), &[], Some(4))).is_err(), "4 of 3 keys");
    }

    #[test]
    fn revocation_lists_grow_and_are_made_fresh() {
        let revoke = Revoke { build_ids: vec!["bad".into()], reason: Some("CVE".into()), ..Revoke::default() };
        let one = revocations("acme", None, &revoke, 10, 100).unwrap();
        let two = revocations("acme", Some(&one), &Revoke::default(), 50, 200).unwrap();
        assert_eq!(two.check_after(&one), Ok(()));
        let list = two.unverified();
        assert_eq!((list.number, list.issued, list.expires), (2, 50, 200));
        assert_eq!((list.build_ids.contains("bad"), list.reasons["bad"].as_str()), (true, "CVE"));
        assert!(matches!(revocations("other", Some(&one), &revoke, 50, 200), Err(TrustError::Usage(_))));
        assert!(revocations("acme", None, &Revoke { build_ids: vec![String::new()], ..Revoke::default() }, 10, 100).is_err());
    }
}
