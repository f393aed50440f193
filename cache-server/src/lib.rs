//! Preheat's shared cache: the service that builders push to and nodes pull from.
//!
//! Plain HTTP: blobs under `/{namespace}/cas/{sha256}`, entries under `/{namespace}/ac/{key}`, the rest under `/v1/`. `docs/cache-server.md`
//! is the operator's guide, `docs/security.md` the threat model.
//!
//! A request goes through `listen` (connection, TLS, slow clients), `access_log` (trace id, caller, metrics, log), a file of `routes`, which
//! asks `access` whether the caller may, and then [`storage`].

#![forbid(unsafe_code)]

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
mod merge;
mod metrics;
mod namespaces;
mod pace;
mod rate;
mod records;
mod routes;
mod server;
mod state;
mod statements;
pub mod storage;
mod tls;
mod tokens_cli;
mod trust;
mod upload;
mod usage;
mod verified;
mod watched;

pub use auth::tokens;
pub use auth::{AuthConfig, ClientRule, JwtAlgorithm, OidcIssuer, OidcRule, Pattern, Right, Wild};
pub use collect::CollectConfig;
pub use config::{Config, Limits, LogConfig, ServeArgs};
pub use listen::ConnectionLimits;
pub use rate::Rate;
pub use server::{Server, run};
pub use storage::bucket::BucketConfig;
pub use tls::TlsConfig;
pub use tokens_cli::{TokenArgs, run_token};
