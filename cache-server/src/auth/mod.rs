//! Who calls.

use crate::error::ApiError;
use crate::storage::Namespace;
use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Right {
    /// Read blobs, entries and names.
    Read,
    /// Write blobs.
    WriteBlob,
    /// Write entries.
    WriteKey,
    /// Move names.
    Name,
    /// Everything else.
    Admin,
}

impl Right {
    /// The word for it.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::WriteBlob => "write-blob",
            Self::WriteKey => "write-key",
            Self::Name => "name",
            Self::Admin => "admin",
        }
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its address.
    pub(crate) addr: SocketAddr,
    /// Its certificate, if it showed one that the service's authorities vouch for.
    pub(crate) certificate: Option<CertificateDer<'static>>,
}

/// Who calls, and what they may.
#[derive(Debug, Clone)]
pub(crate) struct Caller(Arc<Grant>);

#[derive(Debug)]
struct Grant {
    name: String,
    anonymous: bool,
}

impl Caller {
    /// Nobody in particular.
    #[must_use]
    pub(crate) fn anonymous() -> Self {
        Self(Arc::new(Grant { name: "anonymous".into(), anonymous: true }))
    }

    /// The name of the token, certificate or CI job.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether no credentials came.
    #[must_use]
    pub(crate) fn is_anonymous(&self) -> bool {
        self.0.anonymous
    }

    /// Whether the caller has a right in a namespace.
    #[must_use]
    pub(crate) fn may(&self, _right: Right, _namespace: &Namespace) -> bool {
        false
    }

    /// Whether the caller has a right in all namespaces.
    #[must_use]
    pub(crate) fn may_all(&self, _right: Right) -> bool {
        false
    }
}

/// Why credentials do not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AuthError {
    /// They are not known, or their time is over.
    #[error("these credentials are not good here")]
    Refused,
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        Self::unauthorized(error.to_string())
    }
}

/// Knows who may do what.
#[derive(Debug)]
pub(crate) struct Auth;

impl Auth {
    /// Finds out who calls; somebody anonymous when no credentials came.
    ///
    /// # Errors
    /// When credentials came that do not count.
    pub(crate) fn authenticate(&self, _headers: &HeaderMap, _peer: &Peer) -> Result<Caller, AuthError> {
        Ok(Caller::anonymous())
    }
}
