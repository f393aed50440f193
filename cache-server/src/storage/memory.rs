//! A storage that forgets: blobs in unnamed files, records in a map. For tests of what lies above.

use super::{BlobEntry, Blobs, Committed, DirectUrl, Expect, Meta, Namespace, OpenBlob, PutError, Seal, StorageError, Upload, Version};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use preheat_image::Digest;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

type BlobMap = HashMap<(Namespace, Digest), (Arc<File>, Option<Bytes>, SystemTime)>;

/// The storage: both traits in one.
#[derive(Debug, Default, Clone)]
pub struct Memory {
    blobs: Arc<Mutex<BlobMap>>,
    records: Arc<Mutex<BTreeMap<String, (Bytes, u64)>>>,
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::Other(error.to_string())
}

#[async_trait]
impl Blobs for Memory {
    async fn size(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<u64>, StorageError> {
        Ok(self.sizes(namespace, &[*digest]).await?[0])
    }

    async fn sizes(&self, namespace: &Namespace, digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let size = |digest: &Digest| -> Option<u64> { Some(blobs.get(&(namespace.clone(), *digest))?.0.metadata().ok()?.len()) };
        Ok(digests.iter().map(size).collect())
    }

    async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        let found = self.blobs.lock().unwrap_or_else(PoisonError::into_inner).get(&(namespace.clone(), *digest)).cloned();
        let Some((file, chunks, _)) = found else { return Ok(None) };
        let meta = file.metadata().map_err(failed)?;
        let seal = Seal {
            inode: meta.ino(),
            size: meta.len(),
            mtime: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            ctime: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
        };
        Ok(Some(OpenBlob { file: file.try_clone().map_err(failed)?, size: meta.len(), seal, chunks }))
    }

    async fn begin(&self, namespace: &Namespace) -> Result<Box<dyn Upload>, StorageError> {
        let file = tempfile::tempfile().map_err(failed)?;
        Ok(Box::new(MemoryUpload { file, namespace: namespace.clone(), memory: self.clone() }))
    }

    async fn quarantine(&self, namespace: &Namespace, digest: &Digest, _why: &str) -> Result<(), StorageError> {
        Blobs::delete(self, namespace, digest).await.map(drop)
    }

    async fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError> {
        Ok(self.blobs.lock().unwrap_or_else(PoisonError::into_inner).remove(&(namespace.clone(), *digest)).is_some())
    }

    fn list<'a>(&'a self, namespace: &'a Namespace) -> BoxStream<'a, Result<BlobEntry, StorageError>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = blobs.iter().filter(|((of, _), _)| of == namespace).map(|((_, digest), (file, _, written))| {
            let size = file.metadata().map_err(failed)?.len();
            Ok(BlobEntry { digest: *digest, size, written: *written })
        });
        stream::iter(entries.collect::<Vec<_>>()).boxed()
    }

    async fn direct_url(&self, _namespace: &Namespace, _digest: &Digest, _size: u64) -> Option<DirectUrl> {
        None
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        Ok(None)
    }

    async fn ready(&self) -> Result<(), StorageError> {
        Ok(())
    }
}

struct MemoryUpload {
    file: File,
    namespace: Namespace,
    memory: Memory,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.file.write_all(&bytes).map_err(failed)
    }

    async fn commit(self: Box<Self>, digest: &Digest, chunks: Option<Bytes>) -> Result<Committed, StorageError> {
        let Self { file, namespace, memory } = *self;
        let mut blobs = memory.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let created = !blobs.contains_key(&(namespace.clone(), *digest));
        if created {
            blobs.insert((namespace, *digest), (Arc::new(file), chunks, SystemTime::now()));
        }
        Ok(Committed { created })
    }
}

#[async_trait]
impl Meta for Memory {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StorageError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.get(key).map(|(bytes, number)| (bytes.clone(), Version(number.to_string()))))
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Version, PutError> {
        if value.is_empty() {
            return Err(failed("a record is never empty: a bucket keeps those that were removed so").into());
        }
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let old = records.get(key).map(|(_, number)| *number);
        let fits = match expect {
            Expect::Any => true,
            Expect::Absent => old.is_none(),
            Expect::Version(version) => old.is_some_and(|number| number.to_string() == version.0),
        };
        if !fits {
            return Err(PutError::Conflict);
        }
        let number = old.map_or(1, |number| number + 1);
        records.insert(key.to_owned(), (value, number));
        Ok(Version(number.to_string()))
    }

    async fn delete(&self, key: &str) -> Result<bool, StorageError> {
        Ok(self.records.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some())
    }

    async fn delete_version(&self, key: &str, version: &Version) -> Result<(), PutError> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        match records.get(key) {
            Some((_, number)) if number.to_string() == version.0 => {
                records.remove(key);
                Ok(())
            }
            _ => Err(PutError::Conflict),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(records.keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }
}
