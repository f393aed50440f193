//! Mutual TLS: certificates say who asks, and no token is needed.

use crate::common::Home;
use crate::common::service::{Service, build};
use crate::credentials::Authority;
use std::os::unix::fs::PermissionsExt as _;

/// A service with TLS, and who may issue certificates for it and for its clients.
struct World {
    home: Home,
    service: Service,
    clients: Authority,
}

impl World {
    fn new(required: bool) -> Self {
        let (home, servers, clients) = (Home::new(), Authority::new(), Authority::new());
        let (certificate, key) = servers.issue("127.0.0.1");
        home.write("ca.pem", servers.pem());
        home.write("server.pem", certificate);
        home.write("clients.pem", clients.pem());
        let key = home.write("server.key", key);
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings = format!(
            r#"
            [tls]
            certificate = "server.pem"
            key = "server.key"
            client-authorities = "clients.pem"
            client-certificate-required = {required}
            [[auth.clients]]
            dns = "builder.example"
            namespaces = ["*"]
            rights = ["read", "write-blob", "write-key", "name", "admin"]
            [[auth.clients]]
            dns = "node-1.example"
            namespaces = ["default"]
            rights = ["read"]
            "#
        );
        let service = Service::configured(&home, &settings);
        assert!(service.url.starts_with("https://"), "{}", service.url);
        Self { home, service, clients }
    }

    /// A home that knows where the service is and whom to believe that it is it, and what comes of its login with a certificate.
    fn login(&self, identity: Option<(String, String)>, flags: &[&str]) -> (Home, crate::common::Ran) {
        let client = Home::new();
        let ca = self.home.path().join("ca.pem");
        let mut args = vec!["--url", &self.service.url, "--ca-file", ca.to_str().unwrap()];
        let identity = identity.map(|(certificate, key)| client.write("identity.pem", certificate + &key));
        if let Some(file) = &identity {
            args.extend(["--identity-file", file.to_str().unwrap()]);
        }
        args.extend(flags);
        let ran = self.service.try_login(&client, &args, "");
        (client, ran)
    }

    fn known(&self, name: &str) -> Home {
        let (client, ran) = self.login(Some(self.clients.issue(name)), &["--no-token"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        client
    }
}

#[test]
fn builders_push_and_nodes_pull_by_their_certificates() {
    let world = World::new(true);
    let builder = world.known("builder.example");
    let fingerprint = world.service.make_root(&builder);
    let digest = build(&builder, "hello over mutual TLS", "app");
    assert_eq!(builder.ok(["push", "app", &world.service.place("app:v1")]), digest);

    let node = world.known("node-1.example");
    node.ok(["trust", "add", "--from", &world.service.host, "--fingerprint", &fingerprint]);
    let ran = node.run(["run", &world.service.place("app:v1")]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hello over mutual TLS"), "{ran:?}");
    node.assert_whole();
    // A node reads and does nothing else.
    build(&node, "not for others", "mine");
    node.run(["push", "mine", &world.service.place("mine:v1")]).assert_fails(127, "has no right `write-blob`");
    // A certificate that is good but that no rule names opens nothing.
    let stranger = world.known("node-2.example");
    stranger.ok(["trust", "add", "--from", &world.service.host, "--fingerprint", &fingerprint]);
    stranger.run(["pull", &world.service.place("app:v1")]).assert_fails(120, "no namespace `default` here that you may read");
}

#[test]
fn whoever_shows_no_certificate_that_counts_is_told_so() {
    let world = World::new(true);
    // Of the same name, by an authority that nobody named.
    for identity in [None, Some(Authority::new().issue("builder.example"))] {
        let (client, ran) = world.login(identity, &["--no-token"]);
        ran.assert_fails(127, "does not accept this client's certificate, or that it shows none");
        assert!(!client.root().join("caches.json").exists(), "what does not work is not kept");
    }
    // A token is no certificate.
    let (_, ran) = world.login(None, &[]);
    assert_eq!(ran.code, Some(125), "no token came: {ran:?}");
    let client = Home::new();
    let ca = world.home.path().join("ca.pem");
    let flags = ["--url", &world.service.url, "--ca-file", ca.to_str().unwrap()];
    world.service.try_login(&client, &flags, &world.service.token).assert_fails(127, "does not accept this client's certificate");
    // The other way round: a service that only another authority vouches for gets neither certificate nor token.
    let (other, builder) = (Authority::new(), world.clients.issue("builder.example"));
    let ca = client.write("other.pem", other.pem());
    let identity = client.write("identity.pem", builder.0 + &builder.1);
    let flags = ["--url", &world.service.url, "--ca-file", ca.to_str().unwrap(), "--identity-file", identity.to_str().unwrap()];
    world.service.try_login(&client, &flags, &world.service.token).assert_fails(122, "no trusted connection");
}

#[test]
fn where_no_certificate_is_required_a_token_does_and_nothing_does_not() {
    let world = World::new(false);
    let (_, ran) = world.login(None, &["--no-token"]);
    ran.assert_fails(127, "needs credentials");
    let client = Home::new();
    let ca = world.home.path().join("ca.pem");
    let flags = ["--url", &world.service.url, "--ca-file", ca.to_str().unwrap()];
    let ran = world.service.try_login(&client, &flags, &world.service.token);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (_, ran) = world.login(Some(Authority::new().issue("builder.example")), &["--no-token"]);
    ran.assert_fails(127, "does not accept this client's certificate");
    world.known("node-1.example");
}
