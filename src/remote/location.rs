//! Where things are in caches: `host/namespace` and, for images, `/name[:tag]` or a digest.

use super::RemoteError;
use preheat_image::reference::{DEFAULT_TAG, LOCAL_HOST};
use preheat_image::{Digest, Reference};
use std::fmt;
use std::str::FromStr;

/// A namespace of a cache, and a name in it if one is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The cache: `host` or `host:port`.
    pub host: String,
    /// The namespace.
    pub namespace: String,
    /// `name:tag`.
    pub name: Option<String>,
    /// The digest that is asked for.
    pub digest: Option<Digest>,
}

impl Location {
    /// The place of a reference, if it is in a cache and not in the local store.
    #[must_use]
    pub fn of(reference: &Reference) -> Option<Self> {
        match reference {
            Reference::Name { host, namespace, name, tag, digest } if host != LOCAL_HOST => {
                Some(Self { host: host.clone(), namespace: namespace.clone(), name: Some(format!("{name}:{tag}")), digest: *digest })
            }
            _ => None,
        }
    }

    /// The same place as a reference, if it has a name.
    #[must_use]
    pub fn reference(&self) -> Option<Reference> {
        let (name, tag) = self.name.as_deref()?.split_once(':')?;
        Some(Reference::Name {
            host: self.host.clone(),
            namespace: self.namespace.clone(),
            name: name.to_owned(),
            tag: tag.to_owned(),
            digest: None,
        })
    }
}

impl FromStr for Location {
    type Err = RemoteError;

    /// Reads `host/namespace`, `host/namespace/name[:tag][@sha256:…]` or `host/namespace@sha256:…`.
    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let wrong =
            || RemoteError::Usage(format!("`{}` is no place in a cache: host/namespace[/name[:tag]][@sha256:…]", text.escape_default()));
        let (place, digest) = match text.split_once('@') {
            Some((place, digest)) => (place, Some(digest.parse::<Digest>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let (whole, named) = match place.matches('/').count() {
            1 => (format!("{place}/name"), false),
            2 => (place.to_owned(), true),
            _ => return Err(wrong()),
        };
        let reference: Reference = whole.parse().map_err(|_| wrong())?;
        let location = Self::of(&reference).ok_or_else(wrong)?;
        Ok(Self { name: location.name.filter(|_| named), digest, ..location })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.namespace)?;
        if let Some(name) = &self.name {
            write!(f, "/{name}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

/// `name` or `name:tag` as `name:tag`.
#[must_use]
pub fn with_tag(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}:{DEFAULT_TAG}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        let digest = Digest::of(b"x");
        for (text, long) in [
            ("cache:7433/team", "cache:7433/team".to_owned()),
            ("cache/team/app", "cache/team/app:latest".to_owned()),
            ("cache/team/app:v1", "cache/team/app:v1".to_owned()),
            (&format!("cache/team@{digest}"), format!("cache/team@{digest}")),
            (&format!("cache/team/app:v1@{digest}"), format!("cache/team/app:v1@{digest}")),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), long);
            assert_eq!(long.parse::<Location>().unwrap(), location);
        }
    }

    #[test]
    fn the_local_store_and_paths_are_no_places_in_a_cache() {
        for bad in ["", "team", "local/team", "local/team/app:v1", "../team", "cache/..", "cache//app", "a/b/c/d", "cache/team@sha256:12"] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
    }
}
