//! The x86-64 micro-architecture levels of the System V psABI (section 3.1.1).

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A set of CPU features that code may use. Ordered: a host of a level runs code of this level and of every lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CpuLevel {
    /// SSE2: every x86-64 CPU.
    #[serde(rename = "x86-64-v1")]
    V1,
    /// SSE4.2, SSSE3, POPCNT: CPUs since about 2009.
    #[serde(rename = "x86-64-v2")]
    V2,
    /// AVX2, BMI1, BMI2, FMA, LZCNT: CPUs since about 2013.
    #[serde(rename = "x86-64-v3")]
    V3,
    /// AVX-512 F, BW, CD, DQ, VL: servers since about 2017.
    #[serde(rename = "x86-64-v4")]
    V4,
}

/// A text that names no CPU level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a CPU level: expected v1, v2, v3 or v4 (or x86-64-v1 …)")]
pub struct UnknownCpuLevel(String);

impl CpuLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::V1, Self::V2, Self::V3, Self::V4];

    /// The name that the psABI gives it, such as `x86-64-v3`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
            Self::V4 => "x86-64-v4",
        }
    }

    /// The number in fixed layouts: 1 to 4.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
            Self::V4 => 4,
        }
    }

    /// The level of a number in a fixed layout.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }

    /// The highest level that the CPU under this process has; `None` where it is no x86-64.
    #[must_use]
    pub fn of_host() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let v2 = has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt") && has!("cmpxchg16b");
            let v3 = v2
                && has!("avx")
                && has!("avx2")
                && has!("bmi1")
                && has!("bmi2")
                && has!("f16c")
                && has!("fma")
                && has!("lzcnt")
                && has!("movbe");
            let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512cd") && has!("avx512dq") && has!("avx512vl");
            Some(match (v2, v3, v4) {
                (_, _, true) => Self::V4,
                (_, true, _) => Self::V3,
                (true, _, _) => Self::V2,
                _ => Self::V1,
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        None
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuLevel {
    type Err = UnknownCpuLevel;

    fn from_str(text: &str) -> Result<Self, UnknownCpuLevel> {
        let short = text.strip_prefix("x86-64-").unwrap_or(text);
        Self::ALL
            .into_iter()
            .find(|level| level.name().ends_with(short) && short.len() == 2)
            .ok_or_else(|| UnknownCpuLevel(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for level in CpuLevel::ALL {
            assert_eq!(level.name().parse(), Ok(level));
            assert_eq!(level.name()[7..].parse(), Ok(level));
            assert_eq!(CpuLevel::from_number(level.number()), Some(level));
        }
        for bad in ["", "v", "v5", "3", "native", "x86-64-", "4v", "-v", "x86-64-x86-64-v2"] {
            assert!(bad.parse::<CpuLevel>().is_err(), "{bad}");
        }
        assert!(CpuLevel::V1 < CpuLevel::V2 && CpuLevel::V3 < CpuLevel::V4);
    }
}
