//! A home in a temporary directory, and tiny images to put into its store.

#![allow(dead_code, reason = "each test file uses another part")]

use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::{Artefact, Descriptor, Variant};
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{CpuLevel, Digest, KeyFields, Manifest, Reference, Statement, chunks, media};
use preheat_loader::store::{Publication, VerifyReport};
use preheat_loader::{Home, LoadOptions, Store, StoreError, TrustPolicy, TrustedFile};
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub(crate) const ENGINE: &str = "wasmtime";
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
pub(crate) const CDS: &str = "application/vnd.openjdk.cds";

pub(crate) struct Env {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) home: Home,
    pub(crate) store: Store,
    pub(crate) key: SecretKey,
}

/// What an image is to be made of.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) label: String,
    pub(crate) namespace: String,
    pub(crate) code: Vec<(CpuLevel, Vec<u8>)>,
    pub(crate) others: Vec<(&'static str, Vec<u8>)>,
    /// Whether the image's statement covers the code objects, as it should.
    pub(crate) covers_code: bool,
}

/// What was made of a recipe.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) image: Digest,
    pub(crate) key: Digest,
    pub(crate) statement: Digest,
    pub(crate) manifest: Manifest,
}

impl Recipe {
    pub(crate) fn new(label: &str) -> Self {
        let code = vec![(CpuLevel::V1, format!("code of {label}").into_bytes())];
        Self { label: label.into(), namespace: "default".into(), code, others: Vec::new(), covers_code: true }
    }

    /// Code large enough to have a chunk list.
    pub(crate) fn large(label: &str) -> Self {
        let bytes = (0..chunks::CHUNKED_FROM + 100_000).map(|i| (i / 3 + label.len()).to_le_bytes()[0]).collect();
        Self { code: vec![(CpuLevel::V1, bytes)], ..Self::new(label) }
    }

    pub(crate) fn publish(&self, store: &Store, key: &SecretKey) -> Result<Made, StoreError> {
        let mut publication = store.publish()?;
        let made = self.put(&mut publication, key)?;
        publication.finish()?;
        Ok(made)
    }

    pub(crate) fn put(&self, publication: &mut Publication<'_>, key: &SecretKey) -> Result<Made, StoreError> {
        let mut artefacts = Vec::new();
        for (cpu, bytes) in &self.code {
            let mut artefact = put_large(publication, media::CODE_WASMTIME, bytes)?;
            let fields = fields(Kind::CodeObject, &self.label).with(field::CPU, cpu);
            let variant = Variant { engine: ENGINE.into(), target: TARGET.into(), cpu: *cpu, key: fields.key() };
            let outputs = [Some(artefact.descriptor()), artefact.chunks.clone()].into_iter().flatten().collect();
            let statement = Statement::new(Kind::CodeObject, &self.namespace, fields, outputs).sign(key);
            publication.add_statement(&statement, &key.public())?;
            artefact.variant = Some(variant);
            artefacts.push(artefact);
        }
        for (media_type, bytes) in &self.others {
            artefacts.push(put_large(publication, media_type, bytes)?);
        }
        let mut manifest = Manifest::new(Some(Descriptor::of(media::WASM, self.label.as_bytes())), None, artefacts);
        manifest.annotations.insert("label".into(), self.label.clone());
        let blob = publication.put(media::MANIFEST, &manifest.to_bytes())?;
        let image = blob.digest;
        let code = manifest.code().filter(|_| self.covers_code).map(|(artefact, _)| artefact.descriptor());
        let statement =
            Statement::new(Kind::Image, &self.namespace, fields(Kind::Image, &self.label), std::iter::once(blob).chain(code).collect());
        let (key_of_image, envelope) = (statement.key, statement.sign(key));
        publication.add_statement(&envelope, &key.public())?;
        Ok(Made { image, key: key_of_image, statement: Digest::of(&envelope.to_bytes()), manifest })
    }
}

impl Made {
    /// The digest of the first code object.
    pub(crate) fn code(&self) -> Digest {
        self.manifest.artefacts[0].digest
    }
}

pub(crate) fn fields(kind: Kind, label: &str) -> KeyFields {
    KeyFields::new().with(field::KIND, kind.name()).with(field::SOURCE, Digest::of(label.as_bytes())).with(field::BUILD_ID, "build-1")
}

fn put_large(publication: &mut Publication<'_>, media_type: &str, bytes: &[u8]) -> Result<Artefact, StoreError> {
    let mut artefact = Artefact::of(publication.put(media_type, bytes)?);
    if bytes.len() >= chunks::CHUNKED_FROM {
        artefact.chunks = Some(publication.put(media::CHUNKS, &chunks::encode(bytes))?);
    }
    Ok(artefact)
}

impl Env {
    pub(crate) fn new() -> Self {
        // Every blob is synced; in memory that costs nothing.
        let shared_memory = Path::new("/dev/shm");
        let dir = if shared_memory.is_dir() { tempfile::tempdir_in(shared_memory) } else { tempfile::tempdir() };
        Self::at(dir.unwrap_or_else(|_| tempfile::tempdir().unwrap()))
    }

    pub(crate) fn at(dir: tempfile::TempDir) -> Self {
        let home = Home::at(dir.path());
        let key = home.builder_key().unwrap();
        Self { store: home.store().unwrap(), key, home, dir }
    }

    pub(crate) fn policy(&self) -> TrustPolicy {
        self.home.trust().unwrap()
    }

    pub(crate) fn publish(&self, recipe: &Recipe) -> Made {
        recipe.publish(&self.store, &self.key).unwrap()
    }

    pub(crate) fn image(&self, label: &str) -> Made {
        self.publish(&Recipe::new(label))
    }

    /// Loads an image and reads its best code for the highest CPU level.
    pub(crate) fn run(&self, image: &Digest) -> Result<Vec<u8>, StoreError> {
        run(&self.store, &self.policy(), image, LoadOptions::default())
    }

    pub(crate) fn verify(&self) -> VerifyReport {
        self.store.verify(&self.policy(), false, &mut |_, _| {}).unwrap()
    }

    pub(crate) fn repair(&self) -> VerifyReport {
        self.store.verify(&self.policy(), true, &mut |_, _| {}).unwrap()
    }

    /// The file of `digest` in one of the directories that are laid out like `blobs/sha256`.
    pub(crate) fn record_path(&self, kind: &str, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.store.root().join(kind).join(&hex[..2]).join(format!("{}.json", &hex[2..]))
    }

    pub(crate) fn image_digests(&self) -> Vec<Digest> {
        self.store.images().unwrap().into_iter().map(|row| row.digest).collect()
    }
}

pub(crate) fn run(store: &Store, policy: &TrustPolicy, image: &Digest, options: LoadOptions) -> Result<Vec<u8>, StoreError> {
    let code = store.load(image, policy, options)?.code(ENGINE, TARGET, CpuLevel::V4)?;
    Ok(contents(code.file()))
}

pub(crate) fn contents(file: &TrustedFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.file().read_to_end(&mut bytes).unwrap();
    bytes
}

pub(crate) fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// Changes a file of the store behind its back, in place.
pub(crate) fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    let mode = fs::metadata(path).unwrap().permissions();
    fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, mode).unwrap();
}

pub(crate) fn flip(path: &Path, at: usize) {
    change(path, |bytes| bytes[at] ^= 4);
}

/// All files below `dir`, sorted.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// An error is good if people can read it: one line, not empty, no `Debug` form.
#[track_caller]
pub(crate) fn assert_clear(error: &StoreError) {
    let text = error.to_string();
    assert!(text.len() > 10 && !text.contains('\n') && !text.contains("{ ") && !text.contains("Err("), "{text}");
}

pub(crate) fn envelope(kind: Kind, namespace: &str, fields: KeyFields, outputs: Vec<Descriptor>, key: &SecretKey) -> Envelope {
    Statement::new(kind, namespace, fields, outputs).sign(key)
}
