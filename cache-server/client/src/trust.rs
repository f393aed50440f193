//! Whether signed documents count: the rules that every client of a cache has to keep, whatever the service says.
//!
//! Nothing here remembers anything. The caller keeps what it has verified and hands it in again as `known`, so that nobody can lead it back.

use crate::cache::Cache;
use crate::error::ClientError;
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::names::{Names, SignedNames};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Role, Root, SignedRoot};
use preheat_image::signed::SignedError;
use std::collections::{BTreeMap, BTreeSet};

/// Most roots that are followed at a time. Who changes its root every day is that far away after a year.
pub const MAX_ROOT_STEPS: usize = 400;

/// Whose names count in a namespace.
#[derive(Debug, Clone, Copy)]
pub struct Namers<'t> {
    /// A verified root whose namers count; its time must not be over.
    pub root: Option<&'t Root>,
    /// Keys that count by the caller's own policy.
    pub keys: &'t [PublicKey],
    /// Keys that count no longer, whoever names them.
    pub revoked: &'t BTreeSet<KeyId>,
}

/// Names that count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedNames(SignedNames);

impl VerifiedNames {
    /// The names.
    #[must_use]
    pub fn names(&self) -> &Names {
        self.0.unverified()
    }

    /// The document, to be remembered.
    #[must_use]
    pub fn document(&self) -> &SignedNames {
        &self.0
    }
}

/// A revocation list that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRevocations(SignedRevocations);

impl VerifiedRevocations {
    /// The list.
    #[must_use]
    pub fn list(&self) -> &RevocationList {
        self.0.unverified()
    }

    /// The document, to be remembered.
    #[must_use]
    pub fn document(&self) -> &SignedRevocations {
        &self.0
    }
}

/// The roots between one that is known and the newest, each signed by enough keys of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootChain(Vec<SignedRoot>);

impl RootChain {
    /// The roots after the known one, oldest first; none when that is the newest. To be remembered.
    #[must_use]
    pub fn steps(&self) -> &[SignedRoot] {
        &self.0
    }

    /// The newest root after the known one.
    #[must_use]
    pub fn newest(&self) -> Option<&SignedRoot> {
        self.0.last()
    }
}

/// Follows the roots that a cache has from `known` to the newest, one by one, and refuses one whose time is over at the end. `now` is in
/// seconds since 1970.
///
/// # Errors
/// [`ClientError::Untrusted`] when a root does not follow, or the newest is over; else what asking gives.
pub async fn follow_roots(cache: &Cache, known: &Root, now: u64) -> Result<RootChain, ClientError> {
    let untrusted = |source| untrusted(cache, "root", source);
    let mut steps: Vec<SignedRoot> = Vec::new();
    loop {
        let latest = steps.last().map_or(known, SignedRoot::unverified);
        let Some(number) = latest.number.checked_add(1) else { break };
        let Some(next) = cache.root_number(number).await? else { break };
        if steps.len() >= MAX_ROOT_STEPS {
            let what = format!("more than {MAX_ROOT_STEPS} roots after the known one; trust the installation anew");
            return Err(untrusted(SignedError::NotNext { format: "root", what }));
        }
        next.verify_next(latest).map_err(untrusted)?;
        steps.push(next);
    }
    steps.last().map_or(known, SignedRoot::unverified).check_time(now).map_err(untrusted)?;
    Ok(RootChain(steps))
}

/// Whether `names` count for `namespace` at `now` (seconds since 1970) for somebody who has seen `known`.
///
/// # Errors
/// [`SignedError`].
pub fn verify_names(
    names: SignedNames,
    namespace: &str,
    namers: &Namers<'_>,
    known: Option<&SignedNames>,
    now: u64,
) -> Result<VerifiedNames, SignedError> {
    let mut keys: BTreeMap<KeyId, &PublicKey> = namers.keys.iter().map(|key| (key.id(), key)).collect();
    if let Some(root) = namers.root {
        // An installation that lets its root run out vouches for nobody. Who has keys of their own may still do without it.
        match root.check_time(now) {
            Ok(()) => keys.extend(root.keys_for(Role::Namer, namespace, now).map(|key| (key.id(), key))),
            Err(error) if keys.is_empty() => return Err(error),
            Err(_) => {}
        }
    }
    keys.retain(|id, _| !namers.revoked.contains(id));
    let document = names.verify(keys.into_values(), 1)?;
    if document.namespace != namespace {
        let what = format!("it is of `{}`, not of `{namespace}`", document.namespace.escape_default());
        return Err(SignedError::NotNext { format: "names snapshot", what });
    }
    if let Some(known) = known {
        names.check_after(known)?;
    }
    names.unverified().check_time(now)?;
    Ok(VerifiedNames(names))
}

/// The names that a cache has for a namespace, if they count. None when it has none, unless some are known: names do not vanish.
///
/// # Errors
/// [`ClientError::Untrusted`]; else what asking gives.
pub async fn current_names(
    cache: &Cache,
    namespace: &str,
    namers: &Namers<'_>,
    known: Option<&SignedNames>,
    now: u64,
) -> Result<Option<VerifiedNames>, ClientError> {
    match (cache.names(namespace).await?, known) {
        (Some(current), known) => {
            verify_names(current.names, namespace, namers, known, now).map(Some).map_err(|source| untrusted(cache, "names", source))
        }
        (None, None) => Ok(None),
        (None, Some(known)) => {
            let what = format!("there is none, and {} was seen already", known.unverified().number);
            Err(untrusted(cache, "names", SignedError::NotNext { format: "names snapshot", what }))
        }
    }
}

/// Whether a revocation list counts at `now` (seconds since 1970) for somebody who has seen `known`: of the installation of `root`, signed by
/// one of its revokers or by enough of its own keys.
///
/// # Errors
/// [`SignedError`].
pub fn verify_revocations(
    list: SignedRevocations,
    root: &Root,
    known: Option<&SignedRevocations>,
    now: u64,
) -> Result<VerifiedRevocations, SignedError> {
    root.check_time(now)?;
    let revokers: BTreeMap<KeyId, &PublicKey> = root.keys_for(Role::Revoker, "*", now).map(|key| (key.id(), key)).collect();
    if let Err(by_revoker) = list.verify(revokers.into_values(), 1) {
        list.verify(&root.keys, root.threshold as usize).map_err(|by_root| match &by_root {
            SignedError::TooFewSignatures { valid: 0, .. } => by_revoker,
            _ => by_root,
        })?;
    }
    if list.unverified().installation != root.installation {
        let what = format!("it is of `{}`, not of `{}`", list.unverified().installation.escape_default(), root.installation);
        return Err(SignedError::NotNext { format: "revocation list", what });
    }
    if let Some(known) = known {
        list.check_after(known)?;
    }
    list.unverified().check_time(now)?;
    Ok(VerifiedRevocations(list))
}

/// The revocation list that a cache has, if it counts. None when it has none, unless one is known.
///
/// # Errors
/// [`ClientError::Untrusted`]; else what asking gives.
pub async fn current_revocations(
    cache: &Cache,
    root: &Root,
    known: Option<&SignedRevocations>,
    now: u64,
) -> Result<Option<VerifiedRevocations>, ClientError> {
    match (cache.revocations().await?, known) {
        (Some(list), known) => {
            verify_revocations(list, root, known, now).map(Some).map_err(|source| untrusted(cache, "revocations", source))
        }
        (None, None) => Ok(None),
        (None, Some(known)) => {
            let what = format!("there is none, and {} was seen already", known.unverified().number);
            Err(untrusted(cache, "revocations", SignedError::NotNext { format: "revocation list", what }))
        }
    }
}

fn untrusted(cache: &Cache, what: &str, source: SignedError) -> ClientError {
    ClientError::Untrusted { url: format!("{} of {}", what, cache.config().url), source }
}
