//! Statements: which are taken, where they are kept, which are given out.
//!
//! A statement is kept twice: in the record of its subject, then in that of its key, so that whoever finds it under its key finds everything.

use crate::error::ApiError;
use crate::leases::Leases;
use crate::records::{entry_key, statements_key};
use crate::storage::{Blobs, Expect, Meta, Namespace, PutError, StorageError, Version};
use crate::trust::{Distrust, Trusted};
use bytes::Bytes;
use preheat_image::api::{MAX_STATEMENTS, NamespaceConfig, StatementList};
use preheat_image::manifest::{Descriptor, MAX_SIZE as MAX_MANIFEST};
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{Digest, FormatError, Manifest, media};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Most bytes of the envelopes in one record.
const MAX_RECORD: usize = 4 * 1024 * 1024;
/// How often a record is tried again when somebody else was faster.
const TRIES: u32 = 40;

/// Why a statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It is none.
    #[error("{0}")]
    NotAStatement(String),
    /// It is for another namespace.
    #[error("the statement is for namespace `{0}`, not for this one")]
    OtherNamespace(String),
    /// It has another key.
    #[error("the statement has key {0}, not this one")]
    OtherKey(Digest),
    /// It does not count here.
    #[error(transparent)]
    Distrusted(#[from] Distrust),
    /// A blob that belongs to it is not there.
    #[error("{} of the blobs that belong to it are not there, {} among them; send them first", .missing, .first)]
    Missing {
        /// How many.
        missing: usize,
        /// One of them.
        first: Digest,
    },
    /// A blob has another size than it says.
    #[error("blob {digest} has {there} bytes, and the statement says {claimed}")]
    Size {
        /// The blob.
        digest: Digest,
        /// The size that it has.
        there: u64,
        /// The size that the statement, or the manifest, claims.
        claimed: u64,
    },
    /// It is about an image, but its first output is no manifest.
    #[error("the first output is no manifest: {0}")]
    Manifest(String),
    /// There are as many as there may be.
    #[error("there are {MAX_STATEMENTS} statements by others under this key or about this subject already, or too many bytes of them")]
    Full,
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::NotAStatement(_) => "statement-refused",
            Refusal::OtherNamespace(_) => "other-namespace",
            Refusal::OtherKey(_) => "other-key",
            Refusal::Distrusted(Distrust::Signer { .. }) => "signer-not-trusted",
            Refusal::Distrusted(Distrust::Signature(_)) => "wrong-signature",
            Refusal::Distrusted(Distrust::Revoked(_)) => "revoked",
            Refusal::Missing { .. } => "output-missing",
            Refusal::Size { .. } => "size-mismatch",
            Refusal::Manifest(_) => "not-a-manifest",
            Refusal::Full => "too-many-statements",
        };
        let error = Self::refused(code, refusal.to_string());
        match refusal {
            Refusal::Distrusted(Distrust::Signer { .. }) => {
                error.hint("an admin lets a builder build for a namespace: by a delegation of the root, or in the namespace's settings")
            }
            _ => error,
        }
    }
}

/// Where statements and what they name are kept.
#[derive(Clone, Copy)]
pub(crate) struct Statements<'a> {
    pub(crate) meta: &'a dyn Meta,
    /// Looking for a blob here holds it.
    pub(crate) blobs: &'a dyn Blobs,
    pub(crate) leases: &'a Leases,
}

/// A statement as it is in a record. One that this version can't read stays where it is and is not given out.
struct Kept {
    bytes: Vec<u8>,
    envelope: Option<Envelope>,
}

impl Statements<'_> {
    /// Takes a statement that somebody sent for `key`. `layers` are the namespace and what the caller may read below it: where outputs may
    /// be. Says whether it is new.
    ///
    /// # Errors
    /// 422 when it is refused.
    pub(crate) async fn accept(
        &self,
        trusted: &Trusted,
        layers: &[Namespace],
        config: &NamespaceConfig,
        key: &Digest,
        bytes: &[u8],
        now: u64,
    ) -> Result<bool, ApiError> {
        let Some(namespace) = layers.first() else { return Err(ApiError::overloaded("there is no namespace")) };
        let envelope = Envelope::parse(bytes).map_err(|error| Refusal::NotAStatement(error.to_string()))?;
        let statement = envelope.unverified();
        if statement.namespace != namespace.as_str() {
            return Err(Refusal::OtherNamespace(statement.namespace.escape_default().to_string()).into());
        }
        if statement.key != *key {
            return Err(Refusal::OtherKey(statement.key).into());
        }
        let statement = trusted.vouch(&envelope, namespace, config, now).map_err(Refusal::from)?;
        let Some(subject) = statement.outputs.first() else { return Err(Refusal::NotAStatement("it has no outputs".into()).into()) };
        self.check_there(layers, &statement.outputs).await?;
        if statement.kind == Kind::Image {
            let manifest = self.manifest(layers, subject).await?;
            let parts: Vec<Descriptor> = manifest.blobs().collect();
            if let Some(part) = parts.iter().find(|part| trusted.blob_revoked(&part.digest)) {
                return Err(Refusal::Distrusted(Distrust::Revoked(format!("blob {}", part.digest))).into());
            }
            self.check_there(layers, &parts).await?;
        }
        let counts = |kept: &Envelope| trusted.vouch(kept, namespace, config, now).is_ok();
        self.add(&statements_key(namespace, &subject.digest), &envelope, counts).await?;
        self.add(&entry_key(namespace, key), &envelope, counts).await
    }

    /// Refuses what is not there with the size that is claimed; holds what is.
    async fn check_there(&self, layers: &[Namespace], blobs: &[Descriptor]) -> Result<(), ApiError> {
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let sizes = self.sizes(layers, &digests).await?;
        let missing = |(_, size): &(&Descriptor, &Option<u64>)| size.is_none();
        let pairs = || blobs.iter().zip(&sizes);
        if let Some((first, _)) = pairs().find(missing) {
            return Err(Refusal::Missing { missing: pairs().filter(missing).count(), first: first.digest }.into());
        }
        match pairs().find(|(blob, size)| **size != Some(blob.size)) {
            Some((blob, size)) => Err(Refusal::Size { digest: blob.digest, there: size.unwrap_or_default(), claimed: blob.size }.into()),
            None => Ok(()),
        }
    }

    /// The sizes of blobs in the first of `layers` that has them, where they are held from now on.
    pub(crate) async fn sizes(&self, layers: &[Namespace], digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError> {
        let mut found = vec![None; digests.len()];
        for layer in layers {
            let open: Vec<usize> = found.iter().enumerate().filter(|(_, size)| size.is_none()).map(|(index, _)| index).collect();
            let asked: Vec<Digest> = open.iter().filter_map(|index| digests.get(*index).copied()).collect();
            if asked.is_empty() {
                break;
            }
            for (index, size) in open.into_iter().zip(self.blobs.sizes(layer, &asked).await?) {
                found[index] = size;
            }
        }
        Ok(found)
    }

    async fn manifest(&self, layers: &[Namespace], subject: &Descriptor) -> Result<Manifest, ApiError> {
        let no_manifest = |why: String| Refusal::Manifest(why);
        if subject.media_type != media::MANIFEST {
            return Err(no_manifest(format!("it is of type `{}`", subject.media_type.escape_default())).into());
        }
        if subject.size > MAX_MANIFEST as u64 {
            return Err(no_manifest(format!("{} bytes, at most {MAX_MANIFEST} allowed", subject.size)).into());
        }
        for layer in layers {
            let Some(bytes) = self.small_blob(layer, &subject.digest, MAX_MANIFEST).await? else { continue };
            return Ok(Manifest::parse(&bytes).map_err(|error: FormatError| no_manifest(error.to_string()))?);
        }
        Err(Refusal::Missing { missing: 1, first: subject.digest }.into())
    }

    /// A part of an image that is in none of `layers`; the others are held from now on. What is no manifest has no parts.
    ///
    /// # Errors
    /// When the storage fails.
    pub(crate) async fn missing_part(&self, layers: &[Namespace], image: &Digest) -> Result<Option<Digest>, StorageError> {
        for layer in layers {
            let Some(bytes) = self.small_blob(layer, image, MAX_MANIFEST).await? else { continue };
            let Ok(manifest) = Manifest::parse(&bytes) else { return Ok(None) };
            let parts: Vec<Digest> = manifest.blobs().map(|part| part.digest).collect();
            let sizes = self.sizes(layers, &parts).await?;
            return Ok(parts.into_iter().zip(sizes).find(|(_, size)| size.is_none()).map(|(part, _)| part));
        }
        Ok(None)
    }

    /// The bytes of a blob of at most `max` bytes, verified. A damaged one is put aside and is not there.
    async fn small_blob(&self, namespace: &Namespace, digest: &Digest, max: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let Some(blob) = self.blobs.open(namespace, digest).await? else { return Ok(None) };
        let Some(size) = usize::try_from(blob.size).ok().filter(|size| *size <= max) else { return Ok(None) };
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; size];
            blob.file.read_exact_at(&mut bytes, 0).map(|()| bytes)
        });
        let bytes = match read.await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(StorageError::Other(error.to_string())),
            Err(error) => return Err(StorageError::Other(error.to_string())),
        };
        if Digest::of(&bytes) != *digest {
            self.blobs.quarantine(namespace, digest, "its bytes have another digest").await?;
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    async fn read(&self, record: &str) -> Result<(Vec<Kept>, Option<Version>), StorageError> {
        let Some((bytes, version)) = self.meta.get(record).await? else { return Ok((Vec::new(), None)) };
        let damaged = |error: String| StorageError::Damaged(format!("{record}: {error}"));
        let list: StatementList = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let envelopes = list.envelopes().map_err(|error| damaged(error.to_string()))?;
        let kept = envelopes.into_iter().map(|bytes| Kept { envelope: Envelope::parse(&bytes).ok(), bytes }).collect();
        Ok((kept, Some(version)))
    }

    /// Adds a statement to a record. Where there is no room, those that count no more make it, then the signer's own oldest.
    async fn add(&self, record: &str, envelope: &Envelope, counts: impl Fn(&Envelope) -> bool) -> Result<bool, ApiError> {
        let same_signer = |kept: &Kept| kept.envelope.as_ref().is_some_and(|kept| kept.signer() == envelope.signer());
        let same = |kept: &Kept| same_signer(kept) && kept.envelope.as_ref().is_some_and(|kept| kept.unverified() == envelope.unverified());
        let bytes = envelope.to_bytes();
        for attempt in 0..TRIES {
            let (mut kept, version) = self.read(record).await?;
            if kept.iter().any(same) {
                return Ok(false);
            }
            let full = |kept: &[Kept]| {
                kept.len() >= MAX_STATEMENTS || kept.iter().map(|kept| kept.bytes.len()).sum::<usize>() + bytes.len() > MAX_RECORD
            };
            if full(&kept) {
                kept.retain(|kept| kept.envelope.as_ref().is_none_or(&counts));
            }
            while full(&kept) {
                let oldest = kept.iter().position(same_signer).ok_or(Refusal::Full)?;
                kept.remove(oldest);
            }
            let list = StatementList::new(kept.iter().map(|kept| kept.bytes.as_slice()).chain([bytes.as_slice()]));
            let value = serde_json::to_vec(&list).map_err(|error| StorageError::Other(error.to_string()))?;
            match self.meta.put(record, Bytes::from(value), version.map_or(Expect::Absent, Expect::Version)).await {
                Ok(_) => return Ok(true),
                // Somebody won each time, so this ends; the pauses only make it end sooner.
                Err(PutError::Conflict) => tokio::time::sleep(Duration::from_millis(u64::from(attempt.min(20)))).await,
                Err(PutError::Storage(error)) => return Err(error.into()),
            }
        }
        Err(ApiError::overloaded("too many write the same entry at once"))
    }

    /// The statements in the records of `layers` that `record` names, those of the first layer first, without those in which something is
    /// revoked. Holds what they name.
    pub(crate) async fn find(
        &self,
        trusted: &Trusted,
        layers: &[Namespace],
        record: impl Fn(&Namespace) -> String,
    ) -> Result<Vec<Vec<u8>>, StorageError> {
        let mut found = Vec::new();
        for layer in layers {
            for Kept { bytes, envelope } in self.read(&record(layer)).await?.0 {
                let Some(envelope) = envelope.filter(|envelope| trusted.revoked(envelope).is_none()) else { continue };
                if found.len() == MAX_STATEMENTS {
                    break;
                }
                let outputs: Vec<Digest> = envelope.unverified().outputs.iter().map(|output| output.digest).collect();
                for layer in layers {
                    self.leases.touch(layer, &outputs);
                }
                found.push(bytes);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::storage::leased::Leased;
    use crate::storage::memory::Memory;
    use http::StatusCode;
    use preheat_image::api::{NamespaceBuilder, NamespaceKind};
    use preheat_image::key::field;
    use preheat_image::keys::SecretKey;
    use preheat_image::manifest::Artefact;
    use preheat_image::{KeyFields, Statement};
    use std::sync::Arc;

    #[derive(Clone)]
    struct Setup {
        memory: Memory,
        blobs: Arc<dyn Blobs>,
        leases: Arc<Leases>,
    }

    fn namespace(name: &str) -> Namespace {
        Namespace::new(name).unwrap()
    }

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn config(builders: &[u8]) -> NamespaceConfig {
        let builders = builders.iter().map(|seed| NamespaceBuilder { name: "b".into(), key: key(*seed).public(), expires: None });
        NamespaceConfig { builders: builders.collect(), ..NamespaceConfig::new(NamespaceKind::Preheat) }
    }

    fn fields(kind: &str, salt: &str) -> KeyFields {
        KeyFields::new().with(field::KIND, kind).with(field::SOURCE, Digest::of(b"wasm")).with(field::ARGS, salt)
    }

    fn code(namespace: &str, salt: &str) -> Statement {
        Statement::new(Kind::CodeObject, namespace, fields("code-object", salt), vec![Descriptor::of(media::CODE, b"code")])
    }

    impl Setup {
        async fn new() -> Self {
            let memory = Memory::default();
            let leases = Leases::start(Arc::new(memory.clone()), Arc::new(SystemClock), 3600, true).await.unwrap();
            Self { blobs: Arc::new(Leased::new(Arc::new(memory.clone()), leases.clone())), memory, leases }
        }

        fn statements(&self) -> Statements<'_> {
            Statements { meta: &self.memory, blobs: self.blobs.as_ref(), leases: &self.leases }
        }

        /// The blobs of a namespace that are held.
        async fn held(&self, in_namespace: &str) -> Vec<Digest> {
            self.leases.flush().await.unwrap();
            self.leases.held(&namespace(in_namespace)).await.unwrap().into_keys().collect()
        }

        async fn blob(&self, in_namespace: &str, bytes: &[u8]) {
            let mut upload = self.memory.begin(&namespace(in_namespace)).await.unwrap();
            upload.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            upload.commit(&Digest::of(bytes), None).await.unwrap();
        }

        async fn accept(&self, layers: &[&str], envelope: &Envelope) -> Result<bool, ApiError> {
            let layers: Vec<_> = layers.iter().map(|name| namespace(name)).collect();
            let key = envelope.unverified().key;
            self.statements().accept(&Trusted::default(), &layers, &config(&[1, 2]), &key, &envelope.to_bytes(), 1).await
        }

        async fn refused(&self, layers: &[&str], statement: Statement) -> &'static str {
            let error = self.accept(layers, &statement.sign(&key(1))).await.unwrap_err();
            assert_eq!(error.status, StatusCode::UNPROCESSABLE_ENTITY);
            error.code
        }

        async fn about(&self, layers: &[&str], subject: &Digest) -> Vec<Vec<u8>> {
            let layers: Vec<_> = layers.iter().map(|name| namespace(name)).collect();
            self.statements().find(&Trusted::default(), &layers, |layer| statements_key(layer, subject)).await.unwrap()
        }

        async fn under(&self, layers: &[&str], key: &Digest) -> Vec<Vec<u8>> {
            let layers: Vec<_> = layers.iter().map(|name| namespace(name)).collect();
            self.statements().find(&Trusted::default(), &layers, |layer| entry_key(layer, key)).await.unwrap()
        }
    }

    #[tokio::test]
    async fn a_good_statement_is_found_by_its_key_and_its_subject_and_holds_its_blobs() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        let envelope = code("team", "a").sign(&key(1));
        assert!(setup.accept(&["team"], &envelope).await.unwrap());
        assert!(!setup.accept(&["team"], &envelope).await.unwrap(), "it is there already");
        assert_eq!(setup.under(&["team"], &envelope.unverified().key).await, [envelope.to_bytes()]);
        assert_eq!(setup.about(&["team"], &Digest::of(b"code")).await, [envelope.to_bytes()]);
        assert_eq!(setup.held("team").await, [Digest::of(b"code")]);
        assert!(setup.accept(&["team"], &code("team", "a").sign(&key(2))).await.unwrap(), "another builder says the same");
        assert_eq!(setup.under(&["team"], &envelope.unverified().key).await.len(), 2);
    }

    #[tokio::test]
    async fn a_statement_counts_only_under_its_own_key() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        let (envelope, other) = (code("team", "a").sign(&key(1)), code("team", "b").key);
        let accepted =
            setup.statements().accept(&Trusted::default(), &[namespace("team")], &config(&[1]), &other, &envelope.to_bytes(), 1).await;
        assert_eq!(accepted.unwrap_err().code, "other-key");
        assert!(setup.under(&["team"], &other).await.is_empty());
        let mut forged = code("team", "a");
        forged.key = other;
        let accepted = setup.accept(&["team"], &forged.sign(&key(1))).await;
        assert_eq!(accepted.unwrap_err().code, "statement-refused", "its key does not follow from its fields");
    }

    #[tokio::test]
    async fn a_statement_for_another_namespace_is_refused_also_below_an_overlay() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        setup.blob("production", b"code").await;
        assert_eq!(setup.refused(&["team"], code("production", "a")).await, "other-namespace");
        assert_eq!(setup.refused(&["team", "production"], code("production", "a")).await, "other-namespace");
        assert!(Meta::list(&setup.memory, "ac/").await.unwrap().is_empty() && Meta::list(&setup.memory, "st/").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_statement_by_a_stranger_or_with_a_wrong_signature_is_refused() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        assert_eq!(setup.accept(&["team"], &code("team", "a").sign(&key(9))).await.unwrap_err().code, "signer-not-trusted");
        // Signed by a stranger, in the name of a builder.
        let text = String::from_utf8(code("team", "a").sign(&key(9)).to_bytes()).unwrap();
        let forged = text.replace(&key(9).public().id().to_string(), &key(1).public().id().to_string());
        assert_eq!(setup.accept(&["team"], &Envelope::parse(forged.as_bytes()).unwrap()).await.unwrap_err().code, "wrong-signature");
        let junk = setup.statements().accept(&Trusted::default(), &[namespace("team")], &config(&[1]), &Digest::ZERO, b"{}", 1).await;
        assert_eq!(junk.unwrap_err().code, "statement-refused");
    }

    #[tokio::test]
    async fn all_outputs_have_to_be_there_with_their_sizes() {
        let setup = Setup::new().await;
        assert_eq!(setup.refused(&["team"], code("team", "a")).await, "output-missing");
        setup.blob("other", b"code").await;
        assert_eq!(setup.refused(&["team"], code("team", "a")).await, "output-missing", "another tenant's does not count");
        setup.blob("team", b"code").await;
        let mut larger = code("team", "a");
        larger.outputs[0].size += 1;
        assert_eq!(setup.refused(&["team"], larger).await, "size-mismatch");
        let mut more = code("team", "a");
        more.outputs.push(Descriptor::of(media::CHUNKS, b"chunks"));
        assert_eq!(setup.refused(&["team"], more).await, "output-missing");
    }

    #[tokio::test]
    async fn outputs_may_be_in_the_base_but_the_statement_stays_above() {
        let setup = Setup::new().await;
        setup.blob("base", b"code").await;
        let envelope = code("pull-request", "a").sign(&key(1));
        assert!(setup.accept(&["pull-request", "base"], &envelope).await.unwrap());
        assert_eq!(setup.under(&["pull-request", "base"], &envelope.unverified().key).await.len(), 1);
        assert!(setup.under(&["base"], &envelope.unverified().key).await.is_empty());
        assert!(setup.held("base").await.contains(&Digest::of(b"code")), "held where it is");
    }

    fn image(namespace: &str, manifest: &[u8], media_type: &str) -> Statement {
        Statement::new(Kind::Image, namespace, fields("image", ""), vec![Descriptor::of(media_type, manifest)])
    }

    #[tokio::test]
    async fn an_image_is_taken_when_its_manifest_is_one_and_all_its_parts_are_there() {
        let setup = Setup::new().await;
        let mut artefact = Artefact::of(Descriptor::of("application/vnd.openjdk.cds", b"cds"));
        artefact.chunks = Some(Descriptor::of(media::CHUNKS, b"chunks"));
        let manifest = Manifest::new(None, None, vec![artefact]).to_bytes();
        setup.blob("team", &manifest).await;
        setup.blob("team", b"cds").await;
        assert_eq!(setup.refused(&["team"], image("team", &manifest, media::MANIFEST)).await, "output-missing", "the chunk list");
        setup.blob("team", b"chunks").await;
        assert_eq!(setup.refused(&["team"], image("team", &manifest, media::CODE)).await, "not-a-manifest");
        assert!(setup.accept(&["team"], &image("team", &manifest, media::MANIFEST).sign(&key(1))).await.unwrap());
        setup.blob("team", b"{}").await;
        assert_eq!(setup.refused(&["team"], image("team", b"{}", media::MANIFEST)).await, "not-a-manifest");
        let large = vec![b' '; MAX_MANIFEST + 1];
        setup.blob("team", &large).await;
        assert_eq!(setup.refused(&["team"], image("team", &large, media::MANIFEST)).await, "not-a-manifest");
    }

    #[tokio::test]
    async fn many_who_write_the_same_entry_at_once_all_succeed() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        let seeds: Vec<u8> = (1..=20).collect();
        let config = Arc::new(config(&seeds));
        let tasks: Vec<_> = seeds
            .iter()
            .map(|seed| {
                let (setup, config, envelope) = (setup.clone(), config.clone(), code("team", "a").sign(&key(*seed)));
                tokio::spawn(async move {
                    let key = envelope.unverified().key;
                    let bytes = envelope.to_bytes();
                    setup.statements().accept(&Trusted::default(), &[namespace("team")], &config, &key, &bytes, 1).await.unwrap()
                })
            })
            .collect();
        for task in tasks {
            assert!(task.await.unwrap());
        }
        assert_eq!(setup.under(&["team"], &code("team", "a").key).await.len(), 20);
    }

    #[tokio::test]
    async fn a_full_record_makes_room_by_the_signers_own_oldest_and_nobody_elses() {
        let setup = Setup::new().await;
        setup.blob("team", b"code").await;
        // The same key, so the same record; other outputs.
        let nth = |n: usize| {
            let mut statement = code("team", "a");
            statement.outputs.push(Descriptor { size: 4, ..Descriptor::of(&format!("a/n{n}"), b"code") });
            statement
        };
        setup.accept(&["team"], &nth(0).sign(&key(2))).await.unwrap();
        for n in 0..MAX_STATEMENTS + 5 {
            assert!(setup.accept(&["team"], &nth(n).sign(&key(1))).await.unwrap());
        }
        let found = setup.under(&["team"], &code("team", "a").key).await;
        assert_eq!(found.len(), MAX_STATEMENTS);
        let parsed: Vec<_> = found.iter().map(|bytes| Envelope::parse(bytes).unwrap()).collect();
        assert!(parsed.iter().any(|kept| kept.signer() == key(2).public().id()), "the other builder's stays");
        assert!(parsed.iter().any(|kept| *kept.unverified() == nth(MAX_STATEMENTS + 4)), "the newest is there");
        assert!(parsed.iter().all(|kept| kept.signer() != key(1).public().id() || *kept.unverified() != nth(0)), "the oldest is not");
        // A third builder has nothing of its own to give up; once the first counts no more, there is room.
        let third = nth(0).sign(&key(3));
        let accept = |builders: &'static [u8]| {
            let (setup, bytes, record) = (setup.clone(), third.to_bytes(), third.unverified().key);
            async move {
                let layers = [namespace("team")];
                setup.statements().accept(&Trusted::default(), &layers, &config(builders), &record, &bytes, 1).await
            }
        };
        assert_eq!(accept(&[1, 2, 3]).await.unwrap_err().code, "too-many-statements");
        assert!(accept(&[2, 3]).await.unwrap());
        assert_eq!(setup.under(&["team"], &code("team", "a").key).await.len(), 2);
    }
}
