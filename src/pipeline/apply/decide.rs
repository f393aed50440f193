//! Is the candidate faster? By the times that a replay took.

use super::replay::Times;
use preheat_bench::stats::{Estimate, paired_ratio};
use preheat_image::evidence::{Ratio, WHOLE};

/// What the times say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The candidate's time by the control's.
    pub ratio: Ratio,
    /// The control's CPU time for all requests once, in nanoseconds: the median of the rounds.
    pub control: u64,
    /// The same of the candidate.
    pub candidate: u64,
    /// For each request, the candidate's time by the control's: the median of the rounds, in millionths.
    pub requests: Vec<u64>,
}

impl Verdict {
    /// Judges rounds.
    ///
    /// A round has one ratio, that of the two sums over all its requests, so that a request counts for as much as it takes. Both sums are of the same
    /// few moments: what makes the machine slower for a while makes both larger. Of these ratios the median is taken with its distribution-free
    /// interval ([`Estimate::of`]), which is made of two of the ratios themselves. Nothing is drawn by chance: the same times give the same verdict.
    ///
    /// None if there are no rounds, or none of any length.
    pub(super) fn of(rounds: &[Times]) -> Option<Self> {
        let sums = |side: fn(&(u64, u64)) -> u64| rounds.iter().map(|round| round.iter().map(side).sum::<u64>() as f64).collect::<Vec<_>>();
        let (control, candidate) = (sums(|times| times.0), sums(|times| times.1));
        let estimate = paired_ratio(&candidate, &control)?;
        let requests = rounds.iter().map(Vec::len).min().unwrap_or(0);
        let of_request = |request: usize| {
            let times = |side: fn(&(u64, u64)) -> u64| rounds.iter().map(|round| side(&round[request]) as f64).collect::<Vec<_>>();
            paired_ratio(&times(|times| times.1), &times(|times| times.0)).map_or(WHOLE, |ratio| millionths(ratio.median, f64::round))
        };
        Some(Self {
            ratio: Ratio {
                median: millionths(estimate.median, f64::round),
                low: millionths(estimate.low, f64::floor),
                high: millionths(estimate.high, f64::ceil),
            },
            control: median(&control),
            candidate: median(&candidate),
            requests: (0..requests).map(of_request).collect(),
        })
    }
}

/// A share in millionths. What a number can't hold, as is of no use for a decision, becomes the largest that it can.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn millionths(share: f64, round: fn(f64) -> f64) -> u64 {
    round(share * WHOLE as f64) as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a whole number, or lies between two")]
fn median(values: &[f64]) -> u64 {
    Estimate::of(values).map_or(0, |estimate| estimate.median.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds of two requests, whose times on the control are about 1 and 3 ms, and on the candidate `factor` of that. Everything has a noise of up to
    /// `noise` of it, and a drift: each round takes 1 % more than the one before.
    fn rounds(count: u32, factor: f64, noise: f64) -> Vec<Times> {
        // A generator of its own (Knuth's MMIX constants), so that the test gives the same every time.
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut time = move |nanoseconds: f64, round: u32| {
            let drift = 1.0 + f64::from(round) / 100.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some milliseconds")]
            let time = (nanoseconds * drift * (1.0 + noise * next())) as u64;
            time
        };
        (0..count).map(|round| [1e6, 3e6].map(|one| (time(one, round), time(one * factor, round))).to_vec()).collect()
    }

    fn promotes(rounds: &[Times], min_gain: i64) -> bool {
        Verdict::of(rounds).unwrap().ratio.is_below(min_gain)
    }

    #[test]
    fn what_is_clearly_faster_is_promoted() {
        let faster = rounds(31, 0.9, 0.02);
        let verdict = Verdict::of(&faster).unwrap();
        assert!((890_000..910_000).contains(&verdict.ratio.median), "{verdict:?}");
        assert!(verdict.ratio.low < verdict.ratio.median && verdict.ratio.median < verdict.ratio.high);
        assert!((4_000_000..6_000_000).contains(&verdict.control) && verdict.candidate < verdict.control);
        assert!(verdict.requests.len() == 2 && verdict.requests.iter().all(|ratio| (880_000..920_000).contains(ratio)));
        assert!(promotes(&faster, 10_000) && !promotes(&faster, 120_000), "the gain that is asked for counts");
        assert_eq!(Verdict::of(&faster), Verdict::of(&faster.clone()), "nothing is by chance");
    }

    #[test]
    fn what_is_equal_slower_or_lost_in_noise_is_not() {
        assert!(!promotes(&rounds(31, 1.0, 0.02), 10_000));
        assert!(!promotes(&rounds(31, 1.0, 0.02), 0));
        assert!(!promotes(&rounds(31, 1.1, 0.02), 10_000));
        assert!(promotes(&rounds(31, 1.1, 0.02), -10_000_000), "unless somebody asks for it");
        // 2 % faster, in a noise of 40 %: six rounds can't tell. Five hundred can.
        assert!(!promotes(&rounds(6, 0.98, 0.4), 10_000));
        assert!(promotes(&rounds(2000, 0.95, 0.4), 10_000));
    }

    #[test]
    fn equal_ones_are_hardly_ever_promoted() {
        let wrongly = (0..200).filter(|shift| promotes(&rounds(231, 1.0, 0.05)[*shift..shift + 31], 0)).count();
        assert!(wrongly <= 12, "{wrongly} of 200");
    }

    #[test]
    fn a_request_counts_for_as_much_as_it_takes() {
        // The short one takes twice as long, the long one 10 % less: together less.
        let both: Vec<Times> = (0..11).map(|round| vec![(1000 + round, 2000), (100_000, 90_000)]).collect();
        let verdict = Verdict::of(&both).unwrap();
        assert!(verdict.ratio.is_below(10_000), "{verdict:?}");
        assert!(verdict.requests[0] > 1_900_000 && verdict.requests[1] == 900_000);
    }

    #[test]
    fn nothing_says_nothing() {
        assert_eq!(Verdict::of(&[]), None);
        assert_eq!(Verdict::of(&[vec![(0, 0)]]), None);
        assert_eq!(Verdict::of(&[vec![]]), None);
        assert_eq!(millionths(f64::INFINITY, f64::ceil), u64::MAX);
    }
}
