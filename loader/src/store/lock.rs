//! The store's locks: `flock` on files of their own. The kernel releases them when a process ends, however it ends.

use super::Store;
use crate::StoreError;
use preheat_image::Digest;
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// Held until dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Lock(#[expect(dead_code, reason = "its descriptor is the lock")] File);

/// Locks the file at `path`, making it if needed; `None` when `operation` does not wait and others hold it.
pub(crate) fn lock_path(path: &Path, operation: FlockOperation) -> Result<Option<Lock>, StoreError> {
    let file = File::options().read(true).append(true).create(true).open(path).map_err(StoreError::io("open the lock", path))?;
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(Some(Lock(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(StoreError::io("lock", path)(error)),
        }
    }
}

/// Waits for the lock at `path`.
pub(crate) fn wait(path: &Path, operation: FlockOperation) -> Result<Lock, StoreError> {
    // A blocking operation never answers `None`.
    lock_path(path, operation)?.ok_or_else(|| StoreError::io("lock", path)(std::io::Error::from(std::io::ErrorKind::WouldBlock)))
}

impl Store {
    fn wait(&self, name: &str, operation: FlockOperation) -> Result<Lock, StoreError> {
        wait(&self.root.join(name), operation)
    }

    /// For publishing: many at once, but none while something is removed.
    pub(crate) fn lock_shared(&self) -> Result<Lock, StoreError> {
        self.wait("lock", FlockOperation::LockShared)
    }

    /// Like [`Store::lock_shared`], but gives up at once while something is removed.
    pub(crate) fn try_lock_shared(&self) -> Result<Option<Lock>, StoreError> {
        lock_path(&self.root.join("lock"), FlockOperation::NonBlockingLockShared)
    }

    /// For removing: alone.
    pub(crate) fn lock_exclusive(&self) -> Result<Lock, StoreError> {
        self.wait("lock", FlockOperation::LockExclusive)
    }

    /// Like [`Store::lock_exclusive`], but gives up at once where others hold it.
    pub(crate) fn try_lock_exclusive(&self) -> Result<Option<Lock>, StoreError> {
        lock_path(&self.root.join("lock"), FlockOperation::NonBlockingLockExclusive)
    }

    /// For changing a record or a name: read, change, write.
    pub(crate) fn lock_records(&self) -> Result<Lock, StoreError> {
        self.wait("records.lock", FlockOperation::LockExclusive)
    }

    /// For building what `keys` name: one of several builders of the same things works, the others wait and then find them.
    ///
    /// # Errors
    /// When a lock can't be made.
    pub fn lock_build(&self, keys: &[Digest]) -> Result<BuildLock, StoreError> {
        super::files::make_dir(&self.temp_dir())?;
        // 256 locks stand for all keys, so that no lock files pile up; two keys that share one only wait for each other. Each once and in
        // order, so that no two builders wait for each other.
        let stripes: BTreeSet<String> = keys.iter().map(|key| key.hex()[..2].to_owned()).collect();
        let locks = stripes.iter().map(|stripe| self.wait(&format!("tmp/build-{stripe}.lock"), FlockOperation::LockExclusive));
        locks.collect::<Result<_, _>>().map(BuildLock)
    }
}

/// Held while keys are built; see [`Store::lock_build`].
#[derive(Debug)]
#[must_use]
pub struct BuildLock(#[expect(dead_code, reason = "holding it is its use")] Vec<Lock>);
