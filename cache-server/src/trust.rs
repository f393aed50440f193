//! Whom the service trusts: its root, what the root delegates, what a namespace adds by its own settings, less what is revoked.
//!
//! Everything is read from the records, so that all servers over one storage agree; what was read is good for [`MAX_AGE`]. A change through
//! this server counts at once.

use crate::clock::{Clock as _, SystemClock};
use crate::error::ApiError;
use crate::records::{REVOCATIONS_KEY, ROOT_KEY, root_key};
use crate::storage::{Expect, Meta, Namespace, StorageError, Version};
use bytes::Bytes;
use preheat_image::api::NamespaceConfig;
use preheat_image::key::field;
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::revocation::{RevocationList, SignedRevocations};
use preheat_image::root::{Role, Root, SignedRoot};
use preheat_image::signed::{Document, SignedDocument, SignedError};
use preheat_image::statement::{Envelope, StatementError};
use preheat_image::{Digest, Statement};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what another server changed may go unnoticed.
const MAX_AGE: Duration = Duration::from_secs(2);

/// Seconds since 1970. A clock before that makes everything expired, which is the safe side.
pub(crate) fn now() -> u64 {
    match SystemClock.now() {
        0 => u64::MAX,
        now => now,
    }
}

/// A signed document as it is in its record.
#[derive(Debug)]
pub(crate) struct Held<D> {
    /// The document.
    pub(crate) signed: SignedDocument<D>,
    /// Its envelope.
    pub(crate) bytes: Bytes,
    version: Version,
}

impl<D: Document> Held<D> {
    /// Reads a record.
    ///
    /// # Errors
    /// When storage fails, or what is there is no such document.
    pub(crate) async fn read(meta: &dyn Meta, record: &str) -> Result<Option<Self>, StorageError> {
        let Some((bytes, version)) = meta.get(record).await? else { return Ok(None) };
        let signed = SignedDocument::parse(&bytes).map_err(|error| StorageError::Damaged(format!("{record}: {error}")))?;
        Ok(Some(Self { signed, bytes, version }))
    }

    /// What whoever replaces it expects to find.
    pub(crate) fn expect(held: Option<&Self>) -> Expect {
        held.map_or(Expect::Absent, |held| Expect::Version(held.version.clone()))
    }

    /// The digest of the envelope: its entity tag.
    pub(crate) fn tag(&self) -> Digest {
        Digest::of(&self.bytes)
    }
}

/// What became of a document that somebody sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Whether there was none before.
    pub(crate) first: bool,
    /// The digest of the envelope that is there now.
    pub(crate) tag: Digest,
}

/// Replaces a numbered document. The old one goes to its place in the history first: its bytes are settled, so it does not matter who of
/// several writes it there, or whether somebody was interrupted in between.
///
/// # Errors
/// 412 when somebody else was faster.
pub(crate) async fn replace<D: Document>(
    meta: &dyn Meta,
    record: &str,
    old: Option<(&Held<D>, String)>,
    new: &SignedDocument<D>,
) -> Result<Replaced, ApiError> {
    let expect = Held::expect(old.as_ref().map(|(held, _)| *held));
    let first = old.is_none();
    if let Some((held, history)) = old {
        meta.put(&history, held.bytes.clone(), Expect::Any).await?;
    }
    let bytes = Bytes::from(new.to_bytes());
    let tag = Digest::of(&bytes);
    meta.put(record, bytes, expect).await?;
    Ok(Replaced { first, tag })
}

/// Why a statement does not count here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Distrust {
    /// Nobody who may build for this namespace now has signed it.
    #[error("nobody whom `{namespace}` trusts as a builder now has signed it: {error}")]
    Signer {
        /// The namespace.
        namespace: String,
        /// Why not.
        error: StatementError,
    },
    /// The signature is not what it claims to be.
    #[error(transparent)]
    Signature(StatementError),
    /// Something in it is revoked.
    #[error("{0} is revoked")]
    Revoked(String),
}

/// What the service trusts at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trusted {
    root: Option<Arc<Held<Root>>>,
    revocations: Option<Arc<Held<RevocationList>>>,
}

impl Trusted {
    /// The root.
    pub(crate) fn root(&self) -> Option<&Held<Root>> {
        self.root.as_deref()
    }

    /// The revocation list. It never ends here: what was revoked stays revoked, also while nobody renews the list.
    pub(crate) fn revocations(&self) -> Option<&Held<RevocationList>> {
        self.revocations.as_deref()
    }

    fn list(&self) -> Option<&RevocationList> {
        self.revocations().map(|held| held.signed.unverified())
    }

    fn key_revoked(&self, key: &KeyId) -> bool {
        self.list().is_some_and(|list| list.keys.contains(key))
    }

    /// Whether a blob is revoked.
    pub(crate) fn blob_revoked(&self, digest: &Digest) -> bool {
        self.list().is_some_and(|list| list.blobs.contains(digest))
    }

    /// The keys that may act as `role` for a namespace at `now`: those to whom the root delegates while its own time is not over, and those
    /// of the namespace's settings, less the revoked.
    pub(crate) fn keys<'t>(&'t self, role: Role, namespace: &Namespace, config: &'t NamespaceConfig, now: u64) -> Vec<&'t PublicKey> {
        let own = match role {
            Role::Builder => config.builders.as_slice(),
            Role::Namer => &config.namers,
            Role::Revoker => &[],
        };
        let own = own.iter().filter(|holder| holder.expires.is_none_or(|expires| now < expires)).map(|holder| &holder.key);
        self.delegated(role, namespace.as_str(), now).chain(own).filter(|key| !self.key_revoked(&key.id())).collect()
    }

    fn delegated<'t>(&'t self, role: Role, namespace: &str, now: u64) -> impl Iterator<Item = &'t PublicKey> {
        let root = self.root().map(|held| held.signed.unverified()).filter(|root| root.check_time(now).is_ok());
        root.into_iter().flat_map(move |root| root.keys_for(role, namespace, now).collect::<Vec<_>>())
    }

    /// What of a statement is revoked: its signer, its compiler, its source, one of its outputs.
    pub(crate) fn revoked(&self, envelope: &Envelope) -> Option<String> {
        let list = self.list()?;
        let statement = envelope.unverified();
        if list.keys.contains(&envelope.signer()) {
            return Some(format!("key {}", envelope.signer()));
        }
        if let Some(build) = statement.fields.get(field::BUILD_ID).filter(|build| list.build_ids.contains(*build)) {
            return Some(format!("compiler build `{}`", build.escape_default()));
        }
        if let Some(source) = statement.source.filter(|source| list.sources.contains(source)) {
            return Some(format!("source {source}"));
        }
        statement.outputs.iter().find(|output| list.blobs.contains(&output.digest)).map(|output| format!("blob {}", output.digest))
    }

    /// The statement, if a builder whom the namespace trusts at `now` signed it and nothing in it is revoked. Says nothing about the
    /// namespace that the statement itself names.
    ///
    /// # Errors
    /// [`Distrust`].
    pub(crate) fn vouch<'e>(
        &self,
        envelope: &'e Envelope,
        namespace: &Namespace,
        config: &NamespaceConfig,
        now: u64,
    ) -> Result<&'e Statement, Distrust> {
        if let Some(what) = self.revoked(envelope) {
            return Err(Distrust::Revoked(what));
        }
        envelope.verify(self.keys(Role::Builder, namespace, config, now)).map_err(|error| match error {
            StatementError::UnknownSigner(_) => Distrust::Signer { namespace: namespace.to_string(), error },
            error => Distrust::Signature(error),
        })
    }
}

/// Knows whom the service trusts.
pub(crate) struct ServerTrust {
    meta: Arc<dyn Meta>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    trusted: Option<(Instant, Trusted)>,
    /// Goes up with each change through this server, so that what was read before one is not kept after it.
    changes: u64,
}

impl ServerTrust {
    pub(crate) fn new(meta: Arc<dyn Meta>) -> Self {
        Self { meta, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the service trusts now.
    ///
    /// # Errors
    /// When storage fails. What was read longer ago does not do then.
    pub(crate) async fn current(&self) -> Result<Trusted, StorageError> {
        let (old, changes) = {
            let known = self.known();
            match &known.trusted {
                Some((read, trusted)) if read.elapsed() < MAX_AGE => return Ok(trusted.clone()),
                known_before => (known_before.as_ref().map(|(_, trusted)| trusted.clone()).unwrap_or_default(), known.changes),
            }
        };
        let at = Instant::now();
        let trusted =
            Trusted { root: self.read(ROOT_KEY, old.root).await?, revocations: self.read(REVOCATIONS_KEY, old.revocations).await? };
        let mut known = self.known();
        if known.changes == changes {
            known.trusted = Some((at, trusted.clone()));
        }
        Ok(trusted)
    }

    /// Reads a document, unless it is the one that is known.
    async fn read<D: Document>(&self, record: &str, known: Option<Arc<Held<D>>>) -> Result<Option<Arc<Held<D>>>, StorageError> {
        let Some((bytes, version)) = self.meta.get(record).await? else { return Ok(None) };
        if let Some(known) = known.filter(|known| known.version == version && known.bytes == bytes) {
            return Ok(Some(known));
        }
        let signed = SignedDocument::parse(&bytes).map_err(|error| StorageError::Damaged(format!("{record}: {error}")))?;
        Ok(Some(Arc::new(Held { signed, bytes, version })))
    }

    fn changed(&self) {
        let mut known = self.known();
        known.changes += 1;
        known.trusted = None;
    }

    /// Takes a root: any that enough of its own keys signed while none is known, then only one that follows. An old root whose time is over
    /// still hands over.
    ///
    /// # Errors
    /// 422 when it is none that may come now, 412 when another came first.
    pub(crate) async fn put_root(&self, bytes: &[u8], now: u64) -> Result<Replaced, ApiError> {
        const REFUSED: &str = "root-refused";
        let new = SignedRoot::parse(bytes).map_err(|error| ApiError::refused(REFUSED, error.to_string()))?;
        let refused = |error: SignedError| ApiError::refused(REFUSED, error.to_string());
        let old = Held::<Root>::read(self.meta.as_ref(), ROOT_KEY).await?;
        let Some(old) = old else {
            new.verify_first().and_then(|root| root.check_time(now)).map_err(refused)?;
            let replaced = replace(self.meta.as_ref(), ROOT_KEY, None, &new).await?;
            self.changed();
            return Ok(replaced);
        };
        let known = old.signed.unverified();
        if old.signed.digest() == new.digest() {
            return Ok(Replaced { first: false, tag: old.tag() });
        }
        if new.unverified().number == known.number && new.unverified().installation == known.installation {
            return Err(ApiError::precondition(format!("there is a root {} already; make the next one", known.number)));
        }
        new.verify_next(known).and_then(|root| root.check_time(now)).map_err(refused)?;
        let history = root_key(known.number);
        let replaced = replace(self.meta.as_ref(), ROOT_KEY, Some((&old, history)), &new).await?;
        self.changed();
        Ok(replaced)
    }

    /// Takes the operator's root for the first one, if the service knows none yet.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) async fn begin_with(&self, bytes: &[u8]) -> anyhow::Result<()> {
        if self.meta.get(ROOT_KEY).await?.is_some() {
            return Ok(());
        }
        match self.put_root(bytes, now()).await {
            Ok(_) => Ok(()),
            // Another server was faster with it.
            Err(error) if error.status == http::StatusCode::PRECONDITION_FAILED => Ok(()),
            Err(error) => anyhow::bail!("{}", error.message),
        }
    }

    /// Takes a revocation list: signed by a revoker of the root or by as many of the root's keys as a root needs, newer than the one that is
    /// known and with all that is in that.
    ///
    /// # Errors
    /// 409 when no root is known, 422 when it is no list that may come now, 412 when another came first.
    pub(crate) async fn put_revocations(&self, bytes: &[u8], now: u64) -> Result<Replaced, ApiError> {
        let refused = |error: String| ApiError::refused("revocations-refused", error);
        let new = SignedRevocations::parse(bytes).map_err(|error| refused(error.to_string()))?;
        let root = Held::<Root>::read(self.meta.as_ref(), ROOT_KEY).await?;
        let Some(root) = root else {
            return Err(ApiError::conflict("no-root", "the service knows no root yet, so nobody may revoke")
                .hint("an admin gives it one: PUT /v1/root, or --root at the start"));
        };
        let old = Held::<RevocationList>::read(self.meta.as_ref(), REVOCATIONS_KEY).await?;
        let trusted = Trusted { root: Some(Arc::new(root)), revocations: old.map(Arc::new) };
        let (root, old) = (trusted.root().map(|held| held.signed.unverified()), trusted.revocations());
        let installation = root.map(|root| root.installation.as_str()).unwrap_or_default();
        if new.unverified().installation != installation {
            let theirs = new.unverified().installation.escape_default();
            return Err(refused(format!("the revocation list is of `{theirs}`, and this is `{installation}`")));
        }
        let revokers: Vec<_> = trusted.delegated(Role::Revoker, "*", now).filter(|key| !trusted.key_revoked(&key.id())).collect();
        let by_revoker = new.verify(revokers, 1);
        let by_root = root.map(|root| new.verify(&root.keys, root.threshold as usize));
        if let (Err(error), false) = (by_revoker, by_root.is_some_and(|verified| verified.is_ok())) {
            return Err(refused(error.to_string()));
        }
        new.unverified().check_time(now).map_err(|error| refused(error.to_string()))?;
        if let Some(old) = old {
            if old.signed.digest() == new.digest() {
                return Ok(Replaced { first: false, tag: old.tag() });
            }
            if old.signed.unverified().number == new.unverified().number {
                let number = new.unverified().number;
                return Err(ApiError::precondition(format!("there is a revocation list {number} already; make the next one")));
            }
            new.check_after(&old.signed).map_err(|error| refused(error.to_string()))?;
        }
        let bytes = Bytes::from(new.to_bytes());
        let tag = Digest::of(&bytes);
        self.meta.put(REVOCATIONS_KEY, bytes, Held::expect(old)).await?;
        self.changed();
        Ok(Replaced { first: old.is_none(), tag })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::Memory;
    use http::StatusCode;
    use preheat_image::api::{NamespaceBuilder, NamespaceKind};
    use preheat_image::keys::SecretKey;
    use preheat_image::manifest::Descriptor;
    use preheat_image::root::Delegation;
    use preheat_image::statement::Kind;
    use preheat_image::{KeyFields, media};

    const BUILDER: u8 = 101;
    const NAMER: u8 = 102;
    const REVOKER: u8 = 103;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed([seed; 32])
    }

    fn delegation(role: Role, seed: u8, namespace: &str) -> Delegation {
        Delegation { role, name: "x".into(), key: key(seed).public(), namespaces: vec![namespace.into()], expires: 500 }
    }

    fn root(number: u64, keys: &[u8], threshold: u32) -> Root {
        Root {
            version: 1,
            installation: "here".into(),
            number,
            issued: 0,
            expires: 1000,
            threshold,
            keys: keys.iter().map(|seed| key(*seed).public()).collect(),
            delegations: vec![
                delegation(Role::Builder, BUILDER, "team"),
                delegation(Role::Namer, NAMER, "team"),
                delegation(Role::Revoker, REVOKER, "*"),
            ],
        }
    }

    fn list(number: u64) -> RevocationList {
        RevocationList { version: 1, installation: "here".into(), number, issued: 0, expires: 1000, ..RevocationList::default() }
    }

    fn signed<D: Document>(document: D, seeds: &[u8]) -> Vec<u8> {
        seeds.iter().fold(SignedDocument::new(document).unwrap(), |signed, seed| signed.sign(&key(*seed)).unwrap()).to_bytes()
    }

    fn trust() -> ServerTrust {
        ServerTrust::new(Arc::new(Memory::default()))
    }

    fn team() -> Namespace {
        Namespace::new("team").unwrap()
    }

    fn statement() -> Statement {
        let fields =
            KeyFields::new().with(field::KIND, "code-object").with(field::SOURCE, Digest::of(b"wasm")).with(field::BUILD_ID, "build-1");
        Statement::new(Kind::CodeObject, "team", fields, vec![Descriptor::of(media::CODE, b"code")])
    }

    fn status(result: Result<Replaced, ApiError>) -> StatusCode {
        result.unwrap_err().status
    }

    async fn vouched(trust: &ServerTrust, seed: u8, config: &NamespaceConfig, now: u64) -> Result<(), Distrust> {
        let trusted = trust.current().await.unwrap();
        trusted.vouch(&statement().sign(&key(seed)), &team(), config, now).map(drop)
    }

    #[tokio::test]
    async fn a_builder_counts_for_its_namespace_its_time_and_its_role() {
        let trust = trust();
        let plain = NamespaceConfig::new(NamespaceKind::Preheat);
        assert!(matches!(vouched(&trust, BUILDER, &plain, 1).await, Err(Distrust::Signer { .. })), "there is no root");
        trust.put_root(&signed(root(1, &[1, 2, 3], 2), &[1, 2]), 1).await.unwrap();
        assert_eq!(vouched(&trust, BUILDER, &plain, 499).await, Ok(()));
        assert!(matches!(vouched(&trust, BUILDER, &plain, 500).await, Err(Distrust::Signer { .. })), "the delegation is over");
        for seed in [NAMER, REVOKER, 1, 9] {
            assert!(matches!(vouched(&trust, seed, &plain, 1).await, Err(Distrust::Signer { .. })), "{seed}");
        }
        let trusted = trust.current().await.unwrap();
        let other = Namespace::new("other").unwrap();
        assert!(trusted.vouch(&statement().sign(&key(BUILDER)), &other, &plain, 1).is_err(), "another namespace");
    }

    #[tokio::test]
    async fn a_namespace_adds_builders_of_its_own_for_a_time() {
        let trust = trust();
        let mut config = NamespaceConfig::new(NamespaceKind::Preheat);
        config.builders.push(NamespaceBuilder { name: "ci".into(), key: key(7).public(), expires: Some(50) });
        assert_eq!(vouched(&trust, 7, &config, 49).await, Ok(()));
        assert!(vouched(&trust, 7, &config, 50).await.is_err());
        let trusted = trust.current().await.unwrap();
        assert!(trusted.keys(Role::Namer, &team(), &config, 1).is_empty(), "a builder is no namer");
    }

    #[tokio::test]
    async fn the_delegations_of_a_root_whose_time_is_over_do_not_count() {
        let trust = trust();
        let mut short = root(1, &[1], 1);
        short.expires = 100;
        trust.put_root(&signed(short, &[1]), 1).await.unwrap();
        let plain = NamespaceConfig::new(NamespaceKind::Preheat);
        assert_eq!(vouched(&trust, BUILDER, &plain, 99).await, Ok(()));
        assert!(vouched(&trust, BUILDER, &plain, 100).await.is_err());
        // It still hands over.
        trust.put_root(&signed(root(2, &[1], 1), &[1]), 100).await.unwrap();
        assert_eq!(vouched(&trust, BUILDER, &plain, 100).await, Ok(()));
    }

    #[tokio::test]
    async fn a_root_is_taken_over_only_by_enough_keys_of_the_one_before() {
        let trust = trust();
        assert_eq!(status(trust.put_root(&signed(root(1, &[1, 2, 3], 2), &[1]), 1).await), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(status(trust.put_root(b"junk", 1).await), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(status(trust.put_root(&signed(root(1, &[1], 1), &[1]), 1000).await), StatusCode::UNPROCESSABLE_ENTITY, "over");
        let first = signed(root(1, &[1, 2, 3], 2), &[1, 2]);
        assert!(trust.put_root(&first, 1).await.unwrap().first);
        assert!(!trust.put_root(&first, 1).await.unwrap().first, "the same once more");
        let mine = |keys: &[u8], by: &[u8]| signed(root(2, keys, 1), by);
        for (keys, by) in [(&[9][..], &[9][..]), (&[9], &[1, 9]), (&[1, 9], &[1, 9])] {
            assert_eq!(status(trust.put_root(&mine(keys, by), 1).await), StatusCode::UNPROCESSABLE_ENTITY, "{keys:?} {by:?}");
        }
        assert_eq!(status(trust.put_root(&signed(root(3, &[1], 1), &[1, 2]), 1).await), StatusCode::UNPROCESSABLE_ENTITY, "left one out");
        assert_eq!(status(trust.put_root(&signed(root(1, &[9], 1), &[1, 2, 9]), 1).await), StatusCode::PRECONDITION_FAILED);
        let second = mine(&[9], &[1, 2, 9]);
        trust.put_root(&second, 1).await.unwrap();
        assert_eq!(trust.current().await.unwrap().root().unwrap().bytes, second);
        assert_eq!(trust.meta.get(&root_key(1)).await.unwrap().unwrap().0, first, "the first is in the history");
        assert_eq!(status(trust.put_root(&first, 1).await), StatusCode::UNPROCESSABLE_ENTITY, "never back");
    }

    #[tokio::test]
    async fn what_is_revoked_counts_no_more_at_once() {
        let trust = trust();
        let plain = NamespaceConfig::new(NamespaceKind::Preheat);
        trust.put_root(&signed(root(1, &[1], 1), &[1]), 1).await.unwrap();
        assert_eq!(vouched(&trust, BUILDER, &plain, 1).await, Ok(()));
        let revoked = |change: fn(&mut RevocationList)| async move {
            let trust = self::trust();
            trust.put_root(&signed(root(1, &[1], 1), &[1]), 1).await.unwrap();
            assert!(trust.current().await.unwrap().revocations().is_none());
            let mut list = list(1);
            change(&mut list);
            trust.put_revocations(&signed(list, &[REVOKER]), 1).await.unwrap();
            // Also when the list's own time is over.
            vouched(&trust, BUILDER, &NamespaceConfig::new(NamespaceKind::Preheat), 1).await
        };
        assert!(matches!(revoked(|list| assert!(list.keys.insert(key(BUILDER).public().id()))).await, Err(Distrust::Revoked(_))));
        assert!(matches!(revoked(|list| assert!(list.build_ids.insert("build-1".into()))).await, Err(Distrust::Revoked(_))));
        assert!(matches!(revoked(|list| assert!(list.sources.insert(Digest::of(b"wasm")))).await, Err(Distrust::Revoked(_))));
        assert!(matches!(revoked(|list| assert!(list.blobs.insert(Digest::of(b"code")))).await, Err(Distrust::Revoked(_))));
        assert_eq!(revoked(|list| assert!(list.blobs.insert(Digest::of(b"other")))).await, Ok(()));
    }

    #[tokio::test]
    async fn a_revoked_key_of_a_namespace_does_not_count_either() {
        let trust = trust();
        trust.put_root(&signed(root(1, &[1], 1), &[1]), 1).await.unwrap();
        let mut config = NamespaceConfig::new(NamespaceKind::Preheat);
        config.namers.push(NamespaceBuilder { name: "ci".into(), key: key(7).public(), expires: None });
        let namers = |trusted: &Trusted| trusted.keys(Role::Namer, &team(), &config, 1).len();
        assert_eq!(namers(&trust.current().await.unwrap()), 2);
        let mut all = list(1);
        all.keys.extend([key(7).public().id(), key(NAMER).public().id()]);
        trust.put_revocations(&signed(all, &[REVOKER]), 1).await.unwrap();
        assert_eq!(namers(&trust.current().await.unwrap()), 0);
    }

    #[tokio::test]
    async fn only_a_revoker_or_the_root_revokes_and_nothing_is_taken_back() {
        let trust = trust();
        assert_eq!(status(trust.put_revocations(&signed(list(1), &[REVOKER]), 1).await), StatusCode::CONFLICT, "no root");
        trust.put_root(&signed(root(1, &[1, 2], 2), &[1, 2]), 1).await.unwrap();
        for by in [&[][..], &[BUILDER], &[NAMER], &[1], &[9]] {
            assert_eq!(status(trust.put_revocations(&signed(list(1), by), 1).await), StatusCode::UNPROCESSABLE_ENTITY, "{by:?}");
        }
        assert_eq!(status(trust.put_revocations(&signed(list(1), &[REVOKER]), 500).await), StatusCode::UNPROCESSABLE_ENTITY, "over");
        assert_eq!(status(trust.put_revocations(&signed(list(1), &[REVOKER]), 1000).await), StatusCode::UNPROCESSABLE_ENTITY, "over");
        let mut elsewhere = list(1);
        elsewhere.installation = "there".into();
        assert_eq!(status(trust.put_revocations(&signed(elsewhere, &[REVOKER]), 1).await), StatusCode::UNPROCESSABLE_ENTITY);
        let mut two = list(2);
        two.blobs.insert(Digest::of(b"x"));
        assert!(trust.put_revocations(&signed(two.clone(), &[REVOKER]), 1).await.unwrap().first);
        assert!(!trust.put_revocations(&signed(two.clone(), &[REVOKER]), 1).await.unwrap().first, "the same once more");
        assert_eq!(status(trust.put_revocations(&signed(list(2), &[REVOKER]), 1).await), StatusCode::PRECONDITION_FAILED);
        assert_eq!(status(trust.put_revocations(&signed(list(3), &[REVOKER]), 1).await), StatusCode::UNPROCESSABLE_ENTITY, "lacks one");
        assert_eq!(status(trust.put_revocations(&signed(list(1), &[REVOKER]), 1).await), StatusCode::UNPROCESSABLE_ENTITY, "back");
        // A revoker who is revoked revokes no more; the root's keys do.
        let mut three = RevocationList { number: 3, ..two };
        three.keys.insert(key(REVOKER).public().id());
        trust.put_revocations(&signed(three.clone(), &[1, 2]), 1).await.unwrap();
        let four = RevocationList { number: 4, ..three };
        assert_eq!(status(trust.put_revocations(&signed(four.clone(), &[REVOKER]), 1).await), StatusCode::UNPROCESSABLE_ENTITY);
        trust.put_revocations(&signed(four, &[1, 2]), 1).await.unwrap();
    }

    #[tokio::test]
    async fn the_operators_root_is_only_for_the_beginning() {
        let trust = trust();
        assert!(trust.begin_with(b"junk").await.is_err());
        let ends = u64::MAX;
        let first = signed(Root { expires: ends, ..root(1, &[1], 1) }, &[1]);
        trust.begin_with(&first).await.unwrap();
        trust.begin_with(&signed(Root { expires: ends, ..root(1, &[9], 1) }, &[9])).await.unwrap();
        assert_eq!(trust.current().await.unwrap().root().unwrap().bytes, first, "the first stays");
    }

    #[tokio::test]
    async fn of_two_who_replace_the_same_document_one_is_told_and_the_history_is_whole() {
        let meta = Memory::default();
        let one = SignedRoot::new(root(1, &[1], 1)).unwrap();
        replace(&meta, ROOT_KEY, None, &one).await.unwrap();
        let held = Held::<Root>::read(&meta, ROOT_KEY).await.unwrap().unwrap();
        let next = |expires| SignedRoot::new(Root { expires, ..root(2, &[1], 1) }).unwrap();
        replace(&meta, ROOT_KEY, Some((&held, root_key(1))), &next(7)).await.unwrap();
        let slower = replace(&meta, ROOT_KEY, Some((&held, root_key(1))), &next(8)).await;
        assert_eq!(slower.unwrap_err().status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(meta.get(&root_key(1)).await.unwrap().unwrap().0, one.to_bytes());
        assert_eq!(meta.get(ROOT_KEY).await.unwrap().unwrap().0, next(7).to_bytes());
    }
}
