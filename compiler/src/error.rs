//! Why Wasm did not become a code object.

use preheat_image::FormatError;

/// Wasm that can't be compiled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The bytes are no valid Wasm, whatever features are on.
    #[error("invalid Wasm at offset {offset:#x}: {message}")]
    Invalid {
        /// Where in the bytes.
        offset: usize,
        /// What is wrong.
        message: String,
    },
    /// Valid Wasm, but of a feature that the native engine does not have.
    #[error("the native engine does not support {feature}")]
    Unsupported {
        /// The feature, in words.
        feature: &'static str,
    },
    /// Valid Wasm, but too large in some way.
    #[error("{what} is too large for the native engine")]
    Limit {
        /// What is too large.
        what: String,
    },
    /// A program can't be frozen or resumed there.
    #[error("{function} has no call at offset {offset:#x} of the Wasm at which it could be resumed")]
    NoSite {
        /// The function in which the site should be.
        function: String,
        /// Its offset in the Wasm bytes.
        offset: u32,
    },
    /// A resume object was asked for with a code object to which it can't belong.
    #[error("can't make a resume object: {message}")]
    Base {
        /// What is wrong with the code object.
        message: String,
    },
    /// The code generator failed: a defect in this crate or in Cranelift.
    #[error("can't generate code for {what}: {message}")]
    Codegen {
        /// For what.
        what: String,
        /// What the code generator says.
        message: String,
    },
    /// The code object could not be written.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl From<wasmparser::BinaryReaderError> for CompileError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Invalid { offset: error.offset(), message: error.message().to_owned() }
    }
}
