//! The client of Preheat's shared cache, and of OCI registries.

#![forbid(unsafe_code)]
