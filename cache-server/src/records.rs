//! Records that more than one part of the service reads and writes: under which key they are, and what is in them.
//!
//! | key | value |
//! |---|---|
//! | `ns/{ns}` | [`preheat_image::api::NamespaceConfig`] |
//! | `removals/{ns}` | `{}`: the namespace is being removed |
//! | `ac/{ns}/{key}` | in a raw namespace [`RawEntry`], else a [`preheat_image::api::StatementList`] of the statements with this key |
//! | `st/{ns}/{subject}` | a [`preheat_image::api::StatementList`] of the statements whose first output this is |
//! | `names/{ns}/current` | the envelope of the names snapshot |
//! | `names/{ns}/{number:012}` | the envelopes of those before it |
//! | `root/current`, `root/{number:012}` | the envelope of the root, and of those before it |
//! | `revocations` | the envelope of the revocation list |
//! | `profiles/{ns}/{source}/{id}` | [`ContributionRecord`]; the contribution itself is a blob of the namespace |
//! | `generations/{ns}/{source}` | [`Generation`] |
//! | `stats/{ns}` | [`Count`] |
//!
//! Digests in keys are 64 hexadecimal digits. `leases/` and `gc/` are the collection's own.

use crate::storage::Namespace;
use preheat_image::Digest;
use preheat_image::api::ProfileReport;
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

/// A contribution to a profile: a blob of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ContributionRecord {
    /// Size in bytes.
    pub(crate) size: u64,
    /// When it came, in seconds since 1970.
    pub(crate) at: u64,
    /// Who brought it.
    pub(crate) by: String,
    /// How many requests it covers; not in records of before contributions were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calls: Option<u64>,
}

/// What was last added up of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// Goes up whenever another set of contributions was added up.
    pub(crate) number: u64,
    /// Stands for the set.
    pub(crate) set: Digest,
    /// The sums of this set, by different rules; the last one made is last. Their bytes are blobs of the namespace.
    pub(crate) sums: Vec<ProfileReport>,
}

/// Before the names of all namespaces' records.
pub(crate) const NAMESPACES: &str = "ns/";
/// The record of the root.
pub(crate) const ROOT_KEY: &str = "root/current";
/// The record of the revocation list.
pub(crate) const REVOCATIONS_KEY: &str = "revocations";

/// The record of a namespace.
pub(crate) fn namespace_key(namespace: &Namespace) -> String {
    format!("{NAMESPACES}{namespace}")
}

/// The record that says that a namespace is being removed.
pub(crate) fn removal_key(namespace: &Namespace) -> String {
    format!("removals/{namespace}")
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

/// The record of an earlier names snapshot.
pub(crate) fn old_names_key(namespace: &Namespace, number: u64) -> String {
    format!("names/{namespace}/{number:012}")
}

/// The record of an earlier root.
pub(crate) fn root_key(number: u64) -> String {
    format!("root/{number:012}")
}

/// Before the ids of the contributions to the profile of a source.
pub(crate) fn contributions_prefix(namespace: &Namespace, source: &Digest) -> String {
    format!("profiles/{namespace}/{}/", source.hex())
}

/// The record of a contribution.
pub(crate) fn contribution_key(namespace: &Namespace, source: &Digest, id: &Digest) -> String {
    format!("{}{}", contributions_prefix(namespace, source), id.hex())
}

/// The record of what was last added up of a profile.
pub(crate) fn generation_key(namespace: &Namespace, source: &Digest) -> String {
    format!("generations/{namespace}/{}", source.hex())
}
