//! Blobs on a local disk.
//!
//! | path | what |
//! |---|---|
//! | `ns/{namespace}/cas/{2 digits}/{62 digits}` | a blob, under its digest |
//! | `ns/{namespace}/cas/{2 digits}/{62 digits}.chunks` | its chunk list, if it is larger than a chunk |
//! | `tmp/` | uploads that are not done; what a killed process left is removed in the background after the next start |
//! | `quarantine/{namespace}/{64 digits}` | a damaged blob; beside it its chunk list and, in `.why`, what was found |
//! | `storage.json` | the version of all this |
//! | `lock` | held by the process that uses the directory |
//!
//! A name under `cas` is given when what it names is durable: bytes are synced before the file is renamed, the chunk list's name before the
//! blob's, and the directory before the upload is acknowledged. So whatever is there is whole, and nothing has to be looked through at a start.
//!
//! Opening and asking for sizes is done on the thread that asks: handing it to another takes longer than the system call.

use super::files::{FileLayer, RealFiles};
use super::lists::Lists;
use super::local_upload::{LocalUpload, Pool, TempFile};
use super::{BlobEntry, Blobs, Committed, DirectUrl, Namespace, OpenBlob, Seal, StorageError, Upload};
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use preheat_image::Digest;
use preheat_image::chunks::CHUNK_SIZE;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Version of the layout.
const VERSION: u32 = 1;
/// Writes and syncs that run at once. Many small uploads share commits of the file system's journal; more threads than this gain nothing.
const DISK_THREADS: usize = 64;
/// Sizes that are asked for before other tasks get their turn.
const SIZES_IN_A_ROW: usize = 512;

/// How the local storage is set up.
#[derive(Debug, Clone)]
pub struct LocalOptions {
    /// Uploads are refused while less than this is free, in bytes: the records need room too.
    pub hard_free_bytes: u64,
    /// Memory for pieces of uploads that wait to be written together, in bytes, over all uploads. Without room in it a piece is written at once.
    pub buffer_bytes: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { hard_free_bytes: 256 << 20, buffer_bytes: 32 << 20 }
    }
}

/// Blobs in a directory. A copy is the same storage.
pub struct LocalBlobs<F: FileLayer = RealFiles> {
    disk: Arc<Disk<F>>,
}

impl<F: FileLayer> Clone for LocalBlobs<F> {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone() }
    }
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: String,
    version: u32,
}

const FORMAT: &str = "preheat-cache-storage";

/// The part that works on the disk, and may wait for it.
pub(super) struct Disk<F: FileLayer> {
    pub(super) layer: F,
    root: PathBuf,
    options: LocalOptions,
    /// What the names of this process's temporary files begin with.
    run: String,
    number: AtomicU64,
    pub(super) pool: Arc<Pool>,
    threads: Arc<Semaphore>,
    /// Directories of blobs that this process knows to be durable: one bit for each of the 256 of a namespace.
    dirs: Mutex<HashMap<Namespace, [u128; 2]>>,
    /// Held while a blob gets its name and while a chunk list loses its own, so that no blob is ever without its list.
    naming: Mutex<()>,
    lists: Lists,
    /// Locked as long as this is open.
    _lock: File,
}

/// What went wrong, with the doing and the path for the log.
pub(super) fn wrong<'a>(doing: &'a str, path: &'a Path) -> impl Fn(io::Error) -> StorageError + 'a {
    move |error| {
        let what = format!("can't {doing} {}: {error}", path.display());
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StorageError::Full(what),
            _ => StorageError::Unavailable(what),
        }
    }
}

/// Where a blob is, below the directory of the storage.
#[must_use]
pub fn blob_path(root: &Path, namespace: &Namespace, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let (shard, rest) = hex.split_at(2);
    let mut path = shards(root, namespace);
    path.push(shard);
    path.push(rest);
    path
}

fn shards(root: &Path, namespace: &Namespace) -> PathBuf {
    let mut path = PathBuf::with_capacity(root.as_os_str().len() + namespace.as_str().len() + 96);
    path.push(root);
    path.push("ns");
    path.push(namespace.as_str());
    path.push("cas");
    path
}

/// Where the chunk list of a blob is.
fn list_path(blob: &Path) -> PathBuf {
    blob.with_extension("chunks")
}

impl LocalBlobs {
    /// Opens the storage in a directory, making both if they are not there. Takes the same time whatever is in it.
    ///
    /// # Errors
    /// When another process uses it, its version is another, or it can't be written.
    pub fn open(root: &Path, options: LocalOptions) -> Result<Self, StorageError> {
        Self::open_with(RealFiles, root, options)
    }
}

impl<F: FileLayer> LocalBlobs<F> {
    /// [`LocalBlobs::open`] with other files under it.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(layer: F, root: &Path, options: LocalOptions) -> Result<Self, StorageError> {
        std::fs::create_dir_all(root).map_err(wrong("create the directory", root))?;
        let lock = lock(&root.join("lock"))?;
        let mut run = [0; 8];
        getrandom::fill(&mut run).map_err(|error| StorageError::Other(format!("no random numbers: {error}")))?;
        let disk = Disk {
            pool: Arc::new(Pool::new(options.buffer_bytes)),
            layer,
            root: root.to_owned(),
            options,
            run: format!("{:016x}-", u64::from_le_bytes(run)),
            number: AtomicU64::new(0),
            threads: Arc::new(Semaphore::new(DISK_THREADS)),
            dirs: Mutex::default(),
            naming: Mutex::default(),
            lists: Lists::default(),
            _lock: lock,
        };
        for dir in ["tmp", "ns", "quarantine"] {
            disk.make_dir(&root.join(dir))?;
        }
        disk.layer.sync_dir(root).map_err(wrong("sync", root))?;
        disk.mark()?;
        Ok(Self { disk: Arc::new(disk) })
    }

    /// Removes what uploads of earlier processes left; says how many files that were. For the background after the start.
    ///
    /// # Errors
    /// When the directory can't be read. A file that can't be removed stays.
    pub async fn remove_leftovers(&self) -> Result<u64, StorageError> {
        self.on_disk(|disk| {
            let dir = disk.root.join("tmp");
            let names = disk.layer.list(&dir).map_err(wrong("list", &dir))?;
            let old = names.iter().filter(|name| !name.to_string_lossy().starts_with(&disk.run));
            Ok(old.map(|name| u64::from(disk.layer.unlink(&dir.join(name)).is_ok())).sum())
        })
        .await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Disk<F>) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || work(&disk)).await.map_err(|error| StorageError::Other(error.to_string()))?
    }
}

fn lock(path: &Path) -> Result<File, StorageError> {
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(wrong("open", path))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let dir = path.parent().unwrap_or(path);
            Err(StorageError::Other(format!("another server uses {}: one directory is for one server", dir.display())))
        }
        Err(error) => Err(wrong("lock", path)(error.into())),
    }
}

impl<F: FileLayer> Disk<F> {
    /// Checks the version, or writes it.
    fn mark(&self) -> Result<(), StorageError> {
        let path = self.root.join("storage.json");
        if let Some(mut file) = self.layer.open(&path).map_err(wrong("open", &path))? {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(wrong("read", &path))?;
            return match serde_json::from_str::<Marker>(&text) {
                Ok(marker) if marker.format == FORMAT && marker.version == VERSION => Ok(()),
                Ok(marker) if marker.format == FORMAT => Err(StorageError::Other(format!(
                    "{} has version {} of the storage, this server knows version {VERSION}",
                    self.root.display(),
                    marker.version
                ))),
                _ => Err(StorageError::Damaged(format!("{} does not say which version the storage has", path.display()))),
            };
        }
        let marker = Marker { format: FORMAT.to_owned(), version: VERSION };
        let text = serde_json::to_vec(&marker).map_err(|error| StorageError::Other(error.to_string()))?;
        self.put(&path, &text)?;
        self.layer.sync_dir(&self.root).map_err(wrong("sync", &self.root))
    }

    fn make_dir(&self, path: &Path) -> Result<(), StorageError> {
        match self.layer.make_dir(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(wrong("create the directory", path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn temp(self: &Arc<Self>) -> Result<TempFile<F>, StorageError> {
        let path = self.temp_path();
        let file = self.layer.create(&path).map_err(wrong("create", &path))?;
        Ok(TempFile::new(self.clone(), path, file))
    }

    fn temp_path(&self) -> PathBuf {
        self.root.join("tmp").join(format!("{}{}", self.run, self.number.fetch_add(1, Ordering::Relaxed)))
    }

    /// Writes a small file, whole or not at all; its name is not durable yet.
    fn put(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let temp = self.temp_path();
        let mut file = self.layer.create(&temp).map_err(wrong("create", &temp))?;
        let written =
            self.layer.write(&mut file, bytes).and_then(|()| self.layer.sync(&file)).and_then(|()| self.layer.rename(&temp, path));
        written.map_err(|error| {
            // Nothing better can be done with a failure here; the next start removes it.
            let _ = self.layer.unlink(&temp);
            wrong("write", path)(error)
        })
    }

    /// Leave to write on a thread of its own.
    pub(super) async fn thread(&self) -> Result<OwnedSemaphorePermit, StorageError> {
        self.threads.clone().acquire_owned().await.map_err(|error| StorageError::Other(error.to_string()))
    }

    /// Refuses when the disk is as good as full.
    pub(super) fn check_space(&self) -> Result<(), StorageError> {
        let free = self.layer.free_bytes(&self.root).map_err(wrong("ask for the free space of", &self.root))?;
        if free < self.options.hard_free_bytes {
            return Err(StorageError::Full(format!("{free} bytes are free, {} are to stay so", self.options.hard_free_bytes)));
        }
        Ok(())
    }

    /// The directory of a blob, made and durable.
    fn shard(&self, namespace: &Namespace, digest: &Digest) -> Result<PathBuf, StorageError> {
        let shard = digest.as_bytes()[0];
        let (word, bit) = (usize::from(shard >> 7), 1 << (shard & 127));
        let cas = shards(&self.root, namespace);
        let path = cas.join(format!("{shard:02x}"));
        let known = |dirs: &HashMap<Namespace, [u128; 2]>| dirs.get(namespace).copied().unwrap_or_default();
        let of_namespace = known(&self.dirs.lock().unwrap_or_else(PoisonError::into_inner));
        if of_namespace[word] & bit != 0 {
            return Ok(path);
        }
        // A directory that is there already may have been made by a process that was killed before it synced the name.
        let mut new: Vec<&Path> = vec![&path];
        if of_namespace == [0, 0] {
            new.extend([Some(cas.as_path()), cas.parent()].into_iter().flatten());
        }
        for dir in new.into_iter().rev() {
            self.make_dir(dir)?;
            let parent = dir.parent().unwrap_or(&self.root);
            self.layer.sync_dir(parent).map_err(wrong("sync", parent))?;
        }
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        dirs.entry(namespace.clone()).or_default()[word] |= bit;
        Ok(path)
    }

    /// Whether a blob of this size is at `path`, with its chunk list if it has to have one.
    fn is_whole(&self, path: &Path, size: u64) -> Result<bool, StorageError> {
        let there = |path: &Path| self.layer.stat(path).map_err(wrong("look at", path));
        Ok(there(path)?.is_some_and(|info| info.size == size) && (size <= CHUNK_SIZE as u64 || there(&list_path(path))?.is_some()))
    }

    /// Gives an upload its name, durably. `file` takes the rest of the bytes and gives the finished file, if it is needed.
    pub(super) fn publish(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        size: u64,
        chunks: Option<&[u8]>,
        file: impl FnOnce() -> Result<TempFile<F>, StorageError>,
    ) -> Result<Committed, StorageError> {
        let dir = self.shard(namespace, digest)?;
        let path = blob_path(&self.root, namespace, digest);
        let sync_dir = || self.layer.sync_dir(&dir).map_err(wrong("sync", &dir));
        if self.is_whole(&path, size)? {
            // Whoever gave it its name may not have synced it yet.
            sync_dir()?;
            return Ok(Committed { created: false });
        }
        let file = file()?;
        file.sync()?;
        loop {
            if let Some(chunks) = chunks {
                self.put(&list_path(&path), chunks)?;
                sync_dir()?;
            }
            let naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            if self.is_whole(&path, size)? {
                drop(naming);
                sync_dir()?;
                return Ok(Committed { created: false });
            }
            if chunks.is_none() || self.layer.stat(&list_path(&path)).map_err(wrong("look at", &path))?.is_some() {
                file.rename(&path)?;
                drop(naming);
                sync_dir()?;
                return Ok(Committed { created: true });
            }
            // The blob was there and was deleted just now, and the list with it.
        }
    }

    /// Opens a blob and reads its chunk list.
    fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        let path = blob_path(&self.root, namespace, digest);
        let Some(file) = self.layer.open(&path).map_err(wrong("open", &path))? else { return Ok(None) };
        let seal = seal(&file).map_err(wrong("look at", &path))?;
        let chunks = if seal.size > CHUNK_SIZE as u64 { self.lists.read(&self.layer, &list_path(&path), seal.size)? } else { None };
        Ok(Some(OpenBlob { file, size: seal.size, seal, chunks }))
    }

    fn size(&self, path: &Path) -> Result<Option<u64>, StorageError> {
        Ok(self.layer.stat(path).map_err(wrong("look at", path))?.map(|info| info.size))
    }

    fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError> {
        let path = blob_path(&self.root, namespace, digest);
        match self.layer.unlink(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
            other => other.map_err(wrong("remove", &path))?,
        }
        self.sync_parent(&path)?;
        self.drop_list(&path, |list| self.layer.unlink(list))?;
        Ok(true)
    }

    fn sync_parent(&self, path: &Path) -> Result<(), StorageError> {
        let dir = path.parent().unwrap_or(&self.root);
        self.layer.sync_dir(dir).map_err(wrong("sync", dir))
    }

    /// Takes the chunk list of a blob away that is gone durably, unless the blob has come back.
    fn drop_list(&self, blob: &Path, take: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), StorageError> {
        let list = list_path(blob);
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.size(blob)?.is_some() {
            return Ok(());
        }
        match take(&list) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(wrong("remove", &list)(error)),
            _ => Ok(()),
        }
    }

    fn quarantine(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError> {
        let path = blob_path(&self.root, namespace, digest);
        let dir = self.root.join("quarantine").join(namespace.as_str());
        let aside = dir.join(digest.hex());
        let made = self.make_dir(&dir).and_then(|()| self.sync_parent(&dir));
        match made.and_then(|()| self.layer.rename(&path, &aside).map_err(wrong("put aside", &path))) {
            Ok(()) => {}
            Err(_) if self.size(&path)?.is_none() => return Ok(()),
            Err(error) => {
                // On a full disk, say. That nobody reads it comes first.
                tracing::warn!(%error, "a damaged blob can't be kept: it is deleted");
                return self.delete(namespace, digest).map(drop);
            }
        }
        self.sync_parent(&path)?;
        self.drop_list(&path, |list| self.layer.rename(list, &list_path(&aside)))?;
        // For people; the blob is out of the way already.
        if let Err(error) = self.put(&aside.with_extension("why"), format!("{why}\n").as_bytes()) {
            tracing::warn!(%error, "can't write why a blob was put aside");
        }
        self.layer.sync_dir(&dir).map_err(wrong("sync", &dir))
    }

    /// Removes the chunk lists in one of a namespace's 256 directories whose blobs are not there. One whose blob is on its way in may be among
    /// them: [`Disk::publish`] sees that and writes it again.
    fn sweep(&self, namespace: &Namespace, shard: u8) -> Result<u64, StorageError> {
        let dir = shards(&self.root, namespace).join(format!("{shard:02x}"));
        let names = self.layer.list(&dir).map_err(wrong("list", &dir))?;
        let there: HashSet<&OsStr> = names.iter().map(OsString::as_os_str).collect();
        let mut removed = 0;
        for list in names.iter().map(Path::new).filter(|name| name.extension().is_some_and(|extension| extension == "chunks")) {
            let Some(blob) = list.file_stem().filter(|blob| !there.contains(blob)) else { continue };
            self.drop_list(&dir.join(blob), |list| self.layer.unlink(list).inspect(|()| removed += 1))?;
        }
        if removed > 0 {
            self.layer.sync_dir(&dir).map_err(wrong("sync", &dir))?;
        }
        Ok(removed)
    }

    /// The blobs in one of a namespace's 256 directories.
    fn list(&self, namespace: &Namespace, shard: u8) -> Result<Vec<BlobEntry>, StorageError> {
        let shard = format!("{shard:02x}");
        let dir = shards(&self.root, namespace).join(&shard);
        let mut entries = Vec::new();
        for name in self.layer.list(&dir).map_err(wrong("list", &dir))? {
            let Some(digest) = name.to_str().and_then(|name| Digest::from_hex(&format!("{shard}{name}")).ok()) else { continue };
            let path = dir.join(&name);
            // One that is gone by now is none.
            if let Some(info) = self.layer.stat(&path).map_err(wrong("look at", &path))? {
                entries.push(BlobEntry { digest, size: info.size, written: info.modified });
            }
        }
        Ok(entries)
    }
}

pub(super) fn seal(file: &File) -> io::Result<Seal> {
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
    Ok(Seal {
        inode: meta.ino(),
        size: meta.len(),
        mtime: nanoseconds(meta.mtime(), meta.mtime_nsec()),
        ctime: nanoseconds(meta.ctime(), meta.ctime_nsec()),
    })
}

#[async_trait]
impl<F: FileLayer> Blobs for LocalBlobs<F> {
    async fn size(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<u64>, StorageError> {
        self.disk.size(&blob_path(&self.disk.root, namespace, digest))
    }

    async fn sizes(&self, namespace: &Namespace, digests: &[Digest]) -> Result<Vec<Option<u64>>, StorageError> {
        let mut sizes = Vec::with_capacity(digests.len());
        for some in digests.chunks(SIZES_IN_A_ROW) {
            if !sizes.is_empty() {
                tokio::task::yield_now().await;
            }
            for digest in some {
                sizes.push(self.disk.size(&blob_path(&self.disk.root, namespace, digest))?);
            }
        }
        Ok(sizes)
    }

    async fn open(&self, namespace: &Namespace, digest: &Digest) -> Result<Option<OpenBlob>, StorageError> {
        self.disk.open(namespace, digest)
    }

    async fn begin(&self, namespace: &Namespace) -> Result<Box<dyn Upload>, StorageError> {
        self.disk.check_space()?;
        Ok(Box::new(LocalUpload::new(self.disk.clone(), namespace.clone())))
    }

    async fn quarantine(&self, namespace: &Namespace, digest: &Digest, why: &str) -> Result<(), StorageError> {
        let (namespace, digest, why) = (namespace.clone(), *digest, why.to_owned());
        self.on_disk(move |disk| disk.quarantine(&namespace, &digest, &why)).await
    }

    async fn delete(&self, namespace: &Namespace, digest: &Digest) -> Result<bool, StorageError> {
        let (namespace, digest) = (namespace.clone(), *digest);
        self.on_disk(move |disk| disk.delete(&namespace, &digest)).await
    }

    fn list<'a>(&'a self, namespace: &'a Namespace) -> BoxStream<'a, Result<BlobEntry, StorageError>> {
        let shards = stream::iter(0..=u8::MAX).then(move |shard| {
            let namespace = namespace.clone();
            self.on_disk(move |disk| disk.list(&namespace, shard))
        });
        shards
            .flat_map(|listed| {
                let entries: Vec<_> = match listed {
                    Ok(entries) => entries.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(error)],
                };
                stream::iter(entries)
            })
            .boxed()
    }

    async fn sweep(&self, namespace: &Namespace) -> Result<u64, StorageError> {
        let namespace = namespace.clone();
        self.on_disk(move |disk| {
            let swept = (0..=u8::MAX).map(|shard| disk.sweep(&namespace, shard));
            swept.sum()
        })
        .await
    }

    async fn direct_url(&self, _namespace: &Namespace, _digest: &Digest, _size: u64) -> Option<DirectUrl> {
        None
    }

    async fn free_bytes(&self) -> Result<Option<u64>, StorageError> {
        let disk = &self.disk;
        let free = disk.layer.free_bytes(&disk.root).map_err(wrong("ask for the free space of", &disk.root))?;
        Ok(Some(free.saturating_sub(disk.options.hard_free_bytes)))
    }

    async fn ready(&self) -> Result<(), StorageError> {
        let marker = self.disk.root.join("storage.json");
        if self.disk.size(&marker)?.is_none() {
            return Err(StorageError::Unavailable(format!("{} is gone", marker.display())));
        }
        // Full is ready: it can be read.
        self.free_bytes().await.map(drop)
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
