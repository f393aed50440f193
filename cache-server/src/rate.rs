//! How often somebody may do something: one token bucket for each, in bounded memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most buckets that are kept apart.
const MAX_BUCKETS: usize = 16_384;
/// How often at most full buckets are looked for when there is no room.
const CLEAN_EVERY: u64 = NANOSECONDS;
const NANOSECONDS: u64 = 1_000_000_000;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Rate {
    /// How many a second, in the long run.
    pub per_second: f64,
    /// How many at once, after a pause.
    pub burst: u32,
}

impl Rate {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(0.001..=1e9).contains(&self.per_second) {
            return Err(format!("{} a second is not a rate: expected 0.001 to 1000000000", self.per_second));
        }
        if self.burst == 0 {
            return Err("a burst of 0 lets nobody do anything".into());
        }
        Ok(())
    }
}

/// For whom a bucket is: a token, a certificate, a CI job, an address.
pub(crate) type Key = u128;

/// The key of an address. All of a /64 network of IPv6 is one: that is what one host gets.
#[must_use]
pub(crate) fn address(address: IpAddr) -> Key {
    match address.to_canonical() {
        IpAddr::V4(four) => Key::from(u32::from(four)),
        IpAddr::V6(six) => Key::from(six) >> 64 << 64 | 1 << 63,
    }
}

/// Buckets (as GCRA: each is only the time at which it is full again).
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Nanoseconds for each.
    cost: u64,
    /// Nanoseconds for a full bucket.
    burst: u64,
    started: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    full_at: HashMap<Key, u64>,
    /// The one of all for whom there is no room: so whoever makes up keys pushes nobody out and gets no more.
    others: u64,
    cleaned: u64,
}

impl Limiter {
    /// Full buckets.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the checked rate makes it 1 to 1e12")]
    pub(crate) fn new(rate: Rate) -> Self {
        let cost = (NANOSECONDS as f64 / rate.per_second).max(1.0) as u64;
        Self { cost, burst: cost.saturating_mul(u64::from(rate.burst)), started: Instant::now(), buckets: Mutex::default() }
    }

    /// Takes one out of a bucket.
    ///
    /// # Errors
    /// How long until there is one again.
    pub(crate) fn take(&self, key: Key) -> Result<(), Duration> {
        self.take_at(key, self.now())
    }

    /// Whether a bucket is empty, without taking anything.
    ///
    /// # Errors
    /// How long until there is one again.
    pub(crate) fn look(&self, key: Key) -> Result<(), Duration> {
        let now = self.now();
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        self.room(buckets.full_at.get(&key).copied().unwrap_or(if buckets.full_at.len() < MAX_BUCKETS { 0 } else { buckets.others }), now)
            .map(|_| ())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn room(&self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let next = full_at.max(now).saturating_add(self.cost);
        match next.saturating_sub(now).saturating_sub(self.burst) {
            0 => Ok(next),
            wait => Err(Duration::from_nanos(wait)),
        }
    }

    fn take_at(&self, key: Key, now: u64) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = &mut *buckets;
        if let Some(full_at) = buckets.full_at.get_mut(&key) {
            *full_at = self.room(*full_at, now)?;
            return Ok(());
        }
        if buckets.full_at.len() >= MAX_BUCKETS && now >= buckets.cleaned.saturating_add(CLEAN_EVERY) {
            buckets.cleaned = now;
            buckets.full_at.retain(|_, full_at| *full_at > now);
        }
        if buckets.full_at.len() >= MAX_BUCKETS {
            buckets.others = self.room(buckets.others, now)?;
        } else {
            buckets.full_at.insert(key, self.room(0, now)?);
        }
        Ok(())
    }
}

/// Whole seconds for a `Retry-After` header, never 0.
#[must_use]
pub(crate) fn retry_after(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(per_second: f64, burst: u32) -> Limiter {
        let rate = Rate { per_second, burst };
        rate.check().unwrap();
        Limiter::new(rate)
    }

    #[test]
    fn a_burst_is_let_through_then_the_rate() {
        let limiter = limiter(10.0, 5);
        let mut now = 7;
        for _ in 0..5 {
            limiter.take_at(1, now).unwrap();
        }
        assert_eq!(limiter.take_at(1, now), Err(Duration::from_millis(100)));
        limiter.take_at(2, now).unwrap();
        for _ in 0..100 {
            now += NANOSECONDS / 10;
            limiter.take_at(1, now).unwrap();
            assert!(limiter.take_at(1, now).is_err());
        }
        now += 3600 * NANOSECONDS;
        for _ in 0..5 {
            limiter.take_at(1, now).unwrap();
        }
        assert!(limiter.take_at(1, now).is_err());
    }

    #[test]
    fn looking_takes_nothing() {
        let limiter = limiter(0.001, 1);
        for _ in 0..10 {
            limiter.look(1).unwrap();
        }
        limiter.take(1).unwrap();
        assert!(limiter.look(1).is_err());
        limiter.look(2).unwrap();
    }

    #[test]
    fn made_up_keys_take_bounded_memory_and_push_nobody_out() {
        let limiter = limiter(0.001, 1);
        limiter.take_at(1, 0).unwrap();
        let passed = (0..3 * MAX_BUCKETS as u128).filter(|key| limiter.take_at(1000 + key, 0).is_ok()).count();
        assert_eq!(passed, MAX_BUCKETS, "one each while there is room, and one for all others");
        assert!(limiter.buckets.lock().unwrap().full_at.len() <= MAX_BUCKETS);
        assert!(limiter.take_at(1, 0).is_err(), "still remembered");
        // Once the buckets are full again there is room.
        limiter.take_at(u128::MAX, 2000 * NANOSECONDS).unwrap();
        assert_eq!(limiter.buckets.lock().unwrap().full_at.len(), 1);
    }

    #[test]
    fn one_network_is_one_key() {
        let key = |text: &str| address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn rates_that_are_none_are_refused() {
        for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e10] {
            assert!(Rate { per_second, burst: 1 }.check().is_err());
        }
        assert!(Rate { per_second: 1.0, burst: 0 }.check().is_err());
    }

    #[test]
    fn waiting_times_are_rounded_up() {
        assert_eq!(retry_after(Duration::ZERO), 1);
        assert_eq!(retry_after(Duration::from_millis(1001)), 2);
        assert_eq!(retry_after(Duration::from_secs(3)), 3);
    }
}
