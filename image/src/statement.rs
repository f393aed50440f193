//! Statements: what a builder signs. A statement binds meaning, not only bytes: which kind of thing was built, from which fields (so that
//! its key can be computed again), from which source, with which outputs, for which namespace.
//!
//! The envelope is that of DSSE (Dead Simple Signing Envelope, protocol version 1): the signature is over
//! `DSSEv1 <length of type> <type> <length of payload> <payload>`, which separates our statements from all else that a key may sign.

use crate::keys::{KeyId, PublicKey, SecretKey, SignError, Signer};
use crate::manifest::Descriptor;
use crate::signed::{EnvelopeFile, Opened, pre_authentication_encoding, read_payload};
use crate::{Digest, FormatError, KeyFields, media};
use serde::{Deserialize, Serialize};

/// Most bytes that an envelope may have.
pub const MAX_SIZE: usize = 1024 * 1024;

const FORMAT: &str = "statement";
const VERSION: u32 = 1;

/// What kind of thing a statement is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Machine code for one module, engine, target, CPU level, compiler build and profile.
    CodeObject,
    /// An image: its manifest, and all executable artefacts that the manifest names.
    Image,
}

impl Kind {
    /// The text of this kind in statements and keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CodeObject => "code-object",
            Self::Image => "image",
        }
    }
}

/// What a builder says about a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    /// Version of this format, 1.
    pub version: u32,
    /// What kind of thing was built.
    pub kind: Kind,
    /// The namespace for which it was built.
    pub namespace: String,
    /// The key: the digest over `fields`.
    pub key: Digest,
    /// Everything that could change the outputs.
    pub fields: KeyFields,
    /// Digest of what was built from, where there is one source.
    pub source: Option<Digest>,
    /// What was made. For an image the manifest comes first.
    pub outputs: Vec<Descriptor>,
}

/// Why an envelope is not a good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The bytes are no envelope with a statement of this version.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The key does not follow from the fields.
    #[error("the statement claims key {claimed}, but its fields have key {computed}")]
    WrongKey {
        /// The key in the statement.
        claimed: Digest,
        /// The key over its fields.
        computed: Digest,
    },
    /// No signature is by a key that the reader knows.
    #[error("signed by unknown key {0}; if you trust this builder, add its public key to the trust policy")]
    UnknownSigner(KeyId),
    /// A signature claims a key that did not make it.
    #[error("the signature by key {0} is wrong: the statement was changed after signing, or never signed by that key")]
    WrongSignature(KeyId),
}

/// A statement, the bytes that were signed, and the one signature over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    statement: Statement,
    payload: Vec<u8>,
    signer: KeyId,
    signature: Vec<u8>,
}

impl Statement {
    /// A statement about `outputs`, made from `fields`. Its key and its source are those of the fields.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, fields: KeyFields, outputs: Vec<Descriptor>) -> Self {
        let source = fields.get(crate::key::field::SOURCE).and_then(|text| text.parse().ok());
        Self { version: VERSION, kind, namespace: namespace.to_owned(), key: fields.key(), fields, source, outputs }
    }

    /// Signs this statement with a key that is here.
    #[must_use]
    pub fn sign(self, key: &SecretKey) -> Envelope {
        let payload = self.payload();
        let signature = key.sign(&pre_authentication_encoding(media::STATEMENT_PAYLOAD, &payload)).to_vec();
        Envelope { statement: self, payload, signer: key.public().id(), signature }
    }

    /// Signs this statement with whatever signs.
    ///
    /// # Errors
    /// When the signer fails.
    pub fn sign_with(self, signer: &dyn Signer) -> Result<Envelope, SignError> {
        let payload = self.payload();
        let signature = signer.sign(&pre_authentication_encoding(media::STATEMENT_PAYLOAD, &payload))?.to_vec();
        Ok(Envelope { statement: self, payload, signer: signer.public().id(), signature })
    }

    fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Envelope {
    /// Reads an envelope and checks all but its signature: type, version, and that the key follows from the fields.
    ///
    /// # Errors
    /// When the bytes are no such envelope.
    pub fn parse(bytes: &[u8]) -> Result<Self, StatementError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        let Opened { payload, signatures } = EnvelopeFile::open(FORMAT, media::STATEMENT_PAYLOAD, MAX_SIZE, bytes)?;
        let statement: Statement = read_payload(FORMAT, VERSION, &payload)?;
        let computed = statement.fields.key();
        if computed != statement.key {
            return Err(StatementError::WrongKey { claimed: statement.key, computed });
        }
        if statement.fields.get(crate::key::field::KIND) != Some(statement.kind.name()) {
            return Err(damaged("its kind is not that of its fields".into()).into());
        }
        let source = statement.fields.get(crate::key::field::SOURCE).filter(|text| !text.is_empty());
        if source != statement.source.map(|digest| digest.to_string()).as_deref() {
            return Err(damaged("its source is not that of its fields".into()).into());
        }
        if statement.outputs.is_empty() {
            return Err(damaged("it has no outputs".into()).into());
        }
        let Ok([(signer, signature)]) = <[_; 1]>::try_from(signatures) else {
            return Err(damaged("it has not one signature".into()).into());
        };
        Ok(Self { statement, payload, signer, signature })
    }

    /// The bytes of the envelope: JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        EnvelopeFile::write(media::STATEMENT_PAYLOAD, &self.payload, [(self.signer, self.signature.as_slice())])
    }

    /// The key that claims to have signed.
    #[must_use]
    pub fn signer(&self) -> KeyId {
        self.signer
    }

    /// The statement, whoever signed it.
    #[must_use]
    pub fn unverified(&self) -> &Statement {
        &self.statement
    }

    /// The statement, if one of `keys` signed it.
    ///
    /// # Errors
    /// [`StatementError::UnknownSigner`] when the signer is none of `keys`, [`StatementError::WrongSignature`] when it is one but
    /// the signature does not fit.
    pub fn verify<'k>(&self, keys: impl IntoIterator<Item = &'k PublicKey>) -> Result<&Statement, StatementError> {
        let key = keys.into_iter().find(|key| key.id() == self.signer).ok_or(StatementError::UnknownSigner(self.signer))?;
        if key.verifies(&pre_authentication_encoding(media::STATEMENT_PAYLOAD, &self.payload), &self.signature) {
            Ok(&self.statement)
        } else {
            Err(StatementError::WrongSignature(self.signer))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::field;

    fn example() -> Statement {
        let fields =
            KeyFields::new().with(field::KIND, "code-object").with(field::SOURCE, Digest::of(b"wasm")).with(field::CPU, "x86-64-v2");
        Statement::new(Kind::CodeObject, "local", fields, vec![Descriptor::of(media::CODE, b"code")])
    }

    #[test]
    fn the_encoding_is_that_of_dsse() {
        let payload = b"hello";
        let kind = media::STATEMENT_PAYLOAD;
        assert_eq!(pre_authentication_encoding(kind, payload), format!("DSSEv1 {} {kind} 5 hello", kind.len()).into_bytes());
    }

    #[test]
    fn signed_and_read_again() {
        let key = SecretKey::from_seed([1; 32]);
        let envelope = example().sign(&key);
        let read = Envelope::parse(&envelope.to_bytes()).unwrap();
        assert_eq!(read, envelope);
        assert_eq!(read.verify([&key.public()]).unwrap(), &example());
        assert_eq!(example().sign(&key).to_bytes(), envelope.to_bytes(), "the same statement has the same envelope");
    }

    #[test]
    fn another_key_or_a_changed_payload_is_refused() {
        let (key, other) = (SecretKey::from_seed([1; 32]), SecretKey::from_seed([2; 32]));
        let envelope = example().sign(&key);
        assert_eq!(envelope.verify([&other.public()]), Err(StatementError::UnknownSigner(key.public().id())));
        let mut renamed = envelope.clone();
        renamed.signer = other.public().id();
        assert_eq!(renamed.verify([&other.public()]), Err(StatementError::WrongSignature(other.public().id())));
        let mut statement = example();
        statement.namespace = "production".into();
        let mut moved = envelope;
        moved.payload = serde_json::to_vec(&statement).unwrap();
        assert_eq!(moved.verify([&key.public()]), Err(StatementError::WrongSignature(key.public().id())));
    }

    #[test]
    fn a_key_that_does_not_follow_from_the_fields_is_refused_even_if_signed() {
        let key = SecretKey::from_seed([1; 32]);
        let mut statement = example();
        statement.key = Digest::of(b"another");
        let bytes = statement.sign(&key).to_bytes();
        assert!(matches!(Envelope::parse(&bytes), Err(StatementError::WrongKey { .. })));
        let mut statement = example();
        statement.source = Some(Digest::of(b"another"));
        assert!(Envelope::parse(&statement.sign(&key).to_bytes()).is_err());
        let mut statement = example();
        statement.kind = Kind::Image;
        assert!(Envelope::parse(&statement.sign(&key).to_bytes()).is_err());
    }

    #[test]
    fn a_newer_version_is_named() {
        let key = SecretKey::from_seed([1; 32]);
        let mut statement = example();
        statement.version = 2;
        let error = Envelope::parse(&statement.sign(&key).to_bytes()).unwrap_err().to_string();
        assert!(error.contains("version 2") && error.contains("version 1"), "{error}");
    }
}
