//! The root of an installation: which keys, kept offline, decide by how many of them who may build, name and revoke for which namespace.
//!
//! A root is replaced by one with the next number that enough keys of the old and enough of the new have signed, so that keys can be changed
//! one after the other and nobody has to be trusted anew (the way of TUF, section 5.3 of its specification).

use crate::keys::PublicKey;
use crate::signed::{Document, SignedDocument, SignedError, check_time};
use crate::{Reference, media};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a delegated key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sign statements about what it built.
    Builder,
    /// Sign the names of a namespace.
    Namer,
    /// Sign the list of what is revoked; counts for the whole installation.
    Revoker,
}

/// A key that the root lets do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Delegation {
    /// What for.
    pub role: Role,
    /// What people call the holder.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// The namespaces for which it counts; `*` stands for all. A revoker has `*`.
    pub namespaces: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
}

impl Delegation {
    /// Whether it counts for `role` in `namespace` at `now`, in seconds since 1970.
    #[must_use]
    pub fn allows(&self, role: Role, namespace: &str, now: u64) -> bool {
        self.role == role && now < self.expires && self.namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace)
    }
}

/// The root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Root {
    /// Version of this format, 1.
    pub version: u32,
    /// The installation: a word that stays the same in all its roots.
    pub installation: String,
    /// 1 for the first root, then one more each time.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// How many of `keys` must sign a root.
    pub threshold: u32,
    /// The root's keys.
    pub keys: Vec<PublicKey>,
    /// Who may do what.
    pub delegations: Vec<Delegation>,
}

impl Document for Root {
    const FORMAT: &'static str = "root";
    const MEDIA_TYPE: &'static str = media::ROOT_PAYLOAD;
    const VERSION: u32 = 1;
    const MAX_SIZE: usize = 1024 * 1024;

    fn check(&self) -> Result<(), String> {
        if !Reference::is_namespace(&self.installation) {
            return Err("the installation's name may have letters, digits, `.`, `_` and `-`".into());
        }
        if self.number == 0 {
            return Err("roots are numbered from 1 on".into());
        }
        let distinct: BTreeSet<_> = self.keys.iter().map(PublicKey::id).collect();
        if distinct.len() != self.keys.len() {
            return Err("it names a key twice".into());
        }
        if self.threshold == 0 || self.threshold as usize > self.keys.len() {
            return Err(format!("{} of {} keys can't be the threshold", self.threshold, self.keys.len()));
        }
        for delegation in &self.delegations {
            if delegation.namespaces.is_empty() {
                return Err(format!("the delegation to `{}` is for no namespace", delegation.name.escape_default()));
            }
            if let Some(bad) = delegation.namespaces.iter().find(|namespace| *namespace != "*" && !Reference::is_namespace(namespace)) {
                return Err(format!("`{}` can't be a namespace", bad.escape_default()));
            }
            if delegation.role == Role::Revoker && delegation.namespaces != ["*"] {
                return Err("a revoker counts for all namespaces, written `*`".into());
            }
            if distinct.contains(&delegation.key.id()) {
                return Err(format!("`{}` has a key of the root, which must stay offline", delegation.name.escape_default()));
            }
        }
        // One key with two roles would let whoever holds the builder's machine move names.
        for one in &self.delegations {
            if self.delegations.iter().any(|other| other.key == one.key && other.role != one.role) {
                return Err(format!("the key of `{}` has two roles; give each role its own key", one.name.escape_default()));
            }
        }
        Ok(())
    }
}

impl Root {
    /// The keys that may act as `role` for `namespace` at `now`, in seconds since 1970.
    pub fn keys_for<'r>(&'r self, role: Role, namespace: &str, now: u64) -> impl Iterator<Item = &'r PublicKey> {
        let namespace = namespace.to_owned();
        self.delegations.iter().filter(move |delegation| delegation.allows(role, &namespace, now)).map(|delegation| &delegation.key)
    }

    /// Whether its time is not over at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`SignedError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), SignedError> {
        check_time(Self::FORMAT, self.expires, now)
    }
}

/// A root in its envelope.
pub type SignedRoot = SignedDocument<Root>;

impl SignedRoot {
    /// The root, if enough of its own keys signed it: what whoever trusts it first has to check. Says nothing about its time.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn verify_first(&self) -> Result<&Root, SignedError> {
        let root = self.unverified();
        self.verify(&root.keys, root.threshold as usize)
    }

    /// The root, if it follows `old`: the same installation, the next number, signed by enough keys of both. An old root whose time is over
    /// still hands over: what counts is that the new one's is not.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn verify_next(&self, old: &Root) -> Result<&Root, SignedError> {
        let new = self.unverified();
        let not_next = |what: String| SignedError::NotNext { format: Root::FORMAT, what };
        if new.installation != old.installation {
            return Err(not_next(format!("it is of `{}`, not of `{}`", new.installation, old.installation)));
        }
        if old.number.checked_add(1) != Some(new.number) {
            return Err(not_next(format!("it has number {}, and {} is known", new.number, old.number)));
        }
        self.verify(&old.keys, old.threshold as usize)?;
        self.verify_first()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn root(number: u64, keys: &[u8], threshold: u32) -> Root {
        let delegation = |role, seed, namespace: &str| Delegation {
            role,
            name: "x".into(),
            key: key(seed).public(),
            namespaces: vec![namespace.into()],
            expires: 100,
        };
        Root {
            version: 1,
            installation: "here".into(),
            number,
            issued: 0,
            expires: 1000,
            threshold,
            keys: keys.iter().map(|seed| key(*seed).public()).collect(),
            delegations: vec![delegation(Role::Builder, 101, "team"), delegation(Role::Namer, 102, "*")],
        }
    }

    fn signed(root: Root, seeds: &[u8]) -> SignedRoot {
        seeds.iter().fold(SignedRoot::new(root).unwrap(), |root, seed| root.sign(&key(*seed)).unwrap())
    }

    #[test]
    fn a_threshold_of_keys_is_needed_and_one_key_counts_once() {
        assert!(signed(root(1, &[1, 2, 3], 2), &[1, 3]).verify_first().is_ok());
        assert!(matches!(signed(root(1, &[1, 2, 3], 2), &[1, 1]).verify_first(), Err(SignedError::TooFewSignatures { valid: 1, .. })));
        assert!(matches!(signed(root(1, &[1, 2, 3], 2), &[1, 9]).verify_first(), Err(SignedError::TooFewSignatures { valid: 1, .. })));
        assert!(signed(root(1, &[1, 2, 3], 2), &[]).verify_first().is_err());
        let mut twice = signed(root(1, &[1, 2, 3], 2), &[1]);
        twice.signatures.push(twice.signatures[0].clone());
        assert!(twice.verify_first().is_err(), "the same signature written twice is one");
    }

    #[test]
    fn keys_change_one_after_the_other() {
        let old = root(1, &[1, 2, 3], 2);
        let new = root(2, &[2, 3, 4], 2);
        assert!(signed(new.clone(), &[2, 3]).verify_next(&old).is_ok());
        assert!(signed(new.clone(), &[1, 2, 4]).verify_next(&old).is_ok(), "enough of both");
        assert!(signed(new.clone(), &[3, 4]).verify_next(&old).is_err(), "the old keys did not agree");
        assert!(signed(new, &[1, 2]).verify_next(&old).is_err(), "the new keys did not agree");
        assert!(matches!(signed(root(3, &[1, 2, 3], 2), &[1, 2]).verify_next(&old), Err(SignedError::NotNext { .. })));
        assert!(matches!(signed(root(1, &[1, 2, 3], 2), &[1, 2]).verify_next(&old), Err(SignedError::NotNext { .. })));
        let mut elsewhere = root(2, &[1, 2, 3], 2);
        elsewhere.installation = "there".into();
        assert!(matches!(signed(elsewhere, &[1, 2]).verify_next(&old), Err(SignedError::NotNext { .. })));
    }

    #[test]
    fn a_changed_root_is_noticed() {
        let good = signed(root(1, &[1], 1), &[1]);
        assert_eq!(SignedRoot::parse(&good.to_bytes()).unwrap(), good);
        let mut changed = good.clone();
        changed.payload = String::from_utf8(good.payload).unwrap().replace("team", "prod").into_bytes();
        let changed = SignedRoot::parse(&changed.to_bytes()).unwrap();
        assert!(matches!(changed.verify_first(), Err(SignedError::WrongSignature(..))));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Root)| {
            let mut root = root(1, &[1, 2], 2);
            change(&mut root);
            SignedRoot::new(root).unwrap_err()
        };
        refused(|root| root.threshold = 0);
        refused(|root| root.threshold = 3);
        refused(|root| root.number = 0);
        refused(|root| root.keys[1] = root.keys[0].clone());
        refused(|root| root.installation = "../x".into());
        refused(|root| root.delegations[0].namespaces.clear());
        refused(|root| root.delegations[0].namespaces[0] = "a/b".into());
        refused(|root| root.delegations[0].key = root.keys[0].clone());
        refused(|root| root.delegations[1].key = root.delegations[0].key.clone());
        refused(|root| root.delegations[0].role = Role::Revoker);
    }

    #[test]
    fn a_delegation_is_for_a_role_a_namespace_and_a_time() {
        let root = root(1, &[1], 1);
        let count = |role, namespace, now| root.keys_for(role, namespace, now).count();
        assert_eq!(count(Role::Builder, "team", 99), 1);
        assert_eq!(count(Role::Builder, "team", 100), 0);
        assert_eq!(count(Role::Builder, "other", 1), 0);
        assert_eq!(count(Role::Namer, "team", 1), 1);
        assert_eq!(count(Role::Revoker, "team", 1), 0);
    }
}
