//! Medians and how far they can be trusted.

use serde::{Deserialize, Serialize};

/// A median with its confidence interval, in the unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// Lower end of the interval that holds the true median with at least 95 % confidence.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// How many values there were.
    pub count: usize,
}

impl Estimate {
    /// Estimates the median of `values`; `None` when there are none.
    ///
    /// The interval is between two order statistics, chosen by the binomial distribution; nothing is assumed about how the values are
    /// distributed (Conover, Practical Nonparametric Statistics, section 3.2). With fewer than six values it is from the smallest to the
    /// largest and holds less than 95 %.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let skip = ranks_to_skip(count);
        Some(Self { median: median_of_sorted(&sorted), low: sorted[skip], high: sorted[count - 1 - skip], min, max, count })
    }

    /// Half the width of the interval, relative to the median: how noisy the measurement was.
    #[must_use]
    pub fn noise(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median }
    }
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// The largest number of values that may be left out at each end so that what remains covers the median with 95 % confidence:
/// the largest k with P(Binomial(n, 1/2) ≤ k) at most 2.5 %, or none.
fn ranks_to_skip(count: usize) -> usize {
    // Probabilities of ever more heads in `count` throws, by the recurrence of binomial coefficients, from the bottom up. In logarithms,
    // since 2^-count is below what a float can hold for large counts.
    let n = count as f64;
    let mut log_p = -n * std::f64::consts::LN_2;
    let mut cumulative = 0.0;
    for heads in 0..count / 2 {
        cumulative += log_p.exp();
        if cumulative > 0.025 {
            return heads.saturating_sub(1);
        }
        let h = heads as f64;
        log_p += ((n - h) / (h + 1.0)).ln();
    }
    0
}

/// The ratio of two systems, from rounds in which both ran: the median over the rounds of one's value by the other's, so that a machine
/// whose speed drifts disturbs it little.
#[must_use]
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Option<Estimate> {
    let ratios: Vec<f64> = ours.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0).map(|(ours, theirs)| ours / theirs).collect();
    Estimate::of(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(Estimate::of(&[3.0, 1.0, 2.0]).map(|e| e.median), Some(2.0));
        assert_eq!(Estimate::of(&[4.0, 1.0, 3.0, 2.0]).map(|e| e.median), Some(2.5));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, table A3 / any table of binomial confidence intervals for the median, 95 %: n and the rank of the lower end minus one.
        for (count, skip) in [(1, 0), (5, 0), (6, 0), (9, 1), (10, 1), (15, 3), (20, 5), (25, 7), (50, 17), (100, 39)] {
            assert_eq!(ranks_to_skip(count), skip, "n = {count}");
        }
        assert!(ranks_to_skip(100_000) > 49_000);
    }

    #[test]
    fn the_interval_holds_the_median_as_often_as_it_says() {
        // A generator of its own (Knuth's MMIX constants), so that the test gives the same every time.
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut held = 0;
        for _ in 0..2000 {
            // Skewed, with the median at ln 2.
            let values: Vec<f64> = (0..31).map(|_| -(1.0 - next()).ln()).collect();
            let estimate = Estimate::of(&values).unwrap();
            held += u32::from(estimate.low <= std::f64::consts::LN_2 && std::f64::consts::LN_2 <= estimate.high);
        }
        assert!((1900..=1990).contains(&held), "{held} of 2000");
    }

    #[test]
    fn drift_cancels_in_pairs() {
        let drift = |i: usize| 1.0 + i as f64 / 10.0;
        let ours: Vec<f64> = (0..20).map(|i| 2.0 * drift(i)).collect();
        let theirs: Vec<f64> = (0..20).map(|i| 4.0 * drift(i)).collect();
        let ratio = paired_ratio(&ours, &theirs).unwrap();
        assert!((ratio.median - 0.5).abs() < 1e-12 && ratio.noise() < 1e-12);
    }
}
