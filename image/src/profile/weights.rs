//! What each contribution weighs: as much as the requests that it covers, less with age, and together no more than one contributor may have.
//! In integers throughout, so that everybody gets the same.

use super::{Contribution, ContributionId, ProfileError};
use std::collections::BTreeMap;

/// Most contributions in a plan.
pub const MAX_PLANNED: usize = 1 << 17;
/// No contributor weighs more than so many times what the middle one of all contributors weighs.
pub const MAX_TIMES_MEDIAN: u64 = 4;

/// More requests than this in one contribution count as this many.
pub(super) const MAX_CALLS: u64 = 1 << 40;
/// What all contributions weigh together. Shares of it are multiplied by 64-bit numbers, and sums of it with all rounding up stay below 64 bits.
pub(super) const BUDGET: u64 = 1 << 48;
/// A weight has so many binary digits behind the point.
const FRACTION: u32 = 16;

/// How contributions are weighed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The time, in seconds since 1970. What claims to be of later counts as of now.
    pub now: u64,
    /// After so many seconds a contribution weighs half; 0: it never weighs less. In between it is less in proportion to the time.
    pub half_life_s: u64,
    /// The most that one contributor can weigh, in requests; 0: as much as it likes. [`MAX_TIMES_MEDIAN`] holds in either case.
    pub cap: u64,
}

impl Rules {
    /// The rules for who has no other reasons: half the weight after two weeks, and no more than 10,000 requests for anybody.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self { now, half_life_s: 14 * 24 * 60 * 60, cap: 10_000 }
    }

    /// What `calls` requests weigh that were seen at `at`. At most 2^56.
    fn aged(&self, calls: u64, at: u64) -> u64 {
        let calls = calls.min(MAX_CALLS);
        let (halvings, rest) = match self.half_life_s {
            0 => (0, 0),
            half_life => {
                let age = self.now.saturating_sub(at);
                (age / half_life, age % half_life)
            }
        };
        // Between 1 and 1/2 in a straight line.
        let full = u128::from(self.half_life_s.max(1)) * 2;
        let fraction = ((full - u128::from(rest)) << FRACTION) / full;
        let weight = u128::from(calls) * fraction;
        let halvings = u32::try_from(halvings).unwrap_or(u32::MAX);
        u64::try_from(weight.checked_shr(halvings).unwrap_or(0)).unwrap_or(u64::MAX)
    }
}

/// What a contribution says of itself. Its weight follows from this alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Header {
    /// Its id.
    pub id: ContributionId,
    /// Who it is by. The contribution can claim anybody: whoever knows who brought it says so here.
    pub contributor: String,
    /// When it was made, in seconds since 1970. Also a claim; the time at which it came is as good.
    pub at: u64,
    /// How many requests it covers.
    pub calls: u64,
}

impl Header {
    /// The header of a contribution with this id, as the contribution has it.
    #[must_use]
    pub fn of(id: ContributionId, contribution: &Contribution) -> Self {
        Self { id, contributor: contribution.contributor.clone(), at: contribution.at, calls: contribution.calls }
    }
}

/// Which contributions will be added up. All headers have to be known before the first contribution is added, since what one weighs depends on all.
#[derive(Debug, Clone)]
pub struct Plan {
    rules: Rules,
    headers: BTreeMap<ContributionId, Header>,
}

/// A contribution of the plan.
pub(super) struct Planned {
    /// Its share of [`BUDGET`].
    pub(super) share: u64,
    /// The number of its contributor.
    pub(super) contributor: usize,
    pub(super) at: u64,
    pub(super) calls: u64,
    /// Whether it was added up already.
    pub(super) added: bool,
}

impl Plan {
    /// A plan of nothing.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { rules, headers: BTreeMap::new() }
    }

    /// Adds the header of a contribution. One that is there already is not added again; if the two differ, the smaller one counts.
    ///
    /// # Errors
    /// [`ProfileError::TooMuch`] when there are [`MAX_PLANNED`] already.
    pub fn add(&mut self, header: &Header) -> Result<(), ProfileError> {
        if let Some(known) = self.headers.get_mut(&header.id) {
            if header < known {
                *known = header.clone();
            }
            return Ok(());
        }
        if self.headers.len() >= MAX_PLANNED {
            return Err(ProfileError::TooMuch(format!("more than {MAX_PLANNED} contributions")));
        }
        self.headers.insert(header.id, header.clone());
        Ok(())
    }

    /// How many contributions are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.headers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// What each contribution weighs, and how many contributors there are.
    pub(super) fn shares(&self) -> (BTreeMap<ContributionId, Planned>, usize) {
        // At most 2^17 contributions of at most 2^56 each: all sums of weights are below 2^73, and BUDGET times that is below 2^121.
        let mut contributors: BTreeMap<&str, (usize, u128)> = BTreeMap::new();
        for header in self.headers.values() {
            let number = contributors.len();
            let (_, weight) = contributors.entry(&header.contributor).or_insert((number, 0));
            *weight += u128::from(self.rules.aged(header.calls, header.at));
        }
        let mut weights: Vec<u128> = contributors.values().map(|(_, weight)| *weight).filter(|weight| *weight > 0).collect();
        weights.sort_unstable();
        let median = weights.get(weights.len() / 2).copied().unwrap_or_default();
        let cap = if self.rules.cap == 0 { u128::MAX } else { u128::from(self.rules.cap) << FRACTION };
        let most = cap.min(median * u128::from(MAX_TIMES_MEDIAN));
        let all = weights.iter().map(|weight| (*weight).min(most)).sum::<u128>().max(1);
        let planned = self.headers.values().map(|header| {
            let (contributor, weight) = contributors.get(header.contributor.as_str()).copied().unwrap_or_default();
            let of_contributor = u128::from(BUDGET) * weight.min(most) / all;
            let share = of_contributor * u128::from(self.rules.aged(header.calls, header.at)) / weight.max(1);
            let share = u64::try_from(share).unwrap_or(BUDGET);
            (header.id, Planned { share, contributor, at: header.at, calls: header.calls.min(MAX_CALLS), added: false })
        });
        (planned.collect(), contributors.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(rules: Rules, headers: &[(u8, &str, u64, u64)]) -> Vec<u64> {
        let mut plan = Plan::new(rules);
        for (id, contributor, at, calls) in headers {
            let header = Header { id: ContributionId::of(&[*id]), contributor: (*contributor).to_owned(), at: *at, calls: *calls };
            plan.add(&header).unwrap();
        }
        let (planned, _) = plan.shares();
        headers.iter().map(|header| planned[&ContributionId::of(&[header.0])].share).collect()
    }

    const FOREVER: Rules = Rules { now: 1000, half_life_s: 0, cap: 0 };

    #[test]
    fn weight_halves_with_each_half_life_and_falls_in_between() {
        let rules = Rules { now: 1000, half_life_s: 100, cap: 0 };
        let one = rules.aged(1 << 20, 1000);
        assert_eq!(rules.aged(1 << 20, 900), one / 2);
        assert_eq!(rules.aged(1 << 20, 700), one / 8);
        assert_eq!(rules.aged(1 << 20, 950), one / 4 * 3);
        assert_eq!(rules.aged(1 << 20, 2000), one, "of later is of now");
        assert!((0..1000).all(|at| rules.aged(1 << 20, at) <= rules.aged(1 << 20, at + 1)));
        assert_eq!(Rules { now: u64::MAX, ..rules }.aged(u64::MAX, 0), 0);
        assert_eq!(FOREVER.aged(3, 0), FOREVER.aged(3, 1000));
        assert_eq!(Rules { half_life_s: u64::MAX, now: u64::MAX, ..rules }.aged(u64::MAX, 1), 1 << 55);
    }

    #[test]
    fn nobody_weighs_more_than_the_cap() {
        let rules = Rules { cap: 100, ..FOREVER };
        let found = shares(rules, &[(0, "a", 0, 50), (1, "b", 0, 50), (2, "c", 0, 100), (3, "d", 0, u64::MAX)]);
        assert_eq!(found, [BUDGET / 6, BUDGET / 6, BUDGET / 3, BUDGET / 3]);
    }

    #[test]
    fn without_a_cap_nobody_weighs_more_than_a_few_of_the_middle_ones() {
        let found = shares(FOREVER, &[(0, "a", 0, 10), (1, "b", 0, 10), (2, "c", 0, 10), (3, "d", 0, u64::MAX)]);
        assert_eq!(found[3], 4 * BUDGET / 7);
        assert_eq!(shares(FOREVER, &[(0, "a", 0, 1)]), [BUDGET]);
        assert_eq!(shares(FOREVER, &[(0, "a", 0, 1), (1, "b", 0, 3)]), [BUDGET / 4, BUDGET / 4 * 3], "of two nobody is in the middle");
    }

    #[test]
    fn a_contributor_shares_its_weight_among_its_contributions() {
        let rules = Rules { cap: 100, ..FOREVER };
        let found = shares(rules, &[(0, "a", 0, 300), (1, "a", 0, 100), (2, "b", 0, 100)]);
        assert_eq!(found, [BUDGET / 8 * 3, BUDGET / 8, BUDGET / 2]);
    }

    #[test]
    fn the_largest_plan_does_not_overflow() {
        let mut plan = Plan::new(Rules { now: 0, half_life_s: 0, cap: u64::MAX });
        for number in 0..2000u32 {
            let id = ContributionId::of(&number.to_le_bytes());
            plan.add(&Header { id, contributor: (number % 7).to_string(), at: 0, calls: u64::MAX }).unwrap();
        }
        let (planned, contributors) = plan.shares();
        let sum: u64 = planned.values().map(|planned| planned.share).sum();
        assert!(contributors == 7 && sum <= BUDGET && sum > BUDGET - 4000);
    }

    #[test]
    fn nothing_weighs_nothing() {
        assert!(Plan::new(FOREVER).shares().0.is_empty());
        let rules = Rules { now: 1 << 40, half_life_s: 1, cap: 1 };
        assert_eq!(shares(rules, &[(0, "a", 0, 5), (1, "b", 0, 7)]), [0, 0]);
    }
}
