//! The command itself: starting on nothing, stopping when asked, and what it writes where.

#[path = "common/process.rs"]
mod process;

use preheat_image::Digest;
use process::{Running, client, token};
use std::process::Command;

#[tokio::test]
async fn the_first_start_on_nothing_makes_a_cache_and_says_its_token_once() {
    let directory = tempfile::tempdir().unwrap();
    let cache = directory.path().join("new/cache");
    let first = Running::start(&cache, &[]);
    assert!(first.url.starts_with("http://127.0.0.1:"), "{}", first.url);
    let (status, out, err) = first.stop();
    assert!(status.success(), "{status} {err}");
    assert_eq!(out, "", "one line and nothing else");
    let token = token(&err).unwrap_or_else(|| panic!("no token in {err}")).to_owned();
    for file in std::fs::read_dir(&cache).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{} has the token itself", path.display());
        }
    }

    let again = Running::start(&cache, &["--json"]);
    let digest = Digest::of(b"hello");
    let url = format!("{}/default/cas/{}?secret=of-the-query", again.url, digest.hex());
    let put = client().put(&url).bearer_auth(&token).body("hello").send().await.unwrap();
    assert_eq!(put.status(), 201);
    let get = client().get(&url).bearer_auth(&token).send().await.unwrap();
    let request_id = get.headers()["x-request-id"].to_str().unwrap().to_owned();
    assert_eq!(get.text().await.unwrap(), "hello");
    assert_eq!(client().get(&url).send().await.unwrap().status(), 401);
    let (status, _, err) = again.stop();
    assert!(status.success());
    assert!(!err.contains("phc_"), "{err}");
    assert!(!err.contains("of-the-query"), "{err}");

    let lines: Vec<serde_json::Value> = err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["trace"] == request_id.as_str()).unwrap_or_else(|| panic!("{request_id} is not in {err}"));
    assert_eq!(line["target"], "access");
    assert_eq!(line["method"], "GET");
    assert_eq!(line["route"], "/{namespace}/cas/{digest}");
    assert_eq!(line["namespace"], "default");
    assert_eq!(line["status"], 200);
    assert_eq!(line["sent"], 5);
    assert_eq!(line["whole"], true);
    assert_eq!(line["caller"], "first-admin");
    assert!(line["ms"].is_f64());
}

#[test]
fn what_was_acknowledged_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let first = Running::start(directory.path(), &[]);
    let (_, _, err) = first.stop();
    let token = token(&err).unwrap().to_owned();
    let digest = Digest::of(b"kept");
    let second = Running::start(directory.path(), &[]);
    let url = format!("{}/default/cas/{}", second.url, digest.hex());
    let put = runtime.block_on(client().put(&url).bearer_auth(&token).body("kept").send()).unwrap();
    assert_eq!(put.status(), 201);
    second.kill();
    let third = Running::start(directory.path(), &[]);
    let url = format!("{}/default/cas/{}", third.url, digest.hex());
    let got = runtime.block_on(async { client().get(&url).bearer_auth(&token).send().await?.text().await }).unwrap();
    assert_eq!(got, "kept");
    assert!(third.stop().0.success());
}

#[test]
fn settings_that_are_none_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cache.toml");
    for (text, why) in [
        ("liste = 1", "liste"),
        ("[limits]\nmax-decompression-ratio = 0", "max-decompression-ratio"),
        ("[limits]\nbytes-in-flight = 1", "bytes-in-flight"),
        ("[log]\nlevel = \"a=b=c\"", "log.level"),
        ("[namespaces.\"..\"]\nkind = \"raw\"", "namespace"),
        ("[namespaces.v1]\nkind = \"raw\"", "reserved"),
        ("[namespaces.x]\nkind = \"raw\"\nbase = \"y\"", "base"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_preheat-cache-server"))
            .arg(directory.path().join("cache"))
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && err.contains(why), "{text}: {err}");
        assert!(output.stdout.is_empty());
    }
}
