//! Collection as a request.

#![allow(missing_docs, reason = "tests")]

use http::StatusCode;
use preheat_cache_server::{Config, Server};
use preheat_image::Digest;
use preheat_image::api::{CollectReport, ErrorBody, NamespaceConfig, NamespaceKind};
use serde_json::json;

#[tokio::test]
async fn an_admin_collects_and_what_was_just_pushed_stays() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().unwrap();
    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), directory: directory.path().join("cache"), ..Config::default() };
    config.namespaces.insert("team".into(), NamespaceConfig::new(NamespaceKind::Preheat));
    let server = Server::start(config).await.unwrap();
    let token = server.admin_token().unwrap_or_default().to_owned();
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", server.addr());
    let collect = async |namespace: &str, body: &str| {
        let path = format!("/v1/namespaces/{namespace}/collect");
        client.post(url(&path)).bearer_auth(&token).body(body.to_owned()).send().await.unwrap()
    };
    let digest = Digest::of(b"blob");
    let put = client.put(url(&format!("/team/cas/{}", digest.hex()))).bearer_auth(&token).body("blob").send().await.unwrap();
    assert_eq!(put.status(), StatusCode::CREATED);
    let held = |dry_run| CollectReport { dry_run, seen: 1, held: 1, removed: 0, removed_bytes: 0, kept_bytes: 4 };
    for (body, dry_run) in [(String::new(), true), ("{}".into(), true), (json!({ "dryRun": false }).to_string(), false)] {
        let answer = collect("team", &body).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.json::<CollectReport>().await.unwrap(), held(dry_run));
    }
    // What an interrupted removal left behind goes, if the collection is not only to look.
    let hex = Digest::of(b"gone").hex();
    let shard = directory.path().join("cache/ns/team/cas").join(&hex[..2]);
    std::fs::create_dir_all(&shard).unwrap();
    let orphan = shard.join(format!("{}.chunks", &hex[2..]));
    std::fs::write(&orphan, [0; 64]).unwrap();
    assert_eq!(collect("team", "{}").await.status(), StatusCode::OK);
    assert!(orphan.exists());
    assert_eq!(collect("team", r#"{"dryRun":false}"#).await.json::<CollectReport>().await.unwrap(), held(false));
    assert!(!orphan.exists());
    for body in ["junk", "[]", r#"{"dryRun":1}"#, r#"{"dryRun":true,"more":1}"#] {
        let answer = collect("team", body).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.json::<ErrorBody>().await.unwrap().error, "bad-json");
    }
    assert_eq!(collect("nowhere", "").await.status(), StatusCode::NOT_FOUND);
    let anonymous = client.post(url("/v1/namespaces/team/collect")).send().await.unwrap();
    assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
    server.shutdown().await.unwrap();
}
