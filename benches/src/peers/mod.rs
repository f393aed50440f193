//! Peers: other ways to run the same programs.

pub mod command;
#[cfg(feature = "wasmtime")]
pub mod wasmtime;
