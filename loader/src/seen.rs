//! Names that were seen: the latest snapshot of each namespace of each cache, so that nobody can show an older one.

use crate::roots::{TrustError, check_host};
use crate::store::files::{self, Publish};
use crate::{Home, StoreError};
use preheat_image::names::{Names, SignedNames};
use preheat_image::root::Role;
use preheat_image::signed::{Document as _, SignedError};
use preheat_image::{FormatError, Reference};
use std::path::PathBuf;

impl Home {
    pub(crate) fn names_dir(&self, host: &str) -> Result<PathBuf, TrustError> {
        check_host(host)?;
        Ok(self.root().join("trust/names").join(host))
    }

    fn names_path(&self, host: &str, namespace: &str) -> Result<PathBuf, TrustError> {
        if !Reference::is_namespace(namespace) {
            return Err(TrustError::Usage(format!("`{}` can't be a namespace", namespace.escape_default())));
        }
        Ok(self.names_dir(host)?.join(format!("{namespace}.json")))
    }

    /// The latest snapshot that was seen of a namespace, whether its time is over or not.
    ///
    /// # Errors
    /// When it can't be read. A damaged one is an error, not none: otherwise damage would let somebody go back.
    pub fn known_names(&self, host: &str, namespace: &str) -> Result<Option<SignedNames>, TrustError> {
        let path = self.names_path(host, namespace)?;
        let Some(bytes) = files::read_small(&path, Names::MAX_SIZE)? else { return Ok(None) };
        let names = SignedNames::parse(&bytes).map_err(|source| StoreError::Format { path: path.clone(), source })?;
        if names.unverified().namespace != namespace {
            let source = FormatError::Damaged { format: Names::FORMAT, what: "it is of another namespace".into() };
            return Err(StoreError::Format { path, source }.into());
        }
        Ok(Some(names))
    }

    /// Remembers a snapshot that the caller verified, durably, if it may follow the one that was seen. Of processes that remember at once,
    /// each is checked against what the others left.
    ///
    /// # Errors
    /// [`SignedError::NotNext`] when it is older than what was seen, or another one with the same number.
    pub fn remember_names(&self, host: &str, namespace: &str, names: &SignedNames) -> Result<(), TrustError> {
        let path = self.names_path(host, namespace)?;
        let found = &names.unverified().namespace;
        if found != namespace {
            let what = format!("it is of `{}`, not of `{namespace}`", found.escape_default());
            return Err(SignedError::NotNext { format: Names::FORMAT, what }.into());
        }
        let _lock = self.lock_trust()?;
        if let Some(known) = self.known_names(host, namespace)? {
            names.check_after(&known)?;
            if known == *names {
                return Ok(());
            }
        }
        files::publish(&path, &names.to_bytes(), 0o644, Publish::Replacing)?;
        Ok(())
    }

    /// Whether a snapshot was signed by a namer whom the root of `host` delegates for the namespace at `now`, in seconds since 1970, and whose
    /// key nobody revoked. Says nothing about the snapshot's own time, nor about what was seen before.
    ///
    /// # Errors
    /// [`TrustError::NoRoot`] when no trusted root speaks for the host, [`TrustError::Signed`] when the signature does not count.
    pub fn verify_names(&self, host: &str, namespace: &str, names: &SignedNames, now: u64) -> Result<(), TrustError> {
        let root = self.root_of_host(host)?.ok_or_else(|| TrustError::NoRoot(host.to_owned()))?.root;
        root.check_time(now)?;
        let policy = self.trust()?;
        names.verify(root.keys_for(Role::Namer, namespace, now).filter(|key| !policy.revokes_key(&key.id())), 1)?;
        Ok(())
    }

    /// Reads, verifies and remembers a snapshot that `host` shows at `now`, in seconds since 1970: signed by a namer whom the root of this
    /// host delegates for this namespace, not expired, not older than what was seen.
    ///
    /// # Errors
    /// [`TrustError::NoRoot`] when no trusted root speaks for the host, [`TrustError::Signed`] when the snapshot does not count.
    pub fn accept_names(&self, host: &str, namespace: &str, bytes: &[u8], now: u64) -> Result<SignedNames, TrustError> {
        let names = SignedNames::parse(bytes)?;
        self.verify_names(host, namespace, &names, now)?;
        names.unverified().check_time(now)?;
        self.remember_names(host, namespace, &names)?;
        Ok(names)
    }
}
