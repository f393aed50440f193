//! Frozen images over the heap of another: their heap is a layer, the pages that differ.
//!
//! Either the program begins like any other, and what it has in common with the base is found by comparing pages. Or the base is woken, reads
//! some input, and is frozen once more where it wants more: then all that it did before is in common.

use super::engine::Engine;
use super::freeze::Freeze;
use super::{BuildError, Builder, json, wasm};
use preheat_image::frozen::{FreezePoint, Frozen, MAX_LAYERS};
use preheat_image::heap::{HeapSnapshot, NO_SITE};
use preheat_image::key::field;
use preheat_image::manifest::{Artefact, Function};
use preheat_image::{Digest, Manifest};
use preheat_loader::{LoadOptions, Store, TrustedCode, TrustedImage};
use preheat_native_wasi::{FreezeBase, FreezeError, FreezeRecord, GoOn, MAX_FREEZE_RECORD};
use std::collections::BTreeMap;

/// The image over whose heap another is a layer.
#[derive(Debug)]
pub(super) struct LayerBase {
    image: TrustedImage,
    function: Function,
    frozen: Frozen,
    layers: Vec<Artefact>,
    record: FreezeRecord,
}

fn refused(shown: &str, what: String) -> BuildError {
    BuildError::Freeze { name: shown.to_owned(), source: FreezeError::Refused(what).into() }
}

impl LayerBase {
    /// The image `image`, which has to be frozen and no component.
    ///
    /// # Errors
    /// What `refused` makes of the reason, when it is not; what the store says, when it is not whole.
    pub(super) fn of(store: &Store, image: TrustedImage, refused: impl Fn(String) -> BuildError) -> Result<Self, BuildError> {
        let manifest = image.manifest();
        let mut function = manifest.function.clone().ok_or_else(|| refused("it is of no function".into()))?;
        let frozen =
            function.frozen.take().ok_or_else(|| refused("it is not frozen, so that it has no heap; build it with --freeze".into()))?;
        let artefact = |layer: &Digest| manifest.artefacts.iter().find(|artefact| artefact.digest == *layer).cloned();
        let layers =
            frozen.layers.iter().map(artefact).collect::<Option<Vec<_>>>().ok_or_else(|| refused("a heap layer is missing".into()))?;
        let record = store.read_blob(&frozen.record, MAX_FREEZE_RECORD)?;
        let record = FreezeRecord::parse(&record).map_err(|error| refused(error.to_string()))?;
        Ok(Self { function, frozen: *frozen, layers, record, image })
    }

    /// Its function, as if it were not frozen.
    pub(super) fn function(&self) -> &Function {
        &self.function
    }

    /// The image's digest.
    pub(super) fn digest(&self) -> Digest {
        self.image.digest()
    }

    pub(super) fn frozen(&self) -> &Frozen {
        &self.frozen
    }

    /// Its heap layers, the lowest first.
    pub(super) fn layers(&self) -> &[Artefact] {
        &self.layers
    }

    /// What the engine needs of it. `capturing` is the image that runs to its freeze point now, `code` that image's code object.
    pub(super) fn open<'a>(&self, freeze: &'a Freeze, capturing: &TrustedImage, code: &TrustedCode) -> Result<FreezeBase<'a>, BuildError> {
        let layers = self.layers.iter().map(|layer| self.image.artefact(&layer.digest)).collect::<Result<_, _>>()?;
        let go_on = match &freeze.base_input {
            Some(input) => Some(GoOn { resume: capturing.resume(code)?, record: self.record.clone(), input }),
            None => None,
        };
        Ok(FreezeBase { layers, go_on })
    }
}

impl Builder {
    /// The base that was asked for, if it will do.
    pub(super) fn layer_base(&self, freeze: &Freeze, shown: &str, source: &Digest) -> Result<Option<LayerBase>, BuildError> {
        let Some(digest) = freeze.base else {
            let goes_on = freeze.base_input.is_some();
            return if goes_on { Err(BuildError::Usage("input for a base is given without a base".into())) } else { Ok(None) };
        };
        let refused = |what: String| refused(shown, format!("{digest} can't be its base: {what}"));
        let image = self.store.load(&digest, &self.home.trust()?, LoadOptions::default())?;
        // What is in a heap is for those of its namespace.
        let namespace = &image.statement().namespace;
        if *namespace != self.namespace {
            return Err(refused(format!(
                "it was built for the namespace `{namespace}`, this is for `{}`, and heaps are not shared across",
                self.namespace
            )));
        }
        let base = LayerBase::of(&self.store, image, refused)?;
        let manifest = base.image.manifest();
        if let Some(other) = manifest.source.as_ref().filter(|other| other.digest != *source) {
            return Err(refused(format!(
                "it is of another module, {}, and this is {source}; heaps of two modules have nothing in common",
                other.digest
            )));
        }
        if base.layers.len() >= MAX_LAYERS {
            let what = format!("its heap has {} layers, and an image has at most {MAX_LAYERS}; take one of its bases", base.layers.len());
            return Err(refused(what));
        }
        if freeze.base_input.is_some() {
            self.check_going_on(freeze, &base).map_err(refused)?;
        }
        Ok(Some(base))
    }

    /// Whether what was asked for is what a program has that goes on.
    fn check_going_on(&self, freeze: &Freeze, base: &LayerBase) -> Result<(), String> {
        let LayerBase { function, frozen, .. } = base;
        if (&frozen.point, &freeze.point) != (&FreezePoint::Stdin, &FreezePoint::Stdin) {
            let what = "only what was frozen at `stdin` reads input and is frozen at `stdin` again; leave the input out to begin afresh";
            return Err(format!("it is frozen at `{}`: {what}", frozen.point));
        }
        let same = "leave them out, or leave the input out to begin afresh";
        if !self.args.is_empty() && self.args != function.args {
            return Err(format!("it was frozen with the arguments {:?}, and goes on with them: {same}", function.args));
        }
        if !self.env.is_empty() && self.env != function.env {
            return Err(format!("it was frozen with the variables {:?}, and goes on with them: {same}", function.env));
        }
        if !freeze.late_env.is_empty() && freeze.late_env != frozen.late_env {
            return Err(format!("it was frozen with the late variables {:?}, and goes on with them: {same}", frozen.late_env));
        }
        Ok(())
    }

    /// An image of the base's state on code that can be frozen: what a program goes on from. `capturing` is the image with that code.
    pub(super) fn wakeable(
        &self,
        base: &LayerBase,
        capturing: &Digest,
        shown: &str,
        source: &wasm::Source<'_>,
    ) -> Result<Digest, BuildError> {
        let mut artefacts = self.code_of(capturing)?;
        let code: BTreeMap<&str, String> = artefacts
            .iter()
            .filter_map(|artefact| artefact.variant.as_ref())
            .map(|variant| (variant.cpu.name(), variant.key.to_string()))
            .collect();
        let descriptor = source.descriptor();
        let fields = self.image_fields(Engine::Native, None, &base.function, &descriptor, &code);
        let fields = fields.with(field::FREEZE, json(&BTreeMap::from([("wakes", base.image.digest())]))).with(field::FILES, "{}");
        if let Some(built) = self.find_key(&fields.key())? {
            return Ok(built.digest);
        }
        let sites = self.sites(base, shown)?;
        let resumes = self.resume_objects(&artefacts, source, &sites, shown)?;
        let signer = self.home.builder_signer()?;
        let mut publication = self.store.publish()?;
        artefacts.extend(self.put_resumes(&mut publication, &*signer, resumes)?);
        artefacts.extend_from_slice(&base.layers);
        artefacts.extend(base.image.manifest().artefacts.iter().find(|artefact| artefact.digest == base.frozen.record).cloned());
        let function = Function { frozen: Some(Box::new(base.frozen.clone())), ..base.function.clone() };
        let manifest = Manifest::new(Some(descriptor), Some(function), artefacts);
        let digest = self.publish_image(&mut publication, &*signer, fields, &manifest)?;
        publication.finish()?;
        Ok(digest)
    }

    /// The calls at which the base's frames are.
    fn sites(&self, base: &LayerBase, shown: &str) -> Result<Vec<(u32, Option<u32>)>, BuildError> {
        let Some(top) = base.layers.last() else { return Ok(Vec::new()) };
        let bytes = self.store.read_blob(&top.digest, usize::try_from(top.size).unwrap_or(usize::MAX))?;
        let snapshot = HeapSnapshot::parse(&bytes).map_err(|error| refused(shown, format!("heap layer {}: {error}", top.digest)))?;
        let site = |site: u32| (site != NO_SITE).then_some(site);
        let mut sites: Vec<_> = snapshot.frames().map(|(frame, _)| (frame.function.get(), site(frame.site.get()))).collect();
        sites.sort_unstable();
        sites.dedup();
        Ok(sites)
    }
}
