//! The names of a cache's namespaces: reading them so that nobody can show old ones, and moving them.

use super::location::Location;
use super::{Remote, RemoteError};
use preheat_cache_client::{Cache, ClientError, Expect};
use preheat_image::Digest;
use preheat_image::keys::Signer;
use preheat_image::names::{MoveKind, Names, SignedNames};

/// How often a move is tried again when somebody else was faster.
const RACES: usize = 16;

/// What to do with a name, `name:tag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameChange {
    /// It leads to what was just pushed.
    Push {
        /// The name.
        name: String,
        /// Where it leads.
        to: Digest,
    },
    /// It leads to an image that is there.
    Promote {
        /// The name.
        name: String,
        /// Where it leads.
        to: Digest,
    },
    /// It leads to where it led before.
    RollBack {
        /// The name.
        name: String,
    },
    /// It is no name any more.
    Remove {
        /// The name.
        name: String,
    },
    /// Nothing moves, but the names count for longer.
    Renew,
}

/// The names of a namespace, verified.
#[derive(Debug, Clone)]
pub struct NamesAnswer {
    /// The names.
    pub names: Names,
    /// Why these are the ones that were seen last, not what the cache has now: it does not answer.
    pub offline: Option<String>,
}

fn lost(at: &Location, known: &SignedNames) -> String {
    format!("{} has lost the names of `{}`; number {} was seen", at.host, at.namespace, known.unverified().number)
}

impl Remote {
    /// The names of a namespace: those that the cache has now, verified; where it does not answer, those that were seen last, as long as
    /// their time is not over.
    ///
    /// # Errors
    /// When the names do not count: not signed by a namer of the root that speaks for this host, older than what was seen, expired.
    pub fn names(&self, at: &Location) -> Result<NamesAnswer, RemoteError> {
        let cache = self.cache(&at.host)?;
        self.tokio.block_on(self.names_of(&cache, at))
    }

    pub(super) async fn names_of(&self, cache: &Cache, at: &Location) -> Result<NamesAnswer, RemoteError> {
        self.refresh_trust(cache, &at.host).await?;
        let now = preheat_loader::trust::now();
        match cache.names(&at.namespace).await {
            Ok(Some(current)) => {
                let names = self.home.accept_names(&at.host, &at.namespace, &current.names.to_bytes(), now)?;
                Ok(NamesAnswer { names: names.unverified().clone(), offline: None })
            }
            Ok(None) => Err(RemoteError::Name(match self.home.known_names(&at.host, &at.namespace)? {
                Some(known) => lost(at, &known),
                None => format!("{}/{} has no names yet", at.host, at.namespace),
            })),
            Err(error) if error.is_passing() => self.names_seen(at, &error, now),
            Err(error) => Err(error.into()),
        }
    }

    /// The names that were seen last. They were verified then; what they are judged by now is the root as it is known now.
    fn names_seen(&self, at: &Location, error: &ClientError, now: u64) -> Result<NamesAnswer, RemoteError> {
        let Some(known) = self.home.known_names(&at.host, &at.namespace)? else {
            return Err(RemoteError::Name(format!("{error}, and no names of {}/{} were seen before", at.host, at.namespace)));
        };
        self.home.verify_names(&at.host, &at.namespace, &known, now)?;
        known.unverified().check_time(now)?;
        Ok(NamesAnswer { names: known.unverified().clone(), offline: Some(error.to_string()) })
    }

    /// Moves a name, or makes the names count for longer. Whoever is slower than another tries again on top of the other's move.
    ///
    /// # Errors
    /// When the present names do not count, the move makes no sense, or the cache does not take the new ones.
    pub fn change(&self, at: &Location, change: &NameChange, namer: &dyn Signer, last: u64) -> Result<Names, RemoteError> {
        let cache = self.cache(&at.host)?;
        self.tokio.block_on(self.change_names(&cache, at, change, namer, last))
    }

    pub(super) async fn change_names(
        &self,
        cache: &Cache,
        at: &Location,
        change: &NameChange,
        namer: &dyn Signer,
        last: u64,
    ) -> Result<Names, RemoteError> {
        self.refresh_trust(cache, &at.host).await?;
        for _ in 0..RACES {
            let now = preheat_loader::trust::now();
            let (mut names, expect) = match cache.names(&at.namespace).await? {
                Some(current) => {
                    let known = self.accept_for_move(at, &current.names, now)?;
                    let tag =
                        current.etag.ok_or_else(|| RemoteError::Name(format!("{} gives its names no version to move them by", at.host)))?;
                    (Names::after(&known, now, now.saturating_add(last)), Expect::Tag(tag))
                }
                None => match self.home.known_names(&at.host, &at.namespace)? {
                    // Beginning anew would let whoever emptied the cache undo all moves.
                    Some(known) => return Err(RemoteError::Name(lost(at, &known))),
                    None => (Names::first(&at.namespace, now, now.saturating_add(last)), Expect::Absent),
                },
            };
            match change {
                NameChange::Push { name, to } => names.set(MoveKind::Push, name, Some(*to))?,
                NameChange::Promote { name, to } => names.set(MoveKind::Promote, name, Some(*to))?,
                NameChange::RollBack { name } => names.roll_back(name).map(|_| ())?,
                NameChange::Remove { name } => names.set(MoveKind::Remove, name, None)?,
                NameChange::Renew => {}
            }
            let signed = SignedNames::new(names).map_err(preheat_image::signed::SignedError::from)?.sign(namer)?;
            match cache.put_names(&at.namespace, &signed, &expect).await {
                Ok(_) => {
                    self.home.accept_names(&at.host, &at.namespace, &signed.to_bytes(), now)?;
                    return Ok(signed.unverified().clone());
                }
                Err(ClientError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RemoteError::Name(format!("others move the names of {}/{} all the time; try again", at.host, at.namespace)))
    }

    /// Checks names on which a move is to be put: like those that are read, but they may have expired, since the move renews them.
    fn accept_for_move(&self, at: &Location, signed: &SignedNames, now: u64) -> Result<SignedNames, RemoteError> {
        self.home.verify_names(&at.host, &at.namespace, signed, now)?;
        self.home.remember_names(&at.host, &at.namespace, signed)?;
        Ok(signed.clone())
    }
}
