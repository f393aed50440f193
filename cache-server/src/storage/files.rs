//! The few things that the local storage does with files, as a trait: so that tests can lose what was not synced, cut the power between any
//! two of them, or make any of them fail.

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileInfo {
    /// Size in bytes.
    pub size: u64,
    /// Last modification.
    pub modified: SystemTime,
}

/// What the local storage does with files. All of it may wait for the disk.
pub trait FileLayer: Send + Sync + 'static {
    /// A file that is being written.
    type File: Send + Sync + 'static;

    /// Makes a file that nobody can write again once it is closed; fails if there is one.
    ///
    /// # Errors
    /// As the system says; so for all of these.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Appends bytes.
    fn write(&self, file: &mut Self::File, bytes: &[u8]) -> io::Result<()>;

    /// Makes the bytes of a file durable; not its name.
    fn sync(&self, file: &Self::File) -> io::Result<()>;

    /// Gives a file another name, in place of the file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Removes a name.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory, whose parent is there; fails if it is there itself.
    fn make_dir(&self, path: &Path) -> io::Result<()>;

    /// Opens a file for reading; `None` if there is none.
    fn open(&self, path: &Path) -> io::Result<Option<File>>;

    /// What a file looks like; `None` if there is none.
    fn stat(&self, path: &Path) -> io::Result<Option<FileInfo>>;

    /// The names in a directory; none if it is not there.
    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>>;

    /// Bytes that are free on the file system of `dir`; an error if nothing can be written there.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
}

/// The files of this machine.
#[derive(Debug, Default, Clone, Copy)]
pub struct RealFiles;

/// `None` where there is no such file.
fn if_there<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl FileLayer for RealFiles {
    type File = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        // The mode is for those who open it later.
        File::options().write(true).create_new(true).mode(0o444).open(path)
    }

    fn write(&self, file: &mut File, bytes: &[u8]) -> io::Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(if_there(rustix::fs::open(path, flags, Mode::empty()))?.map(File::from))
    }

    fn stat(&self, path: &Path) -> io::Result<Option<FileInfo>> {
        let stat = if_there(rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW))?;
        Ok(stat.map(|stat| FileInfo {
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default()),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<OsString>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let system = rustix::fs::statvfs(dir)?;
        if system.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(Errno::ROFS.into());
        }
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }
}
