//! Preheat's store and its trust.
//!
//! The [`store`] keeps blobs by digest, verified statements about them, and names. A [`trust::TrustPolicy`] says whose statements count.
//! [`Store::load`] brings the two together: what comes out, a [`TrustedImage`] and its [`TrustedFile`]s, was hashed when it entered the
//! store, has not been written since, and is covered by a statement that the policy of this call accepts.
//!
//! [`map`] turns trusted files into memory: code to be executed, and slots in which guests have their memories and tables.
//!
//! This crate must never know how code is compiled or run.

#![deny(unsafe_code)]

pub mod ceremony;
mod error;
mod home;
mod load;
pub mod map;
mod roots;
mod seen;
mod signer;
pub mod store;
pub mod trust;

pub use error::StoreError;
pub use home::Home;
pub use load::{LoadOptions, TrustedCode, TrustedFile, TrustedImage};
pub use roots::{NewRoot, TrustError, TrustUpdate, TrustedRoot, verify_revocations};
pub use signer::{CommandSigner, KeyFile, Rotated};
pub use store::Store;
pub use trust::TrustPolicy;
