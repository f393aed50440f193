//! The control-flow graph of a function's body.
//!
//! A block begins at the start of the body, behind `loop`, `if`, `br_if` and `else`, and behind an `end` to which something else goes than
//! what is before it. It ends with the instruction behind which the next begins, or with one that has no next. Calls end no blocks. Where
//! nothing can be reached there are no blocks; a condition that is constant is still a condition, and behind a load that always traps it
//! goes on.
//!
//! # Edges
//! An edge has the offset of the instruction that takes it, and the number of an arm:
//!
//! | instruction | arm | goes |
//! |---|---|---|
//! | `br` | 0 | to its target |
//! | `br_if` | 0 | on to the next instruction |
//! | | 1 | to its target |
//! | `if` | 0 | to the second part, or behind the `end` if there is none |
//! | | 1 | to the first part |
//! | `br_table` | n | to its target number n; the default is the last |
//! | `loop` | 0 | into the loop from above |
//! | `else` | 0 | from the end of the first part behind the `end`; if that can be reached |
//! | `end` | 0 | from what is before it to what is behind it; see below |
//! | `return`, `unreachable`, `throw`, `throw_ref`, `return_call`, `return_call_indirect` | 0 | to the exit |
//! | `try_table` | n | from wherever an exception is thrown to the label of clause number n |
//!
//! A branch to the label of the function goes to the exit, as `return` does. `end` has an edge if what is before it can be reached, and
//! - it is the end of the function: then the edge goes to the exit; or
//! - it is the end of a `block`, `if`, `else` or `try_table` to whose end something else goes: a branch, a catch clause, the first part of
//!   a condition by way of `else`, or an `if` without `else` whose condition does not hold.
//!
//! Behind any other `end` the block just goes on, always behind that of a `loop`. All edges with arm 0 but those of `br_if`, `if`,
//! `br_table` and `try_table` are the only way on from their instruction: who counts one may do so right before it.
//!
//! A catch clause has an edge if a call, `throw` or `throw_ref` within its `try_table` may land there: there is one that can be reached,
//! and no clause between the two catches everything.
//!
//! # Abrupt ends
//! What enters a block leaves it by an edge, unless it is left abruptly from its middle: by a trap, by a call that throws an exception or
//! ends the process. Then one more has entered it than has left it. An activation ends like that at most once. The edges of catch clauses
//! come from no block, for it is not known in which the exception was thrown: if by a call, that has left a block abruptly, too, as often
//! as exceptions were caught; if by an instruction of the body itself, that has an edge to the exit.

use std::ops::Range;
use wasmparser::{BinaryReaderError, Catch, FunctionBody, Operator};

/// The name of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EdgeKey {
    /// Where the instruction is that takes it.
    pub(crate) offset: u32,
    /// Which of the instruction's edges it is.
    pub(crate) arm: u32,
}

/// An edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) key: EdgeKey,
    /// The block that it leaves; `None` for that of a catch clause.
    pub(crate) from: Option<u32>,
    /// The block that it enters; `None` for the exit.
    pub(crate) to: Option<u32>,
}

/// An instruction whose counts go into profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SiteKind {
    /// A loop with this header.
    Loop(u32),
    /// A call in this block.
    Call(u32),
    /// An indirect call in this block.
    Indirect(u32),
    /// `br_if` or `if`.
    Branch,
    /// `br_table` with so many arms.
    Table(u32),
}

/// The graph of a body.
#[derive(Debug)]
pub(crate) struct Graph {
    /// Where the instructions of each block are, in their order. The function is entered at block 0.
    pub(super) blocks: Vec<Range<u32>>,
    /// By key.
    pub(super) edges: Vec<Edge>,
    /// By offset.
    pub(super) sites: Vec<(u32, SiteKind)>,
}

impl Graph {
    /// The graph of a validated body.
    ///
    /// # Errors
    /// When it can't be read, so never.
    pub(crate) fn new(body: &FunctionBody<'_>) -> Result<Self, BinaryReaderError> {
        let start = body.range().start;
        let place = |position: usize| u32::try_from(position - start).expect("validation limits the size of bodies");
        let mut reader = body.get_operators_reader()?;
        let mut walk = Walk::new(place(reader.original_position()));
        while !reader.eof() {
            let (operator, position) = reader.read_with_offset()?;
            (walk.offset, walk.next) = (place(position), place(reader.original_position()));
            if walk.current.is_some() { walk.operator(operator)? } else { walk.unreachable_operator(&operator) }
        }
        let mut graph = walk.graph;
        graph.edges.sort_unstable_by_key(|edge| edge.key);
        Ok(graph)
    }

    /// All edges, by key.
    pub(crate) fn edges(&self) -> &[Edge] {
        &self.edges
    }

    /// Where the instructions of each block are, in their order. The function is entered at the first.
    #[cfg(test)]
    pub(crate) fn blocks(&self) -> &[Range<u32>] {
        &self.blocks
    }

    /// The position of an edge in [`Self::edges`].
    pub(crate) fn edge(&self, key: EdgeKey) -> Option<usize> {
        self.edges.binary_search_by_key(&key, |edge| edge.key).ok()
    }

    /// The block in which the instruction at `offset` is, if it can be reached.
    pub(crate) fn block_at(&self, offset: u32) -> Option<u32> {
        let after = self.blocks.partition_point(|block| block.start <= offset);
        let block = after.checked_sub(1).filter(|block| self.blocks[*block].contains(&offset))?;
        u32::try_from(block).ok()
    }
}

/// A control frame.
struct Frame {
    kind: FrameKind,
    /// Positions of the edges that go to its end.
    incoming: Vec<usize>,
}

enum FrameKind {
    Function,
    Block,
    /// Branches go to the header.
    Loop {
        header: u32,
    },
    /// The first part of a condition, with the position of the edge that goes past it.
    If {
        past: usize,
    },
    /// The second part.
    Else,
    /// What is thrown within may be caught: clauses, each with whether that can happen.
    TryTable {
        offset: u32,
        clauses: Vec<(Catch, bool)>,
    },
    /// Begun where nothing can be reached.
    Dead,
}

/// Follows the instructions.
struct Walk {
    graph: Graph,
    frames: Vec<Frame>,
    /// Positions of those among them that have catch clauses.
    tries: Vec<usize>,
    /// The block of the current instruction, if that can be reached.
    current: Option<u32>,
    /// Where the current instruction is.
    offset: u32,
    /// Where the next is.
    next: u32,
}

impl Walk {
    fn new(start: u32) -> Self {
        let graph = Graph { blocks: Vec::new(), edges: Vec::new(), sites: Vec::new() };
        let mut walk = Self { graph, frames: Vec::new(), tries: Vec::new(), current: None, offset: start, next: start };
        walk.push(FrameKind::Function);
        walk.begin();
        walk
    }

    fn push(&mut self, kind: FrameKind) {
        self.frames.push(Frame { kind, incoming: Vec::new() });
    }

    /// Begins a block behind the current instruction.
    fn begin(&mut self) -> u32 {
        let block = u32::try_from(self.graph.blocks.len()).expect("there are no more blocks than bytes");
        self.graph.blocks.push(self.next..self.next);
        self.current = Some(block);
        block
    }

    /// Ends the current block with the current instruction.
    fn finish(&mut self) {
        if let Some(block) = self.current.take() {
            self.graph.blocks[block as usize].end = self.next;
        }
    }

    /// An edge of the current instruction. Gives its position.
    fn edge(&mut self, arm: u32, to: Option<u32>) -> usize {
        self.edge_from(self.current, EdgeKey { offset: self.offset, arm }, to)
    }

    fn edge_from(&mut self, from: Option<u32>, key: EdgeKey, to: Option<u32>) -> usize {
        self.graph.edges.push(Edge { key, from, to });
        self.graph.edges.len() - 1
    }

    /// A branch of the current instruction.
    fn branch(&mut self, arm: u32, depth: u32) {
        self.branch_from(self.current, EdgeKey { offset: self.offset, arm }, depth);
    }

    fn branch_from(&mut self, from: Option<u32>, key: EdgeKey, depth: u32) {
        let target = self.frames.len() - 1 - depth as usize;
        let header = if let FrameKind::Loop { header } = self.frames[target].kind { Some(header) } else { None };
        let edge = self.edge_from(from, key, header);
        if header.is_none() && !matches!(self.frames[target].kind, FrameKind::Function) {
            self.frames[target].incoming.push(edge);
        }
    }

    /// Leaves the function.
    fn exit(&mut self) {
        self.edge(0, None);
        self.finish();
    }

    fn site(&mut self, kind: SiteKind) {
        self.graph.sites.push((self.offset, kind));
    }

    fn operator(&mut self, operator: Operator<'_>) -> Result<(), BinaryReaderError> {
        let Some(block) = self.current else { return Ok(()) };
        match operator {
            Operator::Block { .. } => self.push(FrameKind::Block),
            Operator::Loop { .. } => {
                let edge = self.edge(0, None);
                self.finish();
                let header = self.begin();
                self.graph.edges[edge].to = Some(header);
                self.site(SiteKind::Loop(header));
                self.push(FrameKind::Loop { header });
            }
            Operator::If { .. } => {
                let (past, edge) = (self.edge(0, None), self.edge(1, None));
                self.finish();
                self.graph.edges[edge].to = Some(self.begin());
                self.site(SiteKind::Branch);
                self.push(FrameKind::If { past });
            }
            Operator::TryTable { try_table } => {
                let clauses: Vec<_> = try_table.catches.into_iter().map(|catch| (catch, false)).collect();
                if !clauses.is_empty() {
                    self.tries.push(self.frames.len());
                }
                self.push(FrameKind::TryTable { offset: self.offset, clauses });
            }
            Operator::Else => self.otherwise(),
            Operator::End => self.end(),
            Operator::Br { relative_depth } => {
                self.branch(0, relative_depth);
                self.finish();
            }
            Operator::BrIf { relative_depth } => {
                let edge = self.edge(0, None);
                self.branch(1, relative_depth);
                self.finish();
                self.graph.edges[edge].to = Some(self.begin());
                self.site(SiteKind::Branch);
            }
            Operator::BrTable { targets } => {
                for (arm, depth) in (0..).zip(targets.targets()) {
                    self.branch(arm, depth?);
                }
                self.branch(targets.len(), targets.default());
                self.finish();
                self.site(SiteKind::Table(targets.len() + 1));
            }
            Operator::Call { .. } => {
                self.throws();
                self.site(SiteKind::Call(block));
            }
            Operator::CallIndirect { .. } => {
                self.throws();
                self.site(SiteKind::Indirect(block));
            }
            Operator::ReturnCall { .. } => {
                self.site(SiteKind::Call(block));
                self.exit();
            }
            Operator::ReturnCallIndirect { .. } => {
                self.site(SiteKind::Indirect(block));
                self.exit();
            }
            Operator::Throw { .. } | Operator::ThrowRef => {
                self.throws();
                self.exit();
            }
            Operator::Return | Operator::Unreachable => self.exit(),
            _ => {}
        }
        Ok(())
    }

    /// Follows the nesting where nothing can be reached.
    fn unreachable_operator(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => self.push(FrameKind::Dead),
            Operator::Else => self.otherwise(),
            Operator::End => self.end(),
            _ => {}
        }
    }

    /// The current instruction may throw an exception: marks the clauses around it, up to one that catches everything.
    fn throws(&mut self) {
        for position in self.tries.iter().rev() {
            let FrameKind::TryTable { clauses, .. } = &mut self.frames[*position].kind else { continue };
            for (catch, used) in clauses {
                if std::mem::replace(used, true) {
                    // Whatever marked this one went on as this would.
                    return;
                }
                if matches!(catch, Catch::All { .. } | Catch::AllRef { .. }) {
                    return;
                }
            }
        }
    }

    /// `else`: the second part of a condition.
    fn otherwise(&mut self) {
        let position = self.frames.len() - 1;
        let FrameKind::If { past } = self.frames[position].kind else { return };
        self.frames[position].kind = FrameKind::Else;
        if self.current.is_some() {
            let edge = self.edge(0, None);
            self.frames[position].incoming.push(edge);
            self.finish();
        }
        self.graph.edges[past].to = Some(self.begin());
    }

    /// `end` of a block or of the function.
    fn end(&mut self) {
        let Some(mut frame) = self.frames.pop() else { return };
        match frame.kind {
            FrameKind::Dead | FrameKind::Loop { .. } => return,
            FrameKind::Function => {
                if self.current.is_some() {
                    self.exit();
                }
                return;
            }
            FrameKind::If { past } => frame.incoming.push(past),
            FrameKind::TryTable { offset, clauses } => {
                self.tries.pop_if(|position| *position == self.frames.len());
                for (arm, (catch, _)) in (0..).zip(clauses).filter(|(_, (_, used))| *used) {
                    let (Catch::One { label, .. } | Catch::OneRef { label, .. } | Catch::All { label } | Catch::AllRef { label }) = catch;
                    self.branch_from(None, EdgeKey { offset, arm }, label);
                }
            }
            FrameKind::Block | FrameKind::Else => {}
        }
        if frame.incoming.is_empty() {
            return;
        }
        if self.current.is_some() {
            frame.incoming.push(self.edge(0, None));
            self.finish();
        }
        let join = self.begin();
        frame.incoming.into_iter().for_each(|edge| self.graph.edges[edge].to = Some(join));
    }
}
