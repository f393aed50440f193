//! The blocks around a site, and which of the loops among them a program can go back to from behind it.

use super::liveness::label_of;
use super::{CheckedBody, SiteLayout};
use crate::CompileError;
use crate::module::impossible;
use wasmparser::{BlockType, Operator};

/// A block around a site.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around {
    /// Position of the instruction that begins it.
    pub(crate) begin: usize,
    /// How many operands are below its parameters.
    pub(crate) height: usize,
    /// The site is in the second part of this condition.
    pub(crate) second: bool,
    /// The type of a loop.
    pub(crate) loop_type: Option<BlockType>,
}

impl Around {
    pub(crate) fn is_loop(&self) -> bool {
        self.loop_type.is_some()
    }
}

/// The blocks around a site that was wanted, outermost first, without the function.
pub(crate) fn around(body: &CheckedBody<'_>, site: SiteLayout<'_>) -> Result<Vec<Around>, CompileError> {
    let mut open: Vec<Around> = Vec::new();
    for (begin, (operator, _)) in body.operators[..site.operator].iter().enumerate() {
        match operator {
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                open.push(Around { begin, height: 0, second: false, loop_type: None });
            }
            Operator::Loop { blockty } => open.push(Around { begin, height: 0, second: false, loop_type: Some(*blockty) }),
            Operator::Else => open.last_mut().ok_or_else(|| impossible("unbalanced blocks"))?.second = true,
            Operator::End => drop(open.pop()),
            _ => {}
        }
    }
    if site.heights.len() != open.len() + 1 {
        return Err(impossible("unbalanced blocks"));
    }
    open.iter_mut().zip(&site.heights[1..]).for_each(|(around, height)| around.height = *height);
    Ok(open)
}

/// The outermost loop of `around` to whose header something behind the site may branch, be it from inside another of these loops once that
/// comes as a whole. Only asked for among several. To name one to which nothing does, or to miss one, is no error but makes a larger resume function.
pub(crate) fn outermost_again(body: &CheckedBody<'_>, site: SiteLayout<'_>, around: &[Around]) -> Option<usize> {
    if around.iter().filter(|block| block.is_loop()).count() < 2 {
        return None;
    }
    let mut behind = vec![false; around.len()];
    let mut walk = Walk { labels: vec![Label::new(Kind::Block)], reachable: true };
    for (index, block) in around.iter().enumerate() {
        // The first part of a condition that holds the site is as good as a block.
        let kind = if block.is_loop() { Kind::Loop } else { Kind::Block };
        // The call at the site itself may throw.
        walk.catches(&body.operators[block.begin].0, &mut |index| behind[index] = true);
        walk.labels.push(Label { around: Some(index), ..Label::new(kind) });
    }
    for (operator, _) in &body.operators[site.operator + 1..] {
        walk.operator(operator, None, &mut |index| behind[index] = true);
    }
    // Where the last branch to each is.
    let mut last = vec![0; around.len()];
    let mut begun = 0;
    let mut walk = Walk { labels: vec![Label::new(Kind::Block)], reachable: true };
    for (position, (operator, _)) in body.operators.iter().enumerate() {
        let begins = around.get(begun).is_some_and(|around| around.begin == position).then_some(begun);
        begun += usize::from(begins.is_some());
        walk.operator(operator, begins, &mut |index| last[index] = position);
    }
    let mut outermost: Option<usize> = None;
    for (index, _) in around.iter().enumerate().rev().filter(|(_, block)| block.is_loop()) {
        // What comes as a whole comes from its beginning.
        if behind[index] || outermost.is_some_and(|inner| last[index] >= around[inner].begin) {
            outermost = Some(index);
        }
    }
    outermost
}

/// What a label is the end of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Block,
    /// Its label is the beginning.
    Loop,
    /// The first part of a condition.
    If,
    /// Begun where nothing is reachable.
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Label {
    kind: Kind,
    /// Something branches there.
    reached: bool,
    /// Which of the blocks around the site it is of.
    around: Option<usize>,
}

impl Label {
    fn new(kind: Kind) -> Self {
        Self { kind, reached: false, around: None }
    }
}

/// Follows what can be reached, instruction by instruction.
struct Walk {
    labels: Vec<Label>,
    reachable: bool,
}

impl Walk {
    /// `begins` says which of the blocks around the site the instruction begins; `to` is told to which of them there is a branch.
    fn operator(&mut self, operator: &Operator<'_>, begins: Option<usize>, to: &mut dyn FnMut(usize)) {
        let begin = |kind| Label { around: begins, ..Label::new(kind) };
        match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } if !self.reachable => {
                self.labels.push(begin(Kind::Dead));
            }
            Operator::Block { .. } => self.labels.push(begin(Kind::Block)),
            Operator::Loop { .. } => self.labels.push(begin(Kind::Loop)),
            Operator::If { .. } => self.labels.push(begin(Kind::If)),
            Operator::TryTable { .. } => {
                self.catches(operator, to);
                self.labels.push(begin(Kind::Block));
            }
            Operator::Else => {
                if let Some(label) = self.labels.last_mut() {
                    label.reached |= self.reachable;
                    self.reachable = label.kind == Kind::If;
                    label.kind = if label.kind == Kind::Dead { Kind::Dead } else { Kind::Block };
                }
            }
            Operator::End => match self.labels.pop() {
                Some(Label { kind: Kind::Block, reached, .. }) => self.reachable |= reached,
                // There is no second part, and what is behind the condition is reached without the first.
                Some(Label { kind: Kind::If, .. }) => self.reachable = true,
                _ => {}
            },
            _ if !self.reachable => {}
            Operator::Br { relative_depth } => {
                self.branch(*relative_depth, to);
                self.reachable = false;
            }
            Operator::BrIf { relative_depth } => self.branch(*relative_depth, to),
            Operator::BrTable { targets } => {
                targets.targets().flatten().chain([targets.default()]).for_each(|depth| self.branch(depth, to));
                self.reachable = false;
            }
            Operator::Unreachable
            | Operator::Return
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef => self.reachable = false,
            _ => {}
        }
    }

    /// The branches of a `try_table` that begins here; nothing for other instructions.
    fn catches(&mut self, operator: &Operator<'_>, to: &mut dyn FnMut(usize)) {
        let Operator::TryTable { try_table } = operator else { return };
        try_table.catches.iter().for_each(|clause| self.branch(label_of(clause), to));
    }

    fn branch(&mut self, depth: u32, to: &mut dyn FnMut(usize)) {
        let position = self.labels.len().checked_sub(1 + depth as usize);
        if let Some(label) = position.and_then(|position| self.labels.get_mut(position)) {
            label.reached = true;
            label.around.into_iter().for_each(to);
        }
    }
}
