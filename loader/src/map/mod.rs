//! Mapping: from a file that may be mapped to memory that a guest may use.
//!
//! A [`MappedFile`] is a file in memory, read-only, its text executable if it is trusted code. A [`Slot`] is address space for one
//! memory or table of a guest: its beginning is what a [`Template`] says (pages of a file, copy on write, and zeros), the rest inaccessible
//! until the guest grows it. A [`SlotPool`] keeps slots between two uses, as they were before the first: a slot that is given back has
//! the pages restored that were written, found by the [`Scanner`].

mod areas;
mod dirty;
mod file;
mod pool;
mod region;
mod slot;
mod template;
mod windows;

pub use dirty::{Method, Scanner};
pub use file::{MappedCode, MappedFile};
pub use pool::{PoolLimits, SlotPool};
pub use region::{Access, PAGE, Region};
pub use slot::Slot;
pub use template::{Run, Template};
