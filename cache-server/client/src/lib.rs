//! The client of Preheat's shared cache, and of OCI registries.
//!
//! A [`Cache`] is one service: it asks what is missing, moves blobs, statements, names, roots and revocations, and believes nothing it is
//! told. A blob's bytes count only once their digest is right; JSON is bounded; signed documents are parsed by `preheat-image`, and
//! whether they count is for the caller to say, who remembers what was seen before. [`Caches`] are several services in order, for a build that must not suffer when one is slow or down.
//! [`transfer`] moves many blobs at a time.
//!
//! This crate knows nothing of the local store and has no unsafe code. Nothing here adds trust.

#![forbid(unsafe_code)]

mod blob;
mod cache;
mod caches;
mod config;
mod error;
mod http;
pub mod oci;
mod retry;
mod tls;
pub mod transfer;
mod upload;

pub use blob::{Blob, BlobSink, Progress};
pub use cache::{Cache, CurrentNames, CurrentRevocations, CurrentSummary, ETag, Expect, PutOutcome, Weighing};
pub use caches::Caches;
pub use config::{CacheConfig, ClientIdentity, Compression, Credentials, Patience, Secret};
pub use error::ClientError;
pub use upload::Source;
