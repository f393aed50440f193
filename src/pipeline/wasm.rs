//! Looking at Wasm before it is compiled: what is it, and how is it called?

use preheat_image::manifest::{Descriptor, FunctionKind};
use preheat_image::{Digest, media};
use std::borrow::Cow;
use std::cell::OnceCell;
use wasmparser::{ComponentExternalKind, Encoding, ExternalKind, Parser, Payload};

/// Wasm bytes, and how their function is called.
pub(super) struct Source<'a> {
    pub(super) wasm: Cow<'a, [u8]>,
    pub(super) kind: FunctionKind,
    digest: OnceCell<Digest>,
}

impl<'a> Source<'a> {
    /// These bytes, of which it is known how they are called.
    pub(super) fn new(wasm: Cow<'a, [u8]>, kind: FunctionKind) -> Self {
        Self { wasm, kind, digest: OnceCell::new() }
    }

    /// Digest of the Wasm bytes. They are hashed once.
    pub(super) fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| Digest::of(&self.wasm))
    }

    /// What a manifest says of the Wasm bytes.
    pub(super) fn descriptor(&self) -> Descriptor {
        Descriptor { media_type: media::WASM.to_owned(), digest: self.digest(), size: self.wasm.len() as u64 }
    }
}

/// Reads Wasm or its text form.
///
/// # Errors
/// In words, when the bytes are neither.
pub(super) fn read(bytes: &[u8]) -> Result<Source<'_>, String> {
    let wasm = if bytes.starts_with(b"\0asm") {
        Cow::Borrowed(bytes)
    } else if bytes.is_empty() {
        return Err("the file is empty".into());
    } else {
        let text = std::str::from_utf8(bytes).map_err(|_| "not Wasm: it begins with neither `\\0asm` nor text".to_owned())?;
        if !text.trim_start().starts_with(['(', ';', '@']) {
            return Err("not Wasm: it begins with neither `\\0asm` nor `(module` or `(component`".into());
        }
        Cow::Owned(wat::parse_str(text).map_err(|error| error.to_string())?)
    };
    let kind = kind_of(&wasm).map_err(|error| format!("invalid Wasm: {error}"))?;
    Ok(Source::new(wasm, kind))
}

fn kind_of(wasm: &[u8]) -> Result<FunctionKind, wasmparser::BinaryReaderError> {
    let mut encoding = Encoding::Module;
    let mut depth = 0usize;
    let mut kind = None;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::Version { encoding: outermost, .. } if depth == 0 => {
                encoding = outermost;
                depth = 1;
            }
            // Only the exports of the outermost module or component count.
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ExportSection(exports) if depth == 1 => {
                for export in exports {
                    let export = export?;
                    if export.name == "_start" && export.kind == ExternalKind::Func {
                        kind = Some(FunctionKind::Command);
                    }
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    let export = export?;
                    if export.kind != ComponentExternalKind::Instance {
                        continue;
                    }
                    let name = export.name.name;
                    if name.starts_with("wasi:cli/run@0.2.") {
                        kind = Some(FunctionKind::ComponentCommand);
                    } else if name.starts_with("wasi:http/incoming-handler@0.2.") {
                        kind = Some(FunctionKind::ComponentHttp);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(kind.unwrap_or(match encoding {
        Encoding::Module => FunctionKind::Module,
        Encoding::Component => FunctionKind::Component,
    }))
}

/// The names of what a component imports and exports.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) imports: Vec<String>,
    pub(crate) exports: Vec<String>,
}

/// What a component imports and exports; `None` for a core module.
///
/// # Errors
/// In words, when the bytes are no binary Wasm.
pub(crate) fn interface(wasm: &[u8]) -> Result<Option<Interface>, String> {
    if !wasm.starts_with(b"\0asm") {
        return Err("not binary Wasm: it does not begin with `\\0asm`".into());
    }
    if !read(wasm)?.kind.is_component() {
        return Ok(None);
    }
    let invalid = |error| format!("invalid Wasm: {error}");
    let (mut imports, mut exports, mut depth) = (Vec::new(), Vec::new(), 0usize);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } if depth == 0 => depth = 1,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Some(Interface { imports, exports }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> FunctionKind {
        read(text.as_bytes()).map_err(|error| panic!("{error}")).unwrap().kind
    }

    #[test]
    fn tells_commands_modules_and_components_apart() {
        assert_eq!(kind("(module (func (export \"_start\")))"), FunctionKind::Command);
        assert_eq!(kind("(module (memory (export \"_start\") 1))"), FunctionKind::Module);
        assert_eq!(kind("(module)"), FunctionKind::Module);
        assert_eq!(kind("(component)"), FunctionKind::Component);
        let nested = "(component (core module (func (export \"_start\"))))";
        assert_eq!(kind(nested), FunctionKind::Component);
        let http = "(component (instance $i) (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))";
        assert_eq!(kind(http), FunctionKind::ComponentHttp);
        let run = "(component (instance $i) (export \"wasi:cli/run@0.2.3\" (instance $i)))";
        assert_eq!(kind(run), FunctionKind::ComponentCommand);
    }

    #[test]
    fn components_have_an_interface_and_modules_have_none() {
        let wasm = |text: &str| wat::parse_str(text).unwrap();
        assert_eq!(interface(&wasm("(module (func (export \"f\")))")), Ok(None));
        let component = wasm("(component (import \"a:b/c@0.1.0\" (instance $i)) (export \"d:e/f@0.2.0\" (instance $i)))");
        assert_eq!(interface(&component), Ok(Some(Interface { imports: vec!["a:b/c@0.1.0".into()], exports: vec!["d:e/f@0.2.0".into()] })));
        assert!(interface(b"(module)").is_err());
    }

    #[test]
    fn says_what_it_is_not() {
        for (bytes, what) in [
            (&b""[..], "empty"),
            (b"\x7fELF\xff\xff", "not Wasm"),
            (b"hello", "not Wasm"),
            (b"(module (func", "expected"),
            (b"\0asm\x01\0\0\0\xff\xff", "invalid Wasm"),
            (b"\0asm", "invalid Wasm"),
        ] {
            let error = read(bytes).map(|_| ()).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }
}
