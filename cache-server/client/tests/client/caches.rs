use crate::script::{Server, Step, blob, config, content, curt, error, reply, serve};
use preheat_cache_client::{Cache, Caches, ClientError, Patience};
use preheat_image::Digest;
use std::time::Duration;

fn of(servers: &[&Server]) -> Caches {
    Caches::new(servers.iter().map(|server| server.cache()).collect())
}

async fn get(caches: &Caches, content: &[u8]) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    caches.get_blob("ns", &blob(content), &mut bytes, &()).await.map(|()| bytes)
}

#[tokio::test]
async fn what_one_does_not_have_the_next_may() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let (first, second) =
        (Server::start(|_, _| error(404, "no-blob")).await, Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await);
    let caches = of(&[&first, &second]);
    assert_eq!(get(&caches, &bytes).await.unwrap(), bytes);
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
    assert!(caches.warnings().is_empty(), "a miss is no problem");
    assert!(get(&of(&[&first]), &bytes).await.unwrap_err().is_not_found());
    assert!(matches!(get(&Caches::default(), &bytes).await, Err(ClientError::Invalid(_))));
}

#[tokio::test]
async fn what_a_bad_cache_gave_is_forgotten_before_the_next_is_asked() {
    let bytes = content(3_000);
    let mut wrong = bytes.clone();
    wrong[2_999] ^= 1;
    let served = bytes.clone();
    let (first, second) =
        (Server::start(move |_, _| reply(200, &[], &wrong)).await, Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await);
    let caches = of(&[&first, &second]);
    for _ in 0..2 {
        assert!(get(&caches, &bytes).await.unwrap() == bytes);
    }
    let warnings = caches.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("other bytes"), "{warnings:?}");
    // Of two reasons the one that says more.
    let missing = Server::start(|_, _| error(404, "no-blob")).await;
    assert!(matches!(get(&of(&[&first, &missing]), &bytes).await, Err(ClientError::DigestMismatch { .. })));
}

#[tokio::test]
async fn a_cache_that_does_not_answer_is_asked_once_and_said_once() {
    let silent = Server::start(|_, _| vec![Step::Hang]).await;
    let cache = silent.cache().with_patience(Patience { attempts: 1, ..curt() });
    let caches = Caches::new(vec![cache]);
    for _ in 0..20 {
        assert!(caches.entry("ns", &Digest::ZERO, |_| true).await.is_none());
    }
    assert_eq!(silent.seen().len(), 1);
    let warnings = caches.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(&silent.address.to_string()), "{warnings:?}");
    assert!(caches.warnings().is_empty(), "said already");
}

#[tokio::test]
async fn a_slow_cache_costs_a_build_no_more_than_its_patience() {
    // It would drip for minutes. What is checked is that it gives up, not when.
    let silent = Server::start(|_, _| vec![Step::Drip(vec![b'H'; 10_000], Duration::from_millis(50))]).await;
    let patience = Patience { answer: Duration::from_millis(200), total: Duration::from_millis(300), ..Patience::impatient() };
    let caches = Caches::new(vec![silent.cache().with_patience(patience)]);
    assert!(caches.entry("ns", &Digest::ZERO, |_| true).await.is_none());
    assert!(caches.entry("ns", &Digest::ZERO, |_| true).await.is_none());
    assert!(silent.seen().len() <= 2);
}

#[tokio::test]
async fn a_token_that_does_not_count_is_not_sent_again_and_again() {
    let server = Server::start(|_, _| error(401, "unauthorized")).await;
    let caches = of(&[&server]);
    for _ in 0..5 {
        assert!(caches.entry("ns", &Digest::ZERO, |_| true).await.is_none());
    }
    assert_eq!(server.seen().len(), 1);
    assert!(caches.warnings()[0].contains("preheat login"));
}

#[tokio::test]
async fn a_cache_that_is_left_alone_is_asked_again_later() {
    let server = Server::start(|_, nth| if nth == 0 { error(401, "unauthorized") } else { error(404, "no-entry") }).await;
    let caches = of(&[&server]);
    let ask = || caches.entry("ns", &Digest::ZERO, |_| true);
    assert!(ask().await.is_none());
    assert!(ask().await.is_none());
    assert_eq!(server.seen().len(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    assert!(ask().await.is_none());
    assert!(ask().await.is_none());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn caches_are_found_by_name_and_host() {
    let server = Server::start(|_, _| Vec::new()).await;
    let named = preheat_cache_client::CacheConfig { name: "team".into(), ..config(&server.url()) };
    let caches = Caches::new(vec![Cache::new(named).unwrap()]);
    assert_eq!(caches.get("team").map(Cache::host), Some(server.address.to_string().as_str()));
    assert!(caches.get(&server.address.to_string()).is_some());
    assert!(caches.get("other").is_none());
}
