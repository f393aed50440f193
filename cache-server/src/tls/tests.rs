use super::*;
use crate::listen::ConnectionLimits;
use crate::listen::tests::{Running, start};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::ClientConfig;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate of an authority, and its key in PEM and DER.
struct Issued {
    pem: String,
    der: CertificateDer<'static>,
    key: KeyPair,
}

fn issue(authority: &Authority, name: &str, last_year: i32) -> Issued {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    Issued { pem: certificate.pem(), der: certificate.der().clone(), key }
}

struct Files {
    dir: TempDir,
    config: TlsConfig,
}

impl Files {
    fn new(server: &Issued, clients: Option<&Authority>, required: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = TlsConfig {
            certificate: dir.path().join("cert.pem"),
            key: dir.path().join("key.pem"),
            client_authorities: clients.map(|_| dir.path().join("clients.pem")),
            client_certificate_required: required,
        };
        let files = Self { dir, config };
        files.put(server);
        if let Some(clients) = clients {
            std::fs::write(files.dir.path().join("clients.pem"), clients.pem()).unwrap();
        }
        files
    }

    fn put(&self, server: &Issued) {
        std::fs::write(&self.config.certificate, &server.pem).unwrap();
        std::fs::write(&self.config.key, server.key.serialize_pem()).unwrap();
        std::fs::set_permissions(&self.config.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    async fn serve(&self) -> Running {
        let tls = Tls::open(&self.config).unwrap().every(Duration::ZERO);
        start(ConnectionLimits { handshake_seconds: 1, ..ConnectionLimits::default() }, Some(Arc::new(tls))).await
    }
}

fn client(authority: &Authority, certificate: Option<&Issued>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots);
    match certificate {
        None => builder.with_no_client_auth(),
        Some(one) => {
            // Without a look at whether they fit: that is what the service has to find out.
            let key = PrivatePkcs8KeyDer::from(one.key.serialize_der()).into();
            let key = ring::sign::any_supported_type(&key).unwrap();
            let both = CertifiedKey::new(vec![one.der.clone()], key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(both)))
        }
    }
}

/// The answer to a question over a new connection.
async fn get(server: &Running, config: ClientConfig, path: &str) -> io::Result<String> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.addr).await?;
    let mut stream = connector.connect(ServerName::try_from("cache.example").unwrap(), stream).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    if text.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text)
}

#[tokio::test]
async fn requests_go_over_tls_and_large_answers_too() {
    let authority = authority("authority");
    let files = Files::new(&issue(&authority, "cache.example", 2100), None, false);
    let server = files.serve().await;
    assert!(get(&server, client(&authority, None), "/hello").await.unwrap().ends_with("hello"));
    assert!(get(&server, client(&authority, None), "/big").await.unwrap().len() > 16 * 1024 * 1024);
    let mut only_1_2 = client(&authority, None);
    only_1_2.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(get(&server, only_1_2, "/peer").await.unwrap().ends_with("None"));
}

#[tokio::test]
async fn whoever_speaks_no_tls_or_says_nothing_is_ended() {
    let authority = authority("authority");
    let files = Files::new(&issue(&authority, "cache.example", 2100), None, false);
    let server = files.serve().await;
    for said in ["GET /hello HTTP/1.1\r\nhost: x\r\n\r\n", ""] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("an end");
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
}

#[tokio::test]
async fn clients_are_known_by_certificates_of_the_right_authority_only() {
    let (authority, clients, evil) = (authority("authority"), authority("clients"), authority("clients"));
    let files = Files::new(&issue(&authority, "cache.example", 2100), Some(&clients), false);
    let server = files.serve().await;
    let ask = async |certificate: Option<&Issued>| get(&server, client(&authority, certificate), "/peer").await;
    let good = issue(&clients, "node-1.example", 2100);
    assert!(ask(Some(&good)).await.unwrap().contains("node-1.example"));
    assert!(ask(None).await.unwrap().ends_with("None"), "others may come with a token");
    // An authority of the same name, a certificate that ended, the authority of the service itself. Whoever is refused can always read why,
    // although the first request was on its way.
    for _ in 0..20 {
        let refused = ask(Some(&issue(&evil, "node-1.example", 2100))).await.unwrap_err();
        assert!(refused.to_string().contains("DecryptError"), "{refused}");
    }
    assert!(ask(Some(&issue(&clients, "node-1.example", 2021))).await.is_err());
    assert!(ask(Some(&issue(&authority, "node-1.example", 2100))).await.is_err());
    // The certificate of another, without its key.
    let stolen = Issued { key: KeyPair::generate().unwrap(), ..issue(&clients, "node-1.example", 2100) };
    assert!(ask(Some(&stolen)).await.is_err());
}

#[tokio::test]
async fn where_a_certificate_is_required_nobody_comes_in_without() {
    let (authority, clients) = (authority("authority"), authority("clients"));
    let files = Files::new(&issue(&authority, "cache.example", 2100), Some(&clients), true);
    let server = files.serve().await;
    assert!(get(&server, client(&authority, None), "/hello").await.is_err());
    let good = issue(&clients, "node-1.example", 2100);
    assert!(get(&server, client(&authority, Some(&good)), "/hello").await.is_ok());
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_damaged_one_is_not() {
    let (old, new) = (authority("old"), authority("new"));
    let files = Files::new(&issue(&old, "cache.example", 2100), None, false);
    let server = files.serve().await;
    let works = async |authority| get(&server, client(authority, None), "/hello").await.is_ok();
    assert!(works(&old).await && !works(&new).await);
    files.put(&issue(&new, "cache.example", 2100));
    assert!(works(&new).await && !works(&old).await);
    std::fs::write(&files.config.certificate, "damaged").unwrap();
    assert!(works(&new).await);
    // A certificate whose key is not there yet.
    std::fs::write(&files.config.certificate, issue(&old, "cache.example", 2100).pem).unwrap();
    assert!(works(&new).await && !works(&old).await);
    // A key that everybody can read.
    files.put(&issue(&old, "cache.example", 2100));
    std::fs::set_permissions(&files.config.key, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(works(&new).await && !works(&old).await);
    std::fs::set_permissions(&files.config.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(works(&old).await && !works(&new).await);
}

#[test]
fn files_that_can_not_be_used_are_refused_at_the_start_without_showing_the_key() {
    let authority = authority("authority");
    let good = issue(&authority, "cache.example", 2100);
    let files = Files::new(&good, None, false);
    let open = || Tls::open(&files.config).map(|_| ()).unwrap_err();
    assert!(Tls::open(&files.config).is_ok());
    std::fs::set_permissions(&files.config.key, std::fs::Permissions::from_mode(0o604)).unwrap();
    assert!(open().contains("open to everybody"));
    std::fs::set_permissions(&files.config.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&files.config.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    open();
    let pem = good.key.serialize_pem();
    let secret = pem.lines().nth(1).unwrap();
    for damaged in [pem.replace("-----END", "----END"), pem.replacen(secret, &format!("{secret}!"), 1), String::new()] {
        std::fs::write(&files.config.key, damaged).unwrap();
        let error = open();
        assert!(!error.contains(secret), "{error}");
    }
    files.put(&good);
    std::fs::write(&files.config.certificate, "").unwrap();
    assert!(open().contains("no certificate"));
    std::fs::remove_file(&files.config.certificate).unwrap();
    assert!(open().contains("can't read"));
    files.put(&good);
    let config = TlsConfig { client_certificate_required: true, ..files.config.clone() };
    assert!(Tls::open(&config).map(|_| ()).unwrap_err().contains("client-authorities"));
}
