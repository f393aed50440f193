//! Briefs: the entry and the manifest of an image in one file that is read without parsing. Derived, as the index is; see
//! [`preheat_image::brief`].

use super::files::{self, TempFile};
use super::{Store, seal_of};
use crate::StoreError;
use preheat_image::brief::{self, Brief};
use preheat_image::keys::{KeyId, PublicKey};
use preheat_image::record::{Record, Seal};
use preheat_image::{Digest, FormatError, Manifest};
use std::fs::Metadata;
use std::path::PathBuf;

/// What a brief turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    /// None, one of another version, or one of another state of the entry: whoever needs one writes it.
    Nothing,
    /// Damaged, or saying other things than what it was made from: the reason.
    Wrong(String),
    /// As it should be.
    Good,
}

impl Store {
    pub(crate) fn brief_path(&self, image: &Digest) -> PathBuf {
        self.sharded("briefs", image, "")
    }

    /// The brief of an image and what its entry looks like now, if the brief was made from that entry as it is, and if the manifest's file is
    /// still the one whose content was hashed. Whatever is wrong with a brief, there is none: the files from which it was made are asked.
    pub(crate) fn brief(&self, image: &Digest) -> Option<(Brief, Metadata)> {
        let bytes = files::read_small(&self.brief_path(image), brief::MAX_SIZE).ok()??;
        let brief = Brief::parse(&bytes, image).ok()?;
        let entry = std::fs::metadata(self.entry_path(image)).ok()?;
        let manifest = seal_of(&std::fs::metadata(self.blob_path(image)).ok()?);
        (seal_of(&entry) == brief.entry && brief.record.seals.get(image) == Some(&manifest)).then_some((brief, entry))
    }

    /// Writes the brief of an image from its entry and its manifest as they are now; `key` knows the public keys of signers. Not durable: one
    /// that is lost is made again, and one that is damaged is none.
    ///
    /// # Errors
    /// When the files can't be read or the store can't be written. Nobody depends on a brief: callers go on without.
    pub(crate) fn write_brief(&self, image: &Digest, key: impl Fn(&KeyId) -> Option<PublicKey>) -> Result<(), StoreError> {
        // A load does not wait for a collection.
        let Some(_lock) = self.try_lock_shared()? else { return Ok(()) };
        let Some((record, entry)) = self.sealed_entry(image)? else { return Ok(()) };
        let Some((manifest, seal)) = self.sealed_manifest(image)? else { return Ok(()) };
        if record.seals.get(image) != Some(&seal) {
            // It would not count.
            return Ok(());
        }
        let keys = record.statements.iter().map(|signed| key(&signed.signer)).collect();
        let Some(bytes) = (Brief { entry, record, keys, manifest }).to_bytes() else { return Ok(()) };
        let path = self.brief_path(image);
        files::make_dir(path.parent().unwrap_or(&self.root))?;
        let mut file = TempFile::create(&self.temp_dir())?;
        file.write(&bytes)?;
        file.place(&path, 0o644)
    }

    fn sealed_entry(&self, image: &Digest) -> Result<Option<(Record, Seal)>, StoreError> {
        let path = self.entry_path(image);
        let Some((bytes, seal)) = files::read_sealed(&path, preheat_image::record::MAX_SIZE)? else { return Ok(None) };
        let record = Record::parse(&bytes, image).map_err(|source| StoreError::Format { path, source })?;
        Ok(Some((record, seal)))
    }

    /// The manifest of an image, hashed, and what its file looked like before.
    pub(crate) fn sealed_manifest(&self, image: &Digest) -> Result<Option<(Manifest, Seal)>, StoreError> {
        let path = self.blob_path(image);
        let Some((bytes, seal)) = files::read_sealed(&path, preheat_image::manifest::MAX_SIZE)? else { return Ok(None) };
        if Digest::of(&bytes) != *image {
            return Err(StoreError::Damaged { digest: *image, path, what: "its bytes were changed".into() });
        }
        let manifest = Manifest::parse(&bytes).map_err(|source| StoreError::Format { path, source })?;
        Ok(Some((manifest, seal)))
    }

    /// Compares a brief with what it was made from.
    pub(super) fn check_brief(&self, image: &Digest) -> Result<Found, StoreError> {
        let Some(bytes) = files::read_small(&self.brief_path(image), brief::MAX_SIZE)? else { return Ok(Found::Nothing) };
        let brief = match Brief::parse(&bytes, image) {
            Ok(brief) => brief,
            Err(FormatError::Version { .. }) => return Ok(Found::Nothing),
            Err(error) => return Ok(Found::Wrong(error.to_string())),
        };
        // What is wrong with entry and manifest is told of them.
        let (Ok(Some((record, entry))), Ok(Some((manifest, _)))) = (self.sealed_entry(image), self.sealed_manifest(image)) else {
            return Ok(Found::Nothing);
        };
        if entry != brief.entry {
            return Ok(Found::Nothing);
        }
        let keys = brief.record.statements.iter().zip(&brief.keys);
        let keys_fit = keys.clone().all(|(signed, key)| key.as_ref().is_none_or(|key| key.id() == signed.signer));
        if brief.record != record || brief.manifest != manifest || !keys_fit {
            return Ok(Found::Wrong("the brief says other things than the entry and the manifest".into()));
        }
        Ok(Found::Good)
    }
}
