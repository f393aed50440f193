//! Artefacts to and from a repository of either kind.

use super::mapping::{Bundle, Content, Outline, Packed, all_there};
use super::spec::{Document, IMAGE_MANIFEST};
use super::wasm::check_config;
use super::{RawManifest, Repository, Version};
use crate::blob::{Blob, Progress};
use crate::error::ClientError;
use crate::transfer::{DEFAULT_CONCURRENCY, Moved, Target, Upload, at_a_time};
use crate::upload::Source;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use preheat_image::manifest::Descriptor;
use preheat_image::{Digest, FormatError, Manifest};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// What was brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the OCI manifest, by which it can be asked for.
    pub digest: Digest,
    /// What had to be moved for that.
    pub moved: Moved,
}

/// What was found under a tag or digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The digest of the OCI manifest.
    pub digest: Digest,
    /// What it is.
    pub content: Content,
}

/// Brings an artefact: first the blobs that are not there, at most `concurrency` at a time, then the manifest, so that nobody finds half of it.
/// `uploads` are the sources of [`Packed::blobs`].
///
/// # Errors
/// The first error; other transfers are stopped then, and the tag leads to what it led to before.
pub async fn push(
    to: &dyn Repository,
    tag: Option<&str>,
    packed: &Packed,
    uploads: &[Upload],
    concurrency: usize,
    progress: &dyn Progress,
) -> Result<Pushed, ClientError> {
    let mut sources: BTreeMap<Blob, Source> = uploads.iter().map(|upload| (upload.blob, Arc::clone(&upload.source))).collect();
    for (described, bytes) in &packed.held {
        let bytes: Arc<[u8]> = bytes.as_slice().into();
        let source: Source = Arc::new(move || Ok(Box::new(io::Cursor::new(Arc::clone(&bytes))) as Box<dyn io::Read + Send>));
        sources.insert(blob_of(described), source);
    }
    let wanted: BTreeSet<Blob> = packed.blobs.iter().chain(packed.held.iter().map(|(described, _)| described)).map(blob_of).collect();
    let asked: Vec<(Blob, bool)> = stream::iter(wanted.into_iter().map(|blob| async move { Ok((blob, to.has_blob(&blob).await?)) }))
        .buffer_unordered(at_a_time(concurrency))
        .try_collect()
        .await?;
    let mut missing = Vec::new();
    for (blob, _) in asked.iter().filter(|(_, there)| !there) {
        let source = sources
            .remove(blob)
            .ok_or_else(|| ClientError::Invalid(format!("{} is missing in {}, and there is no source for it", blob.digest, to.shown())))?;
        missing.push((*blob, source));
    }
    let mut moved = Moved { blobs: missing.len(), bytes: 0, there: asked.len() - missing.len() };
    moved.bytes = missing.iter().fold(0, |sum, (blob, _)| sum.saturating_add(blob.size));
    progress.begin(moved.blobs, moved.bytes);
    // The largest first: otherwise it may be the last, alone.
    missing.sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size));
    stream::iter(missing.iter().map(Ok))
        .try_for_each_concurrent(at_a_time(concurrency), |(blob, source)| to.put_blob(blob, source, progress))
        .await?;
    to.put_manifest(tag, IMAGE_MANIFEST, &packed.manifest).await?;
    Ok(Pushed { digest: packed.manifest().digest, moved })
}

/// Looks what is under a tag or digest: fetches all but the large blobs. An index leads on to the one manifest in it that can be meant.
///
/// # Errors
/// [`ClientError::BadAnswer`] when it is neither an image of which all is there, nor a Wasm file.
pub async fn open(from: &dyn Repository, version: &Version) -> Result<Found, ClientError> {
    let bad = |e: FormatError| ClientError::bad_format(&format!("{}, {version}", from.shown()), &e);
    let read = |raw: &RawManifest| Document::parse(&raw.bytes, raw.media_type.as_deref()).map_err(bad);
    let mut raw = from.manifest(version).await?;
    let oci = match read(&raw)? {
        Document::Manifest(oci) => oci,
        Document::Index(index) => {
            let entry = index.pick().map_err(bad)?;
            raw = from.manifest(&Version::Digest(entry.digest)).await?;
            let Document::Manifest(oci) = read(&raw)? else {
                return Err(bad(super::spec::damaged("an index in an index where it says a manifest".into())));
            };
            oci
        }
    };
    let content = match Outline::of(&oci).map_err(bad)? {
        Outline::Image { config, layers, statements } => {
            let manifest_bytes = small(from, &blob_of(&config)).await?;
            let blobs = Manifest::parse(&manifest_bytes).and_then(|image| all_there(&image, &layers)).map_err(bad)?;
            let fetching = stream::iter(statements.iter().map(|statement| small(from, statement)));
            let statements = fetching.buffered(DEFAULT_CONCURRENCY).try_collect().await?;
            Content::Image(Bundle { manifest: config, manifest_bytes, blobs, statements })
        }
        Outline::Wasm { file, config } => {
            if let Some(config) = config {
                check_config(&small(from, &config).await?, &file.blob.digest).map_err(bad)?;
            }
            Content::Wasm(file)
        }
    };
    Ok(Found { digest: raw.digest, content })
}

/// Fetches blobs, at most `concurrency` at a time; each is published as soon as it is verified. A blob that is named twice is fetched once.
///
/// # Errors
/// The first error; the other transfers are stopped then.
pub async fn pull_blobs<T: Target>(
    from: &dyn Repository,
    blobs: &[Blob],
    concurrency: usize,
    target: &Arc<T>,
    progress: &dyn Progress,
) -> Result<Moved, ClientError> {
    crate::transfer::fetch_all(blobs, concurrency, target, progress, |blob, mut sink| async move {
        from.get_blob(&blob, &mut sink, progress).await.map(|()| sink)
    })
    .await
}

/// A blob whose size was judged already.
async fn small(from: &dyn Repository, blob: &Blob) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    from.get_blob(blob, &mut bytes, &()).await?;
    Ok(bytes)
}

fn blob_of(described: &Descriptor) -> Blob {
    Blob { digest: described.digest, size: described.size }
}
