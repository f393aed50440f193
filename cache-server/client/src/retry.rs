//! When to try again: exponential backoff with full jitter, and what the service asks for.

use crate::config::Patience;
use crate::error::ClientError;
use std::time::Duration;
use tokio::time::Instant;

/// Counts the tries of one thing.
pub(crate) struct Tries<'p> {
    patience: &'p Patience,
    failed: u32,
    until: Instant,
}

impl<'p> Tries<'p> {
    pub(crate) fn new(patience: &'p Patience) -> Self {
        Self { patience, failed: 0, until: Instant::now() + patience.total }
    }

    /// It moved forward: counting and the time begin anew.
    pub(crate) fn moved(&mut self) {
        self.failed = 0;
        self.until = Instant::now() + self.patience.total;
    }

    /// When the time for all tries is over.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Waits for the next try, or gives the error back when there is none.
    pub(crate) async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_passing() {
            return Err(error);
        }
        self.failed += 1;
        let asked = match &error {
            ClientError::Overloaded { retry_after, .. } => retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        };
        let wait = asked + jitter(longest(self.patience, self.failed));
        if self.failed >= self.patience.attempts || Instant::now() + wait >= self.until {
            return Err(error);
        }
        tracing::debug!(%error, ?wait, failed = self.failed, "trying again");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// The longest wait after `failed` failures.
fn longest(patience: &Patience, failed: u32) -> Duration {
    patience.backoff.saturating_mul(2u32.saturating_pow(failed.saturating_sub(1))).min(patience.longest_backoff)
}

/// A random time up to `longest`: clients that failed together do not come back together.
fn jitter(longest: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without random bytes the wait is just not random.
    let _ = getrandom::fill(&mut bytes);
    longest.mul_f64(f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overloaded(retry_after: Option<Duration>) -> ClientError {
        ClientError::Overloaded { url: String::new(), status: 503, message: String::new(), retry_after }
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_by_number() {
        let patience = Patience { attempts: 3, ..Patience::patient() };
        let mut tries = Tries::new(&patience);
        assert!(tries.again(overloaded(None)).await.is_ok());
        assert!(tries.again(overloaded(None)).await.is_ok());
        assert!(tries.again(overloaded(None)).await.is_err());
        tries.moved();
        assert!(tries.again(overloaded(None)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn tries_end_by_time_and_wait_as_asked() {
        let patience = Patience { attempts: 100, total: Duration::from_secs(60), ..Patience::patient() };
        let mut tries = Tries::new(&patience);
        let before = Instant::now();
        assert!(tries.again(overloaded(Some(Duration::from_secs(20)))).await.is_ok());
        assert!(before.elapsed() >= Duration::from_secs(20));
        let before = Instant::now();
        assert!(tries.again(overloaded(Some(Duration::from_secs(50)))).await.is_err(), "that is after the end");
        assert!(before.elapsed() < Duration::from_secs(1), "nobody waits for a try that will not be made");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_final_is_not_tried_again() {
        let patience = Patience::patient();
        let error = ClientError::StorageFull { url: String::new(), message: String::new() };
        assert!(Tries::new(&patience).again(error).await.is_err());
    }

    #[test]
    fn waits_double_up_to_a_limit_and_are_random() {
        let patience = Patience { backoff: Duration::from_secs(1), longest_backoff: Duration::from_secs(5), ..Patience::patient() };
        let waits: Vec<u64> = (1..=5).map(|failed| longest(&patience, failed).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 5, 5]);
        assert_eq!(longest(&patience, u32::MAX), Duration::from_secs(5));
        let some: std::collections::BTreeSet<Duration> = (0..20).map(|_| jitter(Duration::from_secs(1))).collect();
        assert!(some.len() > 10 && some.iter().all(|wait| *wait <= Duration::from_secs(1)));
    }
}
