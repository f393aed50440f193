//! Registries that mean harm.

use super::{client, failure, image, is_mismatch, registry};
use crate::script::{Server, Step, blob, content, head, reply};
use preheat_cache_client::oci::{IMAGE_MANIFEST, RegistryConfig, RegistryCredentials, Repository as _, Version, open, push};
use preheat_cache_client::{ClientError, Secret};
use preheat_image::Digest;

fn basic() -> RegistryConfig {
    let credentials = RegistryCredentials::Basic { user: "user".into(), password: Secret::new("hunter2") };
    RegistryConfig { credentials, ..RegistryConfig::default() }
}

fn tag() -> Version {
    Version::Tag("v1".into())
}

#[tokio::test]
async fn other_bytes_for_a_digest_are_refused() {
    let (server, shelf) = registry(|_, _| None).await;
    let (wanted, given) = (content(1000), [content(999), vec![0]].concat());
    shelf.lock().unwrap().blobs.insert(blob(&wanted).digest.to_string(), given.clone());
    shelf.lock().unwrap().manifests.insert(Digest::of(b"wanted").to_string(), b"given".to_vec());
    let registry = client(&server, RegistryConfig::default());
    let error = registry.get_blob(&blob(&wanted), &mut Vec::new(), &()).await.unwrap_err();
    assert!(is_mismatch(&error), "{error}");
    let error = registry.manifest(&Version::Digest(Digest::of(b"wanted"))).await.unwrap_err();
    assert!(is_mismatch(&error), "{error}");
}

#[tokio::test]
async fn a_manifest_that_is_not_what_the_registry_calls_it_is_refused() {
    let claimed = Digest::of(b"other").to_string();
    let (server, _) =
        registry(move |_, _| Some(reply(200, &[("Content-Type", IMAGE_MANIFEST), ("Docker-Content-Digest", &claimed)], b"{}"))).await;
    let error = client(&server, RegistryConfig::default()).manifest(&tag()).await.unwrap_err();
    assert!(is_mismatch(&error), "{error}");
}

#[tokio::test]
async fn endless_answers_end() {
    for kind in ["manifests", "blobs", "token"] {
        let tokens = Server::start(|_, _| vec![Step::Send(head(200, &[], None)), Step::Forever(vec![b' '; 65536])]).await;
        let realm = format!("Bearer realm=\"{}/token\"", tokens.url());
        let (server, _) = registry(move |_, _| {
            Some(match kind {
                "token" => failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", &realm)]),
                _ => vec![Step::Send(head(200, &[("Content-Type", IMAGE_MANIFEST)], None)), Step::Forever(vec![b' '; 65536])],
            })
        })
        .await;
        let registry = client(&server, basic());
        let mut sink = Vec::new();
        let error = match kind {
            "blobs" => registry.get_blob(&blob(&content(1000)), &mut sink, &()).await.unwrap_err(),
            _ => registry.manifest(&tag()).await.unwrap_err(),
        };
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{kind}: {error}");
        assert!(sink.len() <= 1000, "nothing beyond the size of the blob");
    }
}

#[tokio::test]
async fn a_size_that_is_claimed_is_not_believed() {
    let (packed, _) = image(&[content(10)]);
    let text = String::from_utf8(packed.manifest_bytes().to_vec()).unwrap();
    for (from, to) in
        [("\"size\":10,", "\"size\":11,"), ("\"size\":10,", "\"size\":9223372036854775807,"), ("\"size\":9,", "\"size\":2000000,")]
    {
        assert!(text.contains(from), "{text}");
        let (server, shelf) = registry(|_, _| None).await;
        let registry = client(&server, RegistryConfig::default());
        let (packed, uploads) = image(&[content(10)]);
        push(&registry, Some("good"), &packed, &uploads, 2, &()).await.unwrap();
        shelf.lock().unwrap().manifests.insert("v1".into(), text.replace(from, to).into_bytes());
        let error = open(&registry, &tag()).await.unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{to}: {error}");
    }
}

#[tokio::test]
async fn credentials_do_not_go_to_a_token_service_that_is_not_safe() {
    for realm in ["http://auth.example/token", "ftp://auth.example/", "file:///etc/passwd", "https://u:p@auth.example/", "x"] {
        let header = format!("Bearer realm=\"{realm}\",service=\"s\"");
        let (server, _) = registry(move |_, _| Some(failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", &header)]))).await;
        let error = client(&server, basic()).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, ClientError::BadAnswer { .. }), "{realm}: {error}");
        assert!(server.seen().iter().all(|seen| seen.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn a_token_service_that_redirects_is_not_followed() {
    let thief = Server::start(|_, _| reply(200, &[], br#"{"token":"t"}"#)).await;
    let address = thief.url();
    let tokens = Server::start(move |_, _| reply(302, &[("Location", &address)], b"")).await;
    let header = format!("Bearer realm=\"{}/token\"", tokens.url());
    let (server, _) = registry(move |_, _| Some(failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", &header)]))).await;
    assert!(client(&server, basic()).manifest(&tag()).await.is_err());
    assert_eq!(thief.seen().len(), 0);
}

#[tokio::test]
async fn a_token_goes_to_the_registry_only() {
    let thief = Server::start(|seen, _| match seen.method.as_str() {
        // It sends back, to have the token sent where it wants.
        "GET" => reply(302, &[("Location", seen.path.trim_start_matches("/steal?to="))], b""),
        _ => reply(201, &[], b""),
    })
    .await;
    let tokens = Server::start(|_, _| reply(200, &[], br#"{"access_token":"precious","expires_in":300}"#)).await;
    let header = format!("Bearer realm=\"{}/token\"", tokens.url());
    let base = thief.url();
    let (server, _) = registry(move |seen, _| {
        if seen.header("authorization").is_none() && !seen.path.starts_with("/back") {
            return Some(failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", &header)]));
        }
        let back = format!("http://{}/back", seen.header("host").unwrap_or_default());
        match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/back") => Some(failure(404, "x", &[])),
            ("GET", _) => Some(reply(307, &[("Location", &format!("{base}/steal?to={back}"))], b"")),
            ("POST", _) => Some(reply(202, &[("Location", &format!("{base}/upload"))], b"")),
            _ => None,
        }
    })
    .await;
    let registry = client(&server, basic());
    let content = content(100);
    assert!(registry.get_blob(&blob(&content), &mut Vec::new(), &()).await.is_err());
    // Where it says that an upload goes, the bytes go; they are its own soon anyway.
    registry.put_blob(&blob(&content), &super::upload(&content).source, &()).await.unwrap();
    assert!(thief.seen().iter().any(|seen| seen.method == "PUT"));
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_none()), "{:?}", thief.seen());
    let back: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/back").collect();
    assert!(!back.is_empty() && back.iter().all(|seen| seen.header("authorization").is_none()));
}

#[tokio::test]
async fn redirects_without_end_end() {
    let (server, _) = registry(|seen, _| Some(reply(307, &[("Location", &format!("{}x", seen.path))], b""))).await;
    let registry = client(&server, RegistryConfig::default());
    assert!(matches!(registry.manifest(&tag()).await.unwrap_err(), ClientError::BadAnswer { .. }));
    assert!(matches!(registry.has_blob(&blob(b"x")).await.unwrap_err(), ClientError::BadAnswer { .. }));
    assert!(server.seen().len() < 20);
}

#[tokio::test]
async fn what_a_registry_says_does_nothing_to_the_terminal() {
    let body = r#"{"errors":[{"code":"\u001b[2J","message":"\u001b]0;x\u0007 hi"}]}"#;
    let (server, _) = registry(move |_, _| Some(reply(400, &[], body.as_bytes()))).await;
    let error = client(&server, RegistryConfig::default()).manifest(&tag()).await.unwrap_err().to_string();
    assert!(error.contains("hi") && !error.contains(|c: char| c.is_control()), "{error:?}");
}

#[tokio::test]
async fn a_registry_that_took_something_else_is_noticed() {
    let claimed = Digest::of(b"other").to_string();
    let (server, _) =
        registry(move |seen, _| (seen.method == "PUT").then(|| reply(201, &[("Docker-Content-Digest", &claimed)], b""))).await;
    let registry = client(&server, RegistryConfig::default());
    assert!(is_mismatch(&registry.put_manifest(Some("v1"), IMAGE_MANIFEST, b"{}").await.unwrap_err()));
    let content = content(10);
    assert!(is_mismatch(&registry.put_blob(&blob(&content), &super::upload(&content).source, &()).await.unwrap_err()));
}
