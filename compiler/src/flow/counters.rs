//! Which edges to count.
//!
//! What enters a block leaves it, so not every edge needs a counter: the edges without one must form no circle, whatever their directions.
//! Then each count can be found, beginning where all but one are known. The more edges are without, the better, and above all those that
//! are taken often; so they are a spanning tree of the graph in which edges count the more the deeper they are in loops. This is the
//! method of Knuth and Stevenson (1973), and of Ball and Larus (1994).
//!
//! With an edge from the exit to the entry the function itself would be a circle, of which any part could go without. It is always the
//! entry that is counted: it is as rare as anything, and an activation that ends abruptly has been there.
//!
//! Edges of catch clauses come from no block, and so all have counters.

use super::graph::{EdgeKey, Graph};
use super::loops::edge_depths;
use super::sets::Sets;
use std::cmp::Reverse;

/// The counters of a function. That with number 0 counts how often it is entered, the others an edge each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The edges that are counted, by key: the first has counter 1.
    edges: Vec<EdgeKey>,
}

impl Counters {
    /// The number of the counter of entries.
    pub(crate) const ENTRY: u32 = 0;

    /// The counters of a function with this graph: always the same for the same graph.
    pub(crate) fn new(graph: &Graph) -> Self {
        let tree = tree(graph);
        let counted = graph.edges.iter().zip(tree).filter(|(_, in_tree)| !in_tree);
        Self { edges: counted.map(|(edge, _)| edge.key).collect() }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.edges.len() + 1).expect("a body has fewer edges than bytes")
    }

    /// The edges that are counted, by key: the first has counter 1.
    pub(crate) fn edges(&self) -> &[EdgeKey] {
        &self.edges
    }

    /// The number of the counter of an edge, if it is counted.
    pub(crate) fn of_edge(&self, key: EdgeKey) -> Option<u32> {
        let position = self.edges.binary_search(&key).ok()?;
        u32::try_from(position + 1).ok()
    }
}

/// For each edge whether it is in the spanning tree, and so has no counter.
pub(super) fn tree(graph: &Graph) -> Vec<bool> {
    let depths = edge_depths(graph);
    let mut ways = vec![0u32; graph.blocks.len()];
    for from in graph.edges.iter().filter_map(|edge| edge.from) {
        ways[from as usize] += 1;
    }
    let mut candidates: Vec<(usize, usize, usize)> = Vec::new();
    for (position, edge) in graph.edges.iter().enumerate() {
        if let Some(from) = edge.from {
            candidates.push((position, from as usize, edge.to.map_or(graph.blocks.len(), |to| to as usize)));
        }
    }
    // Of two that are as deep, the only way on is taken more often than one of several.
    candidates.sort_by_key(|(position, from, _)| (Reverse(depths[*position]), ways[*from] > 1));
    let mut connected = Sets::new(graph.blocks.len() + 1);
    let mut tree = vec![false; graph.edges.len()];
    for (position, from, to) in candidates {
        tree[position] = connected.put(from, to);
    }
    tree
}
