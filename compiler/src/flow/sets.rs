//! Disjoint sets of numbers.

/// Sets, each with one of its numbers that stands for it.
pub(super) struct Sets {
    /// Towards the one that stands for the set, which is its own.
    parents: Vec<usize>,
}

impl Sets {
    /// A set of each number below `count`.
    pub(super) fn new(count: usize) -> Self {
        Self { parents: (0..count).collect() }
    }

    /// What stands for the set of `number`.
    pub(super) fn find(&mut self, mut number: usize) -> usize {
        while self.parents[number] != number {
            self.parents[number] = self.parents[self.parents[number]];
            number = self.parents[number];
        }
        number
    }

    /// Puts the set of `number` into that of `other`; what stands for the latter stands for both. Whether they were two.
    pub(super) fn put(&mut self, number: usize, other: usize) -> bool {
        let (number, other) = (self.find(number), self.find(other));
        self.parents[number] = other;
        number != other
    }
}
