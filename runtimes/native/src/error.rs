//! Why something did not work.

use crate::trap::{Frame, Trap};
use preheat_image::FormatError;
use preheat_loader::StoreError;
use std::fmt;
use std::io;

/// Why the engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The code object could not be mapped.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code object is damaged, or of another version.
    #[error("{0}; it was made by another build of preheat: build the image again")]
    Format(#[from] FormatError),
    /// The code object is for another engine or another CPU.
    #[error("{0}")]
    Code(String),
    /// The imports don't fit.
    #[error("can't link: {0}")]
    Link(String),
    /// Arguments, results or another use do not fit the type.
    #[error("{0}")]
    Type(String),
    /// More than the limits allow.
    #[error("limit reached: {0}")]
    Limit(String),
    /// The state of an instance can't be captured.
    #[error("can't freeze: {0}")]
    Freeze(String),
    /// A heap snapshot does not fit the module, the layers below it or the resume object.
    #[error("a frozen state does not fit: {0}")]
    Frozen(String),
    /// The operating system refused.
    #[error("can't {action}: {source}")]
    System {
        /// What was tried, as a verb.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The guest trapped.
    #[error(transparent)]
    Trap(#[from] Box<Trap>),
    /// A host function failed.
    #[error(transparent)]
    Host(HostError),
}

impl Error {
    /// From an error of a host function, to be returned by it. The call of the guest ends with [`Error::Host`].
    pub fn host(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Host(HostError { source: source.into(), frames: Vec::new(), quiet: false })
    }

    /// As [`Self::host`], for what is no failure, such as the end that a guest asked for: nobody will want to know where the guest was, and its
    /// frames are not looked up. That would touch tables of the code object which nothing else needs.
    pub fn end(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Host(HostError { source: source.into(), frames: Vec::new(), quiet: true })
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::System { action, source: errno.into() }
    }

    /// The trap, if it is one.
    #[must_use]
    pub fn trap(&self) -> Option<&Trap> {
        match self {
            Self::Trap(trap) => Some(trap),
            _ => None,
        }
    }

    /// What a host function returned, if it is of type `E`.
    #[must_use]
    pub fn downcast_host<E: std::error::Error + 'static>(&self) -> Option<&E> {
        match self {
            Self::Host(error) => error.source.downcast_ref(),
            _ => None,
        }
    }
}

/// What a host function returned, and where the guest was.
#[derive(Debug)]
pub struct HostError {
    /// The error.
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// The guest's frames, innermost first; none if the host function said that they do not matter.
    pub frames: Vec<Frame>,
    pub(crate) quiet: bool,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.source)?;
        crate::trap::write_frames(f, &self.frames)
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.source()
    }
}
