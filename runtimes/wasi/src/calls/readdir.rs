//! Listing a directory.

use super::{Result, write_bytes};
use crate::abi::types::{Dirent, Errno, Filetype};
use crate::calls::stat;
use crate::late::{Found, LateFile};
use crate::recording::Recording;
use cap_std::fs::{Dir, DirEntry, MetadataExt as _};
use std::io;
use wiggle::{GuestMemory, GuestPtr, GuestType as _};

/// Room for entries in the guest's memory.
struct Room<'a, 'b> {
    memory: &'a mut GuestMemory<'b>,
    next: GuestPtr<u8>,
    rest: u32,
}

impl Room<'_, '_> {
    /// Writes an entry and its name; the last one is cut off where the room ends, so that the guest sees that there are more.
    fn push(&mut self, cookie: u64, ino: u64, filetype: Filetype, name: &str) -> Result<()> {
        let mut entry = [0; 24];
        debug_assert_eq!(entry.len(), usize::try_from(Dirent::guest_size())?);
        entry[..8].copy_from_slice(&cookie.to_le_bytes());
        entry[8..16].copy_from_slice(&ino.to_le_bytes());
        entry[16..20].copy_from_slice(&u32::try_from(name.len())?.to_le_bytes());
        entry[20] = filetype.into();
        self.write(&entry)?;
        self.write(name.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let len = bytes.len().min(usize::try_from(self.rest)?);
        self.next = write_bytes(self.memory, self.next, &bytes[..len])?;
        self.rest -= u32::try_from(len)?;
        Ok(())
    }
}

/// How to list.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// In the order of the names' bytes, not in that of the system.
    pub(super) sorted: bool,
    /// What numbers the files.
    pub(super) recording: Option<&'a Recording>,
}

/// Writes the entries from the `cookie`th on: the directory itself, the one above, which gets the same number, then the rest in the order of
/// the system. A cookie is a place in that order. Attributes are asked only for what fits, but a name that is no text fails every call.
pub(super) fn readdir(dir: &Dir, how: How<'_>, memory: &mut GuestMemory<'_>, buffer: GuestPtr<u8>, len: u32, cookie: u64) -> Result<u32> {
    let entries = dir.entries()?;
    if !how.sorted {
        return list(dir, entries, how, memory, buffer, len, cookie);
    }
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_cached_key(DirEntry::file_name);
    list(dir, entries.into_iter().map(Ok), how, memory, buffer, len, cookie)
}

fn list(
    dir: &Dir,
    entries: impl Iterator<Item = io::Result<DirEntry>>,
    how: How<'_>,
    memory: &mut GuestMemory<'_>,
    buffer: GuestPtr<u8>,
    len: u32,
    cookie: u64,
) -> Result<u32> {
    let number = |metadata: &cap_std::fs::Metadata| {
        let number = stat::number(metadata.dev(), metadata.ino());
        how.recording.map_or(number, |recording| recording.number(number))
    };
    let this = number(&dir.dir_metadata()?);
    let mut room = Room { memory, next: buffer, rest: len };
    for (place, name) in [(0, "."), (1, "..")] {
        if place >= cookie && room.rest > 0 {
            room.push(place + 1, this, Filetype::Directory, name)?;
        }
    }
    for (entry, place) in entries.zip(2u64..) {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().ok_or(Errno::Ilseq)?;
        if place >= cookie && room.rest > 0 {
            let metadata = entry.metadata()?;
            room.push(place + 1, number(&metadata), stat::filetype(metadata.mode()), name)?;
        }
    }
    Ok(len - room.rest)
}

/// The same for the wake directory.
pub(super) fn wake_directory(memory: &mut GuestMemory<'_>, buffer: GuestPtr<u8>, len: u32, cookie: u64) -> Result<u32> {
    let mut room = Room { memory, next: buffer, rest: len };
    let files = LateFile::ALL.map(|file| (Found::File(file), file.filetype(), file.name()));
    let itself = [".", ".."].map(|name| (Found::Directory, Filetype::Directory, name));
    for ((found, filetype, name), place) in itself.into_iter().chain(files).zip(0u64..) {
        if place >= cookie && room.rest > 0 {
            room.push(place + 1, found.number(), filetype, name)?;
        }
    }
    Ok(len - room.rest)
}
