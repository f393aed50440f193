//! What a cache and its clients say to each other, beside blobs and signed documents: the JSON of the service's own interface.
//!
//! `openapi.json` of the service describes the requests that carry these.

use crate::keys::PublicKey;
use crate::{Digest, FormatError, Reference};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Most digests in one question for what is missing.
pub const MAX_FIND_MISSING: usize = 10_000;
/// Most statements about one subject or under one key.
pub const MAX_STATEMENTS: usize = 64;
/// Most bytes of a contribution to a profile, as a cache takes it: a [profile](crate::profile::Profile) with that contribution alone. Of 70,000 functions
/// with 20 sites each it has about that much.
pub const MAX_CONTRIBUTION: usize = 8 * 1024 * 1024;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// A stable word for programs, such as `digest-mismatch`.
    pub error: String,
    /// For people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A question: which of these are not there?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindMissing {
    /// The digests, at most [`MAX_FIND_MISSING`].
    pub digests: Vec<Digest>,
}

/// The answer to [`FindMissing`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Those that are not there, in the order of the question. The others stay for at least an hour from now.
    pub missing: Vec<Digest>,
}

/// Signed statements.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatementList {
    statements: Vec<String>,
}

impl StatementList {
    /// A list of envelopes.
    #[must_use]
    pub fn new<E: AsRef<[u8]>>(envelopes: impl IntoIterator<Item = E>) -> Self {
        Self { statements: envelopes.into_iter().map(|envelope| BASE64.encode(envelope)).collect() }
    }

    /// The bytes of the envelopes. They are not verified: that is for whoever uses them.
    ///
    /// # Errors
    /// When one is not base64, or there are more than [`MAX_STATEMENTS`].
    pub fn envelopes(&self) -> Result<Vec<Vec<u8>>, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: "list of statements", what };
        if self.statements.len() > MAX_STATEMENTS {
            return Err(damaged(format!("{} statements, at most {MAX_STATEMENTS} allowed", self.statements.len())));
        }
        self.statements.iter().map(|text| BASE64.decode(text).map_err(|_| damaged("one is not base64".into()))).collect()
    }
}

/// What a namespace is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceKind {
    /// Preheat's own: entries are verified statements.
    Preheat,
    /// Other tools' caches: entries are opaque. Nodes never read it, and it is never a base.
    Raw,
}

/// A builder whom a namespace trusts by its own configuration, beside those to whom the root delegates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceBuilder {
    /// What people call it.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// When that ends, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// How a namespace is set up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamespaceConfig {
    /// What it is for.
    pub kind: NamespaceKind,
    /// The namespace below it that it reads where it has nothing itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Builders that it trusts by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub builders: Vec<NamespaceBuilder>,
    /// Keys that may sign its names by itself, beside those to whom the root delegates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namers: Vec<NamespaceBuilder>,
    /// Whether everybody may read it, if the service allows such namespaces at all.
    #[serde(default)]
    pub anonymous_read: bool,
    /// Size limit in bytes over its blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

impl NamespaceConfig {
    /// A namespace of `kind` with nothing set.
    #[must_use]
    pub fn new(kind: NamespaceKind) -> Self {
        Self { kind, base: None, builders: Vec::new(), namers: Vec::new(), anonymous_read: false, max_bytes: None }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, name: &str) -> Result<(), String> {
        if !Reference::is_namespace(name) {
            return Err(format!("`{}` can't be a namespace", name.escape_default()));
        }
        match (&self.base, self.kind) {
            (Some(base), _) if base == name => Err("a namespace can't be its own base".into()),
            (Some(base), _) if !Reference::is_namespace(base) => Err(format!("`{}` can't be a namespace", base.escape_default())),
            (Some(_), NamespaceKind::Raw) => Err("a raw namespace has no base".into()),
            (None, NamespaceKind::Raw) if !self.builders.is_empty() || !self.namers.is_empty() => {
                Err("a raw namespace trusts nobody: its entries are opaque".into())
            }
            _ => Ok(()),
        }
    }
}

/// A namespace in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRow {
    /// Its name.
    pub name: String,
    /// How it is set up.
    #[serde(flatten)]
    pub config: NamespaceConfig,
}

/// The namespaces that the caller may read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceList {
    /// They, by name.
    pub namespaces: Vec<NamespaceRow>,
}

/// A contribution to a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// Digest of its bytes, which is its name.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// When it came, in seconds since 1970.
    pub at: u64,
    /// Who brought it: the name of a token, a certificate or a CI job.
    pub by: String,
}

/// Contributions to a profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContributionList {
    /// They, by digest.
    pub contributions: Vec<Contribution>,
    /// There are more: ask for those after this digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Digest>,
}

/// How a profile's summary came about, as a cache made it out of the contributions in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileReport {
    /// The module.
    pub source: Digest,
    /// Digest of the summary's bytes.
    pub digest: Digest,
    /// Size of the summary in bytes.
    pub size: u64,
    /// Goes up by one whenever other contributions were added up than before.
    pub generation: u64,
    /// The time as of which contributions were weighed, in seconds since 1970.
    pub now: u64,
    /// After so many seconds a contribution weighs half; 0: it never weighs less.
    pub half_life: u64,
    /// The most that one contributor weighs, in requests; 0: there is no such bound.
    pub cap: u64,
    /// How many contributors it is from.
    pub contributors: u32,
    /// How many contributions.
    pub contributions: u32,
    /// How many contributions were no profiles of this module, or were found damaged.
    pub skipped: u32,
    /// How many contributions are known by their records alone: their bytes were evicted.
    pub evicted: u32,
    /// How many contributions, of those who brought most, were too much to be added up.
    pub left_out: u32,
    /// How many requests the contributions cover.
    pub calls: u64,
    /// How many of these requests were counted; the others were sampled.
    pub counted: u64,
    /// When the oldest contribution came, in seconds since 1970.
    pub oldest: u64,
    /// When the newest contribution came, in seconds since 1970.
    pub newest: u64,
    /// How many functions were seen to run.
    pub called: u64,
    /// Of how many functions anything is known.
    pub functions: u64,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CollectReport {
    /// Whether it only looked.
    pub dry_run: bool,
    /// Blobs that were looked at.
    pub seen: u64,
    /// Blobs that something holds: a name, a lease.
    pub held: u64,
    /// Blobs that were removed.
    pub removed: u64,
    /// Bytes in those.
    pub removed_bytes: u64,
    /// Bytes that stay.
    pub kept_bytes: u64,
}

/// What a cache holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    /// Namespaces that the caller may read.
    pub namespaces: Vec<NamespaceStatistics>,
}

/// What a namespace holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatistics {
    /// Its name.
    pub name: String,
    /// Blobs in it, as last counted; none before the first count.
    pub blobs: Option<u64>,
    /// Bytes in those.
    pub bytes: Option<u64>,
    /// When that was counted, in seconds since 1970.
    pub counted_at: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_survive_the_wire() {
        let list = StatementList::new([b"one".as_slice(), b"two"]);
        let text = serde_json::to_string(&list).unwrap();
        let read: StatementList = serde_json::from_str(&text).unwrap();
        assert_eq!(read.envelopes().unwrap(), vec![b"one".to_vec(), b"two".to_vec()]);
        let bad: StatementList = serde_json::from_str(r#"{"statements":["!"]}"#).unwrap();
        assert!(bad.envelopes().is_err());
        assert!(StatementList::new(vec![b"x"; MAX_STATEMENTS + 1]).envelopes().is_err());
    }

    #[test]
    fn a_namespace_in_a_list_reads_back() {
        let row = NamespaceRow { name: "team".into(), config: NamespaceConfig::new(NamespaceKind::Preheat) };
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<NamespaceRow>(&text).unwrap(), row, "{text}");
    }

    #[test]
    fn a_raw_namespace_has_neither_base_nor_builders() {
        let raw = NamespaceConfig::new(NamespaceKind::Raw);
        assert_eq!(raw.check("ccache"), Ok(()));
        assert!(NamespaceConfig { base: Some("prod".into()), ..raw.clone() }.check("ccache").is_err());
        assert!(raw.check("../x").is_err());
        let preheat = NamespaceConfig { base: Some("prod".into()), ..NamespaceConfig::new(NamespaceKind::Preheat) };
        assert_eq!(preheat.check("pr-1"), Ok(()));
        assert!(preheat.check("prod").is_err());
    }
}
