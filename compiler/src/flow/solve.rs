//! From what the counters of a function say to how often each of its edges and blocks was reached.
//!
//! The edges without a counter form a tree. From its leaves on, each block has one edge whose count is not yet known, and which makes up
//! for the difference between what has entered it and what has left it. The root of the tree is the exit.
//!
//! This is exact if no block was left abruptly. One that was, counts as if it had been left to the exit along the edges of the tree. Where
//! the way to the exit is against the direction of an edge, it takes one from the count, of which nothing is left at worst. So no count
//! of an edge or of a block is off by more than the number of times that blocks were left abruptly.

use super::counters::tree;
use super::graph::{EdgeKey, Graph};

/// How often everything in a function was reached.
#[derive(Debug)]
pub(crate) struct Flow<'g> {
    graph: &'g Graph,
    entries: u64,
    /// As the graph has them.
    edges: Vec<u64>,
    /// As the graph has them.
    blocks: Vec<u64>,
}

/// What these `counts` say, one for each of the function's [`Counters`](super::Counters). `None` if there are more or fewer.
pub(crate) fn solve<'g>(graph: &'g Graph, counts: &[u64]) -> Option<Flow<'g>> {
    let tree = tree(graph);
    let (entries, counts) = counts.split_first()?;
    if counts.len() != tree.iter().filter(|in_tree| !**in_tree).count() {
        return None;
    }
    let mut rest = counts.iter().copied();
    let mut edges: Vec<u64> = tree.iter().map(|in_tree| if *in_tree { 0 } else { rest.next().unwrap_or(0) }).collect();

    let exit = graph.blocks.len();
    let ends = |edge: usize| {
        let node = |block: Option<u32>| block.map_or(exit, |block| block as usize);
        (node(graph.edges[edge].from), node(graph.edges[edge].to))
    };
    let mut neighbours = vec![Vec::new(); exit + 1];
    // What has entered each block, less what has left it, by edges whose counts are known.
    let mut surplus = vec![0i128; exit + 1];
    surplus[0] += i128::from(*entries);
    for (edge, in_tree) in tree.iter().enumerate() {
        let (from, to) = ends(edge);
        if *in_tree {
            neighbours[from].push(edge);
            neighbours[to].push(edge);
        } else {
            surplus[to] += i128::from(edges[edge]);
            if graph.edges[edge].from.is_some() {
                surplus[from] -= i128::from(edges[edge]);
            }
        }
    }
    for (node, edge) in from_root(exit, &neighbours, ends).into_iter().rev() {
        let (from, to) = ends(edge);
        let missing = if from == node { surplus[node] } else { -surplus[node] };
        edges[edge] = u64::try_from(missing.max(0)).unwrap_or(u64::MAX);
        surplus[from] -= i128::from(edges[edge]);
        surplus[to] += i128::from(edges[edge]);
    }

    let mut blocks = vec![0u64; graph.blocks.len()];
    blocks[0] = *entries;
    for (edge, count) in graph.edges.iter().zip(&edges) {
        if let Some(to) = edge.to {
            let block = &mut blocks[to as usize];
            *block = block.saturating_add(*count);
        }
    }
    Some(Flow { graph, entries: *entries, edges, blocks })
}

/// The nodes of the tree other than its root, each behind the one that is nearer to the root, with the edge that leads there. What is not
/// connected to the exit, and so can only end abruptly, has a root of its own: the last block of it.
fn from_root(exit: usize, neighbours: &[Vec<usize>], ends: impl Fn(usize) -> (usize, usize)) -> Vec<(usize, usize)> {
    let mut order = Vec::new();
    let mut seen = vec![false; exit + 1];
    for root in (0..=exit).rev() {
        let mut pending = vec![root];
        while let Some(node) = pending.pop() {
            seen[node] = true;
            for edge in &neighbours[node] {
                let (from, to) = ends(*edge);
                let other = if from == node { to } else { from };
                if !seen[other] {
                    order.push((other, *edge));
                    pending.push(other);
                }
            }
        }
    }
    order
}

impl Flow<'_> {
    /// How often the function was entered.
    pub(crate) fn entries(&self) -> u64 {
        self.entries
    }

    /// How often an edge was taken: never if there is none with this key.
    pub(crate) fn edge(&self, key: EdgeKey) -> u64 {
        self.graph.edge(key).map_or(0, |edge| self.edges[edge])
    }

    /// How often the block was entered in which the instruction at `offset` is: never if that can't be reached.
    #[cfg(test)]
    pub(crate) fn block_at(&self, offset: u32) -> u64 {
        self.graph.block_at(offset).map_or(0, |block| self.block(block))
    }

    /// How often a block was entered.
    pub(crate) fn block(&self, block: u32) -> u64 {
        self.blocks[block as usize]
    }
}
