//! Makes functions start hot: compiles Wasm ahead of time into signed native images, keeps them in a content-addressed store, and maps
//! them in microseconds, with no compiler in the way.
//!
//! Five types are enough for an embedder:
//!
//! - [`Home`] is a directory with a [`Store`], the key of this builder, and a [`TrustPolicy`].
//! - [`Builder`] makes images out of Wasm, or finds that they are there.
//! - [`Runtime`] is the engine of a process. It loads an [`Image`].
//! - [`Image::run`] runs a command once; [`Image::instance`] gives an [`Instance`] whose exports are called one by one.
//!
//! ```
//! use preheat::{Builder, Home, Output, Request, Runtime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let home = Home::at(path);
//! let wasm = r#"(module (func (export "_start")))"#;
//! let built = Builder::new(&home)?.build_bytes("hello", wasm.as_bytes())?;
//!
//! let runtime = Runtime::new()?;
//! let image = runtime.load(&home, &built.digest)?;
//! let (stdout, buffer) = Output::buffer(1 << 20);
//! let exit = image.run(&Request::new().args(["world"]).stdout(stdout))?;
//! assert_eq!(exit, 0);
//! assert!(buffer.contents().is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! Custom host functions, exports, limits:
//!
//! ```
//! use preheat::{Builder, Home, HostFunction, Request, Runtime, Value, ValueType};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let home = Home::at(path);
//! let wasm = r#"(module
//!     (import "host" "double" (func $double (param i32) (result i32)))
//!     (func (export "f") (param i32) (result i32) local.get 0 call $double i32.const 1 i32.add)
//!     (func (export "spin") (loop br 0)))"#;
//! let built = Builder::new(&home)?.build_bytes("plugin", wasm.as_bytes())?;
//!
//! let double = HostFunction::new("host", "double", &[ValueType::I32], &[ValueType::I32], |_call, args| match args {
//!     [Value::I32(value)] => Ok(vec![Value::I32(value.wrapping_mul(2))]),
//!     _ => Err("takes one i32".into()),
//! });
//! let runtime = Runtime::builder().host_function(double).build()?;
//! let image = runtime.load(&home, &built.digest)?;
//!
//! let mut instance = image.instance(&Request::new())?;
//! assert_eq!(instance.call("f", &[Value::I32(20)])?, [Value::I32(41)]);
//!
//! let limited = Request::new().timeout(Duration::from_millis(20)).max_memory(64 << 20);
//! let error = image.instance(&limited)?.call("spin", &[]).unwrap_err();
//! assert!(matches!(error, preheat::RunError::Timeout(_)));
//! # Ok(())
//! # }
//! ```
//!
//! Asynchronous, with many at once and cancellation by dropping:
//!
//! ```
//! use preheat::{Builder, Home, Request, Runtime};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let home = Home::at(path);
//! let spin = Builder::new(&home)?.build_bytes("spin", br#"(module (func (export "_start") (loop br 0)))"#)?;
//! let runtime = Runtime::new()?;
//! let image = runtime.load(&home, &spin.digest)?;
//! let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
//! let error = tokio.block_on(async {
//!     let limited = Request::new().timeout(std::time::Duration::from_millis(20));
//!     let calls = (image.run_async(&limited), image.run_async(&limited));
//!     tokio::join!(calls.0, calls.1).0.unwrap_err()
//! });
//! assert!(matches!(error, preheat::RunError::Timeout(_)));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod enforce;
mod pipeline;
pub mod remote;
mod runtime;

pub use enforce::TrustWatch;
pub use pipeline::{
    Applied, Apply, ApplyError, Baked, BuildError, Builder, Built, BuiltCode, BuiltFrozen, Carried, DEFAULT_ENGINE, DEFAULT_LEVELS,
    Difference, Differing, Engine, EngineChoice, Freeze, Outcome, Promoted, Rebuild, Rebuilt, RecordError, RecordedRequest, Trial, Verdict,
    carry_over, function_names, source_digest, wasm_of,
};
pub use preheat_call::{Cause, Directory, HostCall, HostError, HostFunction, Input, Output, Request, RunError, Value, ValueType};
pub use preheat_compiler::Passes;
pub use preheat_image::evidence;
pub use preheat_image::frozen::{FreezePoint, Frozen};
pub use preheat_image::profile;
pub use preheat_image::{CpuLevel, Digest, Manifest, Reference, manifest, media};
pub use preheat_loader::{
    CommandSigner, Home, KeyFile, LoadOptions, NewRoot, Rotated, Store, StoreError, TrustError, TrustPolicy, TrustUpdate, TrustedImage,
    TrustedRoot, ceremony, store, trust, verify_revocations,
};
pub use preheat_native_wasi::{FreezeError, FreezeLimits, FreezeRecord, Looked, MAX_FREEZE_RECORD};
pub use preheat_wasmtime::compile::Optimize;
pub use preheat_wasmtime::{TARGET, http_types};
pub use runtime::{Image, Instance, Runtime, RuntimeBuilder};
