//! Requests and answers: one connection pool to the service itself, another without anything of ours for where it redirects to.

use crate::config::{CacheConfig, Compression, Credentials, Patience};
use crate::error::{ClientError, clean};
use crate::retry::Tries;
use crate::tls::{self, Roots};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use preheat_image::api::ErrorBody;
use reqwest::{Body, Client, Response, Url};
use rustls::AlertDescription;
use std::error::Error as _;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most bytes of the body of an error.
pub(crate) const MAX_ERROR: usize = 64 * 1024;
/// Most redirects in a row.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// The way to one service.
pub(crate) struct Transport {
    config: CacheConfig,
    base: Url,
    host: String,
    authorization: Option<HeaderValue>,
    /// Made at the first request: reading the machine's certificates takes milliseconds that a run without this cache does not have.
    own: OnceLock<Result<Client, String>>,
    foreign: OnceLock<Result<Client, String>>,
}

/// A small request.
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Most bytes of the answer.
    pub(crate) max_answer: usize,
}

/// A small answer that is no error.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) etag: Option<HeaderValue>,
    pub(crate) body: Bytes,
}

impl Transport {
    pub(crate) fn new(config: CacheConfig) -> Result<Self, ClientError> {
        let wrong = |what: String| ClientError::Configuration { name: config.name.clone(), what };
        let base = Url::parse(&config.url).map_err(|e| wrong(format!("the address is no URL: {e}")))?;
        let host = match (base.scheme(), base.host_str(), base.port()) {
            ("http" | "https", Some(host), Some(port)) => format!("{host}:{port}"),
            ("http" | "https", Some(host), None) => host.to_owned(),
            _ => return Err(wrong("the address must begin with https:// or http:// and a host".into())),
        };
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong(format!("credentials don't belong into the address; run `preheat login {host}`")));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("the address has a query or a fragment".into()));
        }
        let authorization = match &config.credentials {
            Credentials::None => None,
            Credentials::Token(token) => {
                if base.scheme() == "http" && !config.allow_plain_http && !is_loopback(&base) {
                    return Err(wrong("a token would cross the network over plain HTTP, where everybody can read it; use https://".into()));
                }
                let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                    .map_err(|_| wrong("the token has characters that no token has".into()))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { config, base, host, authorization, own: OnceLock::new(), foreign: OnceLock::new() })
    }

    pub(crate) fn config(&self) -> &CacheConfig {
        &self.config
    }

    /// Host and port, as in references.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether blobs should travel compressed.
    pub(crate) fn compresses(&self) -> bool {
        match self.config.compression {
            Compression::On => true,
            Compression::Off => false,
            Compression::Auto => !is_loopback(&self.base),
        }
    }

    /// The address of something in the service. Segments are escaped, so that none can lead elsewhere.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn own(&self) -> Result<&Client, ClientError> {
        let made = self.own.get_or_init(|| {
            let roots = match (&self.config.ca_file, self.base.scheme()) {
                (_, "http") => Roots::None,
                (Some(file), _) => Roots::Only(file),
                (None, _) => Roots::Machine,
            };
            client(&roots, &self.config)
        });
        made.as_ref().map_err(|what| ClientError::Configuration { name: self.config.name.clone(), what: what.clone() })
    }

    /// For other hosts: it shows neither token nor certificate, whatever they ask for.
    fn foreign(&self) -> Result<&Client, ClientError> {
        let made = self.foreign.get_or_init(|| {
            let roots = self.config.ca_file.as_deref().map_or(Roots::Machine, Roots::And);
            client(&roots, &CacheConfig { client_identity: None, ..self.config.clone() })
        });
        made.as_ref().map_err(|what| ClientError::Configuration { name: self.config.name.clone(), what: what.clone() })
    }

    /// Sends one request and waits for the head of the answer until `until`. Errors of the service stay answers.
    pub(crate) async fn send(
        &self,
        method: Method,
        url: Url,
        mut headers: HeaderMap,
        body: Body,
        until: Instant,
    ) -> Result<Response, ClientError> {
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let shown = shown(&url);
        let request = self.own()?.request(method, url).headers(headers).body(body);
        head(&shown, request, until).await
    }

    /// A GET that follows redirects, to the storage behind the service. Another host gets nothing of ours but the question.
    pub(crate) async fn get_following(&self, url: Url, headers: HeaderMap, until: Instant) -> Result<Response, ClientError> {
        let mut response = self.send(Method::GET, url.clone(), headers.clone(), Body::default(), until).await?;
        let mut at = url;
        for _ in 0..MAX_REDIRECTS {
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED {
                return Ok(response);
            }
            let bad = |what: &str| ClientError::BadAnswer { url: shown(&at), what: what.to_owned() };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|text| at.join(text).ok()).ok_or_else(|| bad("a redirect to nowhere"))?;
            match (at.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => {}
                _ => return Err(bad("a redirect from https to something that is not")),
            }
            if !next.username().is_empty() || next.password().is_some() {
                return Err(bad("a redirect with credentials in it"));
            }
            // Also back at the service itself it goes on without our token: where the way led through a foreign host, that host chose the
            // address. Over plain HTTP our own connections know nothing secret, and need no certificates of the machine.
            let client = if next.scheme() == "http" { self.own()? } else { self.foreign()? };
            let request = client.get(next.clone()).headers(headers.clone());
            response = head(&shown(&next), request, until).await?;
            at = next;
            if !response.status().is_success() && !response.status().is_redirection() {
                // An address that was good for some minutes only; the service makes another.
                let status = response.status().as_u16();
                let message = "the storage behind the service does not give it".to_owned();
                return Err(ClientError::Overloaded { url: shown(&at), status, message, retry_after: None });
            }
        }
        Err(ClientError::BadAnswer { url: shown(&at), what: "it redirects without end".into() })
    }

    /// A small request with its answer, tried as often as `patience` says. Success and "not modified" are answers, all else is an error.
    pub(crate) async fn call(&self, ask: &Ask, patience: &Patience) -> Result<Answer, ClientError> {
        let mut tries = Tries::new(patience);
        loop {
            let until = tries.until().min(Instant::now() + patience.answer);
            match self.call_once(ask, until).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn call_once(&self, ask: &Ask, until: Instant) -> Result<Answer, ClientError> {
        let body = Body::from(ask.body.clone());
        let response = self.send(ask.method.clone(), ask.url.clone(), ask.headers.clone(), body, until).await?;
        let url = shown(&ask.url);
        let status = response.status();
        if !status.is_success() && status != StatusCode::NOT_MODIFIED {
            return Err(self.refusal(&url, response, until).await);
        }
        let etag = response.headers().get(ETAG).cloned();
        let body = whole(&url, response, ask.max_answer, until).await?;
        Ok(Answer { status, etag, body })
    }

    /// What an answer that is an error says.
    pub(crate) async fn refusal(&self, url: &str, response: Response, until: Instant) -> ClientError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        // What it says is only for people: without it the status is enough.
        let body = whole(url, response, MAX_ERROR, until).await.unwrap_or_default();
        let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(ErrorBody { error, message, hint }) => {
                let hint = hint.map_or_else(String::new, |hint| format!(" ({})", clean(&hint)));
                (clean(&error), clean(&message) + &hint)
            }
            Err(_) => (status.as_str().to_owned(), status.canonical_reason().unwrap_or("an error without a name").to_owned()),
        };
        let url = url.to_owned();
        match status.as_u16() {
            401 => ClientError::Unauthorized { url, host: self.host.clone(), message },
            403 => ClientError::Forbidden { url, message },
            404 => ClientError::NotFound { url, code, message },
            409 | 412 => ClientError::Conflict { url, message },
            413 => ClientError::TooLarge { url, message },
            507 => ClientError::StorageFull { url, message },
            status @ (408 | 429 | 500 | 502..=504) => ClientError::Overloaded { url, status, message, retry_after },
            300..=399 => ClientError::BadAnswer { url, what: "it redirects where it should not".into() },
            _ => ClientError::Refused { url, code, message },
        }
    }
}

pub(crate) fn client(roots: &Roots<'_>, config: &CacheConfig) -> Result<Client, String> {
    Client::builder()
        .tls_backend_preconfigured(tls::settings(roots, config.client_identity.as_ref())?)
        .http1_only()
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(config.patience.connect)
        .pool_idle_timeout(Duration::from_secs(20))
        .pool_max_idle_per_host(16)
        .tcp_nodelay(true)
        .user_agent(concat!("preheat/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| reason(&e))
}

/// Sends a request and waits for the head of its answer.
pub(crate) async fn head(shown: &str, request: reqwest::RequestBuilder, until: Instant) -> Result<Response, ClientError> {
    match timeout_at(until, request.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(broken(shown, &error)),
        Err(_) => Err(ClientError::TimedOut { url: shown.to_owned(), what: "no answer came".into() }),
    }
}

/// The whole body of an answer, if it has at most `max` bytes.
pub(crate) async fn whole(url: &str, mut response: Response, max: usize, until: Instant) -> Result<Bytes, ClientError> {
    let too_long = || ClientError::BadAnswer { url: url.to_owned(), what: format!("it has more than {max} bytes") };
    let claimed = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if claimed.is_some_and(|claimed| claimed > max) {
        return Err(too_long());
    }
    let mut body = Vec::new();
    loop {
        match timeout_at(until, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > max => return Err(too_long()),
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return Ok(body.into()),
            Ok(Err(error)) => return Err(broken(url, &error)),
            Err(_) => return Err(ClientError::TimedOut { url: url.to_owned(), what: "the answer did not end".into() }),
        }
    }
}

/// What a failed request or a broken body is to us.
pub(crate) fn broken(url: &str, error: &reqwest::Error) -> ClientError {
    let url = url.to_owned();
    let what = reason(error);
    if let Some(error) = tls_error(error) {
        match error {
            rustls::Error::AlertReceived(alert) if is_about_our_certificate(*alert) => ClientError::Certificate { url, what },
            _ => ClientError::Tls { url, what },
        }
    } else if error.is_timeout() {
        ClientError::TimedOut { url, what: if error.is_connect() { "no connection".into() } else { what } }
    } else if error.is_builder() {
        ClientError::BadAnswer { url, what }
    } else {
        ClientError::Unreachable { url, what }
    }
}

/// What TLS says, if it failed anywhere below.
fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut below = error.source();
    while let Some(error) = below {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        below = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether an alert of the service is about the certificate that it was shown, or was not.
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            // By an authority that only has the name of one that is known.
            | Alert::DecryptError
    )
}

/// The innermost reason, which is the one that helps; without addresses, which may hold secrets.
fn reason(error: &reqwest::Error) -> String {
    let mut below = error.source();
    let mut text = if below.is_none() { "the connection failed".to_owned() } else { String::new() };
    while let Some(error) = below {
        text = error.to_string();
        below = error.source();
    }
    clean(&text)
}

/// An address for people: without user, query and fragment.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

/// Whether an address is this machine's own.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn with_token(url: &str) -> Result<Transport, ClientError> {
        Transport::new(CacheConfig { credentials: Credentials::Token(Secret::new("secret")), ..CacheConfig::new(url) })
    }

    #[test]
    fn a_token_does_not_cross_the_network_in_the_clear() {
        for fine in ["https://cache.example", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost"] {
            assert!(with_token(fine).is_ok(), "{fine}");
        }
        assert!(with_token("http://cache.example").is_err());
        assert!(with_token("http://127.0.0.1.example").is_err());
        let allowed = CacheConfig { allow_plain_http: true, ..CacheConfig::new("http://cache.example") };
        assert!(Transport::new(CacheConfig { credentials: Credentials::Token(Secret::new("secret")), ..allowed }).is_ok());
        assert!(Transport::new(CacheConfig::new("http://cache.example")).is_ok(), "nothing secret");
    }

    #[test]
    fn addresses_that_are_none_are_refused() {
        for bad in ["cache.example", "ftp://cache.example", "https://", "https://u:p@cache.example", "https://cache.example/?token=x"] {
            let error = Transport::new(CacheConfig::new(bad)).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(!error.to_string().contains("u:p"), "{error}");
        }
    }

    #[test]
    fn no_segment_leads_elsewhere() {
        let transport = Transport::new(CacheConfig::new("https://cache.example/under/")).unwrap();
        assert_eq!(transport.url(&["ns", "cas", "ab"]).as_str(), "https://cache.example/under/ns/cas/ab");
        assert_eq!(transport.url(&["a/b?c#d"]).as_str(), "https://cache.example/under/a%2Fb%3Fc%23d");
        assert_eq!(transport.host(), "cache.example");
    }

    #[test]
    fn what_is_shown_has_no_secrets() {
        let url = Url::parse("https://user:pass@bucket.example/x?X-Amz-Signature=secret#f").unwrap();
        assert_eq!(shown(&url), "https://bucket.example/x");
    }
}
