//! OCI registries and layout directories as places for images and Wasm files.
//!
//! [`Packed`] says how an image or a Wasm file is laid out as an OCI artefact. [`Registry`] and [`Layout`] are places that hold artefacts, each
//! a [`Repository`]; [`push`], [`open`] and [`pull_blobs`] work with either. As everywhere in this crate, bytes count only once their digest
//! is right, and nothing is trusted for having been there: statements and the reader's policy say what may run.

mod auth;
mod carry;
mod credentials;
mod layout;
mod mapping;
pub mod reference;
mod registry;
mod registry_upload;
mod spec;
mod wasm;

pub use carry::{Found, Pushed, open, pull_blobs, push};
pub use credentials::{DockerConfig, RegistryCredentials};
pub use layout::{Layout, LayoutEntry};
pub use mapping::{Bundle, Content, Packed};
pub use reference::{InvalidReference, Reference, Version};
pub use registry::{Registry, RegistryConfig, Scheme};
pub use spec::{EMPTY, IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST, REF_NAME, TITLE};
pub use wasm::{CONFIG as WASM_CONFIG, WasmFile, WasmKind};

use crate::blob::{Blob, BlobSink, Progress};
use crate::error::ClientError;
use crate::upload::Source;
use async_trait::async_trait;
use preheat_image::{Digest, FormatError};

/// A manifest as a repository has it. Its digest is right: it was computed from the bytes, and compared where one was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawManifest {
    /// The digest of the bytes.
    pub digest: Digest,
    /// The media type that came with them, where one did.
    pub media_type: Option<String>,
    /// The bytes, at most [`MAX_MANIFEST`].
    pub bytes: Vec<u8>,
}

/// What an artefact is, as far as its manifest says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// An image.
    Image,
    /// A Wasm file.
    Wasm,
    /// Several artefacts under one name.
    Index,
}

impl RawManifest {
    /// What this is the manifest of.
    ///
    /// # Errors
    /// When it is of nothing that is known here.
    pub fn kind(&self) -> Result<Kind, FormatError> {
        match spec::Document::parse(&self.bytes, self.media_type.as_deref())? {
            spec::Document::Index(_) => Ok(Kind::Index),
            spec::Document::Manifest(oci) => match mapping::Outline::of(&oci)? {
                mapping::Outline::Image { .. } => Ok(Kind::Image),
                mapping::Outline::Wasm { .. } => Ok(Kind::Wasm),
            },
        }
    }
}

/// A place that holds manifests under tags and digests, and blobs under digests.
#[async_trait]
pub trait Repository: Send + Sync {
    /// What to call it in messages.
    fn shown(&self) -> String;

    /// A manifest or an index.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::NotFound`] when there is none.
    async fn manifest(&self, version: &Version) -> Result<RawManifest, ClientError>;

    /// Whether a blob is there.
    ///
    /// # Errors
    /// [`ClientError`].
    async fn has_blob(&self, blob: &Blob) -> Result<bool, ClientError>;

    /// Fetches a blob into `sink`, which has to be empty. Only after success are its bytes those of the digest; after an error nothing may be
    /// used of what the sink took.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::DigestMismatch`] when there are other bytes, [`ClientError::Local`] when the sink fails.
    async fn get_blob(&self, blob: &Blob, sink: &mut dyn BlobSink, progress: &dyn Progress) -> Result<(), ClientError>;

    /// Brings a blob.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::Local`] when the source fails or has another length.
    async fn put_blob(&self, blob: &Blob, source: &Source, progress: &dyn Progress) -> Result<(), ClientError>;

    /// Brings a manifest whose blobs are all there. Without a tag it is found by its digest only.
    ///
    /// # Errors
    /// [`ClientError`].
    async fn put_manifest(&self, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Result<(), ClientError>;
}
