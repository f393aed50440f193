//! Files that are there whole or not at all: temporary file, fsync, mode, rename, fsync of the directory.

use crate::StoreError;
use preheat_image::record::Seal;
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What to do when the file is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publish {
    /// Put the new one in its place.
    Replacing,
    /// Leave it.
    UnlessThere,
}

/// A file without its final name. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct TempFile {
    path: PathBuf,
    file: File,
    published: bool,
}

impl TempFile {
    /// Makes an empty file in `dir` that only its owner can open.
    pub(crate) fn create(dir: &Path) -> Result<Self, StoreError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!(".tmp-{}-{number}", std::process::id()));
            match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { path, file, published: false }),
                // Left behind by a killed process that had the same number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StoreError::io("create a file in", dir)(error)),
            }
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))
    }

    /// Makes the file empty again.
    pub(crate) fn clear(&mut self) -> Result<(), StoreError> {
        use std::io::Seek as _;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(StoreError::io("empty", &self.path))
    }

    /// Gives the file its name and makes both durable. The descriptor that wrote comes back, for its final metadata.
    pub(crate) fn publish(mut self, path: &Path, mode: u32, publish: Publish) -> Result<File, StoreError> {
        let to = |action| StoreError::io(action, path);
        self.file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(to("set the mode of"))?;
        self.file.sync_all().map_err(to("sync"))?;
        let flags = if publish == Publish::UnlessThere { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
        match rustix::fs::renameat_with(CWD, &self.path, CWD, path, flags) {
            Ok(()) => self.published = true,
            Err(rustix::io::Errno::EXIST) if publish == Publish::UnlessThere => {}
            // Some file systems know no flags.
            Err(rustix::io::Errno::INVAL) if publish == Publish::UnlessThere => match std::fs::hard_link(&self.path, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(to("create")(error)),
                _ => {}
            },
            Err(error) => return Err(to("create")(error.into())),
        }
        sync_parent(path)?;
        self.file.try_clone().map_err(to("keep open"))
    }

    /// Gives the file its name and makes nothing durable: for what is derived from other files and tells damage by itself.
    pub(crate) fn place(mut self, path: &Path, mode: u32) -> Result<(), StoreError> {
        self.file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(StoreError::io("set the mode of", path))?;
        std::fs::rename(&self.path, path).map_err(StoreError::io("create", path))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.published {
            // Nothing better can be done with a failure here; `gc` and `verify` remove what is left.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes `bytes` to `path` at once.
pub(crate) fn publish(path: &Path, bytes: &[u8], mode: u32, publish: Publish) -> Result<(), StoreError> {
    let dir = path.parent().unwrap_or(path);
    make_dir(dir)?;
    let mut file = TempFile::create(dir)?;
    file.write(bytes)?;
    file.publish(path, mode, publish).map(drop)
}

/// Makes a directory and its parents, durably.
pub(crate) fn make_dir(path: &Path) -> Result<(), StoreError> {
    make_dir_with(path, 0o755)
}

/// Makes a directory that only its owner can enter, and its parents.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), StoreError> {
    make_dir_with(path, 0o700)
}

fn make_dir_with(path: &Path, mode: u32) -> Result<(), StoreError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir_with(parent, 0o755)?;
    }
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(StoreError::io("create the directory", path)(error)),
    }
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(StoreError::io("sync the directory", dir))
}

/// Removes a file; one that is not there is removed already. Says whether it was there.
pub(crate) fn remove(path: &Path) -> Result<bool, StoreError> {
    match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(StoreError::io("remove", path)(error)),
    }
}

/// Reads a small file whole; `None` when it is not there.
///
/// One read call beyond the open: the cold path is counted in microseconds.
pub(crate) fn read_small(path: &Path, max: usize) -> Result<Option<Vec<u8>>, StoreError> {
    match open_small(path)? {
        Some(file) => read_open(&file, path, max).map(Some),
        None => Ok(None),
    }
}

/// Reads a small file whole, and says what it looked like before; `None` when it is not there.
pub(crate) fn read_sealed(path: &Path, max: usize) -> Result<Option<(Vec<u8>, Seal)>, StoreError> {
    let Some(file) = open_small(path)? else { return Ok(None) };
    let file = File::from(file);
    let seal = super::seal_of(&file.metadata().map_err(StoreError::io("look at", path))?);
    Ok(Some((read_open(&file, path, max)?, seal)))
}

fn open_small(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    use rustix::fs::OFlags;
    match rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

fn read_open(file: impl AsFd, path: &Path, max: usize) -> Result<Vec<u8>, StoreError> {
    let wrong = |error: rustix::io::Errno| StoreError::io("read", path)(error);
    let mut bytes: Vec<u8> = Vec::with_capacity(4096);
    loop {
        if bytes.len() == bytes.capacity() {
            bytes.reserve(bytes.len());
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut bytes)) {
            Ok(0) => return Ok(bytes),
            Ok(_) if bytes.len() > max => {
                return Err(StoreError::io("read", path)(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {max} bytes"))));
            }
            // A short read from a regular file is its end; asking again would cost a system call.
            Ok(_) if bytes.len() < bytes.capacity() => return Ok(bytes),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(wrong(error)),
        }
    }
}

/// Walks the files of `dir` and its directories; what vanishes on the way is passed over.
pub(crate) fn walk(dir: &Path, each: &mut dyn FnMut(&Path) -> Result<(), StoreError>) -> Result<(), StoreError> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("list", dir)(error)),
    };
    for entry in entries {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), each)?,
            Ok(_) => each(&entry.path())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("list", dir)(error)),
        }
    }
    Ok(())
}
