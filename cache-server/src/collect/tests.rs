use super::*;
use crate::clock::ManualClock;
use crate::leases::{Acknowledged, CondemnedList};
use crate::records::{RawEntry, entry_key, names_key, statements_key};
use crate::storage::leased::Leased;
use crate::storage::memory::Memory;
use mark::Row;
use preheat_image::api::{NamespaceConfig, NamespaceKind, StatementList};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::{Artefact, Descriptor, Manifest};
use preheat_image::names::{MoveKind, Names, SignedNames};
use preheat_image::statement::{Kind, Statement};
use preheat_image::{KeyFields, media};
use proptest::prelude::*;

/// Well after 1970, and after now: blobs that are written in a test are old.
const START: u64 = 4_000_000_000;

struct World {
    memory: Memory,
    clock: Arc<ManualClock>,
}

struct Server {
    leases: Arc<Leases>,
    blobs: Leased,
    collector: Arc<Collector>,
}

fn ns(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn key() -> SecretKey {
    SecretKey::from_seed([1; 32])
}

impl World {
    async fn new() -> Self {
        let world = Self { memory: Memory::default(), clock: Arc::new(ManualClock::at(START)) };
        world.namespace("team", &NamespaceConfig::new(NamespaceKind::Preheat)).await;
        world
    }

    async fn namespace(&self, name: &str, config: &NamespaceConfig) {
        self.put(&format!("ns/{name}"), serde_json::to_vec(config).unwrap()).await;
    }

    async fn put(&self, key: &str, value: Vec<u8>) {
        self.memory.put(key, value.into(), Expect::Any).await.unwrap();
    }

    async fn server(&self) -> Server {
        self.server_with(CollectConfig { wait_seconds: 0, ..CollectConfig::default() }).await
    }

    async fn server_with(&self, config: CollectConfig) -> Server {
        let meta: Arc<dyn Meta> = Arc::new(self.memory.clone());
        let storage: Arc<dyn Blobs> = Arc::new(self.memory.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let leases = Leases::start(meta.clone(), clock.clone(), config.lease_seconds, false).await.unwrap();
        let stopping = CancellationToken::new();
        let mut collector = Collector::new(storage.clone(), meta, leases.clone(), clock, Arc::new(Metrics::new()), config, stopping);
        collector.pause = Duration::from_millis(1);
        Server { blobs: Leased::new(storage, leases.clone()), leases, collector: Arc::new(collector) }
    }

    async fn there(&self, namespace: &str, digest: &Digest) -> bool {
        self.memory.size(&ns(namespace), digest).await.unwrap().is_some()
    }

    /// Until all leases are over, with the servers that are there going on.
    async fn let_leases_end(&self, servers: &[&Server]) {
        for _ in 0..100 {
            self.clock.advance(60);
            for server in servers {
                server.leases.tick().await.unwrap();
            }
        }
    }

    async fn names(&self, namespace: &str, names: &[(&str, Digest)]) {
        let mut snapshot = Names::first(namespace, START, START + 1);
        for (name, digest) in names {
            snapshot.set(MoveKind::Push, name, Some(*digest)).unwrap();
        }
        let signed = SignedNames::new(snapshot).unwrap().sign(&key()).unwrap();
        self.put(&names_key(&ns(namespace)), signed.to_bytes()).await;
    }

    async fn statement(&self, namespace: &str, kind: Kind, outputs: Vec<Descriptor>) -> Digest {
        let fields = KeyFields::new().with(field::KIND, kind.name()).with(field::CPU, outputs[0].digest.hex());
        let statement = Statement::new(kind, namespace, fields, outputs);
        let (key_of, subject) = (statement.key, statement.outputs[0].digest);
        let list = serde_json::to_vec(&StatementList::new([statement.sign(&key()).to_bytes()])).unwrap();
        self.put(&entry_key(&ns(namespace), &key_of), list.clone()).await;
        self.put(&statements_key(&ns(namespace), &subject), list).await;
        key_of
    }
}

impl Server {
    async fn push(&self, namespace: &str, bytes: &[u8]) -> Digest {
        self.try_push(namespace, bytes).await.unwrap()
    }

    async fn try_push(&self, namespace: &str, bytes: &[u8]) -> Result<Digest, StorageError> {
        let digest = Digest::of(bytes);
        let mut upload = self.blobs.begin(&ns(namespace)).await?;
        upload.write(bytes.to_vec().into()).await?;
        upload.commit(&digest, None).await?;
        Ok(digest)
    }

    async fn has(&self, namespace: &str, digest: &Digest) -> bool {
        self.blobs.size(&ns(namespace), digest).await.unwrap().is_some()
    }

    /// Pushes an image of two parts with its statement. Gives the manifest, the parts, and the statement's key.
    async fn image(&self, world: &World, namespace: &str, seed: &str) -> (Digest, [Digest; 2], Digest) {
        let parts = [format!("{seed}-one"), format!("{seed}-two")];
        let artefacts: Vec<Artefact> = parts.iter().map(|part| Artefact::of(Descriptor::of(media::HEAP, part.as_bytes()))).collect();
        let bytes = Manifest::new(None, None, artefacts).to_bytes();
        let digests = [self.push(namespace, parts[0].as_bytes()).await, self.push(namespace, parts[1].as_bytes()).await];
        let manifest = self.push(namespace, &bytes).await;
        let key = world.statement(namespace, Kind::Image, vec![Descriptor::of(media::MANIFEST, &bytes)]).await;
        (manifest, digests, key)
    }

    async fn collect(&self, namespace: &str) -> CollectReport {
        self.collector.collect(&ns(namespace), false).await.unwrap()
    }
}

async fn all(world: &World) -> Namespaces {
    mark::namespaces(&world.memory).await.unwrap()
}

#[tokio::test]
async fn what_a_name_leads_to_stays_and_the_rest_goes_with_its_statements() {
    let world = World::new().await;
    let server = world.server().await;
    let (named, parts, _) = server.image(&world, "team", "named").await;
    let (other, other_parts, other_key) = server.image(&world, "team", "other").await;
    world.names("team", &[("app:v1", named)]).await;
    let report = server.collect("team").await;
    assert_eq!((report.seen, report.removed), (6, 0), "all is leased by its upload");
    world.let_leases_end(&[&server]).await;
    let looked = server.collector.collect(&ns("team"), true).await.unwrap();
    assert_eq!((looked.removed, looked.dry_run), (3, true));
    assert!(world.there("team", &other).await, "only looked");
    let report = server.collect("team").await;
    assert_eq!((report.seen, report.held, report.removed), (6, 3, 3));
    assert_eq!(report.removed_bytes, looked.removed_bytes);
    for digest in [named, parts[0], parts[1]] {
        assert!(world.there("team", &digest).await);
    }
    for digest in [other, other_parts[0], other_parts[1]] {
        assert!(!world.there("team", &digest).await);
    }
    assert_eq!(world.memory.get(&statements_key(&ns("team"), &other)).await.unwrap(), None);
    assert_eq!(world.memory.get(&entry_key(&ns("team"), &other_key)).await.unwrap(), None);
    assert!(world.memory.get(&statements_key(&ns("team"), &named)).await.unwrap().is_some());
    assert_eq!(server.collect("team").await.removed, 0, "a second time changes nothing");
}

#[tokio::test]
async fn where_a_name_led_before_its_last_move_stays_for_a_rollback() {
    let world = World::new().await;
    let server = world.server().await;
    let mut images = Vec::new();
    for seed in ["1", "2", "3"] {
        images.push(server.image(&world, "team", seed).await.0);
    }
    world.names("team", &[("app:v1", images[0]), ("app:v1", images[1]), ("app:v1", images[2])]).await;
    world.let_leases_end(&[&server]).await;
    server.collect("team").await;
    assert_eq!(
        [world.there("team", &images[0]).await, world.there("team", &images[1]).await, world.there("team", &images[2]).await],
        [false, true, true]
    );
}

#[tokio::test]
async fn reading_renews_a_lease_and_an_image_that_is_leased_keeps_its_parts() {
    let world = World::new().await;
    let server = world.server().await;
    let (manifest, parts, _) = server.image(&world, "team", "image").await;
    let loose = server.push("team", b"loose").await;
    for _ in 0..3 {
        world.let_leases_end(&[&server]).await;
        assert!(server.has("team", &manifest).await);
        server.leases.tick().await.unwrap();
    }
    assert!(!server.collect("team").await.dry_run);
    assert!(world.there("team", &parts[0]).await && world.there("team", &parts[1]).await);
    assert!(!world.there("team", &loose).await);
}

#[tokio::test]
async fn a_lease_is_written_once_in_five_minutes() {
    let world = World::new().await;
    let server = world.server().await;
    let digest = server.push("team", b"often").await;
    let batches = async || server.leases.batches(&ns("team")).await.unwrap().len();
    server.leases.tick().await.unwrap();
    for _ in 0..20 {
        world.clock.advance(10);
        assert!(server.has("team", &digest).await);
        server.leases.tick().await.unwrap();
    }
    assert_eq!(batches().await, 1);
    world.clock.advance(100);
    assert!(server.has("team", &digest).await);
    server.leases.tick().await.unwrap();
    assert_eq!(batches().await, 2);
}

/// The race of a push between find-missing and statement, in each of its orders.
#[tokio::test]
async fn a_blob_that_was_said_to_be_there_is_there_or_the_client_is_told_in_time() {
    // The client asks through another server, before it knows the list: the lease is found by the second look.
    let world = World::new().await;
    let (one, two) = (world.server().await, world.server().await);
    let digest = one.push("team", b"blob").await;
    world.let_leases_end(&[&one, &two]).await;
    let row = Row { digest, size: 4, used: 0, depth: 0 };
    let round = one.collector.condemn(&all(&world).await, vec![(ns("team"), row)]).await.unwrap();
    assert!(!one.has("team", &digest).await, "the server that collects knows at once");
    assert!(two.has("team", &digest).await, "the other does not know yet");
    let id = round.id().to_owned();
    assert!(matches!(one.leases.acknowledged(&id).await.unwrap(), Acknowledged::Not(_)), "so it is waited for");
    two.leases.tick().await.unwrap();
    assert!(!two.has("team", &digest).await, "from now on it says that it is missing");
    assert_eq!(one.leases.acknowledged(&id).await.unwrap(), Acknowledged::All);
    let removed = one.collector.finish(&all(&world).await, &round).await.unwrap();
    assert_eq!(removed.blobs, 0, "what was said to be there stays");
    one.leases.pardon(&id).await.unwrap();
    two.leases.tick().await.unwrap();
    assert!(one.has("team", &digest).await && two.has("team", &digest).await);

    // The client asks after the other server knows the list: it is told, and brings the blob again when the removal is over.
    world.let_leases_end(&[&one, &two]).await;
    let round = one.collector.condemn(&all(&world).await, vec![(ns("team"), row)]).await.unwrap();
    two.leases.tick().await.unwrap();
    assert!(!two.has("team", &digest).await);
    assert!(matches!(two.try_push("team", b"blob").await, Err(StorageError::Unavailable(_))), "in a moment");
    assert_eq!(one.leases.acknowledged(round.id()).await.unwrap(), Acknowledged::All);
    assert_eq!(one.collector.finish(&all(&world).await, &round).await.unwrap().blobs, 1);
    assert!(matches!(two.try_push("team", b"blob").await, Err(StorageError::Unavailable(_))));
    one.leases.pardon(round.id()).await.unwrap();
    two.leases.tick().await.unwrap();
    two.push("team", b"blob").await;
    assert!(one.has("team", &digest).await);
}

#[tokio::test]
async fn a_name_that_is_set_while_its_image_is_condemned_is_found_by_the_second_look() {
    let world = World::new().await;
    let server = world.server().await;
    let (manifest, parts, _) = server.image(&world, "team", "image").await;
    world.let_leases_end(&[&server]).await;
    let marked = mark(server.collector.sources(), &all(&world).await, &ns("team")).await.unwrap();
    let rows = marked.dead.iter().map(|row| (ns("team"), *row)).collect();
    let round = server.collector.condemn(&all(&world).await, rows).await.unwrap();
    world.names("team", &[("app:v1", manifest)]).await;
    assert_eq!(server.collector.finish(&all(&world).await, &round).await.unwrap(), Removed::default());
    for digest in [manifest, parts[0], parts[1]] {
        assert!(world.there("team", &digest).await);
    }
}

#[tokio::test]
async fn nobody_collects_while_a_server_that_ended_uncleanly_may_have_made_promises() {
    let world = World::new().await;
    let (one, two) = (world.server().await, world.server().await);
    let digest = one.push("team", b"blob").await;
    world.let_leases_end(&[&one, &two]).await;
    // Killed: what it promised in its last seconds was not written.
    assert!(two.has("team", &digest).await);
    drop(two);
    for _ in 0..60 {
        world.clock.advance(60);
        one.leases.tick().await.unwrap();
        match one.collector.collect(&ns("team"), false).await {
            Err(CollectError::Hindered(why)) => assert!(why.contains("server"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(world.there("team", &digest).await, "an hour after it was said to be there");
    world.let_leases_end(&[&one]).await;
    assert_eq!(one.collect("team").await.removed, 1);

    // One that signed off holds up nobody.
    let three = world.server().await;
    three.leases.sign_off().await.unwrap();
    drop(three);
    world.clock.advance(600);
    one.leases.tick().await.unwrap();
    one.collect("team").await;
}

#[tokio::test]
async fn two_servers_collect_at_once_and_nothing_that_is_held_goes() {
    let world = World::new().await;
    let (one, two) = (world.server().await, world.server().await);
    let (named, parts, _) = one.image(&world, "team", "named").await;
    world.names("team", &[("app:v1", named)]).await;
    let loose: Vec<Digest> = {
        let mut loose = Vec::new();
        for number in 0..20 {
            loose.push(one.push("team", format!("loose {number}").as_bytes()).await);
        }
        loose
    };
    world.let_leases_end(&[&one, &two]).await;
    // Without the lock: both publish a list, both remove.
    let rows = |marked: Marked| marked.dead.into_iter().map(|row| (ns("team"), row)).collect::<Vec<_>>();
    let spaces = all(&world).await;
    let first = mark(one.collector.sources(), &spaces, &ns("team")).await.unwrap();
    let second = mark(two.collector.sources(), &spaces, &ns("team")).await.unwrap();
    let first = one.collector.condemn(&spaces, rows(first)).await.unwrap();
    let second = two.collector.condemn(&spaces, rows(second)).await.unwrap();
    one.leases.tick().await.unwrap();
    two.leases.tick().await.unwrap();
    assert_eq!(one.leases.acknowledged(first.id()).await.unwrap(), Acknowledged::All);
    assert_eq!(two.leases.acknowledged(second.id()).await.unwrap(), Acknowledged::All);
    let (a, b) = tokio::join!(one.collector.finish(&spaces, &first), two.collector.finish(&spaces, &second));
    assert_eq!(a.unwrap().blobs + b.unwrap().blobs, 20);
    one.leases.pardon(first.id()).await.unwrap();
    assert!(
        matches!(one.try_push("team", b"loose 1").await, Err(StorageError::Unavailable(_))) || {
            // The other's list still counts once it is known here.
            one.leases.tick().await.unwrap();
            one.try_push("team", b"loose 1").await.is_err()
        }
    );
    two.leases.pardon(second.id()).await.unwrap();
    one.leases.tick().await.unwrap();
    one.push("team", b"loose 1").await;
    for digest in [named, parts[0], parts[1], loose[1]] {
        assert!(world.there("team", &digest).await);
    }
    // With it: one of them says that the other is at it.
    let lock = one.collector.lock().await.unwrap();
    assert!(matches!(two.collector.collect(&ns("team"), false).await, Err(CollectError::Running)));
    one.collector.unlock(lock).await;
    let lost = one.collector.lock().await.unwrap();
    world.clock.advance(LOCK + 1);
    one.leases.tick().await.unwrap();
    two.leases.tick().await.unwrap();
    two.collect("team").await;
    drop(lost);
}

#[tokio::test]
async fn an_entry_goes_before_its_value_and_one_that_was_overwritten_stays() {
    let world = World::new().await;
    world.namespace("ccache", &NamespaceConfig::new(NamespaceKind::Raw)).await;
    let server = world.server().await;
    let old = server.push("ccache", b"old").await;
    let entry = |digest: Digest| serde_json::to_vec(&RawEntry { digest, size: 3 }).unwrap();
    let keys = [Digest::of(b"k1"), Digest::of(b"k2")].map(|key| entry_key(&ns("ccache"), &key));
    world.put(&keys[0], entry(old)).await;
    world.put(&keys[1], entry(old)).await;
    world.let_leases_end(&[&server]).await;
    let new = server.push("ccache", b"new").await;
    world.put(&keys[1], entry(new)).await;
    assert_eq!(server.collect("ccache").await.removed, 1);
    assert_eq!(world.memory.get(&keys[0]).await.unwrap(), None);
    assert!(world.memory.get(&keys[1]).await.unwrap().is_some());
    assert!(server.has("ccache", &new).await);
}

#[tokio::test]
async fn names_of_an_overlay_hold_what_is_below_it() {
    let world = World::new().await;
    let overlay = NamespaceConfig { base: Some("team".into()), ..NamespaceConfig::new(NamespaceKind::Preheat) };
    world.namespace("pr-1", &overlay).await;
    let server = world.server().await;
    let below = server.push("team", b"below").await;
    let loose = server.push("team", b"loose").await;
    let bytes = Manifest::new(None, None, vec![Artefact::of(Descriptor::of(media::HEAP, b"below"))]).to_bytes();
    let manifest = server.push("pr-1", &bytes).await;
    world.names("pr-1", &[("app:pr", manifest)]).await;
    world.let_leases_end(&[&server]).await;
    assert_eq!(server.collect("team").await.removed, 1);
    assert_eq!(server.collect("pr-1").await.removed, 0);
    assert!(world.there("team", &below).await && !world.there("team", &loose).await);
}

#[tokio::test]
async fn a_statement_of_an_overlay_about_what_is_below_it_stays() {
    let world = World::new().await;
    let overlay = NamespaceConfig { base: Some("team".into()), ..NamespaceConfig::new(NamespaceKind::Preheat) };
    world.namespace("pr-1", &overlay).await;
    let server = world.server().await;
    let below = server.push("team", b"code").await;
    world.names("team", &[("keep:v1", below)]).await;
    world.statement("pr-1", Kind::CodeObject, vec![Descriptor::of(media::CODE, b"code")]).await;
    world.statement("pr-1", Kind::CodeObject, vec![Descriptor::of(media::CODE, b"never there")]).await;
    world.let_leases_end(&[&server]).await;
    server.collect("pr-1").await;
    assert!(world.memory.get(&statements_key(&ns("pr-1"), &below)).await.unwrap().is_some());
    assert_eq!(world.memory.get(&statements_key(&ns("pr-1"), &Digest::of(b"never there"))).await.unwrap(), None);
}

#[tokio::test]
async fn over_its_limit_a_namespace_loses_what_went_unused_for_longest() {
    let world = World::new().await;
    let config = NamespaceConfig { max_bytes: Some(1000), ..NamespaceConfig::new(NamespaceKind::Preheat) };
    world.namespace("team", &config).await;
    let server = world.server().await;
    let mut blobs = Vec::new();
    for number in 0..12u8 {
        blobs.push(server.push("team", &[number; 100]).await);
        world.clock.advance(200);
        server.leases.tick().await.unwrap();
    }
    server.collector.sweep().await.unwrap();
    assert!(world.there("team", &blobs[11]).await);
    world.let_leases_end(&[&server]).await;
    assert!(server.has("team", &blobs[0]).await, "the first was used last");
    server.leases.tick().await.unwrap();
    server.collector.due().clear();
    server.collector.sweep().await.unwrap();
    let mut left = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        if world.there("team", blob).await {
            left.push(number);
        }
    }
    assert!(left.contains(&0) && left.contains(&11), "{left:?}");
    assert!((8..=9).contains(&left.len()), "{left:?}");
    assert!(left[1..].windows(2).all(|pair| pair[0] + 1 == pair[1]), "the oldest went: {left:?}");
    assert!(server.leases.batches(&ns("team")).await.unwrap().len() <= 2, "what is over was folded");
    let used = usage::read(&world.memory, &ns("team")).await.unwrap();
    assert_eq!(used.len(), 12, "into one entry for each blob");
}

#[tokio::test]
async fn an_image_goes_before_its_parts() {
    let world = World::new().await;
    let server = world.server().await;
    let (manifest, parts, _) = server.image(&world, "team", "image").await;
    world.let_leases_end(&[&server]).await;
    let marked = mark(server.collector.sources(), &all(&world).await, &ns("team")).await.unwrap();
    assert_eq!(marked.dead[0].digest, manifest);
    let chosen = Chosen::oldest(&[(ns("team"), marked)], 1);
    let mut lock = server.collector.lock().await.unwrap();
    let removed = server.collector.remove(&all(&world).await, chosen, &mut lock).await.unwrap();
    assert_eq!(removed.blobs, 1);
    assert!(world.there("team", &parts[0]).await && !world.there("team", &manifest).await);
}

#[tokio::test]
async fn touches_that_had_to_be_forgotten_hold_up_collections() {
    let world = World::new().await;
    let server = world.server().await;
    let digest = server.push("team", b"blob").await;
    world.let_leases_end(&[&server]).await;
    let many: Vec<Digest> = (0..600_000u32).map(|number| Digest::of(&number.to_le_bytes())).collect();
    server.leases.touch(&ns("team"), &many);
    server.leases.tick().await.unwrap();
    assert!(matches!(server.collector.collect(&ns("team"), false).await, Err(CollectError::Hindered(_))));
    world.let_leases_end(&[&server]).await;
    server.collect("team").await;
    assert!(!world.there("team", &digest).await);
}

#[tokio::test]
async fn a_server_that_can_not_write_leases_promises_nothing() {
    let world = World::new().await;
    let server = world.server().await;
    let digest = server.push("team", b"blob").await;
    world.clock.advance(700);
    assert!(matches!(server.blobs.size(&ns("team"), &digest).await, Err(StorageError::Unavailable(_))));
    assert!(server.blobs.open(&ns("team"), &digest).await.unwrap().is_some(), "reading goes on");
    server.leases.tick().await.unwrap();
    assert!(server.has("team", &digest).await);
}

#[tokio::test]
async fn a_list_of_a_collector_that_is_gone_is_forgotten() {
    let world = World::new().await;
    let (one, two) = (world.server().await, world.server().await);
    let digest = one.push("team", b"blob").await;
    let list = CondemnedList([("team".to_owned(), vec![digest])].into());
    two.leases.condemn(&list, world.clock.now() + 100).await.unwrap();
    drop(two);
    one.leases.tick().await.unwrap();
    assert!(!one.has("team", &digest).await);
    world.clock.advance(500);
    one.leases.tick().await.unwrap();
    assert!(one.has("team", &digest).await);
}

#[tokio::test]
async fn a_server_alone_ends_what_an_earlier_run_left_unfinished() {
    let world = World::new().await;
    let one = world.server().await;
    let digest = one.push("team", b"blob").await;
    let list = CondemnedList([("team".to_owned(), vec![digest])].into());
    one.leases.condemn(&list, world.clock.now() + 100).await.unwrap();
    let _lock = one.collector.lock().await.unwrap();
    drop(one);
    let meta: Arc<dyn Meta> = Arc::new(world.memory.clone());
    let leases = Leases::start(meta.clone(), world.clock.clone(), 3600, true).await.unwrap();
    assert!(!leases.condemned(&ns("team"), &digest));
    assert_eq!(meta.list("gc/").await.unwrap(), [] as [&str; 0]);
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    Name(u8, u8),
    Unname(u8),
    Ask(bool, u8),
    Wait(u16),
    Collect(bool),
    Evict(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..8u8).prop_map(Step::Push),
        3 => (0..3u8, 0..8u8).prop_map(|(name, image)| Step::Name(name, image)),
        1 => (0..3u8).prop_map(Step::Unname),
        2 => (any::<bool>(), 0..8u8).prop_map(|(server, image)| Step::Ask(server, image)),
        3 => (0..3000u16).prop_map(Step::Wait),
        2 => any::<bool>().prop_map(Step::Collect),
        1 => any::<bool>().prop_map(Step::Evict),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happens_nothing_that_is_named_or_was_promised_is_removed(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let config = NamespaceConfig { max_bytes: Some(200), ..NamespaceConfig::new(NamespaceKind::Preheat) };
            world.namespace("team", &config).await;
            // The second look waits for the other server, which goes on by itself.
            let config = CollectConfig { wait_seconds: 10, ..CollectConfig::default() };
            let servers = [world.server_with(config.clone()).await, world.server_with(config).await];
            let mut names: BTreeMap<u8, u8> = BTreeMap::new();
            let mut promised: HashMap<Digest, u64> = HashMap::new();
            let mut known: HashMap<u8, (Digest, [Digest; 2])> = HashMap::new();
            for step in steps {
                match step {
                    Step::Push(image) => {
                        let (manifest, parts, _) = servers[usize::from(image % 2)].image(&world, "team", &image.to_string()).await;
                        known.insert(image, (manifest, parts));
                        for digest in [manifest, parts[0], parts[1]] {
                            promised.insert(digest, world.clock.now() + 3600);
                        }
                    }
                    Step::Name(name, image) => {
                        // As the service does: only what is there gets a name.
                        if let Some((manifest, parts)) = known.get(&image) {
                            let there = servers[0].blobs.sizes(&ns("team"), &[*manifest, parts[0], parts[1]]).await.unwrap();
                            if there.iter().all(Option::is_some) {
                                names.insert(name, image);
                            }
                        }
                    }
                    Step::Unname(name) => { names.remove(&name); }
                    Step::Ask(server, image) => if let Some((manifest, _)) = known.get(&image)
                        && servers[usize::from(server)].has("team", manifest).await
                    {
                        promised.insert(*manifest, world.clock.now() + 3600);
                    },
                    Step::Wait(seconds) => for _ in 0..seconds / 60 {
                        world.clock.advance(60);
                        for server in &servers {
                            server.leases.tick().await.unwrap();
                        }
                    },
                    Step::Collect(server) | Step::Evict(server) => {
                        let (one, other) = (&servers[usize::from(server)], &servers[usize::from(!server)]);
                        let collector = one.collector.clone();
                        let evict = matches!(step, Step::Evict(_));
                        let work = tokio::spawn(async move {
                            match evict {
                                true => { collector.due().clear(); collector.sweep().await }
                                false => collector.collect(&ns("team"), false).await.map(drop),
                            }
                        });
                        while !work.is_finished() {
                            other.leases.tick().await.unwrap();
                            tokio::task::yield_now().await;
                        }
                        work.await.unwrap().unwrap();
                        for server in &servers {
                            server.leases.tick().await.unwrap();
                        }
                    }
                }
                let wanted: Vec<(String, Digest)> =
                    names.iter().map(|(name, image)| (format!("app:v{name}"), known[image].0)).collect();
                let wanted: Vec<(&str, Digest)> = wanted.iter().map(|(name, digest)| (name.as_str(), *digest)).collect();
                world.names("team", &wanted).await;
                for image in names.values() {
                    let (manifest, parts) = &known[image];
                    for digest in [manifest, &parts[0], &parts[1]] {
                        assert!(world.there("team", digest).await, "named");
                    }
                }
                for (digest, until) in &promised {
                    assert!(world.clock.now() > *until || world.there("team", digest).await, "promised");
                }
            }
        });
    }
}
