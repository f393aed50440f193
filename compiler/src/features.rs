//! Which features of Wasm the native engine has, and the names of those that it lacks.

use crate::CompileError;
use wasmparser::{Validator, WasmFeatures};

/// Wasm 2.0 with extended constants, tail calls, multiple memories, relaxed SIMD and exceptions.
pub(crate) const SUPPORTED: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::TAIL_CALL)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::RELAXED_SIMD)
    .union(WasmFeatures::EXCEPTIONS);

/// What else a module may want. The order is that in which they are tried.
const OTHERS: [(WasmFeatures, &str); 10] = [
    (WasmFeatures::LEGACY_EXCEPTIONS, "legacy exceptions"),
    (WasmFeatures::THREADS, "threads"),
    (WasmFeatures::MEMORY64, "64-bit memories"),
    (WasmFeatures::FUNCTION_REFERENCES, "typed function references"),
    (WasmFeatures::GC.union(WasmFeatures::FUNCTION_REFERENCES), "garbage collection"),
    (WasmFeatures::WIDE_ARITHMETIC, "wide arithmetic"),
    (WasmFeatures::CUSTOM_PAGE_SIZES, "custom page sizes"),
    (WasmFeatures::STACK_SWITCHING.union(WasmFeatures::FUNCTION_REFERENCES), "stack switching"),
    (WasmFeatures::MEMORY_CONTROL, "memory control"),
    (WasmFeatures::SHARED_EVERYTHING_THREADS.union(WasmFeatures::THREADS), "shared-everything threads"),
];

/// Turns the error that `wasm` gave into the name of the missing feature, if that is what is wrong.
pub(crate) fn classify(wasm: &[u8], error: CompileError) -> CompileError {
    let CompileError::Invalid { .. } = error else { return error };
    if wasmparser::Parser::is_component(wasm) {
        return CompileError::Unsupported { feature: "components" };
    }
    let valid = |features: WasmFeatures| Validator::new_with_features(SUPPORTED | features).validate_all(wasm).is_ok();
    if let Some((_, feature)) = OTHERS.iter().find(|(features, _)| valid(*features)) {
        return CompileError::Unsupported { feature };
    }
    let all = OTHERS.iter().fold(WasmFeatures::empty(), |all, (features, _)| all | *features);
    if valid(all) { CompileError::Unsupported { feature: "several features of this module" } } else { error }
}
