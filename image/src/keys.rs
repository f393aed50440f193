//! Builders' ed25519 keys: making, writing, reading, signing, verifying.

use crate::{Digest, FormatError};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::fmt;

const FORMAT: &str = "builder key";
const VERSION: u32 = 1;

/// Names a public key: the SHA-256 of its 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Digest);

impl KeyId {
    /// Reads the text form, that of a digest.
    ///
    /// # Errors
    /// When `text` is not a digest.
    pub fn parse(text: &str) -> Result<Self, crate::InvalidDigest> {
        text.parse().map(Self)
    }

    /// The 64 hexadecimal digits without `sha256:`, for the names of files.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.hex()
    }
}

impl From<Digest> for KeyId {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl From<KeyId> for Digest {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A public key that can tell whether a signature is its own.
///
/// Holds the encoded point; decoding it costs as much as a cold start may, so it waits until a signature is there to be verified.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key of these 32 bytes. Bytes that are no point of the curve verify nothing.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(Digest::of(&self.0))
    }

    /// Whether `signature` is this key's over `message`. Strict: no malleable signature, no weak key (RFC 8032 section 5.1.7 and the
    /// checks that ed25519-dalek adds under `verify_strict`).
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(&self.0), Signature::from_slice(signature)) else { return false };
        key.verify_strict(message, &signature).is_ok()
    }

    /// The 32 bytes in base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.0)
    }

    /// Reads what [`PublicKey::to_base64`] writes.
    ///
    /// # Errors
    /// When `text` is not base64 of 32 bytes. Bytes that are no point of the curve verify nothing.
    pub fn from_base64(text: &str) -> Result<Self, FormatError> {
        let damaged = |what: &str| FormatError::Damaged { format: FORMAT, what: what.to_owned() };
        let bytes = BASE64.decode(text).map_err(|_| damaged("the public key is not base64"))?;
        bytes.try_into().map(Self).map_err(|_| damaged("the public key has not 32 bytes"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_base64())
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text).map_err(serde::de::Error::custom)
    }
}

/// Something that signs: a key in memory, or a command that asks a key in a KMS or an HSM.
pub trait Signer {
    /// The public half of the key that signs.
    fn public(&self) -> PublicKey;

    /// Signs `message` with ed25519 (RFC 8032).
    ///
    /// # Errors
    /// When whoever holds the key does not sign.
    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError>;
}

/// Why nothing was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("can't sign with key {key}: {what}")]
pub struct SignError {
    /// The key that should have signed.
    pub key: KeyId,
    /// What went wrong.
    pub what: String,
}

impl Signer for SecretKey {
    fn public(&self) -> PublicKey {
        Self::public(self)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], SignError> {
        Ok(Self::sign(self, message))
    }
}

/// A builder's secret key.
pub struct SecretKey(SigningKey);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    version: u32,
    algorithm: String,
    public: String,
    secret: String,
}

impl SecretKey {
    /// Makes a key from 32 bytes of a cryptographic random source.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; the same message always gives the same 64 bytes (RFC 8032).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The key file: JSON with the secret in base64.
    #[must_use]
    pub fn to_file(&self) -> Vec<u8> {
        let file = KeyFile {
            version: VERSION,
            algorithm: "ed25519".into(),
            public: self.public().to_base64(),
            secret: BASE64.encode(self.0.to_bytes()),
        };
        let mut bytes = serde_json::to_vec_pretty(&file).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`SecretKey::to_file`] writes.
    ///
    /// # Errors
    /// When the bytes are no key file of this version, or the halves do not belong together. The error never shows the secret.
    pub fn from_file(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |what: &str| FormatError::Damaged { format: FORMAT, what: what.to_owned() };
        let file: KeyFile = serde_json::from_slice(bytes).map_err(|e| damaged(&format!("line {}, column {}", e.line(), e.column())))?;
        if file.version != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: file.version, supported: VERSION });
        }
        if file.algorithm != "ed25519" {
            return Err(damaged("the algorithm is not ed25519"));
        }
        let seed = BASE64.decode(&file.secret).map_err(|_| damaged("the secret is not base64"))?;
        let key = Self::from_seed(seed.try_into().map_err(|_| damaged("the secret has not 32 bytes"))?);
        if key.public().to_base64() != file.public {
            return Err(damaged("the public key does not belong to the secret"));
        }
        Ok(key)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_rfc_8032_says() {
        // RFC 8032 section 7.1, test 2: a one-byte message.
        let seed = [
            0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11, 0x4e, 0x0f, 0x5b, 0x8a, 0x31, 0x9f, 0x35,
            0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed, 0x4f, 0xb8, 0xa6, 0xfb,
        ];
        let key = SecretKey::from_seed(seed);
        let signature = key.sign(&[0x72]);
        assert_eq!(signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(key.public().verifies(&[0x72], &signature));
        assert!(!key.public().verifies(&[0x73], &signature));
        assert!(!key.public().verifies(&[0x72], &signature[..63]));
        assert!(!SecretKey::from_seed([1; 32]).public().verifies(&[0x72], &signature));
    }

    #[test]
    fn a_key_file_leads_back_and_damage_is_seen() {
        let key = SecretKey::from_seed([7; 32]);
        let file = key.to_file();
        assert_eq!(SecretKey::from_file(&file).unwrap().public(), key.public());
        let text = String::from_utf8(file).unwrap();
        assert!(SecretKey::from_file(text.replace("ed25519", "rsa").as_bytes()).is_err());
        assert!(
            SecretKey::from_file(text.replace("\"version\": 1", "\"version\": 9").as_bytes())
                .unwrap_err()
                .to_string()
                .contains("version 9")
        );
        let other = SecretKey::from_seed([8; 32]).public().to_base64();
        assert!(SecretKey::from_file(text.replace(&key.public().to_base64(), &other).as_bytes()).is_err());
    }
}
