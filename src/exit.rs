//! Exit codes. They are part of the interface: `docs/cli.md` lists them.

use preheat::remote::{ClientError, RemoteError};
use preheat::{BuildError, RunError, StoreError, TrustError};
use std::process::ExitCode;

/// Something asked for is not there: a file, a name, a digest.
pub(crate) const NOT_FOUND: u8 = 120;
/// The input is no Wasm, no valid Wasm, or does not fit.
pub(crate) const BAD_INPUT: u8 = 121;
/// Damaged, or not vouched for by anybody whom the policy trusts.
pub(crate) const REFUSED: u8 = 122;
/// This host, or this build of preheat, can't.
pub(crate) const UNSUPPORTED: u8 = 123;
/// The deadline passed.
pub(crate) const TIMEOUT: u8 = 124;
/// Anything else that failed in preheat itself.
pub(crate) const FAILED: u8 = 125;
/// The store can't be written or read: full disk, permissions.
pub(crate) const STORAGE: u8 = 126;
/// A cache does not answer, or does not let us in.
pub(crate) const UNREACHABLE: u8 = 127;
/// The guest trapped.
pub(crate) const TRAP: u8 = 134;

/// The exit code for an error: that of the first of its causes that has one.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of_cause).unwrap_or(FAILED)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(match error {
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
            StoreError::Io { .. } | StoreError::Index { .. } => STORAGE,
            StoreError::UnknownName(_) | StoreError::Missing(_) | StoreError::Ambiguous(_) => NOT_FOUND,
            StoreError::NameMoved { .. } | StoreError::Damaged { .. } | StoreError::Refused { .. } | StoreError::Statement { .. } => {
                REFUSED
            }
            StoreError::Format { .. } => REFUSED,
            StoreError::NoVariant { .. } => UNSUPPORTED,
            StoreError::Reference(_) => BAD_INPUT,
            StoreError::Sign(_) => FAILED,
            _ => FAILED,
        });
    }
    if let Some(error) = cause.downcast_ref::<TrustError>() {
        return match error {
            TrustError::Store(error) => code_of_cause(error),
            TrustError::Signed(_) | TrustError::Fingerprint { .. } => Some(REFUSED),
            TrustError::Known(_) | TrustError::HostTaken { .. } | TrustError::Usage(_) => Some(BAD_INPUT),
            TrustError::Unknown(_) | TrustError::NoRoot(_) => Some(NOT_FOUND),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<BuildError>() {
        return match error {
            BuildError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Some(NOT_FOUND),
            BuildError::Read { .. } => Some(STORAGE),
            BuildError::Input { .. } | BuildError::Usage(_) => Some(BAD_INPUT),
            BuildError::Store(error) => code_of_cause(error),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<RemoteError>() {
        return match error {
            RemoteError::Store(error) => code_of_cause(error),
            RemoteError::Client(error) => code_of_cause(error),
            RemoteError::Trust(error) => code_of_cause(error),
            RemoteError::Signed(_) | RemoteError::Refused { .. } | RemoteError::Format { .. } => Some(REFUSED),
            RemoteError::Name(_) => Some(NOT_FOUND),
            RemoteError::Usage(_) | RemoteError::Settings { .. } | RemoteError::Move(_) => Some(BAD_INPUT),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(match error {
            ClientError::NotFound { .. } => NOT_FOUND,
            ClientError::Invalid(_) | ClientError::Configuration { .. } => BAD_INPUT,
            ClientError::DigestMismatch { .. } | ClientError::BadAnswer { .. } => REFUSED,
            ClientError::Refused { .. } | ClientError::Tls { .. } => REFUSED,
            ClientError::Local { .. } | ClientError::StorageFull { .. } => STORAGE,
            _ => UNREACHABLE,
        });
    }
    if let Some(error) = cause.downcast_ref::<RunError>() {
        return match error {
            RunError::Store(error) => code_of_cause(error),
            RunError::Code(_) => Some(UNSUPPORTED),
            RunError::Link(_) | RunError::Usage(_) | RunError::Instantiate(_) => Some(BAD_INPUT),
            RunError::Directory { .. } => Some(NOT_FOUND),
            RunError::Trap { .. } => Some(TRAP),
            RunError::Timeout(_) => Some(TIMEOUT),
            _ => None,
        };
    }
    None
}

/// Tells a person what went wrong, and the caller by the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("preheat: {}", message(error));
    ExitCode::from(code_of(error))
}

/// The error and its causes; a cause that the text already has is not said twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
