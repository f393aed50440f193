//! Preheat's cold-start benchmark: a [`harness`] that runs systems in turns on the same programs and inputs, [`stats`] that say how far a
//! figure can be trusted, a [`corpus`] of real programs, and [`report`]s. With the feature `wasmtime` also `engine`, which sets an engine beside
//! wasmtime where starts don't count: steady state, compiling, slots.
//!
//! A system is an adapter of one file. Those of Preheat itself are beside the command that uses them, since this crate must not know the
//! rest of Preheat; the others are in [`peers`].

#![deny(unsafe_code)]

pub mod corpus;
pub mod density;
#[cfg(feature = "wasmtime")]
pub mod engine;
pub mod harness;
pub mod peers;
pub mod process;
pub mod report;
pub mod stats;
pub mod workload;
