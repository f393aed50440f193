//! When a guest comes to its input.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Notes when a guest first asks for its standard input: until then it initialises itself. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct InputWatch {
    first: Arc<OnceLock<Instant>>,
}

impl InputWatch {
    /// For engines: the guest asks for its input now.
    pub fn note(&self) {
        self.first.get_or_init(Instant::now);
    }

    /// When it first did, if it did.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts() {
        let watch = InputWatch::default();
        assert_eq!(watch.first(), None);
        watch.clone().note();
        let first = watch.first();
        assert!(first.is_some());
        watch.note();
        assert_eq!(watch.first(), first);
    }
}
