//! Blobs in a bucket, read through the tier.

use super::bucket::{Answer, Bucket, BucketConfig};
use super::tier::{Tier, TierKey};
use super::{BlobEntry, Blobs, Committed, DirectUrl, Namespace, OpenBlob, StorageError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::signer::Method;
use object_store::{CopyOptions, ObjectStoreExt as _, PutPayload};
use preheat_image::chunks::{Builder, CHUNK_SIZE};
use preheat_image::{Digest, DigestHasher};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tempfile::NamedTempFile;
use tokio::sync::Semaphore;

/// Bytes of a blob that are read with one request.
const READ_PART: u64 = 4 << 20;
/// Requests at once for one blob.
const READ_AHEAD: usize = 2;
/// Blobs that are read from the bucket at once: together with the two above a bound of memory, 64 MiB.
const FETCHES: usize = 8;
/// Larger uploads are written in parts of this size, in bytes: together 10,000 parts, the most that S3 takes, are 160 GiB.
const WRITE_PART: u64 = 16 << 20;
/// Uploads that are written to the bucket at once: 64 MiB.
const WRITES: usize = 4;
/// How long the bucket's word that it has a blob counts for reading it, in seconds: as long as a blob in the tier may outlive its removal by an
/// admin on another server. A collection ends it at once.
const CONFIRMED: u32 = 30;
/// How long the tier answers without asking after the bucket failed.
const AWAY: Duration = Duration::from_secs(10);
/// Requests at once for one question about many blobs.
const SIZES: usize = 64;

type Flight = Shared<BoxFuture<'static, Result<Option<Arc<OpenBlob>>, Arc<StorageError>>>>;

/// The blobs in a bucket.
#[derive(Clone)]
pub struct BucketBlobs(Arc<Inner>);

struct Inner {
    bucket: Bucket,
    tier: Tier,
    redirect_from: u64,
    redirect_for: Duration,
    /// Blobs on their way from the bucket: whoever else wants one waits for the same.
    flights: Mutex<HashMap<TierKey, Flight>>,
    fetches: Semaphore,
    writes: Arc<Semaphore>,
    /// Until when the tier answers without asking, in milliseconds since `started`.
    away_until: AtomicU64,
    started: Instant,
    /// Blobs that were read from the bucket since the start.
    #[cfg(test)]
    fetched: AtomicU64,
}

impl std::fmt::Debug for BucketBlobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketBlobs").finish_non_exhaustive()
    }
}

fn failed(error: io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full(format!("the tier: {error}")),
        _ => StorageError::Other(format!("the tier: {error}")),
    }
}

fn again(error: &StorageError) -> StorageError {
    match error {
        StorageError::Full(why) => StorageError::Full(why.clone()),
        StorageError::Unavailable(why) => StorageError::Unavailable(why.clone()),
        StorageError::Damaged(why) => StorageError::Damaged(why.clone()),
        StorageError::Other(why) => StorageError::Other(why.clone()),
    }
}

fn duplicate(blob: &OpenBlob) -> Result<OpenBlob, StorageError> {
    Ok(OpenBlob { file: blob.file.try_clone().map_err(failed)?, size: blob.size, seal: blob.seal, chunks: blob.chunks.clone() })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(StorageError::Other("the tier: a task ended early".into())),
    }
}

fn blob_key(namespace: &Namespace, digest: &Digest) -> String {
    let hex = digest.hex();
    format!("ns/{namespace}/cas/{}/{}", &hex[..2], &hex[2..])
}

impl BucketBlobs {
    pub(crate) fn new(bucket: Bucket, tier: Tier, config: &BucketConfig) -> Self {
        Self(Arc::new(Inner {
            bucket,
            tier,
            redirect_from: config.redirect_from_bytes,
            redirect_for: Duration::from_secs(config.redirect_seconds.max(1)),
            flights: Mutex::default(),
            fetches: Semaphore::new(FETCHES),
            writes: Arc::new(Semaphore::new(WRITES)),
            away_until: AtomicU64::new(0),
            started: Instant::now(),
            #[cfg(test)]
            fetched: AtomicU64::new(0),
        }))
    }

    #[cfg(test)]
    pub(super) fn fetched(&self) -> u64 {
        self.0.fetched.load(Ordering::Relaxed)
    }

    fn path(&self, namespace: &Namespace, digest: &Digest) -> Result<Path, StorageError> {
        self.0.bucket.path(&blob_key(namespace, digest))
    }

    fn is_away(&self) -> bool {
        self.0.started.elapsed().as_millis() < u128::from(self.0.away_until.load(Ordering::Relaxed))
    }

    fn set_away(&self) {
        let until = (self.0.started.elapsed() + AWAY).as_millis();
        self.0.away_until.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    async fn cached(&self, key: TierKey) -> Result<Option<OpenBlob>, StorageError> {
        let tier = self.0.tier.clone();
        blocking(move || tier.get(key)).await
    }

    async fn forget(&self, key: TierKey) -> Result<(), StorageError> {
        let tier = self.0.tier.clone();
        blocking(move || {
            tier.remove(key);
            Ok(())
        })
        .await
    }

    /// Gets a blob from the bucket into the tier; everybody who wants it meanwhile gets the same.
    async fn fetch(&self, namespace: &Namespace, digest: &Digest, key: TierKey) -> Result<Option<OpenBlob>, StorageError> {
        let flight = {
            let mut flights = self.0.flights.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (blobs, namespace, digest) = (self.clone(), namespace.clone(), *digest);
                    // A task of its own: it goes on when the first who wanted it goes away.
                    let task = tokio::spawn(async move {
                        let result = blobs.transfer(&namespace, &digest, key).await;
                        blobs.0.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
                        result.map(|blob| blob.map(Arc::new)).map_err(Arc::new)
                    });
                    let ended = || Err(Arc::new(StorageError::Other("a task ended early".into())));
                    let flight = async move { task.await.unwrap_or_else(|_| ended()) }.boxed().shared();
                    flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        match flight.await {
            Ok(Some(blob)) => duplicate(&blob).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(again(&error)),
        }
    }

    async fn transfer(&self, namespace: &Namespace, digest: &Digest, key: TierKey) -> Result<Option<OpenBlob>, StorageError> {
        let Ok(_turn) = self.0.fetches.acquire().await else {
            return Err(StorageError::Other("the service ends".into()));
        };
        let path = self.path(namespace, digest)?;
        let doubts = self.0.tier.doubts();
        let Some(size) = self.0.bucket.size(&path).await? else { return Ok(None) };
        let downloaded = match self.download(&path, size).await {
            Err(StorageError::Full(_)) => {
                // Room is made for this one, if that is what helps.
                let tier = self.0.tier.clone();
                blocking(move || {
                    tier.shrink(size.saturating_mul(2));
                    Ok(())
                })
                .await?;
                self.download(&path, size).await?
            }
            downloaded => downloaded?,
        };
        let Some((file, found, chunks)) = downloaded else { return Ok(None) };
        #[cfg(test)]
        self.0.fetched.fetch_add(1, Ordering::Relaxed);
        if found != *digest {
            self.put_aside(namespace, digest, &format!("its content has digest {found}")).await?;
            return Ok(None);
        }
        let tier = self.0.tier.clone();
        blocking(move || tier.insert(key, file, chunks.as_deref(), doubts)).await.map(Some)
    }

    /// Reads an object of `size` bytes into a file. None if it goes away meanwhile.
    async fn download(&self, path: &Path, size: u64) -> Result<Option<(NamedTempFile, Digest, Option<Vec<u8>>)>, StorageError> {
        let tier = self.0.tier.clone();
        let mut file = blocking(move || tier.temporary()).await?;
        let (mut hasher, mut chunks) = (DigestHasher::new(), Builder::new());
        let limit = self.0.bucket.timing().transfer;
        let starts = (0..size.div_ceil(READ_PART)).map(|part| part * READ_PART);
        let mut parts = stream::iter(starts)
            .map(|start| async move {
                let range = start..size.min(start + READ_PART);
                let called = self.0.bucket.call("reading a blob", limit, || self.0.bucket.store().get_range(path, range.clone())).await?;
                match called.answer {
                    Answer::Done(bytes) if bytes.len() as u64 == range.end - range.start => Ok(Some(bytes)),
                    Answer::Done(bytes) => {
                        Err(StorageError::Unavailable(format!("the bucket gave {} bytes for {range:?} of a blob", bytes.len())))
                    }
                    Answer::Missing => Ok(None),
                    Answer::Refused => Err(StorageError::Unavailable("reading a blob was refused".into())),
                }
            })
            .buffered(READ_AHEAD);
        while let Some(part) = parts.next().await {
            let Some(bytes) = part? else { return Ok(None) };
            (file, hasher, chunks) = blocking(move || {
                io::Write::write_all(&mut file, &bytes)?;
                hasher.update(&bytes);
                chunks.update(&bytes);
                Ok((file, hasher, chunks))
            })
            .await?;
        }
        let chunks = (size > CHUNK_SIZE as u64).then(|| chunks.finish());
        Ok(Some((file, hasher.finalize(), chunks)))
    }

    /// Moves an object that is not what its name says to where nobody reads it.
    async fn put_aside(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError> {
        tracing::error!(%namespace, %digest, why, "a damaged blob in the bucket is put aside");
        let (from, to) = (self.path(namespace, digest)?, self.0.bucket.path(&format!("quarantine/{namespace}/{}", digest.hex()))?);
        let limit = self.0.bucket.timing().transfer;
        let copy = || self.0.bucket.store().copy_opts(&from, &to, CopyOptions::default());
        // The copy is for people; what counts is that nobody reads it any more.
        if let Err(error) = self.0.bucket.call("copying a damaged blob", limit, copy).await {
            tracing::warn!(%error, "no copy of the damaged blob is kept");
        }
        self.0.bucket.delete(&from).await.map(drop)
    }

    async fn store(&self, path: &Path, file: &Arc<File>, size: u64) -> Result<(), StorageError> {
        let limit = self.0.bucket.timing().transfer;
        if size <= WRITE_PART {
            let bytes = read_part(file, 0, size).await?;
            let put = || self.0.bucket.store().put(path, PutPayload::from(bytes.clone()));
            return match self.0.bucket.call("writing a blob", limit, put).await?.answer {
                Answer::Done(_) => Ok(()),
                Answer::Missing | Answer::Refused => Err(StorageError::Unavailable("writing a blob was refused".into())),
            };
        }
        // These repeat by themselves what fails.
        let unavailable = |error: object_store::Error| StorageError::Unavailable(format!("writing a large blob: {error}"));
        let mut upload = self.0.bucket.repeating().put_multipart(path).await.map_err(unavailable)?;
        let written = async {
            for part in 0..size.div_ceil(WRITE_PART) {
                let start = part * WRITE_PART;
                let bytes = read_part(file, start, WRITE_PART.min(size - start)).await?;
                upload.put_part(PutPayload::from(bytes)).await.map_err(unavailable)?;
            }
            upload.complete().await.map_err(unavailable)
        }
        .await;
        match written {
            Ok(_) => Ok(()),
            Err(error) => {
                // Parts that stay cost money until the bucket's own rule for unfinished uploads removes them.
                let _ = tokio::time::timeout(limit, upload.abort()).await;
                Err(error)
            }
        }
    }
}

async fn read_part(file: &Arc<File>, start: u64, len: u64) -> Result<Bytes, StorageError> {
    let file = file.clone();
    blocking(move || {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, start)?;
        Ok(Bytes::from(bytes))
    })
    .await
}

#[async_trait]
impl Blobs for BucketBlobs {
    async fn size(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<u64>, StorageError> {
        // Always asked: a name or a statement may be accepted for this answer.
        let (key, doubts) = (TierKey::new(namespace, digest), self.0.tier.doubts());
        let size = self.0.bucket.size(&self.path(namespace, digest)?).await?;
        match size {
            Some(_) => self.0.tier.confirm(key, doubts),
            None => self.forget(key).await?,
        }
        Ok(size)
    }

    async fn sizes(&self, namespace: &Namespace, digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError> {
        stream::iter(digests.to_vec()).map(|digest| async move { self.size(namespace, &digest).await }).buffered(SIZES).try_collect().await
    }

    async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        let key = TierKey::new(namespace, digest);
        let Some(blob) = self.cached(key).await? else { return self.fetch(namespace, digest, key).await };
        if self.0.tier.is_confirmed(key, CONFIRMED) || self.is_away() {
            return Ok(Some(blob));
        }
        // It may have been removed through another server.
        match self.size(namespace, digest).await {
            Ok(Some(_)) => Ok(Some(blob)),
            Ok(None) => Ok(None),
            // What is here is what its name says, whether the bucket answers or not.
            Err(error) => {
                tracing::warn!(%error, "the tier answers alone");
                self.set_away();
                Ok(Some(blob))
            }
        }
    }

    async fn begin(&self, namespace: &Namespace) -> Result<Box<dyn Upload>, StorageError> {
        let tier = self.0.tier.clone();
        let file = blocking(move || tier.temporary()).await?;
        Ok(Box::new(BucketUpload { blobs: self.clone(), namespace: namespace.clone(), file: Some(file), size: 0 }))
    }

    async fn quarantine(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError> {
        // What is damaged is the copy here. If the bucket's is too, that is found out when it is read now.
        let key = TierKey::new(namespace, digest);
        tracing::warn!(%namespace, %digest, why, "a damaged blob in the tier is removed and read from the bucket again");
        self.forget(key).await?;
        self.fetch(namespace, digest, key).await.map(drop)
    }

    async fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError> {
        let deleted = self.0.bucket.delete(&self.path(namespace, digest)?).await;
        self.forget(TierKey::new(namespace, digest)).await?;
        deleted
    }

    fn list<'a>(&'a self, namespace: &'a Namespace) -> BoxStream<'a, Result<BlobEntry, StorageError>> {
        let folder = match self.0.bucket.path(&format!("ns/{namespace}/cas")) {
            Ok(folder) => folder,
            Err(error) => return stream::once(async { Err(error) }).boxed(),
        };
        let root = format!("{folder}/");
        self.0
            .bucket
            .repeating()
            .list(Some(&folder))
            .map_err(|error| StorageError::Unavailable(format!("listing blobs: {error}")))
            .try_filter_map(move |found| {
                let name = found.location.as_ref().strip_prefix(root.as_str()).map(|name| name.replacen('/', "", 1));
                let digest = name.and_then(|name| Digest::from_hex(&name).ok());
                let entry = digest.map(|digest| BlobEntry { digest, size: found.size, written: SystemTime::from(found.last_modified) });
                async move { Ok(entry) }
            })
            .boxed()
    }

    async fn direct_url(&self, namespace: &Namespace, digest: &Digest, size: u64) -> Option<DirectUrl> {
        let signer = self.0.bucket.signer().filter(|_| size >= self.0.redirect_from)?;
        let path = self.path(namespace, digest).ok()?;
        match signer.signed_url(Method::GET, &path, self.0.redirect_for).await {
            Ok(url) => Some(DirectUrl { url: url.into() }),
            Err(error) => {
                tracing::warn!(%error, "no direct address; the service sends the blob itself");
                None
            }
        }
    }

    fn doubt(&self) {
        self.0.tier.doubt();
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }

    async fn ready(&self) -> Result<(), StorageError> {
        self.0.bucket.ready().await
    }
}

struct BucketUpload {
    blobs: BucketBlobs,
    namespace: Namespace,
    /// None only while it is being written to.
    file: Option<NamedTempFile>,
    size: u64,
}

#[async_trait]
impl Upload for BucketUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let Some(mut file) = self.file.take() else {
            return Err(StorageError::Other("an upload went on after it had failed".into()));
        };
        self.size += bytes.len() as u64;
        let tier = self.blobs.0.tier.clone();
        self.file = Some(
            blocking(move || {
                let at = io::Seek::stream_position(&mut file)?;
                if let Err(error) = io::Write::write_all(&mut file, &bytes) {
                    if error.kind() != io::ErrorKind::StorageFull {
                        return Err(error);
                    }
                    // What others may want again gives way to what somebody brings now.
                    tier.shrink((tier.bytes() / 4).max(bytes.len() as u64 * 4));
                    io::Seek::seek(&mut file, io::SeekFrom::Start(at))?;
                    io::Write::write_all(&mut file, &bytes)?;
                }
                Ok(file)
            })
            .await?,
        );
        Ok(())
    }

    async fn commit(mut self: Box<Self>, digest: &Digest, chunks: Option<Bytes>) -> Result<Committed, StorageError> {
        let Some(file) = self.file.take() else {
            return Err(StorageError::Other("an upload was ended after it had failed".into()));
        };
        let blobs = &self.blobs;
        let path = blobs.path(&self.namespace, digest)?;
        let doubts = blobs.0.tier.doubts();
        let created = blobs.0.bucket.size(&path).await? != Some(self.size);
        if created {
            let Ok(_turn) = blobs.0.writes.acquire().await else {
                return Err(StorageError::Other("the service ends".into()));
            };
            let handle = Arc::new(file.reopen().map_err(failed)?);
            blobs.store(&path, &handle, self.size).await?;
        }
        let (tier, key) = (blobs.0.tier.clone(), TierKey::new(&self.namespace, digest));
        // The blob is safe; that it is here too is only for speed.
        if let Err(error) = blocking(move || tier.insert(key, file, chunks.as_deref(), doubts).map(drop)).await {
            tracing::warn!(%error, "a blob did not enter the tier");
        }
        Ok(Committed { created })
    }
}
