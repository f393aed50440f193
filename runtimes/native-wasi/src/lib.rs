//! Functions on the native engine: `preheat-native` runs the code, `preheat-wasi` is what guests see of the world, and here one is linked to
//! the other and a [`Request`](preheat_call::Request) becomes a call.
//!
//! An import is looked up once, when an image is loaded. What a call costs beyond the guest's own work is a store, a slot and a
//! [`preheat_wasi::Context`]; nothing is opened and no name compared that the request does not ask for.
//!
//! All calls are synchronous: the guest runs on the caller's thread. [`Cancellation`] ends one from another thread.
//!
//! This crate must never know how the store is laid out, or decide whom to trust; it has no compiler in it and no unsafe code.

#![forbid(unsafe_code)]

mod cancel;
mod context;
mod engine;
mod error;
mod freeze;
mod instance;
mod link;
mod loaded;
mod wake;

pub use cancel::Cancellation;
pub use engine::{ENGINE, EngineOptions, NativeEngine, TARGET};
pub use freeze::{
    FreezeBase, FreezeError, FreezeLimits, FreezeOptions, Frost, GoOn, MAX_FREEZE_RECORD, RECORDED_REALTIME, check_frozen_files, last_words,
};
pub use instance::Instance;
pub use loaded::{Loaded, Looked};
pub use preheat_native::{WrittenMemory, host_cpu};
pub use preheat_wasi::{Record as FreezeRecord, Recording};
pub use wake::FrozenFiles;
