//! Following the root and the revocations of an installation that is trusted already.

use super::{Remote, RemoteError};
use preheat_cache_client::Cache;
use preheat_loader::trust::now;
use preheat_loader::{TrustUpdate, TrustedRoot};

/// Most roots that are followed in one go.
const MAX_ROOTS: u64 = 256;

impl Remote {
    /// Takes over what the cache `host` has of newer roots and revocations, if each follows what is trusted. Adds no trust.
    ///
    /// # Errors
    /// When no root speaks for the host, the cache does not answer, or what it has does not follow.
    pub fn update_trust(&self, host: &str) -> Result<TrustedRoot, RemoteError> {
        let cache = self.cache(host)?;
        let known = self.home.root_of_host(host)?.ok_or_else(|| preheat_loader::TrustError::NoRoot(host.to_owned()))?;
        self.tokio.block_on(self.follow(&cache, &known))
    }

    async fn follow(&self, cache: &Cache, known: &TrustedRoot) -> Result<TrustedRoot, RemoteError> {
        let mut update = TrustUpdate::default();
        let mut latest = known.root.clone();
        for number in (known.root.number + 1..).take(usize::try_from(MAX_ROOTS).unwrap_or(usize::MAX)) {
            let Some(next) = cache.root_number(number).await? else { break };
            update.roots.push(next.to_bytes());
            // Nothing is asked for behind one that does not follow; the home says what is wrong with it.
            match next.verify_next(&latest) {
                Ok(root) => latest = root.clone(),
                Err(_) => break,
            }
        }
        update.revocations = cache.revocations().await?.map(|list| list.to_bytes());
        Ok(self.home.update_trust(&known.entry.id, &update, now())?)
    }

    /// Does the same on the way to something else: a cache that does not answer, or for which no root speaks, is no failure here. What
    /// is known stays in force, and ends by itself when its time is over.
    pub(super) async fn refresh_trust(&self, cache: &Cache, host: &str) -> Result<(), RemoteError> {
        let Some(known) = self.home.root_of_host(host)? else { return Ok(()) };
        match self.follow(cache, &known).await {
            Err(RemoteError::Client(error)) if error.is_passing() || error.is_not_found() => Ok(()),
            followed => followed.map(drop),
        }
    }
}
