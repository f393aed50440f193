//! Building again what is revoked or whose builder's time is over, from what the store knows about how it was built.

use super::{BuildError, Builder, Built, DEFAULT_ENGINE, Engine, EngineChoice, engine_of, wasm};
use preheat_image::key::field;
use preheat_image::keys::KeyId;
use preheat_image::manifest::ENGINE_REASON;
use preheat_image::reference::LOCAL_HOST;
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{Digest, Manifest, Reference, media};
use preheat_loader::store::{Affected, Audit};
use preheat_loader::trust::{self, Refusal};
use preheat_loader::{Home, LoadOptions, Store, StoreError, TrustPolicy};
use preheat_wasmtime::compile::Optimize;
use std::collections::BTreeMap;

/// Rebuilds affected images of a home with this compiler and the home's present key.
#[derive(Debug)]
pub struct Rebuild {
    home: Home,
    store: Store,
    policy: TrustPolicy,
    audit: Audit,
    sources: BTreeMap<Digest, Vec<u8>>,
    vouched: bool,
}

/// What became of one image.
#[derive(Debug, Clone)]
pub struct Rebuilt {
    /// What was affected.
    pub affected: Affected,
    /// The image that takes its place, and the local names that were moved to it; or why there is none.
    pub outcome: Result<(Built, Vec<String>), String>,
}

/// The digest by which images name their source: that of the Wasm bytes, whether `bytes` are these or their text form.
///
/// # Errors
/// When the bytes are neither.
pub fn source_digest(name: &str, bytes: &[u8]) -> Result<Digest, BuildError> {
    match wasm::read(bytes) {
        Ok(source) => Ok(source.digest()),
        Err(what) => Err(BuildError::Input { name: name.to_owned(), what }),
    }
}

impl Rebuild {
    /// Audits the store of a home.
    ///
    /// # Errors
    /// When the store or the policy can't be read.
    pub fn new(home: &Home) -> Result<Self, BuildError> {
        let (store, policy) = (home.store()?, home.trust()?);
        let audit = store.audit(&policy, trust::now())?;
        Ok(Self { home: home.clone(), store, policy, audit, sources: BTreeMap::new(), vouched: false })
    }

    /// What the audit found.
    #[must_use]
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Gives a source, Wasm or its text form, for images that did not keep theirs.
    ///
    /// # Errors
    /// When the bytes are neither.
    pub fn source(&mut self, name: &str, bytes: Vec<u8>) -> Result<(), BuildError> {
        self.sources.insert(source_digest(name, &bytes)?, bytes);
        Ok(())
    }

    /// Says that the caller vouches for what images consist of for which nobody else does any more. Without it an image is rebuilt only if
    /// a builder who is still trusted, or a key that was retired here, says what it was built from: who stole a key could otherwise have
    /// anything signed anew.
    pub fn vouch(&mut self) {
        self.vouched = true;
    }

    /// Whether `affected` can be rebuilt.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self, affected: &Affected) -> Result<(), String> {
        let engines = match self.manifest(&affected.digest).ok().as_ref().and_then(engine_of) {
            Some(engine) => vec![engine],
            None => Engine::ALL.to_vec(),
        };
        if engines.iter().any(|engine| self.policy.revokes_build(engine.build_id())) {
            return Err("this preheat is a revoked build itself; update it".into());
        }
        if affected.kind != Kind::Image {
            return affected.rebuild.clone();
        }
        if self.manifest(&affected.digest).is_ok_and(|manifest| manifest.function.is_some_and(|function| function.frozen.is_some())) {
            return Err("it is frozen, and what it was frozen with is not kept: build it again as it was built".into());
        }
        let needs_someone = |key: &KeyId| !self.vouched && !self.home.is_own_key(key).unwrap_or(false);
        match &affected.refusal {
            Refusal::RevokedKey(key) if affected.part.is_none() && !self.vouched => {
                return Err(format!(
                    "only revoked key {key} says what it was built from; build it from its source, or look at it with `preheat inspect` and \
                     say --vouch"
                ));
            }
            Refusal::Expired { signer, .. } if needs_someone(signer) => {
                return Err(format!(
                    "only expired key {signer} of another builder says what it was built from; get it from that builder, or look at it with \
                     `preheat inspect` and say --vouch"
                ));
            }
            _ => {}
        }
        match &affected.rebuild {
            Err(why) => {
                let manifest = self.manifest(&affected.digest).map_err(|_| why.clone())?;
                let given = manifest
                    .source
                    .as_ref()
                    .is_some_and(|source| self.sources.contains_key(&source.digest) && !self.policy.revokes_source(&source.digest));
                let current = !matches!(affected.refusal, Refusal::RootExpired { .. } | Refusal::StaleRevocations { .. });
                if given && current { Ok(()) } else { Err(why.clone()) }
            }
            Ok(()) => Ok(()),
        }
    }

    /// Rebuilds one image and moves the local names that lead to it. A failure is no error of all: it is in the outcome.
    #[must_use]
    pub fn rebuild(&self, affected: &Affected) -> Rebuilt {
        let outcome = self.check(affected).and_then(|()| self.build(affected).map_err(|error| error.to_string()));
        Rebuilt { affected: affected.clone(), outcome }
    }

    fn manifest(&self, image: &Digest) -> Result<Manifest, StoreError> {
        let bytes = self.store.read_blob(image, preheat_image::manifest::MAX_SIZE)?;
        Manifest::parse(&bytes).map_err(|source| StoreError::Format { path: self.store.blob_path(image), source })
    }

    fn build(&self, affected: &Affected) -> Result<(Built, Vec<String>), BuildError> {
        let old = affected.digest;
        let manifest = self.manifest(&old)?;
        let function = manifest.function.clone().ok_or_else(|| BuildError::Usage("it was not built from Wasm".into()))?;
        let given = manifest.source.as_ref().and_then(|source| self.sources.get(&source.digest)).cloned();
        let source = match given {
            Some(source) => source,
            None => self.store.kept_source(&manifest)?,
        };
        let record = self.store.entry(&old)?.ok_or(StoreError::Missing(old))?;
        let signed = record.statements.iter().find(|signed| signed.kind == Kind::Image && signed.covers(&old));
        let namespace = signed.ok_or(StoreError::Missing(old))?.namespace.clone();
        // An image that `auto` gave to wasmtime has a reason, and a newer compiler may do without it.
        let engine = match engine_of(&manifest) {
            _ if manifest.annotations.contains_key(ENGINE_REASON) => EngineChoice::Auto,
            Some(engine) => EngineChoice::Only(engine),
            None => DEFAULT_ENGINE,
        };
        let mut builder = Builder::new(&self.home)?
            .namespace(namespace)
            .engine(engine)
            .levels(manifest.code().map(|(_, variant)| variant.cpu))
            .optimize(optimize_of(&self.store, &manifest))
            .args(function.args)
            .keep_source(manifest.artefacts.iter().any(|artefact| artefact.media_type == media::WASM));
        builder.anew = true;
        for (name, value) in function.env {
            builder = builder.env(name, value);
        }
        let built = builder.build_bytes(&function.name, &source)?;
        // A blob that is revoked may have come out again: then a newer compiler is needed, and no name is to lead there.
        self.store.load(&built.digest, &self.home.trust()?, LoadOptions::default())?;
        let moved = self.move_names(&old, &built.digest)?;
        Ok((built, moved))
    }

    /// Names of other hosts stay: where they lead is for those hosts to say.
    fn move_names(&self, old: &Digest, new: &Digest) -> Result<Vec<String>, BuildError> {
        let mut moved = Vec::new();
        if old != new {
            for named in self.store.names()?.into_iter().filter(|named| named.digest == *old) {
                let reference: Reference = named.name.parse().map_err(StoreError::from)?;
                if matches!(&reference, Reference::Name { host, .. } if host == LOCAL_HOST) {
                    self.store.tag(&reference, new)?;
                    moved.push(named.name);
                }
            }
            if self.store.pins()?.contains(old) {
                self.store.pin(new, true)?;
            }
        }
        Ok(moved)
    }
}

/// How hard the code objects were optimised: what their keys say.
pub(super) fn optimize_of(store: &Store, manifest: &Manifest) -> Optimize {
    let options = manifest.code().find_map(|(_, variant)| {
        let signed = store.built(&variant.key).ok()??.statements.into_iter().next()?;
        let envelope = store.read_blob(&signed.statement, preheat_image::statement::MAX_SIZE).ok()?;
        Envelope::parse(&envelope).ok()?.unverified().fields.get(field::OPTIONS).map(str::to_owned)
    });
    let options = options.unwrap_or_default();
    let is = |choice: &Optimize| options.split(' ').any(|option| option.strip_prefix("optimize=") == Some(choice.name()));
    [Optimize::Size, Optimize::None].into_iter().find(is).unwrap_or_default()
}
