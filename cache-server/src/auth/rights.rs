//! Rights, and where they hold.

use crate::storage::Namespace;
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Right {
    /// Read blobs, entries and names.
    Read,
    /// Write blobs.
    WriteBlob,
    /// Write entries.
    WriteKey,
    /// Move names.
    Name,
    /// Everything else: set up namespaces, collect, publish roots and revocations. It includes none of the rights above.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::WriteBlob, Self::WriteKey, Self::Name, Self::Admin];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::WriteBlob => "write-blob",
            Self::WriteKey => "write-key",
            Self::Name => "name",
            Self::Admin => "admin",
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rights(u8);

impl Rights {
    /// Whether `right` is one of them.
    #[must_use]
    pub(crate) fn has(self, right: Right) -> bool {
        self.0 & Self::bit(right) != 0
    }

    const fn bit(right: Right) -> u8 {
        1 << right as u8
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<I: IntoIterator<Item = Right>>(rights: I) -> Self {
        Self(rights.into_iter().map(Self::bit).fold(0, |all, one| all | one))
    }
}

/// Some rights in some namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    /// `None` is all namespaces, those too that come later.
    namespaces: Option<HashSet<Namespace>>,
    rights: Rights,
}

impl Scope {
    /// Rights in `namespaces`, where `*` stands for all.
    ///
    /// # Errors
    /// When there are none of either, or one can't be a namespace.
    pub(crate) fn new(namespaces: &[String], rights: &[Right]) -> Result<Self, String> {
        if namespaces.is_empty() || rights.is_empty() {
            return Err("it grants nothing: at least one namespace (`*` for all) and one right are needed".into());
        }
        let mut some = HashSet::new();
        for text in namespaces.iter().filter(|text| *text != "*") {
            some.insert(Namespace::new(text).ok_or_else(|| format!("`{}` can't be a namespace", text.escape_default()))?);
        }
        let all = namespaces.iter().any(|text| text == "*");
        Ok(Self { namespaces: (!all).then_some(some), rights: rights.iter().copied().collect() })
    }

    /// Whether it has `right` in `namespace`.
    #[must_use]
    pub(crate) fn allows(&self, right: Right, namespace: &Namespace) -> bool {
        self.rights.has(right) && self.namespaces.as_ref().is_none_or(|some| some.contains(namespace))
    }

    /// Whether it has `right` everywhere.
    #[must_use]
    pub(crate) fn allows_all(&self, right: Right) -> bool {
        self.rights.has(right) && self.namespaces.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(text: &str) -> Namespace {
        Namespace::new(text).unwrap()
    }

    #[test]
    fn a_scope_holds_in_its_namespaces_only() {
        let scope = Scope::new(&["a".into(), "b".into()], &[Right::Read, Right::WriteBlob]).unwrap();
        assert!(scope.allows(Right::Read, &ns("a")) && scope.allows(Right::WriteBlob, &ns("b")));
        assert!(!scope.allows(Right::Read, &ns("c")) && !scope.allows(Right::Read, &ns("A")) && !scope.allows(Right::WriteKey, &ns("a")));
        assert!(!scope.allows_all(Right::Read));
    }

    #[test]
    fn a_star_is_all_namespaces_and_no_right_includes_another() {
        for right in Right::ALL {
            let scope = Scope::new(&["*".into(), "a".into()], &[right]).unwrap();
            for other in Right::ALL {
                assert_eq!(scope.allows(other, &ns("x")), other == right);
                assert_eq!(scope.allows_all(other), other == right);
            }
        }
    }

    #[test]
    fn scopes_without_a_meaning_are_refused() {
        for namespaces in [vec![], vec!["../x"], vec!["a*"], vec!["v1"], vec![""]] {
            let namespaces: Vec<String> = namespaces.into_iter().map(String::from).collect();
            assert!(Scope::new(&namespaces, &[Right::Read]).is_err(), "{namespaces:?}");
        }
        assert!(Scope::new(&["a".into()], &[]).is_err());
    }

    #[test]
    fn the_words_are_those_of_the_files() {
        for right in Right::ALL {
            assert_eq!(serde_json::to_value(right).unwrap(), right.as_str());
            assert_eq!(right.to_possible_value().unwrap().get_name(), right.as_str());
        }
    }
}
