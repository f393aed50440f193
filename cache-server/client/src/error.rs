//! What goes wrong with a cache. No message holds a secret: addresses are shown without query and user, and what a server says is
//! shortened and stripped of control characters.

use preheat_image::{Digest, FormatError};
use std::io;
use std::time::Duration;

/// Why something could not be had from a cache, or brought there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The settings make no sense, or a file that they name can't be read.
    #[error("the cache `{name}` is not set up well: {what}")]
    Configuration {
        /// What people call the cache.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// Not a namespace, a name or the like; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// There is no connection, or it broke.
    #[error("can't reach {url}: {what}; is the address right, and does the service run?")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What went wrong.
        what: String,
    },
    /// It takes too long.
    #[error("{url} does not answer in time: {what}")]
    TimedOut {
        /// What was asked.
        url: String,
        /// Which time is over.
        what: String,
    },
    /// The service's certificate is not to be trusted, or TLS fails otherwise.
    #[error("no trusted connection to {url}: {what}; if the service has a certificate of your own CA, give that CA's file")]
    Tls {
        /// What was asked.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// The service does not accept this client's certificate, or wants one and got none.
    #[error("{url} does not accept this client's certificate, or that it shows none: {what}; show one by `preheat login --identity-file`")]
    Certificate {
        /// What was asked.
        url: String,
        /// What the service says.
        what: String,
    },
    /// No credentials, or none that count.
    #[error("{url} does not accept who asks: {message}; run `preheat login {host}`")]
    Unauthorized {
        /// What was asked.
        url: String,
        /// The service.
        host: String,
        /// What it says.
        message: String,
    },
    /// Known, but without the right.
    #[error("{url} is not allowed: {message}; ask for a token with that right")]
    Forbidden {
        /// What was asked.
        url: String,
        /// What the service says, with the right that lacks.
        message: String,
    },
    /// Not there, or not to be seen.
    #[error("{url} is not there: {message}")]
    NotFound {
        /// What was asked.
        url: String,
        /// The service's stable word for it.
        code: String,
        /// What the service says.
        message: String,
    },
    /// Somebody else was faster, or there is something else already.
    #[error("{url} was changed by somebody else meanwhile: {message}")]
    Conflict {
        /// What was asked.
        url: String,
        /// What the service says.
        message: String,
    },
    /// The service does not take it.
    #[error("{url} refuses it ({code}): {message}")]
    Refused {
        /// What was asked.
        url: String,
        /// The service's stable word for it.
        code: String,
        /// What the service says.
        message: String,
    },
    /// More than the service takes.
    #[error("{url} does not take so much: {message}")]
    TooLarge {
        /// What was asked.
        url: String,
        /// What the service says.
        message: String,
    },
    /// The service has no space left.
    #[error("{url}: the service has no space left: {message}")]
    StorageFull {
        /// What was asked.
        url: String,
        /// What the service says.
        message: String,
    },
    /// The service has too much to do, or fails.
    #[error("{url} can't do it now ({status}): {message}")]
    Overloaded {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the service says.
        message: String,
        /// When it asks to be asked again.
        retry_after: Option<Duration>,
    },
    /// The bytes are not those that were asked for.
    #[error("{url} has other bytes: their digest is {found}; nothing of it was kept")]
    DigestMismatch {
        /// What was asked.
        url: String,
        /// The digest that was asked for.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The answer is none that a cache gives: a faulty service, a malicious one, or something in between.
    #[error("{url} gives an answer that makes no sense: {what}")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What is wrong.
        what: String,
    },
    /// Reading or writing here failed, not the cache.
    #[error("can't {what}: {source}")]
    Local {
        /// What was done.
        what: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// It was not asked, since it failed shortly before.
    #[error("the cache `{name}` is left alone for now, since it failed before")]
    LeftAlone {
        /// What people call the cache.
        name: String,
    },
}

impl ClientError {
    /// Whether the same may work when it is tried again soon.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. } | Self::Overloaded { .. })
    }

    /// Whether the service is at fault, so that it is better left alone for a while; not when something is just not there, and not when the
    /// fault is here.
    #[must_use]
    pub fn blames_service(&self) -> bool {
        !matches!(
            self,
            Self::NotFound { .. }
                | Self::Invalid(_)
                | Self::Local { .. }
                | Self::LeftAlone { .. }
                | Self::Conflict { .. }
                | Self::Refused { .. }
        )
    }

    /// Whether there is just nothing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The service's stable word for why, where it gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::NotFound { code, .. } | Self::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    pub(crate) fn bad_format(url: &str, error: &FormatError) -> Self {
        Self::BadAnswer { url: url.to_owned(), what: clean(&error.to_string()) }
    }
}

/// Text from outside, fit for a terminal and a log: without control characters, and not long.
pub(crate) fn clean(text: &str) -> String {
    let mut clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
    if text.chars().nth(400).is_some() {
        clean.push('…');
    }
    clean.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_does_nothing_to_the_terminal() {
        assert_eq!(clean("\u{1b}[2Jhi\r\n"), "[2Jhi");
        assert_eq!(clean(&"x".repeat(10_000)).chars().count(), 401);
    }
}
