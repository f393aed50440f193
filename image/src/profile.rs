//! Profiles: what runs of a module taught, for the compiler to steer by. Engine-neutral: functions are named by their index and by digests
//! of their bodies, places by their offset in the body.
//!
//! A [`Profile`] is a set of [`Contribution`]s by id, so that uniting two is the union of two sets: in any order, in any grouping, and as
//! often as one likes. What a contribution is worth is decided when a profile is evaluated, and not before: [`Rules`] say how contributions age and
//! how much one contributor can weigh, a [`Plan`] what each weighs then, and the [`Evaluator`] adds them up, one at a time, to the
//! [`Summary`] that compilers read. [`diff`] compares two summaries; [`match_functions`] and [`remap`] carry one over to another version of
//! the module.
//!
//! A profile steers speed and never meaning. All of it is a claim, made by whoever contributed. `docs/image-format.md` gives the bytes,
//! `docs/profiles.md` the reasons.

mod check;
mod compare;
mod encode;
mod evaluate;
mod stale;
mod summary;
mod sums;
mod weights;
mod wire;

pub use compare::{Diff, FunctionDiff, diff};
pub use encode::Encoded;
pub use evaluate::{Evaluator, Known, KnownFunction};
pub use stale::{How, Matched, Pair, match_functions, remap};
pub use summary::{FunctionSummary, Provenance, Summary};
pub use weights::{Header, MAX_PLANNED, MAX_TIMES_MEDIAN, Plan, Rules};

use crate::Digest;
use std::collections::BTreeMap;
use std::fmt;

/// Most bytes of a profile, or of a summary.
pub const MAX_SIZE: usize = 64 * 1024 * 1024;
/// Most bytes of one contribution's encoding.
pub const MAX_CONTRIBUTION_SIZE: usize = 16 * 1024 * 1024;
/// Most contributions in one profile.
pub const MAX_CONTRIBUTIONS: usize = 10_000;
/// Indices of functions are below this.
pub const MAX_FUNCTIONS: u32 = 1 << 21;
/// Most sites of one function.
pub const MAX_SITES: usize = 1 << 16;
/// Most arms of one `br_table`, the default included.
pub const MAX_ARMS: usize = 1 << 16;
/// Most targets of one `call_indirect`. The rarest are left out; they are in what its targets lack to how often it was reached.
pub const MAX_TARGETS: usize = 256;
/// Most bytes of a contributor's name.
pub const MAX_CONTRIBUTOR: usize = 128;
/// Most bytes of the text that says what a contribution was made with.
pub const MAX_ORIGIN: usize = 256;

/// Sixteen bytes that stand for something: the first half of a SHA-256.
macro_rules! half_digest {
    ($(#[$doc:meta])* $name:ident, $domain:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The first half of the SHA-256 over the name of what it is, a zero byte, and `bytes`.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                let mut hasher = crate::DigestHasher::new();
                hasher.update(concat!($domain, "\0").as_bytes());
                hasher.update(bytes);
                let digest = hasher.finalize();
                let mut half = [0; 16];
                half.copy_from_slice(&digest.as_bytes()[..16]);
                Self(half)
            }

            /// Takes 16 bytes that are one already.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

half_digest! {
    /// What a contribution is called: a digest of its encoding.
    ContributionId, "preheat-contribution-v1"
}
half_digest! {
    /// A digest of what a function's body keeps when other functions of its module come and go: indices of functions and types change then, and
    /// addresses do. What exactly is hashed is said by whoever reads Wasm, which this crate does not; two that are equal have as many sites, in the same
    /// order, but perhaps at other offsets.
    BodyDigest, "preheat-function-body-v1"
}
half_digest! {
    /// A digest of what a function's body keeps when only numbers in it change: its operators in order, and which of them are sites. What exactly
    /// is hashed is said by whoever reads Wasm, which this crate does not; two that are equal have as many sites, in the same order.
    ShapeDigest, "preheat-function-shape-v1"
}

/// Why something is no profile, or can't be done with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A contribution, or a summary, says what none may say.
    #[error("this can't be in a profile: {0}")]
    Invalid(String),
    /// They are of two modules.
    #[error("one profile is of {one}, the other of {other}; only profiles of the same module can be united")]
    OtherSource {
        /// The module of the first.
        one: Digest,
        /// The module of the second.
        other: Digest,
    },
    /// It would be larger than it may be.
    #[error("too much for one profile: {0}")]
    TooMuch(String),
    /// What is added was not in the plan, so it has no weight.
    #[error("contribution {0} is not in the plan")]
    NotPlanned(ContributionId),
}

/// What runs of one module taught: a set of contributions, by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    source: Digest,
    contributions: BTreeMap<ContributionId, Contribution>,
    /// Size of all encodings of contributions, with their lengths in front.
    size: usize,
}

/// What one instance, or one run, has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contribution {
    /// Who says so: 1 to [`MAX_CONTRIBUTOR`] printable characters of ASCII. A claim; see [`Header`].
    pub contributor: String,
    /// When, in seconds since 1970.
    pub at: u64,
    /// How it was found out.
    pub method: Method,
    /// The engine and the compiler, for people: at most [`MAX_ORIGIN`] printable characters of ASCII.
    pub origin: String,
    /// How many requests it covers, at least 1.
    pub calls: u64,
    /// The functions, ordered by index. Each is there once.
    pub functions: Vec<FunctionProfile>,
}

/// How counts were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// By code that counts.
    Counted,
    /// By looking at where the program is.
    Sampled {
        /// Microseconds between two looks, at least 1.
        interval_us: u32,
    },
}

/// What was seen of one function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionProfile {
    /// Its index in the module, imported functions included; below [`MAX_FUNCTIONS`].
    pub index: u32,
    /// Which body it has.
    pub body: BodyDigest,
    /// Which shape its body has.
    pub shape: ShapeDigest,
    /// As the how-manieth function it was called for the first time, 0 for the first.
    pub first: Option<u32>,
    /// How often it was called.
    pub entries: u64,
    /// The places in it of which something is known, ordered by offset. Each is there once.
    pub sites: Vec<Site>,
}

/// A place in a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Where: bytes from the beginning of the body, which is the first byte of the declarations of its locals.
    pub offset: u32,
    /// What was counted there.
    pub counts: SiteCounts,
}

/// What was counted at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteCounts {
    /// A loop header, or a direct call: how often control came there.
    Reached(u64),
    /// `br_if`, or `if`.
    Branch {
        /// How often control came there.
        reached: u64,
        /// How often the branch was taken, or the arm behind `then` was; at most `reached`.
        taken: u64,
    },
    /// `br_table`.
    Table {
        /// How often each label was taken, in the order of the instruction, the default last. 1 to [`MAX_ARMS`].
        arms: Vec<u64>,
    },
    /// `call_indirect`.
    Indirect {
        /// How often control came there.
        reached: u64,
        /// The functions of the same module that were called there, by index, and how often, at least once. The most frequent is first, and
        /// of equals the one with the smaller index. At most [`MAX_TARGETS`]; what they lack to `reached` went elsewhere.
        targets: Vec<(u32, u64)>,
    },
    /// How many samples were taken there.
    Samples(u64),
}

/// Which kind of place it is: all but the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SiteKind {
    /// [`SiteCounts::Reached`].
    Reached,
    /// [`SiteCounts::Branch`].
    Branch,
    /// [`SiteCounts::Table`] with so many arms.
    Table {
        /// How many, the default included.
        arms: u32,
    },
    /// [`SiteCounts::Indirect`].
    Indirect,
    /// [`SiteCounts::Samples`].
    Samples,
}

impl SiteCounts {
    /// How often control was seen there, whatever it did then.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self {
            Self::Reached(reached) | Self::Branch { reached, .. } | Self::Indirect { reached, .. } | Self::Samples(reached) => *reached,
            Self::Table { arms } => arms.iter().fold(0, |sum: u64, arm| sum.saturating_add(*arm)),
        }
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> SiteKind {
        match self {
            Self::Reached(_) => SiteKind::Reached,
            Self::Branch { .. } => SiteKind::Branch,
            Self::Table { arms } => SiteKind::Table { arms: u32::try_from(arms.len()).unwrap_or(u32::MAX) },
            Self::Indirect { .. } => SiteKind::Indirect,
            Self::Samples(_) => SiteKind::Samples,
        }
    }
}

impl Contribution {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> ContributionId {
        ContributionId::of(&encode::contribution(self))
    }
}

impl Profile {
    /// A profile of which nothing is known yet.
    #[must_use]
    pub fn new(source: Digest) -> Self {
        Self { source, contributions: BTreeMap::new(), size: 0 }
    }

    /// The module's digest.
    #[must_use]
    pub fn source(&self) -> Digest {
        self.source
    }

    /// The contributions, by id.
    #[must_use]
    pub fn contributions(&self) -> &BTreeMap<ContributionId, Contribution> {
        &self.contributions
    }

    /// Adds a contribution. One that is there already is not added again.
    ///
    /// # Errors
    /// [`ProfileError::Invalid`] when something in it is not as its field's description says; [`ProfileError::TooMuch`] when there is no more room.
    pub fn insert(&mut self, contribution: Contribution) -> Result<ContributionId, ProfileError> {
        check::contribution(&contribution).map_err(ProfileError::Invalid)?;
        let bytes = encode::contribution(&contribution);
        if bytes.len() > MAX_CONTRIBUTION_SIZE {
            return Err(ProfileError::TooMuch(format!("a contribution of {} bytes, at most {MAX_CONTRIBUTION_SIZE} allowed", bytes.len())));
        }
        let id = ContributionId::of(&bytes);
        if self.contributions.contains_key(&id) {
            return Ok(id);
        }
        let size = self.size + wire::size_of_varint(bytes.len() as u64) + bytes.len();
        if self.contributions.len() >= MAX_CONTRIBUTIONS {
            return Err(ProfileError::TooMuch(format!("more than {MAX_CONTRIBUTIONS} contributions")));
        }
        if encode::HEADER_SIZE + wire::size_of_varint(self.contributions.len() as u64 + 1) + size > MAX_SIZE {
            return Err(ProfileError::TooMuch(format!("more than {MAX_SIZE} bytes")));
        }
        self.size = size;
        self.contributions.insert(id, contribution);
        Ok(id)
    }

    /// All that is in this one or in `other`. The same whatever the order and the grouping, and with itself itself.
    ///
    /// # Errors
    /// [`ProfileError::OtherSource`] when they are of two modules; [`ProfileError::TooMuch`] when it is too much for one profile.
    pub fn union(&self, other: &Self) -> Result<Self, ProfileError> {
        if self.source != other.source {
            return Err(ProfileError::OtherSource { one: self.source, other: other.source });
        }
        let mut union = self.clone();
        for contribution in other.contributions.values() {
            union.insert(contribution.clone())?;
        }
        Ok(union)
    }

    /// What the contributions say together, each with the weight that `rules` give it.
    ///
    /// # Errors
    /// [`ProfileError::TooMuch`] when they speak of more places than [`Evaluator`] keeps.
    pub fn evaluate(&self, rules: &Rules) -> Result<Summary, ProfileError> {
        let mut plan = Plan::new(*rules);
        for (id, contribution) in &self.contributions {
            plan.add(&Header::of(*id, contribution))?;
        }
        let mut evaluator = Evaluator::new(self.source, plan);
        for (id, contribution) in &self.contributions {
            evaluator.add_as(*id, contribution)?;
        }
        evaluator.finish()
    }
}
