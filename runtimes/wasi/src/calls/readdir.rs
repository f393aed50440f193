//! Listing a directory.

use super::{Result, write_bytes};
use crate::abi::types::{Dirent, Errno, Filetype};
use crate::calls::stat;
use cap_std::fs::{Dir, MetadataExt as _};
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

/// Writes the entries from the `cookie`th on: the directory itself, the one above, which gets the same number, then the rest in the order of
/// the system. A cookie is a place in that order. Attributes are asked only for what fits, but a name that is no text fails every call.
pub(super) fn readdir(dir: &Dir, memory: &mut GuestMemory<'_>, buffer: GuestPtr<u8>, len: u32, cookie: u64) -> Result<u32> {
    let entries = dir.entries()?;
    let metadata = dir.dir_metadata()?;
    let this = stat::number(metadata.dev(), metadata.ino());
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
            room.push(place + 1, stat::number(metadata.dev(), metadata.ino()), stat::filetype(metadata.mode()), name)?;
        }
    }
    Ok(len - room.rest)
}
