//! The namespaces and how they are set up.

use crate::error::ApiError;
use crate::records::{NAMESPACES, count_key, namespace_key, removal_key};
use crate::storage::{Blobs, Expect, Meta, Namespace, StorageError, Version};
use crate::usage;
use bytes::Bytes;
use futures_util::StreamExt as _;
use preheat_image::api::{NamespaceConfig, NamespaceKind};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long what another server changed may go unnoticed.
const MAX_AGE: Duration = Duration::from_secs(5);
/// Most namespaces, there or not, that are remembered: callers choose what they ask for.
const MAX_KNOWN: usize = 4096;

/// Reads and changes namespaces' settings.
pub(crate) struct Namespaces {
    meta: Arc<dyn Meta>,
    known: Mutex<Known>,
    /// Held while contents are removed.
    removing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Known {
    configs: HashMap<Namespace, (Instant, Option<Arc<NamespaceConfig>>)>,
    /// Goes up with each change through this server, so that what was read before one is not kept after it.
    changes: u64,
}

fn parse(namespace: &Namespace, bytes: &[u8]) -> Result<NamespaceConfig, StorageError> {
    serde_json::from_slice(bytes).map_err(|error| StorageError::Damaged(format!("namespace `{namespace}`: {error}")))
}

impl Namespaces {
    pub(crate) fn new(meta: Arc<dyn Meta>) -> Self {
        Self { meta, known: Mutex::default(), removing: tokio::sync::Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings of a namespace, if there is one of that name.
    pub(crate) async fn get(&self, namespace: &Namespace) -> Result<Option<Arc<NamespaceConfig>>, StorageError> {
        let changes = {
            let known = self.known();
            match known.configs.get(namespace) {
                Some((read, config)) if read.elapsed() < MAX_AGE => return Ok(config.clone()),
                _ => known.changes,
            }
        };
        let at = Instant::now();
        let config = self.read(namespace).await?.map(|(config, _)| Arc::new(config));
        let mut known = self.known();
        if known.changes == changes {
            if known.configs.len() >= MAX_KNOWN {
                known.configs.clear();
            }
            known.configs.insert(namespace.clone(), (at, config.clone()));
        }
        Ok(config)
    }

    async fn read(&self, namespace: &Namespace) -> Result<Option<(NamespaceConfig, Version)>, StorageError> {
        let Some((bytes, version)) = self.meta.get(&namespace_key(namespace)).await? else { return Ok(None) };
        Ok(Some((parse(namespace, &bytes)?, version)))
    }

    /// All namespaces, by name.
    pub(crate) async fn all(&self) -> Result<Vec<(Namespace, Arc<NamespaceConfig>)>, StorageError> {
        let mut all = Vec::new();
        for record in self.meta.list(NAMESPACES).await? {
            let Some(namespace) = record.strip_prefix(NAMESPACES).and_then(Namespace::new) else { continue };
            if let Some(config) = self.get(&namespace).await? {
                all.push((namespace, config));
            }
        }
        Ok(all)
    }

    fn changed(&self) {
        let mut known = self.known();
        known.changes += 1;
        known.configs.clear();
    }

    /// Makes a namespace, or changes one. Says whether it is new.
    ///
    /// # Errors
    /// 422 when the settings make no sense, 409 when they do not fit what is there, 412 when somebody else was faster.
    pub(crate) async fn put(&self, blobs: &dyn Blobs, namespace: &Namespace, config: &NamespaceConfig) -> Result<bool, ApiError> {
        config.check(namespace.as_str()).map_err(refused)?;
        check_holders(config).map_err(refused)?;
        if let Some(base) = &config.base {
            self.check_base(namespace, base).await?;
        }
        let old = self.read(namespace).await?;
        match &old {
            Some((old, _)) if old.kind != config.kind => {
                if blobs.list(namespace).next().await.transpose()?.is_some() {
                    return Err(ApiError::conflict("not-empty", format!("`{namespace}` has blobs in it, so its kind can't change")));
                }
                // Entries of one kind are no entries of the other.
                self.remove_contents(blobs, namespace).await?;
            }
            None if self.meta.get(&removal_key(namespace)).await?.is_some() => {
                // What a removal that was interrupted left behind is not for those who come now.
                return Err(ApiError::conflict("being-removed", format!("`{namespace}` is being removed"))
                    .hint("DELETE it once more: that finishes a removal that was interrupted"));
            }
            _ => {}
        }
        let new = old.is_none();
        let expect = old.map_or(Expect::Absent, |(_, version)| Expect::Version(version));
        let value = serde_json::to_vec(config).map_err(|error| StorageError::Other(error.to_string()))?;
        self.meta.put(&namespace_key(namespace), Bytes::from(value), expect).await?;
        self.changed();
        Ok(new)
    }

    /// One namespace lies over another, and no more than that: who reads what stays easy to see.
    async fn check_base(&self, namespace: &Namespace, base: &str) -> Result<(), ApiError> {
        let found = match Namespace::new(base) {
            Some(base) => self.read(&base).await?,
            None => None,
        };
        match found {
            None => return Err(refused(format!("there is no namespace `{}` to be the base", base.escape_default()))),
            Some((config, _)) if config.kind != NamespaceKind::Preheat => return Err(refused(format!("`{base}` is raw: no base"))),
            Some((config, _)) if config.base.is_some() => {
                return Err(refused(format!("`{base}` lies over another namespace itself, so it can't be a base")));
            }
            Some(_) => {}
        }
        if let Some(above) = self.above(namespace).await? {
            return Err(refused(format!("`{above}` lies over `{namespace}`, so that can't lie over another")));
        }
        Ok(())
    }

    /// A namespace whose base this is.
    async fn above(&self, namespace: &Namespace) -> Result<Option<Namespace>, StorageError> {
        let mut all = self.all().await?.into_iter();
        Ok(all.find(|(_, config)| config.base.as_deref() == Some(namespace.as_str())).map(|(above, _)| above))
    }

    /// Removes a namespace with all that is in it but its names snapshots: should it be made again, its numbers go on, and clients who saw
    /// the old ones are not led back. One that is not there is removed already.
    ///
    /// # Errors
    /// 409 when another namespace lies over it.
    pub(crate) async fn remove(&self, blobs: &dyn Blobs, namespace: &Namespace) -> Result<(), ApiError> {
        if let Some(above) = self.above(namespace).await? {
            return Err(ApiError::conflict("is-base", format!("`{above}` lies over `{namespace}`")));
        }
        if self.meta.get(&namespace_key(namespace)).await?.is_some() {
            self.meta.put(&removal_key(namespace), Bytes::from_static(b"{}"), Expect::Any).await?;
            // From here on nobody gets in.
            self.meta.delete(&namespace_key(namespace)).await?;
            self.changed();
        } else if self.meta.get(&removal_key(namespace)).await?.is_none() {
            return Ok(());
        }
        self.remove_contents(blobs, namespace).await?;
        self.meta.delete(&removal_key(namespace)).await?;
        Ok(())
    }

    async fn remove_contents(&self, blobs: &dyn Blobs, namespace: &Namespace) -> Result<(), StorageError> {
        let _one = self.removing.lock().await;
        for kind in ["ac", "st", "profiles", "generations"] {
            for record in self.meta.list(&format!("{kind}/{namespace}/")).await? {
                self.meta.delete(&record).await?;
            }
        }
        self.meta.delete(&count_key(namespace)).await?;
        usage::forget(self.meta.as_ref(), namespace).await?;
        let mut entries = blobs.list(namespace);
        while let Some(entry) = entries.next().await {
            blobs.delete(namespace, &entry?.digest).await?;
        }
        blobs.sweep(namespace).await?;
        Ok(())
    }
}

fn refused(why: String) -> ApiError {
    ApiError::refused("namespace-refused", why)
}

/// One key with both roles would let whoever holds the builder's machine move names.
fn check_holders(config: &NamespaceConfig) -> Result<(), String> {
    let builders: BTreeSet<_> = config.builders.iter().map(|builder| builder.key.id()).collect();
    match config.namers.iter().find(|namer| builders.contains(&namer.key.id())) {
        Some(namer) => Err(format!("the key of `{}` has two roles; give each role its own key", namer.name.escape_default())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::entry_key;
    use crate::storage::memory::Memory;
    use http::StatusCode;
    use preheat_image::Digest;
    use preheat_image::api::NamespaceBuilder;
    use preheat_image::keys::SecretKey;

    struct Setup {
        memory: Memory,
        namespaces: Namespaces,
    }

    fn namespace(name: &str) -> Namespace {
        Namespace::new(name).unwrap()
    }

    fn preheat(base: Option<&str>) -> NamespaceConfig {
        NamespaceConfig { base: base.map(str::to_owned), ..NamespaceConfig::new(NamespaceKind::Preheat) }
    }

    impl Setup {
        fn new() -> Self {
            let memory = Memory::default();
            Self { namespaces: Namespaces::new(Arc::new(memory.clone())), memory }
        }

        async fn put(&self, name: &str, config: &NamespaceConfig) -> Result<bool, ApiError> {
            self.namespaces.put(&self.memory, &namespace(name), config).await
        }

        async fn refused(&self, name: &str, config: &NamespaceConfig) -> &'static str {
            let error = self.put(name, config).await.unwrap_err();
            assert!(error.status.is_client_error());
            error.code
        }

        async fn blob(&self, name: &str, bytes: &[u8]) {
            let mut upload = self.memory.begin(&namespace(name)).await.unwrap();
            upload.write(Bytes::copy_from_slice(bytes)).await.unwrap();
            upload.commit(&Digest::of(bytes), None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_namespace_is_there_at_once_and_changes_at_once() {
        let setup = Setup::new();
        assert!(setup.namespaces.get(&namespace("team")).await.unwrap().is_none());
        assert!(setup.put("team", &preheat(None)).await.unwrap());
        assert!(!setup.namespaces.get(&namespace("team")).await.unwrap().unwrap().anonymous_read);
        let open = NamespaceConfig { anonymous_read: true, ..preheat(None) };
        assert!(!setup.put("team", &open).await.unwrap());
        assert!(setup.namespaces.get(&namespace("team")).await.unwrap().unwrap().anonymous_read);
        assert_eq!(setup.namespaces.all().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_overlay_lies_over_one_namespace_that_lies_over_none() {
        let setup = Setup::new();
        assert_eq!(setup.refused("over", &preheat(Some("prod"))).await, "namespace-refused", "there is no base");
        setup.put("prod", &preheat(None)).await.unwrap();
        setup.put("raw", &NamespaceConfig::new(NamespaceKind::Raw)).await.unwrap();
        setup.put("over", &preheat(Some("prod"))).await.unwrap();
        assert_eq!(setup.refused("x", &preheat(Some("raw"))).await, "namespace-refused");
        assert_eq!(setup.refused("x", &preheat(Some("x"))).await, "namespace-refused");
        assert_eq!(setup.refused("x", &preheat(Some("over"))).await, "namespace-refused", "two deep");
        assert_eq!(setup.refused("x", &preheat(Some("v1"))).await, "namespace-refused");
        setup.put("other", &preheat(None)).await.unwrap();
        assert_eq!(setup.refused("prod", &preheat(Some("other"))).await, "namespace-refused", "something lies over it");
        assert_eq!(setup.refused("prod", &preheat(Some("over"))).await, "namespace-refused", "a circle");
        let error = setup.namespaces.remove(&setup.memory, &namespace("prod")).await.unwrap_err();
        assert_eq!((error.status, error.code), (StatusCode::CONFLICT, "is-base"));
    }

    #[tokio::test]
    async fn the_kind_stays_while_there_are_blobs_and_entries_go_with_it() {
        let setup = Setup::new();
        let raw = NamespaceConfig::new(NamespaceKind::Raw);
        setup.put("team", &preheat(None)).await.unwrap();
        setup.blob("team", b"x").await;
        let entry = entry_key(&namespace("team"), &Digest::ZERO);
        setup.memory.put(&entry, Bytes::from_static(b"old"), Expect::Any).await.unwrap();
        assert_eq!(setup.refused("team", &raw).await, "not-empty");
        Blobs::delete(&setup.memory, &namespace("team"), &Digest::of(b"x")).await.unwrap();
        setup.put("team", &raw).await.unwrap();
        assert_eq!(setup.memory.get(&entry).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_removed_is_gone_but_for_names_and_neighbours() {
        let setup = Setup::new();
        let records = ["ac/team/k", "st/team/k", "profiles/team/s/i", "stats/team", "names/team/current", "ac/team2/k"];
        for record in records {
            setup.memory.put(record, Bytes::from_static(b"x"), Expect::Any).await.unwrap();
        }
        setup.put("team", &preheat(None)).await.unwrap();
        setup.put("team2", &preheat(None)).await.unwrap();
        setup.blob("team", b"x").await;
        setup.blob("team2", b"x").await;
        setup.namespaces.remove(&setup.memory, &namespace("team")).await.unwrap();
        assert!(setup.namespaces.get(&namespace("team")).await.unwrap().is_none());
        let mut left = Meta::list(&setup.memory, "").await.unwrap();
        left.sort();
        assert_eq!(left, ["ac/team2/k", "names/team/current", "ns/team2"]);
        assert_eq!(setup.memory.size(&namespace("team"), &Digest::of(b"x")).await.unwrap(), None);
        assert_eq!(setup.memory.size(&namespace("team2"), &Digest::of(b"x")).await.unwrap(), Some(1));
        setup.namespaces.remove(&setup.memory, &namespace("team")).await.unwrap();
    }

    #[tokio::test]
    async fn a_removal_that_was_interrupted_is_finished_before_the_name_is_used_again() {
        let setup = Setup::new();
        setup.memory.put(&removal_key(&namespace("team")), Bytes::from_static(b"{}"), Expect::Any).await.unwrap();
        setup.blob("team", b"x").await;
        assert_eq!(setup.refused("team", &preheat(None)).await, "being-removed");
        setup.namespaces.remove(&setup.memory, &namespace("team")).await.unwrap();
        assert_eq!(setup.memory.size(&namespace("team"), &Digest::of(b"x")).await.unwrap(), None);
        assert!(setup.put("team", &preheat(None)).await.unwrap());
    }

    #[tokio::test]
    async fn a_key_has_one_role() {
        let setup = Setup::new();
        let holder = NamespaceBuilder { name: "x".into(), key: SecretKey::from_seed([1; 32]).public(), expires: None };
        let both = NamespaceConfig { builders: vec![holder.clone()], namers: vec![holder], ..preheat(None) };
        assert_eq!(setup.refused("team", &both).await, "namespace-refused");
    }
}
