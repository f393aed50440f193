//! Opening again what a guest had open, by the path that it had opened it by.

use crate::descriptor::{Access, Directory, Place};
use cap_fs_ext::{FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;

/// Opens what is there, with no more than this access. It may be a directory or a device as well.
pub(crate) fn file(directory: &Directory, path: &str, access: Access) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Opening a pipe must not wait for its other end.
    options.read(access.read).write(access.write).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    open(directory, path, &mut options, access.follow)
}

/// Opens only the place: what is there need not be readable.
pub(crate) fn place(directory: &Directory, path: &str, follow: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlags::PATH.bits().cast_signed());
    open(directory, path, &mut options, follow)
}

fn open(directory: &Directory, path: &str, options: &mut OpenOptions, follow: bool) -> io::Result<File> {
    let Place::Host(dir) = &directory.place else { return Err(io::ErrorKind::NotFound.into()) };
    options.follow(if follow { FollowSymlinks::Yes } else { FollowSymlinks::No });
    // The preopened directory itself has the empty path.
    Ok(dir.open_with(if path.is_empty() { "." } else { path }, options)?.into_std())
}

/// Opens a directory that is there.
pub(crate) fn directory(directory: &Directory, path: &str, access: Access) -> io::Result<Dir> {
    let file = file(directory, path, Access { read: true, write: false, ..access })?;
    if file.metadata()?.is_dir() { Ok(Dir::from_std_file(file)) } else { Err(io::ErrorKind::NotADirectory.into()) }
}
