//! What one call of a function is given, and how it ends, the same for all engines: a [`Request`], [`Value`]s, [`HostFunction`]s, a
//! [`RunError`]. Callers can exchange engines only if they can't tell them apart, so the words of errors and traps are here too.
//!
//! This crate knows no engine and has no unsafe code.

#![forbid(unsafe_code)]

mod error;
pub mod exit;
mod host;
mod output;
mod request;
pub mod text;
mod trap;
mod value;
mod watch;

pub use error::{Cause, RunError};
pub use host::{GuestMemory, HostCall, HostError, HostFunction};
pub use output::{Output, OutputBuffer};
pub use preheat_image::abi::TrapCode;
pub use request::{Directory, Input, Request};
pub use trap::{Frame, MAX_FRAMES, trap};
pub use value::{Value, ValueType, parse_arguments};
pub use watch::InputWatch;
