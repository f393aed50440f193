//! What a profile is used for: each pass on a switch of its own, so that what it brings can be measured.

/// Which passes a profile steers. Unless said otherwise, those that pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passes {
    /// Functions stand in the text in the order of their first calls, cold ones at the end.
    pub layout: bool,
    /// What is hardly ever reached in a function stands at its end.
    pub blocks: bool,
    /// Hot direct calls are replaced by what they call.
    pub inline: bool,
    /// Indirect calls try the function that they mostly call first; with `inline` it may come in place of the call.
    pub calls: bool,
    /// An arm that dominates a jump table is tried first.
    pub tables: bool,
}

impl Passes {
    /// All of them.
    pub const ALL: Self = Self { layout: true, blocks: true, inline: true, calls: true, tables: true };
    /// Those that pay: all but `calls`, which makes code larger and, by `docs/benchmarks.md`, not faster.
    pub const USUAL: Self = Self { calls: false, ..Self::ALL };
    /// None of them.
    pub const NONE: Self = Self { layout: false, blocks: false, inline: false, calls: false, tables: false };

    /// The names of all, in the order of [`Self::with`].
    pub const NAMES: [&'static str; 5] = ["layout", "blocks", "inline", "calls", "tables"];

    /// The same with the pass of this name on or off; none if there is no such pass.
    #[must_use]
    pub fn with(mut self, name: &str, on: bool) -> Option<Self> {
        let pass = match name {
            "layout" => &mut self.layout,
            "blocks" => &mut self.blocks,
            "inline" => &mut self.inline,
            "calls" => &mut self.calls,
            "tables" => &mut self.tables,
            _ => return None,
        };
        *pass = on;
        Some(self)
    }

    /// The names of those that are on, for build keys and people.
    #[must_use]
    pub fn to_text(self) -> String {
        let on = [self.layout, self.blocks, self.inline, self.calls, self.tables];
        let names: Vec<&str> = Self::NAMES.into_iter().zip(on).filter(|(_, on)| *on).map(|(name, _)| name).collect();
        names.join(",")
    }
}

impl Default for Passes {
    fn default() -> Self {
        Self::USUAL
    }
}
