//! TLS by rustls: certificates from files, read again when they change, and client certificates.

use crate::auth::ClientCertificate;
use crate::watched::{Source, Watched};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Permissions of a private key that let in more than its owner and group.
const OTHERS: u32 = 0o007;

/// TLS, from version 1.2. The files are read again when they change; connections that are there go on with what they had.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate chain of the service, PEM, its own certificate first.
    pub certificate: PathBuf,
    /// The key to it, PEM. Others than its owner and group must not be able to read it.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM. Without it clients are not asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<PathBuf>,
    /// Whether clients without a certificate are turned away at the handshake. If not, they may still come with a token.
    #[serde(default)]
    pub client_certificate_required: bool,
}

/// TLS as it is set up now.
pub(crate) struct Tls(Watched<ServerConfig>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0).finish()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// When one can't be used: the key does not fit the certificate, others can read it, a file holds nothing.
    pub(crate) fn open(config: &TlsConfig) -> Result<Self, String> {
        if config.client_certificate_required && config.client_authorities.is_none() {
            return Err("tls.client-certificate-required needs tls.client-authorities".into());
        }
        let required = config.client_certificate_required;
        let paths = [Some(&config.certificate), Some(&config.key), config.client_authorities.as_ref()];
        Ok(Self(Watched::open(paths.into_iter().flatten().cloned().collect(), move |sources| parse(sources, required))?))
    }

    #[cfg(test)]
    pub(crate) fn every(self, interval: std::time::Duration) -> Self {
        Self(self.0.every(interval))
    }

    /// What takes connections.
    #[must_use]
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.0.get().into()
    }
}

/// The certificate that a client showed; the handshake has verified it.
///
/// # Errors
/// When it says who it is for in an ambiguous way.
pub(crate) fn client_certificate(connection: &ServerConnection) -> Result<Option<Arc<ClientCertificate>>, &'static str> {
    let first = connection.peer_certificates().and_then(|chain| chain.first());
    first.map(|der| ClientCertificate::parse(der).map(Arc::new)).transpose()
}

fn parse(sources: &[Source], required: bool) -> Result<ServerConfig, String> {
    let [certificate, key, authorities @ ..] = sources else { return Err("a certificate and a key are needed".into()) };
    let chain = certificates(certificate)?;
    if key.mode & OTHERS != 0 {
        let (path, mode) = (key.path.display(), key.mode);
        return Err(format!(
            "the private key {path} is open to everybody (mode {mode:o}): `chmod o-rwx` it, and make a new one if others had access"
        ));
    }
    // The error of the parser may quote what it read.
    let private = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|_| format!("{}: no private key in PEM", key.path.display()))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let builder = match authorities.first() {
        None => builder.with_no_client_auth(),
        Some(source) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(source)? {
                roots.add(authority).map_err(|error| format!("{}: {error}", source.path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| format!("{}: {error}", source.path.display()))?)
        }
    };
    let failed = |error| format!("{} and {}: {error}", certificate.path.display(), key.path.display());
    let mut config = builder.with_single_cert(chain, private).map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(source: &Source) -> Result<Vec<CertificateDer<'static>>, String> {
    let path = source.path.display();
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&source.bytes).collect::<Result<_, _>>().map_err(|error| format!("{path}: {error}"))?;
    if all.is_empty() {
        return Err(format!("{path}: no certificate in PEM"));
    }
    Ok(all)
}

#[cfg(test)]
mod tests;
