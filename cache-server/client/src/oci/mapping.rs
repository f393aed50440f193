//! An image as an OCI artefact, and back.
//!
//! | in the OCI manifest | holds |
//! |---|---|
//! | `artifactType` | [`media::MANIFEST`] |
//! | `config` | the image's own manifest, media type [`media::MANIFEST`] |
//! | `layers` | each blob that the image's manifest names, once, in its order and with its media type; then each statement, media type [`media::STATEMENT`], by digest |
//! | `annotations` | the function's name as title, and those of the image that begin with `org.opencontainers.image.` |
//!
//! The config is the image's manifest rather than the empty blob: old registries and tools know neither `artifactType` nor the empty config
//! and tell artefacts apart by the config's media type; and what an artefact is called by (its image id) then follows from what it is. The
//! same image with the same statements makes the same bytes. One statement more makes another OCI manifest of the same image.

use super::spec::{self, Document, EMPTY, IMAGE_MANIFEST, OPENCONTAINERS, OciDescriptor, OciManifest, TITLE, damaged};
use super::wasm;
use crate::blob::Blob;
use preheat_image::api::MAX_STATEMENTS;
use preheat_image::manifest::{self, Descriptor};
use preheat_image::{Digest, FormatError, Manifest, media, statement};
use std::collections::{BTreeMap, BTreeSet};

/// An OCI artefact, ready to be brought somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    pub(crate) manifest: Vec<u8>,
    /// Small blobs that are here: config, statements.
    pub(crate) held: Vec<(Descriptor, Vec<u8>)>,
    pub(crate) blobs: Vec<Descriptor>,
}

impl Packed {
    /// The image with the manifest `image`, and statements about it: their envelopes, in any order.
    ///
    /// # Errors
    /// When `image` is no manifest of an image, gives one blob two sizes, or names more than an OCI manifest can hold; when there are more
    /// than [`MAX_STATEMENTS`] statements or one is too large.
    pub fn image(image: &[u8], statements: &[Vec<u8>]) -> Result<Self, FormatError> {
        let parsed = Manifest::parse(image)?;
        let config = Descriptor::of(media::MANIFEST, image);
        let blobs = once(&parsed)?;
        let statements: BTreeMap<Digest, &[u8]> = statements.iter().map(|bytes| (Digest::of(bytes), bytes.as_slice())).collect();
        if statements.len() > MAX_STATEMENTS {
            return Err(damaged(format!("{} statements, at most {MAX_STATEMENTS} allowed", statements.len())));
        }
        let mut held = vec![(config.clone(), image.to_vec())];
        for bytes in statements.into_values() {
            if bytes.len() > statement::MAX_SIZE {
                return Err(damaged(format!("a statement of {} bytes, at most {} allowed", bytes.len(), statement::MAX_SIZE)));
            }
            held.push((Descriptor::of(media::STATEMENT, bytes), bytes.to_vec()));
        }
        let described = |blob: &Descriptor| OciDescriptor::new(blob, Some(file_name(blob)));
        let mut layers: Vec<_> = blobs.iter().chain(held.iter().skip(1).map(|(blob, _)| blob)).map(described).collect();
        if layers.is_empty() {
            // The specification wants a layer, and many registries insist on one.
            let empty = Descriptor::of(EMPTY, b"{}");
            layers.push(OciDescriptor::new(&empty, None));
            held.push((empty, b"{}".to_vec()));
        }
        let mut annotations: BTreeMap<String, String> =
            parsed.annotations.into_iter().filter(|(name, _)| name.starts_with(OPENCONTAINERS)).collect();
        if let Some(function) = parsed.function {
            annotations.entry(TITLE.to_owned()).or_insert(function.name);
        }
        Self::sealed(OciManifest::new(Some(media::MANIFEST), OciDescriptor::new(&config, None), layers, annotations), held, blobs)
    }

    pub(crate) fn sealed(manifest: OciManifest, held: Vec<(Descriptor, Vec<u8>)>, blobs: Vec<Descriptor>) -> Result<Self, FormatError> {
        let manifest = manifest.to_bytes();
        // What could not be read back is not written.
        if let Document::Manifest(read) = Document::parse(&manifest, Some(IMAGE_MANIFEST))? {
            Outline::of(&read)?;
        }
        Ok(Self { manifest, held, blobs })
    }

    /// The bytes of the OCI manifest.
    #[must_use]
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.manifest
    }

    /// What the OCI manifest is. Its digest is what a reference such as `oci://host/repository@sha256:…` names.
    #[must_use]
    pub fn manifest(&self) -> Descriptor {
        Descriptor::of(IMAGE_MANIFEST, &self.manifest)
    }

    /// The blobs that have to be brought beside what is in here.
    #[must_use]
    pub fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }
}

/// What an OCI artefact holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An image.
    Image(Bundle),
    /// A Wasm file, as other Wasm tools push it.
    Wasm(wasm::WasmFile),
}

/// An image as it was found: all but its blobs. Nothing in here is trusted by having been there: that is for statements and policy to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The image's own manifest.
    pub manifest: Descriptor,
    /// The bytes of that.
    pub manifest_bytes: Vec<u8>,
    /// The blobs that it names, each once. All are in the artefact.
    pub blobs: Vec<Descriptor>,
    /// The envelopes that came with it; their signatures are not verified, nor are they known to be about this image.
    pub statements: Vec<Vec<u8>>,
}

/// What an OCI manifest says about its artefact, before anything of that is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outline {
    Image {
        config: Descriptor,
        /// Sizes of the layers.
        layers: BTreeMap<Digest, u64>,
        statements: Vec<Blob>,
    },
    Wasm {
        file: wasm::WasmFile,
        /// The config, where it is of the kind that names the layer.
        config: Option<Blob>,
    },
}

impl Outline {
    pub(crate) fn of(oci: &OciManifest) -> Result<Self, FormatError> {
        if oci.config.media_type != media::MANIFEST {
            return wasm::outline(oci);
        }
        let config = oci.config.descriptor();
        if config.size > manifest::MAX_SIZE as u64 {
            return Err(damaged(format!("an image manifest of {} bytes, at most {} allowed", config.size, manifest::MAX_SIZE)));
        }
        let mut layers = BTreeMap::new();
        let mut statements = BTreeSet::new();
        for layer in &oci.layers {
            if *layers.entry(layer.digest).or_insert(layer.size) != layer.size {
                return Err(damaged(format!("two sizes of {}", layer.digest)));
            }
            if layer.media_type == media::STATEMENT {
                if layer.size > statement::MAX_SIZE as u64 {
                    return Err(damaged(format!("a statement of {} bytes, at most {} allowed", layer.size, statement::MAX_SIZE)));
                }
                statements.insert(Blob { digest: layer.digest, size: layer.size });
            }
        }
        if statements.len() > MAX_STATEMENTS {
            return Err(damaged(format!("{} statements, at most {MAX_STATEMENTS} allowed", statements.len())));
        }
        Ok(Self::Image { config, layers, statements: statements.into_iter().collect() })
    }
}

/// The blobs of the image, when each is among `layers`.
pub(crate) fn all_there(image: &Manifest, layers: &BTreeMap<Digest, u64>) -> Result<Vec<Descriptor>, FormatError> {
    let blobs = once(image)?;
    for blob in &blobs {
        match layers.get(&blob.digest) {
            Some(size) if *size == blob.size => {}
            Some(size) => return Err(damaged(format!("{} has {size} bytes, but the image says {}", blob.digest, blob.size))),
            None => return Err(damaged(format!("{} of the image is not among the layers", blob.digest))),
        }
    }
    Ok(blobs)
}

/// The blobs that an image names, each once.
fn once(image: &Manifest) -> Result<Vec<Descriptor>, FormatError> {
    let mut sizes = BTreeMap::new();
    let mut blobs = Vec::new();
    for blob in image.blobs() {
        match sizes.insert(blob.digest, blob.size) {
            None => blobs.push(blob),
            Some(size) if size == blob.size => {}
            Some(size) => return Err(damaged(format!("the image gives {} both {size} and {} bytes", blob.digest, blob.size))),
        }
    }
    Ok(blobs)
}

/// The name of the file into which a general tool puts the blob: never a path, different for different blobs.
fn file_name(blob: &Descriptor) -> String {
    let (stem, extension) = match blob.media_type.as_str() {
        media::CODE | media::CODE_WASMTIME => ("code", "elf"),
        media::RESUME => ("resume", "elf"),
        media::HEAP => ("heap", "bin"),
        media::FREEZE_RECORD => ("freeze-record", "json"),
        media::EVIDENCE => ("evidence", "json"),
        media::CHUNKS => ("chunks", "bin"),
        media::STATEMENT => ("statement", "json"),
        spec::EMPTY => ("empty", "json"),
        _ => ("blob", "bin"),
    };
    format!("{stem}-{}.{extension}", blob.digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use preheat_image::manifest::{Artefact, Function, FunctionKind, Variant};
    use preheat_image::{CpuLevel, api};

    fn image() -> Manifest {
        let mut code = Artefact::of(Descriptor::of(media::CODE_WASMTIME, b"code"));
        let target = "x86_64-unknown-linux-gnu".to_owned();
        code.variant = Some(Variant { engine: "wasmtime".into(), target, cpu: CpuLevel::V2, key: Digest::of(b"key") });
        code.chunks = Some(Descriptor::of(media::CHUNKS, b"chunks"));
        let heap = Artefact::of(Descriptor::of(media::HEAP, b"heap"));
        let function = Function { kind: FunctionKind::Command, name: "../app".into(), args: vec![], env: BTreeMap::new(), frozen: None };
        let mut image = Manifest::new(None, Some(function), vec![code, heap.clone(), heap]);
        image.annotations.insert("org.opencontainers.image.revision".into(), "abc".into());
        image.annotations.insert("other".into(), "x".into());
        image
    }

    fn outline(packed: &Packed) -> Outline {
        let Document::Manifest(oci) = Document::parse(packed.manifest_bytes(), Some(IMAGE_MANIFEST)).unwrap() else { panic!() };
        Outline::of(&oci).unwrap()
    }

    #[test]
    fn an_image_leads_back() {
        let bytes = image().to_bytes();
        let packed = Packed::image(&bytes, &[b"one".to_vec(), b"two".to_vec()]).unwrap();
        assert_eq!(packed.blobs().len(), 3, "the heap once");
        let Outline::Image { config, layers, statements } = outline(&packed) else { panic!() };
        assert_eq!(config, Descriptor::of(media::MANIFEST, &bytes));
        assert_eq!(all_there(&image(), &layers).unwrap(), packed.blobs());
        assert_eq!(statements.len(), 2);
        assert_eq!(packed.held.len(), 3, "config and statements");
    }

    #[test]
    fn the_same_image_makes_the_same_bytes() {
        let (one, two) = (b"one".to_vec(), b"two".to_vec());
        let bytes = image().to_bytes();
        let packed = Packed::image(&bytes, &[one.clone(), two.clone()]).unwrap();
        assert_eq!(Packed::image(&bytes, &[two.clone(), one, two]).unwrap(), packed);
        // Written down: a change of these bytes changes the digest of every image in every registry.
        let digest = packed.manifest().digest.to_string();
        assert_eq!(digest, "sha256:ceb7e59bd8b6fe407fddfef75badd683541cb6b1b59947e7e4b3f9f6db41b265");
    }

    #[test]
    fn titles_are_file_names_and_only_open_annotations_are_copied() {
        let packed = Packed::image(&image().to_bytes(), &[b"one".to_vec()]).unwrap();
        let Document::Manifest(oci) = Document::parse(packed.manifest_bytes(), None).unwrap() else { panic!() };
        let titles: BTreeSet<&str> = oci.layers.iter().filter_map(|layer| layer.annotation(TITLE)).collect();
        assert_eq!(titles.len(), 4);
        assert!(titles.iter().all(|title| !title.contains('/') && !title.starts_with('.')), "{titles:?}");
        let annotations = oci.annotations.unwrap();
        assert_eq!(annotations.get(TITLE).map(String::as_str), Some("../app"), "the name of the whole is no file name");
        assert_eq!(annotations.get("org.opencontainers.image.revision").map(String::as_str), Some("abc"));
        assert_eq!(annotations.len(), 2);
    }

    #[test]
    fn an_image_of_nothing_has_the_empty_layer() {
        let image = Manifest::new(None, None, vec![]);
        let packed = Packed::image(&image.to_bytes(), &[]).unwrap();
        assert!(packed.blobs().is_empty());
        assert!(packed.held.iter().any(|(blob, bytes)| blob.media_type == EMPTY && bytes == b"{}"));
        let Outline::Image { layers, .. } = outline(&packed) else { panic!() };
        assert_eq!(all_there(&image, &layers), Ok(vec![]));
    }

    #[test]
    fn what_is_missing_or_of_another_size_is_noticed() {
        let Outline::Image { layers, .. } = outline(&Packed::image(&image().to_bytes(), &[]).unwrap()) else { panic!() };
        let heap = Digest::of(b"heap");
        let mut without = layers.clone();
        without.remove(&heap);
        assert!(all_there(&image(), &without).unwrap_err().to_string().contains("not among the layers"));
        let mut other = layers;
        other.insert(heap, 5);
        assert!(all_there(&image(), &other).unwrap_err().to_string().contains("5 bytes"));
        let mut twice = image();
        twice.artefacts[1].size = 9;
        assert!(Packed::image(&twice.to_bytes(), &[]).is_err());
    }

    #[test]
    fn what_could_not_be_read_back_is_not_packed() {
        let packed = |media_type: &str, size: u64| {
            let artefact = Artefact::of(Descriptor { media_type: media_type.into(), digest: Digest::of(b"x"), size });
            Packed::image(&Manifest::new(None, None, vec![artefact]).to_bytes(), &[]).is_ok()
        };
        assert!(packed(media::HEAP, 1 << 40));
        assert!(!packed(media::HEAP, u64::MAX));
        assert!(!packed(media::STATEMENT, 1 << 40));
        assert!(Packed::wasm(&Blob { digest: Digest::of(b"x"), size: u64::MAX }, &wasm::WasmKind::Module, None).is_err());
    }

    #[test]
    fn sizes_and_numbers_are_bounded_before_anything_is_fetched() {
        let oci = |edit: &dyn Fn(&mut OciManifest)| {
            let packed = Packed::image(&image().to_bytes(), &[b"one".to_vec()]).unwrap();
            let Document::Manifest(mut oci) = Document::parse(packed.manifest_bytes(), None).unwrap() else { panic!() };
            edit(&mut oci);
            Outline::of(&oci).map(drop)
        };
        assert_eq!(oci(&|_| {}), Ok(()));
        assert!(oci(&|oci| oci.config.size = 1 << 40).is_err());
        assert!(oci(&|oci| oci.layers[3].size = 1 << 40).is_err(), "a statement");
        assert!(oci(&|oci| oci.layers.push(OciDescriptor { size: 77, ..oci.layers[0].clone() })).is_err(), "two sizes");
        let statement = |i: usize| OciDescriptor::new(&Descriptor::of(media::STATEMENT, &i.to_le_bytes()), None);
        assert!(oci(&|oci| oci.layers.extend((0..api::MAX_STATEMENTS).map(statement))).is_err());
        let many: Vec<Vec<u8>> = (0..=api::MAX_STATEMENTS).map(|i| i.to_le_bytes().to_vec()).collect();
        assert!(Packed::image(&image().to_bytes(), &many).is_err());
        assert!(Packed::image(&image().to_bytes(), &[vec![0; statement::MAX_SIZE + 1]]).is_err());
    }
}
