//! Certificates and identity tokens, for tests.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) const ISSUER: &str = "https://ci.example";

/// An authority that issues certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a DNS name or an address, and its key, PEM.
    pub(crate) fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A CI system that gives its jobs identity tokens.
pub(crate) struct Ci(EncodingKey);

impl Ci {
    pub(crate) fn new() -> Self {
        Self(EncodingKey::from_ec_der(&KeyPair::generate().unwrap().serialize_der()))
    }

    /// Its public keys, as it publishes them.
    pub(crate) fn jwks(&self) -> String {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&self.0, Algorithm::ES256).unwrap()).unwrap();
        jwk["kid"] = "key-1".into();
        json!({ "keys": [jwk] }).to_string()
    }

    /// The token of a job on the main branch of a repository, good for ten minutes.
    pub(crate) fn job(&self, repository: &str, audience: &str) -> String {
        self.job_at(repository, audience, SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    /// The same, issued at another time, in seconds since 1970.
    pub(crate) fn job_at(&self, repository: &str, audience: &str, issued: u64) -> String {
        let claims = json!({
            "iss": ISSUER, "aud": audience, "iat": issued, "exp": issued + 600,
            "sub": format!("repo:{repository}:ref:refs/heads/main"), "repository": repository,
        });
        let header = Header { kid: Some("key-1".into()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &self.0).unwrap()
    }
}
