//! Uploads to a local disk.
//!
//! Pieces of an upload are written some at a time, on a thread that may wait for the disk, while the next ones arrive; a small blob is written
//! only when it is complete, synced and named in one go.

use super::files::FileLayer;
use super::local::{Disk, wrong};
use super::{Committed, Namespace, StorageError, Upload};
use async_trait::async_trait;
use bytes::Bytes;
use preheat_image::Digest;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Pieces are written when there are this many bytes of them.
const BATCH: usize = 256 * 1024;
/// A piece keeps at least this much memory alive, in bytes, however short it is.
const LEAST_PIECE: usize = 8 * 1024;
/// The free space is checked again after this many bytes.
const CHECK_SPACE_EVERY: u64 = 4 * 1024 * 1024;
/// Removing a file takes time that grows with it; from this size on, in bytes, it is done on another thread.
const LARGE: u64 = 16 * 1024 * 1024;

/// Memory for pieces that wait, over all uploads.
#[derive(Debug)]
pub(super) struct Pool {
    free: AtomicUsize,
}

impl Pool {
    pub(super) fn new(bytes: usize) -> Self {
        Self { free: AtomicUsize::new(bytes) }
    }

    fn take(&self, bytes: usize) -> bool {
        self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok()
    }

    #[cfg(test)]
    pub(super) fn is_free(&self, bytes: usize) -> bool {
        self.free.load(Ordering::Relaxed) == bytes
    }
}

/// Pieces that wait to be written, and their memory.
#[derive(Debug)]
struct Pieces {
    pool: Arc<Pool>,
    pieces: Vec<Bytes>,
    taken: usize,
}

impl Pieces {
    fn new(pool: Arc<Pool>) -> Self {
        Self { pool, pieces: Vec::new(), taken: 0 }
    }

    /// Adds a piece; says whether there was room for it. If not, it is to be written at once.
    fn add(&mut self, bytes: Bytes) -> bool {
        let memory = bytes.len().max(LEAST_PIECE);
        let room = self.pool.take(memory);
        if room {
            self.taken += memory;
        }
        self.pieces.push(bytes);
        room
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.pool.free.fetch_add(self.taken, Ordering::Relaxed);
    }
}

/// A file that has no name yet that counts. Dropping it removes it.
pub(super) struct TempFile<F: FileLayer> {
    disk: Arc<Disk<F>>,
    path: PathBuf,
    file: F::File,
    size: u64,
    checked: u64,
    named: bool,
}

impl<F: FileLayer> TempFile<F> {
    pub(super) fn new(disk: Arc<Disk<F>>, path: PathBuf, file: F::File) -> Self {
        Self { disk, path, file, size: 0, checked: 0, named: false }
    }

    fn write(&mut self, pieces: Pieces) -> Result<(), StorageError> {
        for piece in &pieces.pieces {
            if self.size >= self.checked + CHECK_SPACE_EVERY {
                self.disk.check_space()?;
                self.checked = self.size;
            }
            self.disk.layer.write(&mut self.file, piece).map_err(wrong("write", &self.path))?;
            self.size += piece.len() as u64;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StorageError> {
        self.disk.layer.sync(&self.file).map_err(wrong("sync", &self.path))
    }

    pub(super) fn rename(mut self, to: &Path) -> Result<(), StorageError> {
        self.disk.layer.rename(&self.path, to).map_err(wrong("create", to))?;
        self.named = true;
        Ok(())
    }
}

impl<F: FileLayer> Drop for TempFile<F> {
    fn drop(&mut self) {
        if self.named {
            return;
        }
        let (disk, path) = (self.disk.clone(), std::mem::take(&mut self.path));
        let remove = move || {
            // Nothing better can be done with a failure here; the next start removes it.
            let _ = disk.layer.unlink(&path);
        };
        match Handle::try_current() {
            Ok(runtime) if self.size >= LARGE => drop(runtime.spawn_blocking(remove)),
            _ => remove(),
        }
    }
}

/// A blob on its way in.
pub(super) struct LocalUpload<F: FileLayer> {
    disk: Arc<Disk<F>>,
    namespace: Namespace,
    size: u64,
    pieces: Pieces,
    /// None as long as the blob is small.
    file: Option<TempFile<F>>,
    /// Has the file while it writes.
    writing: Option<JoinHandle<Result<TempFile<F>, StorageError>>>,
    /// Bytes are lost: there is no more to this upload.
    failed: bool,
}

impl<F: FileLayer> LocalUpload<F> {
    pub(super) fn new(disk: Arc<Disk<F>>, namespace: Namespace) -> Self {
        let pieces = Pieces::new(disk.pool.clone());
        Self { disk, namespace, size: 0, pieces, file: None, writing: None, failed: false }
    }

    /// Waits until what was given to another thread is written.
    async fn settle(&mut self) -> Result<(), StorageError> {
        if let Some(writing) = &mut self.writing {
            let written = writing.await;
            self.writing = None;
            // Until it is known to be written.
            self.failed = true;
            self.file = Some(written.map_err(|error| StorageError::Other(error.to_string()))??);
            self.failed = false;
        }
        if self.failed { Err(StorageError::Other("the upload has failed before".into())) } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        // Nothing is waited for from here on: whoever gives up the wait must not lose pieces.
        let thread = self.disk.thread().await?;
        let pieces = std::mem::replace(&mut self.pieces, Pieces::new(self.disk.pool.clone()));
        let (disk, file) = (self.disk.clone(), self.file.take());
        self.writing = Some(tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let mut file = file.map_or_else(|| disk.temp(), Ok)?;
            file.write(pieces)?;
            Ok(file)
        }));
        Ok(())
    }
}

#[async_trait]
impl<F: FileLayer> Upload for LocalUpload<F> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.size += bytes.len() as u64;
        let room = self.pieces.add(bytes);
        if !room {
            self.flush().await?;
            self.settle().await
        } else if self.pieces.taken >= BATCH {
            self.flush().await
        } else {
            Ok(())
        }
    }

    async fn commit(mut self: Box<Self>, digest: &Digest, chunks: Option<Bytes>) -> Result<Committed, StorageError> {
        self.settle().await?;
        let thread = self.disk.thread().await?;
        let Self { disk, namespace, size, pieces, file, .. } = *self;
        let digest = *digest;
        let work = tokio::task::spawn_blocking(move || {
            let _thread = thread;
            let finished = || {
                let mut file = file.map_or_else(|| disk.temp(), Ok)?;
                file.write(pieces)?;
                Ok(file)
            };
            disk.publish(&namespace, &digest, size, chunks.as_deref(), finished)
        });
        work.await.map_err(|error| StorageError::Other(error.to_string()))?
    }
}
