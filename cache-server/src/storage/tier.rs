//! A local disk tier before a bucket: blobs that were read or written a short while ago, verified when they entered.
//!
//! It is never what is true: it can be deleted at any time, even while the service runs, and nothing is lost. Which blobs went unused for
//! longest is known in memory; what earlier runs left is found in the background. Files: `ab/{62 hexadecimal digits}` of the digest over
//! namespace and blob, so that namespaces share no file here either, and `….chunks` beside those of more than one chunk.

use super::{Namespace, OpenBlob, Seal};
use bytes::Bytes;
use preheat_image::chunks::{CHUNK_SIZE, ChunkList};
use preheat_image::{Digest, DigestHasher};
use std::collections::hash_map::{self, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tempfile::NamedTempFile;

/// Which blob of which namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TierKey(Digest);

impl TierKey {
    pub(crate) fn new(namespace: &Namespace, digest: &Digest) -> Self {
        let mut hasher = DigestHasher::new();
        hasher.update(namespace.as_str().as_bytes());
        hasher.update(b"\0");
        hasher.update(digest.as_bytes());
        Self(hasher.finalize())
    }
}

/// The tier.
#[derive(Debug, Clone)]
pub(crate) struct Tier(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    max_bytes: u64,
    max_blobs: usize,
    started: Instant,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<TierKey, Entry>,
    bytes: u64,
    doubts: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    size: u64,
    /// Seconds since the start.
    used: u32,
    /// When the bucket last said that it has the blob, in seconds since the start; and after how many doubts.
    confirmed: Option<(u32, u32)>,
}

impl Tier {
    /// Opens a tier. What is left of unfinished files is removed; what is there is taken in in the background.
    ///
    /// # Errors
    /// When the directory can't be made.
    pub(crate) fn open(directory: &Path, max_bytes: u64, max_blobs: usize) -> io::Result<Self> {
        let temporary = directory.join("tmp");
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&temporary)?,
        }
        let tier = Self(Arc::new(Inner {
            directory: directory.to_owned(),
            max_bytes,
            max_blobs,
            started: Instant::now(),
            index: Mutex::default(),
        }));
        let found = tier.clone();
        std::thread::Builder::new().name("tier".into()).spawn(move || {
            if let Err(error) = found.take_in() {
                tracing::warn!(%error, "the tier was not read whole; what was not found is not evicted");
            }
        })?;
        Ok(tier)
    }

    /// Takes in what earlier runs left, as used before all that was used since.
    fn take_in(&self) -> io::Result<()> {
        for folder in fs::read_dir(&self.0.directory)? {
            let folder = folder?;
            let shard = folder.file_name();
            let Some(shard) = shard.to_str().filter(|name| name.len() == 2) else { continue };
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                let Some(key) = name.to_str().and_then(|name| Digest::from_hex(&format!("{shard}{name}")).ok()) else { continue };
                // It may have been evicted in between.
                let Ok(meta) = file.metadata() else { continue };
                let mut index = self.index();
                if let hash_map::Entry::Vacant(place) = index.entries.entry(TierKey(key)) {
                    place.insert(Entry { size: meta.len(), used: 0, confirmed: None });
                    index.bytes += meta.len();
                }
            }
        }
        self.shrink(0);
        Ok(())
    }

    /// A file for a blob on its way in; it is gone when it is dropped.
    ///
    /// # Errors
    /// When it can't be made.
    pub(crate) fn temporary(&self) -> io::Result<NamedTempFile> {
        let directory = self.0.directory.join("tmp");
        match NamedTempFile::new_in(&directory) {
            // Somebody deleted the tier.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&directory)?;
                NamedTempFile::new_in(&directory)
            }
            made => made,
        }
    }

    /// Takes a file whose content was verified, and which the bucket had after `doubts`.
    ///
    /// # Errors
    /// When it can't be put in its place.
    pub(crate) fn insert(&self, key: TierKey, file: NamedTempFile, chunks: Option<&[u8]>, doubts: u32) -> io::Result<OpenBlob> {
        let path = self.path(key);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let handle = file.reopen()?;
        let size = handle.metadata()?.len();
        if let Some(chunks) = chunks {
            let mut sidecar = self.temporary()?;
            io::Write::write_all(&mut sidecar, chunks)?;
            sidecar.persist(path.with_extension("chunks")).map_err(|error| error.error)?;
        }
        file.persist(&path).map_err(|error| error.error)?;
        let now = self.now();
        let mut index = self.index();
        let old = index.entries.insert(key, Entry { size, used: now, confirmed: Some((now, doubts)) });
        index.bytes = (index.bytes + size).saturating_sub(old.map_or(0, |old| old.size));
        let over = index.bytes > self.0.max_bytes || index.entries.len() > self.0.max_blobs;
        drop(index);
        // The file stays readable through its handle even if it is what had to go.
        if over {
            self.shrink(0);
        }
        let seal = seal(&handle.metadata()?);
        Ok(OpenBlob { file: handle, size, seal, chunks: chunks.map(Bytes::copy_from_slice) })
    }

    /// Opens a blob, if it is here. One whose files are not what they should be is not.
    ///
    /// # Errors
    /// When a file can't be read.
    pub(crate) fn get(&self, key: TierKey) -> io::Result<Option<OpenBlob>> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.forget(key);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        let size = meta.len();
        let mut chunks = None;
        if size > CHUNK_SIZE as u64 {
            let list = match fs::read(path.with_extension("chunks")) {
                Ok(list) => list,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            // After a loss of power there may be anything in either.
            if !ChunkList::parse(&list).is_ok_and(|list| list.blob_size() == size) {
                self.remove(key);
                return Ok(None);
            }
            chunks = Some(Bytes::from(list));
        }
        let now = self.now();
        let mut index = self.index();
        match index.entries.get_mut(&key) {
            Some(entry) => entry.used = now,
            None => {
                index.entries.insert(key, Entry { size, used: now, confirmed: None });
                index.bytes += size;
            }
        }
        Ok(Some(OpenBlob { file, size, seal: seal(&meta), chunks }))
    }

    /// Whether a blob is here that the bucket confirmed at most `seconds` ago and since the last doubt.
    pub(crate) fn is_confirmed(&self, key: TierKey, seconds: u32) -> bool {
        let now = self.now();
        let index = self.index();
        let confirmed = index.entries.get(&key).and_then(|entry| entry.confirmed);
        confirmed.is_some_and(|(at, doubts)| doubts == index.doubts && now.saturating_sub(at) < seconds)
    }

    /// Notes that the bucket has a blob; it was asked after `doubts`.
    pub(crate) fn confirm(&self, key: TierKey, doubts: u32) {
        let now = self.now();
        if let Some(entry) = self.index().entries.get_mut(&key) {
            entry.confirmed = Some((now, doubts));
        }
    }

    /// Makes the bucket's word for all blobs old.
    pub(crate) fn doubt(&self) {
        let mut index = self.index();
        index.doubts = index.doubts.wrapping_add(1);
    }

    /// How often there was doubt: to be read before the bucket is asked.
    pub(crate) fn doubts(&self) -> u32 {
        self.index().doubts
    }

    /// Removes a blob.
    pub(crate) fn remove(&self, key: TierKey) {
        self.forget(key);
        self.unlink(key);
    }

    /// Evicts what went unused for longest until the tier is a tenth below its limits, and `spare` bytes more. What fills the tier alone goes
    /// before all else: it would have to go in the end, and would drive out everything on the way.
    pub(crate) fn shrink(&self, spare: u64) {
        let evicted = {
            let mut index = self.index();
            let most = self.0.max_bytes - self.0.max_bytes / 10;
            let bytes = most.min(index.bytes.saturating_sub(spare));
            let blobs = self.0.max_blobs - self.0.max_blobs / 10;
            let order = |(key, entry): (&TierKey, &Entry)| (entry.size <= most, entry.used, *key);
            let mut oldest: Vec<(bool, u32, TierKey)> = index.entries.iter().map(order).collect();
            oldest.sort_unstable_by_key(|(fits, used, _)| (*fits, *used));
            let mut evicted = Vec::new();
            for (.., key) in oldest {
                if index.bytes <= bytes && index.entries.len() <= blobs {
                    break;
                }
                index.forget(key);
                evicted.push(key);
            }
            evicted
        };
        for key in evicted {
            self.unlink(key);
        }
    }

    /// Bytes in the tier.
    pub(crate) fn bytes(&self) -> u64 {
        self.index().bytes
    }

    fn forget(&self, key: TierKey) {
        self.index().forget(key);
    }

    fn unlink(&self, key: TierKey) {
        let path = self.path(key);
        for path in [path.with_extension("chunks"), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(%error, "a file of the tier was not removed"),
                _ => {}
            }
        }
    }

    fn path(&self, TierKey(key): TierKey) -> PathBuf {
        let hex = key.hex();
        self.0.directory.join(&hex[..2]).join(&hex[2..])
    }

    fn now(&self) -> u32 {
        // From 1: before it is what earlier runs left.
        u32::try_from(self.0.started.elapsed().as_secs()).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn forget(&mut self, key: TierKey) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes = self.bytes.saturating_sub(entry.size);
        }
    }
}

fn seal(meta: &fs::Metadata) -> Seal {
    Seal {
        inode: meta.ino(),
        size: meta.len(),
        mtime: meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()),
        ctime: meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec()),
    }
}
