use crate::script::{Server, Step, blob, content, error, reply, serve};
use preheat_cache_client::transfer::{Moved, Target, Upload, pull_blobs, push_blobs};
use preheat_cache_client::{Blob, BlobSink, Cache, Caches, ClientError, Progress};
use preheat_image::Digest;
use preheat_image::api::{FindMissing, Missing};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Memory {
    published: Mutex<BTreeMap<Digest, Vec<u8>>>,
    open: Arc<AtomicUsize>,
    most_open: AtomicUsize,
    full: bool,
}

struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BlobSink for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

impl Target for Memory {
    type Sink = Counted;

    fn open(&self, _: &Blob) -> io::Result<Counted> {
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        Ok(Counted(Vec::new(), Arc::clone(&self.open)))
    }

    fn publish(&self, blob: &Blob, mut sink: Counted) -> io::Result<()> {
        if self.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        assert_eq!(Digest::of(&sink.0), blob.digest);
        self.published.lock().unwrap().insert(blob.digest, std::mem::take(&mut sink.0));
        Ok(())
    }
}

/// Serves these contents; the one with the digest `bad` with a wrong byte.
async fn server(contents: &[Vec<u8>], bad: Option<Digest>) -> Server {
    let contents: BTreeMap<String, Vec<u8>> = contents
        .iter()
        .map(|content| {
            let digest = Digest::of(content);
            let mut content = content.clone();
            if Some(digest) == bad {
                content[0] ^= 1;
            }
            (format!("/ns/cas/{}", digest.hex()), content)
        })
        .collect();
    Server::start(move |seen, _| match contents.get(&seen.path) {
        Some(content) if Some(Digest::of(content)) == bad => reply(200, &[], content),
        Some(content) => serve(seen, content, usize::MAX),
        None => error(404, "no-blob"),
    })
    .await
}

fn some(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|nth| content(1_000 + nth)).collect()
}

#[derive(Default)]
struct Sums {
    begun: Mutex<Option<(usize, u64)>>,
    finished: AtomicUsize,
}

impl Progress for Sums {
    fn begin(&self, blobs: usize, bytes: u64) {
        *self.begun.lock().unwrap() = Some((blobs, bytes));
    }

    fn finished(&self, _: &Blob) {
        self.finished.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn blobs_are_pulled_side_by_side_but_not_too_many() {
    let contents = some(40);
    let server = server(&contents, None).await;
    // Each twice, and fetched once.
    let list: Vec<Blob> = contents.iter().chain(&contents).map(|content| blob(content)).collect();
    let (target, sums) = (Arc::new(Memory::default()), Sums::default());
    let moved = pull_blobs(&Caches::new(vec![server.cache()]), "ns", &list, 4, &target, &sums).await.unwrap();
    let bytes = contents.iter().map(|content| content.len() as u64).sum();
    assert_eq!(moved, Moved { blobs: 40, bytes, there: 0 });
    assert_eq!(*sums.begun.lock().unwrap(), Some((40, bytes)));
    assert_eq!(sums.finished.load(Ordering::SeqCst), 40);
    assert!(
        target.published.lock().unwrap().values().eq(BTreeMap::from_iter(contents.iter().map(|c| (Digest::of(c), c))).values().copied())
    );
    assert_eq!(server.seen().len(), 40);
    assert!(target.most_open.load(Ordering::SeqCst) <= 4);
    assert!(target.most_open.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn what_does_not_verify_is_not_published() {
    let contents = some(10);
    let bad = Digest::of(&contents[5]);
    let server = server(&contents, Some(bad)).await;
    let list: Vec<Blob> = contents.iter().map(|content| blob(content)).collect();
    let target = Arc::new(Memory::default());
    let error = pull_blobs(&Caches::new(vec![server.cache()]), "ns", &list, 1, &target, &()).await.unwrap_err();
    assert!(matches!(error, ClientError::DigestMismatch { wanted, .. } if wanted == bad), "{error}");
    let published = target.published.lock().unwrap();
    assert!(!published.contains_key(&bad));
    assert_eq!(published.len(), 4, "the larger ones came before it, nothing came after it");
}

#[tokio::test]
async fn a_store_that_keeps_nothing_ends_it() {
    let contents = some(3);
    let server = server(&contents, None).await;
    let target = Arc::new(Memory { full: true, ..Memory::default() });
    let list: Vec<Blob> = contents.iter().map(|content| blob(content)).collect();
    let error = pull_blobs(&Caches::new(vec![server.cache()]), "ns", &list, 1, &target, &()).await.unwrap_err();
    assert!(matches!(error, ClientError::Local { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn dropping_it_stops_everything() {
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    let contents = some(10);
    let list: Vec<Blob> = contents.iter().map(|content| blob(content)).collect();
    let target = Arc::new(Memory::default());
    let caches = Caches::new(vec![server.cache()]);
    {
        let pulling = pull_blobs(&caches, "ns", &list, 4, &target, &());
        tokio::pin!(pulling);
        while server.seen().len() < 4 {
            assert!(tokio::time::timeout(std::time::Duration::from_millis(10), &mut pulling).await.is_err());
        }
        assert_eq!(target.open.load(Ordering::SeqCst), 4);
    }
    assert_eq!(target.open.load(Ordering::SeqCst), 0);
    assert!(target.published.lock().unwrap().is_empty());
}

fn uploads(contents: &[Vec<u8>], opened: &Arc<AtomicUsize>) -> Vec<Upload> {
    let one = |content: &Vec<u8>| {
        let (bytes, opened) = (content.clone(), Arc::clone(opened));
        let source: preheat_cache_client::Source = Arc::new(move || {
            opened.fetch_add(1, Ordering::SeqCst);
            Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
        });
        Upload { blob: blob(content), source }
    };
    contents.iter().map(one).collect()
}

async fn push(cache: &Cache, uploads: &[Upload]) -> Result<Moved, ClientError> {
    push_blobs(cache, "ns", uploads, 4, &()).await
}

#[tokio::test]
async fn only_what_is_missing_is_pushed() {
    let contents = some(20);
    let there: Vec<Digest> = contents[..15].iter().map(|content| Digest::of(content)).collect();
    let server = Server::start(move |seen, _| {
        if seen.method == "PUT" {
            return reply(201, &[], b"");
        }
        let Ok(FindMissing { digests }) = serde_json::from_slice(&seen.body) else { return error(400, "bad") };
        let missing = digests.into_iter().filter(|digest| !there.contains(digest)).collect();
        reply(200, &[], &serde_json::to_vec(&Missing { missing }).unwrap())
    })
    .await;
    let opened = Arc::new(AtomicUsize::new(0));
    // One that is missing twice is brought once.
    let mut all = uploads(&contents, &opened);
    all.push(all[19].clone());
    let moved = push(&server.cache(), &all).await.unwrap();
    let bytes = contents[15..].iter().map(|content| content.len() as u64).sum();
    assert_eq!(moved, Moved { blobs: 5, bytes, there: 15 });
    assert_eq!(opened.load(Ordering::SeqCst), 5);
    let seen = server.seen();
    let put: BTreeMap<&str, &[u8]> = seen[1..].iter().map(|seen| (seen.path.as_str(), seen.body.as_slice())).collect();
    assert_eq!(put.len(), 5);
    for content in &contents[15..] {
        assert!(put[format!("/ns/cas/{}", Digest::of(content).hex()).as_str()] == content.as_slice());
    }
}

#[tokio::test]
async fn a_full_service_ends_a_push() {
    let server = Server::start(|seen, _| {
        if seen.method == "PUT" {
            return error(507, "storage-full");
        }
        let FindMissing { digests } = serde_json::from_slice(&seen.body).unwrap_or_default();
        reply(200, &[], &serde_json::to_vec(&Missing { missing: digests }).unwrap())
    })
    .await;
    let all = uploads(&some(10), &Arc::default());
    let error = push_blobs(&server.cache(), "ns", &all, 1, &()).await.unwrap_err();
    assert!(matches!(error, ClientError::StorageFull { .. }), "{error}");
    assert_eq!(server.seen().len(), 2);
}
