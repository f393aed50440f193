//! TLS by rustls with ring, never by whatever the process happens to have installed.

use crate::config::ClientIdentity;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// Whom to believe.
pub(crate) enum Roots<'a> {
    /// Nobody: no TLS will be spoken.
    None,
    /// The machine's.
    Machine,
    /// Only those of this file.
    Only(&'a Path),
    /// The machine's and those of this file.
    And(&'a Path),
}

/// The settings, with a certificate to show if there is one.
pub(crate) fn settings(roots: &Roots<'_>, identity: Option<&ClientIdentity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
    let machine = |extra: Vec<CertificateDer<'static>>| -> Result<Arc<dyn ServerCertVerifier>, String> {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
            .map_err(|e| format!("this machine's trusted certificates: {e}"))?;
        Ok(Arc::new(verifier))
    };
    let builder = match roots {
        Roots::None => builder.with_root_certificates(RootCertStore::empty()),
        Roots::Only(file) => {
            let mut store = RootCertStore::empty();
            for certificate in certificates(file)? {
                store.add(certificate).map_err(|e| format!("{}: {e}", file.display()))?;
            }
            builder.with_root_certificates(store)
        }
        Roots::Machine => builder.dangerous().with_custom_certificate_verifier(machine(Vec::new())?),
        Roots::And(file) => builder.dangerous().with_custom_certificate_verifier(machine(certificates(file)?)?),
    };
    match identity {
        None => Ok(builder.with_no_client_auth()),
        Some(ClientIdentity { certificates: file, key }) => {
            let chain = certificates(file)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| format!("{}: {e}", key.display()))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| format!("{}: {e}", file.display()))
        }
    }
}

/// The certificates in a file of PEM; at least one.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let problem = |e: rustls::pki_types::pem::Error| format!("{}: {e}", file.display());
    let all: Vec<_> = CertificateDer::pem_file_iter(file).map_err(problem)?.collect::<Result<_, _>>().map_err(problem)?;
    if all.is_empty() { Err(format!("{} has no certificate in PEM", file.display())) } else { Ok(all) }
}
