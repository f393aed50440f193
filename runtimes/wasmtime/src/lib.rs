//! Preheat's wasmtime engine: everything that Wasm has, compiled and run by the `wasmtime` crate.
//!
//! [`WasmtimeEngine::load`] takes only a [`preheat_loader::TrustedCode`], so nothing that no builder vouched for becomes executable.
//! Compiling ([`compile::Compiler`]) is a feature of its own: a node that only runs images has no compiler in it.
//!
//! This crate must never know how the store is laid out, or decide whom to trust.

#![deny(unsafe_code)]

#[cfg(feature = "compile")]
pub mod compile;
mod config;
mod engine;
mod error;
#[cfg(feature = "compile")]
pub mod freeze;
mod host;
mod http;
mod instance;
mod loaded;
mod state;
mod streams;
mod sys;
mod ticker;
mod value;
mod wake;

pub use config::{BUILD_ID, COMPILER, ENGINE, TARGET};
pub use engine::{EngineOptions, WasmtimeEngine};
pub use instance::Instance;
pub use loaded::Loaded;
pub use ticker::alone;

pub use ::http as http_types;
