//! Preheat's formats, and nothing else.
//!
//! Everything that is written to a disk or sent over a wire is defined here, byte by byte: what a [`Digest`] looks like as text, the
//! [`Manifest`] that names an image's artefacts, the [`Statement`] that a builder signs, the [`code`] object and [`heap`] snapshot
//! containers, [`profile`]s, what the [`native`] engine's code objects hold and the [`abi`] of their code, [`chunks`] lists, the [`key`]s under which builds are found again, [`Reference`]s, the [`record`]s that a store keeps and the [`brief`]s
//! that a load reads instead, and the
//! [`signed`] documents (a [`root`], [`names`], a list of [`revocation`]s) and JSON (the [`api`]) that a cache and its clients exchange.
//! `docs/image-format.md` is the specification; the constants here carry its names.
//!
//! This crate reads and writes byte slices. It opens no file, knows no engine and has no unsafe code. Every parser takes untrusted bytes:
//! it never panics and never allocates more than a small multiple of what it was given.

#![forbid(unsafe_code)]

pub mod abi;
pub mod api;
pub mod brief;
pub mod chunks;
pub mod code;
mod cpu;
mod digest;
mod elf;
pub mod evidence;
pub mod frozen;
pub mod heap;
pub mod key;
pub mod keys;
pub mod manifest;
pub mod media;
pub mod names;
pub mod native;
pub mod profile;
pub mod record;
pub mod reference;
pub mod revocation;
pub mod root;
pub mod signed;
pub mod statement;

pub use cpu::{CpuLevel, UnknownCpuLevel};
pub use digest::{Digest, DigestHasher, InvalidDigest};
pub use key::KeyFields;
pub use manifest::Manifest;
pub use reference::{InvalidReference, Reference};
pub use statement::Statement;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes do not begin as this format does.
    #[error("not a {format}: {found}")]
    NotThisFormat {
        /// The format that was expected, in words.
        format: &'static str,
        /// What is there instead.
        found: String,
    },
    /// The format is right, but of a version that this reader does not know.
    #[error("{format} of version {found}, but this preheat reads version {supported}; update preheat or rebuild the image")]
    Version {
        /// The format, in words.
        format: &'static str,
        /// The version that the bytes claim.
        found: u32,
        /// The version that this reader knows.
        supported: u32,
    },
    /// The bytes end before the format does.
    #[error("{format} is truncated: {need} bytes needed, {have} there")]
    Truncated {
        /// The format, in words.
        format: &'static str,
        /// How many bytes the format needs at least.
        need: u64,
        /// How many bytes are there.
        have: u64,
    },
    /// A field has a value that the specification forbids.
    #[error("{format} is damaged: {what}")]
    Damaged {
        /// The format, in words.
        format: &'static str,
        /// What is wrong.
        what: String,
    },
}
