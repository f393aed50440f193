//! `$PREHEAT_HOME`: a store, the builder's key and the trust policy of one user.

use crate::store::files::{self, Publish};
use crate::store::lock::{self, Lock};
use crate::{Store, StoreError, TrustPolicy};
use preheat_image::FormatError;
use rustix::fs::FlockOperation;
use std::io;
use std::path::{Path, PathBuf};

/// A user's directory: `store/`, `keys/builder.json`, `trust.json`, and `trust/` with what the policy was derived from.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `$PREHEAT_HOME`, else `$XDG_DATA_HOME/preheat`, else `$HOME/.local/share/preheat`.
    ///
    /// # Errors
    /// When none of the three variables is set to an absolute path.
    pub fn from_env() -> Result<Self, StoreError> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let relative = std::env::var_os("PREHEAT_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
        let root = match relative {
            Some(root) => std::path::absolute(&root).map_err(StoreError::io("find the directory", &root))?,
            None => absolute("XDG_DATA_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
                .map(|data| data.join("preheat"))
                .ok_or_else(|| StoreError::Io {
                    action: "find a directory for the store; set",
                    path: "PREHEAT_HOME".into(),
                    source: io::Error::new(io::ErrorKind::NotFound, "neither PREHEAT_HOME, XDG_DATA_HOME nor HOME is set"),
                })?,
        };
        Ok(Self { root })
    }

    /// The directory `root`, whatever the environment says.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Writes a file of the home, named by its path below it: whole or not at all, durably, in the place of one that is there.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        files::publish(&self.root.join(name), bytes, mode, files::Publish::Replacing)
    }

    /// The store's directory.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Opens the store, making it on first use.
    ///
    /// # Errors
    /// When it can't be made or is of another version.
    pub fn store(&self) -> Result<Store, StoreError> {
        Store::open(self.store_dir())
    }

    pub(crate) fn keys_dir(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub(crate) fn trust_path(&self) -> PathBuf {
        self.root.join("trust.json")
    }

    /// For changing the policy and what it is derived from: read, change, write.
    pub(crate) fn lock_trust(&self) -> Result<Lock, StoreError> {
        files::make_dir(&self.root)?;
        lock::wait(&self.root.join("trust.lock"), FlockOperation::LockExclusive)
    }

    /// Changes the trust policy, one process at a time; if `change` fails, nothing is changed. A home without a policy gets the usual one
    /// first, as by its first build: so whatever else is trusted, what is built here goes on to be.
    ///
    /// # Errors
    /// What `change` says, or when the policy can't be read or written.
    pub fn change_trust<T, E: From<StoreError>>(&self, change: impl FnOnce(&mut TrustPolicy) -> Result<T, E>) -> Result<T, E> {
        let _lock = self.lock_trust()?;
        self.change_trust_locked(change)
    }

    /// [`Home::change_trust`] for who has the lock already.
    pub(crate) fn change_trust_locked<T, E: From<StoreError>>(
        &self,
        change: impl FnOnce(&mut TrustPolicy) -> Result<T, E>,
    ) -> Result<T, E> {
        if !self.trust_path().exists() {
            self.builder_signer()?;
        }
        let old = self.trust()?;
        let mut new = old.clone();
        let done = change(&mut new)?;
        if new != old {
            self.write_trust(&new, Publish::Replacing)?;
        }
        Ok(done)
    }

    pub(crate) fn write_trust(&self, policy: &TrustPolicy, publish: Publish) -> Result<(), StoreError> {
        let mut bytes = serde_json::to_vec_pretty(policy).unwrap_or_default();
        bytes.push(b'\n');
        files::publish(&self.trust_path(), &bytes, 0o644, publish)
    }

    /// The trust policy; the empty one, which trusts nobody, while there is none.
    ///
    /// # Errors
    /// When `trust.json` can't be read or is no policy of this version.
    pub fn trust(&self) -> Result<TrustPolicy, StoreError> {
        const FORMAT: &str = "trust policy";
        let path = self.trust_path();
        let Some(bytes) = files::read_small(&path, usize::MAX)? else { return Ok(TrustPolicy::default()) };
        let wrong = |source| StoreError::Format { path: path.clone(), source };
        let policy: TrustPolicy =
            serde_json::from_slice(&bytes).map_err(|e| wrong(FormatError::Damaged { format: FORMAT, what: e.to_string() }))?;
        if policy.version != 1 {
            return Err(wrong(FormatError::Version { format: FORMAT, found: policy.version, supported: 1 }));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        assert_eq!(home.trust().unwrap(), TrustPolicy::default());
        let keys: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| home.builder_key().unwrap().public())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(home.trust().unwrap().builders[0].key, keys[0]);
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::remove_file(home.trust_path()).unwrap();
        home.builder_key().unwrap();
        assert_eq!(home.trust().unwrap().builders[0].key, keys[0], "a builder killed between key and policy is made good");
        let mode = std::fs::metadata(home.keys_dir().join("builder.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_policy_is_an_error_not_an_empty_policy() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        std::fs::write(home.trust_path(), "{").unwrap();
        assert!(home.trust().unwrap_err().to_string().contains("trust.json"));
        std::fs::write(home.trust_path(), r#"{"version":2,"builders":[]}"#).unwrap();
        assert!(home.trust().unwrap_err().to_string().contains("version 2"));
    }
}
