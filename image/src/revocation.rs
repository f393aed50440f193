//! The revocation list of an installation: what is no longer to be loaded, whoever vouches for it.
//!
//! Numbered like everything that must not go back, and with an end, so that a reader who gets no newer one notices.

use crate::keys::KeyId;
use crate::signed::{Document, SignedDocument, SignedError, check_time};
use crate::{Digest, media};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What is revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RevocationList {
    /// Version of this format, 1.
    pub version: u32,
    /// The installation that it is for.
    pub installation: String,
    /// Higher each time.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// Builders' keys.
    #[serde(default)]
    pub keys: BTreeSet<KeyId>,
    /// Builds of compilers.
    #[serde(default)]
    pub build_ids: BTreeSet<String>,
    /// Digests of Wasm sources.
    #[serde(default)]
    pub sources: BTreeSet<Digest>,
    /// Digests of blobs.
    #[serde(default)]
    pub blobs: BTreeSet<Digest>,
    /// For people: why, by the text of what is revoked.
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
}

impl Document for RevocationList {
    const FORMAT: &'static str = "revocation list";
    const MEDIA_TYPE: &'static str = media::REVOCATIONS_PAYLOAD;
    const VERSION: u32 = 1;
    const MAX_SIZE: usize = 16 * 1024 * 1024;

    fn check(&self) -> Result<(), String> {
        if self.number == 0 {
            return Err("lists are numbered from 1 on".into());
        }
        if self.build_ids.contains("") {
            return Err("it revokes the build without a name, which is every artefact that no compiler made".into());
        }
        Ok(())
    }
}

impl RevocationList {
    /// Whether its time is not over at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`SignedError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), SignedError> {
        check_time(Self::FORMAT, self.expires, now)
    }
}

/// A list in its envelope.
pub type SignedRevocations = SignedDocument<RevocationList>;

impl SignedRevocations {
    /// Whether this may take the place of `known`: of the same installation, with a higher number or the same document, and with all that
    /// the known one revokes. A revocation is never taken back.
    ///
    /// # Errors
    /// [`SignedError::NotNext`].
    pub fn check_after(&self, known: &SignedRevocations) -> Result<(), SignedError> {
        let (new, old) = (self.unverified(), known.unverified());
        let not_next = |what: String| Err(SignedError::NotNext { format: RevocationList::FORMAT, what });
        if new.installation != old.installation {
            return not_next(format!("it is of `{}`, not of `{}`", new.installation, old.installation));
        }
        if new.number < old.number || new.number == old.number && self.digest() != known.digest() {
            return not_next(format!("it has number {}, and {} was seen already", new.number, old.number));
        }
        let whole = new.keys.is_superset(&old.keys)
            && new.build_ids.is_superset(&old.build_ids)
            && new.sources.is_superset(&old.sources)
            && new.blobs.is_superset(&old.blobs);
        if whole { Ok(()) } else { not_next("it lacks something that was revoked".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    fn list(number: u64, build_ids: &[&str]) -> RevocationList {
        RevocationList {
            version: 1,
            installation: "here".into(),
            number,
            issued: 1,
            expires: 100,
            build_ids: build_ids.iter().map(|id| (*id).to_owned()).collect(),
            ..RevocationList::default()
        }
    }

    fn signed(list: RevocationList) -> SignedRevocations {
        SignedRevocations::new(list).unwrap().sign(&SecretKey::from_seed([1; 32])).unwrap()
    }

    #[test]
    fn lists_only_grow() {
        let old = signed(list(3, &["a"]));
        assert_eq!(SignedRevocations::parse(&old.to_bytes()).unwrap(), old);
        assert_eq!(old.check_after(&old), Ok(()));
        assert_eq!(signed(list(7, &["a", "b"])).check_after(&old), Ok(()));
        assert!(signed(list(4, &["b"])).check_after(&old).is_err(), "lost one");
        assert!(signed(list(2, &["a"])).check_after(&old).is_err(), "went back");
        assert!(signed(list(3, &["a", "b"])).check_after(&old).is_err(), "two with one number");
        let mut elsewhere = list(4, &["a"]);
        elsewhere.installation = "there".into();
        assert!(signed(elsewhere).check_after(&old).is_err());
    }

    #[test]
    fn the_empty_build_is_not_revoked_by_accident() {
        assert!(SignedRevocations::new(list(1, &[""])).is_err());
        assert!(SignedRevocations::new(list(0, &["a"])).is_err());
    }
}
