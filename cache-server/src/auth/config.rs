//! How access is set up.

use super::pattern::Pattern;
use super::rights::{Right, Scope};
use crate::rate::Rate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Who may do what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct AuthConfig {
    /// File of hashed tokens; `tokens.json` in the directory if not given. It is read again when it changes.
    pub tokens: Option<PathBuf>,
    /// Whether namespaces whose own setting is `anonymousRead` may be read without credentials.
    pub anonymous: bool,
    /// How far the clocks of others may be off, in seconds: a token counts that much before its beginning and after its end. At most 300.
    pub clock_skew_seconds: u64,
    /// CI systems whose tokens count.
    pub oidc: Vec<OidcIssuer>,
    /// Client certificates that count. They have to be by one of `tls.client-authorities`.
    pub clients: Vec<ClientRule>,
    /// How many failed attempts an address may make. Beyond that, 429.
    pub failures: Rate,
    /// How many requests each token, certificate, CI job or, without credentials, address may make on this server. No limit if not given.
    pub requests: Option<Rate>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            tokens: None,
            anonymous: false,
            clock_skew_seconds: 30,
            oidc: Vec::new(),
            clients: Vec::new(),
            failures: Rate { per_second: 5.0, burst: 100 },
            requests: None,
        }
    }
}

/// A CI system that signs tokens for its jobs (OpenID Connect).
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OidcIssuer {
    /// Claim `iss`, exactly.
    pub issuer: String,
    /// Claim `aud`, exactly: what the job asks its token for. Take a text that is only this cache's, such as its address.
    pub audience: String,
    /// File with the keys of the issuer (a JWK set). It is read again when it changes; put the new one there before the issuer signs with a
    /// new key. The service fetches nothing by itself.
    pub jwks_file: PathBuf,
    /// Signature algorithms that count.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<JwtAlgorithm>,
    /// Which jobs may do what. A job has the rights of all rules that fit it.
    pub rules: Vec<OidcRule>,
}

fn default_algorithms() -> Vec<JwtAlgorithm> {
    vec![JwtAlgorithm::Rs256, JwtAlgorithm::Es256, JwtAlgorithm::EdDsa]
}

/// How a token of a CI system is signed. None of them works with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JwtAlgorithm {
    /// RSA, PKCS #1, SHA-256; keys of at least 2048 bits.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA, P-256, SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// What jobs of a CI system may do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OidcRule {
    /// Claims that the token must have: an exact text, or `{ pattern = "…" }`. At least `sub` or `repository`.
    pub claims: BTreeMap<String, Pattern>,
    /// Namespaces; `*` for all.
    pub namespaces: Vec<String>,
    /// What a job may do there.
    pub rights: Vec<Right>,
    /// Longest life of a token, from its claim `iat` to its claim `exp`, in seconds.
    #[serde(default = "default_lifetime")]
    pub max_lifetime_seconds: u64,
}

fn default_lifetime() -> u64 {
    24 * 3600
}

/// What the holder of a client certificate may do.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ClientRule {
    /// A DNS name in the certificate (subject alternative name).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Pattern>,
    /// A URI in the certificate (subject alternative name), such as a SPIFFE identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<Pattern>,
    /// The common name of its subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common_name: Option<Pattern>,
    /// Namespaces; `*` for all.
    pub namespaces: Vec<String>,
    /// What the client may do there.
    pub rights: Vec<Right>,
}

/// Longest tolerated difference of clocks, in seconds.
const MAX_SKEW: u64 = 300;
/// Claims that say whose job it is. Without one of them, a rule is for all jobs of all people at the issuer.
const SUBJECTS: [&str; 2] = ["sub", "repository"];
/// Claims with a meaning of their own, which a rule can't match as text.
const RESERVED: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

impl AuthConfig {
    /// Checks what the types do not say.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn check(&self) -> Result<(), String> {
        if self.clock_skew_seconds > MAX_SKEW {
            return Err(format!("clock-skew-seconds is {}, at most {MAX_SKEW} allowed", self.clock_skew_seconds));
        }
        self.failures.check().map_err(|error| format!("failures: {error}"))?;
        self.requests.map_or(Ok(()), |rate| rate.check()).map_err(|error| format!("requests: {error}"))?;
        for issuer in &self.oidc {
            issuer.check().map_err(|error| format!("OIDC issuer `{}`: {error}", issuer.issuer.escape_default()))?;
        }
        for (number, client) in self.clients.iter().enumerate() {
            client.check().map_err(|error| format!("client rule {}: {error}", number + 1))?;
        }
        Ok(())
    }
}

impl OidcIssuer {
    fn check(&self) -> Result<(), String> {
        if self.issuer.is_empty() || self.audience.is_empty() {
            return Err("issuer and audience are needed, each a text that is not empty".into());
        }
        if self.issuer.contains('*') || self.audience.contains('*') {
            return Err("issuer and audience are exact, without wildcards".into());
        }
        if self.algorithms.is_empty() {
            return Err("no algorithm counts".into());
        }
        if self.rules.is_empty() {
            return Err("it has no rules, so no job of it may do anything".into());
        }
        for (number, rule) in self.rules.iter().enumerate() {
            rule.check().map_err(|error| format!("rule {}: {error}", number + 1))?;
        }
        Ok(())
    }
}

impl OidcRule {
    fn check(&self) -> Result<(), String> {
        if !SUBJECTS.iter().any(|subject| self.claims.contains_key(*subject)) {
            return Err("it does not say whose jobs it is for: it needs the claim `sub` or `repository`".into());
        }
        for (claim, pattern) in &self.claims {
            if RESERVED.contains(&claim.as_str()) {
                return Err(format!("the claim `{claim}` can't be in a rule"));
            }
            // In `sub` what comes first is what kind of name follows, not yet whose.
            pattern.check(if claim == "sub" { 2 } else { 1 }).map_err(|error| format!("claim `{claim}`: {error}"))?;
        }
        if self.max_lifetime_seconds == 0 {
            return Err("a longest life of 0 seconds lets no token in".into());
        }
        Scope::new(&self.namespaces, &self.rights).map(|_| ())
    }
}

impl ClientRule {
    fn check(&self) -> Result<(), String> {
        let patterns: Vec<&Pattern> = [&self.dns, &self.uri, &self.common_name].into_iter().flatten().collect();
        let [pattern] = patterns.as_slice() else {
            return Err("it needs exactly one of dns, uri and common-name".into());
        };
        if self.dns.is_some() && !matches!(pattern, Pattern::Exact(_)) {
            return Err("a DNS name is exact".into());
        }
        // A URI begins with its scheme and, after an empty segment, the authority.
        pattern.check(if self.uri.is_some() { 2 } else { 1 })?;
        Scope::new(&self.namespaces, &self.rights).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<AuthConfig, String> {
        let config: AuthConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    const GOOD: &str = r#"
        [[oidc]]
        issuer = "https://ci.example"
        audience = "https://cache.example"
        jwks-file = "ci.json"
        [[oidc.rules]]
        claims = { sub = { pattern = "repo:org/*" }, ref = "refs/heads/main" }
        namespaces = ["prod"]
        rights = ["read", "write-blob"]
        [[clients]]
        uri = { pattern = "spiffe://example/ns/*" }
        namespaces = ["*"]
        rights = ["read"]
        [[clients]]
        dns = "node-1.example"
        namespaces = ["prod"]
        rights = ["read"]
    "#;

    #[test]
    fn a_configuration_is_read_from_toml() {
        let config = config(GOOD).unwrap();
        assert_eq!(config.clock_skew_seconds, 30);
        assert_eq!(config.oidc[0].rules[0].max_lifetime_seconds, 86400);
        assert_eq!(config.oidc[0].algorithms.len(), 3);
        assert_eq!(config.clients.len(), 2);
        assert!(!config.anonymous);
    }

    #[test]
    fn rules_that_let_in_anybody_are_refused_when_they_are_read() {
        for (old, new, why) in [
            (r#"sub = { pattern = "repo:org/*" }, ref"#, "ref", "whose jobs"),
            (r#"{ pattern = "repo:org/*" }"#, r#""repo:org/*""#, "declared"),
            ("repo:org/*", "repo:*", "anybody"),
            ("repo:org/*", "repo:org*", "segment"),
            ("issuer = \"https://ci.example\"", "", "issuer"),
            ("issuer = \"https://ci.example\"", "issuer = \"\"", "not empty"),
            ("audience = \"https://cache.example\"", "", "audience"),
            ("audience = \"https://cache.example\"", "audience = \"\"", "not empty"),
            ("https://cache.example", "https://*", "exact"),
            ("jwks-file = \"ci.json\"", "jwks-file = \"ci.json\"\nalgorithms = [\"HS256\"]", "HS256"),
            ("jwks-file = \"ci.json\"", "jwks-file = \"ci.json\"\nalgorithms = [\"none\"]", "none"),
            ("jwks-file = \"ci.json\"", "jwks-file = \"ci.json\"\nalgorithms = []", "algorithm"),
            ("jwks-file = \"ci.json\"", "", "jwks-file"),
            ("ref = ", "iss = \"x\", ref = ", "can't be in a rule"),
            ("namespaces = [\"prod\"]", "namespaces = []", "grants nothing"),
            ("namespaces = [\"prod\"]", "namespaces = [\"pr*\"]", "namespace"),
            ("rights = [\"read\", \"write-blob\"]", "rights = [\"root\"]", "root"),
            ("spiffe://example/ns/*", "spiffe://*", "anybody"),
            ("dns = \"node-1.example\"", "dns = { pattern = \"a/*\" }", "exact"),
            ("dns = \"node-1.example\"", "dns = \"*.example\"", "declared"),
            ("dns = \"node-1.example\"", "", "exactly one"),
            ("dns = \"node-1.example\"", "dns = \"node-1.example\"\ncommon-name = \"x\"", "exactly one"),
        ] {
            assert!(GOOD.contains(old), "{old}");
            let error = config(&GOOD.replacen(old, new, 1)).expect_err(new);
            assert!(error.contains(why), "{new}: {error}");
        }
    }

    #[test]
    fn limits_of_limits() {
        assert!(config("clock-skew-seconds = 301").is_err());
        assert!(config("failures = { per-second = 0.0, burst = 1 }").is_err());
        assert!(config("requests = { per-second = 1.0, burst = 0 }").is_err());
        assert!(config("unknown = 1").is_err());
    }
}
