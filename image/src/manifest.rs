//! The manifest of an image: which artefacts belong to it, and how its function is called.
//!
//! JSON in the style of OCI descriptors (media type, digest, size). Artefacts of runtimes that are not Wasm fit as well: an artefact is
//! what its media type says, and everything about the function is optional.

use crate::{CpuLevel, Digest, FormatError, media};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most bytes that a manifest may have.
pub const MAX_SIZE: usize = 1024 * 1024;

/// The annotation of an image that says, for people, why it is for its engine and not for the one that would have been preferred.
pub const ENGINE_REASON: &str = "engine-reason";

const FORMAT: &str = "image manifest";
const VERSION: u32 = 1;

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
        self.media_type == media::CODE || self.media_type == media::CODE_WASMTIME
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
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Version of this format, 1.
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
        Self { schema_version: VERSION, media_type: media::MANIFEST.to_owned(), source, function, artefacts, annotations: BTreeMap::new() }
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
        if manifest.schema_version != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: manifest.schema_version, supported: VERSION });
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
                let place = (&variant.engine, &variant.target, variant.cpu);
                if variants.contains(&place) {
                    return Err(damaged(format!(
                        "two code objects for {} on {} {}",
                        place.0.escape_default(),
                        place.1.escape_default(),
                        place.2
                    )));
                }
                variants.push(place);
            }
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
            Ok(versioned) if versioned.schema_version != VERSION => {
                FormatError::Version { format: FORMAT, found: versioned.schema_version, supported: VERSION }
            }
            Ok(_) => FormatError::Damaged { format: FORMAT, what: error.to_string() },
            Err(_) => FormatError::NotThisFormat { format: FORMAT, found: error.to_string() },
        }
    }

    /// The code objects with the places where they run.
    pub fn code(&self) -> impl Iterator<Item = (&Artefact, &Variant)> {
        self.artefacts.iter().filter(|artefact| artefact.is_code()).filter_map(|artefact| Some((artefact, artefact.variant.as_ref()?)))
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
        self.code_blobs(|artefact, variant| {
            self.best_code(&variant.engine, target, level).is_none_or(|(best, _)| best.digest != artefact.digest)
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
        manifest.function = Some(Function { kind: FunctionKind::Command, name: "a".into(), args: vec!["x".into()], env: BTreeMap::new() });
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
        assert_eq!(Manifest::parse(&bytes).unwrap().to_bytes(), bytes);
        assert_eq!(manifest.blobs().count(), 2);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let text = String::from_utf8(Manifest::new(None, None, vec![code(CpuLevel::V2)]).to_bytes()).unwrap();
        let error = |text: String| Manifest::parse(text.as_bytes()).unwrap_err();
        let newer = error(text.replace("\"schemaVersion\":1", "\"schemaVersion\":2,\"news\":true"));
        assert!(newer.to_string().contains("version 2") && newer.to_string().contains("version 1"), "{newer}");
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
