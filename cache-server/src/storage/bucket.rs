//! A bucket: object storage that several servers share, through the `object_store` crate.
//!
//! Objects, below the prefix of the URL: `ns/{ns}/cas/{2}/{62 hexadecimal digits}` for blobs, `meta/{key}` for records, `quarantine/…` for
//! damaged blobs. A blob is written when all of it is here and verified, so a reader never sees part of one. Chunk lists are not kept in the
//! bucket: [the tier](super::tier) makes them from the bytes that it verifies.
//!
//! Every request has an end in time and is tried again a few times, with pauses of random length; then the answer is
//! [`StorageError::Unavailable`]. A bucket that fails is never a blob that is missing.

use super::bucket_blobs::BucketBlobs;
use super::bucket_meta::BucketMeta;
use super::tier::Tier;
use super::{Expect, Meta as _, PutError, StorageError};
use anyhow::{Context as _, bail};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::signer::{Signer, Url};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, ObjectStoreScheme, RetryConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A bucket in which blobs and records are, in place of the local disk.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BucketConfig {
    /// `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`.
    pub url: String,
    /// Options of the object store by the names of the `object_store` crate, such as `endpoint`, `region`, `allow_http`,
    /// `virtual_hosted_style_request`. They go before the environment variables of the same meaning (`AWS_…`, `AZURE_…`, `GOOGLE_…`), which
    /// is where credentials belong.
    pub options: BTreeMap<String, String>,
    /// Size limit in bytes of the local disk tier before the bucket.
    pub tier_bytes: u64,
    /// Most blobs in the tier; each takes about 100 bytes of memory.
    pub tier_blobs: usize,
    /// Whether readers of large blobs are sent to the bucket itself by an address that is good for a short while. They must be able to reach
    /// it.
    pub redirect: bool,
    /// From which size in bytes they are.
    pub redirect_from_bytes: u64,
    /// How long such an address is good, in seconds.
    pub redirect_seconds: u64,
    /// How long a request to the bucket may take, in seconds; four times as long if it carries a part of a blob.
    pub request_seconds: u64,
    /// How often a request is tried before the bucket counts as unavailable.
    pub attempts: u32,
}

impl Default for BucketConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            options: BTreeMap::new(),
            tier_bytes: 10 << 30,
            tier_blobs: 1_000_000,
            redirect: false,
            redirect_from_bytes: 8 << 20,
            redirect_seconds: 60,
            request_seconds: 10,
            attempts: 4,
        }
    }
}

/// How long things take at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// Of a request.
    pub(crate) request: Duration,
    /// Of a request that carries a part of a blob.
    pub(crate) transfer: Duration,
    pub(crate) attempts: u32,
    /// The first pause between attempts; each is up to twice as long as the one before.
    pub(crate) pause: Duration,
}

/// The bucket.
#[derive(Debug, Clone)]
pub struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Tries once: repeating is done here, where it is known what it means.
    store: Arc<dyn ObjectStore>,
    /// Repeats by itself: for the parts of large uploads and the pages of long lists, which can't be repeated from here.
    repeating: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
    prefix: Path,
    timing: Timing,
}

/// What a bucket answered.
#[derive(Debug)]
pub(crate) enum Answer<T> {
    /// It is done.
    Done(T),
    /// There is no such object.
    Missing,
    /// A condition was not met.
    Refused,
}

/// What [`Bucket::call`] found out.
#[derive(Debug)]
pub(crate) struct Called<T> {
    pub(crate) answer: Answer<T>,
    /// Whether an attempt before failed in a way that may have changed something all the same.
    pub(crate) repeated: bool,
}

fn pick<S: ObjectStore + Signer + 'static>(once: S, repeating: S) -> Stores {
    let once = Arc::new(once);
    Stores { store: once.clone(), signer: Some(once), repeating: Arc::new(repeating) }
}

struct Stores {
    store: Arc<dyn ObjectStore>,
    repeating: Arc<dyn ObjectStore>,
    signer: Option<Arc<dyn Signer>>,
}

macro_rules! build {
    ($builder:ty, $config:expr, $client:expr, $once:expr, $repeating:expr) => {{
        let mut builder = <$builder>::from_env().with_url($config.url.as_str()).with_client_options($client);
        for (name, value) in &$config.options {
            let key = name.to_ascii_lowercase().parse().with_context(|| format!("`{name}` is not an option of this object store"))?;
            builder = builder.with_config(key, value);
        }
        pick(builder.clone().with_retry($once).build()?, builder.with_retry($repeating).build()?)
    }};
}

impl Bucket {
    /// Opens a bucket. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the URL or an option is not one of an object store.
    pub fn open(config: &BucketConfig) -> anyhow::Result<Self> {
        let url = Url::parse(&config.url).with_context(|| format!("`{}` is not the URL of a bucket", config.url))?;
        let (scheme, prefix) = ObjectStoreScheme::parse(&url)?;
        // One provider of cryptography in this process; if there is one already it is the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request = Duration::from_secs(config.request_seconds.max(1));
        let timing = Timing { request, transfer: request * 4, attempts: config.attempts.max(1), pause: Duration::from_millis(100) };
        let client = ClientOptions::new().with_timeout(timing.transfer).with_connect_timeout(timing.request);
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let repeating = RetryConfig {
            max_retries: usize::try_from(timing.attempts - 1)?,
            retry_timeout: timing.transfer * timing.attempts,
            backoff: BackoffConfig { init_backoff: timing.pause, max_backoff: Duration::from_secs(2), base: 2.0 },
        };
        // The client's options below are the caller's; http is refused unless they say otherwise.
        let stores = match scheme {
            ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder, config, client, once, repeating),
            ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, config, client, once, repeating),
            ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder, config, client, once, repeating),
            _ => bail!("`{}` is not the URL of a bucket: use s3://, az:// or gs://", config.url),
        };
        let signer = stores.signer.filter(|_| config.redirect);
        Ok(Self(Arc::new(Inner { store: stores.store, repeating: stores.repeating, signer, prefix, timing })))
    }

    /// A bucket over any object store, for tests.
    #[cfg(test)]
    pub(crate) fn over(store: Arc<dyn ObjectStore>, timing: Timing) -> Self {
        Self(Arc::new(Inner { repeating: store.clone(), store, signer: None, prefix: Path::from("prefix"), timing }))
    }

    /// Proves that the bucket refuses a write whose condition is not met: two servers moving one name rely on it.
    ///
    /// # Errors
    /// When it does not, or when the bucket can't be used.
    pub async fn check_conditional_writes(&self) -> anyhow::Result<()> {
        let meta = BucketMeta::new(self.clone());
        let mut random = [0; 16];
        getrandom::fill(&mut random)?;
        let key = format!("scratch/{}", random.map(|byte| format!("{byte:02x}")).concat());
        let proven = self.prove(&meta, &key).await;
        // Left over, it harms nobody.
        let _ = meta.delete(&key).await;
        proven
    }

    async fn prove(&self, meta: &BucketMeta, key: &str) -> anyhow::Result<()> {
        let value = |text: &'static str| bytes::Bytes::from_static(text.as_bytes());
        let unusable = "the bucket can't be used: reading, writing, listing and deleting must be allowed";
        if meta.get(key).await.context(unusable)?.is_some() {
            bail!("the bucket has objects that nobody wrote");
        }
        let first = meta.put(key, value("first"), Expect::Absent).await.context(unusable)?;
        match meta.put(key, value("again"), Expect::Absent).await {
            Err(PutError::Conflict) => {}
            Ok(_) => bail!("the bucket overwrites an object that it was told to create (If-None-Match): several servers can't share it"),
            Err(error) => return Err(error).context("the bucket can't create objects conditionally (If-None-Match)"),
        }
        let second = meta
            .put(key, value("second"), Expect::Version(first.clone()))
            .await
            .context("the bucket can't replace objects conditionally (If-Match)")?;
        if second == first {
            bail!("the bucket gives two contents the same ETag");
        }
        match meta.put(key, value("stale"), Expect::Version(first)).await {
            Err(PutError::Conflict) => {}
            Ok(_) => bail!("the bucket accepts a stale conditional write (If-Match): several servers can't share it"),
            Err(error) => return Err(error).context("the bucket can't replace objects conditionally (If-Match)"),
        }
        let (found, version) = meta.get(key).await.context(unusable)?.context("the bucket lost an object that it had accepted")?;
        if found != value("second") || version != second {
            bail!("the bucket shows an old object after a new one was written");
        }
        if meta.list("scratch/").await.context(unusable)?.iter().all(|found| found != key) {
            bail!("the bucket does not list an object that was written");
        }
        meta.delete(key).await.context(unusable)?;
        if meta.get(key).await.context(unusable)?.is_some() {
            bail!("the bucket shows an object that was deleted");
        }
        Ok(())
    }

    /// The blobs, with a tier in `directory`.
    ///
    /// # Errors
    /// When the tier's directory can't be made.
    pub fn blobs(&self, config: &BucketConfig, directory: &std::path::Path) -> std::io::Result<BucketBlobs> {
        let tier = Tier::open(directory, config.tier_bytes, config.tier_blobs)?;
        Ok(BucketBlobs::new(self.clone(), tier, config))
    }

    /// The records.
    #[must_use]
    pub fn meta(&self) -> BucketMeta {
        BucketMeta::new(self.clone())
    }

    pub(crate) fn path(&self, key: &str) -> Result<Path, StorageError> {
        let text = if self.0.prefix.as_ref().is_empty() { key.to_owned() } else { format!("{}/{key}", self.0.prefix) };
        Path::parse(&text).map_err(|error| StorageError::Other(format!("`{text}` can't be an object: {error}")))
    }

    pub(crate) fn store(&self) -> &dyn ObjectStore {
        &*self.0.store
    }

    /// The store that repeats failed requests by itself.
    pub(crate) fn repeating(&self) -> &dyn ObjectStore {
        &*self.0.repeating
    }

    pub(crate) fn signer(&self) -> Option<&dyn Signer> {
        self.0.signer.as_deref()
    }

    pub(crate) fn timing(&self) -> Timing {
        self.0.timing
    }

    /// Asks the bucket, again if it fails, within `limit` each time.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when it keeps failing.
    pub(crate) async fn call<T, F: Future<Output = object_store::Result<T>> + Send>(
        &self,
        what: &str,
        limit: Duration,
        run: impl Fn() -> F + Send + Sync,
    ) -> Result<Called<T>, StorageError> {
        let mut repeated = false;
        let mut pause = self.0.timing.pause;
        for attempt in 1.. {
            let failure = match tokio::time::timeout(limit, run()).await {
                Ok(Ok(value)) => return Ok(Called { answer: Answer::Done(value), repeated }),
                Ok(Err(error)) => match judge::<T>(error) {
                    Judged::Answer(answer) => return Ok(Called { answer, repeated }),
                    Judged::Refused(why) => return Err(StorageError::Unavailable(format!("{what}: {why}"))),
                    Judged::Failed(why) => why,
                },
                Err(_) => format!("no answer in {limit:?}"),
            };
            if attempt >= self.0.timing.attempts {
                return Err(StorageError::Unavailable(format!("{what}: {failure}, {attempt} times tried")));
            }
            tracing::debug!(what, failure, attempt, "the bucket failed");
            repeated = true;
            tokio::time::sleep(jitter(pause)).await;
            pause *= 2;
        }
        Err(StorageError::Unavailable(what.to_owned()))
    }

    /// The size of an object, if it is there.
    ///
    /// # Errors
    /// When the bucket fails.
    pub(crate) async fn size(&self, path: &Path) -> Result<Option<u64>, StorageError> {
        match self.call("looking for an object", self.0.timing.request, || self.store().head(path)).await?.answer {
            Answer::Done(found) => Ok(Some(found.size)),
            Answer::Missing => Ok(None),
            Answer::Refused => Err(StorageError::Unavailable("looking for an object was refused".into())),
        }
    }

    /// Removes an object. Says whether it was there.
    ///
    /// # Errors
    /// When the bucket fails.
    pub(crate) async fn delete(&self, path: &Path) -> Result<bool, StorageError> {
        // S3 says nothing about that when it deletes.
        if self.size(path).await?.is_none() {
            return Ok(false);
        }
        let called = self.call("removing an object", self.0.timing.request, || self.store().delete(path)).await?;
        Ok(called.repeated || matches!(called.answer, Answer::Done(())))
    }

    /// Whether the bucket answers.
    pub(crate) async fn ready(&self) -> Result<(), StorageError> {
        let path = self.path("meta/ready")?;
        self.call("readiness", self.0.timing.request, || self.store().head(&path)).await.map(drop)
    }
}

enum Judged<T> {
    Answer(Answer<T>),
    /// Trying again does not help.
    Refused(String),
    Failed(String),
}

fn judge<T>(error: object_store::Error) -> Judged<T> {
    use object_store::Error;
    match error {
        // A bucket that is not there is no object that is not there.
        Error::NotFound { source, .. } if chain(&*source).contains("NoSuchBucket") => Judged::Refused("there is no such bucket".into()),
        Error::NotFound { .. } => Judged::Answer(Answer::Missing),
        Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. } => Judged::Answer(Answer::Refused),
        Error::Generic { .. } | Error::JoinError { .. } => Judged::Failed(chain(&error)),
        other => Judged::Refused(chain(&other)),
    }
}

/// An error with its causes. Long answers of the store are cut.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text.chars().take(400).collect()
}

/// Between half of `pause` and one and a half times as long.
fn jitter(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness it is just the pause.
    let part = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    };
    pause.mul_f64(0.5 + part)
}
