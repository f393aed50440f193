//! How a call ends: with an error number that the guest sees, or by ending the guest.

use crate::abi::types::Errno;
use rustix::io::Errno as Os;
use std::io;
use wiggle::GuestError;

/// Why the guest does not go on after a call.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It asked to exit with this status, which is below 126.
    #[error("exit status {0}")]
    Exit(u32),
    /// The embedder's [`Interrupt`](crate::Interrupt) ended a wait.
    #[error("interrupted while it waited")]
    Interrupted,
    /// It wants standard input that is not there, and [`Context::set_freeze`](crate::Context::set_freeze) asked to be told. Nothing was done yet:
    /// the same call with the same arguments goes on from here, in this context or in one that was made from its
    /// [`HostState`](crate::HostState).
    #[error("waits for standard input: here it can be frozen")]
    Freeze,
    /// It called in a way that the interface does not allow, for example with a pointer outside of its memory.
    #[error("{0}")]
    Trap(String),
}

/// What the implementation of a function fails with.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The guest gets this number.
    Errno(Errno),
    /// The guest ends.
    Stop(Stop),
}

impl Failure {
    pub(crate) fn trap(message: impl Into<String>) -> Self {
        Self::Stop(Stop::Trap(message.into()))
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Errno(errno(&error))
    }
}

impl From<Os> for Failure {
    fn from(error: Os) -> Self {
        Self::Errno(errno(&error.into()))
    }
}

impl From<std::num::TryFromIntError> for Failure {
    fn from(_: std::num::TryFromIntError) -> Self {
        Self::Errno(Errno::Overflow)
    }
}

/// A pointer that leads nowhere ends the guest, as the interface demands; values in memory that mean nothing are errors that it sees.
impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        match error {
            GuestError::InvalidFlagValue(_) | GuestError::InvalidEnumValue(_) => Errno::Inval.into(),
            GuestError::PtrOverflow | GuestError::PtrOutOfBounds(_) | GuestError::PtrNotAligned(..) => Self::trap(error.to_string()),
            GuestError::SliceLengthsDiffer => Errno::Fault.into(),
            GuestError::InvalidUtf8(_) => Errno::Ilseq.into(),
            GuestError::TryFromIntError(_) => Errno::Overflow.into(),
            GuestError::InFunc { err, .. } => Self::from(*err),
        }
    }
}

/// The number for an error of the system. wasmtime gives several errors that preview 1 has numbers for, such as a read-only file system, as
/// `io`; guests must not be able to tell the engines apart, so it is so here too.
fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error().map(Os::from_raw_os_error) {
        Some(Os::PIPE) => Errno::Pipe,
        Some(Os::PERM) => Errno::Perm,
        Some(Os::NOENT) => Errno::Noent,
        Some(Os::NOMEM) => Errno::Nomem,
        Some(Os::IO) => Errno::Io,
        Some(Os::BADF) => Errno::Badf,
        Some(Os::BUSY) => Errno::Busy,
        Some(Os::ACCESS) => Errno::Acces,
        Some(Os::NOTDIR) => Errno::Notdir,
        Some(Os::ISDIR) => Errno::Isdir,
        Some(Os::INVAL) => Errno::Inval,
        Some(Os::EXIST) => Errno::Exist,
        Some(Os::FBIG) => Errno::Fbig,
        Some(Os::NOSPC) => Errno::Nospc,
        Some(Os::SPIPE) => Errno::Spipe,
        Some(Os::MLINK) => Errno::Mlink,
        Some(Os::NAMETOOLONG) => Errno::Nametoolong,
        Some(Os::NOTEMPTY) => Errno::Notempty,
        Some(Os::LOOP) => Errno::Loop,
        Some(Os::OVERFLOW) => Errno::Overflow,
        Some(Os::ILSEQ) => Errno::Ilseq,
        Some(Os::NOTSUP) => Errno::Notsup,
        Some(Os::ALREADY) => Errno::Already,
        Some(Os::INPROGRESS) => Errno::Inprogress,
        Some(Os::INTR) => Errno::Intr,
        _ => match error.kind() {
            io::ErrorKind::NotFound => Errno::Noent,
            // What leads out of a granted directory.
            io::ErrorKind::PermissionDenied => Errno::Perm,
            io::ErrorKind::AlreadyExists => Errno::Exist,
            io::ErrorKind::InvalidInput => Errno::Inval,
            _ => Errno::Io,
        },
    }
}
