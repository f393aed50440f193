//! The one place where wasmtime is configured. Compiler and runtime must agree on everything that changes code.

use wasmtime::{Config, ModuleVersionStrategy};

/// The name of this engine in manifests and keys.
pub const ENGINE: &str = "wasmtime";
/// The target for which this build compiles and on which it runs.
pub const TARGET: &str = "x86_64-unknown-linux-gnu";
/// The compiler with its full version.
pub const COMPILER: &str = concat!("preheat ", env!("CARGO_PKG_VERSION"), ", wasmtime 48, cranelift ", env!("PREHEAT_CRANELIFT_VERSION"));
/// Digest over everything that went into this build of the compiler: its sources, its packages with their checksums, the Rust compiler.
pub const BUILD_ID: &str = env!("PREHEAT_BUILD_ID");

/// What compiler and runtime agree on.
pub(crate) fn shared() -> Result<Config, wasmtime::Error> {
    let mut config = Config::new();
    // By default only the major version of the crate is compared.
    config.module_version(ModuleVersionStrategy::Custom(format!("{COMPILER}, {BUILD_ID}")))?;
    // The check in every loop that makes deadlines and cancellation possible.
    config.epoch_interruption(true);
    // No tables for the C++ unwinder: wasmtime's own backtraces, and profilers, go by frame pointers. Registering those of a module with
    // many functions took a tenth of its cold start (json-go: 1.05 times wasmtime by hand with them, 0.86 to 1.03 without).
    config.native_unwind_info(false);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(32));
    Ok(config)
}
