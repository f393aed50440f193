//! Building: from Wasm to a signed image in the store, compiling only what is not there yet.

mod apply;
mod engine;
mod freeze;
mod layer;
mod profile;
mod rebuild;
mod trial;
mod wasm;

pub use apply::{Applied, Apply, ApplyError, Difference, Differing, Outcome, Promoted, RecordedRequest, Verdict};
pub use engine::{DEFAULT_ENGINE, Engine, EngineChoice};
pub use freeze::{Baked, BuiltFrozen, Freeze};
pub use profile::{Carried, RecordError, carry_over, function_names, wasm_of};
pub use rebuild::{Rebuild, Rebuilt, source_digest};
pub use trial::Trial;
pub(crate) use wasm::interface;

use crate::remote::BuildCache;
use engine::{CompileError, Compiler, Steer};
use preheat_image::key::field;
use preheat_image::keys::Signer;
use preheat_image::manifest::{Artefact, Descriptor, ENGINE_REASON, Function, FunctionKind, Variant};
use preheat_image::reference::DEFAULT_NAMESPACE;
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{CpuLevel, Digest, KeyFields, Manifest, Reference, Statement, chunks, media};
use preheat_loader::store::SourceFile;
use preheat_loader::{Home, Store, StoreError, TrustPolicy};
use preheat_wasmtime::TARGET;
use preheat_wasmtime::compile::Optimize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The CPU levels for which an image has code unless others are asked for.
pub const DEFAULT_LEVELS: [CpuLevel; 2] = [CpuLevel::V2, CpuLevel::V3];

/// Why nothing was built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bytes are no Wasm, or no valid Wasm.
    #[error("{name}: {what}")]
    Input {
        /// The file or the name given.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The Wasm is valid, but the engine that was asked for can't run it.
    #[error("{name}: {what}; another engine may: `--engine auto` finds out")]
    Unsupported {
        /// The file or the name given.
        name: String,
        /// What the engine lacks.
        what: String,
    },
    /// The store can't do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The program can't be frozen, or must not be.
    #[error("{name}: {source}")]
    Freeze {
        /// The file or the name given.
        name: String,
        /// Why.
        source: Box<preheat_native_wasi::FreezeError>,
    },
    /// The options make no sense.
    #[error("{0}")]
    Usage(String),
}

/// An image that is in the store now.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image's digest.
    pub digest: Digest,
    /// Its build key.
    pub key: Digest,
    /// Whether the whole image was there already.
    pub cached: bool,
    /// The engine that runs it; an image of other artefacts than Wasm has none.
    pub engine: Option<Engine>,
    /// Why it is not for the engine that would have been preferred.
    pub engine_reason: Option<String>,
    /// Its code objects, lowest CPU level first.
    pub code: Vec<BuiltCode>,
    /// How it was frozen, if it was frozen now.
    pub frozen: Option<BuiltFrozen>,
}

/// A code object of an image.
#[derive(Debug, Clone)]
pub struct BuiltCode {
    /// The CPU level that it needs.
    pub cpu: CpuLevel,
    /// Its build key.
    pub key: Digest,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// How long compiling took; `None` when it was there already.
    pub compiled_in: Option<Duration>,
}

impl Built {
    /// How many code objects were compiled for this.
    #[must_use]
    pub fn compiled(&self) -> usize {
        self.code.iter().filter(|code| code.compiled_in.is_some()).count()
    }
}

/// Makes images.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    home: Home,
    store: Store,
    policy: TrustPolicy,
    namespace: String,
    levels: Vec<CpuLevel>,
    engine: EngineChoice,
    optimize: Optimize,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    keep_source: bool,
    tags: Vec<Reference>,
    /// Whether an image is made even where one is there; code objects that are there and trusted are used.
    anew: bool,
    caches: Option<Arc<BuildCache>>,
    freeze: Option<Freeze>,
    /// Code that can say where its values are: for a program that is frozen while building.
    capture: bool,
    /// What steers the compiler.
    steer: Option<Steer>,
}

/// A code object on its way into an image.
enum Object {
    /// The outputs of the statement about one that is there.
    Found(Vec<Descriptor>),
    /// One that was compiled now, and how long that took.
    Compiled(Vec<u8>, Duration),
}

impl Builder {
    /// A builder for a home, with the usual options.
    ///
    /// # Errors
    /// When the store or the trust policy can't be opened.
    pub fn new(home: &Home) -> Result<Self, BuildError> {
        Ok(Self {
            home: home.clone(),
            store: home.store()?,
            policy: home.trust()?,
            namespace: DEFAULT_NAMESPACE.to_owned(),
            levels: DEFAULT_LEVELS.to_vec(),
            engine: DEFAULT_ENGINE,
            optimize: Optimize::default(),
            args: Vec::new(),
            env: BTreeMap::new(),
            keep_source: false,
            tags: Vec::new(),
            anew: false,
            caches: None,
            freeze: None,
            capture: false,
            steer: None,
        })
    }

    /// The CPU levels for which to compile.
    pub fn levels(mut self, levels: impl IntoIterator<Item = CpuLevel>) -> Self {
        self.levels = levels.into_iter().collect();
        self.levels.sort();
        self.levels.dedup();
        self
    }

    /// The engine for which to compile.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// How hard to optimise.
    pub fn optimize(mut self, optimize: Optimize) -> Self {
        self.optimize = optimize;
        self
    }

    /// The namespace for which the builder speaks.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Arguments that the function gets before those of its caller.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// An environment variable that the function sees unless its caller sets it.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Freezes the function: it runs while building, up to a point, and each call goes on from there. Core modules are frozen on the
    /// native engine, components on wasmtime: choose that one, or [`EngineChoice::Auto`].
    pub fn freeze(mut self, freeze: Freeze) -> Self {
        self.freeze = Some(freeze);
        self
    }

    /// Keeps the Wasm bytes as part of the image, so that it can be built again from the store alone.
    pub fn keep_source(mut self, keep: bool) -> Self {
        self.keep_source = keep;
        self
    }

    /// A name for the image.
    pub fn tag(mut self, reference: Reference) -> Self {
        self.tags.push(reference);
        self
    }

    /// Caches that are asked for what would otherwise be compiled.
    pub fn caches(mut self, caches: Arc<BuildCache>) -> Self {
        self.caches = caches.is_used().then_some(caches);
        self
    }

    /// Builds the image of a file: Wasm, or its text form. A file that was built before and not changed since is not even read.
    ///
    /// # Errors
    /// When the file can't be read or is not Wasm, or the store can't keep the image.
    pub fn build_file(&self, path: &Path) -> Result<Built, BuildError> {
        let read = |source| BuildError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read)?;
        let identity = SourceFile::of(&file).map_err(read)?;
        let purpose = self.purpose(path);
        if let Some(digest) = self.store.recall(&identity, &purpose)
            && let Some(built) = self.find_image(&digest)?
            && self.read_the_same(&digest)
        {
            self.name(&built.digest)?;
            return Ok(built);
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(read)?;
        let name = path.file_stem().map_or_else(|| "function".into(), |stem| stem.to_string_lossy());
        let built = self.build(&name, &path.display().to_string(), &bytes)?;
        // Without the memory the next build reads the file again: slower, not wrong.
        let _ = self.store.remember(&identity, &purpose, &built.digest);
        Ok(built)
    }

    /// Finds the image of a file that was built before and not changed since, without reading it.
    ///
    /// # Errors
    /// When the file can't be opened.
    pub fn recall_file(&self, path: &Path) -> Result<Option<Digest>, BuildError> {
        let read = |source| BuildError::Read { path: path.to_owned(), source };
        let identity = SourceFile::of(&File::open(path).map_err(read)?).map_err(read)?;
        Ok(self.store.recall(&identity, &self.purpose(path)))
    }

    /// Builds the image of Wasm bytes, or their text form. `name` becomes the function's first argument.
    ///
    /// # Errors
    /// As [`Builder::build_file`].
    pub fn build_bytes(&self, name: &str, bytes: &[u8]) -> Result<Built, BuildError> {
        self.build(name, name, bytes)
    }

    /// Makes an image of artefacts that are not Wasm: a JVM's archive, a snapshot of another runtime. The store keeps them like all else;
    /// what they are is for their media types to say.
    ///
    /// # Errors
    /// When the store can't keep them.
    pub fn build_artefacts(&self, artefacts: &[(&str, &[u8])]) -> Result<Built, BuildError> {
        if let Some((bad, _)) = artefacts.iter().find(|(media_type, _)| !media::is_valid(media_type)) {
            return Err(BuildError::Usage(format!("`{bad}` is not a media type")));
        }
        if let Some((bad, _)) = artefacts.iter().find(|(media_type, _)| [media::CODE, media::CODE_WASMTIME].contains(media_type)) {
            return Err(BuildError::Usage(format!("{bad} is made by compiling, not given")));
        }
        let signer = self.home.builder_signer()?;
        let mut publication = self.store.publish()?;
        let mut parts = Vec::new();
        for (media_type, bytes) in artefacts {
            parts.push(self.put_large(&mut publication, media_type, bytes)?);
        }
        let described: Vec<_> = parts.iter().map(|part| (&part.media_type, part.digest)).collect();
        let fields = KeyFields::new().with(field::KIND, Kind::Image.name()).with(field::ARTEFACTS, json(&described));
        let manifest = Manifest::new(None, None, parts);
        let digest = self.publish_image(&mut publication, &*signer, fields.clone(), &manifest)?;
        self.name(&digest)?;
        publication.finish()?;
        Ok(Built { digest, key: fields.key(), cached: false, engine: None, engine_reason: None, code: Vec::new(), frozen: None })
    }

    /// Everything but the source file that decides which image comes out.
    fn purpose(&self, path: &Path) -> Digest {
        let levels: Vec<&str> = self.levels.iter().map(|level| level.name()).collect();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let fields = KeyFields::new()
            .with("levels", levels.join(" "))
            .with("optimize", self.optimize.name())
            .with("name", stem)
            .with("namespace", &self.namespace)
            .with("source", self.keep_source)
            .with(field::ARGS, json(&self.args))
            .with(field::ENV, json(&self.env))
            .with(field::ENGINE, self.engine)
            .with(field::PROFILE, self.steer.as_ref().map(Steer::to_text).unwrap_or_default())
            .with(field::FREEZE, self.freeze.as_ref().map(Freeze::declared).unwrap_or_default())
            .with(field::COMPILER, json(&Engine::ALL.map(Engine::compiler)))
            .with(field::BUILD_ID, json(&Engine::ALL.map(Engine::build_id)));
        fields.key()
    }

    fn build(&self, name: &str, shown: &str, bytes: &[u8]) -> Result<Built, BuildError> {
        match self.build_once(name, shown, bytes) {
            // A code object was there, and was collected before the image could hold it: now it is compiled.
            Err(BuildError::Store(StoreError::Missing(_))) => self.build_once(name, shown, bytes),
            built => built,
        }
    }

    fn build_once(&self, name: &str, shown: &str, bytes: &[u8]) -> Result<Built, BuildError> {
        if self.levels.is_empty() {
            return Err(BuildError::Usage("no CPU level to compile for".into()));
        }
        if !Reference::is_namespace(&self.namespace) {
            return Err(BuildError::Usage(format!("`{}` can't be a namespace", self.namespace)));
        }
        let source = wasm::read(bytes).map_err(|what| BuildError::Input { name: shown.to_owned(), what })?;
        if let Some(freeze) = &self.freeze {
            return self.build_frozen(freeze, name, shown, &source);
        }
        match self.engine {
            EngineChoice::Only(Engine::Native) if source.kind.is_component() => {
                Err(BuildError::Unsupported { name: shown.to_owned(), what: NO_COMPONENTS.into() })
            }
            EngineChoice::Only(engine) => self.build_for(engine, None, name, shown, &source),
            EngineChoice::Auto if source.kind.is_component() => {
                self.build_for(Engine::Wasmtime, Some(NO_COMPONENTS.into()), name, shown, &source)
            }
            EngineChoice::Auto => match self.build_for(Engine::Native, None, name, shown, &source) {
                Err(BuildError::Unsupported { what, .. }) => self.build_for(Engine::Wasmtime, Some(what), name, shown, &source),
                built => built,
            },
        }
    }

    /// Builds an image for one engine; `reason` is why it is this one and not the one that is preferred.
    fn build_for(
        &self,
        engine: Engine,
        reason: Option<String>,
        name: &str,
        shown: &str,
        source: &wasm::Source<'_>,
    ) -> Result<Built, BuildError> {
        let input = |what: String| BuildError::Input { name: shown.to_owned(), what };
        let descriptor = source.descriptor();

        let steer = self.steer_for(&source.wasm, shown)?;
        let mut code_keys = BTreeMap::new();
        let mut compilers = Vec::new();
        for cpu in &self.levels {
            let compiler = Compiler::new(engine, *cpu, self.optimize, self.capture, steer.as_ref()).map_err(input)?;
            let fields = compiler.key_fields(&descriptor.digest);
            code_keys.insert(cpu.name(), fields.key().to_string());
            compilers.push((*cpu, compiler, fields));
        }
        let function = self.function(source.kind, name);
        let fields = self.image_fields(engine, reason.as_deref(), &function, &descriptor, &code_keys);
        let key = fields.key();
        if !self.anew
            && let Some(built) = self.find_key(&key)?
        {
            self.name(&built.digest)?;
            return Ok(built);
        }

        let signer = self.home.builder_signer()?;
        // The key may have been made just now, and with it the policy that trusts it.
        let policy = self.home.trust()?;
        // Whoever else builds the same things now is waited for, and then there is nothing left to build. Compiling holds no other lock: it
        // takes seconds, and a collection must not wait for it.
        let keys: Vec<Digest> = compilers.iter().map(|(.., fields)| fields.key()).collect();
        let _building = self.store.lock_build(&keys)?;
        let mut objects = Vec::new();
        for (cpu, compiler, fields) in compilers {
            let object = match self.outputs_here_or_shared(&policy, &fields.key(), Kind::CodeObject)? {
                Some(outputs) => Object::Found(outputs),
                None => {
                    let started = Instant::now();
                    let code = compiler.compile(&source.wasm, source.kind.is_component(), fields.key());
                    let code = code.map_err(|error| match error {
                        CompileError::Unsupported(what) => BuildError::Unsupported { name: shown.to_owned(), what },
                        CompileError::Other(what) => input(what),
                    })?;
                    Object::Compiled(code, started.elapsed())
                }
            };
            objects.push((cpu, fields, object));
        }

        let mut publication = self.store.publish()?;
        let mut artefacts = Vec::new();
        let mut code = Vec::new();
        for (cpu, fields, object) in objects {
            let key = fields.key();
            let variant = Variant { engine: engine.name().to_owned(), target: TARGET.to_owned(), cpu, key };
            let (mut artefact, compiled_in) = match object {
                Object::Found(outputs) => (found_code(outputs)?, None),
                Object::Compiled(code, took) => {
                    let artefact = self.put_large(&mut publication, engine.media_type(), &code)?;
                    let outputs = [Some(artefact.descriptor()), artefact.chunks.clone()].into_iter().flatten().collect();
                    let statement = Statement::new(Kind::CodeObject, &self.namespace, fields, outputs);
                    publication.add_statement(&sign(statement, &*signer)?, &signer.public())?;
                    (artefact, Some(took))
                }
            };
            artefact.variant = Some(variant);
            code.push(BuiltCode { cpu, key, digest: artefact.digest, size: artefact.size, compiled_in });
            artefacts.push(artefact);
        }
        if self.keep_source {
            artefacts.push(self.put_large(&mut publication, media::WASM, &source.wasm)?);
        }
        let mut manifest = Manifest::new(Some(descriptor), Some(function), artefacts);
        manifest.annotations.extend(reason.clone().map(|reason| (ENGINE_REASON.to_owned(), reason)));
        let digest = self.publish_image(&mut publication, &*signer, fields, &manifest)?;
        // Before the publication ends, so that no collection comes between the image and its names.
        self.name(&digest)?;
        publication.finish()?;
        Ok(Built { digest, key, cached: false, engine: Some(engine), engine_reason: reason, code, frozen: None })
    }

    fn function(&self, kind: FunctionKind, name: &str) -> Function {
        Function { kind, name: name.to_owned(), args: self.args.clone(), env: self.env.clone(), frozen: None }
    }

    fn name(&self, digest: &Digest) -> Result<(), BuildError> {
        self.tags.iter().try_for_each(|tag| self.store.tag(tag, digest)).map_err(Into::into)
    }

    fn image_fields(
        &self,
        engine: Engine,
        reason: Option<&str>,
        function: &Function,
        source: &Descriptor,
        code: &BTreeMap<&str, String>,
    ) -> KeyFields {
        KeyFields::new()
            .with(field::KIND, Kind::Image.name())
            .with(field::SOURCE, source.digest)
            .with(field::ENGINE, engine.name())
            .with(field::ENGINE_REASON, reason.unwrap_or_default())
            .with(field::COMPILER, engine.compiler())
            .with(field::BUILD_ID, engine.build_id())
            .with(field::FUNCTION, json(&(function.kind.name(), &function.name)))
            .with(field::ARGS, json(&function.args))
            .with(field::ENV, json(&function.env))
            .with(field::CODE, json(code))
            .with(field::ARTEFACTS, if self.keep_source { json(&[media::WASM]) } else { "[]".to_owned() })
    }

    /// Puts a blob, with its chunk list if it is large.
    fn put_large(
        &self,
        publication: &mut preheat_loader::store::Publication<'_>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Artefact, BuildError> {
        let mut artefact = Artefact::of(publication.put(media_type, bytes)?);
        if bytes.len() >= chunks::CHUNKED_FROM {
            artefact.chunks = Some(publication.put(media::CHUNKS, &chunks::encode(bytes))?);
        }
        Ok(artefact)
    }

    /// Puts a manifest, with a statement that covers it and all code that it names.
    fn publish_image(
        &self,
        publication: &mut preheat_loader::store::Publication<'_>,
        signer: &dyn Signer,
        fields: KeyFields,
        manifest: &Manifest,
    ) -> Result<Digest, BuildError> {
        let blob = publication.put(media::MANIFEST, &manifest.to_bytes())?;
        let digest = blob.digest;
        let outputs = std::iter::once(blob).chain(manifest.artefacts.iter().map(Artefact::descriptor)).collect();
        let statement = Statement::new(Kind::Image, &self.namespace, fields, outputs);
        publication.add_statement(&sign(statement, signer)?, &signer.public())?;
        Ok(digest)
    }

    /// What a trusted builder made under `key` for this namespace, if all of it is there. What a builder made whom the policy does not trust,
    /// or for another namespace, is no hit: a pull request's builds must not reach production.
    fn trusted_outputs(&self, policy: &TrustPolicy, key: &Digest, kind: Kind) -> Result<Option<Vec<Descriptor>>, BuildError> {
        let Some(record) = self.store.built(key)? else { return Ok(None) };
        let whole = |outputs: &[Descriptor]| outputs.iter().all(|output| self.store.blob_size(&output.digest) == Some(output.size));
        let hit = record.statements.into_iter().find(|signed| {
            signed.kind == kind && signed.namespace == self.namespace && policy.judge(signed).is_ok() && whole(&signed.outputs)
        });
        Ok(hit.map(|signed| signed.outputs))
    }

    /// What [`Builder::trusted_outputs`] finds here, or after a cache was asked. What came from a cache is judged like all else.
    fn outputs_here_or_shared(&self, policy: &TrustPolicy, key: &Digest, kind: Kind) -> Result<Option<Vec<Descriptor>>, BuildError> {
        if let Some(outputs) = self.trusted_outputs(policy, key, kind)? {
            return Ok(Some(outputs));
        }
        match &self.caches {
            Some(caches) if caches.fetch(&self.namespace, key, kind) => self.trusted_outputs(policy, key, kind),
            _ => Ok(None),
        }
    }

    fn find_key(&self, key: &Digest) -> Result<Option<Built>, BuildError> {
        match self.outputs_here_or_shared(&self.policy, key, Kind::Image)?.and_then(|outputs| outputs.into_iter().next()) {
            Some(manifest) => self.find_image(&manifest.digest),
            None => Ok(None),
        }
    }

    /// An image that is there whole and that the policy accepts.
    fn find_image(&self, digest: &Digest) -> Result<Option<Built>, BuildError> {
        let Ok(image) = self.store.load(digest, &self.policy, preheat_loader::LoadOptions::default()) else { return Ok(None) };
        let manifest = image.manifest();
        if manifest.blobs().any(|blob| self.store.blob_size(&blob.digest) != Some(blob.size)) {
            return Ok(None);
        }
        let code = |(artefact, variant): (&Artefact, &Variant)| BuiltCode {
            cpu: variant.cpu,
            key: variant.key,
            digest: artefact.digest,
            size: artefact.size,
            compiled_in: None,
        };
        Ok(Some(Built {
            digest: *digest,
            key: image.statement().key,
            cached: true,
            engine: engine_of(manifest),
            engine_reason: manifest.annotations.get(ENGINE_REASON).cloned(),
            code: manifest.code().map(code).collect(),
            frozen: None,
        }))
    }
}

/// What `auto` says of components.
const NO_COMPONENTS: &str = "the native engine does not support components";

/// The engine that runs an image.
pub(crate) fn engine_of(manifest: &Manifest) -> Option<Engine> {
    Engine::ALL.into_iter().find(|engine| manifest.code().any(|(_, variant)| variant.engine == engine.name()))
}

/// The artefact that a statement about a code object speaks of, with its chunk list if it has one.
fn found_code(outputs: Vec<Descriptor>) -> Result<Artefact, StoreError> {
    let mut outputs = outputs.into_iter();
    // A statement without outputs is not let into a store.
    let code = outputs.next().ok_or(StoreError::Missing(Digest::ZERO))?;
    let mut artefact = Artefact::of(code);
    artefact.chunks = outputs.next();
    Ok(artefact)
}

/// Signs with whatever has the builder's key. The store verifies what came out.
fn sign(statement: Statement, signer: &dyn Signer) -> Result<Envelope, StoreError> {
    Ok(statement.sign_with(signer)?)
}

/// JSON for the value of a key field.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_input_of_an_image_changes_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        let key = |builder: Builder, kind, name: &str, source: &[u8], code: &str| {
            let (args, env) = (builder.args.clone(), builder.env.clone());
            let function = Function { kind, name: name.into(), args, env, frozen: None };
            builder.image_fields(
                Engine::Wasmtime,
                None,
                &function,
                &Descriptor::of(media::WASM, source),
                &BTreeMap::from([("x86-64-v2", code.to_owned())]),
            )
        };
        let new = || Builder::new(&home).unwrap();
        let command = FunctionKind::Command;
        let base = key(new(), command, "a", b"wasm", "k");
        for (field, other) in [
            (field::SOURCE, key(new(), command, "a", b"other", "k")),
            (field::FUNCTION, key(new(), command, "b", b"wasm", "k")),
            (field::FUNCTION, key(new(), FunctionKind::Module, "a", b"wasm", "k")),
            (field::ARGS, key(new().args(["x"]), command, "a", b"wasm", "k")),
            (field::ENV, key(new().env("A", "1"), command, "a", b"wasm", "k")),
            (field::CODE, key(new(), command, "a", b"wasm", "l")),
            (field::ARTEFACTS, key(new().keep_source(true), command, "a", b"wasm", "k")),
        ] {
            assert_ne!(base.key(), other.key());
            assert_eq!(base.differences(&other).iter().map(|(name, ..)| *name).collect::<Vec<_>>(), [field]);
        }
        let of_engine = |engine, reason| {
            let function = Function { kind: command, name: "a".into(), args: Vec::new(), env: BTreeMap::new(), frozen: None };
            let code = BTreeMap::from([("x86-64-v2", "k".to_owned())]);
            new().image_fields(engine, reason, &function, &Descriptor::of(media::WASM, b"wasm"), &code)
        };
        let differing = |other: KeyFields| base.differences(&other).iter().map(|(name, ..)| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(differing(of_engine(Engine::Native, None)), [field::BUILD_ID, field::COMPILER, field::ENGINE]);
        assert_eq!(differing(of_engine(Engine::Wasmtime, Some("why"))), [field::ENGINE_REASON]);
    }
}
