//! Which blocks are hardly ever reached, as a profile says: they stand at the end of the function, and what is hot without them is shorter.

use super::Translator;
use crate::guide::Guide;
use cranelift_codegen::ir::Block;

/// One time in so many is hardly ever.
const RARE: u64 = 256;
/// An arm of a jump table that has more than this part of all is looked for before the table is.
const DOMINANT: u64 = 2;

impl<'a> Translator<'a, '_> {
    /// The profile, in a function of which it has counts.
    pub(super) fn guide(&self) -> Option<&'a Guide<'a>> {
        self.guide
    }

    /// The same, where it says which blocks are hardly ever reached.
    fn heat(&self) -> Option<&'a Guide<'a>> {
        self.guide().filter(|guide| guide.passes().blocks)
    }

    /// Whether it is known of blocks that nothing branches to them but what is hardly ever reached.
    pub(super) fn knows_cold(&self) -> bool {
        self.heat().is_some()
    }

    /// Whether control hardly ever goes the way of the branch here, and whether it hardly ever goes the other.
    pub(super) fn rare_ways(&self) -> (bool, bool) {
        let Some(guide) = self.heat().filter(|_| !self.cold) else { return (self.cold, self.cold) };
        // What was never reached is told as a whole by what was not taken before.
        let Some(ways) = guide.branch(self.offset) else { return (false, false) };
        let rare = |count: u64, other: u64| count.saturating_mul(RARE) < other;
        (rare(ways.taken, ways.not_taken), rare(ways.not_taken, ways.taken))
    }

    /// Of the arms of the jump table here, the default last, which were never taken; none if nothing is known.
    pub(super) fn arms(&self, count: usize) -> Option<&'a [u64]> {
        self.heat().filter(|_| !self.cold)?.table(self.offset, count)
    }

    /// The arm that is taken more often than all others together, if one is; the default is none.
    pub(super) fn dominant_arm(&self, count: usize) -> Option<usize> {
        let guide = self.guide().filter(|guide| guide.passes().tables && !self.cold)?;
        let arms = guide.table(self.offset, count)?;
        let all: u64 = arms.iter().fold(0, |all, arm| all.saturating_add(*arm));
        let (_, rest) = arms.split_last()?;
        (0..rest.len()).max_by_key(|arm| (rest[*arm], std::cmp::Reverse(*arm))).filter(|arm| rest[*arm] > all / DOMINANT)
    }

    /// A branch to the frame at `position` is made here, and hardly ever taken if it is `rare`.
    pub(super) fn warm_at(&mut self, position: usize, rare: bool) {
        if !rare {
            self.frames[position].warm = true;
        }
    }

    /// Control comes to `block` now, which is hardly ever reached if it is `rare`.
    pub(super) fn enter(&mut self, block: Block, rare: bool) {
        self.cold = rare;
        if rare {
            self.builder.set_cold_block(block);
        }
    }

    /// A block for what is done at the current position.
    pub(super) fn here(&mut self) -> Block {
        let block = self.builder.create_block();
        if self.cold {
            self.builder.set_cold_block(block);
        }
        block
    }

    /// The own function that the indirect call here is to try first.
    pub(super) fn expected_callee(&self, ty: u32) -> Option<u32> {
        let guide = self.guide().filter(|guide| guide.passes().calls && !self.cold)?;
        guide.expected_own(self.offset, self.env.module, ty)
    }
}
