//! How often each part of a function runs: which counters to put into its code, and what they say.
//!
//! All of this is about a validated body as Wasm has it, and knows nothing of what is made of it. A body is a graph ([`Graph`]) of blocks
//! and of edges that have names ([`EdgeKey`]) by which a translator finds them. Some edges get counters ([`Counters`]); what these have
//! counted gives the counts of all edges and blocks ([`solve::Flow`]), and those what is kept in a profile ([`mod@sites`]). A profile is of use for
//! another build of the program if it can be told which functions are the same ([`digest`]).
//!
//! Offsets are relative to the first byte of the body, which is where its locals are declared.

mod counters;
mod digest;
mod graph;
mod loops;
mod sets;
mod sites;
mod solve;
#[cfg(test)]
mod tests;

pub(crate) use counters::Counters;
pub(crate) use digest::{Signatures, body_digest, shape_digest};
pub(crate) use graph::{EdgeKey, Graph};
pub(crate) use sites::{SiteCounts, site_offsets, sites};
pub(crate) use solve::solve;
