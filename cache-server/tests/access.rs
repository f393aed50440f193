//! Who may do what, asked of a service over TLS with credentials of every kind.

#![allow(missing_docs, reason = "tests")]

mod common;
#[path = "common/credentials.rs"]
mod credentials;

use common::{Cache, cas, error_code};
use credentials::{Authority, Ci, ISSUER};
use preheat_cache_server::tokens::{self, NewToken};
use preheat_cache_server::{ClientRule, JwtAlgorithm, OidcIssuer, OidcRule, Pattern, Right, TlsConfig};
use preheat_image::Digest;
use reqwest::{Certificate, Client, Identity, Method, StatusCode};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

const HOST: &str = "cache.example";

/// What a caller may do in `team`, in `prod`, and in `over`, which lies over `prod`.
struct May {
    who: &'static str,
    client: Client,
    credentials: Option<String>,
    read: [bool; 3],
    write: [bool; 3],
}

fn issuer(directory: &Path, ci: &Ci) -> OidcIssuer {
    let file = directory.join("ci.json");
    std::fs::write(&file, ci.jwks()).unwrap();
    OidcIssuer {
        issuer: ISSUER.into(),
        audience: format!("https://{HOST}"),
        jwks_file: file,
        algorithms: vec![JwtAlgorithm::Es256],
        rules: vec![OidcRule {
            claims: BTreeMap::from([("repository".into(), Pattern::Exact("org/app".into()))]),
            namespaces: vec!["over".into()],
            rights: vec![Right::Read, Right::WriteBlob],
            max_lifetime_seconds: 3600,
        }],
    }
}

fn client(server: &Authority, identity: Option<&(String, String)>, addr: std::net::SocketAddr) -> Client {
    let builder = Client::builder().tls_certs_only([Certificate::from_pem(server.pem().as_bytes()).unwrap()]).resolve(HOST, addr);
    match identity {
        None => builder,
        Some((certificate, key)) => builder.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap()),
    }
    .build()
    .unwrap()
}

#[tokio::test]
async fn every_kind_of_credentials_opens_what_it_is_for_and_nothing_else() {
    let (server, clients) = (Authority::new(), Authority::new());
    let files = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let (certificate, key) = server.issue(HOST);
    let tls = TlsConfig {
        certificate: put("cert.pem", &certificate),
        key: put("key.pem", &key),
        client_authorities: Some(put("clients.pem", &clients.pem())),
        client_certificate_required: false,
    };
    let token_file = files.path().join("tokens.json");
    let token = |name: &str, namespace: &str, rights: &[Right], expires| {
        let new = NewToken { name: name.into(), scopes: vec![namespace.into()], rights: rights.to_vec(), expires };
        let (record, secret) = tokens::add(&token_file, new).unwrap();
        (record.id, secret.expose().to_owned())
    };
    let (_, admin) = token("admin", "*", &Right::ALL, None);
    let (_, team) = token("team", "team", &[Right::Read, Right::WriteBlob], None);
    let (_, writer) = token("writer", "prod", &[Right::WriteBlob], None);
    let (_, expired) = token("expired", "*", &Right::ALL, Some(1));
    let (revoked_id, revoked) = token("revoked", "*", &Right::ALL, None);
    tokens::revoke(&token_file, &revoked_id).unwrap();
    let ci = Ci::new();
    let cache = Cache::with(|config| {
        config.tls = Some(tls);
        config.auth.tokens = Some(token_file.clone());
        config.auth.oidc = vec![issuer(files.path(), &ci)];
        config.auth.clients = vec![ClientRule {
            dns: Some(Pattern::Exact("node-1.example".into())),
            uri: None,
            common_name: None,
            namespaces: vec!["prod".into()],
            rights: vec![Right::Read],
        }];
    })
    .await;
    let addr = cache.server.addr();
    let url = |path: &str| format!("https://{HOST}:{}{path}", addr.port());
    let plain = client(&server, None, addr);
    let node = client(&server, Some(&clients.issue("node-1.example")), addr);

    let blob = b"in all three";
    let digest = Digest::of(blob);
    for namespace in ["team", "prod", "over"] {
        let answer = plain.put(url(&cas(namespace, &digest))).bearer_auth(&admin).body(blob.to_vec()).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    // What only the base has.
    let below = Digest::of(b"below");
    plain.put(url(&cas("prod", &below))).bearer_auth(&admin).body("below").send().await.unwrap().error_for_status().unwrap();

    let audience = format!("https://{HOST}");
    let own_job = ci.job("org/app", &audience);
    let all = [
        May { who: "admin", client: plain.clone(), credentials: Some(admin), read: [true; 3], write: [true; 3] },
        May {
            who: "team",
            client: plain.clone(),
            credentials: Some(team.clone()),
            read: [true, false, false],
            write: [true, false, false],
        },
        May { who: "writer", client: plain.clone(), credentials: Some(writer), read: [false; 3], write: [false, true, false] },
        May { who: "job", client: plain.clone(), credentials: Some(own_job), read: [false, false, true], write: [false, false, true] },
        May { who: "node", client: node.clone(), credentials: None, read: [false, true, false], write: [false; 3] },
        May { who: "team by node", client: node.clone(), credentials: Some(team), read: [true, false, false], write: [true, false, false] },
    ];
    let nobody = "no-such-namespace";
    for May { who, client, credentials, read, write } in &all {
        let ask = async |method: Method, path: &str, body: &'static [u8], basic: bool| {
            let request = client.request(method, url(path)).body(body);
            let request = match (credentials, basic) {
                (Some(token), true) => request.basic_auth("anybody", Some(token)),
                (Some(token), false) => request.bearer_auth(token),
                (None, _) => request,
            };
            request.send().await.unwrap()
        };
        for (index, namespace) in ["team", "prod", "over"].into_iter().enumerate() {
            for basic in [false, true] {
                let there = ask(Method::GET, &cas(namespace, &digest), b"", basic).await;
                let not_there = ask(Method::GET, &cas(namespace, &Digest::of(b"nowhere")), b"", basic).await;
                let what = format!("{who} in {namespace}");
                if read[index] {
                    assert_eq!(there.status(), StatusCode::OK, "{what}");
                    assert_eq!(there.bytes().await.unwrap().as_ref(), blob, "{what}");
                } else {
                    // What is there, what is not, and a namespace that is not, all look the same.
                    let elsewhere = ask(Method::GET, &cas(nobody, &digest), b"", basic).await;
                    for answer in [there, not_there, elsewhere] {
                        assert_eq!(error_code(answer, StatusCode::NOT_FOUND).await, "no-namespace", "{what}");
                    }
                }
                let wrote = ask(Method::PUT, &cas(namespace, &digest), blob, basic).await.status();
                let wanted = match (write[index], read[index]) {
                    (true, _) => StatusCode::OK,
                    (false, true) => StatusCode::FORBIDDEN,
                    (false, false) => StatusCode::NOT_FOUND,
                };
                assert_eq!(wrote, wanted, "{what}");
            }
        }
        // An overlay opens its base to nobody who may not read that by themselves.
        let through = ask(Method::GET, &cas("over", &below), b"", false).await.status();
        assert_eq!(through == StatusCode::OK, read[1] && read[2], "{who}");
    }

    for (what, bad) in [
        ("expired", expired),
        ("revoked", revoked),
        ("another repository", ci.job("evil/app", &audience)),
        ("another audience", ci.job("org/app", "https://other.example")),
        ("ended", ci.job_at("org/app", &audience, 1_700_000_000)),
        ("another key", Ci::new().job("org/app", &audience)),
        ("rubbish", "rubbish".into()),
    ] {
        // With a certificate too: what is bad is not mended by what is good.
        for client in [&plain, &node] {
            let answer = client.get(url(&cas("prod", &digest))).bearer_auth(&bad).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{what}");
            let text = answer.text().await.unwrap();
            assert!(!text.contains(&bad), "{what}: {text}");
        }
    }
    let nameless = plain.get(url(&cas("prod", &digest))).send().await.unwrap();
    assert_eq!(nameless.status(), StatusCode::UNAUTHORIZED);
    // A certificate by an authority that nobody named does not get as far as a request.
    let stranger = client(&server, Some(&Authority::new().issue("node-1.example")), addr);
    assert!(stranger.get(url(&cas("prod", &digest))).send().await.is_err());
}
