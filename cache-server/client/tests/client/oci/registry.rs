use super::{client, failure, registry};
use crate::script::{Server, Step, blob, content, head, reply, serve};
use preheat_cache_client::oci::{Registry, RegistryConfig, RegistryCredentials, Repository as _, Scheme, Version};
use preheat_cache_client::{ClientError, Secret};
use preheat_image::Digest;

fn basic() -> RegistryConfig {
    let credentials = RegistryCredentials::Basic { user: "user".into(), password: Secret::new("hunter2") };
    RegistryConfig { credentials, ..RegistryConfig::default() }
}

/// `user:hunter2`
const BASIC: &str = "Basic dXNlcjpodW50ZXIy";

#[tokio::test]
async fn basic_credentials_are_sent_once_they_are_asked_for() {
    let (server, _) = registry(|seen, _| {
        let ask = || failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", "Basic realm=\"x\"")]);
        (seen.header("authorization") != Some(BASIC)).then(ask)
    })
    .await;
    let fine = client(&server, basic());
    fine.ping().await.unwrap();
    fine.ping().await.unwrap();
    let sent: Vec<bool> = server.seen().iter().map(|seen| seen.header("authorization").is_some()).collect();
    assert_eq!(sent, [false, true, true]);
    let error = client(&server, RegistryConfig::default()).ping().await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error}");
}

#[tokio::test]
async fn wrong_credentials_end_at_once_and_are_not_said() {
    let (server, _) = registry(|_, _| Some(failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", "Basic realm=\"x\"")]))).await;
    let registry = client(&server, basic());
    let error = registry.ping().await.unwrap_err();
    assert!(matches!(error, ClientError::Unauthorized { .. }), "{error}");
    assert!(!error.to_string().contains("hunter2"));
    assert_eq!(server.seen().len(), 2);
}

/// A token service, and a registry that wants its tokens: a pull token for reading, a push token for writing.
async fn with_tokens(life: u64) -> (Server, Server) {
    let tokens = Server::start(move |seen, _| {
        if seen.header("authorization") != Some(BASIC) {
            return failure(401, "UNAUTHORIZED", &[]);
        }
        let scope = seen.path.rsplit("scope=repository%3Ateam%2Fapp%3A").next().unwrap_or_default();
        let token = if scope == "pull%2Cpush" { "push" } else { "pull" };
        reply(200, &[], format!(r#"{{"token":"{token}","expires_in":{life}}}"#).as_bytes())
    })
    .await;
    let realm = format!("{}/token", tokens.url());
    let (server, _) = registry(move |seen, _| {
        let writes = !matches!(seen.method.as_str(), "GET" | "HEAD");
        let fine = match seen.header("authorization") {
            Some("Bearer push") => true,
            Some("Bearer pull") => !writes,
            _ => false,
        };
        let header = format!(r#"Bearer realm="{realm}",service="registry",scope="repository:other/repository:*""#);
        (!fine).then(|| failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", &header)]))
    })
    .await;
    (server, tokens)
}

#[tokio::test]
async fn a_token_is_fetched_once_for_each_right_and_only_for_our_repository() {
    let (server, tokens) = with_tokens(300).await;
    let registry = client(&server, basic());
    let content = content(100);
    for _ in 0..2 {
        assert!(!registry.has_blob(&blob(b"other")).await.unwrap());
        registry.put_blob(&blob(&content), &super::upload(&content).source, &()).await.unwrap();
        registry.put_manifest(Some("v1"), "application/json", b"{}").await.unwrap();
    }
    let asked: Vec<String> = tokens.seen().iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(
        asked,
        [
            "/token?service=registry&scope=repository%3Ateam%2Fapp%3Apull",
            "/token?service=registry&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
        ]
    );
}

#[tokio::test]
async fn a_token_that_ends_is_fetched_again() {
    let (server, tokens) = with_tokens(0).await;
    let registry = client(&server, basic());
    assert!(!registry.has_blob(&blob(b"other")).await.unwrap());
    assert!(!registry.has_blob(&blob(b"other")).await.unwrap());
    assert_eq!(tokens.seen().len(), 2);
}

#[tokio::test]
async fn many_requests_at_a_time_fetch_one_token() {
    let (server, tokens) = with_tokens(300).await;
    let registry = client(&server, basic());
    let missing = blob(b"other");
    let asked = (0..20).map(|_| registry.has_blob(&missing));
    assert!(futures_util::future::join_all(asked).await.into_iter().all(|there| !there.unwrap()));
    assert_eq!(tokens.seen().len(), 1);
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_broke() {
    let content = content(300_000);
    let served = content.clone();
    let (server, _) =
        registry(move |seen, nth| (seen.method == "GET").then(|| serve(seen, &served, if nth < 3 { 50_000 } else { usize::MAX }))).await;
    let mut sink = Vec::new();
    client(&server, RegistryConfig::default()).get_blob(&blob(&content), &mut sink, &()).await.unwrap();
    assert_eq!(sink, content);
    let ranges: Vec<Option<String>> = server.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".into()), Some("bytes=100000-".into()), Some("bytes=150000-".into())]);
}

#[tokio::test]
async fn storage_on_another_host_gets_no_credentials() {
    let content = content(1000);
    let served = content.clone();
    let storage = Server::start(move |seen, _| serve(seen, &served, usize::MAX)).await;
    let elsewhere = format!("{}/bucket/x?signature=s", storage.url());
    let (server, _) = registry(move |seen, _| match (seen.header("authorization"), seen.method.as_str()) {
        (None, _) => Some(failure(401, "UNAUTHORIZED", &[("WWW-Authenticate", "Basic")])),
        (_, "GET" | "HEAD") => Some(reply(307, &[("Location", &elsewhere)], b"")),
        _ => None,
    })
    .await;
    let registry = client(&server, basic());
    let mut sink = Vec::new();
    registry.get_blob(&blob(&content), &mut sink, &()).await.unwrap();
    assert_eq!(sink, content);
    assert!(registry.has_blob(&blob(&content)).await.unwrap());
    assert_eq!(storage.seen().len(), 1, "the address may be good for GET only");
    assert!(storage.seen()[0].header("authorization").is_none());
}

#[tokio::test]
async fn what_is_missing_is_said_with_address_and_code() {
    let (server, _) = registry(|_, _| None).await;
    let registry = client(&server, RegistryConfig::default());
    let error = registry.manifest(&Version::Tag("v9".into())).await.unwrap_err();
    assert!(matches!(&error, ClientError::NotFound { code, .. } if code == "MANIFEST_UNKNOWN"), "{error}");
    assert!(error.to_string().contains("/v2/team/app/manifests/v9"), "{error}");
    assert_eq!(server.seen().len(), 1, "not tried again");
    assert!(!registry.has_blob(&blob(b"x")).await.unwrap());
}

#[tokio::test]
async fn a_registry_that_has_too_much_to_do_is_asked_again() {
    let (server, shelf) = registry(|_, nth| (nth < 2).then(|| failure(429, "TOOMANYREQUESTS", &[("Retry-After", "0")]))).await;
    shelf.lock().unwrap().manifests.insert("v1".into(), b"{}".to_vec());
    let found = client(&server, RegistryConfig::default()).manifest(&Version::Tag("v1".into())).await.unwrap();
    assert_eq!(found.digest, Digest::of(b"{}"));
}

#[tokio::test]
async fn a_far_registry_is_spoken_to_with_tls_unless_asked_otherwise() {
    let reference = "oci://registry.invalid/a:t".parse().unwrap();
    let error = |scheme| async move {
        let registry = Registry::new(&reference_of(), RegistryConfig { scheme, patience: crate::script::curt(), ..basic() }).unwrap();
        registry.ping().await.unwrap_err().to_string()
    };
    fn reference_of() -> preheat_cache_client::oci::Reference {
        "oci://registry.invalid/a:t".parse().unwrap()
    }
    let registry = Registry::new(&reference, RegistryConfig::default()).unwrap();
    assert_eq!(registry.shown(), "registry.invalid/a");
    assert!(error(Scheme::Auto).await.contains("https://registry.invalid/v2/"));
    assert!(error(Scheme::Http).await.contains("http://registry.invalid/v2/"));
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends() {
    let (server, _) = registry(|_, _| Some(vec![Step::Send(head(200, &[], Some(10))), Step::Hang])).await;
    let config = RegistryConfig { patience: crate::script::curt(), ..RegistryConfig::default() };
    let registry = Registry::new(&super::reference(&server), config).unwrap();
    let error = registry.manifest(&Version::Tag("v1".into())).await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
}
