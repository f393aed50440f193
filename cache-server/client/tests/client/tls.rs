use crate::script::{Server, Step, config, reply};
use preheat_cache_client::{Cache, CacheConfig, ClientError, ClientIdentity};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

/// A CA, a server's certificate and a client's.
struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), ca.pem()).unwrap();
        Self { ca, directory }
    }

    fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn certificate(&self, name: &str) -> ClientIdentity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.ca).unwrap();
        let file = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        ClientIdentity { certificates: file("pem"), key: file("key") }
    }

    fn acceptor(&self, clients: bool) -> TlsAcceptor {
        let identity = self.certificate("127.0.0.1");
        let chain = vec![CertificateDer::from_pem_file(identity.certificates).unwrap()];
        let key = PrivateKeyDer::from_pem_file(identity.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

async fn server(pki: &Pki, clients: bool) -> (Server, CacheConfig) {
    let server = Server::start_with(Some(pki.acceptor(clients)), |_, _| reply(200, &[], br#"{"namespaces":[]}"#)).await;
    let config = config(&format!("https://{}", server.address));
    (server, config)
}

#[tokio::test]
async fn only_a_certificate_of_the_named_ca_is_believed() {
    let pki = Pki::new();
    let (_server, config) = server(&pki, false).await;
    let with_ca = |ca_file| Cache::new(CacheConfig { ca_file, ..config.clone() }).unwrap();
    with_ca(Some(pki.ca_file())).namespaces().await.unwrap();
    let other = Pki::new();
    let error = with_ca(Some(other.ca_file())).namespaces().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
    // A machine without any trusted certificates can't even begin.
    let error = with_ca(None).namespaces().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. } | ClientError::Configuration { .. }), "{error:?}");
    // Right CA, other name.
    let named = config.url.replace("127.0.0.1", "localhost");
    let error = Cache::new(CacheConfig { ca_file: Some(pki.ca_file()), url: named, ..config }).unwrap().namespaces().await.unwrap_err();
    assert!(matches!(error, ClientError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let pki = Pki::new();
    let (server, config) = server(&pki, true).await;
    let config = CacheConfig { ca_file: Some(pki.ca_file()), ..config };
    let identity = pki.certificate("builder");
    Cache::new(CacheConfig { client_identity: Some(identity), ..config.clone() }).unwrap().namespaces().await.unwrap();
    assert_eq!(server.seen().len(), 1);
    let error = Cache::new(config.clone()).unwrap().namespaces().await.unwrap_err();
    assert!(matches!(error, ClientError::Certificate { .. }), "without one: {error:?}");
    let other = Pki::new();
    let identity = Some(other.certificate("builder"));
    let error = Cache::new(CacheConfig { client_identity: identity, ..config }).unwrap().namespaces().await.unwrap_err();
    assert!(matches!(error, ClientError::Certificate { .. }), "by another authority: {error:?}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be_are_named() {
    let pki = Pki::new();
    let (_server, config) = server(&pki, false).await;
    let empty = pki.directory.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for ca_file in [empty, pki.directory.path().join("absent.pem")] {
        let error = Cache::new(CacheConfig { ca_file: Some(ca_file.clone()), ..config.clone() }).unwrap().namespaces().await.unwrap_err();
        assert!(matches!(&error, ClientError::Configuration { .. }), "{error:?}");
        assert!(error.to_string().contains(ca_file.to_str().unwrap()), "{error}");
    }
    let identity = ClientIdentity { key: pki.ca_file(), ..pki.certificate("builder") };
    let config = CacheConfig { ca_file: Some(pki.ca_file()), client_identity: Some(identity), ..config };
    assert!(matches!(Cache::new(config).unwrap().namespaces().await, Err(ClientError::Configuration { .. })));
}

#[tokio::test]
async fn no_redirect_leads_from_https_to_http_and_another_host_sees_no_certificate() {
    let pki = Pki::new();
    let blob = crate::script::blob(b"x");
    let plain = Server::start(|_, _| reply(200, &[], b"x")).await;
    let location = plain.url();
    let server = Server::start_with(Some(pki.acceptor(false)), move |_, _| reply(302, &[("Location", &location)], b"")).await;
    let config = CacheConfig { ca_file: Some(pki.ca_file()), ..config(&format!("https://{}", server.address)) };
    let error = Cache::new(config.clone()).unwrap().get_blob("ns", &blob, &mut Vec::new(), &()).await.unwrap_err();
    assert!(matches!(error, ClientError::BadAnswer { .. }), "{error:?}");
    assert!(plain.seen().is_empty());
    // The other host demands a certificate; ours is not for it.
    let asks = Server::start_with(Some(pki.acceptor(true)), |_, _| reply(200, &[], b"x")).await;
    let location = format!("https://{}", asks.address);
    let server = Server::start_with(Some(pki.acceptor(true)), move |_, _| {
        vec![Step::Send(crate::script::head(302, &[("Location", &location)], Some(0)))]
    })
    .await;
    let url = format!("https://{}", server.address);
    let config = CacheConfig { url, client_identity: Some(pki.certificate("builder")), ..config };
    assert!(Cache::new(config).unwrap().get_blob("ns", &blob, &mut Vec::new(), &()).await.is_err());
    assert!(!server.seen().is_empty(), "the service itself accepted it");
    assert!(asks.seen().is_empty());
}
