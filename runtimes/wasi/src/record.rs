//! What a program learned before it was frozen, which is in its memory ever after.

use crate::digest::{self, FileDigest};
use crate::grants::{Grants, guest_path};
use crate::interrupt::Interrupt;
use crate::reopen;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The version of the format.
const VERSION: u32 = 1;

/// Everything that a program learned from outside while a [`Recording`](crate::Recording) watched it. `docs/image-format.md` specifies its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// The version of the format: 1.
    pub version: u32,
    /// Whether it asked for its arguments.
    pub arguments: bool,
    /// The names of the variables that it was offered when it asked for its environment, which it can only have as a whole, in order of
    /// their bytes; none if it never asked.
    pub environment: Option<BTreeSet<String>>,
    /// How often it read a clock.
    pub clocks: ClockReads,
    /// How many random bytes it drew.
    pub random_bytes: u64,
    /// How often it read the file `env` of the wake directory, which is empty as long as a program is being recorded.
    pub late_env_reads: u64,
    /// The preopened directories whose names it asked for.
    pub preopens: BTreeSet<String>,
    /// The files of which it read at least one byte or the end, in the order of preopened directory and path.
    pub files: Vec<FileRead>,
    /// The directories that it listed, by the guest's paths.
    pub listed: BTreeSet<String>,
    /// The paths that it opened or asked for attributes or links, whether or not there was something.
    pub looked_at: BTreeSet<String>,
}

/// How often each clock was read. Waiting until a moment reads, waiting for a time does not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClockReads {
    /// The time since 1970.
    pub realtime: u64,
    /// The time since the program began.
    pub monotonic: u64,
    /// The resolution of either.
    pub resolution: u64,
    /// How often it waited for time to pass.
    pub sleeps: u64,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileRead {
    /// The guest's name of the preopened directory.
    pub preopen: String,
    /// The path from there as the guest gave it.
    pub path: String,
    /// The digest of the whole file, however little was read.
    pub digest: FileDigest,
    /// The size of the whole file in bytes.
    pub size: u64,
}

impl FileRead {
    /// The path by which the guest would name it.
    #[must_use]
    pub fn guest_path(&self) -> String {
        guest_path(&self.preopen, &self.path)
    }
}

/// A file that is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum Stale {
    /// It can't be opened, or read.
    #[error("`{path}`, which was read before, can't be read now")]
    Unreadable {
        /// The guest's path.
        path: String,
        /// Why.
        #[source]
        why: std::io::Error,
    },
    /// There is no such preopened directory.
    #[error("`{path}`, which was read before, is in a directory that is not granted now")]
    NotGranted {
        /// The guest's path.
        path: String,
    },
    /// Its contents differ.
    #[error("`{path}` has changed: it was {expected} and is {found}")]
    Changed {
        /// The guest's path.
        path: String,
        /// The digest that it had.
        expected: FileDigest,
        /// The digest that it has.
        found: FileDigest,
    },
}

impl Default for Record {
    fn default() -> Self {
        Self {
            version: VERSION,
            arguments: false,
            environment: None,
            clocks: ClockReads::default(),
            random_bytes: 0,
            late_env_reads: 0,
            preopens: BTreeSet::new(),
            files: Vec::new(),
            listed: BTreeSet::new(),
            looked_at: BTreeSet::new(),
        }
    }
}

impl Record {
    /// As compact JSON; the same record has the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers, text and lists: nothing that JSON can't say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a record.
    ///
    /// # Errors
    ///
    /// If it is longer than [`HostState::MAX_SIZE`](crate::HostState::MAX_SIZE), no record, or of another version.
    pub fn parse(bytes: &[u8]) -> Result<Self, crate::FormatError> {
        crate::host_state::parse_json("freeze record", VERSION, bytes, |record: &Self| record.version)
    }

    /// Whether the files that were read are the same now, below directories of the same guest names. Stops at the first that is not.
    ///
    /// # Errors
    ///
    /// If one differs or can't be read.
    pub fn check_files(&self, grants: &Grants) -> Result<(), Stale> {
        for file in &self.files {
            let path = || file.guest_path();
            let preopen = grants.preopens.iter().find(|preopen| preopen.name == file.preopen);
            let directory = &preopen.ok_or_else(|| Stale::NotGranted { path: path() })?.directory;
            let unreadable = |why| Stale::Unreadable { path: path(), why };
            let access = crate::Access { read: true, write: false, follow: true };
            let opened = reopen::file(directory, &file.path, access).map_err(unreadable)?;
            // Nothing interrupts it.
            let hashed = digest::of_file(&opened, &Interrupt::never()).unwrap_or_else(|_| Err(std::io::ErrorKind::Interrupted.into()));
            let (found, _) = hashed.map_err(unreadable)?;
            if found != file.digest {
                return Err(Stale::Changed { path: path(), expected: file.digest, found });
            }
        }
        Ok(())
    }
}
