//! The conversions between guest memory and Rust values, generated from `witx/preview1.witx`: the types, a trait with one method a function,
//! and one function each that reads the arguments, calls the method and writes the results.

// The generator declares an accessor of handles as unsafe. Nothing calls it, and nothing else here is unsafe.
#![allow(unsafe_code)]
#![allow(missing_docs, unreachable_pub, private_interfaces, dead_code, clippy::all, clippy::cast_possible_truncation)]

use crate::error::Failure;

wiggle::from_witx!({
    witx: ["witx/preview1.witx"],
    errors: { errno => Failure },
    tracing: false,
    wasmtime: false,
});

impl wiggle::GuestErrorType for types::Errno {
    fn success() -> Self {
        Self::Success
    }
}
