//! Tokens of CI systems (OpenID Connect): which issuer, for whom, whose job.
//!
//! The issuer is chosen by the claim `iss` first, and only its keys are tried: a key of one issuer never vouches for another. The algorithm
//! follows from the kind of the key, so that no header makes a public key a shared secret.

use super::config::{AuthConfig, JwtAlgorithm, OidcIssuer, OidcRule};
use super::rights::Scope;
use super::{Grant, Kind, Refusal};
use crate::clock::Clock;
use crate::watched::{Source, Watched};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use preheat_image::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Longest token, in bytes. Those of CI systems have one or two thousand.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;
/// Most keys of an issuer.
const MAX_KEYS: usize = 64;
/// Sizes of RSA moduli, in bytes: at least 2048 bits, at most 8192, beyond which a signature takes too long to check.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;
/// Most tokens that are remembered as good.
const MAX_REMEMBERED: usize = 4096;

/// The issuers that count.
pub(crate) struct Issuers {
    issuers: Vec<Issuer>,
    /// Tokens whose signature was good, by their digest: a build shows the same one hundreds of times.
    good: Mutex<HashMap<Digest, Good>>,
}

struct Issuer {
    issuer: String,
    audience: String,
    algorithms: Vec<JwtAlgorithm>,
    rules: Vec<(OidcRule, Scope)>,
    keys: Watched<Keys>,
}

#[derive(Clone)]
struct Good {
    times: Times,
    grant: Arc<Grant>,
    /// The keys with which it was checked: other keys, another check.
    keys: Arc<Keys>,
    issuer: usize,
}

/// The keys of an issuer by their id.
struct Keys(HashMap<String, (JwtAlgorithm, DecodingKey)>);

#[derive(Clone, Copy)]
struct Times {
    not_before: u64,
    expires: u64,
}

impl Times {
    fn of(claims: &Map<String, Value>) -> Result<(Self, u64), Refusal> {
        let time = |name| match claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value).map(Some).ok_or(Refusal::Unknown),
        };
        let (Some(expires), Some(issued)) = (time("exp")?, time("iat")?) else { return Err(Refusal::Unknown) };
        let lifetime = expires.checked_sub(issued).ok_or(Refusal::Unknown)?;
        Ok((Self { not_before: time("nbf")?.map_or(issued, |not_before| not_before.max(issued)), expires }, lifetime))
    }

    fn check(self, now: u64, skew: u64) -> Result<(), Refusal> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Refusal::NotYet);
        }
        if now >= self.expires.saturating_add(skew) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }
}

/// A time in a token: seconds since 1970, and some issuers write fractions.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
fn seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|time| (0.0..1e15).contains(time)).map(|time| time as u64))
}

/// What is read of a token before it is verified, to find out whose keys to try.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

#[derive(Deserialize)]
struct JwkFile {
    keys: Vec<Value>,
}

impl Keys {
    fn parse(sources: &[Source]) -> Result<Self, String> {
        let [source] = sources else { return Err("one file of keys".into()) };
        Self::read(&source.bytes).map_err(|error| format!("{}: {error}", source.path.display()))
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let file: JwkFile = serde_json::from_slice(bytes).map_err(|error| format!("not a JWK set: {error}"))?;
        if file.keys.len() > MAX_KEYS {
            return Err(format!("{} keys, at most {MAX_KEYS} allowed", file.keys.len()));
        }
        let mut keys = HashMap::new();
        for value in file.keys {
            // An issuer may have keys of kinds that do not count here, such as those for encryption.
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            let Some((id, algorithm, key)) = usable(&jwk) else { continue };
            if keys.insert(id.clone(), (algorithm, key)).is_some() {
                return Err(format!("two keys have the id `{}`", id.escape_default()));
            }
        }
        if keys.is_empty() {
            return Err("no key in it can be used: RSA from 2048 bits, P-256 or Ed25519, for signatures, with a `kid`".into());
        }
        Ok(Self(keys))
    }
}

fn usable(jwk: &Jwk) -> Option<(String, JwtAlgorithm, DecodingKey)> {
    let id = jwk.common.key_id.clone()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|use_| *use_ != PublicKeyUse::Signature) {
        return None;
    }
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) => {
            let modulus = URL_SAFE_NO_PAD.decode(&rsa.n).ok()?;
            let size = modulus.len() - modulus.iter().take_while(|byte| **byte == 0).count();
            (RSA_MODULUS.contains(&size)).then_some((JwtAlgorithm::Rs256, KeyAlgorithm::RS256))?
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => (JwtAlgorithm::Es256, KeyAlgorithm::ES256),
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => (JwtAlgorithm::EdDsa, KeyAlgorithm::EdDSA),
        // Never a shared secret, whatever the file says.
        _ => return None,
    };
    if jwk.common.key_algorithm.is_some_and(|other| other != named) {
        return None;
    }
    Some((id, algorithm, DecodingKey::from_jwk(jwk).ok()?))
}

impl From<JwtAlgorithm> for Algorithm {
    fn from(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::Rs256 => Self::RS256,
            JwtAlgorithm::Es256 => Self::ES256,
            JwtAlgorithm::EdDsa => Self::EdDSA,
        }
    }
}

impl Issuers {
    /// The issuers of a configuration that was checked.
    ///
    /// # Errors
    /// When a file of keys can't be used.
    pub(crate) fn open(config: &AuthConfig) -> Result<Self, String> {
        let open = |issuer: &OidcIssuer| {
            let rules = issuer.rules.iter().map(|rule| Ok((rule.clone(), Scope::new(&rule.namespaces, &rule.rights)?)));
            Ok(Issuer {
                issuer: issuer.issuer.clone(),
                audience: issuer.audience.clone(),
                algorithms: issuer.algorithms.clone(),
                rules: rules.collect::<Result<_, String>>()?,
                keys: Watched::open(vec![issuer.jwks_file.clone()], Keys::parse)?,
            })
        };
        Ok(Self { issuers: config.oidc.iter().map(open).collect::<Result<_, String>>()?, good: Mutex::default() })
    }

    #[cfg(test)]
    pub(crate) fn every(mut self, interval: std::time::Duration) -> Self {
        self.issuers = self.issuers.into_iter().map(|issuer| Issuer { keys: issuer.keys.every(interval), ..issuer }).collect();
        self
    }

    /// Whose token it is, if it was verified before and nothing changed since. Cheap.
    pub(crate) fn remembered(&self, token: &str, clock: &dyn Clock, skew: u64) -> Option<Arc<Grant>> {
        if self.issuers.is_empty() || token.len() > MAX_TOKEN {
            return None;
        }
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner).get(&Digest::of(token.as_bytes())).cloned()?;
        let current = self.issuers.get(good.issuer)?.keys.get();
        (Arc::ptr_eq(&current, &good.keys) && good.times.check(clock.now(), skew).is_ok()).then_some(good.grant)
    }

    /// Verifies a token, and finds the rules that fit it.
    pub(crate) fn verify(&self, token: &str, clock: &dyn Clock, skew: u64) -> Result<Arc<Grant>, Refusal> {
        if self.issuers.is_empty() || token.len() > MAX_TOKEN {
            return Err(Refusal::Unknown);
        }
        let unverified: Unverified = jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| Refusal::Unknown)?;
        let mut refusal = Refusal::Unknown;
        // The same issuer may be there for several audiences.
        for (number, issuer) in self.issuers.iter().enumerate().filter(|(_, issuer)| issuer.issuer == unverified.iss) {
            let keys = issuer.keys.get();
            match issuer.verify(token, &keys, clock, skew) {
                Ok((times, grant)) => {
                    let grant = Arc::new(grant);
                    self.remember(token, Good { times, grant: grant.clone(), keys, issuer: number }, clock.now(), skew);
                    return Ok(grant);
                }
                Err(error) if error != Refusal::Unknown => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn remember(&self, token: &str, good: Good, now: u64, skew: u64) {
        let mut all = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_REMEMBERED {
            all.retain(|_, good| good.times.check(now, skew).is_ok());
        }
        if all.len() >= MAX_REMEMBERED {
            all.clear();
        }
        all.insert(Digest::of(token.as_bytes()), good);
    }
}

impl Issuer {
    fn verify(&self, token: &str, keys: &Keys, clock: &dyn Clock, skew: u64) -> Result<(Times, Grant), Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Unknown)?;
        // Extensions that the issuer says must be understood are not.
        if header.crit.is_some() || header.zip.is_some() || header.enc.is_some() {
            return Err(Refusal::Unknown);
        }
        let (algorithm, key) = header.kid.as_ref().and_then(|id| keys.0.get(id)).ok_or(Refusal::Unknown)?;
        if !self.algorithms.contains(algorithm) {
            return Err(Refusal::Unknown);
        }
        let mut validation = Validation::new((*algorithm).into());
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        // Times are checked below, against the service's clock and skew, and again whenever the token is remembered.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Map<String, Value>>(token, key, &validation).map_err(|_| Refusal::Unknown)?.claims;
        if claims.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(Refusal::Unknown);
        }
        // From here on it is the holder of a token of this issuer who asks: they may know why.
        let (times, lifetime) = Times::of(&claims)?;
        times.check(clock.now(), skew)?;
        let fits = |rule: &OidcRule| {
            let has =
                |(claim, pattern): (&String, &super::pattern::Pattern)| text(claims.get(claim)).is_some_and(|text| pattern.matches(&text));
            lifetime <= rule.max_lifetime_seconds && rule.claims.iter().all(has)
        };
        let scopes: Vec<Scope> = self.rules.iter().filter(|(rule, _)| fits(rule)).map(|(_, scope)| scope.clone()).collect();
        if scopes.is_empty() {
            return Err(Refusal::NoRule);
        }
        let subject = text(claims.get("sub")).or_else(|| text(claims.get("repository"))).unwrap_or_default();
        let identity = format!("oidc {} {subject}", self.issuer);
        Ok((times, Grant::new(Kind::Job, subject, &identity, scopes)))
    }
}

/// A claim as text. Lists and objects have none.
fn text(claim: Option<&Value>) -> Option<String> {
    match claim? {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => number.as_i64().map(|number| number.to_string()),
        _ => None,
    }
}
