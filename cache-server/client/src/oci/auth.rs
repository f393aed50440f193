//! How a registry is told who asks: Basic, or the token of a token service (the distribution project's "token authentication").
//!
//! A registry says where its token service is. That is believed as far as needed and no further: credentials go to a service over https,
//! over plain HTTP only when the registry itself is spoken to so, and then only to the same host or to this machine. What is asked for is
//! always our own repository, whatever scope the registry names. Tokens go to the registry alone.

use super::credentials::RegistryCredentials;
use crate::error::{ClientError, clean};
use crate::http::{MAX_ERROR, head, is_loopback, shown, whole};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use reqwest::{Client, Response, Url};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Most bytes of a token service's answer.
const MAX_TOKEN: usize = 256 * 1024;
/// How long a token is good when the service does not say, by the specification.
const DEFAULT_LIFE: u64 = 60;
/// So long before its end a token is not used any more.
const SLACK: Duration = Duration::from_secs(5);

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    Pull,
    Push,
}

/// What the registry has asked for, and was given.
#[derive(Default)]
struct State {
    basic: bool,
    pull: Option<Token>,
    push: Option<Token>,
}

struct Token {
    value: HeaderValue,
    until: Instant,
}

/// Who asks one repository.
pub(crate) struct Auth {
    /// The registry, for messages and for what its token service may be.
    registry: Url,
    host: String,
    repository: String,
    credentials: RegistryCredentials,
    basic: Option<HeaderValue>,
    state: Mutex<State>,
}

#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Auth {
    pub(crate) fn new(registry: Url, host: &str, repository: &str, credentials: RegistryCredentials) -> Result<Self, ClientError> {
        let basic = match &credentials {
            RegistryCredentials::Basic { user, password } => {
                if user.contains(':') {
                    return Err(ClientError::Configuration { name: host.to_owned(), what: "a user can't have a colon in it".into() });
                }
                let encoded = BASE64.encode(format!("{user}:{}", password.expose()));
                Some(secret(&format!("Basic {encoded}")).ok_or_else(|| ClientError::Invalid("no credentials for HTTP".into()))?)
            }
            RegistryCredentials::Anonymous | RegistryCredentials::Helper(_) => None,
        };
        Ok(Self { registry, host: host.to_owned(), repository: repository.to_owned(), credentials, basic, state: Mutex::default() })
    }

    /// What to send along for now; nothing before the registry has asked.
    pub(crate) async fn header(&self, right: Right) -> Option<HeaderValue> {
        self.state.lock().await.current(right, self.basic.as_ref())
    }

    /// After a refusal (401) of a request that had `used`: something else to send along. Many requests at a time ask only once.
    pub(crate) async fn renew(
        &self,
        client: &Client,
        refusal: &Response,
        right: Right,
        used: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<HeaderValue, ClientError> {
        let mut state = self.state.lock().await;
        if let Some(current) = state.current(right, self.basic.as_ref()).filter(|current| Some(current) != used) {
            return Ok(current);
        }
        let challenges = challenges(refusal.headers());
        if let Some(bearer) = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer")) {
            let token = self.token(client, bearer, right, until).await?;
            let value = token.value.clone();
            match right {
                Right::Pull => state.pull = Some(token),
                Right::Push => state.push = Some(token),
            }
            return Ok(value);
        }
        if challenges.iter().any(|challenge| challenge.scheme.eq_ignore_ascii_case("basic")) {
            if let Some(basic) = self.basic.as_ref().filter(|_| !state.basic) {
                state.basic = true;
                return Ok(basic.clone());
            }
            return Err(self.unauthorized(&self.registry, "these credentials are not accepted"));
        }
        Err(self.unauthorized(&self.registry, "it does not say how to prove who asks"))
    }

    /// What to say when nothing more can be tried.
    pub(crate) fn unauthorized(&self, url: &Url, message: &str) -> ClientError {
        let hint = match &self.credentials {
            RegistryCredentials::Anonymous => "; there are no credentials for it".to_owned(),
            RegistryCredentials::Basic { .. } => String::new(),
            RegistryCredentials::Helper(name) => {
                format!("; Docker keeps its credentials with `docker-credential-{}`, which is not asked", clean(name))
            }
        };
        ClientError::Unauthorized { url: shown(url), host: self.host.clone(), message: format!("{}{hint}", clean(message)) }
    }

    async fn token(&self, client: &Client, bearer: &Challenge, right: Right, until: Instant) -> Result<Token, ClientError> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let mut url = self.realm(bearer)?;
        let actions = match right {
            Right::Pull => "pull",
            Right::Push => "pull,push",
        };
        if let Some(service) = bearer.get("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:{actions}", self.repository));
        let mut headers = HeaderMap::new();
        if let Some(basic) = &self.basic {
            headers.insert(AUTHORIZATION, basic.clone());
        }
        let at = shown(&url);
        let bad = |what: &str| ClientError::BadAnswer { url: at.clone(), what: what.to_owned() };
        let response = head(&at, client.get(url.clone()).headers(headers), until).await?;
        let status = response.status();
        if !status.is_success() {
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            let body = whole(&at, response, MAX_ERROR, until).await.unwrap_or_default();
            let message = super::registry::said(&body).map_or_else(|| status.to_string(), |(_, message)| message);
            return Err(match status.as_u16() {
                401 | 403 => self.unauthorized(&url, &message),
                429 | 500..=599 => {
                    let retry_after = retry_after.map(Duration::from_secs);
                    ClientError::Overloaded { url: at, status: status.as_u16(), message, retry_after }
                }
                300..=399 => bad("the token service redirects, which credentials do not follow"),
                _ => bad(&format!("status {status} instead of a token")),
            });
        }
        let body = whole(&at, response, MAX_TOKEN, until).await?;
        // What is wrong with it is not said in its own words: it may be a token nearly.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| bad("not the JSON of a token service"))?;
        let text = answer.token.or(answer.access_token).filter(|text| !text.is_empty()).ok_or_else(|| bad("no token in it"))?;
        let value = secret(&format!("Bearer {text}")).ok_or_else(|| bad("a token with characters that no token has"))?;
        let life = Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).min(24 * 3600));
        Ok(Token { value, until: Instant::now() + life.saturating_sub(SLACK) })
    }

    /// Where the token service is, if credentials may go there.
    fn realm(&self, bearer: &Challenge) -> Result<Url, ClientError> {
        let bad = |what: &str| ClientError::BadAnswer { url: shown(&self.registry), what: what.to_owned() };
        let text = bearer.get("realm").ok_or_else(|| bad("it wants a token, but does not say from where"))?;
        let realm = Url::parse(text).map_err(|_| bad("it wants a token from an address that is none"))?;
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(bad("the address of its token service has credentials in it"));
        }
        let allowed = match realm.scheme() {
            "https" => true,
            "http" => self.registry.scheme() == "http" && (is_loopback(&realm) || realm.host_str() == self.registry.host_str()),
            _ => false,
        };
        if !allowed {
            let what = format!("it wants a token from {}, where credentials would not be safe", shown(&realm));
            return Err(bad(&clean(&what)));
        }
        Ok(realm)
    }
}

impl State {
    fn current(&self, right: Right, basic: Option<&HeaderValue>) -> Option<HeaderValue> {
        let fresh = |token: &Option<Token>| token.as_ref().filter(|token| token.until > Instant::now()).map(|token| token.value.clone());
        let token = match right {
            Right::Pull => fresh(&self.pull).or_else(|| fresh(&self.push)),
            // A token that is good for less might be answered by "forbidden", which is final.
            Right::Push => fresh(&self.push),
        };
        token.or_else(|| basic.filter(|_| self.basic).cloned())
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The challenges of a refusal. One header may hold several.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    for text in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
        let mut rest = text.trim_start_matches([' ', ',', '\t']);
        while !rest.is_empty() {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let after = after.trim_start();
            if word.is_empty() {
                break;
            }
            if let Some(value) = after.strip_prefix('=') {
                let (value, after) = parameter(value.trim_start());
                if let Some(challenge) = found.last_mut() {
                    challenge.parameters.push((word.to_owned(), value));
                }
                rest = after;
            } else {
                found.push(Challenge { scheme: word.to_owned(), parameters: Vec::new() });
                rest = after;
            }
            rest = rest.trim_start_matches([' ', ',', '\t']);
        }
    }
    found
}

/// The value of a parameter, quoted or not, and what comes after.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use proptest::prelude::*;

    fn parsed(text: &'static str) -> Vec<Challenge> {
        challenges(&HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::from_static(text))]))
    }

    fn challenge(realm: &str) -> Challenge {
        Challenge { scheme: "Bearer".into(), parameters: vec![("realm".into(), realm.into())] }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let hub = parsed(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#);
        assert_eq!(hub.len(), 1);
        assert_eq!(hub[0].get("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(hub[0].get("scope"), Some("repository:a/b:pull,push"));
        let both = parsed(r#"Basic realm="a, \"b\"" , bearer REALM=https://x/y , service=z"#);
        assert_eq!(both.len(), 2);
        assert_eq!(
            (both[0].get("realm"), both[1].get("realm"), both[1].get("service")),
            (Some("a, \"b\""), Some("https://x/y"), Some("z"))
        );
    }

    #[test]
    fn junk_is_no_challenge_and_does_not_hang() {
        for junk in ["", ",,,", "=", "\"", "Bearer realm=\"", "Bearer realm=\"\\", "a=b", "Bearer =x", "Negotiate abc==", "(x)"] {
            let found = parsed(junk);
            assert!(found.iter().all(|challenge| challenge.get("realm").is_none_or(str::is_empty)), "{junk}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_read_to_its_end(text in "[ -~]{0,80}|(Bearer |realm=|\"|\\\\|,| |=|a){0,20}") {
            let found = challenges(&HeaderMap::from_iter([(WWW_AUTHENTICATE, HeaderValue::try_from(text.as_str()).unwrap())]));
            let read: usize = found.iter().flat_map(|c| &c.parameters).map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(read <= text.len());
        }
    }

    #[test]
    fn credentials_go_only_where_they_are_safe() {
        let auth = |registry: &str| {
            let credentials = RegistryCredentials::Basic { user: "u".into(), password: Secret::new("p") };
            Auth::new(Url::parse(registry).unwrap(), "h", "a/b", credentials).unwrap()
        };
        let far = auth("https://registry.example/");
        assert!(far.realm(&challenge("https://auth.example/token")).is_ok());
        for bad in [
            "http://auth.example/token",
            "http://registry.example/token",
            "http://127.0.0.1:1/token",
            "https://u:p@auth.example/",
            "ftp://auth.example/",
            "file:///etc/passwd",
            "/token",
            "",
        ] {
            assert!(far.realm(&challenge(bad)).is_err(), "{bad}");
        }
        let near = auth("http://127.0.0.1:5000/");
        assert!(near.realm(&challenge("http://localhost:5001/token")).is_ok());
        assert!(near.realm(&challenge("http://auth.example/token")).is_err());
        let plain = auth("http://registry.local:5000/");
        assert!(plain.realm(&challenge("http://registry.local/token")).is_ok());
        assert!(plain.realm(&challenge("http://auth.example/token")).is_err());
    }

    #[test]
    fn a_helper_is_named_when_credentials_are_missing() {
        let auth = Auth::new(Url::parse("https://r/").unwrap(), "r", "a", RegistryCredentials::Helper("desktop".into())).unwrap();
        let text = auth.unauthorized(&auth.registry, "no").to_string();
        assert!(text.contains("docker-credential-desktop") && text.contains("preheat login r"), "{text}");
    }
}
