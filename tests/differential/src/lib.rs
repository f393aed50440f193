//! The differential test of the native engine: random modules run on it and on wasmtime, and everything that can be seen of the two runs
//! must be the same: results, traps by kind, calls of the host, and in the end memories, tables and globals.
//!
//! A module, its imports, the arguments of the calls, and how either engine compiles it follow from a seed, so that a seed is all that
//! a report needs. `docs/differential.md` says how to run it.
//!
//! | file | what it does |
//! |---|---|
//! | `generate/` | modules from seeds, by `wasm-smith` and by a generator of our own |
//! | `rewrite` | makes NaNs one, so that bits can be compared; counts executed operators |
//! | `script` | how a module is called |
//! | `native`, `oracle` | a run on either engine, as an `outcome` |
//! | `check` | both runs, compared |
//! | `profile` | profiles that steer the native engine's code in further runs |
//! | `reduce` | a smaller module with the same difference |
//! | `report` | the sum of many checks |

#![deny(unsafe_code)]

mod check;
mod generate;
mod native;
pub mod operators;
mod oracle;
mod outcome;
mod profile;
mod random;
mod reduce;
mod report;
mod rewrite;
mod script;
#[allow(unsafe_code, reason = "the one file for it")]
mod sys;

pub use check::{Checker, Verdict, on_large_stack};
pub use generate::{Case, Generator};
pub use outcome::{Failure, HostCall, Outcome, State, Value};
pub use report::{Difference, Report};
