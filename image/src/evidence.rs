//! Evidence: why an image whose code a profile steered took the place of another one. It was replayed beside the other on recorded requests,
//! answered all of them alike, and took less time.
//!
//! It is an artefact of the image, JSON, and has digests and numbers: nothing of the requests and nothing of the answers.

use crate::{CpuLevel, Digest, FormatError, signed};
use serde::{Deserialize, Serialize};

/// Most bytes that evidence may have.
pub const MAX_SIZE: usize = 1024 * 1024;
/// Most requests that it may be about.
pub const MAX_REQUESTS: usize = 1000;
/// Fewer rounds bear out nothing: an interval of 95 % needs at least six.
pub const MIN_ROUNDS: u32 = 6;
/// Shares of time are in millionths.
pub const WHOLE: u64 = 1_000_000;

const FORMAT: &str = "evidence";
const VERSION: u32 = 1;

/// What a replay showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evidence {
    /// Version of this format, 1.
    pub version: u32,
    /// Digest of the Wasm bytes of both images.
    pub source: Digest,
    /// Digest of the profile's summary as the compiler read it.
    pub profile: Digest,
    /// What the profile was used for, as in build keys.
    pub passes: String,
    /// The compiler of the candidate with its full version.
    pub compiler: String,
    /// Digest over all that went into this build of it.
    pub build_id: String,
    /// The CPU level of the code that was measured.
    pub cpu: CpuLevel,
    /// What was there before.
    pub control: Side,
    /// What took its place.
    pub candidate: Side,
    /// How often all requests were replayed on both without being measured.
    pub warmup: u32,
    /// How often they were replayed and measured.
    pub rounds: u32,
    /// By how much of its time the candidate had to be faster, in millionths. Negative: it could be slower.
    pub min_gain: i64,
    /// The candidate's time by the control's.
    pub ratio: Ratio,
    /// The requests, in the order in which they were replayed.
    pub requests: Vec<Replayed>,
}

/// One of the two images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// The image. Of the candidate, the one that was measured: without this evidence.
    pub image: Digest,
    /// Its code object that was measured.
    pub code: Digest,
    /// The CPU time of its thread for all requests once, in nanoseconds: the median of the rounds.
    pub nanoseconds: u64,
}

/// Medians over the rounds, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ratio {
    /// The median.
    pub median: u64,
    /// Lower end of the interval that holds the true median with at least 95 % confidence, rounded down.
    pub low: u64,
    /// Its upper end, rounded up.
    pub high: u64,
}

/// A request, and how both images answered it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replayed {
    /// Digest of its bytes.
    pub request: Digest,
    /// The exit code, unless it trapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<i32>,
    /// The kind of trap, if it trapped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap: Option<String>,
    /// Digest of what was written to standard output.
    pub stdout: Digest,
    /// Digest of what was written to standard error.
    pub stderr: Digest,
    /// The candidate's time for it by the control's: the median over the rounds, in millionths.
    pub ratio: u64,
}

impl Ratio {
    /// Whether the candidate was clearly faster by more than `min_gain` millionths: with the whole interval.
    #[must_use]
    pub fn is_below(&self, min_gain: i64) -> bool {
        i128::from(self.high) < i128::from(WHOLE) - i128::from(min_gain)
    }
}

impl Evidence {
    /// The version that is written.
    pub const VERSION: u32 = VERSION;

    /// The bytes: compact JSON with the fields in the order of this struct.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads evidence.
    ///
    /// # Errors
    /// When the bytes are no evidence of this version, or do not bear out what they are for.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if bytes.len() > MAX_SIZE {
            return Err(damaged(format!("{} bytes, at most {MAX_SIZE} allowed", bytes.len())));
        }
        let evidence: Self = signed::read_payload(FORMAT, VERSION, bytes)?;
        evidence.check().map_err(damaged)?;
        Ok(evidence)
    }

    /// What every evidence keeps to.
    fn check(&self) -> Result<(), String> {
        let Ratio { median, low, high } = self.ratio;
        if !(1..=MAX_REQUESTS).contains(&self.requests.len()) {
            return Err(format!("{} requests, not 1 to {MAX_REQUESTS}", self.requests.len()));
        }
        if self.rounds < MIN_ROUNDS {
            return Err(format!("{} rounds, at least {MIN_ROUNDS} are needed", self.rounds));
        }
        if !(low <= median && median <= high) {
            return Err(format!("the interval from {low} to {high} does not hold the median, {median}"));
        }
        if !self.ratio.is_below(self.min_gain) {
            return Err(format!("the ratio, up to {high} millionths, is not below what {} millionths of gain ask for", self.min_gain));
        }
        match self.requests.iter().position(|request| request.exit.is_some() == request.trap.is_some()) {
            Some(number) => Err(format!("request {} has not one end, an exit code or a trap", number + 1)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Evidence {
        let side = |name: &str, nanoseconds| Side { image: Digest::of(name.as_bytes()), code: Digest::of(b"code"), nanoseconds };
        let replayed = |exit, trap: Option<&str>| Replayed {
            request: Digest::of(b"request"),
            exit,
            trap: trap.map(str::to_owned),
            stdout: Digest::of(b"out"),
            stderr: Digest::of(b""),
            ratio: 930_000,
        };
        Evidence {
            version: 1,
            source: Digest::of(b"wasm"),
            profile: Digest::of(b"profile"),
            passes: "layout,inline".into(),
            compiler: "preheat".into(),
            build_id: "b1".into(),
            cpu: CpuLevel::V3,
            control: side("control", 1000),
            candidate: side("candidate", 930),
            warmup: 3,
            rounds: 31,
            min_gain: 10_000,
            ratio: Ratio { median: 930_000, low: 920_000, high: 941_000 },
            requests: vec![replayed(Some(0), None), replayed(None, Some("unreachable"))],
        }
    }

    #[test]
    fn leads_back_and_is_stable() {
        let bytes = example().to_bytes();
        assert_eq!(Evidence::parse(&bytes).unwrap(), example());
        assert_eq!(Evidence::parse(&bytes).unwrap().to_bytes(), bytes);
    }

    #[test]
    fn what_does_not_bear_it_out_is_refused() {
        let refused = |change: &dyn Fn(&mut Evidence)| {
            let mut evidence = example();
            change(&mut evidence);
            Evidence::parse(&evidence.to_bytes()).unwrap_err().to_string()
        };
        assert!(refused(&|evidence| evidence.requests.clear()).contains("0 requests"));
        assert!(refused(&|evidence| evidence.rounds = 5).contains("5 rounds"));
        assert!(refused(&|evidence| evidence.ratio.low = 930_001).contains("does not hold the median"));
        assert!(refused(&|evidence| evidence.ratio.high = 990_000).contains("not below"));
        assert!(refused(&|evidence| evidence.min_gain = i64::MAX).contains("not below"));
        assert!(refused(&|evidence| evidence.requests[0].exit = None).contains("request 1"));
        assert!(refused(&|evidence| evidence.requests[1].exit = Some(1)).contains("request 2"));
        let newer = refused(&|evidence| evidence.version = 2);
        assert!(newer.contains("version 2") && newer.contains("version 1"), "{newer}");
        let text = String::from_utf8(example().to_bytes()).unwrap();
        let error = |text: String| Evidence::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error(text.replace("\"rounds\"", "\"news\":1,\"rounds\"")), FormatError::Damaged { .. }));
        assert!(matches!(error("junk".into()), FormatError::NotThisFormat { .. }));
        assert!(matches!(Evidence::parse(&vec![b' '; MAX_SIZE + 1]), Err(FormatError::Damaged { .. })));
    }

    #[test]
    fn a_gain_counts_with_its_whole_interval() {
        let below = |high, min_gain| Ratio { median: 0, low: 0, high }.is_below(min_gain);
        assert!(below(989_999, 10_000) && !below(990_000, 10_000));
        assert!(below(5_000_000, -10_000_000) && !below(11_000_000, -10_000_000));
        assert!(!below(u64::MAX, i64::MIN) && !below(0, i64::MAX));
    }
}
