//! What profiles say of a function: how often its loops, calls and conditions were reached, and which way they went.
//!
//! Sites are in the order of their offsets, and there are none where nothing can be reached. Functions with the same
//! [digests](super::digest) have the same sites in the same order, but perhaps at other offsets.

use super::graph::{EdgeKey, Graph, SiteKind};
use super::solve::Flow;
use wasmparser::{BinaryReaderError, FunctionBody};

/// A site with its counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SiteFlow {
    /// Where the instruction is.
    pub(crate) offset: u32,
    pub(crate) counts: SiteCounts,
}

/// The counts of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SiteCounts {
    /// `loop`: how often its header was reached, from above and by branches. `call` and `return_call`: how often its block was.
    Reached(u64),
    /// `br_if` and `if`: how often a condition was looked at, and how often it held.
    Branch { reached: u64, taken: u64 },
    /// `br_table`: how often each arm was taken, the default last.
    Table { arms: Vec<u64> },
    /// `call_indirect` and `return_call_indirect`: how often its block was reached.
    Indirect { reached: u64 },
}

/// The sites of a function.
pub(crate) fn sites(graph: &Graph, flow: &Flow<'_>) -> Vec<SiteFlow> {
    let site = |(offset, kind): &(u32, SiteKind)| {
        let arm = |arm| flow.edge(EdgeKey { offset: *offset, arm });
        let counts = match *kind {
            SiteKind::Loop(block) | SiteKind::Call(block) => SiteCounts::Reached(flow.block(block)),
            SiteKind::Indirect(block) => SiteCounts::Indirect { reached: flow.block(block) },
            SiteKind::Branch => SiteCounts::Branch { reached: arm(0).saturating_add(arm(1)), taken: arm(1) },
            SiteKind::Table(arms) => SiteCounts::Table { arms: (0..arms).map(arm).collect() },
        };
        SiteFlow { offset: *offset, counts }
    };
    graph.sites.iter().map(site).collect()
}

/// Where the sites of a validated body are: what [`sites`] has, without counts.
///
/// # Errors
/// When it can't be read, so never.
pub(crate) fn site_offsets(body: &FunctionBody<'_>) -> Result<Vec<u32>, BinaryReaderError> {
    Ok(Graph::new(body)?.sites.iter().map(|(offset, _)| *offset).collect())
}
