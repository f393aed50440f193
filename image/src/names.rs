//! The names of a namespace: one signed snapshot, numbered and with an end, of all names and where they lead.
//!
//! One document for all names, so that a reader gets one consistent set and nobody can mix old with new. Each names the digest of the one
//! before it; a reader remembers the highest number that it has seen and refuses to go back. An end in time keeps whoever sits between from
//! showing an old set forever (the ideas of TUF's snapshot and timestamp roles).

use crate::signed::{Document, SignedDocument, SignedError, check_time};
use crate::{Digest, Reference, media};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most names in a namespace.
pub const MAX_NAMES: usize = 20_000;
/// Most moves that a snapshot remembers; older ones are in the snapshots before it.
pub const MAX_MOVES: usize = 200;

/// Why a name was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveKind {
    /// Somebody pushed under this name.
    Push,
    /// An image that is there got this name, to be used in earnest.
    Promote,
    /// Back to where the name led before its last move.
    Rollback,
    /// The name was removed.
    Remove,
}

/// One move of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Move {
    /// The number of the snapshot that made it.
    pub number: u64,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Why.
    pub kind: MoveKind,
    /// `name:tag`.
    pub name: String,
    /// Where it led before.
    pub from: Option<Digest>,
    /// Where it leads since.
    pub to: Option<Digest>,
}

/// All names of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Names {
    /// Version of this format, 1.
    pub version: u32,
    /// The namespace.
    pub namespace: String,
    /// 1 for the first snapshot, then one more each time.
    pub number: u64,
    /// The digest of the payload before it; none for the first.
    pub previous: Option<Digest>,
    /// When it was made, in seconds since 1970.
    pub issued: u64,
    /// When it ends, in seconds since 1970.
    pub expires: u64,
    /// From `name:tag` to the digest of an image's manifest.
    pub names: BTreeMap<String, Digest>,
    /// The latest moves, oldest first.
    pub moves: Vec<Move>,
}

impl Document for Names {
    const FORMAT: &'static str = "names snapshot";
    const MEDIA_TYPE: &'static str = media::NAMES_PAYLOAD;
    const VERSION: u32 = 1;
    const MAX_SIZE: usize = 16 * 1024 * 1024;

    fn check(&self) -> Result<(), String> {
        if !Reference::is_namespace(&self.namespace) {
            return Err(format!("`{}` can't be a namespace", self.namespace.escape_default()));
        }
        if self.number == 0 || (self.number == 1) != self.previous.is_none() {
            return Err(format!(
                "snapshot {} {} another before it",
                self.number,
                if self.previous.is_none() { "names no" } else { "names" }
            ));
        }
        if self.names.len() > MAX_NAMES {
            return Err(format!("{} names, at most {MAX_NAMES} allowed", self.names.len()));
        }
        if self.moves.len() > MAX_MOVES {
            return Err(format!("{} moves, at most {MAX_MOVES} allowed", self.moves.len()));
        }
        let bad = self.names.keys().chain(self.moves.iter().map(|one| &one.name)).find(|name| !is_name(name));
        bad.map_or(Ok(()), |name| Err(format!("`{}` is not name:tag", name.escape_default())))
    }
}

/// Whether `text` is `name:tag`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    text.split_once(':').is_some_and(|(name, tag)| Reference::is_namespace(name) && Reference::is_namespace(tag))
}

/// Why a name can't be moved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MoveError {
    /// The text is no name.
    #[error("`{0}` is not name:tag")]
    NotAName(String),
    /// Nothing is known of an earlier place.
    #[error("`{0}` has no earlier place to go back to in this namespace's history")]
    NoHistory(String),
    /// The name leads nowhere.
    #[error("no image is named `{0}` in this namespace")]
    Unknown(String),
    /// There are too many names.
    #[error("a namespace has at most {MAX_NAMES} names; remove some")]
    Full,
}

impl Names {
    /// A namespace's first snapshot, without names.
    #[must_use]
    pub fn first(namespace: &str, now: u64, expires: u64) -> Self {
        Self {
            version: Self::VERSION,
            namespace: namespace.to_owned(),
            number: 1,
            previous: None,
            issued: now,
            expires,
            names: BTreeMap::new(),
            moves: Vec::new(),
        }
    }

    /// The snapshot after `old`, with the same names until they are moved.
    #[must_use]
    pub fn after(old: &SignedNames, now: u64, expires: u64) -> Self {
        let names = old.unverified().clone();
        Self { number: names.number.saturating_add(1), previous: Some(old.digest()), issued: now, expires, ..names }
    }

    /// Makes `name` lead to `to`, or nowhere.
    ///
    /// # Errors
    /// [`MoveError`].
    pub fn set(&mut self, kind: MoveKind, name: &str, to: Option<Digest>) -> Result<(), MoveError> {
        if !is_name(name) {
            return Err(MoveError::NotAName(name.to_owned()));
        }
        let from = self.names.get(name).copied();
        match to {
            Some(_) if from.is_none() && self.names.len() >= MAX_NAMES => return Err(MoveError::Full),
            Some(digest) => self.names.insert(name.to_owned(), digest),
            None if from.is_none() => return Err(MoveError::Unknown(name.to_owned())),
            None => self.names.remove(name),
        };
        self.moves.push(Move { number: self.number, at: self.issued, kind, name: name.to_owned(), from, to });
        let surplus = self.moves.len().saturating_sub(MAX_MOVES);
        self.moves.drain(..surplus);
        Ok(())
    }

    /// Makes `name` lead to where it led before its last move that was not a rollback; a second rollback goes one further back.
    ///
    /// # Errors
    /// [`MoveError::NoHistory`] when the remembered moves lead to no earlier place.
    pub fn roll_back(&mut self, name: &str) -> Result<Digest, MoveError> {
        let now = self.names.get(name).copied();
        // Undo what rollbacks undid already: each of them takes one move from the end.
        let mut undone = 0usize;
        let mut target = None;
        for one in self.moves.iter().rev().filter(|one| one.name == name) {
            if one.kind == MoveKind::Rollback {
                undone += 1;
            } else if undone > 0 {
                undone -= 1;
            } else {
                target = one.from;
                break;
            }
        }
        match target {
            Some(digest) if Some(digest) != now => self.set(MoveKind::Rollback, name, Some(digest)).map(|()| digest),
            _ => Err(MoveError::NoHistory(name.to_owned())),
        }
    }

    /// Whether its time is not over at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`SignedError::Expired`].
    pub fn check_time(&self, now: u64) -> Result<(), SignedError> {
        check_time(Self::FORMAT, self.expires, now)
    }
}

/// A snapshot in its envelope.
pub type SignedNames = SignedDocument<Names>;

impl SignedNames {
    /// Whether this may take the place of `known` for a reader who has seen that: of the same namespace, and either the same document or one
    /// with a higher number. A snapshot that follows directly must also name the known one.
    ///
    /// # Errors
    /// [`SignedError::NotNext`].
    pub fn check_after(&self, known: &SignedNames) -> Result<(), SignedError> {
        let (new, old) = (self.unverified(), known.unverified());
        let not_next = |what: String| Err(SignedError::NotNext { format: Names::FORMAT, what });
        if new.namespace != old.namespace {
            return not_next(format!("it is of `{}`, not of `{}`", new.namespace, old.namespace));
        }
        if new.number < old.number {
            return not_next(format!("it has number {}, and {} was seen already: somebody shows an old one", new.number, old.number));
        }
        if new.number == old.number && self.digest() != known.digest() {
            return not_next(format!("there are two with number {}", new.number));
        }
        if old.number.checked_add(1) == Some(new.number) && new.previous != Some(known.digest()) {
            return not_next(format!("it does not follow snapshot {} that was seen", old.number));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::SecretKey;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn signed(names: Names) -> SignedNames {
        SignedNames::new(names).unwrap().sign(&SecretKey::from_seed([1; 32])).unwrap()
    }

    #[test]
    fn names_move_and_the_moves_are_remembered() {
        let mut names = Names::first("team", 10, 100);
        names.set(MoveKind::Push, "app:v1", Some(digest("1"))).unwrap();
        let first = signed(names);
        let mut names = Names::after(&first, 20, 110);
        names.set(MoveKind::Promote, "app:v1", Some(digest("2"))).unwrap();
        assert_eq!(
            names.moves[1],
            Move { number: 2, at: 20, kind: MoveKind::Promote, name: "app:v1".into(), from: Some(digest("1")), to: Some(digest("2")) }
        );
        let second = signed(names);
        assert_eq!(SignedNames::parse(&second.to_bytes()).unwrap(), second);
        assert_eq!(second.check_after(&first), Ok(()));
        assert_eq!(second.check_after(&second), Ok(()));
        assert!(first.check_after(&second).is_err(), "going back");
    }

    #[test]
    fn rolling_back_goes_back_step_by_step() {
        let mut names = Names::first("team", 10, 100);
        assert!(names.roll_back("app:v1").is_err());
        for step in ["1", "2", "3"] {
            names.set(MoveKind::Push, "app:v1", Some(digest(step))).unwrap();
            names.set(MoveKind::Push, "other:v1", Some(digest(step))).unwrap();
        }
        assert_eq!(names.roll_back("app:v1"), Ok(digest("2")));
        assert_eq!(names.roll_back("app:v1"), Ok(digest("1")));
        assert_eq!(names.roll_back("app:v1"), Err(MoveError::NoHistory("app:v1".into())));
        assert_eq!(names.names["app:v1"], digest("1"));
        assert_eq!(names.names["other:v1"], digest("3"));
        names.set(MoveKind::Push, "app:v1", Some(digest("4"))).unwrap();
        assert_eq!(names.roll_back("app:v1"), Ok(digest("1")));
    }

    #[test]
    fn two_snapshots_with_one_number_are_not_both_believed() {
        let base = signed(Names::first("team", 10, 100));
        let fork = |name: &str| {
            let mut names = Names::after(&base, 20, 100);
            names.set(MoveKind::Push, name, Some(digest(name))).unwrap();
            signed(names)
        };
        let (one, two) = (fork("a:v1"), fork("b:v1"));
        assert_eq!(one.check_after(&base), Ok(()));
        assert!(two.check_after(&one).is_err());
        let after_two = signed(Names::after(&two, 30, 100));
        assert!(after_two.check_after(&one).is_err(), "it follows the other one");
        let mut elsewhere = Names::after(&one, 30, 100);
        elsewhere.namespace = "prod".into();
        assert!(signed(elsewhere).check_after(&one).is_err());
    }

    #[test]
    fn an_end_is_an_end() {
        let names = Names::first("team", 10, 100);
        assert_eq!(names.check_time(99), Ok(()));
        assert!(matches!(names.check_time(100), Err(SignedError::Expired { .. })));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |change: fn(&mut Names)| {
            let mut names = Names::first("team", 10, 100);
            change(&mut names);
            SignedNames::new(names).unwrap_err()
        };
        refused(|names| names.number = 0);
        refused(|names| names.number = 2);
        refused(|names| names.previous = Some(Digest::ZERO));
        refused(|names| names.namespace = "..".into());
        refused(|names| assert!(names.names.insert("../x:v1".into(), Digest::ZERO).is_none()));
        refused(|names| assert!(names.names.insert("x".into(), Digest::ZERO).is_none()));
        let mut names = Names::first("team", 10, 100);
        assert_eq!(names.set(MoveKind::Push, "x", None), Err(MoveError::NotAName("x".into())));
        assert_eq!(names.set(MoveKind::Remove, "x:v1", None), Err(MoveError::Unknown("x:v1".into())));
    }
}
