//! The index: sizes of blobs and references of images, in redb. Everything in it can be derived from the other files, so an index that is
//! missing, damaged or behind is made anew.
//!
//! redb allows one writer process; transactions here are short, and a process that finds the index in use waits for it.
//!
//! redb trusts a file that was closed in good order and may panic over one that something else has changed since. So every open asks it to
//! verify all checksums first, which for an index of this size costs one more commit.

use super::{Store, files};
use crate::StoreError;
use preheat_image::{Digest, Manifest};
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Digest of a blob → its size in bytes.
const BLOBS: TableDefinition<'_, &[u8], u64> = TableDefinition::new("blobs");
/// Digest of an image's manifest → digests of all its blobs, 32 bytes each.
const IMAGES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("images");

/// A blob in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRow {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// An image in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The manifest.
    pub digest: Digest,
    /// All blobs of the image, the manifest among them.
    pub blobs: Vec<Digest>,
}

impl ImageRow {
    /// Reads a row. Bytes that are no row (from a damaged index) are `None`.
    #[must_use]
    pub fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let digest = Digest::from_bytes(key.try_into().ok()?);
        let (blobs, rest) = value.as_chunks::<32>();
        rest.is_empty().then(|| Self { digest, blobs: blobs.iter().map(|bytes| Digest::from_bytes(*bytes)).collect() })
    }

    fn encode(blobs: &[Digest]) -> Vec<u8> {
        blobs.iter().flat_map(|digest| *digest.as_bytes()).collect()
    }
}

/// What a publication adds.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) blobs: BTreeMap<Digest, u64>,
    pub(super) images: BTreeMap<Digest, Vec<Digest>>,
}

/// All rows at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) blobs: BTreeMap<Digest, u64>,
    pub(super) images: BTreeMap<Digest, Vec<Digest>>,
}

impl Rows {
    /// The rows as the files say, without any index.
    ///
    /// # Errors
    /// When something can't be read. A manifest that is damaged is no error but no image either; it is for `verify` to report.
    pub(super) fn scan(store: &Store) -> Result<Self, StoreError> {
        let mut rows = Self::default();
        for (digest, path) in store.digests_in("blobs/sha256")? {
            if let Ok(metadata) = std::fs::metadata(path) {
                rows.blobs.insert(digest, metadata.len());
            }
        }
        for (subject, _) in store.digests_in("entries")? {
            // Entries are also kept for code objects; those are no manifests, and most are larger than one may be.
            if rows.blobs.get(&subject).is_none_or(|size| *size > preheat_image::manifest::MAX_SIZE as u64) {
                continue;
            }
            let manifest = match store.read_blob(&subject, preheat_image::manifest::MAX_SIZE) {
                Ok(bytes) => Manifest::parse(&bytes).ok(),
                // Whoever collects must not take an image that can't be read at the moment for one that is not there.
                Err(error @ StoreError::Io { .. }) => return Err(error),
                Err(_) => None,
            };
            if let Some(manifest) = manifest {
                rows.images.insert(subject, manifest.blobs().map(|blob| blob.digest).chain([subject]).collect());
            }
        }
        Ok(rows)
    }
}

fn path(store: &Store) -> PathBuf {
    store.root.join("index.redb")
}

fn wrong(store: &Store, error: impl std::fmt::Display) -> StoreError {
    StoreError::Index { path: path(store), what: error.to_string() }
}

/// Opens the index, waiting while another process uses it.
fn open(store: &Store) -> Result<Database, StoreError> {
    let path = path(store);
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut wait = Duration::from_micros(200);
    loop {
        match Database::builder().set_check_integrity_on_open(true).create(&path) {
            Ok(database) => return Ok(database),
            Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                std::thread::sleep(wait);
                wait = (wait * 2).min(Duration::from_millis(20));
            }
            // Not the index's fault: it must not be taken for a damaged one and removed under whoever uses it.
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(StoreError::io("use the index, which another process has held for too long:", &path)(ErrorKind::ResourceBusy));
            }
            Err(error) => return Err(wrong(store, error)),
        }
    }
}

/// Whether the index was ever filled: both tables are made in the transaction that fills them.
fn is_filled(database: &Database) -> bool {
    let tables = || -> Result<(), redb::Error> {
        let read = database.begin_read()?;
        read.open_table(BLOBS)?;
        read.open_table(IMAGES)?;
        Ok(())
    };
    tables().is_ok()
}

/// Opens the index; one that redb can't open is removed, and one that is not there or was never filled is made from the files.
fn open_or_rebuild(store: &Store) -> Result<Database, StoreError> {
    let there = path(store).exists();
    let database = match open(store) {
        Err(StoreError::Index { .. }) if there => {
            files::remove(&path(store))?;
            open(store)?
        }
        other => other?,
    };
    if !is_filled(&database) {
        // The files are read while the index is ours: what others publish meanwhile they add when they get it.
        replace_in(store, &database, &Rows::scan(store)?)?;
    }
    Ok(database)
}

fn replace_in(store: &Store, database: &Database, rows: &Rows) -> Result<(), StoreError> {
    let transaction = || -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        write.delete_table(BLOBS)?;
        write.delete_table(IMAGES)?;
        {
            let mut blobs = write.open_table(BLOBS)?;
            for (digest, size) in &rows.blobs {
                blobs.insert(digest.as_bytes().as_slice(), size)?;
            }
            let mut images = write.open_table(IMAGES)?;
            for (digest, parts) in &rows.images {
                images.insert(digest.as_bytes().as_slice(), ImageRow::encode(parts).as_slice())?;
            }
        }
        write.commit()?;
        Ok(())
    };
    transaction().map_err(|error| wrong(store, error))
}

/// Adds rows and returns the size of all blobs in bytes. `None` where the index can't be used now; it is then removed if possible, so
/// that the next use makes it anew.
pub(super) fn update(store: &Store, changes: &Changes) -> Option<u64> {
    let transaction = || -> Result<u64, StoreError> {
        let database = open_or_rebuild(store)?;
        let add = || -> Result<u64, redb::Error> {
            let write = database.begin_write()?;
            let mut total = 0;
            {
                let mut blobs = write.open_table(BLOBS)?;
                for (digest, size) in &changes.blobs {
                    blobs.insert(digest.as_bytes().as_slice(), size)?;
                }
                let mut images = write.open_table(IMAGES)?;
                for (digest, parts) in &changes.images {
                    images.insert(digest.as_bytes().as_slice(), ImageRow::encode(parts).as_slice())?;
                }
                for row in blobs.iter()? {
                    total += row?.1.value();
                }
            }
            write.commit()?;
            Ok(total)
        };
        add().map_err(|error| wrong(store, error))
    };
    match transaction() {
        Ok(total) => Some(total),
        Err(StoreError::Index { .. }) => {
            // Behind is worse than missing: a missing index is made anew.
            let _ = files::remove(&path(store));
            None
        }
        // Not to be written now: `verify` makes good what it lacks.
        Err(_) => None,
    }
}

/// Puts `rows` in the place of all that the index has. Only for whoever has the store alone.
pub(super) fn replace(store: &Store, rows: &Rows) -> Result<(), StoreError> {
    replace_in(store, &open_or_rebuild(store)?, rows)
}

/// Makes the index what the files say, and says whether it was something else.
pub(super) fn reconcile(store: &Store) -> Result<bool, StoreError> {
    let database = open_or_rebuild(store)?;
    // In this order, and with the index open: others add their rows after their files, so none can be lost.
    let truth = Rows::scan(store)?;
    if rows_in(&database).is_ok_and(|known| known == truth) {
        return Ok(false);
    }
    replace_in(store, &database, &truth).map(|()| true)
}

fn rows_in(database: &Database) -> Result<Rows, redb::Error> {
    let read = database.begin_read()?;
    let mut rows = Rows::default();
    for row in read.open_table(BLOBS)?.iter()? {
        let (key, size) = row?;
        if let Ok(bytes) = key.value().try_into() {
            rows.blobs.insert(Digest::from_bytes(bytes), size.value());
        }
    }
    for row in read.open_table(IMAGES)?.iter()? {
        let (key, value) = row?;
        if let Some(image) = ImageRow::decode(key.value(), value.value()) {
            rows.images.insert(image.digest, image.blobs);
        }
    }
    Ok(rows)
}

/// All rows. Where the index can't be used, because the store can't be written or the index is in use for too long, the files are asked.
fn read(store: &Store) -> Result<Rows, StoreError> {
    match open_or_rebuild(store).ok().and_then(|database| rows_in(&database).ok()) {
        Some(rows) => Ok(rows),
        None => Rows::scan(store),
    }
}

impl Store {
    /// All images: what was built and is still there, named or not.
    ///
    /// # Errors
    /// When neither the index nor the files can be read.
    pub fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        // The index hears of an image before its entry is written; a builder that was killed in between has left a row and no image.
        let there = |digest: &Digest| self.entry_path(digest).exists();
        let rows = read(self)?.images.into_iter().filter(|(digest, _)| there(digest));
        Ok(rows.map(|(digest, blobs)| ImageRow { digest, blobs }).collect())
    }

    /// All blobs.
    ///
    /// # Errors
    /// When neither the index nor the files can be read.
    pub fn blobs(&self) -> Result<Vec<BlobRow>, StoreError> {
        Ok(read(self)?.blobs.into_iter().map(|(digest, size)| BlobRow { digest, size }).collect())
    }
}
