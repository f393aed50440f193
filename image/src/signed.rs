//! Signed documents: the envelope of DSSE (Dead Simple Signing Envelope, protocol version 1) with one or more signatures, and the documents
//! that travel in it beside [statements](crate::statement): [`Root`](crate::root::Root), [`Names`](crate::names::Names) and
//! [`RevocationList`](crate::revocation::RevocationList).
//!
//! A signature is over `DSSEv1 <length of type> <type> <length of payload> <payload>`, where the type is the media type of the payload. So
//! what was signed as one kind of document can never be taken for another, whatever its bytes.

use crate::keys::{KeyId, PublicKey, SignError, Signer};
use crate::{Digest, FormatError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most signatures that an envelope may have.
pub const MAX_SIGNATURES: usize = 64;

/// The envelope as it is written.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EnvelopeFile {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    keyid: KeyId,
    sig: String,
}

/// A payload and the signatures over it, undone from base64.
pub(crate) struct Opened {
    pub(crate) payload: Vec<u8>,
    pub(crate) signatures: Vec<(KeyId, Vec<u8>)>,
}

/// The bytes that a signature is over.
pub(crate) fn pre_authentication_encoding(media_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {media_type} {} ", media_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl EnvelopeFile {
    /// Writes an envelope.
    pub(crate) fn write<'s>(media_type: &str, payload: &[u8], signatures: impl IntoIterator<Item = (KeyId, &'s [u8])>) -> Vec<u8> {
        let signatures = signatures.into_iter().map(|(keyid, sig)| EnvelopeSignature { keyid, sig: BASE64.encode(sig) }).collect();
        let file = Self { payload_type: media_type.to_owned(), payload: BASE64.encode(payload), signatures };
        serde_json::to_vec(&file).unwrap_or_default()
    }

    /// Reads an envelope of at most `max` bytes whose payload is of `media_type`, and looks at nothing in the payload.
    pub(crate) fn open(format: &'static str, media_type: &str, max: usize, bytes: &[u8]) -> Result<Opened, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format, what };
        if bytes.len() > max {
            return Err(damaged(format!("{} bytes, at most {max} allowed", bytes.len())));
        }
        let file: Self = serde_json::from_slice(bytes).map_err(|e| FormatError::NotThisFormat { format, found: e.to_string() })?;
        if file.payload_type != media_type {
            return Err(FormatError::NotThisFormat { format, found: file.payload_type.chars().take(100).collect() });
        }
        let payload = BASE64.decode(&file.payload).map_err(|_| damaged("the payload is not base64".into()))?;
        if file.signatures.len() > MAX_SIGNATURES {
            return Err(damaged(format!("{} signatures, at most {MAX_SIGNATURES} allowed", file.signatures.len())));
        }
        let mut signatures = Vec::with_capacity(file.signatures.len());
        for EnvelopeSignature { keyid, sig } in file.signatures {
            signatures.push((keyid, BASE64.decode(&sig).map_err(|_| damaged("a signature is not base64".into()))?));
        }
        Ok(Opened { payload, signatures })
    }
}

/// Reads a payload of JSON whose version must be `supported`. Anything else about it is for the caller to check.
pub(crate) fn read_payload<D: DeserializeOwned>(format: &'static str, supported: u32, payload: &[u8]) -> Result<D, FormatError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(payload).map_err(|e| FormatError::NotThisFormat { format, found: e.to_string() })?;
    if version != supported {
        return Err(FormatError::Version { format, found: version, supported });
    }
    serde_json::from_slice(payload).map_err(|e| FormatError::Damaged { format, what: e.to_string() })
}

/// A kind of document that is signed.
pub trait Document: Serialize + DeserializeOwned {
    /// The name of the format, in words.
    const FORMAT: &'static str;
    /// The media type of the payload; it separates signatures over documents of this kind from all others.
    const MEDIA_TYPE: &'static str;
    /// Version of the format: the field `version` that every document has.
    const VERSION: u32;
    /// Most bytes that an envelope may have.
    const MAX_SIZE: usize;

    /// Checks what the types of the fields do not say.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), String>;
}

/// Why a document does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignedError {
    /// The bytes are no such document.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A key signed that is asked for, but its signature does not fit.
    #[error("the signature by key {0} is wrong: the {1} was changed after signing, or never signed by that key")]
    WrongSignature(KeyId, &'static str),
    /// Too few of the keys that count have signed.
    #[error("the {format} has {valid} good signatures of the {needed} that are needed; it is signed by {signers}")]
    TooFewSignatures {
        /// The format, in words.
        format: &'static str,
        /// How many of the keys that count have signed.
        valid: usize,
        /// How many must.
        needed: usize,
        /// The keys that claim to have signed.
        signers: String,
    },
    /// Its time is over.
    #[error("the {format} expired at {expires} (seconds since 1970), and now it is {now}; get a newer one")]
    Expired {
        /// The format, in words.
        format: &'static str,
        /// When it expired.
        expires: u64,
        /// When that was noticed.
        now: u64,
    },
    /// It does not follow the one before it.
    #[error("the {format} does not follow the one that is known: {what}")]
    NotNext {
        /// The format, in words.
        format: &'static str,
        /// Why not.
        what: String,
    },
}

/// A document, the bytes that were signed, and the signatures over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedDocument<D> {
    pub(crate) document: D,
    pub(crate) payload: Vec<u8>,
    pub(crate) signatures: Vec<(KeyId, Vec<u8>)>,
}

impl<D: Document> SignedDocument<D> {
    /// A document with no signature yet.
    ///
    /// # Errors
    /// When the document is not what its kind demands.
    pub fn new(document: D) -> Result<Self, FormatError> {
        document.check().map_err(|what| FormatError::Damaged { format: D::FORMAT, what })?;
        let payload = serde_json::to_vec(&document).unwrap_or_default();
        Ok(Self { document, payload, signatures: Vec::new() })
    }

    /// Adds a signature; one by the same key is replaced. What is signed are the bytes that were read, if they were read.
    ///
    /// # Errors
    /// When the signer fails.
    pub fn sign(mut self, signer: &dyn Signer) -> Result<Self, SignError> {
        let signature = signer.sign(&pre_authentication_encoding(D::MEDIA_TYPE, &self.payload))?;
        let id = signer.public().id();
        self.signatures.retain(|(other, _)| *other != id);
        self.signatures.push((id, signature.to_vec()));
        self.signatures.sort();
        Ok(self)
    }

    /// Reads an envelope and checks all but its signatures.
    ///
    /// # Errors
    /// When the bytes are no envelope of such a document.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let opened = EnvelopeFile::open(D::FORMAT, D::MEDIA_TYPE, D::MAX_SIZE, bytes)?;
        let document: D = read_payload(D::FORMAT, D::VERSION, &opened.payload)?;
        document.check().map_err(|what| FormatError::Damaged { format: D::FORMAT, what })?;
        Ok(Self { document, payload: opened.payload, signatures: opened.signatures })
    }

    /// The bytes of the envelope: JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        EnvelopeFile::write(D::MEDIA_TYPE, &self.payload, self.signatures.iter().map(|(id, signature)| (*id, signature.as_slice())))
    }

    /// The digest of the payload: names this document, whoever signs it.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.payload)
    }

    /// The document, whoever signed it.
    #[must_use]
    pub fn unverified(&self) -> &D {
        &self.document
    }

    /// The keys that claim to have signed.
    pub fn signers(&self) -> impl Iterator<Item = KeyId> {
        self.signatures.iter().map(|(id, _)| *id)
    }

    /// The document, if at least `threshold` different keys of `keys` signed it; a threshold of zero is taken for one.
    ///
    /// # Errors
    /// [`SignedError::WrongSignature`] when one of `keys` is named but did not sign, [`SignedError::TooFewSignatures`].
    pub fn verify<'k>(&self, keys: impl IntoIterator<Item = &'k PublicKey>, threshold: usize) -> Result<&D, SignedError> {
        let keys: Vec<&PublicKey> = keys.into_iter().collect();
        let message = pre_authentication_encoding(D::MEDIA_TYPE, &self.payload);
        let mut valid = BTreeSet::new();
        for (id, signature) in &self.signatures {
            if let Some(key) = keys.iter().find(|key| key.id() == *id) {
                if !key.verifies(&message, signature) {
                    return Err(SignedError::WrongSignature(*id, D::FORMAT));
                }
                valid.insert(*id);
            }
        }
        let needed = threshold.max(1);
        if valid.len() < needed {
            let signers: Vec<String> = self.signers().map(|id| id.to_string()).collect();
            let signers = if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") };
            return Err(SignedError::TooFewSignatures { format: D::FORMAT, valid: valid.len(), needed, signers });
        }
        Ok(&self.document)
    }
}

/// Refuses a document whose time is over at `now` (seconds since 1970).
///
/// # Errors
/// [`SignedError::Expired`] from the second `expires` on.
pub(crate) fn check_time(format: &'static str, expires: u64, now: u64) -> Result<(), SignedError> {
    if now >= expires { Err(SignedError::Expired { format, expires, now }) } else { Ok(()) }
}
