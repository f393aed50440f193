use super::bucket::{Bucket, BucketConfig, Timing};
use super::bucket_blobs::BucketBlobs;
use super::bucket_meta::BucketMeta;
use super::tier::Tier;
use super::*;
use futures_util::{StreamExt as _, TryStreamExt as _, future};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use preheat_image::chunks;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// A store in memory that can be made to fail.
#[derive(Debug, Default)]
struct Faulty {
    inner: InMemory,
    requests: AtomicU64,
    gets: AtomicU64,
    /// Every request with a number that this divides fails; 0 for none.
    every: AtomicU64,
    /// A request that fails is carried out all the same: only its answer is lost.
    after: AtomicBool,
    /// Requests do not end.
    hangs: AtomicBool,
    /// Each request takes this long, in milliseconds.
    slow: AtomicU64,
    /// Conditions are not looked at.
    careless: AtomicBool,
}

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

fn broken() -> object_store::Error {
    object_store::Error::Generic { store: "faulty", source: "503 SlowDown".into() }
}

impl Faulty {
    async fn pass<T>(&self, request: impl Future<Output = object_store::Result<T>>) -> object_store::Result<T> {
        if self.hangs.load(SeqCst) {
            future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_millis(self.slow.load(SeqCst))).await;
        let number = self.requests.fetch_add(1, SeqCst) + 1;
        let every = self.every.load(SeqCst);
        if every == 0 || !number.is_multiple_of(every) {
            return request.await;
        }
        if self.after.load(SeqCst) {
            let _ = request.await;
        }
        Err(broken())
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, path: &ObjectPath, payload: PutPayload, mut options: PutOptions) -> object_store::Result<PutResult> {
        if self.careless.load(SeqCst) {
            options.mode = PutMode::Overwrite;
        }
        self.pass(self.inner.put_opts(path, payload, options)).await
    }

    async fn put_multipart_opts(&self, path: &ObjectPath, options: PutMultipartOptions) -> object_store::Result<Box<dyn MultipartUpload>> {
        // The real clients repeat these themselves.
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> object_store::Result<GetResult> {
        if !options.head {
            self.gets.fetch_add(1, SeqCst);
        }
        self.pass(self.inner.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<ObjectPath>>,
    ) -> BoxStream<'static, object_store::Result<ObjectPath>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

struct World {
    store: Arc<Faulty>,
    directory: tempfile::TempDir,
}

fn timing() -> Timing {
    let limit = Duration::from_millis(500);
    Timing { request: limit, transfer: limit * 4, attempts: 4, pause: Duration::from_millis(1) }
}

impl World {
    fn new() -> Self {
        Self { store: Arc::default(), directory: tempfile::tempdir().unwrap() }
    }

    fn bucket(&self) -> Bucket {
        Bucket::over(self.store.clone(), timing())
    }

    fn meta(&self) -> BucketMeta {
        self.bucket().meta()
    }

    /// A server's blobs with a tier of its own.
    fn blobs(&self, name: &str, tier_bytes: u64) -> BucketBlobs {
        let tier = Tier::open(&self.directory.path().join(name), tier_bytes, 1000).unwrap();
        BucketBlobs::new(self.bucket(), tier, &BucketConfig::default())
    }
}

fn team() -> Namespace {
    Namespace::new("team").unwrap()
}

fn content(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|at| ((at / 251 + at) % 256).to_le_bytes()[0] ^ seed).collect()
}

async fn push(blobs: &BucketBlobs, bytes: &[u8]) -> Result<Committed, StorageError> {
    let mut upload = blobs.begin(&team()).await?;
    for piece in bytes.chunks(1 << 20) {
        upload.write(Bytes::copy_from_slice(piece)).await?;
    }
    let list = (bytes.len() > chunks::CHUNK_SIZE).then(|| Bytes::from(chunks::encode(bytes)));
    upload.commit(&Digest::of(bytes), list).await
}

async fn pull(blobs: &BucketBlobs, digest: &Digest) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(blob) = blobs.open(&team(), digest).await? else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(blob.size).unwrap()];
    blob.file.read_exact_at(&mut bytes, 0).unwrap();
    match &blob.chunks {
        Some(list) => assert!(chunks::ChunkList::parse(list).unwrap().damaged(&bytes).is_empty()),
        None => assert!(bytes.len() <= chunks::CHUNK_SIZE),
    }
    Ok(Some(bytes))
}

#[tokio::test]
async fn what_one_server_takes_another_serves() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    for size in [0, 1, chunks::CHUNK_SIZE, chunks::CHUNK_SIZE + 1, 9 << 20, (33 << 20) + 5] {
        let bytes = content(size, 1);
        let digest = Digest::of(&bytes);
        assert_eq!(two.size(&team(), &digest).await.unwrap(), None);
        assert!(pull(&two, &digest).await.unwrap().is_none());
        assert!(push(&one, &bytes).await.unwrap().created);
        assert!(!push(&one, &bytes).await.unwrap().created);
        assert_eq!(two.size(&team(), &digest).await.unwrap(), Some(size as u64));
        assert!(pull(&two, &digest).await.unwrap().unwrap() == bytes);
        let other = Namespace::new("other").unwrap();
        assert!(two.open(&other, &digest).await.unwrap().is_none(), "namespaces share nothing");
    }
    let mut listed: Vec<u64> = two.list(&team()).map_ok(|entry| entry.size).try_collect().await.unwrap();
    listed.sort_unstable();
    assert_eq!(listed.len(), 6);
    assert_eq!(listed[5], (33 << 20) + 5);
    let digest = Digest::of(&content(1, 1));
    assert!(one.delete(&team(), &digest).await.unwrap());
    assert!(!one.delete(&team(), &digest).await.unwrap());
    assert!(pull(&one, &digest).await.unwrap().is_none());
}

#[tokio::test]
async fn what_another_server_removed_is_not_served_from_the_tier() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    let bytes = content(1000, 1);
    let digest = Digest::of(&bytes);
    push(&one, &bytes).await.unwrap();
    assert!(pull(&two, &digest).await.unwrap().is_some());
    one.delete(&team(), &digest).await.unwrap();
    assert_eq!(two.size(&team(), &digest).await.unwrap(), None);
    assert!(pull(&two, &digest).await.unwrap().is_none());
    push(&one, &bytes).await.unwrap();
    assert!(pull(&two, &digest).await.unwrap().is_some());
    one.delete(&team(), &digest).await.unwrap();
    // Nobody asked for its size: a collection is what makes it doubtful.
    two.doubt();
    assert!(pull(&two, &digest).await.unwrap().is_none());
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_nothing() {
    let world = World::new();
    let blobs = world.blobs("one", 1 << 30);
    let mut upload = blobs.begin(&team()).await.unwrap();
    upload.write(Bytes::from_static(b"half")).await.unwrap();
    drop(upload);
    assert_eq!(world.store.inner.list(None).count().await, 0);
    assert_eq!(std::fs::read_dir(world.directory.path().join("one/tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_hundred_readers_of_a_missing_blob_get_it_once() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    let bytes = content(100_000, 2);
    let digest = Digest::of(&bytes);
    push(&one, &bytes).await.unwrap();
    let readers = (0..100).map(|_| {
        let two = two.clone();
        tokio::spawn(async move { pull(&two, &digest).await.unwrap().unwrap() })
    });
    for reader in future::join_all(readers).await {
        assert!(reader.unwrap() == bytes);
    }
    assert_eq!((two.fetched(), world.store.gets.load(SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_stop_the_others() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    let bytes = content(100_000, 2);
    let digest = Digest::of(&bytes);
    push(&one, &bytes).await.unwrap();
    let namespace = team();
    let first = two.open(&namespace, &digest);
    let second = pull(&two, &digest);
    // The first has begun when it is dropped.
    let mut first = Box::pin(first);
    let _ = tokio::time::timeout(Duration::from_millis(5), &mut first).await;
    drop(first);
    assert!(second.await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn the_tier_keeps_to_its_size_and_can_be_deleted_at_any_time() {
    let world = World::new();
    let blobs = world.blobs("one", 1_000_000);
    let mut digests = Vec::new();
    for seed in 0..15 {
        let bytes = content(100_000, seed);
        push(&blobs, &bytes).await.unwrap();
        digests.push(Digest::of(&bytes));
    }
    let on_disk = || {
        let mut bytes = 0;
        for folder in std::fs::read_dir(world.directory.path().join("one")).unwrap() {
            let files = std::fs::read_dir(folder.unwrap().path()).unwrap();
            bytes += files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
        }
        bytes
    };
    assert!((800_000..=1_010_000).contains(&on_disk()), "{}", on_disk());
    for digest in &digests {
        assert!(pull(&blobs, digest).await.unwrap().is_some());
    }
    std::fs::remove_dir_all(world.directory.path().join("one")).unwrap();
    for digest in &digests {
        assert!(pull(&blobs, digest).await.unwrap().is_some());
    }
    push(&blobs, b"and writing goes on").await.unwrap();
    // Larger than the whole tier: served all the same.
    let large = content(3_000_000, 3);
    push(&blobs, &large).await.unwrap();
    assert!(pull(&blobs, &Digest::of(&large)).await.unwrap().unwrap() == large);
    assert!((500_000..=1_010_000).contains(&on_disk()), "it does not drive out all the others: {}", on_disk());
    // What an earlier run left counts.
    drop(blobs);
    let tier = Tier::open(&world.directory.path().join("one"), 300_000, 1000).unwrap();
    while tier.bytes() == 0 || tier.bytes() > 300_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn damage_in_the_tier_is_healed_and_damage_in_the_bucket_is_put_aside() {
    let world = World::new();
    let blobs = world.blobs("one", 1 << 30);
    let bytes = content(100_000, 4);
    let digest = Digest::of(&bytes);
    push(&blobs, &bytes).await.unwrap();
    // As the reading side does when a chunk is not what it should be.
    blobs.quarantine(&team(), &digest, "a flipped bit").await.unwrap();
    assert!(pull(&blobs, &digest).await.unwrap().unwrap() == bytes);
    let hex = digest.hex();
    let object = ObjectPath::from(format!("prefix/ns/team/cas/{}/{}", &hex[..2], &hex[2..]));
    let mut damaged = bytes.clone();
    damaged[70_000] ^= 1;
    world.store.inner.put(&object, damaged.clone().into()).await.unwrap();
    let fresh = world.blobs("two", 1 << 30);
    assert!(pull(&fresh, &digest).await.unwrap().is_none(), "never served");
    assert_eq!(fresh.size(&team(), &digest).await.unwrap(), None, "a miss from then on");
    let aside = world.store.inner.get(&ObjectPath::from(format!("prefix/quarantine/team/{hex}"))).await.unwrap();
    assert_eq!(aside.bytes().await.unwrap(), damaged);
    assert!(push(&fresh, &bytes).await.unwrap().created, "and it can be brought again");
}

#[tokio::test]
async fn a_truncated_tier_file_is_a_miss_of_the_tier() {
    let world = World::new();
    let blobs = world.blobs("one", 1 << 30);
    let bytes = content(200_000, 5);
    let digest = Digest::of(&bytes);
    push(&blobs, &bytes).await.unwrap();
    for folder in std::fs::read_dir(world.directory.path().join("one")).unwrap() {
        for file in std::fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none() {
                std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100_000).unwrap();
            }
        }
    }
    assert!(pull(&blobs, &digest).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn with_every_third_request_failing_everything_works() {
    for after in [false, true] {
        let world = World::new();
        world.store.every.store(3, SeqCst);
        world.store.after.store(after, SeqCst);
        world.bucket().check_conditional_writes().await.unwrap();
        let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
        for seed in 0..20 {
            let bytes = content(50_000 + usize::from(seed), seed);
            push(&one, &bytes).await.unwrap();
            assert!(pull(&two, &Digest::of(&bytes)).await.unwrap().unwrap() == bytes);
        }
        let bytes = content(20 << 20, 9);
        push(&one, &bytes).await.unwrap();
        assert!(pull(&two, &Digest::of(&bytes)).await.unwrap().unwrap() == bytes);
        // A lost answer is no lost race.
        let meta = world.meta();
        let mut version = meta.put("names/team/current", "0".into(), Expect::Absent).await.unwrap();
        for number in 1..20 {
            version = meta.put("names/team/current", number.to_string().into(), Expect::Version(version)).await.unwrap();
        }
        assert_eq!(meta.get("names/team/current").await.unwrap().unwrap().0, "19");
    }
}

#[tokio::test]
async fn a_bucket_that_is_away_is_never_a_miss() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    let bytes = content(1000, 1);
    let digest = Digest::of(&bytes);
    push(&one, &bytes).await.unwrap();
    for hangs in [false, true] {
        world.store.hangs.store(hangs, SeqCst);
        world.store.every.store(1, SeqCst);
        assert!(matches!(two.size(&team(), &digest).await, Err(StorageError::Unavailable(_))));
        assert!(matches!(two.sizes(&team(), &[digest]).await, Err(StorageError::Unavailable(_))));
        assert!(matches!(two.open(&team(), &digest).await, Err(StorageError::Unavailable(_))));
        assert!(matches!(push(&two, &content(500, 2)).await, Err(StorageError::Unavailable(_))));
        assert!(matches!(two.ready().await, Err(StorageError::Unavailable(_))));
        assert!(matches!(world.meta().get("a").await, Err(StorageError::Unavailable(_))));
        assert!(matches!(world.meta().put("a", "1".into(), Expect::Any).await, Err(PutError::Storage(StorageError::Unavailable(_)))));
        assert!(pull(&one, &digest).await.unwrap().unwrap() == bytes, "the tier goes on alone");
        assert!(world.bucket().check_conditional_writes().await.is_err());
    }
    world.store.hangs.store(false, SeqCst);
    world.store.every.store(0, SeqCst);
    assert!(pull(&two, &digest).await.unwrap().unwrap() == bytes);
    two.ready().await.unwrap();
}

#[tokio::test]
async fn a_slow_bucket_is_only_slow() {
    let world = World::new();
    let (one, two) = (world.blobs("one", 1 << 30), world.blobs("two", 1 << 30));
    // Each request takes a good part of its time; then some fail on top of that.
    world.store.slow.store(150, SeqCst);
    for every in [0, 3] {
        world.store.every.store(every, SeqCst);
        let bytes = content(200_000, u8::try_from(every).unwrap());
        let digest = Digest::of(&bytes);
        push(&one, &bytes).await.unwrap();
        let readers = (0..20).map(async |_| pull(&two, &digest).await.unwrap().unwrap() == bytes);
        assert!(future::join_all(readers).await.into_iter().all(|same| same));
        let meta = world.meta();
        let version = meta.put("names/team/current", digest.to_string().into(), Expect::Any).await.unwrap();
        assert_eq!(meta.get("names/team/current").await.unwrap().unwrap().1, version);
    }
    // Beyond the time of a request it counts as away.
    world.store.slow.store(700, SeqCst);
    assert!(matches!(two.size(&team(), &Digest::of(b"another")).await, Err(StorageError::Unavailable(_))));
}

#[tokio::test]
async fn records_change_only_under_their_conditions() {
    let world = World::new();
    let meta = world.meta();
    let first = meta.put("names/team/current", "1".into(), Expect::Absent).await.unwrap();
    assert!(matches!(meta.put("names/team/current", "x".into(), Expect::Absent).await, Err(PutError::Conflict)));
    let second = meta.put("names/team/current", "2".into(), Expect::Version(first.clone())).await.unwrap();
    assert!(matches!(meta.put("names/team/current", "x".into(), Expect::Version(first.clone())).await, Err(PutError::Conflict)));
    assert!(matches!(meta.put("names/team/none", "x".into(), Expect::Version(first.clone())).await, Err(PutError::Conflict)));
    assert_eq!(meta.get("names/team/current").await.unwrap(), Some(("2".into(), second.clone())));
    meta.put("names/team2/current", "3".into(), Expect::Any).await.unwrap();
    meta.put("ns/team", "4".into(), Expect::Any).await.unwrap();
    assert_eq!(meta.list("names/team").await.unwrap(), ["names/team/current", "names/team2/current"]);
    assert_eq!(meta.list("names/team/").await.unwrap(), ["names/team/current"]);
    assert_eq!(meta.list("n").await.unwrap().len(), 3);
    assert_eq!(meta.list("nothing/").await.unwrap(), [] as [&str; 0]);
    // Removed at a version: what others wrote meanwhile stays, and it counts as nothing afterwards.
    assert!(matches!(meta.delete_version("names/team/current", &first).await, Err(PutError::Conflict)));
    meta.delete_version("names/team/current", &second).await.unwrap();
    assert_eq!(meta.get("names/team/current").await.unwrap(), None);
    assert_eq!(meta.list("names/team/").await.unwrap(), [] as [&str; 0]);
    meta.put("names/team/current", "5".into(), Expect::Absent).await.unwrap();
    assert!(meta.delete("names/team/current").await.unwrap());
    assert!(!meta.delete("names/team/current").await.unwrap());
}

#[tokio::test]
async fn of_many_who_move_one_record_one_wins_each_time() {
    let world = World::new();
    world.store.every.store(7, SeqCst);
    let metas: Vec<BucketMeta> = (0..8).map(|_| world.meta()).collect();
    let mut version = metas[0].put("names/team/current", "start".into(), Expect::Absent).await.unwrap();
    for round in 0..20 {
        let moves = metas
            .iter()
            .enumerate()
            .map(|(number, meta)| meta.put("names/team/current", format!("{round} by {number}").into(), Expect::Version(version.clone())));
        let won: Vec<Version> = future::join_all(moves).await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1);
        version = won[0].clone();
        assert_eq!(metas[0].get("names/team/current").await.unwrap().unwrap().1, version);
    }
}

#[tokio::test]
async fn a_store_that_does_not_look_at_conditions_is_refused() {
    let world = World::new();
    world.bucket().check_conditional_writes().await.unwrap();
    assert_eq!(world.store.inner.list(None).count().await, 0, "nothing is left");
    world.store.careless.store(true, SeqCst);
    let error = world.bucket().check_conditional_writes().await.unwrap_err().to_string();
    assert!(error.contains("If-None-Match"), "{error}");
}

#[test]
fn what_is_no_bucket_is_said_so() {
    let open = |url: &str, option: Option<(&str, &str)>| {
        let options = option.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Bucket::open(&BucketConfig { url: url.into(), options, ..BucketConfig::default() }).map(drop).map_err(|error| format!("{error:#}"))
    };
    assert!(open("not a url", None).unwrap_err().contains("not the URL of a bucket"));
    assert!(open("file:///tmp", None).unwrap_err().contains("s3://"));
    assert!(open("s3://bucket/prefix", Some(("no_such_option", "1"))).unwrap_err().contains("no_such_option"));
    open("s3://bucket/prefix", Some(("region", "eu-central-1"))).unwrap();
    open("az://container/prefix", Some(("account_name", "team"))).unwrap();
}

#[tokio::test]
async fn large_blobs_get_an_address_of_the_bucket_if_that_is_switched_on() {
    let world = World::new();
    let options = [("region", "eu-central-1"), ("access_key_id", "id"), ("secret_access_key", "secret")];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut config = BucketConfig { url: "s3://bucket/prefix".into(), options, ..BucketConfig::default() };
    let url = async |config: &BucketConfig, size| {
        let blobs = Bucket::open(config).unwrap().blobs(config, world.directory.path()).unwrap();
        blobs.direct_url(&team(), &Digest::ZERO, size).await
    };
    assert_eq!(url(&config, 9 << 20).await, None, "off by default");
    config.redirect = true;
    assert_eq!(url(&config, 7 << 20).await, None);
    let address = url(&config, 8 << 20).await.unwrap().url;
    assert!(address.contains("/prefix/ns/team/cas/00/") && address.contains("X-Amz-Expires=60") && address.contains("X-Amz-Signature="));
}

#[test]
fn a_file_of_the_tier_is_read_whole_through_its_handle() {
    let directory = tempfile::tempdir().unwrap();
    let tier = Tier::open(directory.path(), 100, 10).unwrap();
    let mut file = tier.temporary().unwrap();
    std::io::Write::write_all(&mut file, &[7; 200]).unwrap();
    let key = super::tier::TierKey::new(&team(), &Digest::ZERO);
    let mut blob = tier.insert(key, file, None, 0).unwrap();
    assert!(tier.get(key).unwrap().is_none(), "too large to stay");
    let mut bytes = Vec::new();
    blob.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, [7; 200]);
}
