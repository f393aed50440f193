//! Records in a bucket: small objects, replaced under conditions. A record's version is its object's ETag.
//!
//! Object stores replace under conditions but do not remove under conditions. So a record that is removed only at a version is replaced by
//! an empty object, which counts as none.

use super::bucket::{Answer, Bucket, Called};
use super::{Expect, Meta, PutError, StorageError, Version};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload, UpdateVersion};

/// Below which all records are.
const ROOT: &str = "meta";

/// The records in a bucket.
#[derive(Debug, Clone)]
pub struct BucketMeta {
    bucket: Bucket,
}

/// An ETag, and the version of the object where the store has those: Azure and GCS go by either.
fn version(e_tag: Option<String>, version: Option<String>) -> Result<Version, StorageError> {
    let e_tag = e_tag.ok_or_else(|| StorageError::Other("the bucket gives objects no ETag".into()))?;
    Ok(Version(format!("{}\n{e_tag}", version.unwrap_or_default())))
}

fn update_version(Version(text): &Version) -> UpdateVersion {
    let (version, e_tag) = text.split_once('\n').unwrap_or(("", text));
    UpdateVersion { e_tag: Some(e_tag.to_owned()), version: (!version.is_empty()).then(|| version.to_owned()) }
}

impl BucketMeta {
    pub(crate) fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }
}

/// What is at a key.
enum Found {
    Nothing,
    /// A record that was removed.
    Empty(Version),
    Record(Bytes, Version),
}

impl BucketMeta {
    async fn find(&self, key: &str) -> Result<Found, StorageError> {
        let path = self.bucket.path(&format!("{ROOT}/{key}"))?;
        let read = || async {
            let found = self.bucket.store().get(&path).await?;
            let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
            Ok((found.bytes().await?, e_tag, version))
        };
        match self.bucket.call("reading a record", self.bucket.timing().request, read).await?.answer {
            Answer::Done((bytes, e_tag, object_version)) => {
                let version = version(e_tag, object_version)?;
                Ok(if bytes.is_empty() { Found::Empty(version) } else { Found::Record(bytes, version) })
            }
            Answer::Missing => Ok(Found::Nothing),
            Answer::Refused => Err(StorageError::Other(format!("reading the record `{key}` was refused"))),
        }
    }

    /// Writes an object. Says at which version it is then, or that the condition was not met.
    async fn write(&self, key: &str, value: &Bytes, mode: PutMode) -> Result<Version, PutError> {
        let path = self.bucket.path(&format!("{ROOT}/{key}"))?;
        let put = || self.bucket.store().put_opts(&path, PutPayload::from(value.clone()), PutOptions::from(mode.clone()));
        let Called { answer, repeated } = self.bucket.call("writing a record", self.bucket.timing().request, put).await?;
        match answer {
            Answer::Done(written) => Ok(version(written.e_tag, written.version)?),
            // The attempt before may have been carried out although its answer got lost: then what is there is what was to be written.
            Answer::Refused | Answer::Missing if repeated => match self.find(key).await? {
                Found::Record(found, version) if found == *value => Ok(version),
                Found::Empty(version) if value.is_empty() => Ok(version),
                _ => Err(PutError::Conflict),
            },
            Answer::Refused => Err(PutError::Conflict),
            // Some stores say that of a condition on an object that is gone.
            Answer::Missing if matches!(mode, PutMode::Update(_)) => Err(PutError::Conflict),
            Answer::Missing => Err(StorageError::Unavailable(format!("writing the record `{key}`: there is no such bucket")).into()),
        }
    }
}

#[async_trait]
impl Meta for BucketMeta {
    async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>, StorageError> {
        match self.find(key).await? {
            Found::Record(bytes, version) => Ok(Some((bytes, version))),
            Found::Empty(_) | Found::Nothing => Ok(None),
        }
    }

    async fn put(&self, key: &str, value: Bytes, expect: Expect) -> Result<Version, PutError> {
        if value.is_empty() {
            return Err(StorageError::Other(format!("the record `{key}` has no value")).into());
        }
        match expect {
            Expect::Any => self.write(key, &value, PutMode::Overwrite).await,
            Expect::Version(version) => self.write(key, &value, PutMode::Update(update_version(&version))).await,
            Expect::Absent => match self.write(key, &value, PutMode::Create).await {
                Err(PutError::Conflict) => match self.find(key).await? {
                    Found::Empty(version) => self.write(key, &value, PutMode::Update(update_version(&version))).await,
                    Found::Record(..) | Found::Nothing => Err(PutError::Conflict),
                },
                written => written,
            },
        }
    }

    async fn delete_version(&self, key: &str, version: &Version) -> Result<(), PutError> {
        self.write(key, &Bytes::new(), PutMode::Update(update_version(version))).await.map(drop)
    }

    async fn delete(&self, key: &str) -> Result<bool, StorageError> {
        let path = self.bucket.path(&format!("{ROOT}/{key}"))?;
        self.bucket.delete(&path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        // Object stores list by whole words.
        let words = prefix.rsplit_once('/').map_or("", |(words, _)| words);
        let folder = if words.is_empty() { ROOT.to_owned() } else { format!("{ROOT}/{words}") };
        let folder = self.bucket.path(&folder)?;
        let root = format!("{}/", self.bucket.path(ROOT)?);
        let repeating = self.bucket.repeating();
        let read = || repeating.list(Some(&folder)).try_collect::<Vec<_>>();
        // A list of many records takes many requests.
        let limit = self.bucket.timing().transfer * 4;
        let found = match self.bucket.call("listing records", limit, read).await?.answer {
            Answer::Done(found) => found,
            Answer::Missing => Vec::new(),
            Answer::Refused => return Err(StorageError::Other("listing records was refused".into())),
        };
        let mut keys: Vec<String> = found
            .iter()
            .filter(|found| found.size > 0)
            .filter_map(|found| found.location.as_ref().strip_prefix(root.as_str()))
            .filter(|key| key.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }
}
