//! The manifest of an image: which artefacts belong to it, and how its function is called.
//!
//! JSON in the style of OCI descriptors (media type, digest, size). Artefacts of runtimes that are not Wasm fit as well: an artefact is
//! what its media type says, and everything about the function is optional.

use crate::frozen::{Frozen, MAX_LAYERS};
use crate::{CpuLevel, Digest, FormatError, media};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that a manifest may have.
pub const MAX_SIZE: usize = 1024 * 1024;

/// The annotation of an image that says, for people, why it is for its engine and not for the one that would have been preferred.
pub const ENGINE_REASON: &str = "engine-reason";

const FORMAT: &str = "image manifest";
/// The version of manifests of images that are not frozen: they are what they were before there were others.
const VERSION: u32 = 1;
/// The version of manifests of frozen images.
const VERSION_FROZEN: u32 = 2;

/// A blob: what it is, its digest and its size.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many bytes there are.
    pub size: u64,
}

impl Descriptor {
    /// Describes `bytes`.
    #[must_use]
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self { media_type: media_type.to_owned(), digest: Digest::of(bytes), size: bytes.len() as u64 }
    }
}

/// On which machines, with which engine, an artefact can be used, and under which key it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Variant {
    /// The engine that runs it, such as `wasmtime`.
    pub engine: String,
    /// The target triple.
    pub target: String,
    /// The CPU level that it needs.
    pub cpu: CpuLevel,
    /// Its build key.
    pub key: Digest,
}

/// One blob of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Artefact {
    /// What the bytes are.
    pub media_type: String,
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many bytes there are.
    pub size: u64,
    /// For code: where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The chunk list of a large blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunks: Option<Descriptor>,
    /// What else is worth saying about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Artefact {
    /// An artefact without variant, chunk list or annotations.
    #[must_use]
    pub fn of(blob: Descriptor) -> Self {
        let Descriptor { media_type, digest, size } = blob;
        Self { media_type, digest, size, variant: None, chunks: None, annotations: BTreeMap::new() }
    }

    /// Its descriptor.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: self.media_type.clone(), digest: self.digest, size: self.size }
    }

    /// The digests of its blob and of its chunk list.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        [Some(self.digest), self.chunks.as_ref().map(|chunks| chunks.digest)].into_iter().flatten()
    }

    /// Whether the artefact is machine code that a loader may map executable.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.media_type == media::CODE || self.media_type == media::CODE_WASMTIME || self.is_resume()
    }

    /// Whether it is the code through which a frozen program wakes.
    #[must_use]
    pub fn is_resume(&self) -> bool {
        self.media_type == media::RESUME
    }
}

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FunctionKind {
    /// A core module with `_start`: WASI preview 1 command.
    Command,
    /// A core module without `_start`: its exports are called one by one.
    Module,
    /// A component that exports `wasi:cli/run`.
    ComponentCommand,
    /// A component that exports `wasi:http/incoming-handler`.
    ComponentHttp,
    /// A component of another world: its exports are called one by one.
    Component,
}

impl FunctionKind {
    /// The text of this kind in manifests and keys.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Module => "module",
            Self::ComponentCommand => "component-command",
            Self::ComponentHttp => "component-http",
            Self::Component => "component",
        }
    }

    /// Whether the code is a component's, not a core module's.
    #[must_use]
    pub const fn is_component(self) -> bool {
        matches!(self, Self::ComponentCommand | Self::ComponentHttp | Self::Component)
    }
}

/// The function of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Function {
    /// How it is called.
    pub kind: FunctionKind,
    /// The name under which it was built; its first argument unless the caller gives another.
    pub name: String,
    /// Arguments that come before those of the caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables that the function sees unless the caller sets them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// In which state it wakes, if it does not start from the beginning. Arguments and environment are then those with which it was frozen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Box<Frozen>>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format: 1, or 2 of a frozen image.
    pub schema_version: u32,
    /// Always [`media::MANIFEST`].
    pub media_type: String,
    /// What the image was built from, where there is one source. The blob itself need not be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Descriptor>,
    /// How the function is called, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<Function>,
    /// The blobs.
    pub artefacts: Vec<Artefact>,
    /// What else is worth saying about the image.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of `artefacts`.
    #[must_use]
    pub fn new(source: Option<Descriptor>, function: Option<Function>, artefacts: Vec<Artefact>) -> Self {
        let frozen = function.as_ref().is_some_and(|function| function.frozen.is_some());
        let schema_version = if frozen { VERSION_FROZEN } else { VERSION };
        Self { schema_version, media_type: media::MANIFEST.to_owned(), source, function, artefacts, annotations: BTreeMap::new() }
    }

    /// The bytes of the manifest: compact JSON with the fields in the order of this struct. The same manifest has the same bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When the bytes are no manifest of this version, or name something twice or something impossible.
    pub fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if bytes.len() > MAX_SIZE {
            return Err(damaged(format!("{} bytes, at most {MAX_SIZE} allowed", bytes.len())));
        }
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return Err(Self::why_not(bytes, &error)),
        };
        if !(VERSION..=VERSION_FROZEN).contains(&manifest.schema_version) {
            return Err(FormatError::Version { format: FORMAT, found: manifest.schema_version, supported: VERSION_FROZEN });
        }
        if manifest.media_type != media::MANIFEST {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: manifest.media_type.chars().take(100).collect() });
        }
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what every manifest keeps to, wherever it was read from.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        let mut variants = Vec::new();
        for artefact in &self.artefacts {
            for media_type in [Some(&artefact.media_type), artefact.chunks.as_ref().map(|chunks| &chunks.media_type)].into_iter().flatten()
            {
                if !media::is_valid(media_type) {
                    return Err(damaged(format!("`{}` is not a media type", media_type.escape_default())));
                }
            }
            if artefact.is_code() {
                let Some(variant) = &artefact.variant else {
                    return Err(damaged(format!("the code {} does not say where it runs", artefact.digest)));
                };
                let place = (artefact.is_resume(), &variant.engine, &variant.target, variant.cpu);
                if variants.contains(&place) {
                    return Err(damaged(format!(
                        "two code objects for {} on {} {}",
                        place.1.escape_default(),
                        place.2.escape_default(),
                        place.3
                    )));
                }
                variants.push(place);
            }
        }
        self.check_frozen().map_err(damaged)
    }

    /// What a frozen function names has to be there, each as what it is.
    fn check_frozen(&self) -> Result<(), String> {
        let frozen = self.function.as_ref().and_then(|function| function.frozen.as_ref());
        if frozen.is_some() != (self.schema_version == VERSION_FROZEN) {
            return Err(format!("version {} does not go with whether the function is frozen", self.schema_version));
        }
        let Some(frozen) = frozen else {
            let resume = self.artefacts.iter().find(|artefact| artefact.is_resume());
            return resume.map_or(Ok(()), |resume| Err(format!("{} resumes a function that is not frozen", resume.digest)));
        };
        let is = |digest: &Digest, media_type: &str| {
            self.artefacts.iter().any(|artefact| artefact.digest == *digest && artefact.media_type == media_type)
        };
        let is_component = self.function.as_ref().is_some_and(|function| function.kind.is_component());
        if frozen.component.is_some() != is_component {
            return Err("only a frozen component, and each of them, names the component that it became".into());
        }
        if is_component && (!frozen.layers.is_empty() || self.artefacts.iter().any(Artefact::is_resume)) {
            return Err("a frozen component has its state in itself, and neither heap layers nor resume objects".into());
        }
        if !is_component && frozen.layers.is_empty() || frozen.layers.len() > MAX_LAYERS {
            return Err(format!("{} heap layers, not 1 to {MAX_LAYERS}", frozen.layers.len()));
        }
        if let Some(missing) = frozen.layers.iter().find(|layer| !is(layer, media::HEAP)) {
            return Err(format!("the heap layer {missing} is no artefact of the image"));
        }
        if !is(&frozen.record, media::FREEZE_RECORD) {
            return Err(format!("the freeze record {} is no artefact of the image", frozen.record));
        }
        Ok(())
    }

    /// A newer version may have fields that this reader does not know: then the version is what is worth saying.
    fn why_not(bytes: &[u8], error: &serde_json::Error) -> FormatError {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Versioned {
            schema_version: u32,
            media_type: String,
        }
        match serde_json::from_slice::<Versioned>(bytes) {
            Ok(versioned) if versioned.media_type != media::MANIFEST => {
                FormatError::NotThisFormat { format: FORMAT, found: versioned.media_type.chars().take(100).collect() }
            }
            Ok(versioned) if !(VERSION..=VERSION_FROZEN).contains(&versioned.schema_version) => {
                FormatError::Version { format: FORMAT, found: versioned.schema_version, supported: VERSION_FROZEN }
            }
            Ok(_) => FormatError::Damaged { format: FORMAT, what: error.to_string() },
            Err(_) => FormatError::NotThisFormat { format: FORMAT, found: error.to_string() },
        }
    }

    /// The code objects of the whole module with the places where they run.
    pub fn code(&self) -> impl Iterator<Item = (&Artefact, &Variant)> {
        let whole = |artefact: &&Artefact| artefact.is_code() && !artefact.is_resume();
        self.artefacts.iter().filter(whole).filter_map(|artefact| Some((artefact, artefact.variant.as_ref()?)))
    }

    /// The resume object that goes with the code object of `variant`.
    #[must_use]
    pub fn resume_for(&self, variant: &Variant) -> Option<&Artefact> {
        let fits = |other: &Variant| (&other.engine, &other.target, other.cpu) == (&variant.engine, &variant.target, variant.cpu);
        self.artefacts.iter().find(|artefact| artefact.is_resume() && artefact.variant.as_ref().is_some_and(fits))
    }

    /// The best code object of `engine` that a host of `level` can run: the one of the highest level that is not above the host's.
    #[must_use]
    pub fn best_code(&self, engine: &str, target: &str, level: CpuLevel) -> Option<(&Artefact, &Variant)> {
        self.best_code_of(engine, target, level, |_| true)
    }

    /// The same among the code objects that are `there`.
    pub fn best_code_of(
        &self,
        engine: &str,
        target: &str,
        level: CpuLevel,
        there: impl Fn(&Artefact) -> bool,
    ) -> Option<(&Artefact, &Variant)> {
        self.code()
            .filter(|(artefact, variant)| variant.engine == engine && variant.target == target && variant.cpu <= level && there(artefact))
            .max_by_key(|(_, variant)| variant.cpu)
    }

    /// The blobs that a host of `target` and `level` can do without: code objects, but not the best one for each engine, and their chunk
    /// lists.
    #[must_use]
    pub fn unused_by(&self, target: &str, level: CpuLevel) -> BTreeSet<Digest> {
        self.code_blobs(|artefact, variant| match self.best_code(&variant.engine, target, level) {
            Some((_, best)) if artefact.is_resume() => variant.cpu != best.cpu || variant.target != best.target,
            Some((best, _)) => best.digest != artefact.digest,
            None => true,
        })
    }

    /// The blobs of the code objects that `fit`, with their chunk lists. What is also part of something else is not among them.
    pub fn code_blobs(&self, fit: impl Fn(&Artefact, &Variant) -> bool) -> BTreeSet<Digest> {
        let fits = |artefact: &&Artefact| artefact.is_code() && artefact.variant.as_ref().is_some_and(|variant| fit(artefact, variant));
        let (fitting, others): (Vec<_>, Vec<_>) = self.artefacts.iter().partition(fits);
        let others: BTreeSet<Digest> = others.into_iter().flat_map(Artefact::digests).collect();
        fitting.into_iter().flat_map(Artefact::digests).filter(|digest| !others.contains(digest)).collect()
    }

    /// The digests of [`Self::blobs`].
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.artefacts.iter().flat_map(Artefact::digests)
    }

    /// All blobs that the image consists of, its own manifest left out: artefacts, their chunk lists.
    pub fn blobs(&self) -> impl Iterator<Item = Descriptor> {
        self.artefacts.iter().flat_map(|artefact| [Some(artefact.descriptor()), artefact.chunks.clone()].into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(cpu: CpuLevel) -> Artefact {
        let mut artefact = Artefact::of(Descriptor::of(media::CODE_WASMTIME, cpu.name().as_bytes()));
        let target = "x86_64-unknown-linux-gnu".to_owned();
        artefact.variant = Some(Variant { engine: "wasmtime".into(), target, cpu, key: Digest::of(b"key") });
        artefact
    }

    #[test]
    fn takes_the_best_level_and_never_a_higher_one() {
        let manifest = Manifest::new(None, None, vec![code(CpuLevel::V3), code(CpuLevel::V2)]);
        let best = |level| manifest.best_code("wasmtime", "x86_64-unknown-linux-gnu", level).map(|(_, variant)| variant.cpu);
        assert_eq!(best(CpuLevel::V1), None);
        assert_eq!(best(CpuLevel::V2), Some(CpuLevel::V2));
        assert_eq!(best(CpuLevel::V3), Some(CpuLevel::V3));
        assert_eq!(best(CpuLevel::V4), Some(CpuLevel::V3));
        assert_eq!(manifest.best_code("native", "x86_64-unknown-linux-gnu", CpuLevel::V4), None);
        assert_eq!(manifest.best_code("wasmtime", "aarch64-unknown-linux-gnu", CpuLevel::V4), None);
    }

    #[test]
    fn a_host_can_do_without_what_it_would_not_choose() {
        let target = "x86_64-unknown-linux-gnu";
        let mut manifest = Manifest::new(None, None, [CpuLevel::V2, CpuLevel::V3, CpuLevel::V4].map(code).to_vec());
        let digest = |index: usize| manifest.artefacts[index].digest;
        let (two, three, four, chunks) = (digest(0), digest(1), digest(2), Descriptor::of(media::CHUNKS, b"c"));
        manifest.artefacts[0].chunks = Some(chunks.clone());
        assert_eq!(manifest.unused_by(target, CpuLevel::V3), BTreeSet::from([two, chunks.digest, four]));
        assert_eq!(manifest.unused_by(target, CpuLevel::V2), BTreeSet::from([three, four]));
        assert_eq!(manifest.unused_by(target, CpuLevel::V1).len(), 4, "it can run none");
        assert_eq!(manifest.unused_by("aarch64-unknown-linux-gnu", CpuLevel::V4).len(), 4);
        // The best one of each engine is used, and what is no code always.
        let mut native = code(CpuLevel::V2);
        native.digest = Digest::of(b"native");
        native.variant.as_mut().unwrap().engine = "native".into();
        manifest.artefacts.push(native);
        manifest.artefacts.push(Artefact::of(chunks));
        assert_eq!(manifest.unused_by(target, CpuLevel::V4), BTreeSet::from([two, three]));
        assert_eq!(manifest.code_blobs(|_, _| true).len(), 4);
        let best = manifest.best_code_of("wasmtime", target, CpuLevel::V4, |artefact| artefact.digest != four);
        assert_eq!(best.unwrap().0.digest, three);
    }

    #[test]
    fn leads_back_and_is_stable() {
        let mut manifest = Manifest::new(Some(Descriptor::of(media::WASM, b"w")), None, vec![code(CpuLevel::V2)]);
        manifest.artefacts[0].chunks = Some(Descriptor::of(media::CHUNKS, b"c"));
        manifest.function =
            Some(Function { kind: FunctionKind::Command, name: "a".into(), args: vec!["x".into()], env: BTreeMap::new(), frozen: None });
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
        assert_eq!(Manifest::parse(&bytes).unwrap().to_bytes(), bytes);
        assert_eq!(manifest.blobs().count(), 2);
    }

    fn frozen() -> Manifest {
        let mut native = code(CpuLevel::V2);
        native.media_type = media::CODE.into();
        native.variant.as_mut().unwrap().engine = "native".into();
        let mut resume = native.clone();
        resume.media_type = media::RESUME.into();
        resume.digest = Digest::of(b"resume");
        let heap = Artefact::of(Descriptor::of(media::HEAP, b"heap"));
        let record = Artefact::of(Descriptor::of(media::FREEZE_RECORD, b"record"));
        let frozen = Frozen {
            point: crate::frozen::FreezePoint::Stdin,
            layers: vec![heap.digest],
            component: None,
            late_env: BTreeSet::from(["TOKEN".to_owned()]),
            record: record.digest,
            risks: vec!["the hash seed".into()],
        };
        let function =
            Function { kind: FunctionKind::Command, name: "a".into(), args: vec![], env: BTreeMap::new(), frozen: Some(Box::new(frozen)) };
        Manifest::new(None, Some(function), vec![native, resume, heap, record])
    }

    #[test]
    fn a_frozen_image_has_a_version_of_its_own_and_all_that_it_names() {
        let manifest = frozen();
        assert_eq!(manifest.schema_version, 2);
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);
        assert_eq!(manifest.code().count(), 1);
        let (_, variant) = manifest.best_code("native", "x86_64-unknown-linux-gnu", CpuLevel::V4).unwrap();
        assert_eq!(manifest.resume_for(variant).unwrap().digest, Digest::of(b"resume"));
        let higher = Variant { cpu: CpuLevel::V3, ..variant.clone() };
        assert_eq!(manifest.resume_for(&higher), None);

        let refused = |change: &dyn Fn(&mut Manifest)| {
            let mut manifest = manifest.clone();
            change(&mut manifest);
            Manifest::parse(&manifest.to_bytes()).unwrap_err().to_string()
        };
        let layers = |manifest: &mut Manifest, count: usize| {
            let frozen = manifest.function.as_mut().and_then(|function| function.frozen.as_mut()).unwrap();
            frozen.layers = vec![frozen.layers[0]; count];
        };
        assert!(refused(&|manifest| manifest.schema_version = 1).contains("version 1"));
        assert!(refused(&|manifest| manifest.function.as_mut().unwrap().frozen = None).contains("version 2"));
        assert!(refused(&|manifest| drop(manifest.artefacts.remove(2))).contains("heap layer"));
        assert!(refused(&|manifest| drop(manifest.artefacts.remove(3))).contains("freeze record"));
        assert!(refused(&|manifest| layers(manifest, 0)).contains("0 heap layers"));
        assert!(refused(&|manifest| layers(manifest, MAX_LAYERS + 1)).contains("17 heap layers"));
        let unfrozen = |manifest: &mut Manifest| {
            manifest.function = None;
            manifest.schema_version = 1;
        };
        assert!(refused(&unfrozen).contains("not frozen"));
        assert!(refused(&|manifest| manifest.artefacts[1].variant = None).contains("where it runs"));
    }

    #[test]
    fn a_frozen_component_names_what_it_became_and_has_no_heap() {
        let record = Artefact::of(Descriptor::of(media::FREEZE_RECORD, b"record"));
        let frozen = Frozen {
            point: crate::frozen::FreezePoint::Init,
            layers: vec![],
            component: Some(Digest::of(b"component")),
            late_env: BTreeSet::new(),
            record: record.digest,
            risks: vec![],
        };
        let name = "a".to_owned();
        let function = Function { kind: FunctionKind::Component, name, args: vec![], env: BTreeMap::new(), frozen: Some(Box::new(frozen)) };
        let manifest = Manifest::new(None, Some(function), vec![code(CpuLevel::V2), record]);
        assert_eq!(manifest.schema_version, 2);
        assert_eq!(Manifest::parse(&manifest.to_bytes()).unwrap(), manifest);

        let refused = |change: &dyn Fn(&mut Manifest, &mut Frozen)| {
            let mut manifest = manifest.clone();
            let mut frozen = manifest.function.as_mut().unwrap().frozen.take().unwrap();
            change(&mut manifest, &mut frozen);
            manifest.function.as_mut().unwrap().frozen = Some(frozen);
            Manifest::parse(&manifest.to_bytes()).unwrap_err().to_string()
        };
        let names = "names the component that it became";
        assert!(refused(&|_, frozen| frozen.component = None).contains(names));
        assert!(refused(&|manifest, _| manifest.function.as_mut().unwrap().kind = FunctionKind::Module).contains(names));
        assert!(refused(&|_, frozen| frozen.layers = vec![Digest::of(b"heap")]).contains("neither heap layers"));
        let resume = |manifest: &mut Manifest| {
            let mut resume = code(CpuLevel::V2);
            resume.media_type = media::RESUME.into();
            manifest.artefacts.push(resume);
        };
        assert!(refused(&|manifest, _| resume(manifest)).contains("nor resume objects"));
    }

    #[test]
    fn a_host_needs_the_resume_object_of_the_code_that_it_runs() {
        let mut manifest = frozen();
        let mut raise = |index: usize, name: &[u8]| {
            let mut artefact = manifest.artefacts[index].clone();
            artefact.digest = Digest::of(name);
            artefact.variant.as_mut().unwrap().cpu = CpuLevel::V3;
            manifest.artefacts.push(artefact);
        };
        raise(0, b"code v3");
        raise(1, b"resume v3");
        let target = "x86_64-unknown-linux-gnu";
        let (code, resume) = (manifest.artefacts[0].digest, manifest.artefacts[1].digest);
        assert_eq!(manifest.unused_by(target, CpuLevel::V4), BTreeSet::from([code, resume]));
        assert_eq!(manifest.unused_by(target, CpuLevel::V2), BTreeSet::from([Digest::of(b"code v3"), Digest::of(b"resume v3")]));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let text = String::from_utf8(Manifest::new(None, None, vec![code(CpuLevel::V2)]).to_bytes()).unwrap();
        let error = |text: String| Manifest::parse(text.as_bytes()).unwrap_err();
        let newer = error(text.replace("\"schemaVersion\":1", "\"schemaVersion\":3,\"news\":true"));
        assert!(newer.to_string().contains("version 3") && newer.to_string().contains("version 2"), "{newer}");
        assert!(matches!(error(text.replace("\"schemaVersion\":1", "\"schemaVersion\":1,\"news\":true")), FormatError::Damaged { .. }));
        assert!(matches!(error(text.replace("preheat.manifest", "other.manifest")), FormatError::NotThisFormat { .. }));
        assert!(matches!(error("junk".into()), FormatError::NotThisFormat { .. }));
        let twice = Manifest::new(None, None, vec![code(CpuLevel::V2), code(CpuLevel::V2)]);
        assert!(matches!(Manifest::parse(&twice.to_bytes()), Err(FormatError::Damaged { .. })));
        let mut nowhere = Manifest::new(None, None, vec![code(CpuLevel::V2)]);
        nowhere.artefacts[0].variant = None;
        assert!(matches!(Manifest::parse(&nowhere.to_bytes()), Err(FormatError::Damaged { .. })));
    }
}
