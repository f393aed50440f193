use super::tokens::{NewToken, Secret};
use super::*;
use crate::rate::Rate;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use proptest::prelude::*;
use std::time::Duration;
use tempfile::TempDir;

/// A cache's access with one token, `ci`, that may read `prod`.
struct Cache {
    dir: TempDir,
    auth: Auth,
    secret: Secret,
}

fn cache(config: &AuthConfig) -> Cache {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.json");
    let secret = tokens::add(&path, token("ci")).unwrap().1;
    let mut auth = Auth::open(config, &path).unwrap();
    auth.tokens = auth.tokens.every(Duration::ZERO);
    Cache { dir, auth, secret }
}

fn token(name: &str) -> NewToken {
    NewToken { name: name.into(), scopes: vec!["prod".into()], rights: vec![Right::Read], expires: None }
}

fn patient() -> AuthConfig {
    AuthConfig { failures: Rate { per_second: 1e6, burst: 1_000_000 }, ..AuthConfig::default() }
}

fn peer(address: &str) -> Peer {
    Peer { addr: SocketAddr::new(address.parse().unwrap(), 4711), certificate: None }
}

fn header(value: &[u8]) -> HeaderMap {
    HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())])
}

fn certified(name: &str) -> Peer {
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let signed = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    Peer { certificate: Some(Arc::new(ClientCertificate::parse(signed.der()).unwrap())), ..peer("192.0.2.1") }
}

impl Cache {
    fn ask(&self, value: &str) -> Result<Caller, AuthError> {
        self.auth.authenticate(&header(value.as_bytes()), &peer("192.0.2.1"))
    }
}

fn reads(caller: &Caller, namespace: &str) -> bool {
    caller.may(Right::Read, &Namespace::new(namespace).unwrap())
}

#[test]
fn a_token_counts_as_bearer_and_as_password() {
    let cache = cache(&patient());
    let token = cache.secret.expose();
    let basic = |text: &str| STANDARD.encode(text);
    for good in [
        format!("Bearer {token}"),
        format!("bearer {token}"),
        format!("BEARER  {token} "),
        format!("Basic {}", basic(&format!("x:{token}"))),
        format!("basic {}", basic(&format!(":{token}"))),
        format!("Basic {}", basic(&format!("anybody:{token}")).trim_end_matches('=')),
    ] {
        let caller = cache.ask(&good).unwrap();
        assert_eq!(caller.name(), "ci");
        assert!(!caller.is_anonymous() && reads(&caller, "prod") && !reads(&caller, "other"));
        assert!(!caller.may(Right::WriteBlob, &Namespace::new("prod").unwrap()) && !caller.may_all(Right::Read));
    }
    let swapped = format!("Basic {}", basic(&format!("{token}:x")));
    assert_eq!(cache.ask(&swapped).unwrap_err(), AuthError::Refused(Refusal::Unknown), "the user's name is no secret");
}

#[test]
fn without_credentials_somebody_is_anonymous_and_has_no_rights() {
    let cache = cache(&patient());
    let caller = cache.auth.authenticate(&HeaderMap::new(), &peer("192.0.2.1")).unwrap();
    assert!(caller.is_anonymous() && !reads(&caller, "prod") && !caller.may_all(Right::Read));
}

#[test]
fn bad_credentials_are_an_error_and_not_anonymous() {
    let cache = cache(&patient());
    for bad in
        ["Bearer phc_0000000000000000_0000000000000000000000000000000000000000000", "Bearer x", "Bearer a.b.c", "Basic eDp5", "Basic eDo="]
    {
        assert_eq!(cache.ask(bad).unwrap_err(), AuthError::Refused(Refusal::Unknown), "{bad}");
    }
}

#[test]
fn a_token_goes_before_a_certificate_and_rights_are_never_put_together() {
    let rule = ClientRule {
        dns: Some(Pattern::Exact("node.example".into())),
        uri: None,
        common_name: None,
        namespaces: vec!["node".into()],
        rights: vec![Right::Read],
    };
    let cache = cache(&AuthConfig { clients: vec![rule], ..patient() });
    let bearer = header(format!("Bearer {}", cache.secret.expose()).as_bytes());
    let known = certified("node.example");
    let by_certificate = cache.auth.authenticate(&HeaderMap::new(), &known).unwrap();
    assert!(reads(&by_certificate, "node") && !reads(&by_certificate, "prod"));
    assert_eq!(by_certificate.name(), "node.example");
    let by_both = cache.auth.authenticate(&bearer, &known).unwrap();
    assert!(reads(&by_both, "prod") && !reads(&by_both, "node"));
    assert_eq!(cache.auth.authenticate(&header(b"Bearer wrong"), &known).unwrap_err(), AuthError::Refused(Refusal::Unknown));
    // One that no rule is for is somebody, who may do nothing.
    let other = cache.auth.authenticate(&HeaderMap::new(), &certified("other.example")).unwrap();
    assert!(!other.is_anonymous() && !reads(&other, "node") && !reads(&other, "prod"));
}

#[test]
fn tokens_are_replaced_and_revoked_without_a_restart() {
    let cache = cache(&patient());
    let path = cache.dir.path().join("tokens.json");
    let second = tokens::add(&path, token("ci")).unwrap().1;
    let old = format!("Bearer {}", cache.secret.expose());
    let new = format!("Bearer {}", second.expose());
    assert!(cache.ask(&old).is_ok() && cache.ask(&new).is_ok());
    let first_id = tokens::list(&path).unwrap()[0].id.clone();
    tokens::revoke(&path, &first_id).unwrap();
    assert_eq!(cache.ask(&old).unwrap_err(), AuthError::Refused(Refusal::Revoked));
    assert!(cache.ask(&new).is_ok());
    std::fs::write(&path, "damaged").unwrap();
    assert!(cache.ask(&new).is_ok(), "the last good file counts");
    assert_eq!(cache.ask(&old).unwrap_err(), AuthError::Refused(Refusal::Revoked));
}

#[test]
fn whoever_fails_too_often_has_to_wait_and_others_do_not() {
    let cache = cache(&AuthConfig { failures: Rate { per_second: 0.01, burst: 3 }, ..AuthConfig::default() });
    for _ in 0..3 {
        assert_eq!(cache.ask("Bearer x").unwrap_err(), AuthError::Refused(Refusal::Unknown));
    }
    for bad in ["Bearer x", "Bearer phc_0_0", "rubbish"] {
        let AuthError::TooMany { retry_after, .. } = cache.ask(bad).unwrap_err() else { panic!("{bad}") };
        assert!((1..=100).contains(&retry_after));
    }
    // A good token from the same address, as behind one gateway, still counts, and so do other addresses.
    assert!(cache.ask(&format!("Bearer {}", cache.secret.expose())).is_ok());
    assert_eq!(cache.auth.authenticate(&header(b"Bearer x"), &peer("192.0.2.2")).unwrap_err(), AuthError::Refused(Refusal::Unknown));
}

#[test]
fn requests_are_counted_for_each_token_and_each_anonymous_address() {
    let cache = cache(&AuthConfig { requests: Some(Rate { per_second: 0.01, burst: 2 }), ..AuthConfig::default() });
    let other = tokens::add(&cache.dir.path().join("tokens.json"), token("ci")).unwrap().1;
    let (one, other) = (format!("Bearer {}", cache.secret.expose()), format!("Bearer {}", other.expose()));
    let anonymous = |address| cache.auth.authenticate(&HeaderMap::new(), &peer(address)).map(|_| ());
    for _ in 0..2 {
        cache.ask(&one).unwrap();
        cache.ask(&other).unwrap();
        anonymous("192.0.2.1").unwrap();
    }
    let error = cache.ask(&one).unwrap_err();
    let AuthError::TooMany { retry_after: 51..=100, .. } = &error else { panic!("{error:?}") };
    assert!(cache.ask(&other).is_err() && anonymous("192.0.2.1").is_err());
    anonymous("192.0.2.2").unwrap();
    let answer = ApiError::from(error);
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(answer.retry_after.is_some());
}

#[test]
fn nothing_secret_is_in_errors_or_debug_texts() {
    let cache = cache(&patient());
    let token = cache.secret.expose();
    let (_, hidden) = token.split_at(token.len() - 43);
    let caller = cache.ask(&format!("Bearer {token}")).unwrap();
    let basic = STANDARD.encode(format!("x:{token}"));
    let mut texts = vec![format!("{:?} {caller:?} {:?}", cache.auth, cache.secret)];
    for bad in [
        format!("Bearer {token}x"),
        format!("Bearer {token} {token}"),
        format!("Basic {token}"),
        format!("Basic {basic}!"),
        format!("Token {token}"),
        token.to_owned(),
    ] {
        let error = cache.ask(&bad).unwrap_err();
        texts.push(format!("{error} {error:?}"));
        let answer = ApiError::from(error);
        texts.push(format!("{answer:?}"));
    }
    std::fs::write(cache.dir.path().join("tokens.json"), token).unwrap();
    let error = Auth::open(&patient(), &cache.dir.path().join("tokens.json")).unwrap_err();
    texts.push(error);
    for text in texts {
        assert!(!text.contains(hidden) && !text.contains(&basic), "{text}");
    }
}

#[test]
fn more_than_one_header_is_refused() {
    let cache = cache(&patient());
    let good = HeaderValue::from_str(&format!("Bearer {}", cache.secret.expose())).unwrap();
    let mut headers = HeaderMap::new();
    headers.append(AUTHORIZATION, good.clone());
    headers.append(AUTHORIZATION, good);
    assert_eq!(cache.auth.authenticate(&headers, &peer("192.0.2.1")).unwrap_err(), AuthError::Malformed("is there more than once"));
}

/// Things that come close to being an `Authorization` header.
fn malformed() -> impl Strategy<Value = Vec<u8>> {
    let scheme = prop::sample::select(vec!["Bearer", "Basic", "bearer", "Digest", "Negotiate", "", "Bearer\t", "Basic ", "phc_"]);
    let rest = prop_oneof![
        prop::collection::vec(any::<u8>().prop_filter("what a header can hold", |b| *b >= 32 && *b != 127 || *b == 9), 0..200),
        "[A-Za-z0-9+/=]{0,120}".prop_map(String::into_bytes),
        "phc_[0-9a-f]{0,20}_?[A-Za-z0-9_-]{0,60}".prop_map(String::into_bytes),
        "eyJ[A-Za-z0-9_-]{0,60}(\\.[A-Za-z0-9_-]{0,60}){0,4}".prop_map(String::into_bytes),
        any::<Vec<u8>>().prop_map(|bytes| STANDARD.encode(bytes).into_bytes()),
        (any::<u8>().prop_filter("visible", |b| (33..127).contains(b)), 0..70_000usize).prop_map(|(byte, many)| vec![byte; many]),
    ];
    let separator = prop::sample::select(vec![" ", "", "  ", "\t", ":"]);
    (scheme, separator, rest).prop_map(|(scheme, separator, rest)| [scheme.as_bytes(), separator.as_bytes(), &rest].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn malformed_headers_are_refused_and_nothing_worse(value in malformed()) {
        thread_local!(static CACHE: Cache = cache(&patient()));
        let headers = header(&value);
        let error = CACHE.with(|cache| cache.auth.authenticate(&headers, &peer("192.0.2.1"))).map(|_| ()).unwrap_err();
        let status = ApiError::from(error).status;
        prop_assert!(status == StatusCode::BAD_REQUEST || status == StatusCode::UNAUTHORIZED, "{}", status);
    }
}
