//! Plays whoever would like to be taken for somebody else's CI job.

use super::config::{AuthConfig, JwtAlgorithm, OidcIssuer, OidcRule};
use super::oidc::{Issuers, MAX_TOKEN};
use super::pattern::{Pattern, Wild};
use super::{Kind, Refusal, Right};
use crate::clock::ManualClock;
use crate::storage::Namespace;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rsa::pkcs1::EncodeRsaPrivateKey as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;
use tempfile::TempDir;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://ci.example";
const AUDIENCE: &str = "https://cache.example";

/// A key of an issuer.
struct Key {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let key = match algorithm {
            Algorithm::ES256 => EncodingKey::from_ec_der(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().serialize_der()),
            _ => {
                // PKCS #8 of version 1, which is all that jsonwebtoken takes: a fixed beginning and the seed.
                let longer = KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der();
                let beginning = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
                EncodingKey::from_ed_der(&[&beginning, &longer[16..48]].concat())
            }
        };
        Self { id, algorithm, key }
    }

    fn rsa(id: &'static str, bits: usize) -> Self {
        let pair = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, bits).unwrap();
        let key = EncodingKey::from_rsa_der(pair.to_pkcs1_der().unwrap().as_bytes());
        Self { id, algorithm: Algorithm::RS256, key }
    }

    fn jwk(&self) -> Value {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap()).unwrap();
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    fn header(&self) -> Header {
        Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) }
    }

    fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&self.header(), claims, &self.key).unwrap()
    }
}

static EC: LazyLock<Key> = LazyLock::new(|| Key::new("ec-1", Algorithm::ES256));
static ED: LazyLock<Key> = LazyLock::new(|| Key::new("ed-1", Algorithm::EdDSA));
static RSA: LazyLock<Key> = LazyLock::new(|| Key::rsa("rsa-1", 2048));
/// Of the other issuer.
static OTHER: LazyLock<Key> = LazyLock::new(|| Key::new("other-1", Algorithm::ES256));

fn write_keys(path: &Path, keys: &[&Key]) {
    let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
    std::fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

fn rule(claims: &[(&str, Pattern)], namespace: &str) -> OidcRule {
    OidcRule {
        claims: claims.iter().map(|(claim, pattern)| ((*claim).to_owned(), pattern.clone())).collect::<BTreeMap<_, _>>(),
        namespaces: vec![namespace.into()],
        rights: vec![Right::Read, Right::WriteBlob],
        max_lifetime_seconds: 3600,
    }
}

fn exact(text: &str) -> Pattern {
    Pattern::Exact(text.into())
}

fn wild(text: &str) -> Pattern {
    Pattern::Wild(Wild { pattern: text.into() })
}

struct Fixture {
    dir: TempDir,
    issuers: Issuers,
    clock: ManualClock,
}

impl Fixture {
    fn with(edit: impl FnOnce(&mut AuthConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let issuer = |issuer: &str, file: &str, rules| OidcIssuer {
            issuer: issuer.into(),
            audience: AUDIENCE.into(),
            jwks_file: dir.path().join(file),
            algorithms: vec![JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa],
            rules,
        };
        write_keys(&dir.path().join("ci.json"), &[&EC, &ED, &RSA]);
        write_keys(&dir.path().join("other.json"), &[&OTHER]);
        let rules = vec![
            rule(&[("repository", exact("org/app")), ("ref", exact("refs/heads/main"))], "prod"),
            rule(&[("sub", wild("repo:org/*"))], "pr"),
        ];
        let mut config = AuthConfig {
            oidc: vec![
                issuer(ISSUER, "ci.json", rules),
                issuer("https://other.example", "other.json", vec![rule(&[("repository", exact("org/app"))], "other")]),
            ],
            ..AuthConfig::default()
        };
        edit(&mut config);
        config.check().unwrap();
        let issuers = Issuers::open(&config).unwrap().every(Duration::ZERO);
        Self { dir, issuers, clock: ManualClock::at(NOW) }
    }

    fn new() -> Self {
        Self::with(|_| {})
    }

    /// The namespaces that a token may write to.
    fn ask(&self, token: &str) -> Result<Vec<&'static str>, Refusal> {
        let grant = self.issuers.verify(token, &self.clock, 30)?;
        assert_eq!(grant.kind, Kind::Job);
        assert!(!["prod", "pr", "other"].iter().any(|ns| grant.may(Right::Admin, &Namespace::new(ns).unwrap())));
        Ok(["prod", "pr", "other"].into_iter().filter(|ns| grant.may(Right::WriteBlob, &Namespace::new(ns).unwrap())).collect())
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "iat": NOW, "nbf": NOW, "exp": NOW + 600, "sub": "repo:org/app:ref:refs/heads/main",
        "repository": "org/app", "ref": "refs/heads/main",
    })
}

fn with(edit: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    edit(&mut claims);
    claims
}

fn raw(header: &Value, claims: &Value, signature: &[u8]) -> String {
    format!("{}.{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()), BASE64.encode(signature))
}

#[test]
fn jobs_get_the_rights_of_the_rules_that_fit_them() {
    let fixture = Fixture::new();
    for key in [&*EC, &*ED, &*RSA] {
        assert_eq!(fixture.ask(&key.sign(&claims())).unwrap(), ["prod", "pr"]);
    }
    let branch = with(|claims| claims["ref"] = "refs/heads/fix".into());
    assert_eq!(fixture.ask(&EC.sign(&branch)).unwrap(), ["pr"]);
    let many = with(|claims| claims["aud"] = json!(["x", AUDIENCE]));
    assert_eq!(fixture.ask(&EC.sign(&many)).unwrap(), ["prod", "pr"]);
    let grant = fixture.issuers.verify(&EC.sign(&claims()), &fixture.clock, 0).unwrap();
    assert_eq!(grant.name, "repo:org/app:ref:refs/heads/main");
}

#[test]
fn a_token_of_another_repository_is_refused() {
    let fixture = Fixture::new();
    for (sub, repository) in [
        ("repo:evil/app:ref:refs/heads/main", "evil/app"),
        ("repo:org-evil/app:ref:refs/heads/main", "org-evil/app"),
        ("repo:evil/org/app", "evil/org/app"),
        ("repo:org", "org/app2"),
        ("repo:Org/app", "Org/app"),
        ("", "org/app "),
    ] {
        let token = EC.sign(&with(|claims| {
            claims["sub"] = sub.into();
            claims["repository"] = repository.into();
        }));
        assert_eq!(fixture.ask(&token), Err(Refusal::NoRule), "{sub} {repository}");
    }
    for odd in [json!(["org/app"]), json!({ "org/app": 1 }), json!(null), json!(true)] {
        let token = EC.sign(&with(|claims| {
            claims["sub"] = odd.clone();
            claims["repository"] = odd.clone();
        }));
        assert!(fixture.ask(&token).is_err(), "{odd}");
    }
}

#[test]
fn a_token_for_another_audience_is_refused() {
    let fixture = Fixture::new();
    for audience in [json!("https://other.example"), json!(["https://other.example"]), json!([]), json!(null), json!(1), json!("")] {
        assert_eq!(fixture.ask(&EC.sign(&with(|claims| claims["aud"] = audience.clone()))), Err(Refusal::Unknown), "{audience}");
    }
    let none = with(|claims| drop(claims.as_object_mut().unwrap().remove("aud")));
    assert_eq!(fixture.ask(&EC.sign(&none)), Err(Refusal::Unknown));
}

#[test]
fn a_token_of_another_issuer_is_refused() {
    let fixture = Fixture::new();
    for issuer in
        [json!("https://evil.example"), json!("https://ci.example/"), json!([ISSUER]), json!(null), json!("https://other.example")]
    {
        assert_eq!(fixture.ask(&EC.sign(&with(|claims| claims["iss"] = issuer.clone()))), Err(Refusal::Unknown), "{issuer}");
    }
}

#[test]
fn a_key_of_one_issuer_does_not_vouch_for_another() {
    let fixture = Fixture::new();
    assert_eq!(fixture.ask(&OTHER.sign(&with(|claims| claims["iss"] = "https://other.example".into()))).unwrap(), ["other"]);
    assert_eq!(fixture.ask(&OTHER.sign(&claims())), Err(Refusal::Unknown));
    // With the id of a key that the issuer does have.
    let posing = Header { kid: Some(EC.id.into()), ..OTHER.header() };
    assert_eq!(fixture.ask(&jsonwebtoken::encode(&posing, &claims(), &OTHER.key).unwrap()), Err(Refusal::Unknown));
    // With its own key in the header, as those that believe it would take.
    let mut bringing = OTHER.header();
    bringing.jwk = Some(serde_json::from_value(OTHER.jwk()).unwrap());
    bringing.jku = Some("https://evil.example/keys".into());
    assert_eq!(fixture.ask(&jsonwebtoken::encode(&bringing, &claims(), &OTHER.key).unwrap()), Err(Refusal::Unknown));
    let nameless = Header { kid: None, ..EC.header() };
    assert_eq!(fixture.ask(&jsonwebtoken::encode(&nameless, &claims(), &EC.key).unwrap()), Err(Refusal::Unknown));
}

#[test]
fn unsigned_tokens_are_refused() {
    let fixture = Fixture::new();
    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        for signature in [b"".as_slice(), b"x"] {
            let header = json!({ "alg": algorithm, "typ": "JWT", "kid": EC.id });
            assert_eq!(fixture.ask(&raw(&header, &claims(), signature)), Err(Refusal::Unknown), "{algorithm}");
        }
    }
    let good = EC.sign(&claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    assert_eq!(fixture.ask(&format!("{message}.")), Err(Refusal::Unknown));
    assert_eq!(fixture.ask(message), Err(Refusal::Unknown));
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    let fixture = Fixture::new();
    let jwk = RSA.jwk();
    let modulus = BASE64.decode(jwk["n"].as_str().unwrap()).unwrap();
    let whole = jwk.to_string().into_bytes();
    let file = std::fs::read(fixture.dir.path().join("ci.json")).unwrap();
    for secret in [modulus, whole, file, jwk["n"].as_str().unwrap().into()] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            for key in [&*RSA, &*EC, &*ED] {
                let header = Header { kid: Some(key.id.into()), ..Header::new(algorithm) };
                let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&secret)).unwrap();
                assert_eq!(fixture.ask(&token), Err(Refusal::Unknown));
            }
        }
    }
    // Nor does a shared secret in the file of keys count.
    let octets = json!({ "kty": "oct", "kid": "oct-1", "k": BASE64.encode("secret"), "alg": "HS256" });
    std::fs::write(fixture.dir.path().join("ci.json"), json!({ "keys": [octets, EC.jwk()] }).to_string()).unwrap();
    let header = Header { kid: Some("oct-1".into()), ..Header::new(Algorithm::HS256) };
    let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(b"secret")).unwrap();
    assert_eq!(fixture.ask(&token), Err(Refusal::Unknown));
    assert!(fixture.ask(&EC.sign(&claims())).is_ok(), "the file itself is good");
}

#[test]
fn other_algorithms_than_those_of_the_key_and_the_configuration_are_refused() {
    let fixture = Fixture::with(|config| config.oidc[0].algorithms = vec![JwtAlgorithm::Es256]);
    assert!(fixture.ask(&EC.sign(&claims())).is_ok());
    assert_eq!(fixture.ask(&ED.sign(&claims())), Err(Refusal::Unknown));
    assert_eq!(fixture.ask(&RSA.sign(&claims())), Err(Refusal::Unknown));
    let all = Fixture::new();
    for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
        let header = Header { kid: Some(RSA.id.into()), ..Header::new(algorithm) };
        assert_eq!(all.ask(&jsonwebtoken::encode(&header, &claims(), &RSA.key).unwrap()), Err(Refusal::Unknown));
    }
}

#[test]
fn times_count_with_the_skew_and_no_more() {
    let fixture = Fixture::new();
    let token = EC.sign(&with(|claims| {
        claims["iat"] = (NOW - 100).into();
        claims["nbf"] = NOW.into();
        claims["exp"] = (NOW + 600).into();
    }));
    for (at, wanted) in [
        (NOW - 31, Err(Refusal::NotYet)),
        (NOW - 30, Ok(vec!["prod", "pr"])),
        (NOW + 629, Ok(vec!["prod", "pr"])),
        (NOW + 630, Err(Refusal::Expired)),
    ] {
        fixture.clock.set(at);
        assert_eq!(fixture.ask(&token), wanted, "at {at}");
        assert_eq!(fixture.issuers.remembered(&token, &fixture.clock, 30).is_some(), wanted.is_ok(), "at {at}");
    }
    fixture.clock.set(NOW);
    // Issued in the future, without an end, longer than the rule allows, of other types.
    let issued = with(|claims| claims["iat"] = (NOW + 31).into());
    assert_eq!(fixture.ask(&EC.sign(&issued)), Err(Refusal::NotYet));
    for missing in ["exp", "iat"] {
        let token = EC.sign(&with(|claims| drop(claims.as_object_mut().unwrap().remove(missing))));
        assert_eq!(fixture.ask(&token), Err(Refusal::Unknown), "{missing}");
    }
    let long = with(|claims| claims["exp"] = (NOW + 3601).into());
    assert_eq!(fixture.ask(&EC.sign(&long)), Err(Refusal::NoRule));
    for odd in [json!("soon"), json!(-1), json!(1e300), json!(null), json!([NOW])] {
        for claim in ["exp", "iat", "nbf"] {
            let token = EC.sign(&with(|claims| claims[claim] = odd.clone()));
            assert!(fixture.ask(&token).is_err(), "{claim} {odd}");
        }
    }
    let fractions = with(|claims| claims["exp"] = json!(1_800_000_600.5));
    assert!(fixture.ask(&EC.sign(&fractions)).is_ok());
    let before = with(|claims| {
        claims["exp"] = NOW.into();
        claims["iat"] = (NOW + 1).into();
    });
    assert_eq!(fixture.ask(&EC.sign(&before)), Err(Refusal::Unknown), "it ends before it begins");
}

#[test]
fn keys_are_exchanged_without_a_restart_and_old_ones_end_at_once() {
    let fixture = Fixture::new();
    let path = fixture.dir.path().join("ci.json");
    let new = Key::new("ec-2", Algorithm::ES256);
    let (by_old, by_new) = (EC.sign(&claims()), new.sign(&claims()));
    assert!(fixture.ask(&by_old).is_ok());
    assert_eq!(fixture.ask(&by_new), Err(Refusal::Unknown));
    write_keys(&path, &[&EC, &new]);
    assert!(fixture.ask(&by_old).is_ok() && fixture.ask(&by_new).is_ok());
    assert!(fixture.issuers.remembered(&by_old, &fixture.clock, 30).is_some());
    write_keys(&path, &[&new]);
    assert!(fixture.issuers.remembered(&by_old, &fixture.clock, 30).is_none(), "what was remembered does not outlive its key");
    assert_eq!(fixture.ask(&by_old), Err(Refusal::Unknown));
    assert!(fixture.ask(&by_new).is_ok());
    std::fs::write(&path, "{").unwrap();
    assert!(fixture.ask(&by_new).is_ok(), "the last good file counts");
}

#[test]
fn changed_tokens_are_refused() {
    let fixture = Fixture::new();
    let token = EC.sign(&claims());
    assert!(fixture.ask(&token).is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let other = BASE64.encode(with(|claims| claims["repository"] = "org/other".into()).to_string());
    let header = BASE64.encode(json!({ "alg": "ES256", "kid": EC.id, "crit": ["exp"] }).to_string());
    for changed in [
        format!("{}.{other}.{}", parts[0], parts[2]),
        format!("{header}.{}.{}", parts[1], parts[2]),
        format!("{token}."),
        format!("{token}.x"),
        format!(".{token}"),
        format!("{token}="),
        format!("{}.{}.{}", parts[0], parts[1], parts[1]),
        format!("{}.{}.{}", parts[1], parts[0], parts[2]),
        token.to_uppercase(),
        token.replace('.', ""),
    ] {
        assert_eq!(fixture.ask(&changed), Err(Refusal::Unknown), "{changed}");
        assert!(fixture.issuers.remembered(&changed, &fixture.clock, 30).is_none());
    }
}

#[test]
fn extensions_that_must_be_understood_are_refused() {
    let fixture = Fixture::new();
    let critical = Header { crit: Some(vec!["exp".into()]), ..EC.header() };
    assert_eq!(fixture.ask(&jsonwebtoken::encode(&critical, &claims(), &EC.key).unwrap()), Err(Refusal::Unknown));
}

#[test]
fn huge_tokens_are_refused_before_they_are_read() {
    let fixture = Fixture::new();
    let padded = |size: usize| EC.sign(&with(|claims| claims["padding"] = "x".repeat(size).into()));
    assert!(fixture.ask(&padded(8000)).is_ok());
    let huge = padded(MAX_TOKEN);
    assert!(huge.len() > MAX_TOKEN);
    assert_eq!(fixture.ask(&huge), Err(Refusal::Unknown));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let token = format!("{}.{}.x", BASE64.encode(r#"{"alg":"ES256"}"#), BASE64.encode(&deep[..12_000]));
    assert_eq!(fixture.ask(&token), Err(Refusal::Unknown));
}

#[test]
fn files_of_keys_that_can_not_be_used_are_refused() {
    let config = |keys: Value| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("keys.json"), keys.to_string()).unwrap();
        let config = AuthConfig {
            oidc: vec![OidcIssuer {
                issuer: ISSUER.into(),
                audience: AUDIENCE.into(),
                jwks_file: dir.path().join("keys.json"),
                algorithms: vec![JwtAlgorithm::Rs256],
                rules: vec![rule(&[("repository", exact("org/app"))], "prod")],
            }],
            ..AuthConfig::default()
        };
        Issuers::open(&config).map(|_| ())
    };
    let changed = |edit: &dyn Fn(&mut Value)| {
        let mut jwk = EC.jwk();
        edit(&mut jwk);
        json!({ "keys": [jwk] })
    };
    assert!(config(json!({ "keys": [EC.jwk()] })).is_ok());
    assert!(config(json!({ "keys": [{ "kty": "new kind" }, EC.jwk()] })).is_ok(), "unknown kinds are left out");
    for (bad, why) in [
        (json!({ "keys": [] }), "no key"),
        (json!([]), "not a JWK set"),
        (json!({ "keys": [EC.jwk(), EC.jwk()] }), "two keys"),
        (json!({ "keys": vec![EC.jwk(); 65] }), "at most 64"),
        (changed(&|jwk| jwk["use"] = "enc".into()), "no key"),
        (changed(&|jwk| jwk["alg"] = "HS256".into()), "no key"),
        (changed(&|jwk| drop(jwk.as_object_mut().unwrap().remove("kid"))), "no key"),
        (changed(&|jwk| jwk["crv"] = "P-384".into()), "no key"),
        (json!({ "keys": [Key::rsa("short", 1024).jwk()] }), "no key"),
    ] {
        let error = config(bad).unwrap_err();
        assert!(error.contains(why), "{why}: {error}");
    }
}
