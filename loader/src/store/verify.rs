//! Looking at every byte of a store: is each blob what its name says, is each record true, does each name lead somewhere?

use super::brief::Found;
use super::index::{self, Rows};
use super::{Store, files};
use crate::{StoreError, TrustPolicy};
use preheat_image::chunks::ChunkList;
use preheat_image::manifest::Descriptor;
use preheat_image::record::{Record, Signed};
use preheat_image::statement::{Envelope, Kind, StatementError};
use preheat_image::{Digest, DigestHasher, Manifest};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
    /// What was done about it, if anything was.
    pub repaired: Option<&'static str>,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs that were hashed.
    pub blobs: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Records that were checked.
    pub records: u64,
    /// Statements whose signature was verified again.
    pub signatures: u64,
    /// Statements by keys that the policy does not know; their signatures can't be verified here.
    pub unknown_signers: u64,
    /// Names that were followed.
    pub names: u64,
    /// Files that interrupted processes left behind; no problem, `gc` removes them.
    pub temp_files: u64,
    /// Whether the index had to be made anew.
    pub index_rebuilt: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

impl Store {
    /// Hashes every blob, checks every record and follows every name. With `repair`, damaged blobs are put aside into `quarantine/`, and
    /// records and names that lead to nothing are removed. `progress` is told how many bytes of how many are done.
    ///
    /// # Errors
    /// When the store can't be read, or with `repair` not written. What is found is no error but in the report.
    pub fn verify(&self, policy: &TrustPolicy, repair: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport, StoreError> {
        let _lock = if repair { Some(self.lock_exclusive()?) } else { self.lock_shared().ok() };
        let mut report = VerifyReport::default();
        let rows = Rows::scan(self)?;
        let total = rows.blobs.values().sum();
        for (digest, size) in &rows.blobs {
            self.verify_blob(digest, &rows, repair, &mut report)?;
            report.blobs += 1;
            report.bytes += size;
            progress(report.bytes, total);
        }
        // Each statement is in two records at least, but counts once.
        let mut seen = BTreeSet::new();
        for (dir, is_entry) in [("entries", true), ("keys", false)] {
            for (subject, path) in self.digests_in(dir)? {
                report.records += 1;
                let record = if is_entry { self.entry(&subject) } else { self.built(&subject) };
                let problem = match record {
                    Ok(Some(record)) => self.check_record(&record, is_entry, policy, &mut seen, &mut report),
                    Ok(None) => None,
                    Err(error) => Some(error.to_string()),
                };
                if let Some(what) = problem {
                    let repaired = if repair { files::remove(&path)?.then_some("record removed") } else { None };
                    report.problems.push(Problem { path, what, repaired });
                }
            }
        }
        for (image, path) in self.digests_in("briefs")? {
            let what = match self.check_brief(&image) {
                Ok(Found::Wrong(what)) => what,
                Ok(Found::Nothing | Found::Good) => continue,
                Err(error) => error.to_string(),
            };
            let repaired = if repair { files::remove(&path)?.then_some("brief removed") } else { None };
            report.problems.push(Problem { path, what, repaired });
        }
        for (name, path) in self.name_files()? {
            report.names += 1;
            let what = match Self::read_digest(&path) {
                Ok(Some(digest)) if self.entry(&digest).ok().flatten().is_none() => {
                    format!("name `{name}` leads to {digest}, which is not there")
                }
                Err(error) => error.to_string(),
                Ok(_) => continue,
            };
            let repaired = if repair { files::remove(&path)?.then_some("name removed") } else { None };
            report.problems.push(Problem { path, what, repaired });
        }
        report.temp_files = self.temp_files()?.len() as u64;
        self.verify_index(repair, &mut report)?;
        Ok(report)
    }

    fn verify_blob(&self, digest: &Digest, rows: &Rows, repair: bool, report: &mut VerifyReport) -> Result<(), StoreError> {
        let path = self.blob_path(digest);
        match hash_file(&path) {
            Ok(Some(found)) if found != *digest => {
                let what = format!("blob has digest {found}{}", self.where_damaged(digest, rows));
                let mut repaired = None;
                if repair {
                    let aside = self.root.join("quarantine").join(digest.hex());
                    files::make_dir(&self.root.join("quarantine"))?;
                    std::fs::rename(&path, &aside).map_err(StoreError::io("put aside", &path))?;
                    repaired = Some("put into quarantine/");
                }
                report.problems.push(Problem { path, what, repaired });
            }
            // Gone since it was listed: somebody collected it.
            Ok(_) => {}
            Err(error) => report.problems.push(Problem { path, what: format!("can't be read: {error}"), repaired: None }),
        }
        Ok(())
    }

    /// With a chunk list, which bytes differ.
    fn where_damaged(&self, digest: &Digest, rows: &Rows) -> String {
        let read = |digest: &Digest| self.read_blob(digest, 64 << 20).ok();
        let lists = rows.images.keys().filter_map(|image| Manifest::parse(&read(image)?).ok()).find_map(|manifest| {
            manifest.artefacts.into_iter().find(|artefact| artefact.digest == *digest).and_then(|artefact| artefact.chunks)
        });
        let Some(list) = lists.and_then(|chunks| read(&chunks.digest)) else { return String::new() };
        let (Ok(list), Ok(blob)) = (ChunkList::parse(&list), std::fs::read(self.blob_path(digest))) else { return String::new() };
        let damaged = list.damaged(&blob);
        damaged.first().map_or_else(String::new, |first| {
            format!("; {} of {} chunks are damaged, the first at bytes {} to {}", damaged.len(), list.len(), first.start, first.end)
        })
    }

    fn check_record(
        &self,
        record: &Record,
        is_entry: bool,
        policy: &TrustPolicy,
        seen: &mut BTreeSet<Digest>,
        report: &mut VerifyReport,
    ) -> Option<String> {
        for signed in &record.statements {
            let envelope = match self.read_blob(&signed.statement, preheat_image::statement::MAX_SIZE) {
                Ok(bytes) => match Envelope::parse(&bytes) {
                    Ok(envelope) => envelope,
                    Err(error) => return Some(error.to_string()),
                },
                Err(error) => return Some(format!("its statement: {error}")),
            };
            match envelope.verify(policy.builders.iter().map(|builder| &builder.key)) {
                Ok(_) => report.signatures += u64::from(seen.insert(signed.statement)),
                Err(StatementError::UnknownSigner(_)) => report.unknown_signers += u64::from(seen.insert(signed.statement)),
                Err(error) => return Some(error.to_string()),
            }
            let truth = Signed::new(envelope.unverified(), envelope.signer(), signed.statement);
            if truth != *signed {
                return Some(format!("it says other things than its statement {}", signed.statement));
            }
            if is_entry && !signed.covers(&record.subject) || !is_entry && signed.key != record.subject {
                return Some("its statement is about something else".into());
            }
            let left_out = self.left_out(record, is_entry, signed);
            let is_wrong = |blob: &Descriptor| match self.blob_size(&blob.digest) {
                None => !left_out.contains(&blob.digest),
                Some(size) => size != blob.size,
            };
            if let Some(output) = signed.outputs.iter().find(|output| is_wrong(output)) {
                return Some(format!("{} is missing or has another size", output.digest));
            }
            // An image also has blobs for which its statement need not vouch.
            if let Some(manifest) = signed.outputs.first().filter(|_| signed.kind == Kind::Image) {
                let manifest = match self.read_blob(&manifest.digest, preheat_image::manifest::MAX_SIZE) {
                    Ok(bytes) => Manifest::parse(&bytes),
                    Err(error) => return Some(error.to_string()),
                };
                let mut blobs = match &manifest {
                    Ok(manifest) => manifest.blobs(),
                    Err(error) => return Some(error.to_string()),
                };
                if let Some(blob) = blobs.find(|blob| is_wrong(blob)) {
                    return Some(format!("{}, a part of the image, is missing or has another size", blob.digest));
                }
            }
        }
        None
    }

    /// What the image of a statement may lack: code that was left out when it was pulled, and nothing else.
    fn left_out(&self, record: &Record, is_entry: bool, signed: &Signed) -> BTreeSet<Digest> {
        let Some(image) = signed.outputs.first().filter(|_| signed.kind == Kind::Image) else { return BTreeSet::new() };
        let entry = if is_entry { None } else { self.entry(&image.digest).ok().flatten() };
        let left_out = &entry.as_ref().unwrap_or(record).left_out;
        if left_out.is_empty() {
            return BTreeSet::new();
        }
        let manifest = self.read_blob(&image.digest, preheat_image::manifest::MAX_SIZE).ok().and_then(|bytes| Manifest::parse(&bytes).ok());
        let code = manifest.map(|manifest| manifest.code_blobs(|_, _| true)).unwrap_or_default();
        left_out.intersection(&code).copied().collect()
    }

    fn verify_index(&self, repair: bool, report: &mut VerifyReport) -> Result<(), StoreError> {
        report.index_rebuilt = match index::reconcile(self) {
            Ok(rebuilt) => rebuilt,
            Err(error) if repair => return Err(error),
            // A store that can't be written: readers ask the files.
            Err(_) => false,
        };
        Ok(())
    }
}

/// Hashes a file in pieces; `None` when it is not there.
pub(crate) fn hash_file(path: &std::path::Path) -> std::io::Result<Option<Digest>> {
    match File::open(path) {
        Ok(file) => hash_open_file(&file).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Hashes an open file from its current position on.
pub(crate) fn hash_open_file(mut file: &File) -> std::io::Result<Digest> {
    let mut hasher = DigestHasher::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(len) => hasher.update(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
