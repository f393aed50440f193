//! What freezing needs to know of a function: its sites, and what must survive at each of them.
//!
//! A *site* is a call that leaves a frame, see [`preheat_image::native`]. Its *site layout* follows from the Wasm alone: the locals that are
//! live behind the call ([`liveness`]), then the operands below its arguments. Capture code stores these values, resume functions load them;
//! both take the layout from [`FunctionSites`], and so does every version of this compiler: a change of it makes frozen programs unusable.

mod around;
mod body;
mod liveness;
mod sites;

pub(crate) use around::{Around, around, outermost_again};
pub(crate) use body::{CheckedBody, read};
pub(crate) use sites::{FunctionSites, Shadow, SiteLayout};

/// A call at which a program may be frozen, or the imported function in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Index of the function.
    pub function: u32,
    /// Offset of the `call` or `call_indirect` in the Wasm bytes; [`preheat_image::abi::NONE`] if the function is imported.
    pub offset: u32,
}
