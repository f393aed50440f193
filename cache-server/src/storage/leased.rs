//! Storage with leases over it: what the requests use.
//!
//! Whoever asks whether a blob is there renews its lease by that, and what a collection is about to remove is not there. A blob that is about
//! to be removed can't be written either until that is over: the answer is "try again in a moment".

use super::{BlobEntry, Blobs, Committed, DirectUrl, Namespace, OpenBlob, StorageError, Upload};
use crate::leases::Leases;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use preheat_image::Digest;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Storage with leases over it.
pub(crate) struct Leased {
    storage: Arc<dyn Blobs>,
    leases: Arc<Leases>,
    /// The generation of condemned lists that the storage was last asked under.
    generation: AtomicU64,
}

impl Leased {
    /// Leases over `storage`.
    pub(crate) fn new(storage: Arc<dyn Blobs>, leases: Arc<Leases>) -> Self {
        Self { storage, leases, generation: AtomicU64::new(0) }
    }

    /// The generation of condemned lists. With a new one, blobs may have been removed that the storage remembers.
    fn generation(&self) -> u64 {
        let generation = self.leases.generation();
        if self.generation.load(Ordering::SeqCst) != generation {
            self.storage.doubt();
            self.generation.store(generation, Ordering::SeqCst);
        }
        generation
    }

    /// Renews the lease of a blob that was found. None if what is condemned changed since `generation`: then it is to be looked at again.
    fn hold<T>(&self, namespace: &Namespace, digest: &Digest, generation: u64, found: T) -> Option<Option<T>> {
        self.leases.touch(namespace, &[*digest]);
        let condemned = self.leases.condemned(namespace, digest);
        (self.leases.generation() == generation).then_some((!condemned).then_some(found))
    }
}

#[async_trait]
impl Blobs for Leased {
    async fn size(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<u64>, StorageError> {
        self.leases.check()?;
        loop {
            let generation = self.generation();
            let Some(found) = self.storage.size(namespace, digest).await? else { return Ok(None) };
            if let Some(held) = self.hold(namespace, digest, generation, found) {
                return Ok(held);
            }
        }
    }

    async fn sizes(&self, namespace: &Namespace, digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError> {
        self.leases.check()?;
        loop {
            let generation = self.generation();
            let mut sizes = self.storage.sizes(namespace, digests).await?;
            let present: Vec<Digest> = digests.iter().zip(&sizes).filter(|(_, size)| size.is_some()).map(|(digest, _)| *digest).collect();
            self.leases.touch(namespace, &present);
            for (digest, size) in digests.iter().zip(&mut sizes) {
                if self.leases.condemned(namespace, digest) {
                    *size = None;
                }
            }
            if self.leases.generation() == generation {
                return Ok(sizes);
            }
        }
    }

    async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        // No promise is made to a reader that it could not keep: the open file stays readable in any case.
        loop {
            let generation = self.generation();
            let Some(found) = self.storage.open(namespace, digest).await? else { return Ok(None) };
            if let Some(held) = self.hold(namespace, digest, generation, found) {
                return Ok(held);
            }
        }
    }

    async fn begin(&self, namespace: &Namespace) -> Result<Box<dyn Upload>, StorageError> {
        let upload = self.storage.begin(namespace).await?;
        Ok(Box::new(LeasedUpload { upload, namespace: namespace.clone(), leases: self.leases.clone() }))
    }

    async fn quarantine(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError> {
        self.storage.quarantine(namespace, digest, why).await
    }

    async fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError> {
        self.storage.delete(namespace, digest).await
    }

    fn list<'a>(&'a self, namespace: &'a Namespace) -> BoxStream<'a, Result<BlobEntry, StorageError>> {
        self.storage.list(namespace)
    }

    async fn sweep(&self, namespace: &Namespace) -> Result<u64, StorageError> {
        self.storage.sweep(namespace).await
    }

    async fn direct_url(&self, namespace: &Namespace, digest: &Digest, size: u64) -> Option<DirectUrl> {
        self.storage.direct_url(namespace, digest, size).await
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        self.storage.free_bytes().await
    }

    async fn ready(&self) -> Result<(), StorageError> {
        self.storage.ready().await
    }
}

struct LeasedUpload {
    upload: Box<dyn Upload>,
    namespace: Namespace,
    leases: Arc<Leases>,
}

impl LeasedUpload {
    fn check(leases: &Leases, namespace: &Namespace, digest: &Digest) -> Result<(), StorageError> {
        leases.check()?;
        if leases.condemned(namespace, digest) {
            return Err(StorageError::Unavailable(format!("{digest} is being removed; it can be written again in a moment")));
        }
        Ok(())
    }
}

#[async_trait]
impl Upload for LeasedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.upload.write(bytes).await
    }

    async fn commit(self: Box<Self>, digest: &Digest, chunks: Option<Bytes>) -> Result<Committed, StorageError> {
        let Self { upload, namespace, leases } = *self;
        // Touched first: a collection that begins later finds the lease, one that began earlier is seen by the next line. What another
        // server's collection condemns meanwhile is looked at once more at the end: what may be removed is not acknowledged.
        leases.touch(&namespace, &[*digest]);
        Self::check(&leases, &namespace, digest)?;
        let committed = upload.commit(digest, chunks).await?;
        Self::check(&leases, &namespace, digest)?;
        leases.touch(&namespace, &[*digest]);
        Ok(committed)
    }
}
