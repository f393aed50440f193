//! Attributes of what is open or at a path: kinds, sizes, times, rights.

use super::Result;
use crate::abi::types::{self, Errno, Fdflags, Filestat, Filetype, Fstflags, Rights};
use crate::context::Context;
use crate::descriptor::{Access, Contents, Kind, Place};
use crate::host::{Host, Observation};
use crate::late::Found;
use crate::recording::Recording;
use cap_fs_ext::SystemTimeSpec;
use rustix::fs::{FileType, Timespec, Timestamps};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

const NANOS: u64 = 1_000_000_000;

/// What programs expect of a preopened directory.
const PREOPEN: Rights = Rights::PATH_CREATE_DIRECTORY
    .union(Rights::PATH_CREATE_FILE)
    .union(Rights::PATH_LINK_SOURCE)
    .union(Rights::PATH_LINK_TARGET)
    .union(Rights::PATH_OPEN)
    .union(Rights::FD_READDIR)
    .union(Rights::PATH_READLINK)
    .union(Rights::PATH_RENAME_SOURCE)
    .union(Rights::PATH_RENAME_TARGET)
    .union(Rights::PATH_SYMLINK)
    .union(Rights::PATH_REMOVE_DIRECTORY)
    .union(Rights::PATH_UNLINK_FILE)
    .union(Rights::PATH_FILESTAT_GET)
    .union(Rights::PATH_FILESTAT_SET_TIMES)
    .union(Rights::FD_FILESTAT_GET)
    .union(Rights::FD_FILESTAT_SET_TIMES);

/// What they expect of what they open in one.
const INHERITED: Rights = PREOPEN
    .union(Rights::FD_DATASYNC)
    .union(Rights::FD_READ)
    .union(Rights::FD_SEEK)
    .union(Rights::FD_FDSTAT_SET_FLAGS)
    .union(Rights::FD_SYNC)
    .union(Rights::FD_TELL)
    .union(Rights::FD_WRITE)
    .union(Rights::FD_ADVISE)
    .union(Rights::FD_ALLOCATE)
    .union(Rights::FD_FILESTAT_SET_SIZE)
    .union(Rights::POLL_FD_READWRITE);

/// The kind that a mode says. Preview 1 has no number for pipes, and no guest may use sockets.
pub(super) fn filetype(mode: u32) -> Filetype {
    match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Filetype::RegularFile,
        FileType::Directory => Filetype::Directory,
        FileType::Symlink => Filetype::SymbolicLink,
        FileType::BlockDevice => Filetype::BlockDevice,
        FileType::CharacterDevice => Filetype::CharacterDevice,
        FileType::Fifo | FileType::Socket | FileType::Unknown => Filetype::Unknown,
    }
}

/// The number of a file that guests see: a hash of the system's, so that one device number does for all. wasmtime makes the same one.
pub(super) fn number(dev: u64, ino: u64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (dev, ino).hash(&mut hasher);
    hasher.finish()
}

/// Nanoseconds since 1970, 0 for what is before.
fn timestamp(time: Option<SystemTime>) -> Result<u64> {
    let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    Ok(u64::try_from(since.as_nanos())?)
}

macro_rules! filestat {
    ($metadata:expr, $time:expr) => {{
        let metadata = $metadata;
        Ok(Filestat {
            dev: 1,
            ino: number(metadata.dev(), metadata.ino()),
            filetype: filetype(metadata.mode()),
            nlink: metadata.nlink(),
            size: metadata.len(),
            atim: timestamp(metadata.accessed().ok().map($time))?,
            mtim: timestamp(metadata.modified().ok().map($time))?,
            // The time of creation, as in wasmtime.
            ctim: timestamp(metadata.created().ok().map($time))?,
        })
    }};
}

pub(super) fn filestat(metadata: &cap_std::fs::Metadata, recording: Option<&Recording>) -> Result<Filestat> {
    use cap_std::fs::MetadataExt as _;
    settle(filestat!(metadata, cap_std::time::SystemTime::into_std), recording)
}

fn filestat_of_file(metadata: &std::fs::Metadata, recording: Option<&Recording>) -> Result<Filestat> {
    use std::os::unix::fs::MetadataExt as _;
    settle(filestat!(metadata, std::convert::identity), recording)
}

/// A recording hides what is by chance.
fn settle(stat: Result<Filestat>, recording: Option<&Recording>) -> Result<Filestat> {
    match recording {
        Some(recording) => Ok(recording.settle(stat?)),
        None => stat,
    }
}

pub(super) fn of_descriptor(context: &mut Context, fd: u32) -> Result<Filestat> {
    let stream = |filetype| Filestat { dev: 0, ino: 0, filetype, nlink: 0, size: 0, atim: 0, mtim: 0, ctim: 0 };
    match context.descriptors.kind(&context.grants, fd)? {
        Kind::Stdin => Ok(stream(context.stdin.filetype())),
        Kind::Stdout => Ok(stream(context.stdout.filetype())),
        Kind::Stderr => Ok(stream(context.stderr.filetype())),
        Kind::Directory => {
            let directory = context.descriptors.directory(&context.grants, fd)?;
            context.host.observe(Observation::Attributes(directory.origin.as_ref()));
            match &directory.place {
                Place::Host(dir) => filestat(&dir.dir_metadata()?, context.recording.as_ref()),
                Place::Wake => Ok(Found::Directory.filestat(&context.grants)),
            }
        }
        Kind::File => {
            let file = context.descriptors.file(fd)?;
            context.host.observe(Observation::Attributes(file.origin.as_ref()));
            match &file.contents {
                Contents::Host(file) => filestat_of_file(&file.metadata()?, context.recording.as_ref()),
                Contents::Late(file) => Ok(Found::File(*file).filestat(&context.grants)),
            }
        }
    }
}

pub(super) fn fdstat(context: &Context, fd: u32) -> Result<types::Fdstat> {
    let stat = |fs_filetype, fs_flags, base, inheriting| types::Fdstat {
        fs_filetype,
        fs_flags,
        fs_rights_base: base,
        fs_rights_inheriting: inheriting,
    };
    let stream = |filetype, rights| stat(filetype, Fdflags::empty(), rights, rights);
    Ok(match context.descriptors.kind(&context.grants, fd)? {
        Kind::Stdin => stream(context.stdin.filetype(), Rights::FD_READ),
        Kind::Stdout => stream(context.stdout.filetype(), Rights::FD_WRITE),
        Kind::Stderr => stream(context.stderr.filetype(), Rights::FD_WRITE),
        Kind::Directory if context.descriptors.preopen(&context.grants, fd).is_some() => {
            stat(Filetype::Directory, Fdflags::empty(), PREOPEN, INHERITED)
        }
        Kind::Directory => {
            let access = context.descriptors.directory(&context.grants, fd)?.access;
            let rights = rights(Access { write: false, ..access });
            let rights = rights - Rights::FD_SEEK - Rights::FD_FILESTAT_SET_SIZE - Rights::PATH_FILESTAT_SET_SIZE;
            stat(Filetype::Directory, Fdflags::empty(), rights, rights)
        }
        Kind::File => {
            let file = context.descriptors.file(fd)?;
            let rights = rights(file.access);
            let mut flags = Fdflags::empty();
            flags.set(Fdflags::APPEND, file.append);
            flags.set(Fdflags::NONBLOCK, file.nonblock);
            stat(file.filetype, flags, rights, rights)
        }
    })
}

/// All rights but those to read and write what is not open for it.
fn rights(access: Access) -> Rights {
    let mut rights = Rights::all();
    rights.set(Rights::FD_READ | Rights::FD_READDIR, access.read);
    rights.set(Rights::FD_WRITE, access.write);
    rights
}

/// The times to set: given ones, the present, or none.
pub(super) fn times(host: &mut dyn Host, atim: u64, mtim: u64, flags: Fstflags) -> Result<Timestamps> {
    let mut time = |set, time: u64, now| {
        let time = match (flags.contains(set), flags.contains(now)) {
            (true, true) => return Err(Errno::Inval),
            (true, false) => time,
            (false, true) => host.realtime(),
            (false, false) => return Ok(Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT }),
        };
        let (Ok(tv_sec), Ok(tv_nsec)) = (i64::try_from(time / NANOS), i64::try_from(time % NANOS)) else { return Err(Errno::Overflow) };
        Ok(Timespec { tv_sec, tv_nsec })
    };
    Ok(Timestamps {
        last_access: time(Fstflags::ATIM, atim, Fstflags::ATIM_NOW)?,
        last_modification: time(Fstflags::MTIM, mtim, Fstflags::MTIM_NOW)?,
    })
}

/// The same for cap-std.
pub(super) fn system_time(time: Timespec) -> Option<SystemTimeSpec> {
    if time.tv_nsec == rustix::fs::UTIME_OMIT {
        return None;
    }
    let since = Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    Some(SystemTimeSpec::Absolute(cap_std::time::SystemTime::from_std(SystemTime::UNIX_EPOCH + since)))
}

pub(super) fn set_times_of_descriptor(context: &Context, fd: u32, times: &Timestamps) -> Result<()> {
    let (writable, fd) = match context.descriptors.kind(&context.grants, fd)? {
        Kind::Stdin | Kind::Stdout | Kind::Stderr => return Err(Errno::Badf.into()),
        Kind::Directory => {
            let directory = context.descriptors.directory(&context.grants, fd)?;
            let Place::Host(dir) = &directory.place else { return Err(Errno::Perm.into()) };
            (directory.writable, dir.as_fd())
        }
        Kind::File => {
            let file = context.descriptors.file(fd)?;
            let Some(host) = file.host() else { return Err(Errno::Perm.into()) };
            (file.writable, host.as_fd())
        }
    };
    if !writable {
        return Err(Errno::Perm.into());
    }
    Ok(rustix::fs::futimens(fd, times)?)
}
