//! Build keys: everything that can change what a build makes, as named fields, and the digest over them.
//!
//! The digest is the SHA-256 of `preheat-key-v1\0`, then for each field in the byte order of its name: length of the name (4 bytes,
//! little-endian), name, length of the value (8 bytes, little-endian), value.

use crate::{Digest, DigestHasher};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The names of the fields that keys have. A field that has no value has the empty text, so that "none" and "forgotten" differ.
pub mod field {
    /// What is built: `code-object` or `image`.
    pub const KIND: &str = "kind";
    /// Digest of the Wasm bytes.
    pub const SOURCE: &str = "source";
    /// The engine that runs the code.
    pub const ENGINE: &str = "engine";
    /// Why an image is for this engine and not for the one that would have been preferred.
    pub const ENGINE_REASON: &str = "engine-reason";
    /// The target triple.
    pub const TARGET: &str = "target";
    /// The CPU level.
    pub const CPU: &str = "cpu";
    /// The compiler with its full version.
    pub const COMPILER: &str = "compiler";
    /// Digest over all that went into this build of the compiler.
    pub const BUILD_ID: &str = "build-id";
    /// The Wasm features that are switched on.
    pub const FEATURES: &str = "features";
    /// All options of the compiler, as text that people can read.
    pub const OPTIONS: &str = "options";
    /// Digest over the engine's own account of its compatibility-relevant options.
    pub const OPTIONS_DIGEST: &str = "options-digest";
    /// Digest of the profile that steered the compiler.
    pub const PROFILE: &str = "profile";
    /// Of a resume object: digest of the code object to which it belongs.
    pub const BASE: &str = "base";
    /// Of a resume object: where the program is frozen, `FUNCTION:OFFSET` (`FUNCTION:import` for an imported function), ascending, joined by
    /// blanks.
    pub const SITES: &str = "sites";
    /// Of a frozen image: how it was frozen, a JSON object.
    pub const FREEZE: &str = "freeze";
    /// Of a frozen image: what it read before it was frozen, a JSON object from path to digest.
    pub const FILES: &str = "files";
    /// Of an image that took the place of another: digest of the evidence for which it did.
    pub const EVIDENCE: &str = "evidence";
    /// How the function is called: a JSON array of its kind and its name.
    pub const FUNCTION: &str = "function";
    /// Arguments that are part of the image, a JSON array.
    pub const ARGS: &str = "args";
    /// Environment variables that are part of the image, a JSON object.
    pub const ENV: &str = "env";
    /// Keys of the code objects, a JSON object from CPU level to key.
    pub const CODE: &str = "code";
    /// Other artefacts, a JSON array: of an image of Wasm the media types of what is kept beside the code, of another image pairs of
    /// media type and digest.
    pub const ARTEFACTS: &str = "artefacts";
}

/// Named fields and their digest, the key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyFields(BTreeMap<String, String>);

impl KeyFields {
    /// No fields yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a field, replacing the value that it had.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> Digest {
        let mut hasher = DigestHasher::new();
        hasher.update(b"preheat-key-v1\0");
        for (name, value) in &self.0 {
            // A field's name is one of ours or came out of a size-limited statement; saturating keeps the encoding total.
            hasher.update(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value.as_bytes());
        }
        hasher.finalize()
    }

    /// The fields in which two keys differ: name, value here, value there.
    #[must_use]
    pub fn differences<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, Option<&'a str>, Option<&'a str>)> {
        let names: std::collections::BTreeSet<&str> = self.0.keys().chain(other.0.keys()).map(String::as_str).collect();
        names.into_iter().map(|name| (name, self.get(name), other.get(name))).filter(|(_, here, there)| here != there).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_encoding_is_the_one_of_the_specification() {
        let mut bytes = b"preheat-key-v1\0".to_vec();
        for (name, value) in [("cpu", "x86-64-v2"), ("kind", "")] {
            bytes.extend(u32::try_from(name.len()).unwrap().to_le_bytes());
            bytes.extend(name.as_bytes());
            bytes.extend((value.len() as u64).to_le_bytes());
            bytes.extend(value.as_bytes());
        }
        assert_eq!(KeyFields::new().with("kind", "").with("cpu", "x86-64-v2").key(), Digest::of(&bytes));
    }

    #[test]
    fn differences_are_named() {
        let a = KeyFields::new().with("cpu", "v2").with("kind", "x").with("only", "1");
        let b = KeyFields::new().with("cpu", "v3").with("kind", "x");
        assert_eq!(a.differences(&b), vec![("cpu", Some("v2"), Some("v3")), ("only", Some("1"), None)]);
        assert!(a.differences(&a).is_empty());
    }

    proptest! {
        #[test]
        fn other_fields_have_another_key(a: BTreeMap<String, String>, b: BTreeMap<String, String>) {
            let (a, b) = (KeyFields(a), KeyFields(b));
            prop_assert_eq!(a == b, a.key() == b.key());
        }
    }
}
