//! Freezing: what the host keeps for a guest becomes a [`HostState`], or there is a reason why it can't.

use crate::abi::types::Filetype;
use crate::context::Context;
use crate::descriptor::{Access, Contents, Directory, OpenFile, Origin, Place, Slot};
use crate::digest::{self, FileDigest};
use crate::error::{Failure, Stop};
use crate::host_state::{FrozenDescriptor, FrozenPreopen, HostState};
use crate::reopen;
use std::fmt;
use std::os::fd::AsFd;

/// Why a program can't be frozen, and what can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FreezeRefusal {
    /// The descriptor, where it is about one.
    pub fd: Option<u32>,
    /// The path as the guest would give it, where it is about one and known.
    pub path: Option<String>,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with something that shall be frozen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The context has another host.
    #[error("nobody recorded what the program did; run it in a context whose host is a `Recording`")]
    NotRecorded,
    /// Something was created, written or removed.
    #[error(
        "it was written, created, changed or removed before the freeze, which waking can't do again; do it after the event is read, or grant the directory read-only while building"
    )]
    Written,
    /// It has another name by now, or none.
    #[error("it was deleted, moved or replaced while the program had it open, so it can't be opened again; leave it alone while building")]
    Gone,
    /// It has other contents by now.
    #[error("its contents changed while the program was being recorded; leave it alone while building")]
    Altered,
    /// The path was too long to be kept.
    #[error("its path is too long to be opened again by it; use a shorter one, or grant a directory nearer to it")]
    PathTooLong,
    /// It is no file of a disk.
    #[error("it is a device, a pipe or the like, whose contents can't be had again; close it and do not read it before the freeze")]
    Special,
    /// It can't be hashed.
    #[error("its contents can't be read to be checked at wake-up: {0}")]
    Unreadable(String),
    /// Too much was written to the standard streams.
    #[error("it wrote more than {max} bytes of output before the freeze, which each wake-up would repeat; print less, or raise the limit")]
    Output {
        /// The limit in bytes.
        max: usize,
    },
    /// Too many paths were looked at.
    #[error("it looked at so many paths before the freeze that their names have more than {max} bytes; freeze earlier, or grant less")]
    Record {
        /// The limit in bytes.
        max: usize,
    },
    /// The embedder's interrupt ended the work.
    #[error("interrupted")]
    Interrupted,
}

impl fmt::Display for FreezeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.fd, &self.path) {
            (Some(fd), Some(path)) => write!(f, "descriptor {fd}, `{path}`: ")?,
            (Some(fd), None) => write!(f, "descriptor {fd}: ")?,
            (None, Some(path)) => write!(f, "`{path}`: ")?,
            (None, None) => {}
        }
        self.cause.fmt(f)
    }
}

impl std::error::Error for FreezeRefusal {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.cause)
    }
}

impl From<Cause> for FreezeRefusal {
    fn from(cause: Cause) -> Self {
        Self { fd: None, path: None, cause }
    }
}

impl Context {
    /// What must be kept for the guest so that it can go on in another context, on another machine: see
    /// [`Context::wake`](Self::wake). The context's host must be a [`Recording`](crate::Recording).
    ///
    /// # Errors
    ///
    /// If something can't be made again when the guest wakes up: what was written, what is not where it was opened any more, what is no file.
    pub fn host_state(&self) -> Result<HostState, FreezeRefusal> {
        let recording = self.recording.as_ref().ok_or(Cause::NotRecorded)?;
        if let Some(refusal) = recording.refusal() {
            return Err(refusal);
        }
        let freeze = |(fd, slot): (u32, &Option<Slot>)| self.freeze_slot(fd, slot.as_ref());
        let descriptors = self.descriptors.slots().map(|slots| (0..).zip(slots).map(freeze).collect()).transpose()?;
        let preopens = self.grants.preopens.iter();
        Ok(HostState {
            version: HostState::VERSION,
            arguments: self.grants.args.clone(),
            environment: self.grants.early_env().cloned().collect(),
            environment_read: self.environment_read,
            late: self.grants.late.clone(),
            preopens: preopens.map(|preopen| FrozenPreopen { name: preopen.name.clone(), wake: preopen.is_wake_directory() }).collect(),
            descriptors,
            monotonic: self.monotonic_at(recording.elapsed()),
            realtime: recording.now(),
            next_number: recording.next_number(),
            output: recording.output(),
        })
    }

    fn freeze_slot(&self, fd: u32, slot: Option<&Slot>) -> Result<FrozenDescriptor, FreezeRefusal> {
        Ok(match slot {
            None => FrozenDescriptor::Closed {},
            Some(Slot::Stdin) => FrozenDescriptor::Stdin {},
            Some(Slot::Stdout) => FrozenDescriptor::Stdout {},
            Some(Slot::Stderr) => FrozenDescriptor::Stderr {},
            Some(Slot::Preopen(preopen)) => FrozenDescriptor::Preopen { preopen: *preopen },
            Some(Slot::Directory(directory)) => {
                let Directory { place, access, origin, .. } = &**directory;
                let origin = self.origin(fd, origin.as_ref())?;
                if let Place::Host(dir) = place {
                    self.same(fd, origin, *access, dir)?;
                }
                FrozenDescriptor::Directory { preopen: origin.preopen, path: origin.path.clone(), access: (*access).into() }
            }
            Some(Slot::File(file)) => {
                let OpenFile { contents, filetype, access, append, nonblock, position, read, origin, .. } = &**file;
                let origin = self.origin(fd, origin.as_ref())?;
                let mut digest = None;
                if let Contents::Host(file) = contents {
                    if *filetype != Filetype::RegularFile {
                        return Err(self.refusal(fd, origin, Cause::Special));
                    }
                    self.same(fd, origin, *access, file)?;
                    if *read {
                        digest = Some(self.unaltered(fd, origin, file)?);
                    }
                }
                FrozenDescriptor::File {
                    preopen: origin.preopen,
                    path: origin.path.clone(),
                    access: (*access).into(),
                    append: *append,
                    nonblock: *nonblock,
                    position: *position,
                    digest,
                }
            }
        })
    }

    fn refusal(&self, fd: u32, origin: &Origin, cause: Cause) -> FreezeRefusal {
        FreezeRefusal { fd: Some(fd), path: Some(self.grants.guest_path(origin)), cause }
    }

    fn origin<'a>(&self, fd: u32, origin: Option<&'a Origin>) -> Result<&'a Origin, FreezeRefusal> {
        origin.ok_or(FreezeRefusal { fd: Some(fd), path: None, cause: Cause::PathTooLong })
    }

    /// Whether the path still leads to what is open.
    fn same(&self, fd: u32, origin: &Origin, access: Access, open: &impl AsFd) -> Result<(), FreezeRefusal> {
        let identity = |open: &dyn Fn() -> std::io::Result<rustix::fs::Stat>| open().map(|stat| (stat.st_dev, stat.st_ino));
        let there = identity(&|| {
            let preopen = self.grants.preopens.get(origin.preopen).ok_or(std::io::ErrorKind::NotFound)?;
            Ok(rustix::fs::fstat(reopen::place(&preopen.directory, &origin.path, access.follow)?)?)
        });
        match (there, identity(&|| Ok(rustix::fs::fstat(open)?))) {
            (Ok(there), Ok(here)) if there == here => Ok(()),
            _ => Err(self.refusal(fd, origin, Cause::Gone)),
        }
    }

    /// The digest of an open file, which must be what it was when the guest began to read it.
    fn unaltered(&self, fd: u32, origin: &Origin, file: &std::fs::File) -> Result<FileDigest, FreezeRefusal> {
        let refusal = |cause| self.refusal(fd, origin, cause);
        let (digest, size) = match digest::of_file(file, &self.interrupt) {
            Ok(hashed) => hashed.map_err(|error| refusal(Cause::Unreadable(error.to_string())))?,
            Err(Failure::Stop(Stop::Interrupted)) => return Err(refusal(Cause::Interrupted)),
            Err(_) => return Err(refusal(Cause::Unreadable("it is too large".to_owned()))),
        };
        let preopen = self.grants.preopens.get(origin.preopen).map_or("", |preopen| preopen.name());
        let record = self.recording.as_ref().map(crate::Recording::record).unwrap_or_default();
        let before = record.files.iter().find(|read| read.preopen == preopen && read.path == origin.path);
        if before.is_some_and(|before| (before.digest, before.size) != (digest, size)) {
            return Err(refusal(Cause::Altered));
        }
        Ok(digest)
    }
}
