//! The local content-addressed store.
//!
//! A directory whose files are the truth, readable without anything but a file system:
//!
//! | path | what it is |
//! |---|---|
//! | `store.json` | version of the layout, size limit |
//! | `lock` | `flock`ed: shared while something is published, exclusively while something is removed |
//! | `blobs/sha256/ab/cdef…` | blobs, mode 0444 |
//! | `entries/ab/cdef….json` | records by output digest: who signed for it |
//! | `briefs/ab/cdef…` | derived: entry and manifest of an image in one file of fixed layout, which loading reads |
//! | `keys/ab/cdef….json` | records by build key: what was built under it |
//! | `names/HOST/NAMESPACE/NAME/TAG` | names, each a file with a digest |
//! | `pins/…` | digests of images that eviction must leave alone |
//! | `memo/…` | which image a source file led to, by the file's identity |
//! | `tmp/` | files being written |
//! | `index.redb` | derived: sizes and references, for `ls`, `gc` and the size limit; rebuilt when missing |
//!
//! Loading reads no index and takes no lock: one small file and the blobs themselves.

mod audit;
mod brief;
mod collect;
pub(crate) mod files;
mod index;
pub(crate) mod lock;
mod names;
mod publication;
mod verify;

pub use audit::{Affected, Audit};
pub use collect::{Collected, Collection};
pub use index::{BlobRow, ImageRow};
pub use lock::BuildLock;
pub use names::{NamedImage, SourceFile};
pub use publication::{BlobWriter, Publication, WrittenBlob};
pub use verify::{Problem, VerifyReport};

use crate::StoreError;
use files::Publish;
use preheat_image::record::{Record, Seal};
use preheat_image::{Digest, FormatError};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// `store.json` of a store without a size limit, as it is written here. Every process opens a store, and few have a limit.
const SETTINGS_OF_MOST: &[u8] = br#"{"version":1}"#;

/// A store. Cheap to clone; any number of processes and threads may use one directory.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StoreFile {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
}

impl Store {
    /// Opens the store in the directory `root`, making it if it is not there.
    ///
    /// # Errors
    /// When it can't be made, or is of another version.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        if store.settings()?.is_none() {
            for dir in ["blobs/sha256", "entries", "keys", "names", "pins", "memo", "tmp"] {
                files::make_dir(&store.root.join(dir))?;
            }
            // Whoever was faster may collect already; without the lock that would take the temporary file for a leftover.
            let _lock = store.lock_shared()?;
            store.write_settings(None, Publish::UnlessThere)?;
        }
        Ok(store)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn settings(&self) -> Result<Option<StoreFile>, StoreError> {
        const FORMAT: &str = "store";
        let path = self.root.join("store.json");
        let Some(bytes) = files::read_small(&path, 65536)? else { return Ok(None) };
        if bytes == SETTINGS_OF_MOST {
            return Ok(Some(StoreFile { version: VERSION, max_bytes: None }));
        }
        let wrong = |source| StoreError::Format { path: path.clone(), source };
        let settings: StoreFile =
            serde_json::from_slice(&bytes).map_err(|e| wrong(FormatError::Damaged { format: FORMAT, what: e.to_string() }))?;
        if settings.version != VERSION {
            return Err(wrong(FormatError::Version { format: FORMAT, found: settings.version, supported: VERSION }));
        }
        Ok(Some(settings))
    }

    /// The size limit in bytes over all blobs.
    ///
    /// # Errors
    /// When the store's settings can't be read.
    pub fn max_bytes(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.settings()?.and_then(|settings| settings.max_bytes))
    }

    /// Sets the size limit. It is kept from the next publication on, by removing the images that were not used for longest.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn set_max_bytes(&self, max_bytes: Option<u64>) -> Result<(), StoreError> {
        let _lock = self.lock_shared()?;
        self.write_settings(max_bytes, Publish::Replacing)
    }

    fn write_settings(&self, max_bytes: Option<u64>, publish: Publish) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(&StoreFile { version: VERSION, max_bytes }).unwrap_or_default();
        self.write_file(&self.root.join("store.json"), &bytes, publish)
    }

    /// Where the blob `digest` is or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.sharded("blobs/sha256", digest, "")
    }

    pub(crate) fn entry_path(&self, subject: &Digest) -> PathBuf {
        self.sharded("entries", subject, ".json")
    }

    fn key_path(&self, key: &Digest) -> PathBuf {
        self.sharded("keys", key, ".json")
    }

    fn sharded(&self, kind: &str, digest: &Digest, suffix: &str) -> PathBuf {
        let hex = digest.hex();
        // One allocation: this is on the cold path.
        let mut path = String::with_capacity(kind.len() + hex.len() + suffix.len() + 2);
        for part in [kind, "/", &hex[..2], "/", &hex[2..], suffix] {
            path.push_str(part);
        }
        self.root.join(path)
    }

    /// The size in bytes of the blob `digest`, if it is there.
    #[must_use]
    pub fn blob_size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.blob_path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Reads a blob of at most `max` bytes and hashes it.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], or what the operating system says.
    pub fn read_blob(&self, digest: &Digest, max: usize) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(digest);
        let bytes = files::read_small(&path, max)?.ok_or(StoreError::Missing(*digest))?;
        if Digest::of(&bytes) == *digest {
            Ok(bytes)
        } else {
            Err(StoreError::Damaged { digest: *digest, path, what: "its bytes were changed".into() })
        }
    }

    /// Who signed for the output `subject`.
    ///
    /// # Errors
    /// When the record can't be read or is damaged.
    pub fn entry(&self, subject: &Digest) -> Result<Option<Record>, StoreError> {
        Self::record(&self.entry_path(subject), subject)
    }

    /// What was built under `key`.
    ///
    /// # Errors
    /// When the record can't be read or is damaged.
    pub fn built(&self, key: &Digest) -> Result<Option<Record>, StoreError> {
        Self::record(&self.key_path(key), key)
    }

    fn record(path: &Path, subject: &Digest) -> Result<Option<Record>, StoreError> {
        let Some(bytes) = files::read_small(path, preheat_image::record::MAX_SIZE)? else { return Ok(None) };
        Record::parse(&bytes, subject).map(Some).map_err(|source| StoreError::Format { path: path.to_owned(), source })
    }

    /// The digests that are in `dir`, sharded or not, with the files that hold them.
    fn digests_in(&self, dir: &str) -> Result<Vec<(Digest, PathBuf)>, StoreError> {
        let mut digests = Vec::new();
        files::walk(&self.root.join(dir), &mut |path| {
            let shard = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).filter(|name| name.len() == 2);
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let hex = format!("{}{}", shard.unwrap_or_default(), name.strip_suffix(".json").unwrap_or(name));
            if let Ok(digest) = Digest::from_hex(&hex) {
                digests.push((digest, path.to_owned()));
            }
            Ok(())
        })?;
        digests.sort();
        Ok(digests)
    }
}

pub(crate) use verify::hash_open_file as verify_file;

impl Store {
    /// Notes what the file of blob `digest`, which was just hashed, looks like, for the next load of `image`.
    pub(crate) fn reseal(&self, image: &Digest, digest: Digest, seal: Seal) -> Result<(), StoreError> {
        let _lock = self.lock_shared()?;
        self.change_record(&self.entry_path(image), image, |record| {
            record.seals.insert(digest, seal);
        })
    }
}

/// What a file looks like now.
pub(crate) fn seal_of(metadata: &std::fs::Metadata) -> Seal {
    let nanoseconds = |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
    Seal {
        inode: metadata.ino(),
        size: metadata.len(),
        mtime: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        ctime: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
    }
}
