//! Everything that takes a path. cap-std resolves them below a directory; nothing here looks into one.

use super::{Result, stat, text, write_bytes};
use crate::abi::types::{Errno, Fdflags, Filestat, Filetype, Lookupflags, Oflags, Rights};
use crate::context::Context;
use crate::descriptor::{Access, Contents, Directory, Kind, OpenFile, Place, Slot};
use crate::error::Failure;
use crate::host::Observation;
use crate::late::{self, Found};
use cap_fs_ext::{DirExt as _, FollowSymlinks, OpenOptionsFollowExt as _};
use cap_std::fs::{Dir, MetadataExt as _, OpenOptions, OpenOptionsExt as _};
use rustix::fs::{AtFlags, OFlags, Timestamps};
use wiggle::{GuestMemory, GuestPtr};

/// A path in the guest's memory and the descriptor of the directory that it starts from.
type At = (u32, GuestPtr<str>);

/// How to open.
pub(super) struct How {
    pub(super) lookup: Lookupflags,
    pub(super) oflags: Oflags,
    pub(super) rights: Rights,
    pub(super) fdflags: Fdflags,
}

/// What a path led to.
enum Opened {
    Directory(Place),
    File(Contents, Filetype),
}

/// A path in the guest's memory, which counts as handled.
fn read<'a>(context: &mut Context, memory: &'a GuestMemory<'_>, path: GuestPtr<str>) -> Result<&'a str> {
    context.spend(usize::try_from(path.len())?)?;
    text(memory, path)
}

/// The directory and the path, which the guest looks at.
fn look<'a>(context: &'a mut Context, memory: &'a GuestMemory<'_>, (fd, path): At) -> Result<(&'a Directory, &'a str)> {
    context.descriptors.directory(&context.grants, fd)?;
    let path = read(context, memory, path)?;
    let directory = context.descriptors.directory(&context.grants, fd)?;
    context.host.observe(Observation::Path { directory: directory.origin.as_ref(), path });
    Ok((directory, path))
}

/// The directory, below which the guest may change things, and the path.
fn change<'a>(context: &'a mut Context, memory: &'a GuestMemory<'_>, at: At) -> Result<(&'a Dir, &'a str)> {
    let (directory, path) = look(context, memory, at)?;
    Ok((writable(directory)?, path))
}

/// What the guest may change.
fn writable(directory: &Directory) -> Result<&Dir> {
    match &directory.place {
        Place::Host(dir) if directory.writable => Ok(dir),
        Place::Host(_) | Place::Wake => Err(Errno::Perm.into()),
    }
}

/// Two directories, below both of which the guest may change things, and the paths.
fn change_both<'a>(context: &'a mut Context, memory: &'a GuestMemory<'_>, old: At, new: At) -> Result<[(&'a Dir, &'a str); 2]> {
    context.descriptors.directory(&context.grants, old.0)?;
    context.descriptors.directory(&context.grants, new.0)?;
    let (old_path, new_path) = (read(context, memory, old.1)?, read(context, memory, new.1)?);
    let [from, to] = [context.descriptors.directory(&context.grants, old.0)?, context.descriptors.directory(&context.grants, new.0)?];
    for (directory, path) in [(from, old_path), (to, new_path)] {
        context.host.observe(Observation::Path { directory: directory.origin.as_ref(), path });
        writable(directory)?;
    }
    Ok([(writable(from)?, old_path), (writable(to)?, new_path)])
}

pub(super) fn create_directory(context: &mut Context, memory: &GuestMemory<'_>, fd: u32, path: GuestPtr<str>) -> Result<()> {
    let (dir, path) = change(context, memory, (fd, path))?;
    Ok(dir.create_dir(path)?)
}

pub(super) fn remove_directory(context: &mut Context, memory: &GuestMemory<'_>, fd: u32, path: GuestPtr<str>) -> Result<()> {
    let (dir, path) = change(context, memory, (fd, path))?;
    Ok(dir.remove_dir(path)?)
}

pub(super) fn unlink_file(context: &mut Context, memory: &GuestMemory<'_>, fd: u32, path: GuestPtr<str>) -> Result<()> {
    let (dir, path) = change(context, memory, (fd, path))?;
    Ok(dir.remove_file(path)?)
}

pub(super) fn filestat(
    context: &mut Context,
    memory: &GuestMemory<'_>,
    fd: u32,
    lookup: Lookupflags,
    path: GuestPtr<str>,
) -> Result<Filestat> {
    let recording = context.recording.clone();
    let (directory, path) = look(context, memory, (fd, path))?;
    let dir = match &directory.place {
        Place::Host(dir) => dir,
        Place::Wake => return Ok(late::find(path)?.filestat(&context.grants)),
    };
    let metadata = if lookup.contains(Lookupflags::SYMLINK_FOLLOW) { dir.metadata(path)? } else { dir.symlink_metadata(path)? };
    stat::filestat(&metadata, recording.as_ref())
}

/// Where links are followed, opens only the place: what is there need not be readable, and a pipe does not wait for its other end.
pub(super) fn set_times(
    context: &mut Context,
    memory: &GuestMemory<'_>,
    fd: u32,
    lookup: Lookupflags,
    path: GuestPtr<str>,
    times: &Timestamps,
) -> Result<()> {
    let (dir, path) = change(context, memory, (fd, path))?;
    if lookup.contains(Lookupflags::SYMLINK_FOLLOW) {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::PATH.bits().cast_signed());
        let place = dir.open_with(path, &options)?;
        return Ok(rustix::fs::utimensat(&place, c"", times, AtFlags::EMPTY_PATH)?);
    }
    let [atim, mtim] = [times.last_access, times.last_modification].map(stat::system_time);
    Ok(dir.set_symlink_times(path, atim, mtim)?)
}

fn follow(lookup: Lookupflags) -> FollowSymlinks {
    if lookup.contains(Lookupflags::SYMLINK_FOLLOW) { FollowSymlinks::Yes } else { FollowSymlinks::No }
}

pub(super) fn link(context: &mut Context, memory: &GuestMemory<'_>, old: At, lookup: Lookupflags, new: At) -> Result<()> {
    let [(from, old), (to, new)] = change_both(context, memory, old, new)?;
    if lookup.contains(Lookupflags::SYMLINK_FOLLOW) {
        return Err(Errno::Inval.into());
    }
    Ok(from.hard_link(old, to, new)?)
}

pub(super) fn rename(context: &mut Context, memory: &GuestMemory<'_>, old: At, new: At) -> Result<()> {
    let [(from, old), (to, new)] = change_both(context, memory, old, new)?;
    if new.ends_with('/') && !old.ends_with('/') && !old.is_empty() {
        // A slash at the end of either path demands a directory. cap-std asks the system only about the old one's.
        return Ok(from.rename(format!("{old}/"), to, new)?);
    }
    Ok(from.rename(old, to, new)?)
}

/// The contents must not be an absolute path, which programs outside would follow.
pub(super) fn symlink(context: &mut Context, memory: &GuestMemory<'_>, contents: GuestPtr<str>, fd: u32, new: GuestPtr<str>) -> Result<()> {
    context.descriptors.directory(&context.grants, fd)?;
    let contents = read(context, memory, contents)?;
    let (dir, path) = change(context, memory, (fd, new))?;
    Ok(dir.symlink(contents, path)?)
}

pub(super) fn readlink(
    context: &mut Context,
    memory: &mut GuestMemory<'_>,
    fd: u32,
    path: GuestPtr<str>,
    buffer: GuestPtr<u8>,
    len: u32,
) -> Result<u32> {
    let (directory, path) = look(context, memory, (fd, path))?;
    let dir = match &directory.place {
        Place::Host(dir) => dir,
        // There are no links in it.
        Place::Wake => return Err(late::find(path).err().unwrap_or(Errno::Inval).into()),
    };
    let contents = dir.read_link(path)?;
    let contents = contents.to_str().ok_or(Errno::Ilseq)?.as_bytes();
    let contents = &contents[..contents.len().min(usize::try_from(len)?)];
    write_bytes(memory, buffer, contents)?;
    Ok(u32::try_from(contents.len())?)
}

pub(super) fn open(context: &mut Context, memory: &GuestMemory<'_>, fd: u32, path: GuestPtr<str>, how: How) -> Result<u32> {
    let path = read(context, memory, path)?;
    if context.descriptors.kind(&context.grants, fd)? == Kind::File {
        return Err(Errno::Notdir.into());
    }
    let directory = context.descriptors.directory(&context.grants, fd)?;
    if how.fdflags.intersects(Fdflags::SYNC | Fdflags::DSYNC | Fdflags::RSYNC) {
        return Err(Errno::Notsup.into());
    }
    if how.oflags.contains(Oflags::DIRECTORY) && how.oflags.intersects(Oflags::CREAT | Oflags::EXCL | Oflags::TRUNC) {
        return Err(Errno::Inval.into());
    }
    let create = how.oflags.contains(Oflags::CREAT);
    let write = how.rights.contains(Rights::FD_WRITE);
    let access = Access {
        // What is not opened for writing is readable, whether or not the guest asked.
        read: how.rights.contains(Rights::FD_READ) || !write,
        write: write || create || how.oflags.contains(Oflags::TRUNC),
        follow: how.lookup.contains(Lookupflags::SYMLINK_FOLLOW),
    };
    if access.write && !directory.writable {
        return Err(Errno::Perm.into());
    }
    if !context.descriptors.has_room() {
        return Err(Errno::Mfile.into());
    }
    let mut options = OpenOptions::new();
    options.read(access.read).write(access.write).truncate(how.oflags.contains(Oflags::TRUNC)).follow(follow(how.lookup));
    if create {
        if how.oflags.contains(Oflags::EXCL) {
            options.create_new(true)
        } else {
            options.create(true)
        };
    }
    // Opening a pipe must not wait for its other end. Files take no notice.
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    context.host.observe(Observation::Path { directory: directory.origin.as_ref(), path });
    let (opened, changed) = match &directory.place {
        Place::Host(dir) => {
            // Whether it is made by being opened matters only to whoever can't let it be made again.
            let made = create && context.recording.is_some() && dir.metadata(path).is_err();
            let file = dir.open_with(path, &options)?;
            let filetype = stat::filetype(file.metadata()?.mode());
            let opened = if filetype == Filetype::Directory {
                Opened::Directory(Place::Host(Dir::from_std_file(file.into_std())))
            } else {
                Opened::File(Contents::Host(file.into_std()), filetype)
            };
            (opened, made || how.oflags.contains(Oflags::TRUNC))
        }
        Place::Wake => match late::find(path)? {
            Found::Directory => (Opened::Directory(Place::Wake), false),
            Found::File(file) => (Opened::File(Contents::Late(file), file.filetype()), false),
        },
    };
    let (writable, origin) = (directory.writable, directory.origin_of(path));
    let slot = match opened {
        Opened::Directory(place) => Slot::Directory(Box::new(Directory { place, writable, access, origin })),
        Opened::File(..) if how.oflags.contains(Oflags::DIRECTORY) => return Err(Errno::Notdir.into()),
        Opened::File(contents, filetype) => {
            let append = how.fdflags.contains(Fdflags::APPEND);
            let nonblock = how.fdflags.contains(Fdflags::NONBLOCK);
            let (position, read) = (0, false);
            Slot::File(Box::new(OpenFile { contents, filetype, writable, access, append, nonblock, position, read, origin }))
        }
    };
    if changed {
        context.changed(fd, path);
    }
    context.descriptors.insert(&context.grants, slot).map_err(Failure::from)
}
