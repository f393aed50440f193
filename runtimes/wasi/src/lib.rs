//! WASI preview 1 for the native engine.
//!
//! [`FUNCTIONS`] is the table of the 46 functions of `wasi_snapshot_preview1` with their Wasm signatures. An engine looks a function up once,
//! when it links a module, and then calls it with a [`Context`] and the guest's memory; no names are compared when an instance starts.
//!
//! What a guest may see is in [`Grants`], which many requests share, and in the [`Context`] of one request. Making a context opens nothing and
//! allocates nothing: the table of descriptors is built when the guest first opens or closes one. All that a guest learns from outside goes
//! through [`Host`], which may record it or answer in its place.
//!
//! A guest can be frozen where it first wants standard input ([`Context::set_freeze`], [`Stop::Freeze`]): a [`Recording`] is its host until
//! then, [`Context::host_state`] what must be kept for it, and [`Wake`] makes contexts in which it goes on, on this machine or another.
//!
//! What guests see is what wasmtime's implementation shows them, number for number, so that a function behaves the same on both engines.
//! `tests/differential.rs` compares them.
//!
//! ```
//! use preheat_wasi::{Context, Grants, GuestMemory, Output, Stop, find};
//! use std::sync::Arc;
//!
//! let (stdout, buffer) = Output::buffer(1 << 20);
//! let mut context = Context::new(Arc::new(Grants::new().args(["app"])));
//! context.set_stdout(stdout);
//!
//! #[repr(align(8))]
//! struct Memory([u8; 64]);
//! let mut memory = Memory([0; 64]);
//! memory.0[..8].copy_from_slice(&[8, 0, 0, 0, 2, 0, 0, 0]); // One buffer: two bytes at address 8.
//! memory.0[8..10].copy_from_slice(b"hi");
//! let mut memory = GuestMemory::Unshared(&mut memory.0);
//! let errno = find("fd_write").unwrap().call(&mut context, &mut memory, &[1, 0, 1, 16]).unwrap();
//! assert_eq!((errno, &buffer.contents()[..]), (0, &b"hi"[..]));
//! assert!(matches!(find("proc_exit").unwrap().call(&mut context, &mut memory, &[3]), Err(Stop::Exit(3))));
//! ```
#![deny(unsafe_code)]

mod abi;
mod calls;
mod context;
mod descriptor;
mod digest;
mod error;
mod freeze;
mod functions;
mod grants;
mod host;
mod host_state;
mod interrupt;
mod late;
mod record;
mod recording;
mod reopen;
mod stream;
mod wake;

pub use abi::types::Errno;
pub use context::{Context, Counters};
pub use descriptor::{Access, Described, Origin};
pub use digest::FileDigest;
pub use error::Stop;
pub use freeze::{Cause, FreezeRefusal};
pub use functions::{FUNCTIONS, Function, MODULE, ValueType, find};
pub use grants::{Grants, Preopen};
pub use host::{Host, Observation, SystemHost};
pub use host_state::{EarlyOutput, FormatError, HostState, OutputStream};
pub use interrupt::Interrupt;
pub use late::WAKE_DIRECTORY;
pub use record::{ClockReads, FileRead, Record, Stale};
pub use recording::Recording;
pub use stream::{Input, Output, OutputBuffer};
pub use wake::{Streams, Wake, WakeError};
pub use wiggle::GuestMemory;
