//! The JSON of the OCI image specification, as far as it is used here. Everything read is bounded and judged before it is believed; fields
//! that this reader does not know are left alone, as the specification wants it.

use preheat_image::manifest::Descriptor;
use preheat_image::{Digest, FormatError, media};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media type of an image manifest.
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image index.
pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of the blob `{}`, which stands where nothing is.
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Annotation: a title; for a layer, the name of the file into which other tools put it.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Annotation: the name of an image in a layout directory.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What annotations of the specification begin with.
pub(crate) const OPENCONTAINERS: &str = "org.opencontainers.image.";
/// Most bytes of a manifest or an index: what registries have to take at least.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;

const MANIFEST: &str = "OCI image manifest";
const SCHEMA_VERSION: u32 = 2;

/// A blob as OCI describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciDescriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing)]
    pub(crate) platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    pub(crate) architecture: String,
}

impl OciDescriptor {
    pub(crate) fn new(blob: &Descriptor, title: Option<String>) -> Self {
        Self {
            media_type: blob.media_type.clone(),
            digest: blob.digest,
            size: blob.size,
            annotations: title.map(|title| BTreeMap::from([(TITLE.to_owned(), title)])),
            artifact_type: None,
            platform: None,
        }
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: self.media_type.clone(), digest: self.digest, size: self.size }
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    fn check(&self) -> Result<(), FormatError> {
        if !media::is_valid(&self.media_type) {
            return Err(damaged(format!("`{}` is not a media type", clip(&self.media_type))));
        }
        // In Go, where most registries come from, a size is a signed number.
        if i64::try_from(self.size).is_err() {
            return Err(damaged(format!("a size of {} bytes", self.size)));
        }
        Ok(())
    }
}

/// A manifest: a config and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciManifest {
    pub(crate) schema_version: u32,
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: OciDescriptor,
    pub(crate) layers: Vec<OciDescriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

impl OciManifest {
    pub(crate) fn new(
        artifact_type: Option<&str>,
        config: OciDescriptor,
        layers: Vec<OciDescriptor>,
        annotations: BTreeMap<String, String>,
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            media_type: Some(IMAGE_MANIFEST.to_owned()),
            artifact_type: artifact_type.map(str::to_owned),
            config,
            layers,
            annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        }
    }

    /// Its bytes: compact JSON with the fields in the order of this struct. The same manifest has the same bytes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// An index: several manifests under one name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OciIndex {
    pub(crate) manifests: Vec<OciDescriptor>,
}

/// What a tag or digest in a registry leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Document {
    Manifest(Box<OciManifest>),
    Index(OciIndex),
}

impl Document {
    /// Reads a manifest or an index. `media_type` is what came with the bytes; what they say themselves must not be something else, so that
    /// nobody can take the same bytes for two things.
    pub(crate) fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, FormatError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Outline {
            schema_version: u32,
            media_type: Option<String>,
            config: Option<IgnoredAny>,
            layers: Option<IgnoredAny>,
            manifests: Option<IgnoredAny>,
            fs_layers: Option<IgnoredAny>,
        }
        if bytes.len() > MAX_MANIFEST {
            return Err(damaged(format!("{} bytes, at most {MAX_MANIFEST} allowed", bytes.len())));
        }
        let other = |found: String| FormatError::NotThisFormat { format: MANIFEST, found };
        let outline: Outline = serde_json::from_slice(bytes).map_err(|e| other(e.to_string()))?;
        if outline.schema_version != SCHEMA_VERSION {
            return Err(FormatError::Version { format: MANIFEST, found: outline.schema_version, supported: SCHEMA_VERSION });
        }
        let is_manifest = match outline.media_type.as_deref().or(media_type) {
            Some(IMAGE_MANIFEST) => true,
            Some(IMAGE_INDEX) => false,
            Some(found) => return Err(other(clip(found))),
            None => outline.manifests.is_none(),
        };
        let came_as = if is_manifest { IMAGE_MANIFEST } else { IMAGE_INDEX };
        if let Some(media_type) = media_type.filter(|media_type| *media_type != came_as) {
            return Err(damaged(format!("it calls itself {came_as}, but came as {}", clip(media_type))));
        }
        let mixed = if is_manifest { outline.manifests.is_some() } else { outline.layers.is_some() || outline.config.is_some() };
        if mixed || outline.fs_layers.is_some() {
            return Err(damaged("it is a manifest and an index at once".into()));
        }
        let checked = |descriptors: &[OciDescriptor]| descriptors.iter().try_for_each(OciDescriptor::check);
        let wrong = |e: serde_json::Error| damaged(e.to_string());
        if is_manifest {
            let manifest: OciManifest = serde_json::from_slice(bytes).map_err(wrong)?;
            manifest.config.check()?;
            checked(&manifest.layers)?;
            Ok(Self::Manifest(Box::new(manifest)))
        } else {
            let index: OciIndex = serde_json::from_slice(bytes).map_err(wrong)?;
            checked(&index.manifests)?;
            Ok(Self::Index(index))
        }
    }
}

impl OciIndex {
    /// The one manifest in it that can be ours: said to be, or for Wasm; or the only one there is.
    pub(crate) fn pick(&self) -> Result<&OciDescriptor, FormatError> {
        let manifests = || self.manifests.iter().filter(|entry| entry.media_type == IMAGE_MANIFEST);
        let ours = |entry: &&OciDescriptor| {
            entry.artifact_type.as_deref() == Some(media::MANIFEST)
                || entry.platform.as_ref().is_some_and(|platform| platform.architecture == "wasm")
        };
        let mut candidates: Vec<_> = manifests().filter(ours).collect();
        if candidates.is_empty() {
            candidates = manifests().collect();
        }
        match candidates.as_slice() {
            [one] => Ok(one),
            [] => Err(damaged("an index without an image".into())),
            several => {
                let digests: Vec<String> = several.iter().take(5).map(|entry| entry.digest.to_string()).collect();
                Err(damaged(format!("an index of {} images; name one by its digest, such as {}", several.len(), digests.join(", "))))
            }
        }
    }
}

pub(crate) fn damaged(what: String) -> FormatError {
    FormatError::Damaged { format: MANIFEST, what }
}

pub(crate) fn clip(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let config = OciDescriptor::new(&Descriptor::of(media::MANIFEST, b"c"), None);
        let layer = OciDescriptor::new(&Descriptor::of(media::WASM, b"l"), Some("a.wasm".into()));
        String::from_utf8(OciManifest::new(None, config, vec![layer], BTreeMap::new()).to_bytes()).unwrap()
    }

    fn refused(text: &str, media_type: Option<&str>) -> String {
        Document::parse(text.as_bytes(), media_type).expect_err(text).to_string()
    }

    #[test]
    fn reads_what_it_writes_and_what_others_add() {
        for text in
            [text(), text().replace("{\"schema", "{\"news\":[{}],\"schema"), text().replace("\"size\"", "\"data\":\"YQ==\",\"size\"")]
        {
            let Document::Manifest(manifest) = Document::parse(text.as_bytes(), Some(IMAGE_MANIFEST)).unwrap() else { panic!("{text}") };
            assert_eq!(manifest.layers[0].annotation(TITLE), Some("a.wasm"));
        }
        let without = text().replace(&format!("\"mediaType\":\"{IMAGE_MANIFEST}\","), "");
        assert!(matches!(Document::parse(without.as_bytes(), None).unwrap(), Document::Manifest(_)));
    }

    #[test]
    fn nobody_takes_a_manifest_for_an_index() {
        assert!(refused(&text(), Some(IMAGE_INDEX)).contains("came as"));
        assert!(refused(&text().replace("\"layers\"", "\"manifests\":[],\"layers\""), None).contains("at once"));
        let index = format!("{{\"schemaVersion\":2,\"mediaType\":\"{IMAGE_INDEX}\",\"manifests\":[],\"layers\":[]}}");
        assert!(refused(&index, Some(IMAGE_INDEX)).contains("at once"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(refused(&text().replace("\"schemaVersion\":2", "\"schemaVersion\":1"), None).contains("version 1"));
        let docker = text().replace(IMAGE_MANIFEST, "application/vnd.docker.distribution.manifest.v2+json");
        assert!(refused(&docker, None).contains("docker"));
        let digest = Digest::of(b"l").to_string();
        for (from, to) in [
            (digest.as_str(), "sha512:00"),
            (digest.as_str(), "../../etc/passwd"),
            ("\"size\":1,", "\"size\":-1,"),
            ("\"size\":1,", "\"size\":18446744073709551615,"),
            ("\"size\":1,", "\"size\":1.5,"),
            ("application/wasm", "application/wasm\\n"),
        ] {
            assert!(text().contains(from), "{from}");
            refused(&text().replace(from, to), None);
        }
        assert!(refused(&format!("{}{}", text(), " ".repeat(MAX_MANIFEST)), None).contains("at most"));
        refused("[]", None);
        refused("{}", None);
        refused(&"[".repeat(100_000), None);
    }

    #[test]
    fn an_index_leads_to_the_one_that_can_be_ours() {
        let entry = |name: &str, more: &str| {
            let digest = Digest::of(name.as_bytes());
            format!("{{\"mediaType\":\"{IMAGE_MANIFEST}\",\"digest\":\"{digest}\",\"size\":1{more}}}")
        };
        let pick = |entries: &[String]| {
            let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", entries.join(","));
            let Document::Index(index) = Document::parse(text.as_bytes(), None).unwrap() else { panic!("{text}") };
            index.pick().map(|entry| entry.digest)
        };
        let linux = entry("linux", ",\"platform\":{\"architecture\":\"amd64\",\"os\":\"linux\"}");
        let wasm = entry("wasm", ",\"platform\":{\"architecture\":\"wasm\",\"os\":\"wasip1\"}");
        let ours = entry("ours", &format!(",\"artifactType\":\"{}\"", media::MANIFEST));
        assert_eq!(pick(&[linux.clone(), wasm.clone()]), Ok(Digest::of(b"wasm")));
        assert_eq!(pick(&[ours.clone(), linux.clone()]), Ok(Digest::of(b"ours")));
        assert_eq!(pick(std::slice::from_ref(&linux)), Ok(Digest::of(b"linux")));
        assert!(pick(&[ours, wasm]).unwrap_err().to_string().contains("by its digest"));
        assert!(pick(&[linux.clone(), entry("arm", "")]).is_err());
        assert!(pick(&[]).is_err());
    }
}
