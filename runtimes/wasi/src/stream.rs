//! Standard streams: nothing, memory, or an open file, pipe, socket or terminal.

use crate::abi::types::{Errno, Filetype};
use crate::error::Failure;
use crate::interrupt::Interrupt;
use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno as Os;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most bytes that a pipe which is ready takes without waiting.
const PIPE_WRITE: usize = 4096;

/// Where a guest's standard input comes from.
#[derive(Debug, Clone, Default)]
pub enum Input {
    /// Nowhere: it is at its end.
    #[default]
    Empty,
    /// From memory.
    Bytes(Bytes),
    /// From something open. Clones share the position of files.
    Open(OpenStream),
}

/// Where a guest's output goes.
#[derive(Debug, Clone, Default)]
pub enum Output {
    /// Nowhere.
    #[default]
    Discard,
    /// Into memory.
    Buffer(OutputBuffer),
    /// Into something open.
    Open(OpenStream),
}

impl Input {
    /// From an open file, pipe, socket or terminal.
    #[must_use]
    pub fn open(fd: impl Into<OwnedFd>) -> Self {
        Self::Open(OpenStream::new(Descriptor::Owned(Arc::new(fd.into()))))
    }

    /// From the process's own standard input. Nothing is opened or duplicated.
    #[must_use]
    pub fn inherit() -> Self {
        Self::Open(OpenStream::new(Descriptor::Stdin(io::stdin())))
    }

    /// Reads into `buffer` what is there, waiting for a first byte. 0 is the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8], interrupt: &Interrupt) -> Result<usize, Failure> {
        match self {
            Self::Empty => Ok(0),
            Self::Bytes(bytes) if bytes.is_empty() => Ok(0),
            // What wasmtime answers to a read of no bytes before the end.
            Self::Bytes(_) if buffer.is_empty() => Err(Errno::Intr.into()),
            Self::Bytes(bytes) => {
                let len = buffer.len().min(bytes.len());
                bytes.copy_to_slice(&mut buffer[..len]);
                Ok(len)
            }
            Self::Open(_) if buffer.is_empty() => Ok(0),
            Self::Open(stream) => stream.read(buffer, interrupt),
        }
    }

    /// Whether there is something to read, without asking the system.
    pub(crate) fn has_bytes(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if !bytes.is_empty())
    }

    pub(crate) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        if let Self::Open(stream) = self { Some(stream.fd.as_fd()) } else { None }
    }

    pub(crate) fn filetype(&self) -> Filetype {
        filetype(self.pollable())
    }
}

impl Output {
    /// An output that is kept in memory, and the buffer to read it from afterwards. A guest that writes beyond `max` bytes gets an error.
    #[must_use]
    pub fn buffer(max: usize) -> (Self, OutputBuffer) {
        let buffer = OutputBuffer { max, bytes: Arc::default() };
        (Self::Buffer(buffer.clone()), buffer)
    }

    /// Into an open file, pipe, socket or terminal.
    #[must_use]
    pub fn open(fd: impl Into<OwnedFd>) -> Self {
        Self::Open(OpenStream::new(Descriptor::Owned(Arc::new(fd.into()))))
    }

    /// Into the process's own standard output. Nothing is opened or duplicated.
    #[must_use]
    pub fn inherit_stdout() -> Self {
        Self::Open(OpenStream::new(Descriptor::Stdout(io::stdout())))
    }

    /// Into the process's own standard error. Nothing is opened or duplicated.
    #[must_use]
    pub fn inherit_stderr() -> Self {
        Self::Open(OpenStream::new(Descriptor::Stderr(io::stderr())))
    }

    /// Writes all of `bytes`, waiting where it must.
    pub(crate) fn write_all(&mut self, bytes: &[u8], interrupt: &Interrupt) -> Result<(), Failure> {
        match self {
            Self::Discard => Ok(()),
            Self::Buffer(buffer) => buffer.append(bytes),
            Self::Open(stream) => stream.write_all(bytes, interrupt),
        }
    }

    pub(crate) fn pollable(&self) -> Option<BorrowedFd<'_>> {
        if let Self::Open(stream) = self { Some(stream.fd.as_fd()) } else { None }
    }

    pub(crate) fn filetype(&self) -> Filetype {
        filetype(self.pollable())
    }
}

/// A terminal is a character device; what a stream is beyond that is not the guest's business.
fn filetype(fd: Option<BorrowedFd<'_>>) -> Filetype {
    if fd.is_some_and(|fd| fd.is_terminal()) { Filetype::CharacterDevice } else { Filetype::Unknown }
}

/// Output kept in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputBuffer {
    max: usize,
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl OutputBuffer {
    /// A buffer over bytes that the embedder has too. A guest that would make them more than `max` gets an error.
    #[must_use]
    pub fn over(bytes: Arc<Mutex<Vec<u8>>>, max: usize) -> Self {
        Self { max, bytes }
    }

    /// A copy of what was written so far.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Takes what was written so far; later writes begin anew.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock())
    }

    /// Appends what fits; if that is not all, the guest gets an error.
    fn append(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut all = self.lock();
        let fits = bytes.len().min(self.max - all.len().min(self.max));
        all.extend_from_slice(&bytes[..fits]);
        if fits < bytes.len() { Err(Errno::Io.into()) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A vector of bytes has no state in between that a panic could leave.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file, pipe, socket or terminal.
#[derive(Debug, Clone)]
pub struct OpenStream {
    fd: Descriptor,
    /// Whether it is a regular file, which never waits; not known before it matters.
    regular: Option<bool>,
}

#[derive(Debug)]
enum Descriptor {
    Owned(Arc<OwnedFd>),
    Stdin(io::Stdin),
    Stdout(io::Stdout),
    Stderr(io::Stderr),
}

impl Clone for Descriptor {
    fn clone(&self) -> Self {
        match self {
            Self::Owned(fd) => Self::Owned(Arc::clone(fd)),
            Self::Stdin(_) => Self::Stdin(io::stdin()),
            Self::Stdout(_) => Self::Stdout(io::stdout()),
            Self::Stderr(_) => Self::Stderr(io::stderr()),
        }
    }
}

impl Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Stdin(stream) => stream.as_fd(),
            Self::Stdout(stream) => stream.as_fd(),
            Self::Stderr(stream) => stream.as_fd(),
        }
    }
}

impl OpenStream {
    fn new(fd: Descriptor) -> Self {
        Self { fd, regular: None }
    }

    /// Whether a read or write may wait for somebody else.
    fn may_wait(&mut self) -> bool {
        let fd = &self.fd;
        !*self.regular.get_or_insert_with(|| {
            rustix::fs::fstat(fd.as_fd()).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file())
        })
    }

    fn wait(&self, flags: PollFlags, interrupt: &Interrupt) -> Result<(), Failure> {
        interrupt.wait(&mut [PollFd::from_borrowed_fd(self.fd.as_fd(), flags)], None)
    }

    fn read(&mut self, buffer: &mut [u8], interrupt: &Interrupt) -> Result<usize, Failure> {
        let polls = interrupt.is_armed() && self.may_wait();
        loop {
            if polls {
                self.wait(PollFlags::IN, interrupt)?;
            }
            match rustix::io::read(self.fd.as_fd(), &mut *buffer) {
                Ok(len) => return Ok(len),
                Err(Os::INTR) => {}
                // Somebody made it non-blocking.
                Err(Os::AGAIN) => self.wait(PollFlags::IN, interrupt)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write_all(&mut self, mut bytes: &[u8], interrupt: &Interrupt) -> Result<(), Failure> {
        let polls = interrupt.is_armed() && self.may_wait();
        while !bytes.is_empty() {
            let mut part = bytes;
            if polls {
                self.wait(PollFlags::OUT, interrupt)?;
                part = &bytes[..bytes.len().min(PIPE_WRITE)];
            }
            match rustix::io::write(self.fd.as_fd(), part) {
                Ok(0) => return Err(Errno::Io.into()),
                Ok(len) => bytes = &bytes[len..],
                Err(Os::INTR) => {}
                Err(Os::AGAIN) => self.wait(PollFlags::OUT, interrupt)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Stop;
    use std::io::{Read as _, Write as _};
    use std::time::{Duration, Instant};

    fn soon() -> Interrupt {
        Interrupt::never().at(Instant::now() + Duration::from_millis(30))
    }

    #[test]
    fn memory_is_read_to_its_end() {
        let mut input = Input::Bytes(Bytes::from_static(b"0123456789"));
        let mut buffer = [0; 8];
        assert!(matches!(input.read(&mut [], &Interrupt::never()), Err(Failure::Errno(Errno::Intr))));
        assert_eq!(input.read(&mut buffer, &Interrupt::never()).unwrap(), 8);
        assert_eq!(input.read(&mut buffer, &Interrupt::never()).unwrap(), 2);
        assert_eq!(&buffer, b"89234567");
        assert_eq!(input.read(&mut buffer, &Interrupt::never()).unwrap(), 0);
    }

    #[test]
    fn a_buffer_keeps_what_fits_and_says_that_it_is_full() {
        let (mut output, buffer) = Output::buffer(5);
        output.write_all(b"abc", &Interrupt::never()).unwrap();
        assert!(matches!(output.write_all(b"def", &Interrupt::never()), Err(Failure::Errno(Errno::Io))));
        assert_eq!(buffer.take(), b"abcde");
        output.write_all(b"f", &Interrupt::never()).unwrap();
        assert_eq!(buffer.contents(), b"f");
    }

    #[test]
    fn a_deadline_ends_reads_of_a_silent_pipe_and_writes_to_a_full_one() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut input = Input::open(reader.try_clone().unwrap());
        assert!(matches!(input.read(&mut [0; 8], &soon()), Err(Failure::Stop(Stop::Interrupted))));
        writer.write_all(b"x").unwrap();
        assert_eq!(input.read(&mut [0; 8], &soon()).unwrap(), 1);

        let mut output = Output::open(writer);
        let start = Instant::now();
        assert!(matches!(output.write_all(&vec![1; 1 << 20], &soon()), Err(Failure::Stop(Stop::Interrupted))));
        assert!(start.elapsed() < Duration::from_secs(5));
        drop(reader);
    }

    #[test]
    fn a_pipe_takes_more_than_it_holds_while_somebody_reads() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let bytes: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
        let read = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        let mut output = Output::open(writer);
        output.write_all(&bytes, &Interrupt::never().at(Instant::now() + Duration::from_secs(60))).unwrap();
        drop(output);
        assert_eq!(read.join().unwrap(), bytes);
    }

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error_of_the_guest() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert!(matches!(Output::open(writer).write_all(b"x", &Interrupt::never()), Err(Failure::Errno(Errno::Pipe))));
    }
}
