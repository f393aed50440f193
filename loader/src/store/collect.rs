//! Collection: removing what nothing leads to any more, and eviction under a size limit. Both decide by the files alone, never by the
//! index, and hold the store's lock alone.

use super::index::{self, Changes, Rows};
use super::{Store, files};
use crate::StoreError;
use crate::store::lock::Lock;
use preheat_image::Digest;
use preheat_image::record::Signed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

/// What a collection should do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Collection {
    /// Images without name and pin stay if they were used within this time.
    pub keep_used_within: Duration,
    /// Beyond that, images without name and pin go until all blobs together are at most this many bytes.
    pub max_bytes: Option<u64>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What a collection removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Images.
    pub images: u64,
    /// Blobs, those of images included.
    pub blobs: u64,
    /// Bytes in those blobs.
    pub bytes: u64,
    /// Files that interrupted processes left behind.
    pub temp_files: u64,
    /// Bytes in the blobs that stay.
    pub kept_bytes: u64,
}

/// Which blobs and statements lead to which.
struct Graph<'a> {
    store: &'a Store,
    rows: &'a Rows,
    /// What was read from entries already.
    links: BTreeMap<Digest, Vec<Digest>>,
}

impl<'a> Graph<'a> {
    fn new(store: &'a Store, rows: &'a Rows) -> Self {
        Self { store, rows, links: BTreeMap::new() }
    }

    /// All that `images` consist of, the statements about any of it, and what those vouch for.
    fn reachable(&mut self, images: impl IntoIterator<Item = Digest>) -> Result<BTreeSet<Digest>, StoreError> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<Digest> = images.into_iter().collect();
        while let Some(digest) = open.pop() {
            if reached.insert(digest) {
                open.extend(self.rows.images.get(&digest).into_iter().flatten());
                open.extend(self.links(digest)?);
            }
        }
        Ok(reached)
    }

    fn links(&mut self, subject: Digest) -> Result<&[Digest], StoreError> {
        if !self.links.contains_key(&subject) {
            let record = match self.store.entry(&subject) {
                Ok(record) => record,
                Err(error @ StoreError::Io { .. }) => return Err(error),
                // A damaged record is for `verify`; what it might have protected is protected by the manifest already.
                Err(_) => None,
            };
            let statements = record.into_iter().flat_map(|record| record.statements);
            let links = statements.flat_map(|signed| signed.outputs.into_iter().map(|output| output.digest).chain([signed.statement]));
            self.links.insert(subject, links.collect());
        }
        Ok(self.links.get(&subject).map_or(&[], Vec::as_slice))
    }
}

impl Store {
    /// Removes all that no name and no pin leads to.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub fn collect(&self, collection: &Collection) -> Result<Collected, StoreError> {
        let lock = self.lock_exclusive()?;
        let rows = Rows::scan(self)?;
        let mut kept = self.roots()?;
        if !collection.keep_used_within.is_zero() {
            let now = SystemTime::now();
            let recent = |digest: &&Digest| now.duration_since(self.last_used(digest)).is_ok_and(|age| age < collection.keep_used_within);
            kept.extend(rows.images.keys().filter(recent).copied());
        }
        if let Some(max) = collection.max_bytes {
            self.shrink(&rows, &mut kept, &BTreeSet::new(), max)?;
        }
        self.sweep(&lock, rows, &kept, collection.dry_run)
    }

    /// Evicts down to `max` bytes unless somebody else is publishing; then they will, when they finish. What `fresh` has just added stays.
    pub(super) fn evict_if_idle(&self, max: u64, fresh: &Changes) -> Result<(), StoreError> {
        let Some(lock) = self.try_lock_exclusive()? else { return Ok(()) };
        let rows = Rows::scan(self)?;
        let mut kept: BTreeSet<Digest> = rows.images.keys().copied().collect();
        let mut protected = self.roots()?;
        protected.extend(fresh.images.keys().copied());
        self.shrink(&rows, &mut kept, &protected, max)?;
        self.sweep(&lock, rows, &kept, false).map(drop)
    }

    /// When an image was last loaded or built: the time of its entry's file. One that can't be read was never used.
    #[must_use]
    pub fn last_used(&self, image: &Digest) -> SystemTime {
        std::fs::metadata(self.entry_path(image)).and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn roots(&self) -> Result<BTreeSet<Digest>, StoreError> {
        Ok(self.names()?.into_iter().map(|name| name.digest).chain(self.pins()?).collect())
    }

    /// Takes the images that were not used for longest out of `kept`, except `protected` ones and roots, until the rest fits.
    fn shrink(&self, rows: &Rows, kept: &mut BTreeSet<Digest>, protected: &BTreeSet<Digest>, max: u64) -> Result<(), StoreError> {
        let roots = self.roots()?;
        let mut order: Vec<(SystemTime, Digest)> = kept
            .iter()
            .filter(|digest| !protected.contains(digest) && !roots.contains(digest))
            .map(|digest| (self.last_used(digest), *digest))
            .collect();
        order.sort();
        let mut graph = Graph::new(self, rows);
        let size_of = |digest: &Digest| rows.blobs.get(digest).copied().unwrap_or(0);
        // How many of the images each blob belongs to: it goes with the last of them.
        let mut users: BTreeMap<Digest, u64> = BTreeMap::new();
        for image in kept.iter() {
            for blob in graph.reachable([*image])? {
                *users.entry(blob).or_default() += 1;
            }
        }
        let mut size: u64 = users.keys().map(size_of).sum();
        for (_, image) in order {
            if size <= max {
                break;
            }
            for blob in graph.reachable([image])? {
                let left = users.entry(blob).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 {
                    size = size.saturating_sub(size_of(&blob));
                }
            }
            kept.remove(&image);
        }
        Ok(())
    }

    /// Removes what is not reachable from `kept`.
    fn sweep(&self, _alone: &Lock, mut rows: Rows, kept: &BTreeSet<Digest>, dry_run: bool) -> Result<Collected, StoreError> {
        let live = Graph::new(self, &rows).reachable(kept.iter().copied())?;
        let mut collected = Collected::default();
        let mut paths = Vec::new();
        for (key, path) in self.digests_in("keys")? {
            let is_whole =
                |signed: &Signed| live.contains(&signed.statement) && signed.outputs.iter().all(|output| live.contains(&output.digest));
            match self.built(&key) {
                Ok(Some(record)) if record.statements.iter().any(is_whole) => {
                    if !dry_run && !record.statements.iter().all(is_whole) {
                        self.change_record(&path, &key, |record| record.statements.retain(is_whole))?;
                    }
                }
                _ => paths.push(path),
            }
        }
        paths.extend(self.digests_in("briefs")?.into_iter().filter(|(image, _)| !live.contains(image)).map(|(_, path)| path));
        paths.extend(self.digests_in("entries")?.into_iter().filter(|(subject, _)| !live.contains(subject)).map(|(_, path)| path));
        for (_, path) in self.digests_in("memo")? {
            if !Self::read_digest(&path).ok().flatten().is_some_and(|image| kept.contains(&image)) {
                paths.push(path);
            }
        }
        // Blobs last: whoever is killed in between leaves garbage, never a record of something that is gone.
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut rows.blobs).into_iter().partition(|(digest, _)| live.contains(digest));
        collected.kept_bytes = stay.values().sum();
        collected.blobs = go.len() as u64;
        collected.bytes = go.values().sum();
        paths.extend(go.keys().map(|digest| self.blob_path(digest)));
        let before = rows.images.len();
        rows.images.retain(|digest, _| kept.contains(digest));
        collected.images = (before - rows.images.len()) as u64;
        rows.blobs = stay;
        let temp_files = self.temp_files()?;
        collected.temp_files = temp_files.len() as u64;
        if !dry_run {
            for path in paths.iter().chain(&temp_files) {
                files::remove(path)?;
            }
            index::replace(self, &rows)?;
        }
        Ok(collected)
    }

    /// Files that are being written, or that interrupted processes left behind.
    pub(super) fn temp_files(&self) -> Result<Vec<std::path::PathBuf>, StoreError> {
        let mut found = Vec::new();
        files::walk(&self.temp_dir(), &mut |path| {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".tmp-")) {
                found.push(path.to_owned());
            }
            Ok(())
        })?;
        Ok(found)
    }
}
