//! Exit codes of the commands that run functions. They are part of the interface: `docs/cli.md` lists them.

use crate::RunError;
use preheat_loader::StoreError;

/// Something asked for is not there: a file, a name, a digest.
pub const NOT_FOUND: u8 = 120;
/// The input is no Wasm, no valid Wasm, or does not fit.
pub const BAD_INPUT: u8 = 121;
/// Damaged, or not vouched for by anybody whom the policy trusts.
pub const REFUSED: u8 = 122;
/// This host, or this build of preheat, can't.
pub const UNSUPPORTED: u8 = 123;
/// The deadline passed.
pub const TIMEOUT: u8 = 124;
/// Anything else that failed in preheat itself.
pub const FAILED: u8 = 125;
/// The store can't be written or read: full disk, permissions.
pub const STORAGE: u8 = 126;
/// The guest trapped.
pub const TRAP: u8 = 134;

/// The exit code for an error of a store.
#[must_use]
pub fn of_store(error: &StoreError) -> u8 {
    match error {
        StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => NOT_FOUND,
        StoreError::Io { .. } | StoreError::Index { .. } => STORAGE,
        StoreError::UnknownName(_) | StoreError::Missing(_) | StoreError::Ambiguous(_) => NOT_FOUND,
        StoreError::NameMoved { .. } | StoreError::Damaged { .. } | StoreError::Refused { .. } | StoreError::Statement { .. } => REFUSED,
        StoreError::Format { .. } => REFUSED,
        StoreError::NoVariant { .. } => UNSUPPORTED,
        StoreError::Reference(_) => BAD_INPUT,
        _ => FAILED,
    }
}

/// The exit code for a function that did not run to its end.
#[must_use]
pub fn of_run(error: &RunError) -> u8 {
    match error {
        RunError::Store(error) => of_store(error),
        RunError::Code(_) | RunError::Wake(_) => UNSUPPORTED,
        RunError::Link(_) | RunError::Usage(_) | RunError::Instantiate(_) => BAD_INPUT,
        RunError::Directory { .. } => NOT_FOUND,
        RunError::Trap { .. } => TRAP,
        RunError::Timeout(_) => TIMEOUT,
        RunError::Host(_) => FAILED,
    }
}

/// The error and its causes; a cause that the text already has is not said twice.
#[must_use]
pub fn message(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        below = cause.source();
    }
    text
}

/// The exit code for that of a guest. Ours have eight bits; a guest's that has more must not look like success.
#[must_use]
pub fn of_guest(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(u8::MAX)
}
