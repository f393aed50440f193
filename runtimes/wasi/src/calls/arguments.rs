//! Arguments and environment: lists of strings that end in NUL.

use super::{Result, write_bytes};
use wiggle::{GuestMemory, GuestPtr};

/// The number of strings and the size of all with their NULs, from their lengths.
pub(super) fn sizes(lens: impl Iterator<Item = usize>) -> Result<(u32, u32)> {
    let (count, size) = lens.fold((0_usize, 0_usize), |(count, size), len| (count + 1, size + len + 1));
    Ok((u32::try_from(count)?, u32::try_from(size)?))
}

/// Writes the strings, each from its parts, one behind the other to `buffer`, and pointers to them to `list`.
pub(super) fn write<'a>(
    memory: &mut GuestMemory<'_>,
    mut list: GuestPtr<GuestPtr<u8>>,
    mut buffer: GuestPtr<u8>,
    strings: impl Iterator<Item = [&'a str; 3]>,
) -> Result<()> {
    for parts in strings {
        memory.write(list, buffer)?;
        list = list.add(1)?;
        for part in parts {
            buffer = write_bytes(memory, buffer, part.as_bytes())?;
        }
        buffer = write_bytes(memory, buffer, &[0])?;
    }
    Ok(())
}
