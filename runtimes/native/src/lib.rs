//! Preheat's native engine: runs code objects that `preheat-compiler` made, without compiling, decoding or relocating anything.
//!
//! An [`Engine`] loads trusted code into a [`Module`]. A [`Linker`] says what its imports are and resolves them once, to an
//! [`InstancePre`]. A [`Store`] is where instances live that may use each other: it belongs to one thread at a time, and all that its
//! instances hold goes back to the engine's pools when it is dropped.
//!
//! What compiled code may expect is `preheat_image::abi`; `docs/native-engine.md` explains it. x86-64 Linux only.
//!
//! # Signals
//! Traps are faults. The engine installs handlers for SIGSEGV, SIGBUS, SIGILL and SIGFPE when the first one is made, and passes on to the
//! handlers that were there what is not the fault of a guest. Who installs handlers later must do the same. Handlers of other signals
//! should run on the alternate stack (`SA_ONSTACK`): a guest may have used up its own.
//!
//! This crate must never know how the store is laid out, or decide whom to trust: it takes `TrustedCode`.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![deny(unsafe_code)]

mod callstack;
mod capture;
mod config;
mod engine;
mod error;
mod exceptions;
mod frozen;
mod func;
mod host;
mod instance;
mod instantiate;
mod interrupt;
mod libcalls;
mod linker;
mod module;
mod objects;
mod registry;
mod resume;
mod sharing;
mod stack;
mod store;
mod sys;
mod trap;
mod types;
mod value;
mod wake;

pub use callstack::{CapturedFrame, CapturedStack};
pub use capture::{CapturedState, SnapshotParts, WrittenMemory};
pub use config::{Config, Limits};
pub use engine::{Engine, host_cpu};
pub use error::{Error, HostError};
pub use frozen::{Frozen, HeapFile};
pub use func::{Func, TypedFunc, WasmResults};
pub use host::{Caller, IntoFunc, IntoResults};
pub use instance::{Extern, Instance};
pub use interrupt::InterruptHandle;
pub use linker::{InstancePre, Linker};
pub use module::{ExportType, ImportType, Module};
pub use objects::{ExnRef, ExternRef, Global, Memory, Table, Tag};
pub use preheat_image::abi::{TrapCode, ValueType};
pub use preheat_loader::map::{Method as WrittenPages, PoolLimits};
pub use resume::ResumeCode;
pub use store::{AsStore, AsStoreMut, Store};
pub use trap::{Frame, Trap};
pub use types::{ExternType, FuncType, GlobalType, MemoryType, TableType};
pub use value::{Val, WasmParams, WasmTy};
