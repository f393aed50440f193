//! Putting things into the store.

use super::files::{self, Publish, TempFile};
use super::lock::Lock;
use super::{Store, index, seal_of};
use crate::StoreError;
use preheat_image::keys::PublicKey;
use preheat_image::manifest::Descriptor;
use preheat_image::record::{Record, Seal, Signed};
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{Digest, DigestHasher, Manifest, media};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Things on their way into the store. While it lives, nothing is collected; what was put and then not vouched for by a statement is
/// garbage for the next collection, so a process may be killed at any point.
#[derive(Debug)]
pub struct Publication<'s> {
    store: &'s Store,
    lock: Lock,
    written: BTreeMap<Digest, Seal>,
    rows: index::Changes,
    /// Code objects, and their chunk lists, that images of this publication may lack.
    left_out: BTreeSet<Digest>,
    /// The size of all blobs, once the index has all of `rows`.
    indexed: Option<u64>,
}

/// A blob that is being written; its digest is known at the end.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    file: TempFile,
    hasher: DigestHasher,
    size: u64,
}

/// A blob that is in the store and that its publication has yet to note.
#[derive(Debug)]
#[must_use]
pub struct WrittenBlob {
    digest: Digest,
    size: u64,
    seal: Option<Seal>,
}

impl BlobWriter {
    /// Writes the next bytes.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write(bytes)
    }

    /// How many bytes there are so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes back all bytes: somebody sends the blob from its beginning again.
    ///
    /// # Errors
    /// When the file can't be cut.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.hasher = DigestHasher::new();
        self.size = 0;
        self.file.clear()
    }

    /// Ends a blob that must be `expected`: one that came from somewhere else. Any other is dropped. It is durable then, but part of its
    /// publication only after [`Publication::note`]; several blobs can be ended at once that way.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when digest or size are others; when the disk is full or fails.
    pub fn finish_as(self, expected: &Descriptor) -> Result<WrittenBlob, StoreError> {
        let found = self.hasher.clone().finalize();
        if found != expected.digest || self.size != expected.size {
            return Err(StoreError::Damaged {
                digest: expected.digest,
                path: self.store.blob_path(&expected.digest),
                what: format!("what came has digest {found} and {} bytes; nothing of it was kept", self.size),
            });
        }
        self.publish(found)
    }

    /// Gives the blob its name. One of the same digest and size that is there already stays.
    fn publish(self, digest: Digest) -> Result<WrittenBlob, StoreError> {
        let Self { store, file, size, .. } = self;
        let path = store.blob_path(&digest);
        let mut seal = None;
        if store.blob_size(&digest) != Some(size) {
            files::make_dir(path.parent().unwrap_or(&path))?;
            let file = file.publish(&path, 0o444, Publish::Replacing)?;
            seal = Some(seal_of(&file.metadata().map_err(StoreError::io("look at", &path))?));
        }
        Ok(WrittenBlob { digest, size, seal })
    }
}

impl Store {
    /// Begins to put things into the store.
    ///
    /// # Errors
    /// When the store can't be locked, for example because it is read-only.
    pub fn publish(&self) -> Result<Publication<'_>, StoreError> {
        let lock = self.lock_shared()?;
        // A copy of a store may lack its empty directories.
        files::make_dir(&self.temp_dir())?;
        Ok(Publication {
            store: self,
            lock,
            written: BTreeMap::new(),
            rows: index::Changes::default(),
            left_out: BTreeSet::new(),
            indexed: None,
        })
    }

    /// Begins a blob for a publication that the caller holds: without one, a collection may remove what is written.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn blob_writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter { store: self.clone(), file: TempFile::create(&self.temp_dir())?, hasher: DigestHasher::new(), size: 0 })
    }

    pub(super) fn temp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Writes a file that is no blob: whole and durable. The caller has the store's lock, so that nobody collects the temporary file.
    pub(super) fn write_file(&self, path: &std::path::Path, bytes: &[u8], publish: Publish) -> Result<(), StoreError> {
        files::make_dir(path.parent().unwrap_or(&self.root))?;
        let mut file = TempFile::create(&self.temp_dir())?;
        file.write(bytes)?;
        file.publish(path, 0o644, publish).map(drop)
    }

    /// Changes the record at `path` about `subject`, one process at a time.
    pub(super) fn change_record(
        &self,
        path: &std::path::Path,
        subject: &Digest,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), StoreError> {
        let _lock = self.lock_records()?;
        let old = Self::record(path, subject)?;
        let mut new = old.clone().unwrap_or_else(|| Record::new(*subject));
        change(&mut new);
        if old.as_ref() == Some(&new) {
            return Ok(());
        }
        self.write_file(path, &new.to_bytes(), Publish::Replacing)
    }
}

impl Publication<'_> {
    /// Begins a blob.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn blob(&self) -> Result<BlobWriter, StoreError> {
        self.store.blob_writer()
    }

    /// Ends a blob and gives it its name. A blob of the same digest and size that is there already stays.
    ///
    /// # Errors
    /// When the disk is full or fails; nothing is left behind then.
    pub fn finish_blob(&mut self, blob: BlobWriter, media_type: &str) -> Result<Descriptor, StoreError> {
        let digest = blob.hasher.clone().finalize();
        let size = blob.size;
        let written = blob.publish(digest)?;
        self.note(written);
        Ok(Descriptor { media_type: media_type.to_owned(), digest, size })
    }

    /// Notes a blob that [`BlobWriter::finish_as`] ended, as part of this publication.
    pub fn note(&mut self, written: WrittenBlob) {
        self.note_blob(written.digest, written.size);
        if let Some(seal) = written.seal {
            self.written.insert(written.digest, seal);
        }
    }

    /// Puts a blob that is in memory.
    ///
    /// # Errors
    /// As [`Publication::finish_blob`].
    pub fn put(&mut self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, StoreError> {
        let digest = Digest::of(bytes);
        if self.store.blob_size(&digest) == Some(bytes.len() as u64) {
            self.note_blob(digest, bytes.len() as u64);
            return Ok(Descriptor { media_type: media_type.to_owned(), digest, size: bytes.len() as u64 });
        }
        let mut blob = self.blob()?;
        blob.write(bytes)?;
        self.finish_blob(blob, media_type)
    }

    fn note_blob(&mut self, digest: Digest, size: u64) {
        self.indexed = None;
        self.rows.blobs.insert(digest, size);
    }

    /// Says which code objects and chunk lists of code objects this host has no use for: images may enter without them. What is no code is
    /// asked for all the same.
    pub fn leave_out(&mut self, blobs: impl IntoIterator<Item = Digest>) {
        self.left_out.extend(blobs);
    }

    /// Lets a statement in: verifies that `key` signed it and that all its outputs are there, keeps it, and records it under its key
    /// and for each of its outputs that can be asked for (an image's manifest, a code object).
    ///
    /// # Errors
    /// When the statement is not by `key`, or an output is missing that was not left out.
    pub fn add_statement(&mut self, envelope: &Envelope, key: &PublicKey) -> Result<(), StoreError> {
        let subject = envelope.unverified().outputs.first().map_or(envelope.unverified().key, |output| output.digest);
        let statement = envelope.verify([key]).map_err(|source| StoreError::Statement { subject, source })?;
        let mut wanted = statement.outputs.clone();
        let mut manifest = None;
        if statement.kind == Kind::Image {
            let bytes = self.store.read_blob(&subject, preheat_image::manifest::MAX_SIZE)?;
            let path = self.store.blob_path(&subject);
            let parsed = Manifest::parse(&bytes).map_err(|source| StoreError::Format { path, source })?;
            // What a manifest names and the store lacks would otherwise be noticed at the first load only.
            wanted.extend(parsed.blobs());
            manifest = Some(parsed);
        }
        let mut left_out = manifest.as_ref().map(|manifest| manifest.code_blobs(|_, _| true)).unwrap_or_default();
        left_out.retain(|digest| self.left_out.contains(digest) && self.store.blob_size(digest).is_none());
        for blob in wanted.iter().filter(|blob| !left_out.contains(&blob.digest)) {
            match self.store.blob_size(&blob.digest) {
                Some(size) if size == blob.size => {}
                Some(size) => {
                    return Err(StoreError::Damaged {
                        digest: blob.digest,
                        path: self.store.blob_path(&blob.digest),
                        what: format!("it has {size} bytes, not {}", blob.size),
                    });
                }
                None => return Err(StoreError::Missing(blob.digest)),
            }
        }
        if let Some(manifest) = manifest {
            let blobs = manifest.blobs().map(|blob| blob.digest);
            self.rows.images.insert(subject, blobs.chain([subject]).collect());
        }
        let blob = self.put(media::STATEMENT, &envelope.to_bytes())?;
        let signed = Signed::new(statement, envelope.signer(), blob.digest);
        let parts = self.rows.images.get(&subject).into_iter().flatten().copied();
        let sealed: BTreeSet<Digest> = signed.outputs.iter().map(|output| output.digest).chain(parts).collect();
        let seals: BTreeMap<Digest, Seal> = sealed.into_iter().filter_map(|digest| Some((digest, self.seal(&digest)?))).collect();
        if signed.kind == Kind::Image {
            // Before the entry: an index that knows too much is corrected when it is read, one that knows too little is not.
            self.indexed = index::update(self.store, &self.rows);
        }
        self.store.change_record(&self.store.entry_path(&subject), &subject, |record| {
            record.add(signed.clone());
            record.seals.extend(seals);
            record.left_out = left_out;
        })?;
        if signed.kind == Kind::Image {
            // Whoever loads it without writes one.
            let _ = self.store.write_brief(&subject, |id| (*id == signed.signer).then(|| key.clone()));
        }
        // The key last: whoever finds it finds everything else.
        self.store.change_record(&self.store.key_path(&signed.key), &signed.key, |record| record.add(signed.clone()))
    }

    /// What is published from now on has blobs of the image `other`, too: those that were hashed for it and have not changed since need not be hashed
    /// again when the new image is first loaded.
    pub fn shares_blobs_of(&mut self, other: &Digest) {
        let seals = self.store.entry(other).ok().flatten().map(|record| record.seals).unwrap_or_default();
        let unchanged = |(digest, seal): &(Digest, Seal)| {
            std::fs::metadata(self.store.blob_path(digest)).is_ok_and(|metadata| seal_of(&metadata) == *seal)
        };
        let seals: Vec<(Digest, Seal)> = seals.into_iter().filter(unchanged).collect();
        self.written.extend(seals);
    }

    /// The seal of a blob that this publication wrote, or that was sealed for another subject and not changed since.
    fn seal(&self, digest: &Digest) -> Option<Seal> {
        if let Some(seal) = self.written.get(digest) {
            return Some(*seal);
        }
        let known = *self.store.entry(digest).ok()??.seals.get(digest)?;
        let now = seal_of(&std::fs::metadata(self.store.blob_path(digest)).ok()?);
        (known == now).then_some(known)
    }

    /// Updates the index and lets go of the store. If that takes the store over its size limit, the images that were not used for
    /// longest go.
    ///
    /// # Errors
    /// When the eviction fails. An index that can't be written is no error: it is derived, and made anew when needed.
    pub fn finish(self) -> Result<(), StoreError> {
        let Self { store, lock, rows, indexed, .. } = self;
        let total = indexed.or_else(|| index::update(store, &rows));
        drop(lock);
        match (store.max_bytes()?, total) {
            (Some(max), Some(total)) if total > max => store.evict_if_idle(max, &rows),
            _ => Ok(()),
        }
    }
}
