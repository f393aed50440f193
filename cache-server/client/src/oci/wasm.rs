//! Plain Wasm files as OCI artefacts, in the way the Wasm tools do it: the "Wasm OCI Artifact layout" of the CNCF's runtime group, which
//! `wkg` and wasmCloud write. Also read: what `wasm-to-oci` wrote before there was a layout.

use super::mapping::{Outline, Packed};
use super::spec::{OciDescriptor, OciManifest, TITLE, clip, damaged};
use crate::blob::Blob;
use preheat_image::manifest::Descriptor;
use preheat_image::{Digest, FormatError, media};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media type of the config that names the layer.
pub const CONFIG: &str = "application/vnd.wasm.config.v0+json";
/// Media type of the layer as `wasm-to-oci` wrote it.
const OLD_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// Most bytes of a config.
pub(crate) const MAX_CONFIG: u64 = 1024 * 1024;
const ARCHITECTURE: &str = "wasm";
/// The layout wants a time; the same file shall make the same bytes.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What a Wasm file is, as far as its config says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WasmKind {
    /// A core module.
    Module,
    /// A component.
    Component {
        /// The names of what it imports.
        imports: Vec<String>,
        /// The names of what it exports.
        exports: Vec<String>,
    },
}

/// A Wasm file in an artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmFile {
    /// Its bytes, which have yet to be fetched.
    pub blob: Blob,
    /// What it was called where it comes from, for people: it may be any text.
    pub title: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default)]
    created: String,
    architecture: String,
    os: String,
    layer_digests: Vec<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    component: Option<Component>,
}

#[derive(Serialize, Deserialize)]
struct Component {
    #[serde(default)]
    exports: Vec<String>,
    #[serde(default)]
    imports: Vec<String>,
}

impl Packed {
    /// A Wasm file. `name` becomes the title of the layer, under which other tools save it; it must be a file name, not a path.
    ///
    /// # Errors
    /// When `name` is no file name, or the imports and exports are more than a config can hold.
    pub fn wasm(wasm: &Blob, kind: &WasmKind, name: Option<&str>) -> Result<Self, FormatError> {
        if let Some(name) =
            name.filter(|name| matches!(*name, "" | "." | "..") || name.contains(['/', '\\']) || name.contains(char::is_control))
        {
            return Err(damaged(format!("`{}` is not a file name", clip(name))));
        }
        let (os, component) = match kind {
            WasmKind::Module => ("wasip1", None),
            WasmKind::Component { imports, exports } => ("wasip2", Some(Component { exports: exports.clone(), imports: imports.clone() })),
        };
        let config = Config {
            created: CREATED.to_owned(),
            architecture: ARCHITECTURE.to_owned(),
            os: os.to_owned(),
            layer_digests: vec![wasm.digest],
            component,
        };
        let config = serde_json::to_vec(&config).unwrap_or_default();
        if config.len() as u64 > MAX_CONFIG {
            return Err(damaged(format!("a config of {} bytes, at most {MAX_CONFIG} allowed", config.len())));
        }
        let layer = Descriptor { media_type: media::WASM.to_owned(), digest: wasm.digest, size: wasm.size };
        let described = Descriptor::of(CONFIG, &config);
        let manifest = OciManifest::new(
            None,
            OciDescriptor::new(&described, None),
            vec![OciDescriptor::new(&layer, name.map(str::to_owned))],
            name.map(|name| (TITLE.to_owned(), name.to_owned())).into_iter().collect::<BTreeMap<_, _>>(),
        );
        Self::sealed(manifest, vec![(described, config)], vec![layer])
    }
}

/// What an OCI manifest that is no image's says, if it is of a Wasm file: exactly one layer, which is Wasm. The config's type is left open,
/// since tools differ; where it is the layout's, it has to fit.
pub(crate) fn outline(oci: &OciManifest) -> Result<Outline, FormatError> {
    let layer = match oci.layers.as_slice() {
        [layer] if layer.media_type == media::WASM || layer.media_type == OLD_LAYER => layer,
        layers => {
            let config = oci.artifact_type.as_ref().unwrap_or(&oci.config.media_type);
            let found = layers.first().map_or("nothing", |layer| layer.media_type.as_str());
            return Err(damaged(format!(
                "neither a Preheat image nor one Wasm file: {} with {} layers, the first {}",
                clip(config),
                layers.len(),
                clip(found)
            )));
        }
    };
    let config = (oci.config.media_type == CONFIG).then_some(Blob { digest: oci.config.digest, size: oci.config.size });
    if let Some(config) = config.filter(|config| config.size > MAX_CONFIG) {
        return Err(damaged(format!("a config of {} bytes, at most {MAX_CONFIG} allowed", config.size)));
    }
    let title = layer.annotation(TITLE).map(str::to_owned);
    Ok(Outline::Wasm { file: WasmFile { blob: Blob { digest: layer.digest, size: layer.size }, title }, config })
}

/// Checks that a config of the layout is about this layer.
pub(crate) fn check_config(bytes: &[u8], layer: &Digest) -> Result<(), FormatError> {
    let config: Config = serde_json::from_slice(bytes).map_err(|e| damaged(format!("its config: {e}")))?;
    if config.architecture != ARCHITECTURE {
        return Err(damaged(format!("its config is for `{}`, not for Wasm", clip(&config.architecture))));
    }
    if config.layer_digests != [*layer] {
        return Err(damaged("its config is about other layers".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::spec::Document;

    fn blob() -> Blob {
        Blob { digest: Digest::of(b"\0asm"), size: 4 }
    }

    fn oci(packed: &Packed) -> OciManifest {
        let Document::Manifest(oci) = Document::parse(packed.manifest_bytes(), None).unwrap() else { panic!() };
        *oci
    }

    #[test]
    fn a_module_is_written_as_the_layout_says_and_leads_back() {
        let packed = Packed::wasm(&blob(), &WasmKind::Module, Some("a.wasm")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&packed.held[0].1).unwrap();
        assert_eq!(
            config,
            serde_json::json!({
                "created": "1970-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1", "layerDigests": [blob().digest.to_string()],
            })
        );
        let oci = oci(&packed);
        assert_eq!((oci.config.media_type.as_str(), oci.artifact_type.as_deref()), ("application/vnd.wasm.config.v0+json", None));
        let Outline::Wasm { file, config: Some(config) } = Outline::of(&oci).unwrap() else { panic!() };
        assert_eq!(file, WasmFile { blob: blob(), title: Some("a.wasm".into()) });
        assert_eq!(config.digest, packed.held[0].0.digest);
        assert_eq!(check_config(&packed.held[0].1, &blob().digest), Ok(()));
    }

    #[test]
    fn a_component_says_what_it_imports_and_exports() {
        let kind = WasmKind::Component { imports: vec!["wasi:cli/stdout@0.2.0".into()], exports: vec!["wasi:cli/run@0.2.0".into()] };
        let packed = Packed::wasm(&blob(), &kind, None).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&packed.held[0].1).unwrap();
        assert_eq!(config["os"], "wasip2");
        assert_eq!(config["component"]["exports"], serde_json::json!(["wasi:cli/run@0.2.0"]));
        assert_eq!(oci(&packed).annotations, None);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for bad in ["", ".", "..", "../a.wasm", "/etc/passwd", "a\\b", "a\nb"] {
            assert!(Packed::wasm(&blob(), &WasmKind::Module, Some(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_older_tools_wrote_is_read() {
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v1+json","digest":"{0}","size":2}},
                "layers":[{{"mediaType":"application/vnd.wasm.content.layer.v1+wasm","digest":"{0}","size":4}}]}}"#,
            blob().digest
        );
        let Document::Manifest(oci) = Document::parse(text.as_bytes(), None).unwrap() else { panic!() };
        let outline = Outline::of(&oci).unwrap();
        assert_eq!(outline, Outline::Wasm { file: WasmFile { blob: blob(), title: None }, config: None });
    }

    #[test]
    fn what_is_not_one_wasm_file_is_refused() {
        let packed = Packed::wasm(&blob(), &WasmKind::Module, None).unwrap();
        let edited = |edit: &dyn Fn(&mut OciManifest)| {
            let mut oci = oci(&packed);
            edit(&mut oci);
            Outline::of(&oci).map(drop)
        };
        assert_eq!(edited(&|_| {}), Ok(()));
        assert!(edited(&|oci| oci.layers.clear()).is_err());
        assert!(edited(&|oci| oci.layers.push(oci.layers[0].clone())).is_err());
        assert!(edited(&|oci| oci.layers[0].media_type = "application/vnd.oci.image.layer.v1.tar+gzip".into()).is_err());
        assert!(edited(&|oci| oci.config.size = 1 << 30).is_err());
    }

    #[test]
    fn a_config_about_something_else_is_refused() {
        let packed = Packed::wasm(&blob(), &WasmKind::Module, None).unwrap();
        let config = String::from_utf8(packed.held[0].1.clone()).unwrap();
        assert!(check_config(config.as_bytes(), &Digest::of(b"other")).is_err());
        assert!(check_config(config.replace("\"wasm\"", "\"amd64\"").as_bytes(), &blob().digest).is_err());
        assert!(check_config(config.replace("layerDigests", "layers").as_bytes(), &blob().digest).is_err());
        assert!(check_config(b"{}", &blob().digest).is_err());
    }
}
