//! Patterns for names that others vouch for: claims of CI tokens, names in certificates.
//!
//! Most ways to let in too many begin with a wildcard. So a plain text is exact, and one with a `*` in it is refused; a wildcard has to be
//! declared as such, stands for whole segments only, and comes after something exact.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a name must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Pattern {
    /// Exactly this.
    Exact(String),
    /// A pattern.
    Wild(Wild),
}

/// A pattern with wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wild {
    /// Segments end at `/` and `:`. A `*` is a segment by itself and stands for any one segment that is not empty; as the last segment it
    /// stands for all that follows. `repo:org/*` is every repository of `org` and none of `org-evil`.
    pub pattern: String,
}

const SEPARATORS: [char; 2] = ['/', ':'];

impl Pattern {
    /// Checks that it can't let in more than it seems to.
    ///
    /// # Errors
    /// What is wrong. `exact` is how many segments must come before the first wildcard.
    pub fn check(&self, exact: usize) -> Result<(), String> {
        match self {
            Self::Exact(text) if text.is_empty() => Err("an empty text lets in whoever has none".into()),
            Self::Exact(text) if text.contains('*') => {
                Err(format!("`{text}` has a wildcard, which has to be declared: {{ pattern = \"{text}\" }}"))
            }
            Self::Exact(_) => Ok(()),
            Self::Wild(Wild { pattern }) => {
                let segments: Vec<&str> = pattern.split(SEPARATORS).collect();
                if let Some(bad) = segments.iter().find(|segment| segment.contains('*') && **segment != "*") {
                    return Err(format!("`{pattern}`: a `*` has to be a segment by itself, between `/` or `:`, and not part of `{bad}`"));
                }
                let before = segments.iter().take_while(|segment| **segment != "*").filter(|segment| !segment.is_empty()).count();
                if before == segments.len() {
                    return Err(format!("`{pattern}` is declared as a pattern and has no `*`"));
                }
                if before < exact {
                    return Err(format!("`{pattern}` lets in anybody: at least {exact} exact segments have to come before the first `*`"));
                }
                Ok(())
            }
        }
    }

    /// Whether `text` is what it must be.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Wild(Wild { pattern }) => matches(pattern, text),
        }
    }
}

/// The first segment, and what follows it with its separator.
fn segment(text: &str) -> (&str, &str) {
    text.split_at(text.find(SEPARATORS).unwrap_or(text.len()))
}

fn matches(mut pattern: &str, mut text: &str) -> bool {
    loop {
        let (wanted, pattern_rest) = segment(pattern);
        let (found, text_rest) = segment(text);
        match (wanted, pattern_rest) {
            ("*", "") => return !text.is_empty(),
            ("*", _) if found.is_empty() => return false,
            ("*", _) => {}
            _ if wanted != found => return false,
            _ => {}
        }
        // Both go on with the same separator, or both end.
        match (pattern_rest.chars().next(), text_rest.chars().next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other => (pattern, text) = (&pattern_rest[1..], &text_rest[1..]),
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wild(pattern: &str) -> Pattern {
        Pattern::Wild(Wild { pattern: pattern.into() })
    }

    #[test]
    fn a_trailing_wildcard_does_not_reach_into_another_organisation() {
        let pattern = wild("repo:org/*");
        assert!(pattern.matches("repo:org/x"));
        assert!(pattern.matches("repo:org/x:ref:refs/heads/main"));
        for other in
            ["repo:org-evil/x", "repo:org", "repo:org/", "repo:orgx/", "repo:evil/org/x", "REPO:org/x", "xrepo:org/x", "repo:org:x"]
        {
            assert!(!pattern.matches(other), "{other}");
        }
    }

    #[test]
    fn a_wildcard_inside_is_one_segment() {
        let pattern = wild("repo:org/*:ref:refs/heads/main");
        assert!(pattern.matches("repo:org/x:ref:refs/heads/main"));
        for other in [
            "repo:org/x:environment:y:ref:refs/heads/main",
            "repo:org/x/y:ref:refs/heads/main",
            "repo:org/:ref:refs/heads/main",
            "repo:org/x:ref:refs/heads/main2",
            "repo:org/x:ref:refs/heads/main/x",
            "repo:org/x:ref:refs/heads",
        ] {
            assert!(!pattern.matches(other), "{other}");
        }
    }

    #[test]
    fn wildcards_that_let_in_too_many_are_refused() {
        assert!(wild("repo:org/*").check(2).is_ok());
        for pattern in ["*", "repo:*", "repo:*/x", "repo:org*", "repo:org/x*", "repo:org/**", ":/*", "repo:org/x", "", "repo::*"] {
            assert!(wild(pattern).check(2).is_err(), "{pattern}");
        }
        assert!(Pattern::Exact("repo:org/*".into()).check(2).unwrap_err().contains("declared"));
        assert!(Pattern::Exact(String::new()).check(2).is_err());
    }

    #[test]
    fn a_plain_text_is_exact_in_configuration() {
        let read = |text: &str| serde_json::from_str::<Pattern>(text);
        assert_eq!(read(r#""a""#).unwrap(), Pattern::Exact("a".into()));
        assert_eq!(read(r#"{"pattern":"a/*"}"#).unwrap(), wild("a/*"));
        assert!(read(r#"{"pattern":"a/*","more":1}"#).is_err());
        assert!(read(r#"{"regex":"a"}"#).is_err());
    }

    proptest! {
        #[test]
        fn whatever_matches_has_the_exact_beginning(text in "[a-z*:/]{0,20}", beginning in "[a-z]{1,3}[:/][a-z]{1,3}[:/]") {
            let pattern = wild(&format!("{beginning}*"));
            prop_assert_eq!(pattern.matches(&text), text.strip_prefix(&beginning).is_some_and(|rest| !rest.is_empty()));
            let longer = format!("{beginning}x{text}");
            prop_assert!(pattern.matches(&longer));
        }

        #[test]
        fn patterns_without_a_wildcard_match_only_themselves(one in "[a-b:/]{0,8}", other in "[a-b:/]{0,8}") {
            prop_assert_eq!(wild(&one).matches(&other), one == other);
        }
    }
}
