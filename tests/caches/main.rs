//! The shared cache set up in the ways in which operators do it, and used by the command: who is let in, and who is not; several servers.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../cache-server/tests/common/credentials.rs"]
mod credentials;
#[path = "../../cache-server/tests/common/s3_server.rs"]
mod s3_server;

mod buckets;
mod certificates;
mod ci_identities;
mod redirects;
mod rights;
