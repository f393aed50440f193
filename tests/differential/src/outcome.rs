//! What running a module came to, in terms that both engines share.

use preheat_native::TrapCode;
use std::fmt;

/// A value. Floating-point numbers are bits, references what can be told of them from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// 32-bit integer.
    I32(i32),
    /// 64-bit integer.
    I64(i64),
    /// Single precision.
    F32(u32),
    /// Double precision.
    F64(u64),
    /// Vector.
    V128(u128),
    /// A function by its type, or null.
    Func(Option<String>),
    /// The number that the host put into the reference, or null.
    Extern(Option<u32>),
    /// Whether there is an exception.
    Exn(bool),
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A trap, or an exception that nothing caught.
    Trap(TrapCode),
    /// The host function refused.
    Host,
    /// What neither engine should do.
    Other(String),
}

/// A call of the host by the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCall {
    /// Which import, counted among all of the module's.
    pub import: usize,
    /// With what.
    pub arguments: Vec<Value>,
}

/// The error with which host functions end a guest's call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host refuses")
    }
}

impl std::error::Error for Refused {}

/// The contents of something that was exported or imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// A memory.
    Memory {
        /// Its size in bytes.
        len: usize,
        /// Its bytes up to the last that is not 0.
        bytes: Vec<u8>,
    },
    /// A table.
    Table(Vec<Value>),
    /// A global.
    Global(Value),
}

impl State {
    /// A memory's.
    #[must_use]
    pub fn memory(bytes: &[u8]) -> Self {
        let words = bytes.chunks(4096).rposition(|page| page.iter().any(|byte| *byte != 0)).map_or(0, |page| (page + 1) * 4096);
        let used = bytes[..words.min(bytes.len())].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Self::Memory { len: bytes.len(), bytes: bytes[..used].to_vec() }
    }
}

/// All that can be seen of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the instance could be made.
    pub instance: Result<(), Failure>,
    /// Results of the calls.
    pub calls: Vec<Result<Vec<Value>, Failure>>,
    /// What the guest asked of the host.
    pub host: Vec<HostCall>,
    /// What was left, by a name that tells imports from exports.
    pub states: Vec<(String, State)>,
}

impl Outcome {
    /// Whether the guest used up its stack: how much one is, is the engine's business, and so is what happened before.
    #[must_use]
    pub fn is_out_of_stack(&self) -> bool {
        let out = |failure: &Failure| *failure == Failure::Trap(TrapCode::StackOverflow);
        self.instance.as_ref().is_err_and(out) || self.calls.iter().any(|call| call.as_ref().is_err_and(out))
    }

    /// How many calls returned.
    #[must_use]
    pub fn returned(&self) -> usize {
        self.calls.iter().filter(|call| call.is_ok()).count()
    }

    /// How the instantiation, if it failed, and the calls ended, in words.
    #[must_use]
    pub fn endings(&self) -> Vec<String> {
        let ending = |failure: &Failure| match failure {
            Failure::Trap(code) => code.message().to_owned(),
            Failure::Host => "refused by the host".to_owned(),
            Failure::Other(what) => what.clone(),
        };
        let instance = self.instance.as_ref().err().map(|failure| format!("no instance: {}", ending(failure)));
        let calls = self.calls.iter().map(|call| call.as_ref().err().map_or_else(|| "returned".to_owned(), ending));
        instance.into_iter().chain(calls).collect()
    }

    /// The first difference, in words: this is the native engine's, `oracle` what it should be.
    #[must_use]
    pub fn difference(&self, oracle: &Self) -> Option<String> {
        let differ = |what: String, native: &dyn fmt::Debug, oracle: &dyn fmt::Debug| {
            Some(format!("{what}: native {native:?}, wasmtime {oracle:?}"))
        };
        if self == oracle {
            return None;
        }
        if self.instance != oracle.instance {
            return differ("instantiation".into(), &self.instance, &oracle.instance);
        }
        for (number, (native, oracle)) in self.calls.iter().zip(&oracle.calls).enumerate() {
            if native != oracle {
                return differ(format!("call {number}"), native, oracle);
            }
        }
        for (number, (native, oracle)) in self.host.iter().zip(&oracle.host).enumerate() {
            if native != oracle {
                return differ(format!("host call {number}"), native, oracle);
            }
        }
        if self.host.len() != oracle.host.len() || self.calls.len() != oracle.calls.len() || self.states.len() != oracle.states.len() {
            let lens = |outcome: &Self| (outcome.calls.len(), outcome.host.len(), outcome.states.len());
            return differ("numbers of calls, host calls, and states".into(), &lens(self), &lens(oracle));
        }
        for ((name, native), (other, oracle)) in self.states.iter().zip(&oracle.states) {
            if name != other {
                return differ("states".into(), name, other);
            }
            match (native, oracle) {
                (State::Memory { len: a, bytes: left }, State::Memory { len: b, bytes: right }) if a == b && left != right => {
                    let at = (0..left.len().max(right.len()))
                        .find(|at| left.get(*at).unwrap_or(&0) != right.get(*at).unwrap_or(&0))
                        .unwrap_or(0);
                    let near = |bytes: &[u8]| bytes.get(at..(at + 16).min(bytes.len())).unwrap_or_default().to_vec();
                    return differ(format!("{name} at {at:#x}"), &near(left), &near(right));
                }
                (State::Memory { len: a, .. }, State::Memory { len: b, .. }) if a != b => return differ(format!("length of {name}"), a, b),
                (State::Table(left), State::Table(right)) if left.len() == right.len() && left != right => {
                    let at = (0..left.len()).find(|at| left[*at] != right[*at]).unwrap_or(0);
                    return differ(format!("{name}[{at}]"), &left[at], &right[at]);
                }
                _ if native != oracle => return differ(name.clone(), native, oracle),
                _ => {}
            }
        }
        Some("outcomes".into())
    }
}
