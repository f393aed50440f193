//! A CI job's own identity token (OIDC) lets it push; nodes read with a token of the cache.

use crate::common::Home;
use crate::common::service::{Service, build, delegate_builder};
use crate::credentials::{Ci, ISSUER};

const AUDIENCE: &str = "https://cache.example";

/// A service that knows a CI system, its operator with the root, and that root's fingerprint.
fn world(home: &Home, ci: &Ci) -> (Service, Home, String) {
    home.write("ci.json", ci.jwks());
    let settings = format!(
        r#"
        [[auth.oidc]]
        issuer = "{ISSUER}"
        audience = "{AUDIENCE}"
        jwks-file = "ci.json"
        [[auth.oidc.rules]]
        claims = {{ repository = "acme/shop" }}
        namespaces = ["default"]
        rights = ["read", "write-blob", "write-key"]
        "#
    );
    let service = Service::configured(home, &settings);
    let (operator, fingerprint) = service.with_root();
    (service, operator, fingerprint)
}

#[test]
fn a_job_pushes_with_its_identity_and_a_node_reads_with_a_token() {
    let (home, ci) = (Home::new(), Ci::new());
    let (service, operator, fingerprint) = world(&home, &ci);
    let job = Home::new();
    let digest = build(&job, "built by a job", "app");
    delegate_builder(&operator, &service, &fingerprint, &job);

    let ran = service.try_login(&job, &["--builds", "--push"], &ci.job("acme/shop", AUDIENCE));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    job.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    assert_eq!(job.ok(["push", "app", &format!("{}/default", service.host)]), digest);
    // What it builds from now on goes there by itself.
    let second = build(&job, "built by a job later", "later");
    // Names are for whoever has a namer's key, and the right.
    operator.ok(["promote", &service.place("app:v1"), &digest]);
    operator.ok(["promote", &service.place("app:v2"), &second]);
    let namer = operator.root().join("keys/namer.json");
    job.run(["promote", &service.place("app:v3"), &second, "--namer-key", namer.to_str().unwrap()])
        .assert_fails(127, "has no right `name`");

    let node = Home::new();
    let ran = service.try_login(&node, &[], &service.token(&home, "node", "default", &["read"]));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    for (name, text) in [("app:v1", "built by a job"), ("app:v2", "built by a job later")] {
        let ran = node.run(["run", &service.place(name)]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), text), "{ran:?}");
    }
    node.run(["pull", &service.place("app:v3")]).assert_fails(120, "no image is named");
}

#[test]
fn the_identity_of_another_job_is_refused_and_brings_nothing() {
    let (home, ci) = (Home::new(), Ci::new());
    let (service, operator, fingerprint) = world(&home, &ci);
    let job = Home::new();
    let digest = build(&job, "from elsewhere", "app");
    delegate_builder(&operator, &service, &fingerprint, &job);
    let place = format!("{}/default", service.host);
    let good = ci.job("acme/shop", AUDIENCE);
    for (what, bad) in [
        ("another repository", ci.job("evil/shop", AUDIENCE)),
        ("another audience", ci.job("acme/shop", "https://other.example")),
        ("a time that is over", ci.job_at("acme/shop", AUDIENCE, 1_700_000_000)),
        ("another issuer's key", Ci::new().job("acme/shop", AUDIENCE)),
    ] {
        let ran = service.try_login(&job, &[], &bad);
        ran.assert_fails(127, "does not accept who asks");
        assert!(!ran.stderr.contains(&bad), "{what}: {ran:?}");
        assert!(!job.root().join("credentials.json").exists(), "{what}: what does not work is not kept");
        // Nor by a job that is let in otherwise.
        let other = Home::new();
        assert_eq!(service.try_login(&other, &[], &good).code, Some(0));
        build(&other, "from elsewhere", "app");
        other.run_as(&bad, ["push", "app", &place]).assert_fails(127, "does not accept who asks");
    }
    let held = operator.json(["cache", "collect", &service.host, "default", "--dry-run"]);
    assert_eq!(held["seen"], 0, "{held}");
    operator.run(["promote", &service.place("app:v1"), &digest]).assert_fails(122, "refuses it");
}

#[test]
fn a_token_in_a_file_may_be_replaced_at_any_time() {
    let (home, ci) = (Home::new(), Ci::new());
    let (service, operator, fingerprint) = world(&home, &ci);
    let digest = build(&operator, "read by a workload", "app");
    operator.ok(["push", "app", &service.place("app:v1")]);
    let node = Home::new();
    let file = node.write("token", ci.job("acme/shop", AUDIENCE) + "\n");
    let ran = service.try_login(&node, &["--token-file", "token"], "");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    node.ok(["trust", "add", "--from", &service.host, "--fingerprint", &fingerprint]);
    // In effect at the next command.
    node.write("token", ci.job_at("acme/shop", AUDIENCE, 1_700_000_000));
    node.run(["pull", &service.place("app:v1")]).assert_fails(127, "does not accept who asks");
    node.write("token", ci.job("acme/shop", AUDIENCE));
    assert_eq!(node.ok(["pull", &service.place("app:v1")]), digest);
    std::fs::remove_file(file).unwrap();
    node.run(["names", &format!("{}/default", service.host)]).assert_fails(121, "the token can't be read");
    // Logging in anew is the way out.
    let ran = service.try_login(&node, &[], &ci.job("acme/shop", AUDIENCE));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    node.ok(["names", &format!("{}/default", service.host)]);
}
