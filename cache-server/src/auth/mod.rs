//! Who calls, and what they may.
//!
//! Credentials come as a token (`Authorization: Bearer`, or as the password of `Basic`, which is all that some clients can do), as the token
//! of a CI job in the same places, or as a client certificate. A token goes before a certificate, and rights are never put together from both.

mod config;
mod mtls;
mod oidc;
#[cfg(test)]
mod oidc_tests;
mod pattern;
mod rights;
pub mod tokens;

pub use config::{AuthConfig, ClientRule, JwtAlgorithm, OidcIssuer, OidcRule};
pub use pattern::{Pattern, Wild};
pub use rights::Right;

pub(crate) use mtls::ClientCertificate;

use crate::clock::{Clock, SystemClock};
use crate::error::ApiError;
use crate::rate::{self, Limiter};
use crate::storage::Namespace;
use crate::watched::Watched;
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::{alphabet, engine::DecodePaddingMode};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use mtls::Clients;
use oidc::Issuers;
use preheat_image::Digest;
use rights::Scope;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokens::Tokens;

/// Longest `Authorization` header: a token of the largest size, as base64.
const MAX_HEADER: usize = oidc::MAX_TOKEN * 2;
/// Longest name of a caller, in bytes.
const MAX_NAME: usize = 256;
/// Base64 with or without padding, as clients do it either way.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) addr: SocketAddr,
    /// Its certificate, if it showed one that the service's authorities vouch for.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
}

/// Who calls, and what they may.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Arc<Grant>);

/// What kind of credentials came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// None.
    Anonymous,
    /// A token of the service.
    Token,
    /// A token of a CI job.
    Job,
    /// A client certificate.
    Certificate,
}

/// What credentials are good for.
#[derive(Debug)]
pub(crate) struct Grant {
    name: String,
    kind: Kind,
    scopes: Vec<Scope>,
    bucket: rate::Key,
}

impl Grant {
    /// `identity` tells apart whose requests are counted together.
    fn new(kind: Kind, mut name: String, identity: &str, scopes: Vec<Scope>) -> Self {
        // It goes to logs and lists, and others wrote it.
        name.retain(|c| !c.is_control());
        let mut end = MAX_NAME.min(name.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        name.truncate(end);
        let digest = Digest::of(identity.as_bytes());
        let bucket = digest.as_bytes().iter().take(16).fold(0, |key: rate::Key, byte| key << 8 | rate::Key::from(*byte));
        Self { name, kind, scopes, bucket }
    }

    fn may(&self, right: Right, namespace: &Namespace) -> bool {
        self.scopes.iter().any(|scope| scope.allows(right, namespace))
    }
}

impl Caller {
    /// Nobody in particular.
    #[must_use]
    pub(crate) fn anonymous() -> Self {
        Self(Arc::new(Grant::new(Kind::Anonymous, "anonymous".into(), "", Vec::new())))
    }

    /// The name of the token, certificate or CI job. For logs and lists, and for who contributed to a profile; it decides nothing about rights.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether no credentials came.
    #[must_use]
    pub(crate) fn is_anonymous(&self) -> bool {
        self.0.kind == Kind::Anonymous
    }

    /// Whether the caller has a right in a namespace.
    #[must_use]
    pub(crate) fn may(&self, right: Right, namespace: &Namespace) -> bool {
        self.0.may(right, namespace)
    }

    /// Whether the caller has a right in all namespaces.
    #[must_use]
    pub(crate) fn may_all(&self, right: Right) -> bool {
        self.0.scopes.iter().any(|scope| scope.allows_all(right))
    }
}

/// Why credentials are refused. Only whoever holds good ones is told more than [`Refusal::Unknown`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Nobody knows them.
    #[error("these credentials are not good here")]
    Unknown,
    /// Their time is over.
    #[error("these credentials have expired")]
    Expired,
    /// Their time has not come; or a clock is wrong.
    #[error("these credentials are not valid yet; is a clock wrong?")]
    NotYet,
    /// They were revoked.
    #[error("these credentials were revoked")]
    Revoked,
    /// No rule is for this job.
    #[error("the token is good, but no rule of this cache is for such a job")]
    NoRule,
}

/// Why a request goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AuthError {
    /// The header is not what it should be.
    #[error("the Authorization header {0}")]
    Malformed(&'static str),
    /// The credentials are not good.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many failed attempts, or too many requests.
    #[error("too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// In seconds.
        retry_after: u64,
    },
}

impl AuthError {
    fn failures(wait: std::time::Duration) -> Self {
        Self::TooMany { what: "attempts with bad credentials from this address", retry_after: rate::retry_after(wait) }
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match &error {
            AuthError::Malformed(_) => Self::bad_request("bad-credentials", error.to_string()),
            AuthError::Refused(_) => Self::unauthorized(error.to_string()),
            AuthError::TooMany { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", error.to_string()).retry_after(*retry_after)
            }
        }
    }
}

/// Knows who may do what.
pub(crate) struct Auth {
    tokens: Watched<Tokens>,
    issuers: Issuers,
    clients: Clients,
    clock: Arc<dyn Clock>,
    skew: u64,
    anonymous: Caller,
    failures: Limiter,
    requests: Option<Limiter>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl Auth {
    /// Reads what the configuration names. `tokens` is the file of tokens if the configuration names none.
    ///
    /// # Errors
    /// What can't be used.
    pub(crate) fn open(config: &AuthConfig, tokens: &Path) -> Result<Self, String> {
        config.check()?;
        Ok(Self {
            tokens: Tokens::watch(config.tokens.as_deref().unwrap_or(tokens))?,
            issuers: Issuers::open(config)?,
            clients: Clients::new(config)?,
            clock: Arc::new(SystemClock),
            skew: config.clock_skew_seconds,
            anonymous: Caller::anonymous(),
            failures: Limiter::new(config.failures),
            requests: config.requests.map(Limiter::new),
        })
    }

    /// Finds out who calls; somebody anonymous when no credentials came.
    ///
    /// # Errors
    /// When credentials came that do not count, or this caller calls too often.
    pub(crate) fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, AuthError> {
        let address = rate::address(peer.addr.ip());
        let caller = self.identify(headers, peer, address).map_err(|error| match error {
            AuthError::TooMany { .. } => error,
            // The answer to the last of too many attempts says nothing about the credentials any more.
            error => self.failures.take(address).map_or_else(AuthError::failures, |()| error),
        })?;
        if let Some(requests) = &self.requests {
            let bucket = if caller.is_anonymous() { address } else { caller.0.bucket };
            let too_many = |wait| AuthError::TooMany { what: "requests", retry_after: rate::retry_after(wait) };
            requests.take(bucket).map_err(too_many)?;
        }
        Ok(caller)
    }

    fn identify(&self, headers: &HeaderMap, peer: &Peer, address: rate::Key) -> Result<Caller, AuthError> {
        let Some(credentials) = credentials(headers)? else {
            return match &peer.certificate {
                Some(certificate) => Ok(Caller(self.clients.find(certificate, self.clock.as_ref())?)),
                None => Ok(self.anonymous.clone()),
            };
        };
        let token = credentials.as_ref();
        if token.starts_with(tokens::PREFIX) {
            // A hash and a look into a table: cheaper than to keep count. So a good token is never refused for what others at its address do.
            let find = |tokens: Arc<Tokens>| tokens.find(token, self.clock.as_ref(), self.skew);
            let found = match find(self.tokens.get()) {
                // It may have been made since the file was looked at last.
                Err(Refusal::Unknown) => find(self.tokens.get_now()),
                found => found,
            };
            return Ok(Caller(found?));
        }
        if let Some(grant) = self.issuers.remembered(token, self.clock.as_ref(), self.skew) {
            return Ok(Caller(grant));
        }
        // A signature takes a thousand times as long: whoever failed too often waits before another is checked.
        self.failures.look(address).map_err(AuthError::failures)?;
        Ok(Caller(self.issuers.verify(token, self.clock.as_ref(), self.skew)?))
    }
}

/// The token in the `Authorization` header, if there is one.
fn credentials(headers: &HeaderMap) -> Result<Option<std::borrow::Cow<'_, str>>, AuthError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(AuthError::Malformed("is there more than once"));
    }
    if value.len() > MAX_HEADER {
        return Err(AuthError::Malformed("is too long"));
    }
    let text = value.to_str().map_err(|_| AuthError::Malformed("has characters that it can't have"))?;
    let (scheme, rest) = text.split_once(' ').ok_or(AuthError::Malformed("has no credentials in it"))?;
    let rest = rest.trim_matches(' ');
    if rest.is_empty() || rest.contains([' ', '\t']) {
        return Err(AuthError::Malformed("is not a scheme and credentials"));
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Some(rest.into()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(AuthError::Malformed("has a scheme other than Bearer and Basic"));
    }
    let decoded = BASE64.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let decoded = decoded.ok_or(AuthError::Malformed("is not base64 of text"))?;
    // The user's name says nothing here.
    let (_, password) = decoded.split_once(':').ok_or(AuthError::Malformed("has no password in it"))?;
    Ok(Some(password.to_owned().into()))
}

#[cfg(test)]
mod tests;
