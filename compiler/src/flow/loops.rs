//! How deep in loops edges are: the estimate of how often they are taken.
//!
//! A block is in a loop if it can reach a branch to its header without going through the header. What merely stands between `loop` and
//! `end` is often not: compilers put what comes after a loop before its `end`.

use super::graph::{Graph, SiteKind};
use super::sets::Sets;

/// In how many loops each edge of `graph` is.
pub(super) fn edge_depths(graph: &Graph) -> Vec<u32> {
    let count = graph.blocks.len();
    let mut sources = vec![Vec::new(); count];
    for edge in &graph.edges {
        if let (Some(from), Some(to)) = (edge.from, edge.to) {
            sources[to as usize].push(from as usize);
        }
    }
    let headers = graph.sites.iter().filter_map(|(_, kind)| if let SiteKind::Loop(header) = kind { Some(*header as usize) } else { None });
    let headers: Vec<usize> = headers.collect();
    // The header of the innermost loop around a block: for a header, around its loop.
    let mut around = vec![None; count];
    let mut loops = vec![false; count];
    // Loops that are done, each with its header for all of it.
    let mut done = Sets::new(count);
    // An inner loop is behind the header of an outer one.
    for header in headers.into_iter().rev() {
        // Blocks are numbered as they stand: all in the loop are behind its header.
        let mut pending: Vec<usize> = sources[header].iter().copied().filter(|source| *source >= header).collect();
        loops[header] = !pending.is_empty();
        while let Some(block) = pending.pop() {
            let block = done.find(block);
            if block != header {
                around[block] = Some(header);
                done.put(block, header);
                pending.extend_from_slice(&sources[block]);
            }
        }
    }
    let mut depths: Vec<u32> = Vec::with_capacity(count);
    for block in 0..count {
        let outside = around[block].map_or(0, |header: usize| depths[header]);
        depths.push(outside + u32::from(loops[block]));
    }
    let depth = |from: Option<u32>, to: u32| {
        let enters = loops[to as usize] && from.is_none_or(|from| from < to);
        depths[to as usize] - u32::from(enters)
    };
    graph.edges.iter().map(|edge| edge.to.map_or(0, |to| depth(edge.from, to))).collect()
}
