//! Profiles: what is contributed here is added up in a cache, and comes back as a summary.

use super::{Remote, RemoteError};
use preheat_cache_client::{CurrentSummary, PutOutcome, Weighing};
use preheat_image::Digest;
use preheat_image::api::ProfileReport;
use preheat_image::profile::Profile;
use preheat_image::reference::DEFAULT_NAMESPACE;
use std::fmt;
use std::str::FromStr;

/// How often a summary is asked for anew because something was contributed between it and the report about it.
const RACES: usize = 4;

/// A namespace of a cache: `host[:port][/namespace]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfilePlace {
    /// The cache.
    pub host: String,
    /// The namespace.
    pub namespace: String,
}

impl FromStr for ProfilePlace {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let whole = if text.contains('/') { text.to_owned() } else { format!("{text}/{DEFAULT_NAMESPACE}") };
        match whole.parse::<super::Location>() {
            Ok(super::Location { host, namespace, name: None, digest: None }) => Ok(Self { host, namespace }),
            _ => Err(RemoteError::Usage(format!("`{}` is no namespace of a cache: host[/namespace]", text.escape_default()))),
        }
    }
}

impl fmt::Display for ProfilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.namespace)
    }
}

/// What was brought of a profile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PushedProfile {
    /// Contributions that the cache lacked.
    pub contributions: usize,
    /// Bytes in those.
    pub bytes: u64,
    /// Contributions that it had.
    pub known: usize,
}

impl Remote {
    /// Brings all contributions of a profile to a cache, each by itself.
    ///
    /// # Errors
    /// What the cache says. Those that were brought before stay there.
    pub fn push_profile(&self, place: &ProfilePlace, profile: &Profile) -> Result<PushedProfile, RemoteError> {
        let source = profile.source();
        let mut pushed = PushedProfile::default();
        for contribution in profile.contributions().values() {
            let mut one = Profile::new(source);
            one.insert(contribution.clone()).map_err(|error| RemoteError::Usage(error.to_string()))?;
            let bytes = one.to_bytes();
            let size = bytes.len() as u64;
            match self.ask(&place.host, async |cache| cache.add_contribution(&place.namespace, &source, bytes.into()).await)? {
                PutOutcome::Created => {
                    pushed.contributions += 1;
                    pushed.bytes += size;
                }
                PutOutcome::WasThere => pushed.known += 1,
            }
        }
        Ok(pushed)
    }

    /// Gets what a cache's contributions say together of the module `source`, and how that came about.
    ///
    /// # Errors
    /// What the cache says; [`RemoteError::Name`] where nothing was contributed.
    pub fn pull_profile(
        &self,
        place: &ProfilePlace,
        source: &Digest,
        weighing: &Weighing,
    ) -> Result<(CurrentSummary, ProfileReport), RemoteError> {
        let namespace = place.namespace.as_str();
        let nothing = || RemoteError::Name(format!("nothing was contributed to a profile of {source} in {place}"));
        for _ in 0..RACES {
            let asked = self.ask(&place.host, async |cache| {
                let Some(summary) = cache.profile_summary(namespace, source, weighing).await? else { return Ok(None) };
                Ok(cache.profile_report(namespace, source, weighing).await?.map(|report| (summary, report)))
            })?;
            let (summary, report) = asked.ok_or_else(nothing)?;
            if report.digest == summary.digest {
                return Ok((summary, report));
            }
        }
        Err(RemoteError::Name(format!("the profile of {source} in {place} changes all the time, or does not have its digest")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_its_default_namespace() {
        for (text, long) in [("cache:7433", "cache:7433/default"), ("cache/team", "cache/team"), ("127.0.0.1:1", "127.0.0.1:1/default")] {
            assert_eq!(text.parse::<ProfilePlace>().unwrap().to_string(), long);
        }
        for bad in ["", "local", "cache/team/app", "cache/team@sha256:12", "cache/..", "/team", "../x"] {
            assert!(bad.parse::<ProfilePlace>().is_err(), "{bad}");
        }
    }
}
