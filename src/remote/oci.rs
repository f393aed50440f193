//! OCI registries and layout directories: images as artefacts with their statements, and Wasm files as other tools push them.
//!
//! A registry knows no names that anybody signed: a tag there is whatever somebody wrote last. What is pulled from one is judged by its
//! statements like everything else.

use super::pull::{From, Landed, PullCode, vouched_image};
use super::push::Closure;
use super::{Pulled, Remote, RemoteError};
use preheat_cache_client::oci::{
    self, Content, DockerConfig, Layout, Packed, Registry, RegistryConfig, Repository, Version, WasmFile, WasmKind,
};
use preheat_cache_client::transfer::Upload;
use preheat_cache_client::{Blob, ClientError, Progress};
use preheat_image::statement::Envelope;
use preheat_image::{Digest, FormatError};
use std::path::Path;
use std::sync::Arc;

/// Transfers at a time.
const PARALLEL: usize = 4;
/// Most bytes of a Wasm file that is fetched to be built.
const MAX_WASM: u64 = 512 * 1024 * 1024;

/// What a registry or a layout had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OciPulled {
    /// An image; it is in the store now.
    Image(Pulled),
    /// A Wasm file, to be built.
    Wasm(ImportedWasm),
}

/// A Wasm file that came from a registry or a layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedWasm {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it was called there, if it was called anything.
    pub title: Option<String>,
}

impl Remote {
    fn registry(&self, reference: &oci::Reference) -> Result<Registry, RemoteError> {
        let credentials = match DockerConfig::default_path() {
            Some(path) => DockerConfig::read(&path)?.lookup(reference.host(), reference.repository()),
            None => oci::RegistryCredentials::default(),
        };
        let ca_file = self.settings.cache(reference.host()).ca_file;
        Ok(Registry::new(reference, RegistryConfig { credentials, ca_file, ..RegistryConfig::default() })?)
    }

    /// Brings an image to a registry, with all statements about it.
    ///
    /// # Errors
    /// When the image is not here whole, or the registry does not take it.
    pub fn push_oci(&self, image: &Digest, to: &oci::Reference, progress: &dyn Progress) -> Result<oci::Pushed, RemoteError> {
        self.pack(image, &self.registry(to)?, to.tag(), progress)
    }

    /// Puts an image into an OCI layout directory, which is made if nothing is there.
    ///
    /// # Errors
    /// When the image is not here whole, or the directory can't be written.
    pub fn export(&self, image: &Digest, dir: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<oci::Pushed, RemoteError> {
        self.pack(image, &Layout::create(dir)?, name, progress)
    }

    fn pack(&self, image: &Digest, to: &dyn Repository, tag: Option<&str>, progress: &dyn Progress) -> Result<oci::Pushed, RemoteError> {
        let closure = Closure::gather(&self.store, image, None)?;
        let statements: Vec<Vec<u8>> = closure.statements.iter().map(Envelope::to_bytes).collect();
        let packed = Packed::image(&closure.manifest, &statements).map_err(|source| format(to, image, source))?;
        Ok(self.tokio.block_on(oci::push(to, tag, &packed, &closure.uploads(&self.store), PARALLEL, progress))?)
    }

    /// Brings a Wasm file to a registry, in the form in which Wasm tools do that.
    ///
    /// # Errors
    /// When the file can't be read or is no Wasm, or the registry does not take it.
    pub fn push_wasm(&self, file: &Path, to: &oci::Reference, progress: &dyn Progress) -> Result<oci::Pushed, RemoteError> {
        let read = |source| ClientError::Local { what: "read the Wasm file", source };
        let bytes: Arc<[u8]> = std::fs::read(file).map_err(read)?.into();
        let kind = match crate::pipeline::interface(&bytes).map_err(RemoteError::Usage)? {
            None => WasmKind::Module,
            Some(interface) => WasmKind::Component { imports: interface.imports, exports: interface.exports },
        };
        let blob = Blob { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let name = file.file_name().and_then(|name| name.to_str());
        let registry = self.registry(to)?;
        let packed = Packed::wasm(&blob, &kind, name).map_err(|source| format(&registry, &blob.digest, source))?;
        let source = Arc::new(move || Ok(Box::new(std::io::Cursor::new(Arc::clone(&bytes))) as Box<dyn std::io::Read + Send>));
        Ok(self.tokio.block_on(oci::push(&registry, to.tag(), &packed, &[Upload { blob, source }], PARALLEL, progress))?)
    }

    /// Gets an image or a Wasm file from a registry.
    ///
    /// # Errors
    /// As [`Remote::pull`].
    pub fn pull_oci(&self, from: &oci::Reference, code: PullCode, progress: &dyn Progress) -> Result<OciPulled, RemoteError> {
        self.unpack(&self.registry(from)?, &from.version(), code, progress)
    }

    /// Gets an image or a Wasm file out of an OCI layout directory: the one with that name, or the only one. An image comes with all its
    /// code: the directory may not be there any more when the rest is wanted.
    ///
    /// # Errors
    /// As [`Remote::pull`], and when it is not said which one is meant.
    pub fn import(&self, dir: &Path, name: Option<&str>, progress: &dyn Progress) -> Result<OciPulled, RemoteError> {
        let layout = Layout::open(dir)?;
        let entries = layout.entries()?;
        let mut fitting = entries.iter().filter(|entry| name.is_none_or(|name| entry.name.as_deref() == Some(name)));
        let version = match (fitting.next(), fitting.next()) {
            (Some(entry), None) => Version::Digest(entry.digest),
            (None, _) => return Err(RemoteError::Name(format!("{} has nothing of that name", dir.display()))),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = entries.iter().filter_map(|entry| entry.name.as_deref()).collect();
                return Err(RemoteError::Usage(format!("{} has several; say which: {}", dir.display(), names.join(", ").escape_debug())));
            }
        };
        self.unpack(&layout, &version, PullCode::All, progress)
    }

    fn unpack(&self, from: &dyn Repository, version: &Version, code: PullCode, progress: &dyn Progress) -> Result<OciPulled, RemoteError> {
        self.tokio.block_on(async {
            let bundle = match oci::open(from, version).await?.content {
                Content::Image(bundle) => bundle,
                Content::Wasm(file) => return wasm(from, file, progress).await.map(OciPulled::Wasm),
            };
            let policy = self.home.trust()?;
            let digest = bundle.manifest.digest;
            if let Some(pulled) = self.have(&digest, &policy, code) {
                return Ok(OciPulled::Image(pulled));
            }
            let envelopes = bundle.statements.iter().filter_map(|bytes| Envelope::parse(bytes).ok()).collect();
            let vouched = vouched_image(&from.shown(), &digest, envelopes, &policy)?;
            let shown = from.shown();
            let what = Landed { manifest: &bundle.manifest_bytes, vouched: &vouched, code };
            self.land(From::Repository(from), &shown, &what, &policy, progress).await.map(OciPulled::Image)
        })
    }
}

async fn wasm(from: &dyn Repository, file: WasmFile, progress: &dyn Progress) -> Result<ImportedWasm, RemoteError> {
    if file.blob.size > MAX_WASM {
        return Err(RemoteError::Usage(format!("the Wasm file has {} bytes, at most {MAX_WASM} are fetched", file.blob.size)));
    }
    progress.begin(1, file.blob.size);
    let mut bytes = Vec::new();
    from.get_blob(&file.blob, &mut bytes, progress).await?;
    Ok(ImportedWasm { bytes, title: file.title })
}

fn format(at: &dyn Repository, subject: &Digest, source: FormatError) -> RemoteError {
    RemoteError::Format { host: at.shown(), subject: subject.to_string(), source }
}
