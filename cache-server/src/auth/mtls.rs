//! Client certificates: which names in them may do what. That an authority vouches for them, `tls` has checked at the handshake.

use super::config::{AuthConfig, ClientRule};
use super::rights::Scope;
use super::{Grant, Kind, Refusal};
use crate::clock::Clock;
use std::sync::{Arc, OnceLock};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What of a client's certificate matters here.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// In lower case.
    dns: Vec<String>,
    uris: Vec<String>,
    common_name: Option<String>,
    /// When it ends, in seconds since 1970.
    expires: u64,
    /// What it is good for, once somebody asked: rules do not change while the service runs.
    grant: OnceLock<Arc<Grant>>,
}

impl ClientCertificate {
    /// Reads a certificate that was verified.
    ///
    /// # Errors
    /// When it is not one, or says who it is for in an ambiguous way.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, &'static str> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| "not an X.509 certificate")?;
        if !rest.is_empty() {
            return Err("something follows the certificate");
        }
        let mut parsed = Self { dns: Vec::new(), uris: Vec::new(), common_name: None, expires: 0, grant: OnceLock::new() };
        parsed.expires = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        if let Some(names) = certificate.subject_alternative_name().map_err(|_| "its alternative names can't be read")? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::DNSName(name) => parsed.dns.push(visible(name)?.to_ascii_lowercase()),
                    GeneralName::URI(uri) => parsed.uris.push(visible(uri)?.to_owned()),
                    _ => {}
                }
            }
        }
        let mut common_names = certificate.subject().iter_common_name();
        if let Some(name) = common_names.next() {
            if common_names.next().is_some() {
                return Err("it has several common names");
            }
            let text = name.as_str().map_err(|_| "its common name is not text")?;
            parsed.common_name = Some(visible(text)?.to_owned());
        }
        Ok(parsed)
    }

    /// What to call its holder.
    fn name(&self) -> String {
        self.uris.first().or(self.dns.first()).or(self.common_name.as_ref()).cloned().unwrap_or_else(|| "certificate without a name".into())
    }
}

/// A name that is cut short by a NUL somewhere, or shows as another, is nobody's.
fn visible(text: &str) -> Result<&str, &'static str> {
    match text.is_empty() || text.chars().any(char::is_control) {
        true => Err("a name in it has control characters or is empty"),
        false => Ok(text),
    }
}

/// The rules for client certificates.
pub(crate) struct Clients(Vec<(ClientRule, Scope)>);

impl Clients {
    /// The rules of a configuration that was checked.
    pub(crate) fn new(config: &AuthConfig) -> Result<Self, String> {
        let rules = config.clients.iter().map(|rule| Ok((rule.clone(), Scope::new(&rule.namespaces, &rule.rights)?)));
        Ok(Self(rules.collect::<Result<_, String>>()?))
    }

    /// Whose certificate it is: with the rights of all rules that fit it, or with none, which is known but may do nothing.
    pub(crate) fn find(&self, certificate: &ClientCertificate, clock: &dyn Clock) -> Result<Arc<Grant>, Refusal> {
        // The handshake may have been long ago, or resumed an older one. No skew: authorities issue in good time.
        if clock.now() > certificate.expires {
            return Err(Refusal::Expired);
        }
        Ok(certificate.grant.get_or_init(|| Arc::new(self.grant(certificate))).clone())
    }

    fn grant(&self, certificate: &ClientCertificate) -> Grant {
        let scopes = self.0.iter().filter(|(rule, _)| fits(rule, certificate)).map(|(_, scope)| scope.clone()).collect();
        let name = certificate.name();
        let identity = format!("certificate {name}");
        Grant::new(Kind::Certificate, name, &identity, scopes)
    }
}

fn fits(rule: &ClientRule, certificate: &ClientCertificate) -> bool {
    let dns = |wanted: &super::pattern::Pattern| match wanted {
        super::pattern::Pattern::Exact(wanted) => certificate.dns.iter().any(|name| name.eq_ignore_ascii_case(wanted)),
        super::pattern::Pattern::Wild(_) => false,
    };
    rule.dns.as_ref().is_some_and(dns)
        || rule.uri.as_ref().is_some_and(|wanted| certificate.uris.iter().any(|uri| wanted.matches(uri)))
        || rule.common_name.as_ref().is_some_and(|wanted| certificate.common_name.as_ref().is_some_and(|name| wanted.matches(name)))
}

#[cfg(test)]
mod tests {
    use super::super::Right;
    use super::super::pattern::{Pattern, Wild};
    use super::*;
    use crate::clock::ManualClock;
    use crate::storage::Namespace;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(names: &[&str], uri: Option<&str>, common_name: Option<&str>) -> ClientCertificate {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        if let Some(uri) = uri {
            params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        }
        params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        ClientCertificate::parse(signed.der()).unwrap()
    }

    fn rule(dns: Option<&str>, uri: Option<Pattern>, common_name: Option<&str>) -> ClientRule {
        ClientRule {
            dns: dns.map(|name| Pattern::Exact(name.into())),
            uri,
            common_name: common_name.map(|name| Pattern::Exact(name.into())),
            namespaces: vec!["prod".into()],
            rights: vec![Right::Read],
        }
    }

    fn lets_in(rule: ClientRule, certificate: &ClientCertificate) -> bool {
        let config = AuthConfig { clients: vec![rule], ..AuthConfig::default() };
        config.check().unwrap();
        let grant = Clients::new(&config).unwrap().grant(certificate);
        assert!(!grant.may(Right::WriteKey, &Namespace::new("prod").unwrap()));
        grant.may(Right::Read, &Namespace::new("prod").unwrap())
    }

    #[test]
    fn only_the_exact_name_counts_and_only_in_its_place() {
        let shown = certificate(&["node-1.example"], None, Some("builder"));
        assert!(lets_in(rule(Some("node-1.example"), None, None), &shown));
        assert!(lets_in(rule(Some("NODE-1.example"), None, None), &shown));
        assert!(lets_in(rule(None, None, Some("builder")), &shown));
        for other in ["node-1.example.org", "ode-1.example", "example", "builder"] {
            assert!(!lets_in(rule(Some(other), None, None), &shown), "{other}");
        }
        assert!(!lets_in(rule(None, None, Some("node-1.example")), &shown), "a DNS name is no common name");
        assert!(!lets_in(rule(None, None, Some("Builder")), &shown));
        assert!(!lets_in(rule(None, Some(Pattern::Exact("builder".into())), None), &shown));
    }

    #[test]
    fn a_wildcard_name_in_a_certificate_is_only_itself() {
        assert!(!lets_in(rule(Some("node-1.example"), None, None), &certificate(&["*.example"], None, None)));
    }

    #[test]
    fn uris_follow_patterns() {
        let pattern = || Some(Pattern::Wild(Wild { pattern: "spiffe://example/ns/*".into() }));
        assert!(lets_in(rule(None, pattern(), None), &certificate(&[], Some("spiffe://example/ns/prod/sa/x"), None)));
        assert!(!lets_in(rule(None, pattern(), None), &certificate(&[], Some("spiffe://example.evil/ns/prod"), None)));
        assert!(!lets_in(rule(None, pattern(), None), &certificate(&[], Some("spiffe://example/nsx/prod"), None)));
    }

    #[test]
    fn a_certificate_that_ended_since_the_handshake_does_not_count() {
        let shown = certificate(&["node-1.example"], None, None);
        let clients = Clients::new(&AuthConfig::default()).unwrap();
        let at = |now| clients.find(&shown, &ManualClock::at(now)).map(|grant| grant.kind);
        assert_eq!(at(shown.expires), Ok(Kind::Certificate));
        assert_eq!(at(shown.expires + 1), Err(Refusal::Expired));
    }

    #[test]
    fn ambiguous_certificates_are_nobodys() {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "admin\0.evil");
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        assert!(ClientCertificate::parse(signed.der()).is_err());
        assert!(ClientCertificate::parse(b"rubbish").is_err());
        let mut longer = signed.der().to_vec();
        longer.push(0);
        assert!(ClientCertificate::parse(&longer).is_err());
    }
}
