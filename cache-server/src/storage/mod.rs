//! What the service keeps its things in: blobs by namespace and digest, and small records with versions.
//!
//! Two traits, each with one implementation for a local disk and one for a bucket. Everything above them (requests, leases, collection) is
//! written once. Blobs are kept per namespace, physically: a digest is no capability, and one tenant's heap layers are never another's.

pub mod bucket;
mod bucket_blobs;
mod bucket_meta;
#[cfg(test)]
mod bucket_tests;
#[cfg(test)]
mod fault_tests;
pub mod files;
#[cfg(test)]
mod files_simulated;
#[cfg(test)]
mod full_tests;
pub(crate) mod leased;
mod lists;
pub mod local;
mod local_upload;
pub mod memory;
pub mod redb;
mod tier;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use preheat_image::{Digest, Reference};
use std::fmt;
use std::fs::File;
use std::time::SystemTime;

/// The name of a namespace: 1 to 128 letters, digits, `.`, `_`, `-`, beginning and ending with a letter or digit, no `..`. So it can be part
/// of a path and of a key as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(String);

impl Namespace {
    /// Takes a text that can be a namespace. `v1` and the names of the service's own pages can't.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        const RESERVED: [&str; 4] = ["v1", "livez", "readyz", "metrics"];
        (Reference::is_namespace(text) && !RESERVED.contains(&text)).then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why storage could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No space is left, or the hard limit is reached.
    #[error("the storage is full: {0}")]
    Full(String),
    /// The storage does not answer, answers too late, or refuses for a reason of its own. Worth trying again.
    #[error("the storage is not available: {0}")]
    Unavailable(String),
    /// What is there is not what was put there.
    #[error("damaged in storage: {0}")]
    Damaged(String),
    /// Anything else.
    #[error("storage: {0}")]
    Other(String),
}

/// Why a record was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The record is not at the version that the writer expected.
    #[error("somebody else was faster")]
    Conflict,
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What a file looked like; one that still looks the same has not been written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal {
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last modification, nanoseconds since 1970.
    pub mtime: i64,
    /// Last status change, nanoseconds since 1970.
    pub ctime: i64,
}

/// A blob that is open for reading.
#[derive(Debug)]
pub struct OpenBlob {
    /// The file: on the local disk, or in the tier before a bucket.
    pub file: File,
    /// Size in bytes.
    pub size: u64,
    /// What the file looks like.
    pub seal: Seal,
    /// Its chunk list ([`preheat_image::chunks`]), if it is larger than one chunk; a smaller one is verified by its digest.
    pub chunks: Option<Bytes>,
}

/// A blob in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobEntry {
    /// The digest.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// When it was written.
    pub written: SystemTime,
}

/// A bucket's own address for a blob, good for a while, for whoever may read the blob now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectUrl {
    /// The address. It is a secret for as long as it is good: not for logs.
    pub url: String,
}

/// Where blobs are.
#[async_trait]
pub trait Blobs: Send + Sync {
    /// The size of a blob in bytes, if it is there.
    async fn size(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<u64>, StorageError>;

    /// The sizes of many blobs, in the order asked.
    async fn sizes(&self, namespace: &Namespace, digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError>;

    /// Opens a blob, if it is there. Its bytes are not verified yet: that is done chunk by chunk while they are read.
    async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError>;

    /// Begins a blob.
    async fn begin(&self, namespace: &Namespace) -> Result<Box<dyn Upload>, StorageError>;

    /// Puts a damaged blob aside, where nobody reads it: it is not there any more.
    async fn quarantine(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError>;

    /// Removes a blob. Says whether it was there; one that is not there is removed already.
    async fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError>;

    /// All blobs of a namespace, in no order.
    fn list<'a>(&'a self, namespace: &'a Namespace) -> BoxStream<'a, Result<BlobEntry, StorageError>>;

    /// Removes what stays behind when a removal or an upload is interrupted: what belongs to blobs that are not there. Says how many files
    /// that were.
    async fn sweep(&self, _namespace: &Namespace) -> Result<u64, StorageError> {
        Ok(0)
    }

    /// A bucket's own address for a blob, where there is one and the blob is worth it.
    async fn direct_url(&self, namespace: &Namespace, digest: &Digest, size: u64) -> Option<DirectUrl>;

    /// Says that blobs may have been removed by others: what is remembered of which are there does not count any more.
    fn doubt(&self) {}

    /// Bytes that are free for blobs, where the storage has an end.
    async fn free_bytes(&self) -> Result<Option<u64>, StorageError>;

    /// Whether the storage answers: the readiness of the service.
    async fn ready(&self) -> Result<(), StorageError>;
}

/// A blob on its way in. Dropping it leaves nothing.
#[async_trait]
pub trait Upload: Send {
    /// Takes the next bytes.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// Makes the blob durable under `digest`, which the caller has verified to be that of all bytes, with the chunk list of one larger than
    /// a chunk. Says whether it is new. When this returns, the blob survives a loss of power.
    async fn commit(self: Box<Self>, digest: &Digest, chunks: Option<Bytes>) -> Result<Committed, StorageError>;
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Whether the blob was not there before.
    pub created: bool,
}

/// The version of a record: opaque, never given twice to different values of one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(pub String);

/// What a writer expects to replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing.
    Absent,
    /// This version.
    Version(Version),
}

/// Where small records are. Keys are `/`-separated words; values are at most some megabytes, and never empty. A write that returned survives a loss of power.
#[async_trait]
pub trait Meta: Send + Sync {
    /// Reads a record.
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StorageError>;

    /// Writes a record, if what is there is what the writer expects.
    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Version, PutError>;

    /// Removes a record. Says whether it was there.
    async fn delete(&self, key: &str) -> Result<bool, StorageError>;

    /// Removes a record, if it is still at `version`: what somebody else wrote meanwhile stays.
    async fn delete_version(&self, key: &str, version: &Version) -> Result<(), PutError>;

    /// The keys that begin with `prefix`, sorted.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError>;
}
