//! Why a function did not run to its end.

use crate::host::HostError;
use preheat_loader::StoreError;
use std::fmt;

/// Why a function could not be loaded, or did not return.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The image could not be loaded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code object is not for this engine.
    #[error("can't map the code object: {0}; it was made by another build of preheat: build the image again")]
    Code(Cause),
    /// The function imports what this runtime does not offer.
    #[error("the function can't be linked: {0}")]
    Link(Cause),
    /// The instance could not be made.
    #[error("the function can't be instantiated: {0}")]
    Instantiate(Cause),
    /// The frozen program could not be woken.
    #[error("the frozen program can't be woken: {0}")]
    Wake(Cause),
    /// A directory could not be opened for the guest.
    #[error("can't open the directory {path} for the guest: {why}")]
    Directory {
        /// The directory on the host.
        path: String,
        /// Why.
        why: Cause,
    },
    /// The guest trapped.
    #[error("trap: {message}")]
    Trap {
        /// Which trap, with the Wasm stack.
        message: String,
    },
    /// The deadline passed.
    #[error("the deadline of {0:?} has passed")]
    Timeout(std::time::Duration),
    /// The request asks for what this function is not.
    #[error("{0}")]
    Usage(String),
    /// A host function failed.
    #[error("host function: {0}")]
    Host(Cause),
}

/// An engine's or a host function's own error. As text it has those below it too.
#[derive(Debug)]
pub struct Cause(HostError);

impl Cause {
    /// The error.
    #[must_use]
    pub fn get(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl<E: Into<HostError>> From<E> for Cause {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut below = self.0.source();
        while let Some(error) = below {
            write!(f, ": {error}")?;
            below = error.source();
        }
        Ok(())
    }
}
