//! Reading, writing and seeking.

use super::{Result, bytes, bytes_mut, write_bytes};
use crate::abi::types::{self, Errno};
use crate::context::Context;
use crate::descriptor::{Contents, Kind, OpenFile};
use crate::error::Stop;
use crate::host::Observation;
use crate::host_state::OutputStream;
use crate::late::LateFile;
use rustix::io::{Errno as Os, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use wiggle::{GuestMemory, GuestPtr};

/// Most bytes that one read of standard input or at an offset gives, whatever the guest's buffer. Guests see where reads end; those of
/// wasmtime end here.
const MAX_READ: usize = 64 * 1024;

/// Buffers to be written as buffers to be read: the same bytes in memory.
pub(super) fn as_iovecs(iovs: types::CiovecArray) -> types::IovecArray {
    iovs.as_ptr().cast::<types::Iovec>().as_array(iovs.len())
}

/// The first buffer that is not empty; an empty one if all are. Reads and writes stop there, which the interface permits: guests go on.
pub(super) fn first_buffer(context: &mut Context, memory: &GuestMemory<'_>, iovs: types::IovecArray) -> Result<GuestPtr<[u8]>> {
    context.spend(usize::try_from(iovs.len())?.saturating_mul(size_of::<types::Iovec>()))?;
    for (round, iov) in iovs.iter().enumerate() {
        context.interrupt.check(round)?;
        let types::Iovec { buf, buf_len } = memory.read(iov?)?;
        if buf_len > 0 {
            context.spend(usize::try_from(buf_len)?)?;
            return Ok(buf.as_array(buf_len));
        }
    }
    Ok(GuestPtr::new((0, 0)))
}

pub(super) fn read(context: &mut Context, memory: &mut GuestMemory<'_>, fd: u32, buffer: GuestPtr<[u8]>) -> Result<u32> {
    match context.descriptors.kind(&context.grants, fd)? {
        Kind::Stdin if context.freezes_at_stdin() => Err(Stop::Freeze.into()),
        Kind::Stdin => {
            context.host.observe(Observation::Stdin);
            read_into(memory, buffer, |bytes| context.stdin.read(bytes, &context.interrupt))
        }
        Kind::File => {
            let buffer = bytes_mut(memory, buffer)?;
            let file = context.descriptors.file_mut(fd)?;
            let position = file.position;
            let contents = Observation::Contents { file: file.origin.as_ref(), offset: position, len: buffer.len() };
            context.host.observe(contents);
            let len = match file.contents {
                Contents::Host(ref host) => host.read_at(buffer, position)?,
                Contents::Late(late) => read_late(context, late, buffer, position)?,
            };
            let file = context.descriptors.file_mut(fd)?;
            file.position = file.position.checked_add(u64::try_from(len)?).ok_or(Errno::Overflow)?;
            has_read(context, fd)?;
            Ok(u32::try_from(len)?)
        }
        Kind::Stdout | Kind::Stderr | Kind::Directory => Err(Errno::Badf.into()),
    }
}

/// Reads a file of the wake directory.
fn read_late(context: &mut Context, file: LateFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
    match file {
        LateFile::Env => {
            let rest = context.grants.late_contents.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
            let len = buffer.len().min(rest.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            context.counters.late_env_reads = context.counters.late_env_reads.saturating_add(1);
            if let Some(recording) = &context.recording {
                recording.read_late_env();
            }
            Ok(len)
        }
        LateFile::Random => {
            let len = buffer.len().min(MAX_READ);
            context.counters.draw(context.host.as_mut(), &mut buffer[..len])?;
            Ok(len)
        }
    }
}

/// The guest has read from a file.
fn has_read(context: &mut Context, fd: u32) -> Result<()> {
    let file = context.descriptors.file_mut(fd)?;
    if !std::mem::replace(&mut file.read, true)
        && let (Contents::Host(host), Some(recording)) = (&file.contents, &context.recording)
    {
        recording.read_file(fd, (file.origin.as_ref(), file.filetype), host, &context.interrupt)?;
    }
    Ok(())
}

/// Reads into the guest's buffer at most [`MAX_READ`] bytes. Where the buffer ends outside of the memory, only bytes that there are trap.
fn read_into(memory: &mut GuestMemory<'_>, buffer: GuestPtr<[u8]>, read: impl FnOnce(&mut [u8]) -> Result<usize>) -> Result<u32> {
    let max = usize::try_from(buffer.len())?.min(MAX_READ);
    if let Ok(bytes) = bytes_mut(memory, buffer) {
        return Ok(u32::try_from(read(&mut bytes[..max])?)?);
    }
    let mut bytes = vec![0; max];
    let len = read(&mut bytes)?;
    write_bytes(memory, buffer.as_ptr(), &bytes[..len])?;
    Ok(u32::try_from(len)?)
}

pub(super) fn pread(context: &mut Context, memory: &mut GuestMemory<'_>, fd: u32, buffer: GuestPtr<[u8]>, offset: u64) -> Result<u32> {
    match context.descriptors.kind(&context.grants, fd)? {
        Kind::File => {
            let len = read_into(memory, buffer, |bytes| {
                let file = context.descriptors.file(fd)?;
                context.host.observe(Observation::Contents { file: file.origin.as_ref(), offset, len: bytes.len() });
                let host = match file.contents {
                    Contents::Host(ref host) => host,
                    Contents::Late(late) => return read_late(context, late, bytes, offset),
                };
                loop {
                    match host.read_at(bytes, offset) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        result => return Ok(result?),
                    }
                }
            })?;
            has_read(context, fd)?;
            Ok(len)
        }
        Kind::Stdin => Err(Errno::Spipe.into()),
        Kind::Stdout | Kind::Stderr | Kind::Directory => Err(Errno::Badf.into()),
    }
}

/// Writes at an offset, or where the last write ended.
pub(super) fn write(context: &mut Context, memory: &GuestMemory<'_>, fd: u32, buffer: GuestPtr<[u8]>, offset: Option<u64>) -> Result<u32> {
    let kind = context.descriptors.kind(&context.grants, fd)?;
    match kind {
        Kind::File => {
            let bytes = bytes(memory, buffer)?;
            let file = context.descriptors.file_mut(fd)?;
            // The files of the wake directory are never open for writing.
            let host = file.host().ok_or(Errno::Badf)?;
            let len = if file.append { append(host, bytes)? } else { host.write_at(bytes, offset.unwrap_or(file.position))? };
            if offset.is_none() {
                file.position = if file.append {
                    host.metadata()?.len()
                } else {
                    file.position.checked_add(u64::try_from(len)?).ok_or(Errno::Overflow)?
                };
            }
            if len > 0 {
                context.changed_open(fd);
            }
            Ok(u32::try_from(len)?)
        }
        Kind::Stdout | Kind::Stderr if offset.is_some() => Err(Errno::Spipe.into()),
        Kind::Stdout | Kind::Stderr => {
            let bytes = bytes(memory, buffer)?;
            let (output, stream) = if kind == Kind::Stdout {
                (&mut context.stdout, OutputStream::Stdout)
            } else {
                (&mut context.stderr, OutputStream::Stderr)
            };
            output.write_all(bytes, &context.interrupt)?;
            context.written(stream, bytes);
            Ok(buffer.len())
        }
        Kind::Stdin | Kind::Directory => Err(Errno::Badf.into()),
    }
}

/// Appends. The file is not open for appending, as the guest may change its mind.
fn append(file: &File, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::pwritev2(file, &[IoSlice::new(bytes)], 0, ReadWriteFlags::APPEND) {
        // A file system that can't. Nobody else in the guest writes in between.
        Err(Os::NOSYS | Os::OPNOTSUPP) => file.write_at(bytes, file.metadata()?.len()),
        result => Ok(result?),
    }
}

/// A file; streams can't seek, and directories are no files.
pub(super) fn seekable(context: &mut Context, fd: u32) -> Result<&mut OpenFile> {
    match context.descriptors.kind(&context.grants, fd)? {
        Kind::File => Ok(context.descriptors.file_mut(fd)?),
        Kind::Stdin | Kind::Stdout | Kind::Stderr => Err(Errno::Spipe.into()),
        Kind::Directory => Err(Errno::Badf.into()),
    }
}

pub(super) fn seek(context: &mut Context, fd: u32, offset: i64, whence: types::Whence) -> Result<u64> {
    let position = seekable(context, fd)?.position;
    let position = match whence {
        types::Whence::Set => u64::try_from(offset).ok(),
        types::Whence::Cur => position.checked_add_signed(offset),
        types::Whence::End => context.descriptors.file(fd)?.len(&context.grants)?.checked_add_signed(offset),
    };
    let file = context.descriptors.file_mut(fd)?;
    file.position = position.ok_or(Errno::Inval)?;
    Ok(file.position)
}

pub(super) fn advise(file: &OpenFile, offset: u64, len: u64, advice: types::Advice) -> Result<()> {
    let advice = match advice {
        types::Advice::Normal => rustix::fs::Advice::Normal,
        types::Advice::Sequential => rustix::fs::Advice::Sequential,
        types::Advice::Random => rustix::fs::Advice::Random,
        types::Advice::Willneed => rustix::fs::Advice::WillNeed,
        types::Advice::Dontneed => rustix::fs::Advice::DontNeed,
        types::Advice::Noreuse => rustix::fs::Advice::NoReuse,
    };
    let Some(host) = file.host() else { return Ok(()) };
    Ok(rustix::fs::fadvise(host, offset, NonZeroU64::new(len), advice)?)
}
