//! What others built: asked for before something is compiled. A cache that is slow, down or full of lies makes a build a local build.

use super::pull::{PullCode, Vouched};
use super::{Location, Push, Remote, RemoteError};
use preheat_cache_client::Patience;
use preheat_image::statement::Kind;
use preheat_image::{Digest, Statement};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The caches that a build asks, in their order. A failure is never an error of the build: it is a miss, and a warning that is given once;
/// the cache is then left alone for the rest of the build.
#[derive(Debug)]
pub struct BuildCache {
    remote: Remote,
    left_alone: Mutex<BTreeMap<String, String>>,
}

impl BuildCache {
    /// Asks the caches whose settings say so.
    #[must_use]
    pub fn new(remote: Remote) -> Self {
        Self { remote, left_alone: Mutex::default() }
    }

    /// Whether any cache is to be asked.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.remote.settings.caches().iter().any(|entry| entry.builds)
    }

    fn left_alone(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.left_alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why caches were not asked any more, one text each. Empties the list.
    pub fn warnings(&self) -> Vec<String> {
        self.left_alone()
            .iter_mut()
            .filter(|(_, why)| !why.is_empty())
            .map(|(host, why)| format!("cache {host} is left out of this build: {}", std::mem::take(why)))
            .collect()
    }

    /// Brings what was just built to the caches whose settings ask for it. One that fails is left out, with a warning.
    pub fn push(&self, image: &Digest, namespace: &str) {
        for entry in self.remote.settings.caches().iter().filter(|entry| entry.push) {
            if self.left_alone().contains_key(&entry.host) {
                continue;
            }
            let to = Location { host: entry.host.clone(), namespace: namespace.to_owned(), name: None, digest: None };
            if let Err(error) = self.remote.push(&Push { image: *image, to, namer: None, names_last: 0 }, &()) {
                self.left_alone().insert(entry.host.clone(), error.to_string());
            }
        }
    }

    /// Gets what a trusted builder made under `key` for `namespace`, if a cache has it. Afterwards the store has it, as if it had been built
    /// here; whether it is used is for the policy to say once more. Says whether something came.
    pub fn fetch(&self, namespace: &str, key: &Digest, kind: Kind) -> bool {
        for entry in self.remote.settings.caches().iter().filter(|entry| entry.builds) {
            if self.left_alone().contains_key(&entry.host) {
                continue;
            }
            match self.remote.fetch_built(&entry.host, namespace, key, kind) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    self.left_alone().insert(entry.host.clone(), error.to_string());
                }
            }
        }
        false
    }
}

impl Remote {
    fn fetch_built(&self, host: &str, namespace: &str, key: &Digest, kind: Kind) -> Result<bool, RemoteError> {
        let cache = self.cache(host)?.with_patience(Patience::impatient());
        self.tokio.block_on(async {
            let envelopes = cache.entry(namespace, key).await?;
            let policy = self.home.trust()?;
            // What was built for another namespace, an overlay's base for example, is no hit.
            let wanted = |statement: &Statement| statement.key == *key && statement.namespace == namespace;
            let Ok(vouched) = Vouched::choose(envelopes, kind, &policy, wanted) else { return Ok(false) };
            match (kind, vouched.outputs().first()) {
                (Kind::Image, Some(manifest)) => {
                    let digest = manifest.digest;
                    // Whole, as if it had been built here: it may be pushed on.
                    self.pull_image(&cache, namespace, &digest, PullCode::All, &()).await?;
                }
                _ => self.pull_outputs(&cache, namespace, &vouched).await?,
            }
            Ok(true)
        })
    }
}
