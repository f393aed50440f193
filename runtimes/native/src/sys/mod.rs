//! All unsafe code of this crate.
//!
//! - `cells`: memory that compiled code and the runtime share, with checked accessors;
//! - `owner`: the pointer to a store, which code carries through the guest and back;
//! - `enter`: onto the guest's stack and off it;
//! - `border`: what compiled code calls;
//! - `cpu`: what the C library knows of the CPU;
//! - `exception`: throwing;
//! - `signal`: faults.

#![allow(unsafe_code)]

pub(crate) mod border;
pub(crate) mod cells;
#[cfg(all(feature = "cpu-of-libc", target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
pub(crate) mod cpu;
pub(crate) mod enter;
mod exception;
pub(crate) mod owner;
pub(crate) mod signal;
