use crate::script::{Server, Step, blob, content, curt, error, reply};
use preheat_cache_client::{Blob, Cache, ClientError, PutOutcome, Source};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn source(bytes: &[u8]) -> (Source, Arc<AtomicUsize>) {
    let opened = Arc::new(AtomicUsize::new(0));
    let (bytes, count) = (bytes.to_vec(), Arc::clone(&opened));
    let source: Source = Arc::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(io::Cursor::new(bytes.clone())) as Box<dyn Read + Send>)
    });
    (source, opened)
}

async fn put(cache: &Cache, bytes: &[u8]) -> Result<PutOutcome, ClientError> {
    cache.put_blob("ns", &blob(bytes), &source(bytes).0, &()).await
}

#[tokio::test]
async fn a_blob_arrives_whole_with_its_length() {
    for size in [0, 1, 100_000, 1_000_000] {
        let bytes = content(size);
        for (status, outcome) in [(201, PutOutcome::Created), (200, PutOutcome::WasThere)] {
            let server = Server::start(move |_, _| reply(status, &[], b"")).await;
            assert_eq!(put(&server.cache(), &bytes).await.unwrap(), outcome);
            let seen = server.seen();
            assert!(seen[0].body == bytes && seen[0].method == "PUT");
            assert_eq!(seen[0].path, format!("/ns/cas/{}", blob(&bytes).digest.hex()));
            assert_eq!(seen[0].header("content-length"), Some(size.to_string().as_str()));
            assert_eq!(seen[0].header("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn compressed_uploads_hold_the_same_bytes() {
    let bytes = content(1_000).repeat(300);
    let server = Server::start(|_, _| reply(201, &[], b"")).await;
    put(&server.compressing(), &bytes).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].header("content-encoding"), Some("zstd"));
    assert!(seen[0].body.len() < bytes.len() / 10);
    assert!(zstd::decode_all(seen[0].body.as_slice()).unwrap() == bytes);
    put(&server.compressing(), b"small").await.unwrap();
    assert_eq!(server.seen()[1].header("content-encoding"), None);
}

#[tokio::test]
async fn what_looks_like_a_bomb_or_is_not_understood_is_sent_as_it_is() {
    let bytes = vec![0; 1_000_000];
    for (status, code) in [(422, "compression-ratio"), (415, "unsupported-encoding")] {
        let server = Server::start(
            move |seen, _| {
                if seen.header("content-encoding").is_some() { error(status, code) } else { reply(201, &[], b"") }
            },
        )
        .await;
        put(&server.compressing(), &bytes).await.unwrap();
        assert!(server.seen()[1].body == bytes);
        assert_eq!(server.seen().len(), 2);
    }
    let server = Server::start(|_, _| reply(415, &[], b"what?")).await;
    assert!(matches!(put(&server.compressing(), &bytes).await, Err(ClientError::Refused { .. })));
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_try_that_broke_is_made_again_from_the_beginning() {
    let bytes = content(2_000_000);
    let server = Server::start(|_, nth| match nth {
        0 => vec![Step::Ignore],
        1 => reply(503, &[("Retry-After", "0")], b""),
        _ => reply(201, &[], b""),
    })
    .await;
    let (source, opened) = source(&bytes);
    assert_eq!(server.cache().put_blob("ns", &blob(&bytes), &source, &()).await.unwrap(), PutOutcome::Created);
    assert_eq!(opened.load(Ordering::SeqCst), 3);
    assert!(server.seen()[2].body == bytes);
}

#[tokio::test]
async fn what_the_service_refuses_is_not_sent_again() {
    for (status, check) in [
        (401, (|error| matches!(error, ClientError::Unauthorized { .. })) as fn(&ClientError) -> bool),
        (403, |error| matches!(error, ClientError::Forbidden { .. })),
        (404, |error| error.is_not_found()),
        (409, |error| matches!(error, ClientError::Conflict { .. })),
        (413, |error| matches!(error, ClientError::TooLarge { .. })),
        (422, |error| matches!(error, ClientError::Refused { code, .. } if code == "a-code")),
        (507, |error| matches!(error, ClientError::StorageFull { .. })),
        (307, |error| matches!(error, ClientError::BadAnswer { .. })),
    ] {
        let server = Server::start(move |_, _| error(status, "a-code")).await;
        let error = put(&server.cache(), &content(100_000)).await.unwrap_err();
        assert!(check(&error), "{status}: {error}");
        assert_eq!(server.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_before_the_end_of_the_body_is_heard() {
    // It answers first, and only then takes the rest; or closes at once, where the reset may come before the answer was read.
    for (then, heard) in [(vec![Step::Hang], true), (Vec::new(), false)] {
        let server = Server::start(move |_, _| {
            let mut early = vec![Step::Ignore];
            early.extend(error(413, "too-large"));
            early.extend(then.clone());
            early
        })
        .await;
        let bytes = content(8_000_000);
        for _ in 0..10 {
            let error = put(&server.cache(), &bytes).await.unwrap_err();
            let broken = !heard && matches!(error, ClientError::Unreachable { .. });
            assert!(broken || matches!(error, ClientError::TooLarge { .. }), "{error}");
        }
    }
}

#[tokio::test]
async fn a_source_that_fails_or_has_another_length_is_our_own_fault() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("unreadable"))
        }
    }
    let bytes = content(300_000);
    let claimed = |size: u64| Blob { size, ..blob(&bytes) };
    let server = Server::start(|_, _| reply(201, &[], b"")).await;
    for cache in [server.cache(), server.compressing()] {
        let broken: Source = Arc::new(|| Ok(Box::new(Broken)));
        let absent: Source = Arc::new(|| Err(io::Error::from(io::ErrorKind::NotFound)));
        for (blob, source) in [
            (claimed(300_000), &broken),
            (claimed(300_000), &absent),
            (claimed(299_999), &source(&bytes).0),
            (claimed(100), &source(&bytes).0),
            (claimed(300_001), &source(&bytes).0),
            (claimed(u64::MAX), &source(&bytes).0),
        ] {
            let error = cache.put_blob("ns", &blob, source, &()).await.unwrap_err();
            assert!(matches!(error, ClientError::Local { .. }), "{}: {error}", blob.size);
        }
    }
}

#[tokio::test]
async fn a_service_that_takes_nothing_is_given_up() {
    let server = Server::start(|_, _| vec![Step::Ignore, Step::Drip(vec![b'H'; 1_000], std::time::Duration::from_secs(1))]).await;
    let cache = server.cache().with_patience(curt());
    let error = put(&cache, &content(16_000_000)).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    let error = put(&server.cache().with_patience(curt()), b"x").await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    assert_eq!(server.seen().len(), 2);
}
