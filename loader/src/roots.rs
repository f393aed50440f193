//! Roots that are trusted: pinned by a person, then followed from one to the next; and what they revoke.
//!
//! The envelopes are kept under `trust/roots/ID/`. What a load needs of them is written into the policy; see [`crate::trust::RootEntry`].

use crate::store::files::{self, Publish};
use crate::trust::{Builder, Revocations, RootEntry, RootRevocations, Stale};
use crate::{Home, StoreError, TrustPolicy};
use preheat_image::keys::{KeyId, PublicKey, SignError};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Role, Root, SignedRoot};
use preheat_image::signed::{Document, SignedDocument, SignedError};
use preheat_image::{Digest, FormatError, Reference};
use std::path::PathBuf;

/// Why trust was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The home could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A signed document does not count.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Nobody signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The root is another one than the person expects.
    #[error("this root has fingerprint {found}, not {expected}: it is not the one that you were told about")]
    Fingerprint {
        /// What the person gave.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// The name is taken.
    #[error("`{}` is trusted already; `preheat trust rm` removes it, `preheat trust update` gets what follows it", .0.escape_default())]
    Known(String),
    /// Another root speaks for the host.
    #[error("root `{root}` speaks for {host} already; one cache has one root")]
    HostTaken {
        /// The host.
        host: String,
        /// The root that has it.
        root: String,
    },
    /// There is no such root or builder.
    #[error("`{}` is no root or builder of the trust policy; `preheat trust ls` shows them", .0.escape_default())]
    Unknown(String),
    /// Nobody is trusted to name things at this host.
    #[error("no trusted root speaks for {0}; get its root from its operator and `preheat trust add` it with `--host {0}`")]
    NoRoot(String),
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl From<FormatError> for TrustError {
    fn from(error: FormatError) -> Self {
        Self::Signed(error.into())
    }
}

/// A root that a person wants to trust.
#[derive(Debug, Clone)]
pub struct NewRoot {
    /// What to call it here; by default what the installation calls itself.
    pub name: Option<String>,
    /// The caches (`host` or `host:port`) for whose names it speaks.
    pub hosts: Vec<String>,
    /// What to do when its revocation list is out of date.
    pub stale: Stale,
    /// The fingerprint that the person was told, where they were.
    pub fingerprint: Option<Digest>,
}

/// A root that is trusted, with what the policy does not hold.
#[derive(Debug, Clone)]
pub struct TrustedRoot {
    /// What the policy says of it.
    pub entry: RootEntry,
    /// The latest root that is known.
    pub root: Root,
}

/// What an installation has that is newer than what is known here.
#[derive(Debug, Clone, Default)]
pub struct TrustUpdate {
    /// The envelopes of the roots after the known one, in their order. Those that are known already are passed over.
    pub roots: Vec<Vec<u8>>,
    /// The envelope of the latest revocation list.
    pub revocations: Option<Vec<u8>>,
}

impl Home {
    fn root_dir(&self, id: &Digest) -> PathBuf {
        self.root().join("trust/roots").join(id.hex())
    }

    fn read_document<D: Document>(path: PathBuf) -> Result<Option<SignedDocument<D>>, StoreError> {
        let Some(bytes) = files::read_small(&path, D::MAX_SIZE)? else { return Ok(None) };
        SignedDocument::parse(&bytes).map(Some).map_err(|source| StoreError::Format { path, source })
    }

    /// Trusts a root from now on, and so whom it delegates. To be called only when a person says so: what comes over the network must
    /// follow what is trusted already. The fingerprint (the digest of its payload, [`RootEntry::id`]) is for people to compare.
    ///
    /// # Errors
    /// When the root is not signed by enough of its own keys, is not the one that the person expects, has expired at `now` (seconds since
    /// 1970), or its name or a host is taken.
    pub fn add_root(&self, new: &NewRoot, bytes: &[u8], now: u64) -> Result<TrustedRoot, TrustError> {
        let signed = SignedRoot::parse(bytes)?;
        let root = signed.verify_first()?.clone();
        let id = signed.digest();
        if let Some(expected) = new.fingerprint.filter(|expected| *expected != id) {
            return Err(TrustError::Fingerprint { expected, found: id });
        }
        root.check_time(now)?;
        let name = new.name.clone().unwrap_or_else(|| root.installation.clone());
        if !Reference::is_namespace(&name) {
            return Err(TrustError::Usage(format!("`{}` can't be a root's name", name.escape_default())));
        }
        for host in &new.hosts {
            check_host(host)?;
        }
        let _lock = self.lock_trust()?;
        self.change_trust_locked(|policy| {
            if let Some(known) = policy.roots.iter().find(|known| known.id == id || known.name == name) {
                return Err(TrustError::Known(known.name.clone()));
            }
            for host in &new.hosts {
                if let Some(taken) = policy.roots.iter().find(|known| known.hosts.contains(host)) {
                    return Err(TrustError::HostTaken { host: host.clone(), root: taken.name.clone() });
                }
            }
            // The envelope first: a policy never names one that is not there.
            self.keep_root(&id, &signed)?;
            let mut entry = RootEntry {
                id,
                name,
                number: 0,
                expires: 0,
                hosts: new.hosts.clone(),
                revoker: false,
                revocations: None,
                stale: new.stale,
            };
            apply_root(policy, &mut entry, &root);
            policy.roots.push(entry.clone());
            Ok(TrustedRoot { entry, root })
        })
    }

    fn keep_root(&self, id: &Digest, root: &SignedRoot) -> Result<(), StoreError> {
        let path = self.root_dir(id).join(format!("{}.json", root.unverified().number));
        files::publish(&path, &root.to_bytes(), 0o644, Publish::Replacing)
    }

    /// The root with that name or id.
    ///
    /// # Errors
    /// [`TrustError::Unknown`], or when its envelope is gone or damaged.
    pub fn trusted_root(&self, name: &str) -> Result<TrustedRoot, TrustError> {
        let policy = self.trust()?;
        let entry = policy.roots.iter().find(|entry| entry.name == name || entry.id.to_string() == name);
        self.with_envelope(entry.ok_or_else(|| TrustError::Unknown(name.to_owned()))?)
    }

    /// The root that speaks for the names of a cache, `host` or `host:port`.
    ///
    /// # Errors
    /// When the policy can't be read, or the root's envelope is gone or damaged.
    pub fn root_of_host(&self, host: &str) -> Result<Option<TrustedRoot>, TrustError> {
        let policy = self.trust()?;
        let entry = policy.roots.iter().find(|entry| entry.hosts.iter().any(|known| known == host));
        entry.map(|entry| self.with_envelope(entry)).transpose()
    }

    fn with_envelope(&self, entry: &RootEntry) -> Result<TrustedRoot, TrustError> {
        let path = self.root_dir(&entry.id).join(format!("{}.json", entry.number));
        let gone = || StoreError::io("read", &path)(std::io::Error::from(std::io::ErrorKind::NotFound));
        let signed: SignedRoot = Self::read_document(path.clone())?.ok_or_else(gone)?;
        Ok(TrustedRoot { entry: entry.clone(), root: signed.unverified().clone() })
    }

    /// The revocation list that is known of a root, in its envelope.
    ///
    /// # Errors
    /// When it can't be read or is damaged.
    pub fn known_revocations(&self, id: &Digest) -> Result<Option<SignedRevocations>, StoreError> {
        Self::read_document(self.root_dir(id).join("revocations.json"))
    }

    /// Follows the root `id` along `chain`, the envelopes of those after the one that is known; known ones are passed over. Each must be
    /// signed by enough keys of the one before it and of its own. A successor that has expired is kept too: nothing counts by it, but nobody
    /// can go back before it.
    ///
    /// # Errors
    /// When one does not follow; what came before it in the chain is kept.
    pub fn update_root(&self, id: &Digest, chain: &[impl AsRef<[u8]>]) -> Result<TrustedRoot, TrustError> {
        let _lock = self.lock_trust()?;
        let entry = self.trust()?.root(id).cloned().ok_or_else(|| TrustError::Unknown(id.to_string()))?;
        let mut trusted = self.with_envelope(&entry)?;
        let mut outcome = Ok(());
        for bytes in chain {
            let next = match SignedRoot::parse(bytes.as_ref()) {
                Ok(next) => next,
                Err(error) => {
                    outcome = Err(error.into());
                    break;
                }
            };
            if next.unverified().number <= trusted.root.number && next.unverified().installation == trusted.root.installation {
                continue;
            }
            match next.verify_next(&trusted.root) {
                Ok(root) => trusted.root = root.clone(),
                Err(error) => {
                    outcome = Err(TrustError::from(error));
                    break;
                }
            }
            self.keep_root(id, &next)?;
        }
        if trusted.root.number != entry.number {
            trusted.entry = self.change_trust_locked(|policy| {
                let place = policy.roots.iter().position(|entry| entry.id == *id).ok_or_else(|| TrustError::Unknown(id.to_string()))?;
                let mut entry = policy.roots[place].clone();
                apply_root(policy, &mut entry, &trusted.root);
                policy.roots[place] = entry.clone();
                Ok::<_, TrustError>(entry)
            })?;
        }
        outcome.map(|()| trusted)
    }

    /// Takes over a revocation list of the root `id`: signed at `now` (seconds since 1970) by a revoker of the root, or by as many of the
    /// root's own keys as sign a root, and with all that the known list has. A list that has expired is taken over as well: what it revokes
    /// is revoked.
    ///
    /// # Errors
    /// When the list does not count or does not follow the known one.
    pub fn update_revocations(&self, id: &Digest, bytes: &[u8], now: u64) -> Result<RootRevocations, TrustError> {
        let _lock = self.lock_trust()?;
        let entry = self.trust()?.root(id).cloned().ok_or_else(|| TrustError::Unknown(id.to_string()))?;
        let root = self.with_envelope(&entry)?.root;
        let signed = SignedRevocations::parse(bytes)?;
        let list = verify_revocations(&signed, &root, now)?;
        if let Some(known) = self.known_revocations(id)? {
            signed.check_after(&known)?;
        }
        let path = self.root_dir(id).join("revocations.json");
        files::publish(&path, bytes, 0o644, Publish::Replacing)?;
        let known = RootRevocations {
            number: list.number,
            issued: list.issued,
            expires: list.expires,
            revoked: Revocations {
                keys: list.keys.clone(),
                build_ids: list.build_ids.clone(),
                sources: list.sources.clone(),
                blobs: list.blobs.clone(),
            },
        };
        self.change_trust_locked(|policy| {
            let entry = policy.roots.iter_mut().find(|entry| entry.id == *id).ok_or_else(|| TrustError::Unknown(id.to_string()))?;
            entry.revocations = Some(known.clone());
            Ok::<_, TrustError>(known)
        })
    }

    /// Takes over what is newer: the roots first, then the revocation list under the latest root. What `preheat trust update` and every pull
    /// do with what they fetched.
    ///
    /// # Errors
    /// As [`Home::update_root`] and [`Home::update_revocations`].
    pub fn update_trust(&self, id: &Digest, update: &TrustUpdate, now: u64) -> Result<TrustedRoot, TrustError> {
        let mut trusted = self.update_root(id, &update.roots)?;
        if let Some(bytes) = &update.revocations {
            trusted.entry.revocations = Some(self.update_revocations(id, bytes, now)?);
        }
        Ok(trusted)
    }

    /// Ends to trust a root: its builders, its revocations, and what is remembered of the names at its hosts go.
    ///
    /// # Errors
    /// [`TrustError::Unknown`], or when the home can't be written.
    pub fn remove_root(&self, name: &str) -> Result<RootEntry, TrustError> {
        let _lock = self.lock_trust()?;
        let removed = self.change_trust_locked(|policy| {
            let place = policy.roots.iter().position(|entry| entry.name == name || entry.id.to_string() == name);
            let removed = policy.roots.remove(place.ok_or_else(|| TrustError::Unknown(name.to_owned()))?);
            policy.builders.retain(|builder| builder.root != Some(removed.id));
            Ok::<_, TrustError>(removed)
        })?;
        let dirs = removed.hosts.iter().filter_map(|host| self.names_dir(host).ok()).chain([self.root_dir(&removed.id)]);
        for dir in dirs {
            match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("remove", &dir)(error).into()),
                _ => {}
            }
        }
        Ok(removed)
    }

    /// Trusts a builder that no root delegates.
    ///
    /// # Errors
    /// When its name or its key is taken, or a namespace can't be one.
    pub fn add_builder(&self, builder: Builder) -> Result<(), TrustError> {
        if builder.name.is_empty() || builder.name.len() > 128 || builder.name.chars().any(char::is_control) {
            return Err(TrustError::Usage(format!("`{}` can't be a builder's name", builder.name.escape_default())));
        }
        if builder.namespaces.is_empty() {
            return Err(TrustError::Usage("a builder is trusted for at least one namespace; `*` stands for all".into()));
        }
        if let Some(bad) = builder.namespaces.iter().find(|namespace| *namespace != "*" && !Reference::is_namespace(namespace)) {
            return Err(TrustError::Usage(format!("`{}` can't be a namespace", bad.escape_default())));
        }
        self.change_trust(|policy| {
            let own = |known: &&Builder| known.root.is_none() && (known.name == builder.name || known.key == builder.key);
            if let Some(known) = policy.builders.iter().find(own) {
                return Err(TrustError::Known(known.name.clone()));
            }
            policy.builders.push(Builder { root: None, ..builder });
            Ok(())
        })
    }

    /// Ends to trust a builder that a person added, by its name or the id of its key. Those of a root go with their root.
    ///
    /// # Errors
    /// [`TrustError::Unknown`], or when the home can't be written.
    pub fn remove_builder(&self, name: &str) -> Result<Builder, TrustError> {
        let key = KeyId::parse(name).ok();
        self.change_trust(|policy| {
            let named = |builder: &Builder| builder.name == name || key == Some(builder.key.id());
            if let Some(place) = policy.builders.iter().position(|builder| builder.root.is_none() && named(builder)) {
                return Ok(policy.builders.remove(place));
            }
            let delegated = policy.builders.iter().find(|builder| named(builder)).and_then(|builder| policy.root(builder.root.as_ref()?));
            Err(delegated.map_or_else(
                || TrustError::Unknown(name.to_owned()),
                |root| {
                    let (name, root) = (name.escape_default(), &root.name);
                    TrustError::Usage(format!(
                        "root `{root}` delegates `{name}`: remove the root, have its next one withdraw it, or revoke the key with `preheat trust revoke --key-id`"
                    ))
                },
            ))
        })
    }
}

/// Verifies a revocation list under `root` at `now`, in seconds since 1970; says nothing about the list's own time.
///
/// # Errors
/// When it is of another installation, or neither a revoker of the root nor enough of the root's own keys signed it.
pub fn verify_revocations<'l>(signed: &'l SignedRevocations, root: &Root, now: u64) -> Result<&'l RevocationList, SignedError> {
    let found = &signed.unverified().installation;
    if *found != root.installation {
        let what = format!("it is of `{}`, not of `{}`", found.escape_default(), root.installation);
        return Err(SignedError::NotNext { format: RevocationList::FORMAT, what });
    }
    let revokers: Vec<&PublicKey> = root.keys_for(Role::Revoker, "*", now).collect();
    signed.verify(revokers, 1).or_else(|error| signed.verify(&root.keys, root.threshold as usize).map_err(|_| error))
}

/// Writes what a load needs of `root` into its entry and into the builders. Hosts and what people decided stay.
fn apply_root(policy: &mut TrustPolicy, entry: &mut RootEntry, root: &Root) {
    entry.number = root.number;
    entry.expires = root.expires;
    entry.revoker = root.delegations.iter().any(|delegation| delegation.role == Role::Revoker);
    policy.builders.retain(|builder| builder.root != Some(entry.id));
    let builders = root.delegations.iter().filter(|delegation| delegation.role == Role::Builder).map(|delegation| Builder {
        name: delegation.name.clone(),
        key: delegation.key.clone(),
        namespaces: delegation.namespaces.clone(),
        expires: Some(delegation.expires),
        root: Some(entry.id),
    });
    policy.builders.extend(builders);
}

/// A host becomes the name of a directory.
pub(crate) fn check_host(host: &str) -> Result<(), TrustError> {
    match format!("{host}/a/a").parse::<Reference>() {
        Ok(Reference::Name { host: parsed, .. }) if parsed == host => Ok(()),
        _ => Err(TrustError::Usage(format!("`{}` is not a host name with an optional port", host.escape_default()))),
    }
}
