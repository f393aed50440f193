//! Exit codes. They are part of the interface: `docs/cli.md` lists them.

use preheat::profile::ProfileError;
use preheat::remote::{ClientError, RemoteError};
use preheat::{ApplyError, BuildError, RecordError, RunError, StoreError, TrustError};
pub(crate) use preheat_call::exit::{BAD_INPUT, FAILED, NOT_FOUND, REFUSED, STORAGE, TIMEOUT, UNSUPPORTED, of_guest};
use preheat_call::exit::{of_run, of_store};
use std::process::ExitCode;

/// A cache does not answer, or does not let us in.
pub(crate) const UNREACHABLE: u8 = 127;

/// What was asked for would not pay: nothing failed, and nothing was changed.
pub(crate) const NOT_CLEAR: u8 = 1;

/// The exit code for an error: that of the first of its causes that has one.
pub(crate) fn code_of(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of_cause).unwrap_or(FAILED)
}

fn code_of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<StoreError>() {
        return Some(of_store(error));
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
            BuildError::Unsupported { .. } => Some(UNSUPPORTED),
            BuildError::Input { .. } | BuildError::Usage(_) | BuildError::Freeze { .. } => Some(BAD_INPUT),
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
    // What it passes on is not among its causes.
    match cause.downcast_ref::<ApplyError>() {
        Some(ApplyError::Build(error)) => return code_of_cause(error),
        Some(ApplyError::Load { source, .. } | ApplyError::Run { source, .. }) => return Some(of_run(source)),
        Some(ApplyError::Deadline(_)) => return Some(TIMEOUT),
        Some(ApplyError::Moved { .. }) => return Some(FAILED),
        _ => {}
    }
    if let Some(error) = cause.downcast_ref::<RunError>() {
        return Some(of_run(error));
    }
    if let Some(error) = cause.downcast_ref::<RecordError>() {
        return match error {
            RecordError::Build(error) => code_of_cause(error),
            RecordError::Run { source, .. } => Some(of_run(source)),
            RecordError::Profile(_) => Some(BAD_INPUT),
        };
    }
    cause.is::<ProfileError>().then_some(BAD_INPUT)
}

/// Tells a person what went wrong, and the caller by the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("preheat: {}", message(error));
    ExitCode::from(code_of(error))
}

/// The error and its causes; a cause that the text already has is not said twice.
pub(crate) fn message(error: &anyhow::Error) -> String {
    preheat_call::exit::message(&**error)
}
