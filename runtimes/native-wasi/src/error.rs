//! The native engine's errors as those of a call.

use preheat_call::{Cause, Frame, RunError, TrapCode, trap};
use preheat_native::Error;
use preheat_wasi::Stop;
use std::time::Duration;

/// An error that is no error of the guest. The variant says already what was tried.
pub(crate) fn cause(error: Error) -> Cause {
    match error {
        Error::Format(format) => Cause::from(format),
        Error::Code(what) | Error::Link(what) | Error::Type(what) => Cause::from(what),
        other => Cause::from(other),
    }
}

/// Why code could not be mapped.
pub(crate) fn of_load(error: Error) -> RunError {
    match error {
        Error::Store(error) => RunError::Store(error),
        error @ (Error::Format(_) | Error::Code(_)) => RunError::Code(cause(error)),
        other => RunError::Instantiate(cause(other)),
    }
}

/// How a call of the guest ended that did not return: with an exit code, or with an error.
///
/// # Errors
/// All that is no exit.
pub(crate) fn ended(error: Error, timeout: Option<Duration>) -> Result<i32, RunError> {
    // Without a deadline only a cancellation interrupts.
    let interrupted = || timeout.map_or_else(|| RunError::Host("the call was cancelled".into()), RunError::Timeout);
    match error.downcast_host::<Stop>() {
        Some(Stop::Exit(code)) => return Ok(i32::try_from(*code).unwrap_or(i32::MAX)),
        Some(Stop::Interrupted) => return Err(interrupted()),
        Some(Stop::Trap(_) | Stop::Freeze) | None => {}
    }
    Err(match error {
        Error::Trap(trapped) if trapped.code == TrapCode::Interrupt => interrupted(),
        Error::Trap(trapped) => {
            let frames = trapped.frames.iter();
            trap(
                trapped.code,
                frames.map(|frame| Frame { function: frame.function, name: frame.name.as_deref(), offset: frame.offset.map(u64::from) }),
            )
        }
        Error::Host(error) => RunError::Host(Cause::from(error)),
        other => RunError::Instantiate(cause(other)),
    })
}
