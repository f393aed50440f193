//! Many blobs at a time. Dropping the future stops everything; what was published stays.
//!
//! Memory follows the number of transfers at a time, not the size or number of blobs: each holds under a megabyte.

use crate::blob::{Blob, BlobSink, Progress};
use crate::cache::Cache;
use crate::caches::Caches;
use crate::error::ClientError;
use crate::upload::Source;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use preheat_image::Digest;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Transfers at a time when nobody says another number.
pub const DEFAULT_CONCURRENCY: usize = 8;
/// Most transfers at a time.
pub const MAX_CONCURRENCY: usize = 64;

/// Where pulled blobs go.
pub trait Target: Send + Sync + 'static {
    /// What takes the bytes of one blob.
    type Sink: BlobSink + 'static;

    /// A place for the bytes of a blob, where nobody sees them yet.
    ///
    /// # Errors
    /// What went wrong; it ends all transfers.
    fn open(&self, blob: &Blob) -> io::Result<Self::Sink>;

    /// All bytes are there and are those of the digest: now others may see them. Called on a thread for blocking work.
    ///
    /// # Errors
    /// What went wrong; it ends all transfers.
    fn publish(&self, blob: &Blob, sink: Self::Sink) -> io::Result<()>;
}

/// A blob to bring.
#[derive(Clone)]
pub struct Upload {
    /// Which.
    pub blob: Blob,
    /// Its bytes.
    pub source: Source,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload").field("blob", &self.blob).finish_non_exhaustive()
    }
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blobs that were moved.
    pub blobs: usize,
    /// Bytes in those.
    pub bytes: u64,
    /// Blobs that were there already.
    pub there: usize,
}

/// Fetches blobs, at most `concurrency` at a time, each from the first of `caches` that gives it whole; each is published as soon as it is
/// verified. A blob that is named twice is fetched once.
///
/// # Errors
/// The first error; the other transfers are stopped then.
pub async fn pull_blobs<T: Target>(
    caches: &Caches,
    namespace: &str,
    blobs: &[Blob],
    concurrency: usize,
    target: &Arc<T>,
    progress: &dyn Progress,
) -> Result<Moved, ClientError> {
    fetch_all(blobs, concurrency, target, progress, |blob, mut sink| async move {
        caches.get_blob(namespace, &blob, &mut sink, progress).await.map(|()| sink)
    })
    .await
}

/// Fetches each blob once, by `fetch`, and publishes it.
pub(crate) async fn fetch_all<T: Target, F: Future<Output = Result<T::Sink, ClientError>>>(
    blobs: &[Blob],
    concurrency: usize,
    target: &Arc<T>,
    progress: &dyn Progress,
    fetch: impl Fn(Blob, T::Sink) -> F,
) -> Result<Moved, ClientError> {
    let blobs: BTreeSet<Blob> = blobs.iter().copied().collect();
    let moved = Moved { blobs: blobs.len(), bytes: blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size)), there: 0 };
    progress.begin(moved.blobs, moved.bytes);
    let local = |what: &'static str| move |source| ClientError::Local { what, source };
    // The largest first: otherwise it may be the last, alone.
    let mut blobs: Vec<Blob> = blobs.into_iter().collect();
    blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
    stream::iter(blobs.into_iter().map(Ok))
        .try_for_each_concurrent(at_a_time(concurrency), |blob| {
            let fetch = &fetch;
            async move {
                let sink = target.open(&blob).map_err(local("make room for what arrives"))?;
                let sink = fetch(blob, sink).await?;
                let target = Arc::clone(target);
                let published = tokio::task::spawn_blocking(move || target.publish(&blob, sink)).await;
                published.map_err(io::Error::other).flatten().map_err(local("keep what arrived"))
            }
        })
        .await?;
    Ok(moved)
}

/// Brings the blobs that a cache does not have, at most `concurrency` at a time.
///
/// # Errors
/// The first error; the other transfers are stopped then.
pub async fn push_blobs(
    cache: &Cache,
    namespace: &str,
    uploads: &[Upload],
    concurrency: usize,
    progress: &dyn Progress,
) -> Result<Moved, ClientError> {
    let digests: BTreeSet<Digest> = uploads.iter().map(|upload| upload.blob.digest).collect();
    let digests: Vec<Digest> = digests.into_iter().collect();
    let mut missing: BTreeSet<Digest> = cache.find_missing(namespace, &digests).await?.into_iter().collect();
    let there = digests.len() - missing.len();
    let mut sent: Vec<&Upload> = uploads.iter().filter(|upload| missing.remove(&upload.blob.digest)).collect();
    sent.sort_by_key(|upload| std::cmp::Reverse(upload.blob.size));
    let moved = Moved { blobs: sent.len(), bytes: sent.iter().fold(0, |sum, upload| sum.saturating_add(upload.blob.size)), there };
    progress.begin(moved.blobs, moved.bytes);
    stream::iter(sent)
        .map(Ok)
        .try_for_each_concurrent(at_a_time(concurrency), |upload| async move {
            cache.put_blob(namespace, &upload.blob, &upload.source, progress).await.map(drop)
        })
        .await?;
    Ok(moved)
}

pub(crate) fn at_a_time(concurrency: usize) -> usize {
    concurrency.clamp(1, MAX_CONCURRENCY)
}
