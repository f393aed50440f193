//! Bringing an image to a cache: its blobs, the statements about it and its code, and last its name.

use super::location::Location;
use super::{Remote, RemoteError};
use preheat_cache_client::transfer::{Upload, push_blobs};
use preheat_cache_client::{Blob, Cache, Progress};
use preheat_image::keys::Signer;
use preheat_image::record::{Record, Signed};
use preheat_image::statement::{Envelope, MAX_SIZE as MAX_STATEMENT};
use preheat_image::{Digest, Manifest};
use preheat_loader::{Store, StoreError};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Transfers at a time.
const PARALLEL: usize = 8;

/// What to bring where.
pub struct Push<'a> {
    /// The image.
    pub image: Digest,
    /// The namespace, and the name that the image gets, if any.
    pub to: Location,
    /// Who signs the names of the namespace; without, the name is not moved.
    pub namer: Option<&'a dyn Signer>,
    /// How long the snapshot of names counts, in seconds.
    pub names_last: u64,
}

/// What was brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Blobs that the cache lacked.
    pub blobs: usize,
    /// Bytes in those.
    pub bytes: u64,
    /// Blobs that it had.
    pub known: usize,
    /// Statements that were brought.
    pub statements: usize,
    /// The number of the snapshot that has the name, if it was moved.
    pub names: Option<u64>,
}

/// An image and all that goes with it, as the local store has it.
pub(super) struct Closure {
    pub(super) manifest: Vec<u8>,
    blobs: BTreeMap<Digest, u64>,
    /// Those about code first, so that whoever finds the image finds its code.
    pub(super) statements: Vec<Envelope>,
}

impl Closure {
    /// What the store has of an image; of the statements those for `namespace`, or all.
    pub(super) fn gather(store: &Store, image: &Digest, namespace: Option<&str>) -> Result<Self, RemoteError> {
        let bytes = store.read_blob(image, preheat_image::manifest::MAX_SIZE)?;
        let wrong = |source| StoreError::Format { path: store.blob_path(image), source };
        let manifest = Manifest::parse(&bytes).map_err(wrong)?;
        let mut blobs: BTreeMap<Digest, u64> = manifest.blobs().map(|blob| (blob.digest, blob.size)).collect();
        blobs.insert(*image, bytes.len() as u64);
        let mut statements = Vec::new();
        let mut seen = BTreeSet::new();
        let code = manifest.artefacts.iter().filter(|artefact| artefact.is_code()).map(|artefact| artefact.digest);
        for subject in code.chain([*image]) {
            let record = store.entry(&subject)?.unwrap_or_else(|| Record::new(subject));
            let mut found = false;
            for signed in record.statements.iter().filter(|signed| namespace.is_none_or(|wanted| signed.namespace == wanted)) {
                found = true;
                if seen.insert(signed.statement) {
                    let bytes = store.read_blob(&signed.statement, MAX_STATEMENT)?;
                    let parsed = Envelope::parse(&bytes);
                    statements.push(parsed.map_err(|source| StoreError::Statement { subject: signed.statement, source })?);
                    blobs.extend(signed.outputs.iter().map(|output| (output.digest, output.size)));
                }
            }
            if let Some(namespace) = namespace.filter(|_| subject == *image && !found) {
                return Err(RemoteError::Usage(other_namespace(image, namespace, &record.statements)));
            }
        }
        Ok(Self { manifest: bytes, blobs, statements })
    }
}

impl Closure {
    /// The blobs, to be read from the store.
    pub(super) fn uploads(&self, store: &Store) -> Vec<Upload> {
        let upload = |(digest, size): (&Digest, &u64)| {
            let path = store.blob_path(digest);
            let digest = *digest;
            let open = move || match std::fs::File::open(&path) {
                Ok(file) => Ok(Box::new(file) as Box<dyn std::io::Read + Send>),
                // Only asked for where the other side lacks it too.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let what = format!("{digest} was left out when the image was pulled; get it with `preheat pull --all-cpus`");
                    Err(std::io::Error::new(error.kind(), what))
                }
                Err(error) => Err(error),
            };
            let source = Arc::new(open);
            Upload { blob: Blob { digest, size: *size }, source }
        };
        self.blobs.iter().map(upload).collect()
    }
}

fn other_namespace(image: &Digest, namespace: &str, statements: &[Signed]) -> String {
    let built_for: BTreeSet<&str> = statements.iter().map(|signed| signed.namespace.as_str()).collect();
    let built_for = built_for.into_iter().collect::<Vec<_>>().join(", ");
    format!(
        "{image} was built for namespace `{built_for}`, not for `{namespace}`; build it for that one: `preheat build --namespace {namespace}`"
    )
}

impl Remote {
    /// Brings an image to a cache: only blobs that it lacks, then the statements, then the name. What this store lacks, since it was left out
    /// when the image was pulled, has to be there.
    ///
    /// # Errors
    /// When a blob of the image is on neither side, or the image was not built for that namespace, or the cache does not take it.
    pub fn push(&self, push: &Push<'_>, progress: &dyn Progress) -> Result<Pushed, RemoteError> {
        let closure = Closure::gather(&self.store, &push.image, Some(&push.to.namespace))?;
        let cache = self.cache(&push.to.host)?;
        self.tokio.block_on(async {
            let mut pushed = self.push_closure(&cache, &push.to.namespace, &closure, progress).await?;
            if let (Some(name), Some(namer)) = (&push.to.name, push.namer) {
                let change = super::NameChange::Push { name: name.clone(), to: push.image };
                pushed.names = Some(self.change_names(&cache, &push.to, &change, namer, push.names_last).await?.number);
            }
            Ok(pushed)
        })
    }

    async fn push_closure(
        &self,
        cache: &Cache,
        namespace: &str,
        closure: &Closure,
        progress: &dyn Progress,
    ) -> Result<Pushed, RemoteError> {
        let uploads = closure.uploads(&self.store);
        let moved = push_blobs(cache, namespace, &uploads, PARALLEL, progress).await?;
        for envelope in &closure.statements {
            cache.put_entry(namespace, envelope).await?;
        }
        Ok(Pushed { blobs: moved.blobs, bytes: moved.bytes, known: moved.there, statements: closure.statements.len(), names: None })
    }
}
