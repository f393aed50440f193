//! What can go wrong with a store.

use crate::trust::Refusal;
use preheat_image::keys::SignError;
use preheat_image::statement::StatementError;
use preheat_image::{Digest, FormatError, InvalidReference};
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("can't {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A name leads nowhere.
    #[error("no image is named `{0}` in this store; `preheat ls` shows the names, `preheat build` makes one")]
    UnknownName(String),
    /// A name leads to another digest than the reference asks for.
    #[error("`{name}` is {found}, not {wanted} as the reference asks; the name was moved")]
    NameMoved {
        /// The name.
        name: String,
        /// Where it leads.
        found: Digest,
        /// What the reference says after `@`.
        wanted: Digest,
    },
    /// A blob is not there.
    #[error("{0} is not in this store; build it again, or get it from where it was built")]
    Missing(Digest),
    /// A short digest fits several images.
    #[error("`{0}` fits more than one image; give more digits")]
    Ambiguous(String),
    /// A blob's bytes are not those of its digest.
    #[error("{digest} is damaged in this store ({}): {what}; run `preheat verify --repair`, then build it again", path.display())]
    Damaged {
        /// The digest that it should have.
        digest: Digest,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A file of the store is not of its format.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FormatError,
    },
    /// A statement is no good.
    #[error("statement about {subject}: {source}")]
    Statement {
        /// What the statement is about.
        subject: Digest,
        /// What is wrong.
        source: StatementError,
    },
    /// The trust policy refuses.
    #[error("{digest} is refused: {refusal}")]
    Refused {
        /// What was to be loaded.
        digest: Digest,
        /// Why not.
        refusal: Refusal,
    },
    /// No code object of the image runs on this host.
    #[error("this host ({host}) can't run the image: it has code for {available}; build it here with `preheat build --cpu {host_level}`")]
    NoVariant {
        /// The host's target and CPU level.
        host: String,
        /// The short name of the host's CPU level.
        host_level: String,
        /// What the image has.
        available: String,
    },
    /// The index can't be used.
    #[error("the store's index {}: {what}", path.display())]
    Index {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Nobody signed what was built.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A text is no reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space, or run `preheat gc`; nothing half-written was left behind",
        io::ErrorKind::QuotaExceeded => "; your quota is used up: free some space, or run `preheat gc`",
        io::ErrorKind::PermissionDenied => "; the store must belong to you, or set PREHEAT_HOME to a directory that does",
        io::ErrorKind::ReadOnlyFilesystem => "; the store is read-only: running from it works, building into it needs another PREHEAT_HOME",
        _ => "",
    }
}

impl StoreError {
    /// Makes the closure that `map_err` wants, for an operation on `path`.
    pub(crate) fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }

    /// Whether the cause is that something is not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing(_) | Self::UnknownName(_) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}
