use crate::script::{Server, Step, config, content, curt, error, head, reply};
use preheat_cache_client::{Cache, CacheConfig, ClientError, Credentials, Expect, PutOutcome, Secret, Weighing};
use preheat_image::api::{FindMissing, Missing, NamespaceConfig, NamespaceKind, StatementList};
use preheat_image::key::field;
use preheat_image::keys::SecretKey;
use preheat_image::manifest::Descriptor;
use preheat_image::names::{Names, SignedNames};
use preheat_image::profile::{Provenance, Summary};
use preheat_image::statement::{Envelope, Kind};
use preheat_image::{Digest, KeyFields, Statement, media};
use std::collections::BTreeMap;

fn statement(cpu: &str, code: &[u8]) -> Envelope {
    let fields = KeyFields::new().with(field::KIND, "code-object").with(field::SOURCE, Digest::of(b"wasm")).with(field::CPU, cpu);
    Statement::new(Kind::CodeObject, "ns", fields, vec![Descriptor::of(media::CODE, code)]).sign(&SecretKey::from_seed([1; 32]))
}

fn json(value: &impl serde::Serialize) -> Vec<Step> {
    reply(200, &[("Content-Type", "application/json")], &serde_json::to_vec(value).unwrap())
}

#[tokio::test]
async fn many_digests_are_asked_for_in_parts_and_answers_to_other_questions_are_not_heard() {
    let digests: Vec<Digest> = (0..12_000u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
    let server = Server::start(|seen, _| {
        let Ok(FindMissing { digests }) = serde_json::from_slice(&seen.body) else { return error(400, "bad") };
        // Every second one, backwards, and one that was not asked for.
        let missing = digests.iter().step_by(2).rev().copied().chain([Digest::ZERO]).collect();
        json(&Missing { missing })
    })
    .await;
    let missing = server.cache().find_missing("ns", &digests).await.unwrap();
    let expected: Vec<Digest> = digests.iter().step_by(2).copied().collect();
    assert_eq!(missing, expected);
    let seen = server.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.path == "/v1/namespaces/ns/find-missing" && seen.method == "POST"));
    assert!(server.cache().find_missing("ns", &[]).await.unwrap().is_empty());
    assert_eq!(server.seen().len(), 3, "nothing to ask");
}

#[tokio::test]
async fn answers_are_bounded_and_have_to_make_sense() {
    let huge = |length: Option<usize>| vec![Step::Send(head(200, &[], length)), Step::Forever(vec![b'['; 100_000])];
    let endless = move |_: &_, _| huge(None);
    let claimed = move |_: &_, _| huge(Some(1 << 40));
    for server in [Server::start(endless).await, Server::start(claimed).await] {
        let cache = server.cache();
        let results = [
            cache.find_missing("ns", &[Digest::ZERO]).await.map(drop),
            cache.entry("ns", &Digest::ZERO).await.map(drop),
            cache.names("ns").await.map(drop),
            cache.root().await.map(drop),
            cache.revocations().await.map(drop),
            cache.namespaces().await.map(drop),
            cache.statistics().await.map(drop),
            cache.contribution("ns", &Digest::ZERO, &Digest::ZERO).await.map(drop),
            cache.profile_summary("ns", &Digest::ZERO, &Weighing::default()).await.map(drop),
            cache.profile_report("ns", &Digest::ZERO, &Weighing::default()).await.map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(ClientError::BadAnswer { .. })), "{result:?}");
        }
    }
    for garbage in ["", "{", "null", "[]", "{\"missing\":[\"sha256:xx\"]}", "\u{0}\u{1b}[2J", &"[".repeat(100_000)] {
        let body = garbage.as_bytes().to_vec();
        let server = Server::start(move |_, _| reply(200, &[], &body)).await;
        let cache = server.cache();
        let results = [
            cache.find_missing("ns", &[Digest::ZERO]).await.map(drop),
            cache.entry("ns", &Digest::ZERO).await.map(drop),
            cache.names("ns").await.map(drop),
            cache.root_number(3).await.map(drop),
            cache.revocations().await.map(drop),
            cache.namespace("ns").await.map(drop),
        ];
        for result in results {
            let error = result.unwrap_err();
            assert!(matches!(error, ClientError::BadAnswer { .. }), "{garbage}: {error}");
            assert!(!error.to_string().contains('\u{1b}'));
        }
        assert_eq!(server.seen().len(), 6, "garbage is not asked for again");
    }
}

#[tokio::test]
async fn errors_are_bounded_and_do_nothing_to_the_terminal() {
    let server = Server::start(|_, _| reply(403, &[], "{\"error\":\"x\",\"message\":\"\\u001b[2Jgone\"}".as_bytes())).await;
    let error = server.cache().statistics().await.unwrap_err();
    assert!(matches!(error, ClientError::Forbidden { .. }) && error.to_string().contains("[2Jgone"), "{error}");
    assert!(!error.to_string().contains('\u{1b}'));
    let server = Server::start(|_, _| vec![Step::Send(head(403, &[], None)), Step::Forever(vec![b'x'; 10_000])]).await;
    assert!(matches!(server.cache().statistics().await.unwrap_err(), ClientError::Forbidden { .. }));
}

#[tokio::test]
async fn paths_that_lead_elsewhere_are_not_asked_for() {
    let server = Server::start(|_, _| reply(200, &[], b"{}")).await;
    let cache = server.cache();
    for bad in ["", ".", "..", "a/b", "../v1", "a?b", "a#b", "a%2fb", "\u{e9}", "a b", "a\r\nX: y"] {
        let blob = crate::script::blob(b"x");
        let results = [
            cache.find_missing(bad, &[Digest::ZERO]).await.map(drop),
            cache.get_blob(bad, &blob, &mut Vec::new(), &()).await,
            cache.entry(bad, &Digest::ZERO).await.map(drop),
            cache.statements(bad, &Digest::ZERO).await.map(drop),
            cache.names(bad).await.map(drop),
            cache.delete_namespace(bad).await,
            cache.put_namespace(bad, &NamespaceConfig::new(NamespaceKind::Raw)).await.map(drop),
            cache.collect(bad, true).await.map(drop),
            cache.contributions(bad, &Digest::ZERO).await.map(drop),
            cache.profile_summary(bad, &Digest::ZERO, &Weighing::default()).await.map(drop),
        ];
        for result in results {
            assert!(matches!(result, Err(ClientError::Invalid(_))), "{bad:?}: {result:?}");
        }
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn statements_about_something_else_are_left_out_and_bad_ones_hide_nothing() {
    let (good, other) = (statement("x86-64-v2", b"code"), statement("x86-64-v3", b"other"));
    let list = StatementList::new([other.to_bytes(), b"junk".to_vec(), good.to_bytes()]);
    let server = Server::start(move |_, _| json(&list)).await;
    let cache = server.cache();
    let key = good.unverified().key;
    assert_eq!(cache.entry("ns", &key).await.unwrap(), std::slice::from_ref(&good));
    assert_eq!(cache.statements("ns", &Digest::of(b"code")).await.unwrap(), std::slice::from_ref(&good));
    let paths: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, [format!("/ns/ac/{}", key.hex()), format!("/v1/namespaces/ns/statements/{}", Digest::of(b"code").hex())]);
    let server = Server::start(|_, _| error(404, "no-entry")).await;
    assert!(server.cache().entry("ns", &key).await.unwrap().is_empty());
    let server = Server::start(|_, _| reply(201, &[], b"")).await;
    assert_eq!(server.cache().put_entry("ns", &good).await.unwrap(), PutOutcome::Created);
    let seen = &server.seen()[0];
    assert_eq!(Envelope::parse(&seen.body).unwrap(), good);
    assert_eq!(seen.header("content-type"), Some(media::STATEMENT));
}

fn names(number: u64) -> SignedNames {
    let key = SecretKey::from_seed([2; 32]);
    let mut names = SignedNames::new(Names::first("ns", 1, 100)).unwrap().sign(&key).unwrap();
    for _ in 1..number {
        names = SignedNames::new(Names::after(&names, 1, 100)).unwrap().sign(&key).unwrap();
    }
    names
}

#[tokio::test]
async fn names_are_replaced_only_as_expected() {
    let bytes = names(1).to_bytes();
    let server = Server::start(move |seen, _| match (seen.method.as_str(), seen.header("if-none-match")) {
        ("GET", Some("\"one\"")) => vec![Step::Send(head(304, &[("ETag", "\"one\"")], None))],
        ("GET", _) => reply(200, &[("ETag", "\"one\"")], &bytes),
        _ => reply(200, &[], b""),
    })
    .await;
    let cache = server.cache();
    let current = cache.names("ns").await.unwrap().unwrap();
    assert_eq!(current.names, names(1));
    let tag = current.etag.unwrap();
    assert_eq!(cache.names_unless("ns", &tag).await.unwrap(), None);
    cache.put_names("ns", &names(2), &Expect::Tag(tag)).await.unwrap();
    cache.put_names("ns", &names(1), &Expect::Absent).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[2].header("if-match"), Some("\"one\""));
    assert_eq!(seen[3].header("if-none-match"), Some("*"));
    assert_eq!(SignedNames::parse(&seen[2].body).unwrap(), names(2));
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_is_not_taken_for_somebody_elses() {
    for (there, mine) in [(names(2), true), (names(3), false)] {
        let bytes = there.to_bytes();
        let server = Server::start(move |seen, nth| match (seen.method.as_str(), nth) {
            ("PUT", 0) => Vec::new(),
            ("PUT", _) => error(412, "precondition-failed"),
            _ => reply(200, &[], &bytes),
        })
        .await;
        let result = server.cache().put_names("ns", &names(2), &Expect::Absent).await;
        assert_eq!(result.is_ok(), mine, "{result:?}");
        assert!(mine || matches!(result, Err(ClientError::Conflict { .. })));
    }
}

#[tokio::test]
async fn small_requests_are_tried_again_and_end_in_time() {
    let server = Server::start(|_, nth| match nth {
        0 => error(503, "overloaded"),
        1 => Vec::new(),
        _ => reply(200, &[], br#"{"missing":[]}"#),
    })
    .await;
    assert!(server.cache().find_missing("ns", &[Digest::ZERO]).await.unwrap().is_empty());
    assert_eq!(server.seen().len(), 3);
    let never = [
        vec![Step::Hang],
        vec![Step::Send(head(200, &[], Some(1_000))), Step::Drip(vec![b' '; 1_000], std::time::Duration::from_millis(20))],
    ];
    for script in never {
        let server = Server::start(move |_, _| script.clone()).await;
        let error = server.cache().with_patience(curt()).namespaces().await.unwrap_err();
        assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn small_requests_follow_no_redirect() {
    let elsewhere = Server::start(|_, _| reply(200, &[], b"[]")).await;
    let location = elsewhere.url();
    let server = Server::start(move |_, _| reply(307, &[("Location", &location)], b"")).await;
    assert!(matches!(server.cache().namespaces().await, Err(ClientError::BadAnswer { .. })));
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_token_is_sent_and_never_shown() {
    let server = Server::start(|_, _| error(401, "unauthorized")).await;
    let credentials = Credentials::Token(Secret::new("the-token"));
    let cache = Cache::new(CacheConfig { credentials, ..config(&server.url()) }).unwrap();
    let error = cache.namespaces().await.unwrap_err();
    assert_eq!(server.seen()[0].header("authorization"), Some("Bearer the-token"));
    assert!(!format!("{cache:?} {error:?} {error}").contains("the-token"));
    let bad = Credentials::Token(Secret::new("the-token\r\nX: y"));
    let error = Cache::new(CacheConfig { credentials: bad, ..config(&server.url()) }).unwrap_err();
    assert!(!error.to_string().contains("the-token"), "{error}");
}

#[tokio::test]
async fn contributions_are_verified() {
    let bytes = content(100);
    let served = bytes.clone();
    let server = Server::start(move |seen, _| if seen.method == "POST" { reply(201, &[], b"") } else { reply(200, &[], &served) }).await;
    let cache = server.cache();
    assert_eq!(cache.contribution("ns", &Digest::ZERO, &Digest::of(&bytes)).await.unwrap(), bytes);
    assert!(matches!(cache.contribution("ns", &Digest::ZERO, &Digest::of(b"x")).await, Err(ClientError::DigestMismatch { .. })));
    cache.add_contribution("ns", &Digest::ZERO, bytes.clone().into()).await.unwrap();
    assert!(cache.add_contribution("ns", &Digest::ZERO, vec![0; 9 << 20].into()).await.is_err());
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_summary_is_of_the_module_that_was_asked_for_and_comes_once() {
    let source = Digest::of(b"module");
    let bytes = Summary::new(source, Provenance::default(), BTreeMap::new()).unwrap().to_bytes();
    let served = bytes.clone();
    let server = Server::start(move |seen, _| {
        if seen.header("if-none-match") == Some("\"tag\"") {
            reply(304, &[("etag", "\"tag\"")], b"")
        } else {
            reply(200, &[("etag", "\"tag\"")], &served)
        }
    })
    .await;
    let cache = server.cache();
    let weighing = Weighing { half_life: Some(7200), cap: Some(5) };
    let found = cache.profile_summary("ns", &source, &weighing).await.unwrap().unwrap();
    assert_eq!((found.digest, found.summary.to_bytes()), (Digest::of(&bytes), bytes));
    assert!(server.seen()[0].path.ends_with("/summary?half-life=7200&cap=5"), "{:?}", server.seen()[0].path);
    assert_eq!(cache.profile_summary_unless("ns", &source, &weighing, &found.etag.unwrap()).await.unwrap(), None);
    assert!(matches!(cache.profile_summary("ns", &Digest::ZERO, &weighing).await, Err(ClientError::BadAnswer { .. })));
    let none = Server::start(|_, _| reply(404, &[], br#"{"error":"no-profile","message":"none"}"#)).await;
    assert_eq!(none.cache().profile_summary("ns", &source, &weighing).await.unwrap(), None);
    let hidden = Server::start(|_, _| reply(404, &[], br#"{"error":"no-namespace","message":"none"}"#)).await;
    assert!(hidden.cache().profile_summary("ns", &source, &weighing).await.is_err(), "not to be seen is not none");
}
