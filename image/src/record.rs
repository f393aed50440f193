//! Records: what a store remembers about a digest that statements cover, or about a key that was built.
//!
//! A record is written when a statement enters the store, after its signature was verified; the loader judges it at every load. It is JSON.

use crate::keys::KeyId;
use crate::manifest::Descriptor;
use crate::statement::Kind;
use crate::{Digest, FormatError, Statement, key};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that a record may have.
pub const MAX_SIZE: usize = 4 * 1024 * 1024;

const FORMAT: &str = "store record";
const VERSION: u32 = 1;

/// What the store knew about a blob's file when it last hashed it. A file that still looks the same has not been written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// One verified statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    /// The key that signed.
    pub signer: KeyId,
    /// The blob with the signed statement.
    pub statement: Digest,
    /// What the statement is about.
    pub kind: Kind,
    /// The namespace for which it speaks.
    pub namespace: String,
    /// The key under which its outputs were built.
    pub key: Digest,
    /// What was built from.
    pub source: Option<Digest>,
    /// The build of the compiler, empty where none took part.
    pub build_id: String,
    /// What it vouches for.
    pub outputs: Vec<Descriptor>,
}

impl Signed {
    /// The facts of a statement whose signature by `signer` was verified, kept in the blob `blob`.
    #[must_use]
    pub fn new(statement: &Statement, signer: KeyId, blob: Digest) -> Self {
        Self {
            signer,
            statement: blob,
            kind: statement.kind,
            namespace: statement.namespace.clone(),
            key: statement.key,
            source: statement.source,
            build_id: statement.fields.get(key::field::BUILD_ID).unwrap_or_default().to_owned(),
            outputs: statement.outputs.clone(),
        }
    }

    /// Whether the statement vouches for the blob `digest`.
    #[must_use]
    pub fn covers(&self, digest: &Digest) -> bool {
        self.outputs.iter().any(|output| output.digest == *digest)
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Version of this format, 1.
    pub version: u32,
    /// The digest or the key that the record is about.
    pub subject: Digest,
    /// The statements, ordered by signer and statement.
    pub statements: Vec<Signed>,
    /// What the files of the blobs looked like when they were last hashed, by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub seals: BTreeMap<Digest, Seal>,
    /// For an image: its code objects, and their chunk lists, that were left where the image came from because this host has no use for
    /// them. They need not be there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub left_out: BTreeSet<Digest>,
}

impl Record {
    /// A record without statements.
    #[must_use]
    pub fn new(subject: Digest) -> Self {
        Self { version: VERSION, subject, statements: Vec::new(), seals: BTreeMap::new(), left_out: BTreeSet::new() }
    }

    /// Adds a statement, unless it is there.
    pub fn add(&mut self, signed: Signed) {
        let order = |signed: &Signed| (signed.signer, signed.statement);
        if let Err(place) = self.statements.binary_search_by_key(&order(&signed), order) {
            self.statements.insert(place, signed);
        }
    }

    /// The bytes of the record.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record about `subject`.
    ///
    /// # Errors
    /// When the bytes are no record of this version, or one about something else.
    pub fn parse(bytes: &[u8], subject: &Digest) -> Result<Self, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if bytes.len() > MAX_SIZE {
            return Err(damaged(format!("{} bytes, at most {MAX_SIZE} allowed", bytes.len())));
        }
        let record: Self = serde_json::from_slice(bytes).map_err(|error| {
            #[derive(Deserialize)]
            struct Versioned {
                version: u32,
            }
            match serde_json::from_slice::<Versioned>(bytes) {
                Ok(versioned) if versioned.version != VERSION => {
                    FormatError::Version { format: FORMAT, found: versioned.version, supported: VERSION }
                }
                _ => damaged(error.to_string()),
            }
        })?;
        if record.version != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: record.version, supported: VERSION });
        }
        if record.subject != *subject {
            return Err(damaged(format!("it is about {}, not about {subject}", record.subject)));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;
    use crate::{KeyFields, media};

    fn signed(seed: u8) -> Signed {
        let fields = KeyFields::new().with(key::field::KIND, "image").with(key::field::BUILD_ID, "b1");
        let statement = Statement::new(Kind::Image, "local", fields, vec![Descriptor::of(media::MANIFEST, b"m")]);
        Signed::new(&statement, SecretKey::from_seed([seed; 32]).public().id(), Digest::of(&[seed]))
    }

    #[test]
    fn order_of_adding_does_not_matter_and_twice_is_once() {
        let (mut a, mut b) = (Record::new(Digest::of(b"m")), Record::new(Digest::of(b"m")));
        for seed in [1, 2, 3, 2] {
            a.add(signed(seed));
        }
        for seed in [3, 1, 2] {
            b.add(signed(seed));
        }
        assert_eq!(a, b);
        assert_eq!(a.statements.len(), 3);
        assert!(a.statements[0].covers(&Digest::of(b"m")) && !a.statements[0].covers(&Digest::of(b"n")));
        assert_eq!(Record::parse(&a.to_bytes(), &Digest::of(b"m")).unwrap(), a);
    }

    #[test]
    fn what_was_left_out_is_only_written_where_something_was() {
        let mut record = Record::new(Digest::of(b"m"));
        record.add(signed(1));
        assert!(!String::from_utf8(record.to_bytes()).unwrap().contains("leftOut"));
        record.left_out.insert(Digest::of(b"code"));
        assert_eq!(Record::parse(&record.to_bytes(), &Digest::of(b"m")).unwrap(), record);
    }

    #[test]
    fn a_record_about_something_else_is_refused() {
        let mut record = Record::new(Digest::of(b"m"));
        record.add(signed(1));
        assert!(matches!(Record::parse(&record.to_bytes(), &Digest::of(b"other")), Err(FormatError::Damaged { .. })));
        record.version = 7;
        assert!(matches!(Record::parse(&record.to_bytes(), &Digest::of(b"m")), Err(FormatError::Version { found: 7, .. })));
    }
}
