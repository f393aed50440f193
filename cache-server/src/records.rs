//! Records that more than one part of the service reads and writes: under which key they are, and what is in them.
//!
//! | key | value |
//! |---|---|
//! | `ns/{ns}` | [`preheat_image::api::NamespaceConfig`] |
//! | `ac/{ns}/{key}` | in a raw namespace [`RawEntry`], else a [`preheat_image::api::StatementList`] of the statements with this key |
//! | `st/{ns}/{subject}` | a [`preheat_image::api::StatementList`] of the statements whose first output this is |
//! | `stats/{ns}` | [`Count`] |
//! | `names/{ns}/current`, `names/{ns}/{number:012}` | the envelope of a names snapshot |
//!
//! Digests in keys are 64 hexadecimal digits. `leases/` and `gc/` are the collection's own.

use crate::storage::Namespace;
use preheat_image::Digest;
use serde::{Deserialize, Serialize};

/// An entry of a raw namespace: its value is a blob of that namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEntry {
    /// Digest of the value.
    pub(crate) digest: Digest,
    /// Size of the value in bytes.
    pub(crate) size: u64,
}

/// What a namespace held when it was last counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Count {
    pub(crate) blobs: u64,
    /// In blobs, without what lies beside them.
    pub(crate) bytes: u64,
    /// In seconds since 1970.
    pub(crate) counted_at: u64,
    /// When the oldest blob was written, in seconds since 1970.
    pub(crate) oldest: u64,
}

/// The record of what a namespace holds.
pub(crate) fn count_key(namespace: &Namespace) -> String {
    format!("stats/{namespace}")
}

/// The record of an entry.
pub(crate) fn entry_key(namespace: &Namespace, key: &Digest) -> String {
    format!("ac/{namespace}/{}", key.hex())
}

/// The record of the statements about a subject.
pub(crate) fn statements_key(namespace: &Namespace, subject: &Digest) -> String {
    format!("st/{namespace}/{}", subject.hex())
}

/// The record of the names of a namespace.
pub(crate) fn names_key(namespace: &Namespace) -> String {
    format!("names/{namespace}/current")
}
