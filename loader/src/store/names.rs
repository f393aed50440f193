//! Names, pins, and the memory of which image a source file led to.

use super::files::Publish;
use super::{Store, files};
use crate::StoreError;
use preheat_image::statement::Kind;
use preheat_image::{Digest, DigestHasher, FormatError, Reference};
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A name and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedImage {
    /// The reference in its long form.
    pub name: String,
    /// The image.
    pub digest: Digest,
}

/// What tells an unchanged source file: device, inode, size, times. Taken from the open file before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFile {
    identity: [u64; 7],
    settled: bool,
}

impl SourceFile {
    /// Looks at an open file.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn of(file: &File) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let bits = |value: i64| u64::from_ne_bytes(value.to_ne_bytes());
        let identity = [
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            bits(metadata.mtime()),
            bits(metadata.mtime_nsec()),
            bits(metadata.ctime()),
            bits(metadata.ctime_nsec()),
        ];
        // A file that was written a moment ago may be written again within the same tick of the file system's clock.
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).unwrap_or(0);
        let changed = UNIX_EPOCH + Duration::new(u64::try_from(metadata.ctime()).unwrap_or(0), nanoseconds);
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > Duration::from_secs(2));
        Ok(Self { identity, settled })
    }

    fn key(&self, purpose: &Digest) -> Digest {
        let mut hasher = DigestHasher::new();
        hasher.update(b"preheat-memo-v1\0");
        for part in self.identity {
            hasher.update(&part.to_le_bytes());
        }
        hasher.update(purpose.as_bytes());
        hasher.finalize()
    }
}

impl Store {
    fn name_path(&self, reference: &Reference) -> Option<PathBuf> {
        match reference {
            Reference::Digest(_) => None,
            Reference::Name { host, namespace, name, tag, .. } => Some(self.root.join(["names", host, namespace, name, tag].join("/"))),
        }
    }

    pub(super) fn read_digest(path: &Path) -> Result<Option<Digest>, StoreError> {
        let Some(bytes) = files::read_small(path, 4096)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let digest = text.trim_end().parse().map_err(|error: preheat_image::InvalidDigest| StoreError::Format {
            path: path.to_owned(),
            source: FormatError::Damaged { format: "name", what: error.to_string() },
        })?;
        Ok(Some(digest))
    }

    /// The digest that a reference means.
    ///
    /// # Errors
    /// [`StoreError::UnknownName`], or [`StoreError::NameMoved`] when the reference has a digest and the name leads elsewhere.
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, StoreError> {
        let (Some(path), Some(name)) = (self.name_path(reference), reference.name()) else {
            return reference.digest().ok_or_else(|| StoreError::UnknownName(reference.to_string()));
        };
        let found = Self::read_digest(&path)?;
        match (found, reference.digest()) {
            (Some(found), Some(wanted)) if found != wanted => Err(StoreError::NameMoved { name, found, wanted }),
            (Some(found), _) => Ok(found),
            (None, _) => Err(StoreError::UnknownName(name)),
        }
    }

    /// Resolves what a person typed: a reference, or the first digits (at least six) of an image's digest.
    ///
    /// # Errors
    /// As [`Store::resolve`]; [`StoreError::Ambiguous`] when the digits fit several images.
    pub fn resolve_text(&self, text: &str) -> Result<Digest, StoreError> {
        let error = match text.parse::<Reference>() {
            Ok(reference) => match self.resolve(&reference) {
                Err(error @ StoreError::UnknownName(_)) => error,
                resolved => return resolved,
            },
            Err(error) => error.into(),
        };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if hex.len() < 6 || hex.len() > 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error);
        }
        let entries = self.digests_in("entries")?.into_iter().map(|(digest, _)| digest);
        let mut fitting = entries.filter(|digest| digest.hex().starts_with(hex) && self.is_image(digest));
        match (fitting.next(), fitting.next()) {
            (Some(digest), None) => Ok(digest),
            (Some(_), Some(_)) => Err(StoreError::Ambiguous(text.to_owned())),
            (None, _) => Err(error),
        }
    }

    /// Makes a name lead to the image `digest`, which must be there.
    ///
    /// # Errors
    /// When the image is not there, the reference is only a digest, or the store can't be written.
    pub fn tag(&self, reference: &Reference, digest: &Digest) -> Result<(), StoreError> {
        if let (Some(wanted), Some(name)) = (reference.digest(), reference.name())
            && wanted != *digest
        {
            return Err(StoreError::NameMoved { name, found: *digest, wanted });
        }
        let _lock = self.lock_shared()?;
        self.require_image(digest)?;
        let path = self.name_path(reference).ok_or_else(|| StoreError::UnknownName(reference.to_string()))?;
        self.write_file(&path, format!("{digest}\n").as_bytes(), Publish::Replacing)
    }

    /// Whether `digest` is an image, not another thing for which somebody signed.
    fn is_image(&self, digest: &Digest) -> bool {
        self.require_image(digest).is_ok()
    }

    fn require_image(&self, digest: &Digest) -> Result<(), StoreError> {
        let record = self.entry(digest)?.ok_or(StoreError::Missing(*digest))?;
        let is_image = record.statements.iter().any(|signed| signed.kind == Kind::Image);
        if is_image { Ok(()) } else { Err(StoreError::Missing(*digest)) }
    }

    /// Removes a name; the image stays until it is collected. Says whether the name was there.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn untag(&self, reference: &Reference) -> Result<bool, StoreError> {
        if reference.digest().is_some() {
            // What is removed must be what is meant.
            self.resolve(reference)?;
        }
        match self.name_path(reference) {
            Some(path) => files::remove(&path),
            None => Ok(false),
        }
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// When one can't be read.
    pub fn names(&self) -> Result<Vec<NamedImage>, StoreError> {
        let mut names = Vec::new();
        for (name, path) in self.name_files()? {
            if let Some(digest) = Self::read_digest(&path)? {
                names.push(NamedImage { name, digest });
            }
        }
        Ok(names)
    }

    /// All names with their files, sorted.
    pub(super) fn name_files(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let root = self.root.join("names");
        let mut names = Vec::new();
        files::walk(&root, &mut |path| {
            let parts: Option<Vec<&str>> = path.strip_prefix(&root).ok().map(|path| path.iter().filter_map(|part| part.to_str()).collect());
            if let Some([host, namespace, name, tag]) = parts.as_deref() {
                names.push((format!("{host}/{namespace}/{name}:{tag}"), path.to_owned()));
            }
            Ok(())
        })?;
        names.sort();
        Ok(names)
    }

    /// Protects an image, which must be there, from eviction and collection, or lets it go.
    ///
    /// # Errors
    /// When the image is not there, or the store can't be written.
    pub fn pin(&self, digest: &Digest, pinned: bool) -> Result<(), StoreError> {
        let path = self.root.join("pins").join(digest.hex());
        if !pinned {
            return files::remove(&path).map(drop);
        }
        let _lock = self.lock_shared()?;
        self.require_image(digest)?;
        self.write_file(&path, b"", Publish::Replacing)
    }

    /// The pinned images.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn pins(&self) -> Result<Vec<Digest>, StoreError> {
        Ok(self.digests_in("pins")?.into_iter().map(|(digest, _)| digest).collect())
    }

    /// The image to which `source` led when it was last built for `purpose`.
    #[must_use]
    pub fn recall(&self, source: &SourceFile, purpose: &Digest) -> Option<Digest> {
        // A memory that can't be read is one that isn't there.
        Self::read_digest(&self.root.join("memo").join(source.key(purpose).hex())).ok().flatten()
    }

    /// Remembers the image to which `source` led. A file that was changed within the last two seconds is not remembered.
    ///
    /// # Errors
    /// When the store can't be written.
    pub fn remember(&self, source: &SourceFile, purpose: &Digest, image: &Digest) -> Result<(), StoreError> {
        if !source.settled {
            return Ok(());
        }
        let _lock = self.lock_shared()?;
        let path = self.root.join("memo").join(source.key(purpose).hex());
        self.write_file(&path, format!("{image}\n").as_bytes(), Publish::Replacing)
    }
}
