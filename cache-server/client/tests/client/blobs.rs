use crate::script::{Server, Step, blob, config, content, curt, error, hasty, head, reply, serve};
use preheat_cache_client::{Blob, BlobSink, Cache, CacheConfig, ClientError, Compression, Credentials, Patience, Progress, Secret};
use preheat_image::Digest;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

async fn get(cache: &Cache, blob: &Blob) -> (Vec<u8>, Result<(), ClientError>) {
    let mut bytes = Vec::new();
    let result = cache.get_blob("ns", blob, &mut bytes, &()).await;
    (bytes, result)
}

async fn got(cache: &Cache, bytes: &[u8]) {
    let (got, result) = get(cache, &blob(bytes)).await;
    result.unwrap();
    assert!(got == bytes);
}

async fn failure(cache: &Cache, blob: &Blob) -> ClientError {
    let (bytes, result) = get(cache, blob).await;
    assert!(bytes.len() as u64 <= blob.size, "{} bytes of {}", bytes.len(), blob.size);
    result.unwrap_err()
}

#[tokio::test]
async fn a_break_at_any_byte_is_taken_up_there() {
    let bytes = content(150);
    for cut in 0..=bytes.len() {
        let served = bytes.clone();
        let server = Server::start(move |seen, nth| serve(seen, &served, if nth == 0 { cut } else { usize::MAX })).await;
        got(&server.cache(), &bytes).await;
        let seen = server.seen();
        let range = seen.get(1).and_then(|seen| seen.header("range"));
        let expected = (1..bytes.len()).contains(&cut).then(|| format!("bytes={cut}-"));
        assert_eq!(range, expected.as_deref(), "after {cut} bytes");
        if expected.is_some() {
            assert_eq!(seen[1].header("if-range"), Some(format!("\"{}\"", Digest::of(&bytes)).as_str()));
        }
        assert_eq!(seen.len(), if cut == bytes.len() { 1 } else { 2 });
        assert_eq!(seen[0].path, format!("/ns/cas/{}", Digest::of(&bytes).hex()));
    }
}

#[tokio::test]
async fn a_break_inside_the_head_is_tried_again() {
    let bytes = content(10);
    let whole = head(200, &[], Some(10));
    for cut in 0..whole.len() {
        let (served, part) = (bytes.clone(), whole[..cut].to_vec());
        let server =
            Server::start(move |seen, nth| if nth == 0 { vec![Step::Send(part.clone())] } else { serve(seen, &served, usize::MAX) }).await;
        got(&server.cache(), &bytes).await;
    }
}

#[tokio::test]
async fn a_transfer_that_moves_forward_may_break_more_often_than_there_are_tries() {
    let bytes = content(50_000);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| serve(seen, &served, 2_000)).await;
    got(&server.cache(), &bytes).await;
    assert_eq!(server.seen().len(), 25);
    // A byte each time is no movement.
    let served = bytes.clone();
    let server = Server::start(move |seen, _| serve(seen, &served, 1)).await;
    assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::Unreachable { .. }));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_server_without_ranges_begins_anew() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let server = Server::start(move |_, nth| {
        let limit = if nth == 0 { 1_000 } else { 3_000 };
        vec![Step::Send(head(200, &[], Some(3_000))), Step::Send(served[..limit].to_vec())]
    })
    .await;
    got(&server.cache(), &bytes).await;
    let server = Server::start({
        let served = bytes.clone();
        move |seen, nth| match nth {
            0 => serve(seen, &served, 1_000),
            1 => error(416, "range"),
            _ => serve(seen, &served, usize::MAX),
        }
    })
    .await;
    got(&server.cache(), &bytes).await;
    assert_eq!(server.seen()[2].header("range"), None);
}

#[tokio::test]
async fn pieces_of_different_bytes_are_not_put_together() {
    let bytes = content(3_000);
    let other = vec![0; 3_000];
    // The rest comes from something else under the same tag; asked for whole, it is right.
    let (served, wrong) = (bytes.clone(), other.clone());
    let server = Server::start(move |seen, nth| match nth {
        0 => serve(seen, &served, 1_000),
        1 => reply(206, &[("Content-Range", "bytes 1000-2999/3000")], &wrong[1_000..]),
        _ => serve(seen, &served, usize::MAX),
    })
    .await;
    got(&server.cache(), &bytes).await;
    assert_eq!(server.seen().len(), 3);
    assert_eq!(server.seen()[2].header("range"), None);
    // Wrong each time: it ends.
    let served = bytes.clone();
    let server = Server::start(move |seen, nth| {
        if nth % 2 == 0 { serve(seen, &served, 1_000) } else { reply(206, &[("Content-Range", "bytes 1000-2999/3000")], &other[1_000..]) }
    })
    .await;
    assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::DigestMismatch { .. }));
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn wrong_bytes_are_an_error_at_once() {
    let bytes = content(3_000);
    let mut wrong = bytes.clone();
    wrong[1_234] ^= 1;
    let server = Server::start(move |_, _| reply(200, &[], &wrong)).await;
    match failure(&server.cache(), &blob(&bytes)).await {
        ClientError::DigestMismatch { wanted, found, .. } => assert!(wanted == Digest::of(&bytes) && found != wanted),
        other => panic!("{other}"),
    }
    assert_eq!(server.seen().len(), 1, "the same bytes again would not help");
}

#[tokio::test]
async fn a_length_that_is_not_the_blobs_is_an_error() {
    let bytes = content(3_000);
    for lie in [0, 2_999, 3_001, 1 << 40] {
        let served = bytes.clone();
        let server = Server::start(move |_, _| vec![Step::Send(head(200, &[], Some(lie))), Step::Send(served.clone())]).await;
        assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }), "{lie}");
    }
    for range in ["bytes 0-2999/3000", "bytes 1000-2999/3001", "bytes 1000-2998/3000", "", "bytes */3000"] {
        let served = bytes.clone();
        let server =
            Server::start(
                move |seen, nth| {
                    if nth == 0 { serve(seen, &served, 1_000) } else { reply(206, &[("Content-Range", range)], &served[1_000..]) }
                },
            )
            .await;
        assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }), "{range}");
    }
    // A part that nobody asked for.
    let served = bytes.clone();
    let server = Server::start(move |_, _| reply(206, &[("Content-Range", "bytes 0-2999/3000")], &served)).await;
    assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }));
}

#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let bytes = content(3_000);
    let mut chunk = b"800\r\n".to_vec();
    chunk.extend_from_slice(&[0; 0x800]);
    chunk.extend_from_slice(b"\r\n");
    let server =
        Server::start(move |_, _| vec![Step::Send(head(200, &[("Transfer-Encoding", "chunked")], None)), Step::Forever(chunk.clone())])
            .await;
    assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }));
    // Also right bytes do not excuse what follows them.
    let served = bytes.clone();
    let server =
        Server::start(move |_, _| vec![Step::Send(head(200, &[], None)), Step::Send(served.clone()), Step::Forever(vec![7; 100])]).await;
    assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }));
}

#[tokio::test]
async fn a_body_without_length_is_fine_when_it_is_right() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let server = Server::start(move |_, _| vec![Step::Send(head(200, &[], None)), Step::Send(served.clone())]).await;
    got(&server.cache(), &bytes).await;
    let server = Server::start(|_, _| reply(200, &[], b"")).await;
    got(&server.cache(), b"").await;
}

#[tokio::test]
async fn a_drip_counts_as_a_break() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let server =
        Server::start(move |_, _| vec![Step::Send(head(200, &[], Some(3_000))), Step::Drip(served.clone(), Duration::from_millis(20))])
            .await;
    let cache = server.cache().with_patience(curt());
    assert!(matches!(failure(&cache, &blob(&bytes)).await, ClientError::TimedOut { .. }));
    assert_eq!(server.seen().len(), 2);
    let server = Server::start(|_, _| vec![Step::Hang]).await;
    assert!(matches!(failure(&server.cache().with_patience(curt()), &blob(&bytes)).await, ClientError::TimedOut { .. }));
}

#[tokio::test]
async fn who_is_overloaded_is_asked_again() {
    let bytes = content(300);
    for status in [429, 500, 502, 503, 504] {
        let served = bytes.clone();
        let server = Server::start(
            move |seen, nth| {
                if nth < 2 { reply(status, &[("Retry-After", "0")], b"") } else { serve(seen, &served, usize::MAX) }
            },
        )
        .await;
        got(&server.cache(), &bytes).await;
        assert_eq!(server.seen().len(), 3);
        let server = Server::start(move |_, _| error(status, "overloaded")).await;
        assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::Overloaded { .. }));
        assert_eq!(server.seen().len(), 4);
    }
    // Nobody waits for longer than there is time.
    let server = Server::start(|_, _| reply(429, &[("Retry-After", "86400")], b"")).await;
    let error = failure(&server.cache(), &blob(&bytes)).await;
    assert!(matches!(error, ClientError::Overloaded { retry_after: Some(wait), .. } if wait == Duration::from_secs(86_400)));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_is_final_is_asked_once() {
    let blob = blob(b"x");
    for (status, check) in [
        (401, (|error| matches!(error, ClientError::Unauthorized { .. })) as fn(&ClientError) -> bool),
        (403, |error| matches!(error, ClientError::Forbidden { .. })),
        (404, |error| error.is_not_found()),
        (410, |error| matches!(error, ClientError::Refused { .. })),
    ] {
        let server = Server::start(move |_, _| error(status, "a-code")).await;
        let error = failure(&server.cache(), &blob).await;
        assert!(check(&error), "{error}");
        assert!(error.to_string().contains("said by the test"), "{error}");
        assert_eq!(server.seen().len(), 1);
        if status == 401 {
            assert!(error.to_string().contains(&format!("preheat login {}", server.address)), "{error}");
        }
    }
}

struct Failing(usize);

impl BlobSink for Failing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0 += bytes.len();
        Err(io::Error::from(io::ErrorKind::StorageFull))
    }

    fn restart(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_full_disk_is_not_the_caches_fault() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await;
    let error = server.cache().get_blob("ns", &blob(&bytes), &mut Failing(0), &()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Local { .. }) && !error.blames_service(), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[derive(Default)]
struct Steps(Mutex<Vec<u64>>);

impl Progress for Steps {
    fn moved(&self, _: &Blob, done: u64) {
        self.0.lock().unwrap().push(done);
    }

    fn finished(&self, _: &Blob) {
        self.0.lock().unwrap().push(u64::MAX);
    }
}

#[tokio::test]
async fn progress_ends_only_with_a_verified_blob() {
    let bytes = content(3_000);
    let mut wrong = bytes.clone();
    wrong[0] ^= 1;
    for (served, good) in [(bytes.clone(), true), (wrong, false)] {
        let server = Server::start(move |_, _| reply(200, &[], &served)).await;
        let steps = Steps::default();
        let result = server.cache().get_blob("ns", &blob(&bytes), &mut Vec::new(), &steps).await;
        assert_eq!(result.is_ok(), good);
        let steps = steps.0.into_inner().unwrap();
        assert!(steps.contains(&3_000));
        assert_eq!(steps.last() == Some(&u64::MAX), good);
    }
}

fn squeezed(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

const ZSTD: &[(&str, &str)] = &[("Content-Encoding", "zstd")];

#[tokio::test]
async fn compressed_blobs_are_unpacked_and_a_break_goes_on_without_compression() {
    let bytes: Vec<u8> = content(500).repeat(80);
    let packed = squeezed(&bytes);
    assert!(packed.len() < 2_000);
    for cut in (0..=packed.len()).step_by(13).chain([packed.len()]) {
        let (served, part) = (bytes.clone(), packed.clone());
        let server = Server::start(move |seen, nth| {
            if nth == 0 {
                vec![Step::Send(head(200, ZSTD, Some(part.len()))), Step::Send(part[..cut].to_vec())]
            } else {
                serve(seen, &served, usize::MAX)
            }
        })
        .await;
        got(&server.compressing(), &bytes).await;
        let seen = server.seen();
        assert_eq!(seen[0].header("accept-encoding"), Some("zstd"));
        if let Some(second) = seen.get(1).filter(|second| second.header("range").is_some()) {
            assert_eq!(second.header("accept-encoding"), Some("identity"));
            assert_eq!(second.header("if-range"), Some(format!("\"{}\"", Digest::of(&bytes)).as_str()));
        }
    }
    // A frame that ends early, in an answer that does not break.
    let (served, part) = (bytes.clone(), packed[..packed.len() / 2].to_vec());
    let server = Server::start(move |seen, nth| if nth == 0 { reply(200, ZSTD, &part) } else { serve(seen, &served, usize::MAX) }).await;
    got(&server.compressing(), &bytes).await;
}

#[tokio::test]
async fn compression_is_asked_for_only_where_it_pays() {
    let small = content(100);
    let served = small.clone();
    let server = Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await;
    got(&server.compressing(), &small).await;
    let large = content(100_000);
    let served = large.clone();
    let on_loopback = Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await;
    got(&Cache::new(CacheConfig { compression: Compression::Auto, ..config(&on_loopback.url()) }).unwrap(), &large).await;
    for server in [server, on_loopback] {
        assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
    }
}

#[tokio::test]
async fn a_bomb_does_not_go_off() {
    let bytes = content(40_000);
    let bombs = [
        // A thousand times the size.
        squeezed(&vec![0; 40_000_000]),
        // One byte more.
        squeezed(&[bytes.as_slice(), b"x"].concat()),
        // The whole blob, and more after it.
        [squeezed(&bytes), squeezed(b"x")].concat(),
        // A window that is larger than anybody has to have.
        {
            let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
            encoder.window_log(27).unwrap();
            encoder.include_contentsize(false).unwrap();
            io::Write::write_all(&mut encoder, &bytes).unwrap();
            encoder.finish().unwrap()
        },
        // Not zstd.
        bytes.clone(),
    ];
    for bomb in bombs {
        let server = Server::start(move |_, _| reply(200, ZSTD, &bomb)).await;
        let error = failure(&server.compressing(), &blob(&bytes)).await;
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{error}");
    }
    // Frames that hold nothing, without end.
    let mut nothing = 0x184D_2A50u32.to_le_bytes().to_vec();
    nothing.extend_from_slice(&1_000u32.to_le_bytes());
    nothing.extend_from_slice(&[0; 1_000]);
    let server = Server::start(move |_, _| vec![Step::Send(head(200, ZSTD, None)), Step::Forever(nothing.clone())]).await;
    assert!(matches!(failure(&server.compressing(), &blob(&bytes)).await, ClientError::BadAnswer { .. }));
}

#[tokio::test]
async fn a_coding_that_nobody_asked_for_is_refused() {
    let bytes = content(3_000);
    for coding in ["gzip", "zstd, zstd", "br"] {
        let served = bytes.clone();
        let server = Server::start(move |_, _| reply(200, &[("Content-Encoding", coding)], &served)).await;
        assert!(matches!(failure(&server.cache(), &blob(&bytes)).await, ClientError::BadAnswer { .. }), "{coding}");
    }
}

fn with_token(server: &Server) -> Cache {
    Cache::new(CacheConfig { credentials: Credentials::Token(Secret::new("the-token")), ..config(&server.url()) }).unwrap()
}

#[tokio::test]
async fn a_redirect_to_the_storage_gets_no_token_and_goes_on_after_a_break() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let bucket = Server::start(move |seen, nth| serve(seen, &served, if nth == 0 { 1_000 } else { usize::MAX })).await;
    let location = format!("{}/bucket/key?X-Amz-Signature=secret", bucket.url());
    let server = Server::start(move |_, _| reply(307, &[("Location", &location)], b"")).await;
    got(&with_token(&server), &bytes).await;
    for seen in server.seen() {
        assert_eq!(seen.header("authorization"), Some("Bearer the-token"));
    }
    let seen = bucket.seen();
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none() && seen.header("referer").is_none()));
    assert_eq!(seen[1].header("range"), Some("bytes=1000-"));
    assert!(seen[0].path.contains("X-Amz-Signature=secret"));
}

#[tokio::test]
async fn a_redirect_that_ran_out_is_made_anew_and_its_address_is_not_shown() {
    let bytes = content(3_000);
    let served = bytes.clone();
    let bucket =
        Server::start(move |seen, nth| if nth == 0 { reply(403, &[], b"<Error/>") } else { serve(seen, &served, usize::MAX) }).await;
    let location = format!("{}/bucket/key?X-Amz-Signature=secret", bucket.url());
    let server = Server::start(move |_, _| reply(302, &[("Location", &location)], b"")).await;
    got(&with_token(&server), &bytes).await;
    assert_eq!(server.seen().len(), 2);
    let bucket = Server::start(|_, _| reply(403, &[], b"<Error/>")).await;
    let location = format!("{}/bucket/key?X-Amz-Signature=secret", bucket.url());
    let server = Server::start(move |_, _| reply(302, &[("Location", &location)], b"")).await;
    let error = failure(&with_token(&server), &blob(&bytes)).await;
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
}

#[tokio::test]
async fn redirects_lead_only_where_they_may() {
    let blob = blob(b"x");
    for location in ["", "ftp://127.0.0.1/x", "file:///etc/passwd", "http://user:pass@127.0.0.1/x", "http://"] {
        let server = Server::start(move |_, _| reply(302, &[("Location", location)], b"")).await;
        let error = failure(&with_token(&server), &blob).await;
        // The empty one leads to itself, for ever.
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{location}: {error}");
    }
    let server = Server::start(|_, _| reply(302, &[], b"")).await;
    assert!(matches!(failure(&with_token(&server), &blob).await, ClientError::BadAnswer { .. }));
    // Back to the service through a stranger: without the token.
    let server =
        Server::start(
            |seen, _| {
                if seen.path.starts_with("/ns/") { reply(302, &[("Location", "/elsewhere")], b"") } else { reply(200, &[], b"x") }
            },
        )
        .await;
    get(&with_token(&server), &blob).await.1.unwrap();
    assert_eq!(server.seen()[1].header("authorization"), None);
}

#[tokio::test]
async fn nobody_there_is_said_after_all_tries() {
    let address = Server::start(|_, _| Vec::new()).await.address;
    let cache = Cache::new(config(&format!("http://{address}"))).unwrap().with_patience(Patience { attempts: 2, ..hasty() });
    // The listener is gone as soon as its task ended.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(matches!(failure(&cache, &blob(b"x")).await, ClientError::Unreachable { .. }));
}
