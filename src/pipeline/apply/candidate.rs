//! The image that is there, and the same function compiled again with a profile.

use super::{ApplyError, usage};
use crate::pipeline::engine::{Compiler, Steer};
use crate::pipeline::layer::LayerBase;
use crate::pipeline::rebuild::optimize_of;
use crate::pipeline::{BuildError, Builder, Engine, EngineChoice, engine_of, source_digest, wasm};
use preheat_image::manifest::{Artefact, Function};
use preheat_image::{Digest, media};
use preheat_loader::{Home, LoadOptions, StoreError, TrustedImage};

/// The image that is there.
#[derive(Debug)]
pub(super) struct Control {
    home: Home,
    pub(super) image: TrustedImage,
    pub(super) function: Function,
    /// The Wasm that it was built from.
    pub(super) wasm: Vec<u8>,
    /// The artefact with that, if the image has it.
    pub(super) kept_source: Option<Artefact>,
}

/// The same function, compiled again.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) image: TrustedImage,
    /// Digest of the summary by which it was.
    pub(super) profile: Digest,
}

impl Control {
    /// The image `digest` of a home, with its source: what was kept, or what is given.
    pub(super) fn new(home: &Home, digest: &Digest, given: Option<&(String, Vec<u8>)>) -> Result<Self, ApplyError> {
        let store = home.store()?;
        let image = store.load(digest, &home.trust()?, LoadOptions::default())?;
        let manifest = image.manifest();
        let function = manifest.function.clone().ok_or_else(|| usage(format!("{digest} was not built from Wasm")))?;
        match engine_of(manifest) {
            Some(Engine::Native) => {}
            Some(other) => {
                let what = format!("{digest} is for the engine {}, and only the native engine follows a profile", other.name());
                return Err(usage(what));
            }
            None => return Err(usage(format!("{digest} has no code"))),
        }
        let source = manifest.source.as_ref().ok_or_else(|| usage(format!("{digest} does not say what it was built from")))?.digest;
        let wasm = match given {
            Some((name, bytes)) => {
                let found = source_digest(name, bytes)?;
                if found != source {
                    return Err(usage(format!("{name} is another module, {found}: {digest} was built from {source}")));
                }
                let input = |what| BuildError::Input { name: name.clone(), what };
                wasm::read(bytes).map_err(input)?.wasm.into_owned()
            }
            None => match store.kept_source(manifest) {
                Err(StoreError::Missing(_)) => {
                    let what = format!(
                        "the source of {digest} was not kept: give it with --wasm FILE, or build the image with `preheat build --keep-source`"
                    );
                    return Err(usage(what));
                }
                kept => kept?,
            },
        };
        let kept_source = manifest.artefacts.iter().find(|artefact| artefact.media_type == media::WASM).cloned();
        Ok(Self { home: home.clone(), function, wasm, kept_source, image })
    }

    /// A builder of the same function, if it were not frozen.
    pub(super) fn builder(&self) -> Result<Builder, ApplyError> {
        let manifest = self.image.manifest();
        let mut builder = Builder::new(&self.home)?
            .namespace(&self.image.statement().namespace)
            .engine(EngineChoice::Only(Engine::Native))
            .levels(manifest.code().map(|(_, variant)| variant.cpu))
            .optimize(optimize_of(&self.home.store()?, manifest))
            .args(&self.function.args)
            .keep_source(self.kept_source.is_some() && self.function.frozen.is_none());
        for (name, value) in &self.function.env {
            builder = builder.env(name, value);
        }
        Ok(builder)
    }

    fn steered(&self, steer: &Steer) -> Result<(Builder, Steer), ApplyError> {
        let builder = self.builder()?.profile(steer.profile.clone(), steer.passes);
        // With a profile a builder has what steers it.
        let steer = builder.steer_for(&self.wasm, &self.function.name)?.unwrap_or_else(|| steer.clone());
        Ok((builder, steer))
    }

    /// Whether all code of the image is what this compiler makes as `steer` says.
    pub(super) fn has_code_of(&self, steer: &Steer) -> Result<bool, ApplyError> {
        let (builder, steer) = self.steered(steer)?;
        let source = Digest::of(&self.wasm);
        let mut all = self.image.manifest().code().map(|(_, variant)| {
            let input = |what| BuildError::Input { name: self.function.name.clone(), what };
            let compiler = Compiler::new(Engine::Native, variant.cpu, builder.optimize, false, Some(&steer)).map_err(input)?;
            Ok::<_, ApplyError>(compiler.key_fields(&source).key() == variant.key)
        });
        all.try_fold(true, |all, same| Ok(all && same?))
    }

    /// Compiles the function as `steer` says. A frozen one keeps the state in which it was frozen, byte for byte: only its code is made again, and
    /// the code through which it wakes.
    pub(super) fn compile(&self, steer: &Steer) -> Result<Candidate, ApplyError> {
        let (builder, steer) = self.steered(steer)?;
        let built = builder.build_bytes(&self.function.name, &self.wasm)?.digest;
        let digest = match &self.function.frozen {
            None => built,
            Some(_) => {
                let name = &self.function.name;
                let input = |what| BuildError::Input { name: name.clone(), what };
                let source = wasm::read(&self.wasm).map_err(input)?;
                let image = self.home.store()?.load(&self.image.digest(), &self.home.trust()?, LoadOptions::default())?;
                let base = LayerBase::of(&self.home.store()?, image, BuildError::Usage)?;
                builder.wakeable(&base, &built, name, &source)?
            }
        };
        let image = self.home.store()?.load(&digest, &self.home.trust()?, LoadOptions::default())?;
        Ok(Candidate { image, profile: steer.profile.digest() })
    }
}
