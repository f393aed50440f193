//! Sharing: between the local store and caches. What a cache says is verified before anything of it enters the store, and pulling never
//! trusts anybody whom the policy did not trust before.

mod builds;
mod location;
mod names;
mod oci;
mod profiles;
mod pull;
mod push;
mod settings;
mod trust;

pub use builds::BuildCache;
pub use location::{Location, with_tag};
pub use names::{NameChange, NamesAnswer};
pub use oci::{ImportedWasm, OciPulled};
pub use preheat_cache_client::oci::{InvalidReference as InvalidOciReference, Pushed as OciPushed, Reference as OciReference};
pub use preheat_cache_client::{Blob, ClientError, CurrentSummary, Progress, Weighing};
pub use profiles::{ProfilePlace, PushedProfile};
pub use pull::{PullCode, Pulled};
pub use push::{Push, Pushed};
pub use settings::{CacheEntry, Settings};

use preheat_cache_client::{Cache, CacheConfig};
use preheat_image::names::MoveError;
use preheat_image::{Digest, FormatError};
use preheat_loader::trust::Refusal;
use preheat_loader::{Home, Store, StoreError, TrustError};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Why something was not shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The store can't do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cache can't, or does not want to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Trust does not allow it.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A signed document does not count, or nobody signed.
    #[error(transparent)]
    Signed(#[from] preheat_image::signed::SignedError),
    /// Nobody signed.
    #[error(transparent)]
    Sign(#[from] preheat_image::keys::SignError),
    /// A name can't be moved so.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// What came is not of its format.
    #[error("what {host} has as {subject} is of no use: {source}")]
    Format {
        /// The cache.
        host: String,
        /// What was asked for.
        subject: String,
        /// What is wrong.
        source: FormatError,
    },
    /// Nobody whom the policy trusts vouches for it.
    #[error("{digest} of {host} is refused before anything of it was fetched: {refusal}")]
    Refused {
        /// The cache.
        host: String,
        /// What was to be pulled.
        digest: Digest,
        /// Why not.
        refusal: Box<Refusal>,
    },
    /// A name leads nowhere, or elsewhere.
    #[error("{0}")]
    Name(String),
    /// The settings can't be used.
    #[error("{}: {what}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// What was asked makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The machine does not give what is needed.
    #[error("can't start: {0}")]
    Start(std::io::Error),
}

impl RemoteError {
    /// Whether what was asked for is just not there.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Client(error) => error.is_not_found(),
            Self::Store(error) => error.is_missing(),
            Self::Name(_) => true,
            _ => false,
        }
    }
}

/// The caches of a home. Synchronous: it has a small executor of its own, and must not be used inside another.
#[derive(Debug)]
pub struct Remote {
    home: Home,
    store: Store,
    settings: Settings,
    /// Those that were asked already, with their connections.
    caches: Mutex<BTreeMap<String, Cache>>,
    tokio: tokio::runtime::Runtime,
}

impl Remote {
    /// The caches of `home`.
    ///
    /// # Errors
    /// When the store or the settings can't be opened.
    pub fn new(home: &Home) -> Result<Self, RemoteError> {
        // Writing and hashing block: on one thread, transfers would wait for each other.
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(RemoteError::Start)?;
        Ok(Self { home: home.clone(), store: home.store()?, settings: Settings::of(home)?, caches: Mutex::default(), tokio })
    }

    /// Which caches are known.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    fn cache(&self, host: &str) -> Result<Cache, RemoteError> {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = caches.get(host) {
            return Ok(cache.clone());
        }
        let cache = Cache::new(self.settings.config(host)?)?;
        caches.insert(host.to_owned(), cache.clone());
        Ok(cache)
    }

    /// Asks a cache anything that the other methods do not.
    ///
    /// # Errors
    /// What `ask` says, and when the cache is not set up well.
    pub fn ask<T>(&self, host: &str, ask: impl AsyncFnOnce(&Cache) -> Result<T, ClientError>) -> Result<T, RemoteError> {
        let cache = self.cache(host)?;
        Ok(self.tokio.block_on(ask(&cache))?)
    }

    /// Asks a cache that need not be among the settings.
    ///
    /// # Errors
    /// As [`Remote::ask`].
    pub fn ask_at<T>(&self, config: CacheConfig, ask: impl AsyncFnOnce(&Cache) -> Result<T, ClientError>) -> Result<T, RemoteError> {
        let cache = Cache::new(config)?;
        Ok(self.tokio.block_on(ask(&cache))?)
    }
}
