//! Why a function did not run to its end.

use preheat_loader::StoreError;

/// Why a function could not be loaded, or did not return.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The image could not be loaded.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The code object is not for this engine.
    #[error("can't map the code object: {0:#}; it was made by another build of preheat: build the image again")]
    Code(wasmtime::Error),
    /// The function imports what this runtime does not offer.
    #[error("the function can't be linked: {0:#}")]
    Link(wasmtime::Error),
    /// The instance could not be made.
    #[error("the function can't be instantiated: {0:#}")]
    Instantiate(wasmtime::Error),
    /// A directory could not be opened for the guest.
    #[error("can't open the directory {path} for the guest: {source:#}")]
    Directory {
        /// The directory on the host.
        path: String,
        /// Why.
        source: wasmtime::Error,
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
    #[error("host function: {0:#}")]
    Host(wasmtime::Error),
}

impl RunError {
    /// Sorts what a call into the guest gave.
    pub(crate) fn of_call(error: wasmtime::Error) -> Self {
        if error.downcast_ref::<wasmtime::Trap>().is_some() {
            // The alternate form has the whole chain: the trap's kind comes last, the Wasm stack before it.
            let mut parts: Vec<String> = error.chain().map(ToString::to_string).collect();
            parts.reverse();
            Self::Trap { message: parts.join("\n") }
        } else {
            Self::Host(error)
        }
    }
}
