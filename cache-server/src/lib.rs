//! Preheat's shared cache: the service that builders push to and nodes pull from.
//!
//! Plain HTTP: blobs under `/{namespace}/cas/{sha256}`, entries under `/{namespace}/ac/{key}`, the rest under `/v1/`. `docs/cache-server.md`
//! is the operator's guide, `docs/security.md` the threat model.
//!
//! A request goes through `listen` (connection, TLS, slow clients), `access_log` (trace id, caller, metrics, log), a file of `routes`, which
//! asks `access` whether the caller may, and then [`storage`].

#![forbid(unsafe_code)]
#![allow(dead_code)]

mod access;
mod access_log;
mod auth;
mod body;
mod budget;
mod clock;
mod collect;
mod compress;
mod conditions;
mod config;
mod error;
mod leases;
mod listen;
mod log;
mod metrics;
mod namespaces;
mod records;
mod routes;
mod server;
mod state;
pub mod storage;
mod trust;
mod upload;
mod usage;
mod verified;

pub use collect::CollectConfig;
pub use config::{AuthConfig, Config, Limits, LogConfig, ServeArgs};
pub use listen::{ConnectionLimits, TlsConfig};
pub use server::{Server, run};
pub use storage::bucket::BucketConfig;
