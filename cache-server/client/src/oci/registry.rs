//! A repository in a registry, by the OCI distribution specification's API, version 2.

use super::auth::{Auth, Right};
use super::credentials::RegistryCredentials;
use super::reference::{Reference, Version, is_tag};
use super::spec::{IMAGE_INDEX, IMAGE_MANIFEST, MAX_MANIFEST};
use super::{RawManifest, Repository};
use crate::blob::{Arriving, Blob, BlobSink, Progress, plain};
use crate::config::{CacheConfig, Patience};
use crate::error::{ClientError, clean};
use crate::http::{MAX_ERROR, MAX_REDIRECTS, client, head, is_loopback, shown, whole};
use crate::retry::Tries;
use crate::tls::Roots;
use crate::upload::Source;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_RANGE, LOCATION, RANGE, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use preheat_image::Digest;
use reqwest::{Body, Client, Response, Url};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::Instant;

/// The header in which registries repeat a digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Whether a registry is spoken to with TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scheme {
    /// With TLS, unless it is on this machine (`localhost`, `127.0.0.0/8`, `[::1]`).
    #[default]
    Auto,
    /// With TLS.
    Https,
    /// Without: everybody on the way can read all, credentials too, and can change what is not asked for by digest.
    Http,
}

/// How a registry is reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// What proves who asks.
    pub credentials: RegistryCredentials,
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// File with the only CA certificates, in PEM, that the registry's certificate may come from; without one the machine's count.
    pub ca_file: Option<PathBuf>,
    /// How patient to be.
    pub patience: Patience,
    /// Whether blobs are brought in several requests from the start, not only when the registry takes no large ones.
    pub chunked: bool,
}

/// A repository in a registry.
pub struct Registry {
    pub(super) config: RegistryConfig,
    /// `https://host[:port]/v2/`
    base: Url,
    /// Host and repository, for messages.
    name: String,
    repository: String,
    auth: Auth,
    own: OnceLock<Result<Client, String>>,
    foreign: OnceLock<Result<Client, String>>,
}

/// A request that can be sent again.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) right: Right,
}

impl Ask {
    pub(super) fn new(method: Method, url: Url, right: Right) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: Bytes::new(), right }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Registry {
    /// The repository that `reference` names; its tag and digest don't matter here. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Configuration`] when the settings make no sense.
    pub fn new(reference: &Reference, config: RegistryConfig) -> Result<Self, ClientError> {
        let wrong = |what: String| ClientError::Configuration { name: reference.host().to_owned(), what };
        // Docker's own registry goes by a name that is not its address, and has a directory that nobody writes.
        let (host, repository) = match (reference.host(), reference.repository()) {
            ("docker.io" | "index.docker.io", repository) if !repository.contains('/') => {
                ("registry-1.docker.io", format!("library/{repository}"))
            }
            ("docker.io" | "index.docker.io", repository) => ("registry-1.docker.io", repository.to_owned()),
            (host, repository) => (host, repository.to_owned()),
        };
        let parse = |scheme: &str| Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|e| wrong(format!("the address is no URL: {e}")));
        let base = match config.scheme {
            Scheme::Https => parse("https")?,
            Scheme::Http => parse("http")?,
            Scheme::Auto => Some(parse("http")?).filter(is_loopback).map_or_else(|| parse("https"), Ok)?,
        };
        let auth = Auth::new(base.clone(), reference.host(), &repository, config.credentials.clone())?;
        let name = format!("{}/{}", reference.host(), reference.repository());
        Ok(Self { config, base, name, repository, auth, own: OnceLock::new(), foreign: OnceLock::new() })
    }

    /// Asks whether there is a registry that accepts these credentials.
    ///
    /// # Errors
    /// [`ClientError`]: [`ClientError::Unauthorized`] when it does not.
    pub async fn ping(&self) -> Result<(), ClientError> {
        let mut tries = Tries::new(&self.config.patience);
        loop {
            match self.try_ping().await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn try_ping(&self) -> Result<(), ClientError> {
        let until = self.answer_by();
        let response = self.send(&Ask::new(Method::GET, self.base.clone(), Right::Pull), until).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.refusal(&self.base, response, until).await) }
    }

    pub(super) fn patience(&self) -> &Patience {
        &self.config.patience
    }

    pub(super) fn answer_by(&self) -> Instant {
        Instant::now() + self.config.patience.answer
    }

    /// The address of something in the repository, such as `blobs/sha256:…`. Its parts were checked to be no paths.
    pub(super) fn url(&self, kind: &str, last: &str) -> Result<Url, ClientError> {
        let path = format!("{}/{kind}/{last}", self.repository);
        self.base.join(&path).map_err(|e| ClientError::Invalid(format!("{path} is no path in a registry: {e}")))
    }

    fn made<'c>(&self, slot: &'c OnceLock<Result<Client, String>>, roots: &Roots<'_>) -> Result<&'c Client, ClientError> {
        let made =
            slot.get_or_init(|| client(roots, &CacheConfig { patience: self.config.patience.clone(), ..CacheConfig::new(&self.name) }));
        made.as_ref().map_err(|what| ClientError::Configuration { name: self.name.clone(), what: what.clone() })
    }

    fn own(&self) -> Result<&Client, ClientError> {
        let roots = match (&self.config.ca_file, self.base.scheme()) {
            (_, "http") => Roots::None,
            (Some(file), _) => Roots::Only(file),
            (None, _) => Roots::Machine,
        };
        self.made(&self.own, &roots)
    }

    /// For other hosts: storage behind the registry, its token service.
    fn foreign(&self) -> Result<&Client, ClientError> {
        self.made(&self.foreign, &self.config.ca_file.as_deref().map_or(Roots::Machine, Roots::And))
    }

    /// Whether an address is the registry's own, where credentials may go.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// An address that the registry gave, if what is ours may go there.
    pub(super) fn led_to(&self, at: &Url, response: &Response) -> Result<Url, ClientError> {
        let bad = |what: &str| ClientError::BadAnswer { url: shown(at), what: what.to_owned() };
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = location.and_then(|text| at.join(text).ok()).ok_or_else(|| bad("it leads on to nowhere"))?;
        match (at.scheme(), next.scheme()) {
            (_, "https") | ("http", "http") => {}
            _ => {
                return Err(bad(
                    "it leads from https to something that is not; a proxy before the registry may have to pass the scheme on",
                ));
            }
        }
        if !next.username().is_empty() || next.password().is_some() {
            return Err(bad("it leads on with credentials in the address"));
        }
        Ok(next)
    }

    /// Sends a request with what it needs for the registry, or with nothing of ours to another host. No redirects are followed.
    pub(super) async fn send_once(
        &self,
        ask: &Ask,
        body: Body,
        used: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<Response, ClientError> {
        let own = self.is_own(&ask.url);
        let client = if own { self.own()? } else { self.foreign()? };
        let mut headers = ask.headers.clone();
        if let Some(used) = used.filter(|_| own) {
            headers.insert(AUTHORIZATION, used.clone());
        }
        head(&shown(&ask.url), client.request(ask.method.clone(), ask.url.clone()).headers(headers).body(body), until).await
    }

    /// What to send along.
    pub(super) async fn authorization(&self, right: Right) -> Option<HeaderValue> {
        self.auth.header(right).await
    }

    /// What to send along after a refusal.
    pub(super) async fn renewed(
        &self,
        refusal: &Response,
        right: Right,
        used: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<HeaderValue, ClientError> {
        self.auth.renew(self.foreign()?, refusal, right, used, until).await
    }

    /// Sends a small request, a second time with other credentials if the registry asks for some.
    pub(super) async fn send(&self, ask: &Ask, until: Instant) -> Result<Response, ClientError> {
        let used = self.authorization(ask.right).await;
        let response = self.send_once(ask, Body::from(ask.body.clone()), used.as_ref(), until).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(&ask.url) {
            return Ok(response);
        }
        let renewed = self.renewed(&response, ask.right, used.as_ref(), until).await?;
        self.send_once(ask, Body::from(ask.body.clone()), Some(&renewed), until).await
    }

    /// A GET that follows redirects, to the storage behind the registry. Another host gets nothing of ours but the question, and where the
    /// way led through one, so does the registry: that host chose the address.
    async fn get(&self, url: Url, headers: HeaderMap, until: Instant) -> Result<Response, ClientError> {
        let mut ask = Ask { headers, ..Ask::new(Method::GET, url, Right::Pull) };
        let mut abroad = false;
        for _ in 0..=MAX_REDIRECTS {
            let response = if abroad { self.send_once(&ask, Body::default(), None, until).await? } else { self.send(&ask, until).await? };
            if !response.status().is_redirection() {
                if abroad && !response.status().is_success() {
                    // An address that was good for some minutes only; the registry makes another.
                    let status = response.status().as_u16();
                    let message = "the storage behind the registry does not give it".to_owned();
                    return Err(ClientError::Overloaded { url: shown(&ask.url), status, message, retry_after: None });
                }
                return Ok(response);
            }
            ask.url = self.led_to(&ask.url, &response)?;
            abroad |= !self.is_own(&ask.url);
        }
        Err(ClientError::BadAnswer { url: shown(&ask.url), what: "it redirects without end".into() })
    }

    /// What an answer that is an error says.
    pub(super) async fn refusal(&self, url: &Url, response: Response, until: Instant) -> ClientError {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let at = shown(url);
        let body = whole(&at, response, MAX_ERROR, until).await.unwrap_or_default();
        let (code, message) = said(&body)
            .unwrap_or_else(|| (status.as_str().to_owned(), status.canonical_reason().unwrap_or("an error without a name").to_owned()));
        match status.as_u16() {
            401 => self.auth.unauthorized(url, &message),
            403 => ClientError::Forbidden { url: at, message },
            404 => ClientError::NotFound { url: at, code, message },
            409 => ClientError::Conflict { url: at, message },
            413 => ClientError::TooLarge { url: at, message },
            507 => ClientError::StorageFull { url: at, message },
            status @ (408 | 425 | 429 | 500 | 502..=504) => ClientError::Overloaded { url: at, status, message, retry_after },
            300..=399 => ClientError::BadAnswer { url: at, what: "it redirects where it should not".into() },
            _ => ClientError::Refused { url: at, code, message },
        }
    }

    async fn try_manifest(&self, version: &Version) -> Result<RawManifest, ClientError> {
        let url = self.url("manifests", &version.to_string())?;
        let until = self.answer_by();
        let accept = HeaderValue::try_from(format!("{IMAGE_MANIFEST}, {IMAGE_INDEX}")).map_err(|e| ClientError::Invalid(e.to_string()))?;
        let headers = HeaderMap::from_iter([(ACCEPT, accept), (ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        let response = self.get(url.clone(), headers, until).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&url, response, until).await);
        }
        let text = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let media_type = text(CONTENT_TYPE.as_str()).map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let claimed = text(CONTENT_DIGEST);
        let bytes = whole(&shown(&url), response, MAX_MANIFEST, until).await?;
        let found = Digest::of(&bytes);
        let wanted = match version {
            Version::Digest(wanted) => Some(*wanted),
            // A registry may use other algorithms beside.
            Version::Tag(_) => claimed.and_then(|claimed| claimed.parse().ok()),
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            return Err(ClientError::DigestMismatch { url: shown(&url), wanted, found });
        }
        // What is too general says nothing.
        let media_type =
            media_type.filter(|text| !matches!(text.as_str(), "" | "application/json" | "application/octet-stream" | "text/plain"));
        Ok(RawManifest { digest: found, media_type, bytes: bytes.into() })
    }

    async fn try_has_blob(&self, blob: &Blob) -> Result<bool, ClientError> {
        let until = self.answer_by();
        let mut ask = Ask::new(Method::HEAD, self.url("blobs", &blob.digest.to_string())?, Right::Pull);
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(&ask, until).await?;
            match response.status() {
                StatusCode::NOT_FOUND => return Ok(false),
                status if status.is_success() => {
                    let size = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
                    return Ok(size.is_none_or(|size| size == blob.size));
                }
                status if status.is_redirection() => {
                    ask.url = self.led_to(&ask.url, &response)?;
                    // It is in the storage behind the registry, whose addresses are often good for GET only.
                    if !self.is_own(&ask.url) {
                        return Ok(true);
                    }
                }
                _ => return Err(self.refusal(&ask.url, response, until).await),
            }
        }
        Err(ClientError::BadAnswer { url: shown(&ask.url), what: "it redirects without end".into() })
    }

    async fn try_get_blob(&self, url: &Url, arriving: &mut Arriving<'_>) -> Result<(), ClientError> {
        let mut headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        if arriving.done > 0 {
            let range = HeaderValue::try_from(format!("bytes={}-", arriving.done)).map_err(|e| ClientError::Invalid(e.to_string()))?;
            headers.insert(RANGE, range);
            if let Some(etag) = &arriving.etag {
                headers.insert(IF_RANGE, etag.clone());
            }
        }
        let until = self.answer_by();
        let response = self.get(url.clone(), headers, until).await?;
        let at = shown(url);
        match response.status() {
            StatusCode::OK => arriving.restart()?,
            StatusCode::PARTIAL_CONTENT if arriving.done > 0 => {
                let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let Blob { size, .. } = arriving.blob;
                if range != format!("bytes {}-{}/{size}", arriving.done, size - 1) {
                    return Err(ClientError::BadAnswer { url: at, what: "another range than the one that was asked for".into() });
                }
                arriving.pieced = true;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if arriving.done > 0 => {
                arriving.restart()?;
                return Err(ClientError::Unreachable { url: at, what: "the rest is not to be had; from the beginning".into() });
            }
            status if status.is_success() => {
                return Err(ClientError::BadAnswer { url: at, what: format!("status {status} for a blob") });
            }
            _ => return Err(self.refusal(url, response, until).await),
        }
        plain(self.patience(), &at, response, arriving).await
    }

    async fn try_put_manifest(&self, url: &Url, media_type: &HeaderValue, bytes: &Bytes) -> Result<(), ClientError> {
        let until = self.answer_by();
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, media_type.clone())]);
        let ask = Ask { headers, body: bytes.clone(), ..Ask::new(Method::PUT, url.clone(), Right::Push) };
        let response = self.send(&ask, until).await?;
        if !response.status().is_success() {
            return Err(self.refusal(url, response, until).await);
        }
        self.same_digest(url, &response, &Digest::of(bytes))
    }

    /// Whether the registry has understood the same bytes, where it says so.
    pub(super) fn same_digest(&self, url: &Url, response: &Response, wanted: &Digest) -> Result<(), ClientError> {
        let claimed = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match claimed {
            Some(found) if found != *wanted => Err(ClientError::DigestMismatch { url: shown(url), wanted: *wanted, found }),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Repository for Registry {
    fn shown(&self) -> String {
        self.name.clone()
    }

    async fn manifest(&self, version: &Version) -> Result<RawManifest, ClientError> {
        let mut tries = Tries::new(self.patience());
        loop {
            match self.try_manifest(version).await {
                Ok(found) => return Ok(found),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn has_blob(&self, blob: &Blob) -> Result<bool, ClientError> {
        let mut tries = Tries::new(self.patience());
        loop {
            match self.try_has_blob(blob).await {
                Ok(there) => return Ok(there),
                Err(error) => tries.again(error).await?,
            }
        }
    }

    async fn get_blob(&self, blob: &Blob, sink: &mut dyn BlobSink, progress: &dyn Progress) -> Result<(), ClientError> {
        let url = self.url("blobs", &blob.digest.to_string())?;
        let patience = self.patience();
        let mut tries = Tries::new(patience);
        let mut arriving = Arriving::new(blob, sink, progress);
        let mut begun_anew = false;
        loop {
            let before = arriving.done;
            let error = match self.try_get_blob(&url, &mut arriving).await {
                Ok(()) => {
                    let found = arriving.digest();
                    if found == blob.digest {
                        progress.finished(blob);
                        return Ok(());
                    }
                    if !arriving.pieced || begun_anew {
                        return Err(ClientError::DigestMismatch { url: shown(&url), wanted: blob.digest, found });
                    }
                    // Put together from pieces that may be of different bytes: once more, in one.
                    begun_anew = true;
                    arriving.restart()?;
                    continue;
                }
                Err(error) => error,
            };
            // A registry that gives one byte each time would keep us forever: only a real step forward counts.
            if arriving.done.saturating_sub(before) >= patience.stall_bytes {
                tries.moved();
            }
            tries.again(error).await?;
        }
    }

    async fn put_blob(&self, blob: &Blob, source: &Source, progress: &dyn Progress) -> Result<(), ClientError> {
        self.upload(blob, source, progress).await
    }

    async fn put_manifest(&self, tag: Option<&str>, media_type: &str, bytes: &[u8]) -> Result<(), ClientError> {
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ClientError::Invalid(format!("`{}` can't be a tag in a registry", clean(tag))));
        }
        let url = self.url("manifests", &tag.map_or_else(|| Digest::of(bytes).to_string(), str::to_owned))?;
        let media_type = HeaderValue::try_from(media_type).map_err(|e| ClientError::Invalid(e.to_string()))?;
        let bytes = Bytes::copy_from_slice(bytes);
        let mut tries = Tries::new(self.patience());
        loop {
            match self.try_put_manifest(&url, &media_type, &bytes).await {
                Ok(()) => return Ok(()),
                Err(error) => tries.again(error).await?,
            }
        }
    }
}

/// The code and the message of a registry's error, if it is one.
pub(super) fn said(body: &[u8]) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let One { code, message } = serde_json::from_slice::<Errors>(body).ok()?.errors.into_iter().next()?;
    let message = if message.is_empty() { code.clone() } else { message };
    Some((clean(&code), clean(&message)))
}
