//! The client against a server that misbehaves as it is told to.

mod blobs;
mod caches;
mod oci;
mod requests;
mod script;
mod tls;
mod transfers;
mod uploads;
