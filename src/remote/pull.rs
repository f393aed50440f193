//! Getting an image from a cache: who vouches for it first, then the blobs that are missing here, and only when all of them are right an
//! entry in the store.

use super::location::Location;
use super::{Remote, RemoteError};
use preheat_cache_client::oci::{self, Repository};
use preheat_cache_client::transfer::{Target, pull_blobs};
use preheat_cache_client::{Blob, BlobSink, Cache, Caches, Progress};
use preheat_image::keys::PublicKey;
use preheat_image::manifest::{Descriptor, MAX_SIZE as MAX_MANIFEST};
use preheat_image::record::Signed;
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{CpuLevel, Digest, FormatError, Manifest, media};
use preheat_loader::store::{BlobWriter, Publication, WrittenBlob};
use preheat_loader::trust::{Refusal, now};
use preheat_loader::{Store, StoreError, TrustPolicy};
use preheat_wasmtime::TARGET;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Transfers at a time.
const PARALLEL: usize = 6;

/// Which code objects a pull brings; what is no code always comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullCode {
    /// Those that the loader of this host would choose: what a node needs.
    #[default]
    ForHost,
    /// All: for mirrors, and for whoever pushes the image on.
    All,
}

impl PullCode {
    /// The blobs of an image that are not asked for.
    fn unused(self, manifest: &Manifest) -> BTreeSet<Digest> {
        match (self, CpuLevel::of_host()) {
            (Self::ForHost, Some(level)) => manifest.unused_by(TARGET, level),
            _ => BTreeSet::new(),
        }
    }
}

/// What was got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub digest: Digest,
    /// Blobs that were fetched.
    pub blobs: usize,
    /// Bytes in those.
    pub bytes: u64,
    /// Blobs that were here.
    pub known: usize,
    /// Blobs that were left where they are: code that this host has no use for.
    pub left_out: usize,
    /// Why the name was looked up in what was seen last: the cache does not answer.
    pub offline: Option<String>,
}

/// Where blobs come from.
pub(super) enum From<'a> {
    /// A namespace of a cache.
    Cache(&'a Cache, &'a str),
    /// A registry or a layout directory.
    Repository(&'a dyn Repository),
}

/// An image on its way into the store.
pub(super) struct Landed<'a> {
    pub(super) manifest: &'a [u8],
    pub(super) vouched: &'a Vouched,
    pub(super) code: PullCode,
}

/// A blob on its way into the store.
struct Incoming(BlobWriter);

/// Keeps the kind, and what the store says: which file, and why.
fn as_io(error: StoreError) -> io::Error {
    match &error {
        StoreError::Io { source, .. } => io::Error::new(source.kind(), error),
        _ => io::Error::other(error),
    }
}

impl BlobSink for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes).map_err(as_io)
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.restart().map_err(as_io)
    }
}

/// A statement that the policy accepts, with the key that made it.
pub(super) struct Vouched {
    envelope: Envelope,
    key: PublicKey,
}

impl Vouched {
    pub(super) fn outputs(&self) -> &[Descriptor] {
        &self.envelope.unverified().outputs
    }

    /// The first statement of `kind` that `wanted` wants and that `policy` accepts, its signature included.
    pub(super) fn choose(
        envelopes: Vec<Envelope>,
        kind: Kind,
        policy: &TrustPolicy,
        wanted: impl Fn(&preheat_image::Statement) -> bool,
    ) -> Result<Self, Refusal> {
        let mut refusal = Refusal::NoStatement;
        for envelope in envelopes {
            let statement = envelope.unverified();
            if statement.kind != kind || !wanted(statement) {
                continue;
            }
            if let Err(why) = policy.judge_at(&Signed::new(statement, envelope.signer(), Digest::of(&envelope.to_bytes())), now()) {
                refusal = why;
                continue;
            }
            let key = policy.builders.iter().map(|builder| &builder.key).find(|key| key.id() == envelope.signer()).cloned();
            match key {
                Some(key) if envelope.verify([&key]).is_ok() => return Ok(Self { envelope, key }),
                // Whoever wrote it has not that key.
                _ => refusal = Refusal::UnknownSigner(envelope.signer()),
            }
        }
        Err(refusal)
    }
}

/// Who vouches for the image `digest`, of all who say they do at the place that is shown so.
pub(super) fn vouched_image(shown: &str, digest: &Digest, envelopes: Vec<Envelope>, policy: &TrustPolicy) -> Result<Vouched, RemoteError> {
    let subject = |statement: &preheat_image::Statement| statement.outputs.first().is_some_and(|first| first.digest == *digest);
    let vouched = Vouched::choose(envelopes, Kind::Image, policy, subject).map_err(|refusal| RemoteError::Refused {
        host: shown.to_owned(),
        digest: *digest,
        refusal: Box::new(refusal),
    })?;
    let described = &vouched.outputs()[0];
    if described.size > MAX_MANIFEST as u64 || described.media_type != media::MANIFEST {
        let found = format!("{} bytes of {}", described.size, described.media_type.escape_default());
        let source = FormatError::NotThisFormat { format: "image manifest", found };
        return Err(RemoteError::Format { host: shown.to_owned(), subject: digest.to_string(), source });
    }
    Ok(vouched)
}

impl Remote {
    /// Gets an image: by its name, as the signed names of the namespace have it, or by its digest. What is here already is not fetched. With
    /// a name, the local store knows the image by it afterwards.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] before a blob is fetched, if nobody vouches for it whom the policy trusts; when the names do not count, the
    /// cache does not answer, or its blobs are not what they should be. The store has then nothing new but blobs that were right.
    pub fn pull(&self, at: &Location, code: PullCode, progress: &dyn Progress) -> Result<Pulled, RemoteError> {
        let cache = self.cache(&at.host)?;
        let pulled = self.tokio.block_on(async {
            let (digest, offline) = self.resolve(&cache, at).await?;
            let mut pulled = self.pull_image(&cache, &at.namespace, &digest, code, progress).await?;
            pulled.offline = offline;
            Ok::<_, RemoteError>(pulled)
        })?;
        if let Some(reference) = at.reference() {
            self.store.tag(&reference, &pulled.digest)?;
        }
        Ok(pulled)
    }

    /// Gets all images that the names of a namespace lead to, so that a node has them before they are asked for.
    ///
    /// # Errors
    /// As [`Remote::pull`]. An image that fails does not keep the others away; the first failure is what comes back, at the end.
    pub fn prefetch(&self, at: &Location, code: PullCode, progress: &dyn Progress) -> Result<Vec<(String, Pulled)>, RemoteError> {
        let cache = self.cache(&at.host)?;
        self.tokio.block_on(async {
            let answer = self.names_of(&cache, at).await?;
            let (mut all, mut failure) = (Vec::new(), None);
            for (name, digest) in &answer.names.names {
                let one = Location { name: Some(name.clone()), digest: None, ..at.clone() };
                let pulled = self.pull_image(&cache, &at.namespace, digest, code, progress).await;
                let tagged = pulled.and_then(|pulled| {
                    if let Some(reference) = one.reference() {
                        self.store.tag(&reference, digest)?;
                    }
                    Ok(pulled)
                });
                match tagged {
                    Ok(pulled) => all.push((one.to_string(), pulled)),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            failure.map_or(Ok(all), Err)
        })
    }

    /// Which image is meant, and whether that is known only from before.
    async fn resolve(&self, cache: &Cache, at: &Location) -> Result<(Digest, Option<String>), RemoteError> {
        let Some(name) = &at.name else {
            self.refresh_trust(cache, &at.host).await?;
            let digest = at.digest.ok_or_else(|| RemoteError::Usage(format!("`{at}` names no image: add /name[:tag] or @sha256:…")))?;
            return Ok((digest, None));
        };
        let answer = self.names_of(cache, at).await?;
        let found = answer.names.names.get(name).copied();
        match (found, at.digest) {
            (None, _) => Err(RemoteError::Name(format!("no image is named `{name}` in {}/{}", at.host, at.namespace))),
            (Some(found), Some(wanted)) if found != wanted => {
                Err(StoreError::NameMoved { name: format!("{}/{}/{name}", at.host, at.namespace), found, wanted }.into())
            }
            (Some(found), _) => Ok((found, answer.offline)),
        }
    }

    /// Whether the store has all of the image that is asked for, and the policy accepts it.
    pub(super) fn have(&self, digest: &Digest, policy: &TrustPolicy, code: PullCode) -> Option<Pulled> {
        let image = self.store.load(digest, policy, preheat_loader::LoadOptions::default()).ok()?;
        let unused = code.unused(image.manifest());
        let is_here = |blob: &Descriptor| self.store.blob_size(&blob.digest) == Some(blob.size);
        let (here, away): (Vec<_>, Vec<_>) = image.manifest().blobs().partition(is_here);
        let whole = away.iter().all(|blob| unused.contains(&blob.digest));
        whole.then_some(Pulled { digest: *digest, blobs: 0, bytes: 0, known: here.len() + 1, left_out: away.len(), offline: None })
    }

    pub(super) async fn pull_image(
        &self,
        cache: &Cache,
        namespace: &str,
        digest: &Digest,
        code: PullCode,
        progress: &dyn Progress,
    ) -> Result<Pulled, RemoteError> {
        // Read again for each image: it may have changed while another was fetched.
        let policy = self.home.trust()?;
        if let Some(pulled) = self.have(digest, &policy, code) {
            return Ok(pulled);
        }
        let envelopes = cache.statements(namespace, digest).await?;
        let vouched = vouched_image(cache.name(), digest, envelopes, &policy)?;
        let mut bytes = Vec::new();
        cache.get_blob(namespace, &Blob { digest: *digest, size: vouched.outputs()[0].size }, &mut bytes, &()).await?;
        let what = Landed { manifest: &bytes, vouched: &vouched, code };
        self.land(From::Cache(cache, namespace), cache.name(), &what, &policy, progress).await
    }

    /// Fetches what an image lacks here, and lets it into the store with the statement that vouches for it.
    pub(super) async fn land(
        &self,
        from: From<'_>,
        shown: &str,
        what: &Landed<'_>,
        policy: &TrustPolicy,
        progress: &dyn Progress,
    ) -> Result<Pulled, RemoteError> {
        let Landed { manifest: manifest_bytes, vouched, code } = *what;
        let digest = vouched.outputs()[0].digest;
        let damaged = |source| RemoteError::Format { host: shown.to_owned(), subject: digest.to_string(), source };
        let manifest = Manifest::parse(manifest_bytes).map_err(damaged)?;
        if let Some(revoked) = manifest.blobs().find(|blob| policy.revokes_blob(&blob.digest)) {
            let refusal = Box::new(Refusal::RevokedBlob(revoked.digest));
            return Err(RemoteError::Refused { host: shown.to_owned(), digest, refusal });
        }
        let mut left_out = code.unused(&manifest);
        left_out.retain(|digest| self.store.blob_size(digest).is_none());
        let all = manifest.blobs().chain(vouched.outputs().iter().skip(1).cloned());
        let wanted: Vec<Descriptor> = all.filter(|blob| !left_out.contains(&blob.digest)).collect();
        let mut publication = self.store.publish()?;
        publication.leave_out(left_out.iter().copied());
        let described = publication.put(media::MANIFEST, manifest_bytes)?;
        if described.digest != digest {
            return Err(StoreError::Damaged {
                digest,
                path: self.store.blob_path(&digest),
                what: format!("{shown} gave another manifest"),
            }
            .into());
        }
        let (blobs, fetched, known) = self.fetch(from, &mut publication, wanted, progress).await?;
        publication.add_statement(&vouched.envelope, &vouched.key)?;
        publication.finish()?;
        Ok(Pulled { digest, blobs: blobs + 1, bytes: fetched + described.size, known, left_out: left_out.len(), offline: None })
    }

    /// Gets what a statement vouches for and that is no image: code objects that a build needs.
    pub(super) async fn pull_outputs(&self, cache: &Cache, namespace: &str, vouched: &Vouched) -> Result<(), RemoteError> {
        let mut publication = self.store.publish()?;
        self.fetch(From::Cache(cache, namespace), &mut publication, vouched.outputs().to_vec(), &()).await?;
        publication.add_statement(&vouched.envelope, &vouched.key)?;
        Ok(publication.finish()?)
    }

    /// Fetches the blobs that the store lacks. Says how many there were, their bytes, and how many were there.
    async fn fetch(
        &self,
        from: From<'_>,
        publication: &mut Publication<'_>,
        wanted: Vec<Descriptor>,
        progress: &dyn Progress,
    ) -> Result<(usize, u64, usize), RemoteError> {
        let wanted: BTreeMap<Digest, Descriptor> = wanted.into_iter().map(|blob| (blob.digest, blob)).collect();
        let missing: Vec<Blob> = wanted
            .values()
            .filter(|blob| self.store.blob_size(&blob.digest) != Some(blob.size))
            .map(|blob| Blob { digest: blob.digest, size: blob.size })
            .collect();
        let known = wanted.len() - missing.len();
        let landing = Arc::new(Landing { store: self.store.clone(), wanted, written: Mutex::default() });
        let moved = match from {
            From::Cache(cache, namespace) => {
                let caches = Caches::new(vec![cache.clone()]);
                pull_blobs(&caches, namespace, &missing, PARALLEL, &landing, progress).await?
            }
            From::Repository(repository) => oci::pull_blobs(repository, &missing, PARALLEL, &landing, progress).await?,
        };
        for written in landing.written().drain(..) {
            publication.note(written);
        }
        Ok((moved.blobs, moved.bytes, known))
    }
}

/// Where blobs land. Whoever uses it holds a publication meanwhile.
struct Landing {
    store: Store,
    wanted: BTreeMap<Digest, Descriptor>,
    written: Mutex<Vec<WrittenBlob>>,
}

impl Landing {
    fn written(&self) -> MutexGuard<'_, Vec<WrittenBlob>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for Landing {
    type Sink = Incoming;

    fn open(&self, _: &Blob) -> io::Result<Incoming> {
        self.store.blob_writer().map(Incoming).map_err(as_io)
    }

    fn publish(&self, blob: &Blob, incoming: Incoming) -> io::Result<()> {
        let expected = self.wanted.get(&blob.digest).ok_or_else(|| io::Error::other("a blob that nobody asked for"))?;
        let written = incoming.0.finish_as(expected).map_err(as_io)?;
        self.written().push(written);
        Ok(())
    }
}
