//! An OCI image layout directory: artefacts as files, for archives and machines without a network.
//!
//! The directory may come from anywhere. Files are opened one step at a time from its own descriptor, symbolic links in it are never
//! followed, and what is read counts only when its digest is right. What is written appears whole: blobs by renaming, the index last.

use super::reference::Version;
use super::spec::{IMAGE_INDEX, MAX_MANIFEST, REF_NAME, damaged};
use super::{RawManifest, Repository};
use crate::blob::{Arriving, Blob, BlobSink, Progress};
use crate::error::{ClientError, clean};
use crate::upload::Source;
use async_trait::async_trait;
use preheat_image::{Digest, DigestHasher};
use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MARK: &str = "oci-layout";
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs";
const SHA256: &str = "sha256";
/// The version of the layout, which is the text of the whole file but for white space.
const VERSION: &str = "1.0.0";
const MAX_MARK: usize = 4096;
const PIECE: usize = 128 * 1024;
/// Most bytes of the name of an image.
const MAX_NAME: usize = 256;

/// A layout directory.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
    root: Arc<OwnedFd>,
    blobs: Arc<OwnedFd>,
}

/// What an index of a layout names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutEntry {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type of that.
    pub media_type: String,
}

/// A file that exists only until it gets its name, or until something goes wrong.
struct Temporary<'l> {
    layout: &'l Layout,
    name: String,
    file: File,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Gone already when it was renamed.
        let _ = rustix::fs::unlinkat(&*self.layout.root, &self.name, AtFlags::empty());
    }
}

impl Layout {
    /// Opens a layout that is there.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        let layout =
            Self::directories(path, directory).map_err(|e| ClientError::Invalid(format!("{} is no OCI layout: {e}", path.display())))?;
        layout.check_mark()?;
        Ok(layout)
    }

    /// Opens a layout, or makes one where nothing or an empty directory is.
    ///
    /// # Errors
    /// When something else is there, or it can't be made.
    pub fn create(path: &Path) -> Result<Self, ClientError> {
        let local = |source| ClientError::Local { what: "make a layout directory", source };
        std::fs::create_dir_all(path).map_err(local)?;
        let others = || Ok::<_, io::Error>(std::fs::read_dir(path)?.next().is_some());
        if others().map_err(local)? {
            return Self::open(path);
        }
        let layout = Self::directories(path, |parent, name| match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => directory(parent, name),
            Err(e) => Err(e.into()),
        })
        .map_err(local)?;
        layout.write_index(&json!({"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": []})).map_err(local)?;
        // Last: only what has this file is a layout.
        layout.write(json!({"imageLayoutVersion": VERSION}).to_string().as_bytes(), &layout.root, MARK).map_err(local)?;
        Ok(layout)
    }

    fn directories(path: &Path, step: impl Fn(&OwnedFd, &str) -> io::Result<OwnedFd>) -> io::Result<Self> {
        let root = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let blobs = step(&step(&root, BLOBS)?, SHA256)?;
        Ok(Self { path: path.to_owned(), root: Arc::new(root), blobs: Arc::new(blobs) })
    }

    fn bad(&self, name: &str, what: impl Into<String>) -> ClientError {
        ClientError::BadAnswer { url: self.path.join(name).display().to_string(), what: what.into() }
    }

    fn check_mark(&self) -> Result<(), ClientError> {
        let bytes = self.small(&self.root, MARK, MAX_MARK)?;
        let mark: Value = serde_json::from_slice(&bytes).map_err(|e| self.bad(MARK, e.to_string()))?;
        match mark.get("imageLayoutVersion").and_then(Value::as_str) {
            Some(VERSION) => Ok(()),
            Some(other) => Err(self.bad(MARK, format!("a layout of version {}, only {VERSION} is read", clean(other)))),
            None => Err(self.bad(MARK, "no version of a layout")),
        }
    }

    /// What the layout holds, in the order of its index.
    ///
    /// # Errors
    /// When the index can't be read or makes no sense.
    pub fn entries(&self) -> Result<Vec<LayoutEntry>, ClientError> {
        self.index()?.1.iter().map(|entry| self.entry(entry)).collect()
    }

    fn entry(&self, entry: &Value) -> Result<LayoutEntry, ClientError> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let digest =
            text("digest").and_then(|text| text.parse().ok()).ok_or_else(|| self.bad(INDEX, "an entry without a digest of SHA-256"))?;
        let media_type = text("mediaType").ok_or_else(|| self.bad(INDEX, "an entry without media type"))?.to_owned();
        Ok(LayoutEntry { name: name_of(entry).map(str::to_owned), digest, media_type })
    }

    /// The whole index and, apart, its entries.
    fn index(&self) -> Result<(Map<String, Value>, Vec<Value>), ClientError> {
        let bytes = self.small(&self.root, INDEX, MAX_MANIFEST)?;
        let mut index: Map<String, Value> = serde_json::from_slice(&bytes).map_err(|e| self.bad(INDEX, e.to_string()))?;
        if index.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return Err(self.bad(INDEX, "not an index of schema version 2"));
        }
        match index.remove("manifests") {
            Some(Value::Array(entries)) if entries.iter().all(Value::is_object) => Ok((index, entries)),
            _ => Err(self.bad(INDEX, "no list of manifests in it")),
        }
    }

    /// A small file, whole.
    fn small(&self, directory: &OwnedFd, name: &str, max: usize) -> Result<Vec<u8>, ClientError> {
        let path = || self.path.join(name).display().to_string();
        let (file, size) = regular(directory, name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                ClientError::NotFound { url: path(), code: "not-there".into(), message: "the layout does not have it".into() }
            }
            _ => self.bad(name, e.to_string()),
        })?;
        if size > max as u64 {
            return Err(self.bad(name, format!("{size} bytes, at most {max} allowed")));
        }
        let mut bytes = Vec::new();
        file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(|source| ClientError::Local { what: "read a layout", source })?;
        if bytes.len() > max {
            return Err(self.bad(name, format!("more than {max} bytes")));
        }
        Ok(bytes)
    }

    /// Writes a file that nobody sees before it is whole.
    fn write(&self, bytes: &[u8], directory: &OwnedFd, name: &str) -> io::Result<()> {
        let mut temporary = self.temporary()?;
        temporary.file.write_all(bytes)?;
        temporary.publish(directory, name)
    }

    fn write_index(&self, index: &Value) -> io::Result<()> {
        self.write(index.to_string().as_bytes(), &self.root, INDEX)
    }

    fn temporary(&self) -> io::Result<Temporary<'_>> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!(".new-{}", random.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&*self.root, &name, flags, Mode::from_raw_mode(0o666))?;
        Ok(Temporary { layout: self, name, file: file.into() })
    }

    /// Reads `source` into a blob. The layout has it afterwards, whole, or has nothing of it.
    fn keep(&self, blob: &Blob, source: &Source) -> Result<(), ClientError> {
        let read = |source| ClientError::Local { what: "read what is to be exported", source };
        let wrote = |source| ClientError::Local { what: "write into a layout", source };
        let mut temporary = self.temporary().map_err(wrote)?;
        // One byte more than there should be, to notice when the source has grown.
        let mut from = source().map_err(read)?.take(blob.size.saturating_add(1));
        let (mut hasher, mut done, mut piece) = (DigestHasher::new(), 0u64, vec![0; PIECE]);
        loop {
            let count = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(read(e)),
            };
            hasher.update(&piece[..count]);
            done += count as u64;
            temporary.file.write_all(&piece[..count]).map_err(wrote)?;
        }
        let found = hasher.finalize();
        if done != blob.size || found != blob.digest {
            let what =
                format!("{} was to be exported with {} bytes, but its source has {found} with {done} or more", blob.digest, blob.size);
            return Err(read(io::Error::other(what)));
        }
        temporary.publish(&self.blobs, &blob.digest.hex()).map_err(wrote)
    }

    /// Whether a blob is there, whole. A damaged one counts as missing, so that it is written anew.
    fn holds(&self, blob: &Blob) -> Result<bool, ClientError> {
        match regular(&self.blobs, &blob.digest.hex()) {
            Ok((mut file, size)) if size == blob.size => {
                let mut hasher = DigestHasher::new();
                io::copy(&mut (&mut file).take(size + 1), &mut hasher)
                    .map_err(|source| ClientError::Local { what: "read a layout", source })?;
                Ok(hasher.finalize() == blob.digest)
            }
            Ok(_) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.bad(&format!("{BLOBS}/{SHA256}/{}", blob.digest.hex()), e.to_string())),
        }
    }

    /// Writes a manifest, then its entry in the index; an entry that had this name loses it, all else stays.
    fn add(&self, name: Option<&str>, media_type: &str, bytes: &[u8]) -> Result<(), ClientError> {
        let local = |source| ClientError::Local { what: "write into a layout", source };
        if let Some(name) = name.filter(|name| !is_name(name)) {
            return Err(ClientError::Invalid(format!("`{}` can't be a name in an OCI layout", clean(name))));
        }
        let digest = Digest::of(bytes);
        self.write(bytes, &self.blobs, &digest.hex()).map_err(local)?;
        // Another export into the same directory waits, so that none loses the other's entry.
        let (mark, _) = regular(&self.root, MARK).map_err(local)?;
        mark.lock().map_err(local)?;
        let (mut index, mut entries) = self.index()?;
        let same = |entry: &Value| entry.get("digest").and_then(Value::as_str) == Some(digest.to_string().as_str());
        entries.retain(|entry| !(same(entry) && (name_of(entry) == name || name_of(entry).is_none())));
        for entry in entries.iter_mut().filter(|entry| name.is_some() && name_of(entry) == name) {
            if let Some(annotations) = entry.get_mut("annotations").and_then(Value::as_object_mut) {
                annotations.remove(REF_NAME);
            }
        }
        let mut entry = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        if let Some(artifact_type) = artifact_type(bytes) {
            entry["artifactType"] = artifact_type.into();
        }
        if let Some(name) = name {
            entry["annotations"] = json!({REF_NAME: name});
        }
        entries.push(entry);
        index.insert("manifests".into(), entries.into());
        let index = Value::Object(index);
        if index.to_string().len() > MAX_MANIFEST {
            return Err(self.bad(INDEX, damaged("it has no room for another image".into()).to_string()));
        }
        self.write_index(&index).map_err(local)
    }
}

impl Temporary<'_> {
    /// Gives the file its name, once all of it is on the disk.
    fn publish(self, directory: &OwnedFd, name: &str) -> io::Result<()> {
        self.file.sync_all()?;
        rustix::fs::renameat(&*self.layout.root, &self.name, directory, name)?;
        rustix::fs::fsync(directory)?;
        Ok(())
    }
}

/// A directory in another one, which is no link to somewhere else.
fn directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| io::Error::other(format!("{name}: {}", io::Error::from(e))))
}

/// A regular file in a directory, with its size; no link, and nothing that blocks.
fn regular(directory: &OwnedFd, name: &str) -> io::Result<(File, u64)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(io::Error::other("a symbolic link, which is not followed")),
        Err(e) => return Err(e.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok((file, metadata.len()))
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

/// `artifactType` of a manifest, by which a reader of the index can tell what is in it.
fn artifact_type(manifest: &[u8]) -> Option<String> {
    serde_json::from_slice::<Value>(manifest).ok()?.get("artifactType")?.as_str().map(str::to_owned)
}

/// Letters and digits, with `-._:@/+` in between, as the layout's specification wants names.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_NAME
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:@/+".contains(b))
}

#[async_trait]
impl Repository for Layout {
    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    async fn manifest(&self, version: &Version) -> Result<RawManifest, ClientError> {
        let missing = |message: &str| ClientError::NotFound {
            url: format!("{}, {version}", self.shown()),
            code: "not-there".into(),
            message: message.to_owned(),
        };
        let (digest, media_type) = match version {
            Version::Digest(digest) => (*digest, None),
            Version::Tag(name) => {
                let (_, entries) = self.index()?;
                let mut named = entries.iter().filter(|entry| name_of(entry) == Some(name));
                match (named.next(), named.next()) {
                    (Some(entry), None) => self.entry(entry).map(|entry| (entry.digest, Some(entry.media_type)))?,
                    (None, _) => return Err(missing("the index names no such image")),
                    (Some(_), Some(_)) => return Err(self.bad(INDEX, format!("several images are called {}", clean(name)))),
                }
            }
        };
        let bytes = self.small(&self.blobs, &digest.hex(), MAX_MANIFEST)?;
        let found = Digest::of(&bytes);
        if found != digest {
            let url = self.path.join(BLOBS).join(SHA256).join(digest.hex()).display().to_string();
            return Err(ClientError::DigestMismatch { url, wanted: digest, found });
        }
        Ok(RawManifest { digest, media_type, bytes })
    }

    async fn has_blob(&self, blob: &Blob) -> Result<bool, ClientError> {
        let (layout, blob) = (self.clone(), *blob);
        blocking(move || layout.holds(&blob)).await
    }

    async fn get_blob(&self, blob: &Blob, sink: &mut dyn BlobSink, progress: &dyn Progress) -> Result<(), ClientError> {
        let name = blob.digest.hex();
        let url = self.path.join(BLOBS).join(SHA256).join(&name).display().to_string();
        let (mut file, size) = regular(&self.blobs, &name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                ClientError::NotFound { url: url.clone(), code: "not-there".into(), message: "the layout does not have it".into() }
            }
            _ => ClientError::BadAnswer { url: url.clone(), what: e.to_string() },
        })?;
        if size != blob.size {
            return Err(ClientError::BadAnswer { url, what: format!("{size} bytes instead of {}", blob.size) });
        }
        let mut arriving = Arriving::new(blob, sink, progress);
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => arriving.take(&url, &piece[..count])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ClientError::Local { what: "read a layout", source }),
            }
            tokio::task::yield_now().await;
        }
        let found = arriving.digest();
        if found != blob.digest {
            return Err(ClientError::DigestMismatch { url, wanted: blob.digest, found });
        }
        progress.finished(blob);
        Ok(())
    }

    async fn put_blob(&self, blob: &Blob, source: &Source, progress: &dyn Progress) -> Result<(), ClientError> {
        let (layout, kept, source) = (self.clone(), *blob, Arc::clone(source));
        blocking(move || layout.keep(&kept, &source)).await?;
        progress.moved(blob, blob.size);
        progress.finished(blob);
        Ok(())
    }

    async fn put_manifest(&self, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Result<(), ClientError> {
        let (layout, tag, media_type, bytes) = (self.clone(), tag.map(str::to_owned), media_type.to_owned(), bytes.to_vec());
        blocking(move || layout.add(tag.as_deref(), &media_type, &bytes)).await
    }
}

/// Work with files that takes long, on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ClientError> + Send + 'static) -> Result<T, ClientError> {
    let failed = |e| ClientError::Local { what: "work with a layout", source: io::Error::other(e) };
    tokio::task::spawn_blocking(work).await.map_err(failed).flatten()
}
