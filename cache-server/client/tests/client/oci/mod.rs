//! OCI registries that do as they are told, and layout directories.

mod layout;
mod malice;
mod pushes;
mod registry;

use crate::script::{Reply, Seen, Server, hasty, reply};
use preheat_cache_client::oci::{IMAGE_MANIFEST, Packed, Reference, Registry, RegistryConfig};
use preheat_cache_client::transfer::{Target, Upload};
use preheat_cache_client::{Blob, ClientError};
use preheat_image::manifest::{Artefact, Descriptor};
use preheat_image::{Digest, Manifest, media};
use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::sync::{Arc, Mutex};

/// What a registry holds: manifests by tag or digest, blobs by digest.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) manifests: BTreeMap<String, Vec<u8>>,
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, Vec<u8>>,
    /// How many uploads were begun: an id is never given twice, also after one has ended.
    begun: usize,
}

pub(crate) type Shared = Arc<Mutex<Shelf>>;

pub(crate) fn failure(status: u16, code: &str, headers: &[(&str, &str)]) -> Reply {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said by the test","detail":{{}}}}]}}"#);
    reply(status, headers, body.as_bytes())
}

impl Shelf {
    /// Answers as a good registry does. The body of a request that has one is not there at first.
    pub(crate) fn answer(&mut self, seen: &Seen) -> Reply {
        let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
        let Some(rest) = path.strip_prefix("/v2/team/app/") else {
            return if path == "/v2/" { reply(200, &[], b"{}") } else { failure(404, "NAME_UNKNOWN", &[]) };
        };
        let (kind, last) = rest.split_once('/').unwrap_or((rest, ""));
        match (seen.method.as_str(), kind, last) {
            ("GET", "manifests", version) => match self.manifests.get(version) {
                Some(bytes) => {
                    let digest = Digest::of(bytes).to_string();
                    reply(200, &[("Content-Type", IMAGE_MANIFEST), ("Docker-Content-Digest", &digest)], bytes)
                }
                None => failure(404, "MANIFEST_UNKNOWN", &[]),
            },
            ("PUT", "manifests", version) => {
                self.manifests.insert(version.to_owned(), seen.body.clone());
                self.manifests.insert(Digest::of(&seen.body).to_string(), seen.body.clone());
                reply(201, &[("Docker-Content-Digest", &Digest::of(&seen.body).to_string())], b"")
            }
            ("HEAD", "blobs", digest) => match self.blobs.get(digest) {
                Some(bytes) => vec![crate::script::Step::Send(crate::script::head(200, &[], Some(bytes.len())))],
                None => vec![crate::script::Step::Send(crate::script::head(404, &[], Some(0)))],
            },
            ("GET", "blobs", digest) => match self.blobs.get(digest) {
                Some(bytes) => crate::script::serve(seen, bytes, bytes.len()),
                None => failure(404, "BLOB_UNKNOWN", &[]),
            },
            ("POST", "blobs", "uploads/") => {
                let id = format!("u{}", self.begun);
                self.begun += 1;
                self.uploads.insert(id.clone(), Vec::new());
                reply(202, &[("Location", &format!("/v2/team/app/blobs/uploads/{id}?state=a%2Fb"))], b"")
            }
            ("PATCH", "blobs", upload) => {
                let Some(bytes) = self.uploads.get_mut(upload.trim_start_matches("uploads/")) else {
                    return failure(404, "BLOB_UPLOAD_UNKNOWN", &[]);
                };
                let range = format!("{}-{}", bytes.len(), bytes.len() + seen.body.len() - 1);
                if seen.header("content-range") != Some(range.as_str()) {
                    return failure(416, "RANGE_INVALID", &[]);
                }
                bytes.extend_from_slice(&seen.body);
                let range = format!("0-{}", bytes.len() - 1);
                reply(202, &[("Location", &seen.path), ("Range", &range)], b"")
            }
            ("PUT", "blobs", upload) => {
                let Some(mut bytes) = self.uploads.remove(upload.trim_start_matches("uploads/")) else {
                    return failure(404, "BLOB_UPLOAD_UNKNOWN", &[]);
                };
                bytes.extend_from_slice(&seen.body);
                let digest = Digest::of(&bytes);
                let claimed = format!("state=a%2Fb&digest=sha256%3A{}", digest.hex());
                if query != claimed {
                    return failure(400, "DIGEST_INVALID", &[]);
                }
                self.blobs.insert(digest.to_string(), bytes);
                reply(201, &[("Docker-Content-Digest", &digest.to_string())], b"")
            }
            _ => failure(405, "UNSUPPORTED", &[]),
        }
    }
}

/// A script is asked twice about a request with a body, first without it: only the whole request counts.
pub(crate) fn is_whole(seen: &Seen) -> bool {
    seen.header("content-length").is_none_or(|length| length.parse() == Ok(seen.body.len()))
}

/// A good registry, unless `before` answers first.
pub(crate) async fn registry(before: impl Fn(&Seen, usize) -> Option<Reply> + Send + Sync + 'static) -> (Server, Shared) {
    let shelf = Shared::default();
    let shared = Arc::clone(&shelf);
    let server = Server::start(move |seen, nth| match before(seen, nth) {
        Some(reply) => reply,
        None if is_whole(seen) => shared.lock().unwrap().answer(seen),
        None => Vec::new(),
    })
    .await;
    (server, shelf)
}

pub(crate) fn reference(server: &Server) -> Reference {
    format!("oci://{}/team/app:v1", server.address).parse().unwrap()
}

pub(crate) fn client(server: &Server, config: RegistryConfig) -> Registry {
    Registry::new(&reference(server), RegistryConfig { patience: hasty(), ..config }).unwrap()
}

/// An image of these blobs, with the sources of them.
pub(crate) fn image(contents: &[Vec<u8>]) -> (Packed, Vec<Upload>) {
    let artefacts = contents.iter().map(|bytes| Artefact::of(Descriptor::of(media::HEAP, bytes))).collect();
    let manifest = Manifest::new(None, None, artefacts).to_bytes();
    let packed = Packed::image(&manifest, &[b"statement".to_vec()]).unwrap();
    (packed, contents.iter().map(|bytes| upload(bytes)).collect())
}

pub(crate) fn upload(bytes: &[u8]) -> Upload {
    let shared: Arc<[u8]> = bytes.into();
    Upload { blob: crate::script::blob(bytes), source: Arc::new(move || Ok(Box::new(Cursor::new(Arc::clone(&shared))))) }
}

/// Where pulled blobs go in tests.
#[derive(Default)]
pub(crate) struct Memory(pub(crate) Mutex<BTreeMap<Digest, Vec<u8>>>);

impl Target for Memory {
    type Sink = Vec<u8>;

    fn open(&self, _: &Blob) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn publish(&self, blob: &Blob, sink: Vec<u8>) -> io::Result<()> {
        assert_eq!(Digest::of(&sink), blob.digest);
        self.0.lock().unwrap().insert(blob.digest, sink);
        Ok(())
    }
}

pub(crate) fn is_mismatch(error: &ClientError) -> bool {
    matches!(error, ClientError::DigestMismatch { .. })
}
