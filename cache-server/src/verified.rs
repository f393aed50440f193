//! Remembers which chunks of which files were found whole, so that later reads need not hash them again.

/// What was verified.
#[derive(Debug, Default)]
pub(crate) struct Verified;
