//! References to artefacts in OCI registries: `oci://host[:port]/repository/path[:tag][@sha256:…]`, by the grammar of the distribution
//! specification.

use preheat_image::Digest;
use std::fmt;
use std::str::FromStr;

/// What references to registries begin with.
pub const SCHEME: &str = "oci://";

/// The tag of references that name neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Most bytes of host and repository together: longer ones are refused by several registries.
const MAX_NAME: usize = 255;

/// A place in a registry. Its text form always has a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Which of a repository's artefacts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The one that a tag leads to, now.
    Tag(String),
    /// The one whose OCI manifest has this digest.
    Digest(Digest),
}

/// A text that is no reference to a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a reference to a registry: {why} (expected oci://host[:port]/repository[:tag][@sha256:…])")]
pub struct InvalidReference {
    text: String,
    why: &'static str,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len()) && word(text.as_bytes()[0]) && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Components of lower-case letters and digits, joined by `/`; within one, `.`, `_`, `__` or any number of `-` between them.
fn is_repository(text: &str) -> bool {
    text.split('/').all(|component| {
        let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = component.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.split(alphanumeric).all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
    })
}

/// A host name, IPv4 address or IPv6 address in brackets, with an optional port.
fn is_host(text: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0) && !port.starts_with(['+', '0']);
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once(']').is_some_and(|(address, rest)| {
            address.parse::<std::net::Ipv6Addr>().is_ok() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port))
        });
    }
    let (name, fine) = text.split_once(':').map_or((text, true), |(name, after)| (name, port(after)));
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    fine && name.split('.').all(label)
}

impl Reference {
    /// Host with an optional port, as it was written.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository in it.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, where one was given or implied.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the OCI manifest, where one was given.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What to ask for: the digest where there is one, whatever the tag beside it leads to by now.
    #[must_use]
    pub fn version(&self) -> Version {
        match (self.digest, &self.tag) {
            (Some(digest), _) => Version::Digest(digest),
            (None, tag) => Version::Tag(tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned()),
        }
    }

    /// The same place with a digest.
    #[must_use]
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference { text: text.chars().take(200).flat_map(char::escape_default).collect(), why };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| invalid("it does not begin with oci://"))?;
        if rest.len() > 1024 {
            return Err(invalid("it is longer than 1024 bytes"));
        }
        let (rest, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((rest, digest)) => (
                rest,
                Some(digest.parse().map_err(|_| invalid("what follows `@` is not a digest of SHA-256, the only kind that is read"))?),
            ),
        };
        let (host, path) = rest.split_once('/').ok_or_else(|| invalid("there is no repository after the host"))?;
        let (repository, tag) = path.split_once(':').map_or((path, None), |(repository, tag)| (repository, Some(tag)));
        if !is_host(host) {
            return Err(invalid("the host is not a host name or address with an optional port"));
        }
        if !is_repository(repository) {
            return Err(invalid(
                "a repository has components of lower-case letters and digits, with `.`, `_`, `__` or `-` in between, and `/` between the components",
            ));
        }
        if host.len() + 1 + repository.len() > MAX_NAME {
            return Err(invalid("host and repository are longer than 255 bytes"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(invalid("a tag has at most 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two"));
        }
        let tag = tag.or_else(|| digest.is_none().then_some(DEFAULT_TAG)).map(str::to_owned);
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_say_host_repository_and_version() {
        let digest = Digest::of(b"x");
        for (text, long, version) in [
            ("oci://ghcr.io/team/app", "oci://ghcr.io/team/app:latest".to_owned(), Version::Tag("latest".into())),
            ("oci://localhost:5000/a/b/c:V1.2_x", "oci://localhost:5000/a/b/c:V1.2_x".to_owned(), Version::Tag("V1.2_x".into())),
            ("oci://[::1]:5000/a--b/c__d", "oci://[::1]:5000/a--b/c__d:latest".to_owned(), Version::Tag("latest".into())),
            (&format!("oci://127.0.0.1/a@{digest}"), format!("oci://127.0.0.1/a@{digest}"), Version::Digest(digest)),
            (&format!("oci://r/a:t@{digest}"), format!("oci://r/a:t@{digest}"), Version::Digest(digest)),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), long);
            assert_eq!(reference.version(), version);
            assert_eq!(long.parse::<Reference>().unwrap(), reference);
        }
    }

    #[test]
    fn paths_and_junk_are_no_references() {
        let long = format!("oci://h/{}", "a".repeat(300));
        let long_tag = format!("oci://h/a:{}", "t".repeat(129));
        for bad in [
            "",
            "ghcr.io/team/app",
            "oci:/h/a",
            "OCI://h/a",
            "oci://",
            "oci:///a",
            "oci://h",
            "oci://h/",
            "oci://h//a",
            "oci://h/a/",
            "oci://h/a/../b",
            "oci://h/..",
            "oci://h/.",
            "oci://h/a/./b",
            "oci://h/.a",
            "oci://h/a.",
            "oci://h/a..b",
            "oci://h/a___b",
            "oci://h/a._b",
            "oci://h/A",
            "oci://h/a%2fb",
            "oci://h/a\\b",
            "oci://h/a b",
            "oci://h/a?x",
            "oci://h/a#x",
            "oci://h/a\0",
            "oci://h/a\n:t",
            "oci://h/\u{e9}",
            "oci://h/a:",
            "oci://h/a:.t",
            "oci://h/a:-t",
            "oci://h/a:t/b",
            "oci://h/a:../b",
            "oci://h/a:t:u",
            "oci://h/a@",
            "oci://h/a@sha256:12",
            "oci://h/a@sha512:12",
            "oci://u:p@h/a",
            "oci://u@h/a",
            "oci://h:0/a",
            "oci://h:99999/a",
            "oci://h:+1/a",
            "oci://h:/a",
            "oci://h_x/a",
            "oci://-h/a",
            "oci://h./a",
            "oci://h..x/a",
            "oci://[::1/a",
            "oci://[x]/a",
            "oci://[::1]5/a",
            &long,
            &long_tag,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
