//! Preheat's shared cache: the service that builders push to and nodes pull from.
//!
//! Plain HTTP: blobs under `/{namespace}/cas/{sha256}`, entries under `/{namespace}/ac/{key}`, the rest under `/v1/`. `docs/cache-server.md`
//! is the operator's guide, `docs/security.md` the threat model.

#![forbid(unsafe_code)]

pub mod storage;
