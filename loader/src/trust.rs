//! Whose statements count: the policy that is judged at every load.

use preheat_image::Digest;
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::record::{Record, Signed};
use preheat_image::statement::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A builder that is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Builder {
    /// What people call it.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// The namespaces for which its statements count; `*` stands for all.
    pub namespaces: Vec<String>,
}

/// What is no longer to be loaded, whoever vouches for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Revocations {
    /// Builders' keys.
    pub keys: BTreeSet<KeyId>,
    /// Builds of compilers.
    pub build_ids: BTreeSet<String>,
    /// Digests of Wasm sources.
    pub sources: BTreeSet<Digest>,
    /// Digests of blobs.
    pub blobs: BTreeSet<Digest>,
}

/// A loading policy: trusted builders less revocations. Nobody is trusted by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustPolicy {
    /// Version of this format, 1.
    pub version: u32,
    /// The builders.
    pub builders: Vec<Builder>,
    /// What is revoked.
    #[serde(default)]
    pub revoked: Revocations,
}

/// Why a policy refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody vouches for it.
    #[error("no statement vouches for it; build it here, or get it with its statement")]
    NoStatement,
    /// Somebody vouches for it whom the policy does not trust.
    #[error("it is vouched for by unknown key {0} only; if you trust this builder, add its public key to trust.json")]
    UnknownSigner(KeyId),
    /// The builder is trusted, but not for this namespace.
    #[error("key {signer} is not trusted for namespace `{namespace}`")]
    WrongNamespace {
        /// The builder.
        signer: KeyId,
        /// The namespace of its statement.
        namespace: String,
    },
    /// The builder's key is revoked.
    #[error("key {0}, which vouches for it, is revoked; build it again with another key")]
    RevokedKey(KeyId),
    /// The compiler build is revoked.
    #[error("it was made by compiler build {0}, which is revoked; build it again with a newer preheat")]
    RevokedBuild(String),
    /// The source is revoked.
    #[error("its source {0} is revoked")]
    RevokedSource(Digest),
    /// The blob is revoked.
    #[error("blob {0} is revoked")]
    RevokedBlob(Digest),
    /// The statement speaks about other blobs.
    #[error("the statement that vouches for the image does not cover code object {0}")]
    NotCovered(Digest),
}

impl TrustPolicy {
    /// A policy that trusts `key` for all namespaces.
    #[must_use]
    pub fn trusting(name: &str, key: PublicKey) -> Self {
        let builder = Builder { name: name.to_owned(), key, namespaces: vec!["*".to_owned()] };
        Self { version: 1, builders: vec![builder], revoked: Revocations::default() }
    }

    /// Judges one statement. Costs no cryptography: that was done when the statement entered the store.
    ///
    /// # Errors
    /// Why the statement does not count.
    pub fn judge(&self, signed: &Signed) -> Result<(), Refusal> {
        if self.revoked.keys.contains(&signed.signer) {
            return Err(Refusal::RevokedKey(signed.signer));
        }
        let mut entries = self.builders.iter().filter(|builder| builder.key.id() == signed.signer).peekable();
        if entries.peek().is_none() {
            return Err(Refusal::UnknownSigner(signed.signer));
        }
        if !entries.flat_map(|builder| &builder.namespaces).any(|namespace| namespace == "*" || *namespace == signed.namespace) {
            return Err(Refusal::WrongNamespace { signer: signed.signer, namespace: signed.namespace.clone() });
        }
        if self.revoked.build_ids.contains(&signed.build_id) {
            return Err(Refusal::RevokedBuild(signed.build_id.clone()));
        }
        if let Some(source) = signed.source.filter(|source| self.revoked.sources.contains(source)) {
            return Err(Refusal::RevokedSource(source));
        }
        match signed.outputs.iter().find(|output| self.revoked.blobs.contains(&output.digest)) {
            Some(output) => Err(Refusal::RevokedBlob(output.digest)),
            None => Ok(()),
        }
    }

    /// The first statement of `kind` in `record` that counts and covers the record's subject.
    ///
    /// # Errors
    /// Why the last one that was tried does not count.
    pub fn choose<'r>(&self, record: &'r Record, kind: Kind) -> Result<&'r Signed, Refusal> {
        let mut refusal = Refusal::NoStatement;
        for signed in record.statements.iter().filter(|signed| signed.kind == kind && signed.covers(&record.subject)) {
            match self.judge(signed) {
                Ok(()) => return Ok(signed),
                Err(why) => refusal = why,
            }
        }
        Err(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use preheat_image::key::field;
    use preheat_image::keys::SecretKey;
    use preheat_image::manifest::Descriptor;
    use preheat_image::{KeyFields, Statement, media};

    fn signed(seed: u8) -> Signed {
        let fields = KeyFields::new().with(field::KIND, "image").with(field::BUILD_ID, "build-1").with(field::SOURCE, Digest::of(b"wasm"));
        let statement = Statement::new(Kind::Image, "team", fields, vec![Descriptor::of(media::MANIFEST, b"m")]);
        Signed::new(&statement, SecretKey::from_seed([seed; 32]).public().id(), Digest::of(&[seed]))
    }

    fn policy() -> TrustPolicy {
        TrustPolicy::trusting("me", SecretKey::from_seed([1; 32]).public())
    }

    #[test]
    fn trusts_whom_it_names_and_nobody_else() {
        assert_eq!(policy().judge(&signed(1)), Ok(()));
        assert_eq!(policy().judge(&signed(2)), Err(Refusal::UnknownSigner(signed(2).signer)));
        assert_eq!(TrustPolicy::default().judge(&signed(1)), Err(Refusal::UnknownSigner(signed(1).signer)));
        let mut elsewhere = policy();
        elsewhere.builders[0].namespaces = vec!["production".into()];
        assert!(matches!(elsewhere.judge(&signed(1)), Err(Refusal::WrongNamespace { .. })));
    }

    #[test]
    fn each_revocation_counts() {
        let revoke = |change: fn(&mut Revocations)| {
            let mut policy = policy();
            change(&mut policy.revoked);
            policy.judge(&signed(1)).unwrap_err()
        };
        assert!(matches!(revoke(|r| assert!(r.keys.insert(signed(1).signer))), Refusal::RevokedKey(_)));
        assert!(matches!(revoke(|r| assert!(r.build_ids.insert("build-1".into()))), Refusal::RevokedBuild(_)));
        assert!(matches!(revoke(|r| assert!(r.sources.insert(Digest::of(b"wasm")))), Refusal::RevokedSource(_)));
        assert!(matches!(revoke(|r| assert!(r.blobs.insert(Digest::of(b"m")))), Refusal::RevokedBlob(_)));
    }

    #[test]
    fn one_good_statement_among_others_is_enough() {
        let mut record = Record::new(Digest::of(b"m"));
        assert_eq!(policy().choose(&record, Kind::Image), Err(Refusal::NoStatement));
        for seed in [2, 1, 3] {
            record.add(signed(seed));
        }
        assert_eq!(policy().choose(&record, Kind::Image).unwrap().signer, signed(1).signer);
        assert_eq!(policy().choose(&record, Kind::CodeObject), Err(Refusal::NoStatement));
    }
}
