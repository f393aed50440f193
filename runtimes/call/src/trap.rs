//! What people are told about a trap.

use crate::RunError;
use preheat_image::abi::TrapCode;
use std::fmt::Write as _;

/// Most frames that a message shows.
pub const MAX_FRAMES: usize = 32;

/// A frame of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Index of the function in its module.
    pub function: u32,
    /// Its name, if it has one.
    pub name: Option<&'a str>,
    /// Where in the Wasm bytes of the module the instruction is, if it is known.
    pub offset: Option<u64>,
}

/// The error for a trap of this kind with these frames, innermost first. Those beyond [`MAX_FRAMES`] are left out.
#[must_use]
pub fn trap<'a>(code: TrapCode, frames: impl IntoIterator<Item = Frame<'a>>) -> RunError {
    RunError::Trap { message: format!("{}{}", code.message(), stack(frames)) }
}

/// The frames, a line each.
pub(crate) fn stack<'a>(frames: impl IntoIterator<Item = Frame<'a>>) -> String {
    let mut text = String::new();
    for (number, frame) in frames.into_iter().take(MAX_FRAMES).enumerate() {
        // Writing to a string does not fail.
        let _ = write!(text, "\n  {number}: wasm function {}", frame.function);
        if let Some(name) = frame.name {
            let _ = write!(text, " `{}`", name.escape_debug());
        }
        if let Some(offset) = frame.offset {
            let _ = write!(text, " at {offset:#x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_says_what_and_where() {
        let frames = [Frame { function: 1, name: Some("in\nner"), offset: Some(31) }, Frame { function: 0, name: None, offset: None }];
        let text = trap(TrapCode::Unreachable, frames).to_string();
        assert_eq!(text, "trap: unreachable\n  0: wasm function 1 `in\\nner` at 0x1f\n  1: wasm function 0");
        let deep = trap(TrapCode::StackOverflow, [frames[1]; 100]).to_string();
        assert_eq!(deep.lines().count(), 1 + MAX_FRAMES);
    }
}
