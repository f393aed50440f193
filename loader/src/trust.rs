//! Whose statements count: the policy that is judged at every load.
//!
//! The policy is one small file that a load reads whole. What it says about [roots](RootEntry) was verified when it was written; judging
//! costs no cryptography and no other file.

use preheat_image::Digest;
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::record::{Record, Signed};
use preheat_image::statement::Kind;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::SystemTime;

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
    /// From when on its statements do not count any more, in seconds since 1970; those that it made before neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// The root that delegates it; none for one that a person added. It counts only as long as that root does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Digest>,
}

impl Builder {
    /// A builder that a person adds, without end.
    #[must_use]
    pub fn new(name: &str, key: PublicKey, namespaces: &[&str]) -> Self {
        let namespaces = namespaces.iter().map(|namespace| (*namespace).to_owned()).collect();
        Self { name: name.to_owned(), key, namespaces, expires: None, root: None }
    }
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

/// What to do with a root whose revocation list is out of date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stale {
    /// Its builders do not count until there is a newer list: what was revoked since is not known.
    #[default]
    Refuse,
    /// Its builders count on. For machines that are offline for longer than lists last.
    Allow,
}

/// The revocation list of a root, as it was when it was last verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootRevocations {
    /// The number of the list.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970. What it revokes stays revoked.
    pub expires: u64,
    /// What it revokes.
    #[serde(default)]
    pub revoked: Revocations,
}

/// A root that is trusted, as it was when it was last verified. Its envelopes are kept beside the policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RootEntry {
    /// The digest of the root that was trusted first: stays the same while roots follow each other.
    pub id: Digest,
    /// What it is called here.
    pub name: String,
    /// The number of the latest root that is known.
    pub number: u64,
    /// When that root ends, in seconds since 1970.
    pub expires: u64,
    /// The caches (`host` or `host:port`) for whose names it speaks.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Whether it names somebody who revokes: then there has to be a list.
    #[serde(default)]
    pub revoker: bool,
    /// Its latest revocation list.
    #[serde(default)]
    pub revocations: Option<RootRevocations>,
    /// What to do when the list is out of date.
    #[serde(default)]
    pub stale: Stale,
}

impl RootEntry {
    /// Whether the root counts at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`Refusal::RootExpired`], or [`Refusal::StaleRevocations`] unless the root may go on with an old list.
    pub fn check_at(&self, now: u64) -> Result<(), Refusal> {
        if now >= self.expires {
            return Err(Refusal::RootExpired { root: self.name.clone(), expires: self.expires });
        }
        let expires = self.revocations.as_ref().map(|list| list.expires);
        let stale = expires.map_or(self.revoker, |expires| now >= expires);
        if stale && self.stale == Stale::Refuse {
            return Err(Refusal::StaleRevocations { root: self.name.clone(), expires });
        }
        Ok(())
    }
}

/// A loading policy: trusted builders less revocations. Nobody is trusted by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrustPolicy {
    /// Version of this format, 1.
    pub version: u32,
    /// The builders: those that people added, and those that the roots delegate.
    pub builders: Vec<Builder>,
    /// What people revoked. What roots revoke is kept with them; see [`TrustPolicy::revokes_key`] and its like for both.
    #[serde(default)]
    pub revoked: Revocations,
    /// The roots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<RootEntry>,
}

/// Why a policy refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody vouches for it.
    #[error("no statement vouches for it; build it here, or get it with its statement")]
    NoStatement,
    /// Somebody vouches for it whom the policy does not trust.
    #[error("it is vouched for by unknown key {0} only; if you trust this builder, add its public key with `preheat trust add`")]
    UnknownSigner(KeyId),
    /// The builder is trusted, but not for this namespace.
    #[error("key {signer} is not trusted for namespace `{}`", namespace.escape_default())]
    WrongNamespace {
        /// The builder.
        signer: KeyId,
        /// The namespace of its statement.
        namespace: String,
    },
    /// The builder's time is over.
    #[error("key {signer} of builder `{}`, which vouches for it, expired at {expires} (seconds since 1970); build it again with \
             `preheat rebuild --revoked`, or get it from a builder with a newer key", builder.escape_default())]
    Expired {
        /// The builder's key.
        signer: KeyId,
        /// The builder's name.
        builder: String,
        /// When it expired, in seconds since 1970.
        expires: u64,
    },
    /// The time of the root that delegates the builder is over.
    #[error("root `{}`, which its builder is of, expired at {expires} (seconds since 1970); get its successor with \
             `preheat trust update`", root.escape_default())]
    RootExpired {
        /// The root's name.
        root: String,
        /// When it expired, in seconds since 1970.
        expires: u64,
    },
    /// What the root that delegates the builder has revoked by now is not known.
    #[error("the revocation list of root `{}`, which its builder is of, {}; get the latest with `preheat trust update`",
            root.escape_default(),
            expires.map_or_else(|| "is not here".to_owned(), |at| format!("is out of date since {at} (seconds since 1970)")))]
    StaleRevocations {
        /// The root's name.
        root: String,
        /// When the list that is known ended; none when none is known.
        expires: Option<u64>,
    },
    /// The builder's key is revoked.
    #[error("key {0}, which vouches for it, is revoked; build it again with another key")]
    RevokedKey(KeyId),
    /// The compiler build is revoked.
    #[error("it was made by compiler build {}, which is revoked; build it again with a newer preheat", .0.escape_default())]
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

/// The time at which policies judge: seconds since 1970 by the clock of this machine.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl TrustPolicy {
    /// A policy that trusts `key` for all namespaces.
    #[must_use]
    pub fn trusting(name: &str, key: PublicKey) -> Self {
        Self { version: 1, builders: vec![Builder::new(name, key, &["*"])], ..Self::default() }
    }

    /// Everything that is revoked: by people, and by each root, whether its list is out of date or not.
    fn revocations(&self) -> impl Iterator<Item = &Revocations> {
        let roots = self.roots.iter().filter_map(|root| root.revocations.as_ref()).map(|list| &list.revoked);
        std::iter::once(&self.revoked).chain(roots)
    }

    /// Whether somebody revoked a builder's key.
    #[must_use]
    pub fn revokes_key(&self, key: &KeyId) -> bool {
        self.revocations().any(|revoked| revoked.keys.contains(key))
    }

    /// Whether somebody revoked a build of a compiler.
    #[must_use]
    pub fn revokes_build(&self, build_id: &str) -> bool {
        self.revocations().any(|revoked| revoked.build_ids.contains(build_id))
    }

    /// Whether somebody revoked a Wasm source.
    #[must_use]
    pub fn revokes_source(&self, source: &Digest) -> bool {
        self.revocations().any(|revoked| revoked.sources.contains(source))
    }

    /// Whether somebody revoked a blob.
    #[must_use]
    pub fn revokes_blob(&self, blob: &Digest) -> bool {
        self.revocations().any(|revoked| revoked.blobs.contains(blob))
    }

    /// The root of that id.
    #[must_use]
    pub fn root(&self, id: &Digest) -> Option<&RootEntry> {
        self.roots.iter().find(|root| root.id == *id)
    }

    /// Whether a builder counts at `now`: its own time, its root's, and that of its root's revocations.
    ///
    /// # Errors
    /// Why it does not.
    pub fn check_builder_at(&self, builder: &Builder, now: u64) -> Result<(), Refusal> {
        if let Some(expires) = builder.expires.filter(|expires| now >= *expires) {
            return Err(Refusal::Expired { signer: builder.key.id(), builder: builder.name.clone(), expires });
        }
        match &builder.root {
            None => Ok(()),
            // A builder of a root that is not trusted is nobody.
            Some(id) => self.root(id).ok_or(Refusal::UnknownSigner(builder.key.id()))?.check_at(now),
        }
    }

    /// Judges one statement now. Costs no cryptography: that was done when the statement entered the store.
    ///
    /// # Errors
    /// Why the statement does not count.
    pub fn judge(&self, signed: &Signed) -> Result<(), Refusal> {
        self.judge_at(signed, now())
    }

    /// Judges one statement at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// Why the statement does not count.
    pub fn judge_at(&self, signed: &Signed, now: u64) -> Result<(), Refusal> {
        self.judge_known(signed, None, now)
    }

    /// The builder's public key of this name.
    pub(crate) fn key(&self, id: &KeyId) -> Option<&PublicKey> {
        self.builders.iter().map(|builder| &builder.key).find(|key| key.id() == *id)
    }

    /// [`Self::judge_at`] where the signer's public key may be known: then no key is hashed to find out whose statement it is.
    fn judge_known(&self, signed: &Signed, key: Option<&PublicKey>, now: u64) -> Result<(), Refusal> {
        if self.revokes_key(&signed.signer) {
            return Err(Refusal::RevokedKey(signed.signer));
        }
        let mut refusal = Refusal::UnknownSigner(signed.signer);
        let mut counts = false;
        let signs = |builder: &&Builder| key.map_or_else(|| builder.key.id() == signed.signer, |key| builder.key == *key);
        for builder in self.builders.iter().filter(signs) {
            if !builder.namespaces.iter().any(|namespace| namespace == "*" || *namespace == signed.namespace) {
                if matches!(refusal, Refusal::UnknownSigner(_)) {
                    refusal = Refusal::WrongNamespace { signer: signed.signer, namespace: signed.namespace.clone() };
                }
                continue;
            }
            match self.check_builder_at(builder, now) {
                Ok(()) => counts = true,
                Err(why) => refusal = why,
            }
        }
        if !counts {
            return Err(refusal);
        }
        if self.revokes_build(&signed.build_id) {
            return Err(Refusal::RevokedBuild(signed.build_id.clone()));
        }
        if let Some(source) = signed.source.filter(|source| self.revokes_source(source)) {
            return Err(Refusal::RevokedSource(source));
        }
        match signed.outputs.iter().find(|output| self.revokes_blob(&output.digest)) {
            Some(output) => Err(Refusal::RevokedBlob(output.digest)),
            None => Ok(()),
        }
    }

    /// The first statement of `kind` in `record` that counts now and covers the record's subject.
    ///
    /// # Errors
    /// Why the last one that was tried does not count.
    pub fn choose<'r>(&self, record: &'r Record, kind: Kind) -> Result<&'r Signed, Refusal> {
        self.choose_at(record, kind, now())
    }

    /// The first statement of `kind` in `record` that counts at `now`, in seconds since 1970, and covers the record's subject.
    ///
    /// # Errors
    /// Why the last one that was tried does not count.
    pub fn choose_at<'r>(&self, record: &'r Record, kind: Kind, now: u64) -> Result<&'r Signed, Refusal> {
        self.choose_known(record, &[], kind, now).map(|place| &record.statements[place])
    }

    /// [`Self::choose_at`] where signers' public keys are known, in the order of the statements; the statement's place in the record.
    pub(crate) fn choose_known(&self, record: &Record, keys: &[Option<PublicKey>], kind: Kind, now: u64) -> Result<usize, Refusal> {
        let mut refusal = Refusal::NoStatement;
        for (place, signed) in record.statements.iter().enumerate() {
            if signed.kind == kind && signed.covers(&record.subject) {
                match self.judge_known(signed, keys.get(place).and_then(Option::as_ref), now) {
                    Ok(()) => return Ok(place),
                    Err(why) => refusal = why,
                }
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

    /// A policy whose builder is delegated by a root until 100; the root ends at 1000.
    fn rooted(revocations: Option<RootRevocations>) -> TrustPolicy {
        let root = RootEntry {
            id: Digest::of(b"root"),
            name: "acme".into(),
            number: 1,
            expires: 1000,
            hosts: Vec::new(),
            revoker: true,
            revocations,
            stale: Stale::Refuse,
        };
        let mut policy = policy();
        policy.builders[0].expires = Some(100);
        policy.builders[0].root = Some(root.id);
        policy.roots = vec![root];
        policy
    }

    fn list(expires: u64) -> Option<RootRevocations> {
        Some(RootRevocations { number: 1, issued: 1, expires, revoked: Revocations::default() })
    }

    #[test]
    fn a_builder_counts_until_its_end_and_no_longer() {
        let mut policy = policy();
        policy.builders[0].expires = Some(100);
        assert_eq!(policy.judge_at(&signed(1), 99), Ok(()));
        assert!(matches!(policy.judge_at(&signed(1), 100), Err(Refusal::Expired { expires: 100, .. })));
        assert!(matches!(policy.judge(&signed(1)), Err(Refusal::Expired { .. })), "1970 is over");
        // Another entry for the same key still counts.
        policy.builders.push(Builder::new("again", SecretKey::from_seed([1; 32]).public(), &["team"]));
        assert_eq!(policy.judge_at(&signed(1), 100), Ok(()));
    }

    #[test]
    fn a_roots_builder_counts_only_with_a_fresh_root_and_a_fresh_list() {
        assert_eq!(rooted(list(50)).judge_at(&signed(1), 49), Ok(()));
        let stale = |expires| Err(Refusal::StaleRevocations { root: "acme".into(), expires });
        assert_eq!(rooted(list(50)).judge_at(&signed(1), 50), stale(Some(50)));
        assert_eq!(rooted(None).judge_at(&signed(1), 1), stale(None));
        let mut policy = rooted(list(50));
        policy.roots[0].stale = Stale::Allow;
        assert_eq!(policy.judge_at(&signed(1), 50), Ok(()), "the machine is offline, and somebody said so");
        policy.builders[0].expires = Some(2000);
        assert!(matches!(policy.judge_at(&signed(1), 1000), Err(Refusal::RootExpired { .. })));
        let mut policy = rooted(None);
        policy.roots[0].revoker = false;
        assert_eq!(policy.judge_at(&signed(1), 1), Ok(()), "a root that names no revoker needs no list");
        policy.roots.clear();
        assert_eq!(policy.judge_at(&signed(1), 1), Err(Refusal::UnknownSigner(signed(1).signer)), "a builder of no root is nobody");
    }

    #[test]
    fn what_a_root_revokes_counts_for_all_even_when_its_list_is_old() {
        let mut policy = rooted(list(50));
        policy.builders.push(Builder::new("mine", SecretKey::from_seed([2; 32]).public(), &["*"]));
        let revoked = &mut policy.roots[0].revocations.as_mut().unwrap().revoked;
        revoked.build_ids.insert("build-1".into());
        for (seed, now) in [(1, 10), (2, 10), (2, 5000)] {
            assert!(matches!(policy.judge_at(&signed(seed), now), Err(Refusal::RevokedBuild(_))), "{seed} {now}");
        }
    }

    #[test]
    fn a_policy_of_before_reads_and_is_written_as_before() {
        let text = format!(
            r#"{{"version":1,"builders":[{{"name":"me","key":"{}","namespaces":["*"]}}],"revoked":{{"keys":[],"buildIds":[],"sources":[],"blobs":[]}}}}"#,
            SecretKey::from_seed([1; 32]).public().to_base64()
        );
        let read: TrustPolicy = serde_json::from_str(&text).unwrap();
        assert_eq!(read, policy());
        assert_eq!(serde_json::to_string(&read).unwrap(), text, "one without roots still reads where roots are not known");
        let rooted = rooted(list(50));
        assert_eq!(serde_json::from_str::<TrustPolicy>(&serde_json::to_string(&rooted).unwrap()).unwrap(), rooted);
    }
}
