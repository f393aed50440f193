//! All unsafe code of this crate.
//!
//! - `cells`: memory that compiled code and the runtime share, with checked accessors;
//! - `owner`: the pointer to a store, which code carries through the guest and back;
//! - `enter`: onto the guest's stack and off it;
//! - `border`: what compiled code calls;
//! - `cpu`: what the C library knows of the CPU;
//! - `exception`: throwing;
//! - `frames`: the frames of a guest that has called, as words;
//! - `wake`: entering a guest in the middle;
//! - `signal`: faults.

#![allow(unsafe_code)]

pub(crate) mod border;
pub(crate) mod cells;
#[cfg(all(feature = "cpu-of-libc", target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
pub(crate) mod cpu;
pub(crate) mod enter;
mod exception;
pub(crate) mod frames;
pub(crate) mod owner;
pub(crate) mod signal;
pub(crate) mod wake;
