//! References: how people name images. `host/namespace/name:tag@sha256:…`, with everything but the name or the digest left out at will.

use crate::Digest;
use std::fmt;
use std::str::FromStr;

/// The host that stands for the local store.
pub const LOCAL_HOST: &str = "local";
/// The namespace of references that name none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The tag of references that name none.
pub const DEFAULT_TAG: &str = "latest";

/// A parsed reference. Its text form is always the long one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    /// An image by its digest alone.
    Digest(Digest),
    /// An image by name; if a digest is there, it must be what the name leads to.
    Name {
        /// The cache that it comes from; [`LOCAL_HOST`] for the local store.
        host: String,
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// The tag.
        tag: String,
        /// The digest after `@`.
        digest: Option<Digest>,
    },
}

/// A text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a reference: {why} (expected [host/][namespace/]name[:tag][@sha256:…] or sha256:…)")]
pub struct InvalidReference {
    text: String,
    why: &'static str,
}

fn is_word(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
        && !text.contains("..")
}

fn is_host(text: &str) -> bool {
    match text.rsplit_once(':') {
        Some((name, port)) => is_word(name) && port.parse::<u16>().is_ok_and(|port| port > 0) && !port.starts_with(['+', '0']),
        None => is_word(text),
    }
}

impl Reference {
    /// Whether `text` can be a namespace: 1 to 128 letters, digits, `.`, `_`, `-`, beginning and ending with a letter or digit, no `..`.
    #[must_use]
    pub fn is_namespace(text: &str) -> bool {
        is_word(text)
    }

    /// The digest, where there is one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => Some(*digest),
            Self::Name { digest, .. } => *digest,
        }
    }

    /// `host/namespace/name:tag` without a digest; `None` for a digest alone.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Digest(_) => None,
            Self::Name { host, namespace, name, tag, .. } => Some(format!("{host}/{namespace}/{name}:{tag}")),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name(), self.digest()) {
            (Some(name), Some(digest)) => write!(f, "{name}@{digest}"),
            (Some(name), None) => f.write_str(&name),
            (None, Some(digest)) => digest.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: text.chars().take(200).collect(), why };
        if text.len() > 1024 {
            return Err(invalid("it is longer than 1024 bytes"));
        }
        if text.starts_with("sha256:") && !text.contains(['/', '@']) {
            return Ok(Self::Digest(text.parse().map_err(|_| invalid("the digest has not 64 lower-case hexadecimal digits"))?));
        }
        let (text_name, digest) = match text.split_once('@') {
            None => (text, None),
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|_| invalid("what follows `@` is not a digest"))?;
                (name, Some(digest))
            }
        };
        let parts: Vec<&str> = text_name.split('/').collect();
        let (host, namespace, last) = match parts.as_slice() {
            [last] => (LOCAL_HOST, DEFAULT_NAMESPACE, *last),
            [namespace, last] => (LOCAL_HOST, *namespace, *last),
            [host, namespace, last] => (*host, *namespace, *last),
            _ => return Err(invalid("it has more than two slashes")),
        };
        let (name, tag) = last.split_once(':').unwrap_or((last, DEFAULT_TAG));
        if !is_host(host) {
            return Err(invalid("the host is not a host name with an optional port"));
        }
        if !is_word(namespace) {
            return Err(invalid("the namespace may have letters, digits, `.`, `_` and `-`"));
        }
        if !is_word(name) {
            return Err(invalid("the name may have letters, digits, `.`, `_` and `-`"));
        }
        if !is_word(tag) {
            return Err(invalid("the tag may have letters, digits, `.`, `_` and `-`"));
        }
        Ok(Self::Name { host: host.into(), namespace: namespace.into(), name: name.into(), tag: tag.into(), digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_forms_mean_long_ones() {
        let digest = Digest::of(b"x");
        for (short, long) in [
            ("app", "local/default/app:latest".to_owned()),
            ("app:v1", "local/default/app:v1".to_owned()),
            ("team/app", "local/team/app:latest".to_owned()),
            ("cache.example:8080/team/app:v1", "cache.example:8080/team/app:v1".to_owned()),
            (&format!("app@{digest}"), format!("local/default/app:latest@{digest}")),
            (&digest.to_string(), digest.to_string()),
        ] {
            let reference: Reference = short.parse().unwrap();
            assert_eq!(reference.to_string(), long);
            assert_eq!(long.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn paths_and_junk_are_no_references() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "../a",
            "a/..",
            "a//b",
            "..",
            ".",
            "a/b/c/d",
            "a:",
            ":a",
            "a b",
            "app@",
            "app@sha256:12",
            "sha256:12",
            "a\0b",
            "host:0/ns/a",
            "host:99999/ns/a",
            "host:+1/ns/a",
            "ns/a..b",
            "-a",
            "a-",
            "\u{e9}",
            "a:b:c",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_its_own_text(text in ".{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference);
            }
        }
    }
}
