//! Loading: from a digest and a policy to files that may be mapped.

use crate::StoreError;
use crate::store::{Store, seal_of, verify_file};
use crate::trust::{Refusal, TrustPolicy};
use preheat_image::keys::PublicKey;
use preheat_image::manifest::{Artefact, Variant};
use preheat_image::record::{Record, Signed};
use preheat_image::statement::Kind;
use preheat_image::{CpuLevel, Digest, Manifest};
use std::fs::{File, Metadata};
use std::io::Seek as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How careful to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Hash every blob again, even one whose file has not been written since it was last hashed. Finds what a disk has damaged.
    pub rehash: bool,
}

/// An image that a statement vouches for which the policy accepts.
#[derive(Debug, Clone)]
pub struct TrustedImage {
    store: Store,
    digest: Digest,
    manifest: Manifest,
    record: Record,
    statement: usize,
    options: LoadOptions,
}

/// A blob, open, whose contents are those of its digest. The descriptor is the one through which the file was checked: a file put in its
/// place afterwards is another file.
#[derive(Debug)]
pub struct TrustedFile {
    file: File,
    path: PathBuf,
    artefact: Artefact,
}

/// A code object of the engine that was asked for: a blob that a statement covers which the policy accepts.
///
/// There is no safe way to make one but [`TrustedImage::code`]; an engine that maps one executable relies on that.
#[derive(Debug)]
pub struct TrustedCode {
    file: TrustedFile,
    engine: String,
}

impl Store {
    /// Loads the image `digest` if `policy` accepts a statement about it.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Damaged`], [`StoreError::Refused`], or what the operating system says.
    pub fn load(&self, digest: &Digest, policy: &TrustPolicy, options: LoadOptions) -> Result<TrustedImage, StoreError> {
        let refused = |refusal| StoreError::Refused { digest: *digest, refusal };
        let judge = |record: &Record, keys: &[Option<PublicKey>]| {
            policy.choose_known(record, keys, Kind::Image, crate::trust::now()).map_err(refused)
        };
        // Who wants everything hashed again wants the manifest hashed.
        let brief = if options.rehash { None } else { self.brief(digest) };
        let (record, statement, manifest, entry) = match brief {
            Some((brief, entry)) => {
                let statement = judge(&brief.record, &brief.keys)?;
                (brief.record, statement, brief.manifest, Some(entry))
            }
            None => {
                let record = self.entry(digest)?.ok_or(StoreError::Missing(*digest))?;
                // Before the manifest is read: what nobody vouches for as an image need not be one.
                let statement = judge(&record, &[])?;
                let (manifest, seal) = self.sealed_manifest(digest)?.ok_or(StoreError::Missing(*digest))?;
                if record.seals.get(digest) != Some(&seal) {
                    // As in `open`.
                    let _ = self.reseal(digest, *digest, seal);
                }
                (record, statement, manifest, None)
            }
        };
        // The statement need not name all that the image consists of.
        if let Some(part) = manifest.digests().find(|part| policy.revokes_blob(part)) {
            return Err(refused(Refusal::RevokedBlob(part)));
        }
        let touched = self.touch(digest, entry.as_ref());
        if (entry.is_none() && !options.rehash) || touched {
            // Without a brief the next load reads the files as this one did: slower, not wrong.
            let _ = self.write_brief(digest, |id| policy.key(id).cloned());
        }
        Ok(TrustedImage { store: self.clone(), digest: *digest, manifest, record, statement, options })
    }

    /// Notes that an image was used: the time of its entry's file, at most once an hour. Says whether it did. `entry` is what is known of the
    /// file.
    fn touch(&self, image: &Digest, entry: Option<&Metadata>) -> bool {
        let path = self.entry_path(image);
        let now = SystemTime::now();
        let recent = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age < Duration::from_secs(3600));
        let known = match entry {
            Some(entry) => entry.modified(),
            None => std::fs::metadata(&path).and_then(|metadata| metadata.modified()),
        };
        // A store that can't be written keeps no times.
        !known.is_ok_and(recent) && File::open(&path).and_then(|file| file.set_modified(now)).is_ok()
    }
}

impl TrustedImage {
    /// The image's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The statement that the policy accepted.
    #[must_use]
    pub fn statement(&self) -> &Signed {
        &self.record.statements[self.statement]
    }

    /// Whether `policy` still accepts the image at `now`, in seconds since 1970, with `code`, the digest of a code object of it that is in
    /// use. A statement that entered the store after the image was loaded counts as well.
    ///
    /// # Errors
    /// Why not.
    pub fn check_at(&self, policy: &TrustPolicy, code: Option<&Digest>, now: u64) -> Result<(), Refusal> {
        if let Some(part) = self.manifest.blobs().find(|part| policy.revokes_blob(&part.digest)) {
            return Err(Refusal::RevokedBlob(part.digest));
        }
        let check = |record: &Record| {
            let mut refusal = Refusal::NoStatement;
            for signed in record.statements.iter().filter(|signed| signed.kind == Kind::Image && signed.covers(&self.digest)) {
                match policy.judge_at(signed, now) {
                    Ok(()) => match code.filter(|code| !signed.covers(code)) {
                        None => return Ok(()),
                        Some(code) => refusal = Refusal::NotCovered(*code),
                    },
                    Err(why) => refusal = why,
                }
            }
            Err(refusal)
        };
        let Err(refusal) = check(&self.record) else { return Ok(()) };
        match self.store.entry(&self.digest) {
            Ok(Some(record)) if record.statements != self.record.statements => check(&record),
            _ => Err(refusal),
        }
    }

    /// Opens the code object of `engine` that is best for a host of `target` and `level`, of those that were not left out when the image was
    /// pulled.
    ///
    /// # Errors
    /// [`StoreError::NoVariant`] when the host can run none that is there, [`StoreError::Refused`] when the statement does not cover it,
    /// [`StoreError::Damaged`] when its file is not what it was.
    pub fn code(&self, engine: &str, target: &str, level: CpuLevel) -> Result<TrustedCode, StoreError> {
        let there = |artefact: &Artefact| {
            !self.record.left_out.contains(&artefact.digest) || self.store.blob_size(&artefact.digest) == Some(artefact.size)
        };
        let Some((artefact, variant)) = self.manifest.best_code_of(engine, target, level, there) else {
            let shown = |(artefact, variant): (&Artefact, &Variant)| {
                let absent = if there(artefact) { "" } else { " (not pulled)" };
                format!("{} {} {}{absent}", variant.engine, variant.target, variant.cpu)
            };
            let variants: Vec<String> = self.manifest.code().map(shown).collect();
            return Err(StoreError::NoVariant {
                host: format!("{engine} {target} {level}"),
                host_level: level.name().trim_start_matches("x86-64-").to_owned(),
                available: if variants.is_empty() { "nothing".into() } else { variants.join(", ") },
            });
        };
        if !self.statement().covers(&artefact.digest) {
            return Err(StoreError::Refused { digest: self.digest, refusal: Refusal::NotCovered(artefact.digest) });
        }
        Ok(TrustedCode::new(self.open(artefact)?, variant.engine.clone()))
    }

    /// Opens the resume object through which a frozen program wakes that runs `code`, a code object of this image.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the image has none for it, else as [`TrustedImage::code`].
    pub fn resume(&self, code: &TrustedCode) -> Result<TrustedCode, StoreError> {
        let missing = StoreError::Missing(code.file.artefact.digest);
        let variant = code.file.artefact.variant.as_ref();
        let artefact = variant.and_then(|variant| self.manifest.resume_for(variant)).ok_or(missing)?;
        if !self.statement().covers(&artefact.digest) {
            return Err(StoreError::Refused { digest: self.digest, refusal: Refusal::NotCovered(artefact.digest) });
        }
        Ok(TrustedCode::new(self.open(artefact)?, code.engine.clone()))
    }

    /// Opens an artefact that is not code.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when the manifest does not name it, [`StoreError::Refused`] when it is code,
    /// [`StoreError::Damaged`] when its file is not what it was.
    pub fn artefact(&self, digest: &Digest) -> Result<TrustedFile, StoreError> {
        let artefact = self.manifest.artefacts.iter().find(|artefact| artefact.digest == *digest).ok_or(StoreError::Missing(*digest))?;
        if artefact.is_code() {
            return Err(StoreError::Refused { digest: self.digest, refusal: Refusal::NotCovered(*digest) });
        }
        self.open(artefact)
    }

    fn open(&self, artefact: &Artefact) -> Result<TrustedFile, StoreError> {
        let digest = artefact.digest;
        let path = self.store.blob_path(&digest);
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StoreError::Missing(digest),
            _ => StoreError::io("open", &path)(error),
        })?;
        let metadata = file.metadata().map_err(StoreError::io("look at", &path))?;
        let damaged = |what: String| StoreError::Damaged { digest, path: path.clone(), what };
        if metadata.len() != artefact.size {
            return Err(damaged(format!("it has {} bytes, not {}", metadata.len(), artefact.size)));
        }
        let seal = seal_of(&metadata);
        let known = self.record.seals.get(&digest);
        if self.options.rehash || known != Some(&seal) {
            let found = verify_file(&file).map_err(StoreError::io("read", &path))?;
            if found != digest {
                return Err(damaged(format!("its bytes have digest {found}")));
            }
            file.rewind().map_err(StoreError::io("rewind", &path))?;
            if known != Some(&seal) {
                // Without the seal the next load hashes again: slower, not wrong.
                let _ = self.store.reseal(&self.digest, digest, seal);
            }
        }
        Ok(TrustedFile::new(file, path, artefact.clone()))
    }
}

impl TrustedCode {
    pub(crate) fn new(file: TrustedFile, engine: String) -> Self {
        Self { file, engine }
    }

    /// The engine that made it and runs it.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// The blob.
    #[must_use]
    pub fn file(&self) -> &TrustedFile {
        &self.file
    }

    /// The same once more, for another engine of this process. The policy is not asked again.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn try_clone(&self) -> Result<Self, StoreError> {
        let TrustedFile { file, path, artefact } = &self.file;
        let file = file.try_clone().map_err(StoreError::io("keep open", path))?;
        Ok(Self::new(TrustedFile::new(file, path.clone(), artefact.clone()), self.engine.clone()))
    }

    /// Gives the open file away.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file.into_file()
    }
}

impl TrustedFile {
    pub(crate) fn new(file: File, path: PathBuf, artefact: Artefact) -> Self {
        Self { file, path, artefact }
    }

    /// The open file, at its beginning.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the open file away.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }

    /// Where the store keeps it; only for messages, since another file may be there by now.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the manifest says about it.
    #[must_use]
    pub fn artefact(&self) -> &Artefact {
        &self.artefact
    }
}
