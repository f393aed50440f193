//! Several caches in order, for work that can do without each of them: what one does not have the next may, and one that fails is left
//! alone for a while.

use crate::blob::{Blob, BlobSink, Progress};
use crate::cache::Cache;
use crate::error::ClientError;
use preheat_image::Digest;
use preheat_image::statement::Envelope;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row after which a cache is left alone.
const FAILURES: u32 = 3;
/// For how long.
const LEFT_ALONE: Duration = Duration::from_secs(30);

/// Caches in the order in which they are asked. Cheap to clone; clones share what they know of failures.
#[derive(Debug, Clone, Default)]
pub struct Caches {
    members: Arc<Vec<Member>>,
    warnings: Arc<Mutex<Warnings>>,
}

#[derive(Debug)]
struct Member {
    cache: Cache,
    breaker: Mutex<Breaker>,
}

/// Whether a cache is asked: a circuit breaker.
#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    /// Not before that; then one question decides.
    closed_until: Option<Instant>,
    /// That question is on its way.
    probing: bool,
}

impl Breaker {
    fn may_ask(&mut self, now: Instant) -> bool {
        match self.closed_until {
            None => true,
            Some(until) if now < until || self.probing => false,
            Some(_) => {
                self.probing = true;
                true
            }
        }
    }

    fn worked(&mut self) {
        *self = Self::default();
    }

    /// The question was dropped before its answer: nothing is known, and the next one may try.
    fn abandoned(&mut self) {
        self.probing = false;
    }

    fn failed(&mut self, now: Instant, error: &ClientError) {
        self.failures = match error {
            // Was tried again already, as often as patience allows; or will be the same the next time.
            ClientError::Unreachable { .. }
            | ClientError::TimedOut { .. }
            | ClientError::Tls { .. }
            | ClientError::Certificate { .. }
            | ClientError::Configuration { .. }
            | ClientError::Unauthorized { .. } => FAILURES,
            _ => self.failures.saturating_add(1),
        };
        if self.failures >= FAILURES {
            self.closed_until = Some(now + LEFT_ALONE);
        }
        self.probing = false;
    }
}

#[derive(Debug, Default)]
struct Warnings {
    said: BTreeSet<String>,
    new: Vec<String>,
}

/// Gives the breaker its word back when the question is dropped.
struct Asking<'m> {
    member: &'m Member,
    answered: bool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.answered {
            lock(&self.member.breaker).abandoned();
        }
    }
}

impl Caches {
    /// Caches in this order. Each keeps its own patience; for a build that should be [`crate::Patience::impatient`].
    #[must_use]
    pub fn new(caches: Vec<Cache>) -> Self {
        let members = caches.into_iter().map(|cache| Member { cache, breaker: Mutex::default() }).collect();
        Self { members: Arc::new(members), warnings: Arc::default() }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The caches, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Cache> {
        self.members.iter().map(|member| &member.cache)
    }

    /// The cache with this name, or at this `host[:port]`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Cache> {
        self.iter().find(|cache| cache.name() == name).or_else(|| self.iter().find(|cache| cache.host() == name))
    }

    /// Problems since the last call, each problem only once ever: for one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.warnings).new)
    }

    fn warn(&self, cache: &Cache, error: &ClientError) {
        // One line for one kind of failure of one cache, whatever it was asked.
        let kind = format!("{}\0{:?}", cache.name(), std::mem::discriminant(error));
        let mut warnings = lock(&self.warnings);
        if warnings.said.insert(kind) {
            warnings.new.push(format!("the cache `{}` is of no help: {error}", cache.name()));
        }
    }

    /// Asks one cache, unless it is left alone.
    async fn ask<T>(&self, member: &Member, question: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        if !lock(&member.breaker).may_ask(Instant::now()) {
            return Err(ClientError::LeftAlone { name: member.cache.name().to_owned() });
        }
        let mut asking = Asking { member, answered: false };
        let result = question.await;
        asking.answered = true;
        match &result {
            Err(error) if error.blames_service() => {
                lock(&member.breaker).failed(Instant::now(), error);
                self.warn(&member.cache, error);
            }
            _ => lock(&member.breaker).worked(),
        }
        result
    }

    /// Asks the caches in order until one has it. A failure is as good as a miss here, but is remembered for [`Caches::warnings`].
    pub async fn first<T, Q, F>(&self, question: Q) -> Option<T>
    where
        Q: Fn(Cache) -> F,
        F: Future<Output = Result<Option<T>, ClientError>>,
    {
        for member in self.members.iter() {
            match self.ask(member, question(member.cache.clone())).await {
                Ok(Some(found)) => return Some(found),
                Ok(None) | Err(ClientError::LeftAlone { .. }) => {}
                Err(error) => tracing::debug!(cache = member.cache.name(), %error, "no answer"),
            }
        }
        None
    }

    /// The statements under a key that `accept` lets pass, from the first cache that has one, and the cache.
    pub async fn entry(&self, namespace: &str, key: &Digest, accept: impl Fn(&Envelope) -> bool) -> Option<(Cache, Vec<Envelope>)> {
        let accept = &accept;
        self.first(|cache| async move {
            let mut envelopes = cache.entry(namespace, key).await?;
            envelopes.retain(accept);
            Ok((!envelopes.is_empty()).then_some((cache, envelopes)))
        })
        .await
    }

    /// The statements about a subject that `accept` lets pass, from the first cache that has one, and the cache.
    pub async fn statements(
        &self,
        namespace: &str,
        subject: &Digest,
        accept: impl Fn(&Envelope) -> bool,
    ) -> Option<(Cache, Vec<Envelope>)> {
        let accept = &accept;
        self.first(|cache| async move {
            let mut envelopes = cache.statements(namespace, subject).await?;
            envelopes.retain(accept);
            Ok((!envelopes.is_empty()).then_some((cache, envelopes)))
        })
        .await
    }

    /// Fetches a blob from the first cache that gives it whole. What a cache that failed gave is forgotten before the next is asked.
    ///
    /// # Errors
    /// The error of the last cache that was asked and had more to say than that there is nothing; [`ClientError::Invalid`] when there is no
    /// cache at all.
    pub async fn get_blob(
        &self,
        namespace: &str,
        blob: &Blob,
        sink: &mut dyn BlobSink,
        progress: &dyn Progress,
    ) -> Result<(), ClientError> {
        let mut worst: Option<ClientError> = None;
        for (nth, member) in self.members.iter().enumerate() {
            if nth > 0 {
                sink.restart().map_err(|source| ClientError::Local { what: "write what arrives", source })?;
                progress.moved(blob, 0);
            }
            match self.ask(member, member.cache.get_blob(namespace, blob, sink, progress)).await {
                Ok(()) => return Ok(()),
                Err(error @ (ClientError::Local { .. } | ClientError::Invalid(_))) => return Err(error),
                Err(error) => match &worst {
                    Some(known) if !known.is_not_found() && (error.is_not_found() || matches!(error, ClientError::LeftAlone { .. })) => {}
                    _ => worst = Some(error),
                },
            }
        }
        Err(worst.unwrap_or_else(|| ClientError::Invalid("no cache is set up".into())))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timed_out() -> ClientError {
        ClientError::TimedOut { url: String::new(), what: String::new() }
    }

    fn bad() -> ClientError {
        ClientError::BadAnswer { url: String::new(), what: String::new() }
    }

    #[test]
    fn a_cache_that_does_not_answer_is_left_alone_and_then_tried_by_one() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        assert!(breaker.may_ask(now) && breaker.may_ask(now));
        breaker.failed(now, &timed_out());
        assert!(!breaker.may_ask(now));
        let later = now + LEFT_ALONE;
        assert!(breaker.may_ask(later));
        assert!(!breaker.may_ask(later), "one is enough to find out");
        breaker.failed(later, &timed_out());
        assert!(!breaker.may_ask(later));
        let later = later + LEFT_ALONE;
        assert!(breaker.may_ask(later));
        breaker.abandoned();
        assert!(breaker.may_ask(later));
        breaker.worked();
        assert!(breaker.may_ask(later) && breaker.may_ask(later));
    }

    #[test]
    fn other_failures_count_in_a_row() {
        let mut breaker = Breaker::default();
        let now = Instant::now();
        for _ in 0..FAILURES - 1 {
            breaker.failed(now, &bad());
        }
        breaker.worked();
        for _ in 0..FAILURES - 1 {
            breaker.failed(now, &bad());
        }
        assert!(breaker.may_ask(now));
        breaker.failed(now, &bad());
        assert!(!breaker.may_ask(now));
    }
}
