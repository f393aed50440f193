//! Types of what crosses the border of an instance, and the process-wide numbers of function types.

use preheat_image::Digest;
use preheat_image::abi::ValueType;
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Mutex, PoisonError};

/// A function's parameters and results.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FuncType {
    params: Vec<ValueType>,
    results: Vec<ValueType>,
}

impl FuncType {
    /// From parameters and results.
    #[must_use]
    pub fn new(params: impl IntoIterator<Item = ValueType>, results: impl IntoIterator<Item = ValueType>) -> Self {
        Self { params: params.into_iter().collect(), results: results.into_iter().collect() }
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &[ValueType] {
        &self.params
    }

    /// The results.
    #[must_use]
    pub fn results(&self) -> &[ValueType] {
        &self.results
    }

    /// From numbers of value types that were checked.
    pub(crate) fn of_numbers(params: &[u8], results: &[u8]) -> Self {
        let types = |numbers: &[u8]| numbers.iter().filter_map(|number| ValueType::from_number(*number)).collect();
        Self { params: types(params), results: types(results) }
    }

    /// Whether these are its parameters and results, as numbers of value types.
    pub(crate) fn is(&self, params: &[u8], results: &[u8]) -> bool {
        let same = |types: &[ValueType], numbers: &[u8]| types.iter().map(|ty| ty.number()).eq(numbers.iter().copied());
        same(&self.params, params) && same(&self.results, results)
    }

    /// Its process-wide number.
    pub(crate) fn id(&self) -> u32 {
        let numbers = |types: &[ValueType]| types.iter().map(|ty| ty.number()).collect::<Vec<u8>>();
        let (params, results) = (numbers(&self.params), numbers(&self.results));
        let count = u32::try_from(params.len()).unwrap_or(u32::MAX);
        let hash = *Digest::of(&[&count.to_le_bytes()[..], &params, &results].concat()).as_bytes();
        let [a, b, c, d, e, f, g, h, ..] = hash;
        type_ids([(u64::from_le_bytes([a, b, c, d, e, f, g, h]), &*params, &*results)].into_iter())[0]
    }
}

impl fmt::Display for FuncType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |types: &[ValueType]| types.iter().map(|ty| name(*ty)).collect::<Vec<_>>().join(" ");
        write!(f, "[{}] -> [{}]", list(&self.params), list(&self.results))
    }
}

/// The name of a value type in the text format.
pub(crate) fn name(ty: ValueType) -> &'static str {
    ty.name()
}

/// A memory's size in Wasm pages at first, and the most that it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryType {
    /// At first.
    pub min: u64,
    /// At most.
    pub max: Option<u64>,
}

/// A table's elements, its size at first, and the most that it can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableType {
    /// Its elements.
    pub element: ValueType,
    /// At first.
    pub min: u64,
    /// At most.
    pub max: Option<u64>,
}

/// A global.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GlobalType {
    /// Its value.
    pub value: ValueType,
    /// Whether it can change.
    pub mutable: bool,
}

/// The type of an import or export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExternType {
    /// A function.
    Func(FuncType),
    /// A table.
    Table(TableType),
    /// A memory.
    Memory(MemoryType),
    /// A global.
    Global(GlobalType),
    /// A tag, by the parameters of its exceptions.
    Tag(FuncType),
}

impl fmt::Display for ExternType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |min: u64, max: Option<u64>| max.map_or_else(|| format!("{min}"), |max| format!("{min} to {max}"));
        match self {
            Self::Func(ty) => write!(f, "a function {ty}"),
            Self::Table(ty) => write!(f, "a table of {} {}", size(ty.min, ty.max), name(ty.element)),
            Self::Memory(ty) => write!(f, "a memory of {} pages", size(ty.min, ty.max)),
            Self::Global(ty) => write!(f, "a {} global of {}", if ty.mutable { "mutable" } else { "constant" }, name(ty.value)),
            Self::Tag(ty) => write!(f, "a tag {ty}"),
        }
    }
}

/// What is hashed is a part of a hash already.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Function types by hash: how many parameters, the numbers of all value types, the number of the type.
type Known = HashMap<u64, Vec<(usize, Box<[u8]>, u32)>, BuildHasherDefault<Identity>>;

/// The numbers of function types, given as hash and as numbers of the parameters and results. Equal types, and only those, have equal
/// numbers, if equal types have equal hashes: a code object that lies about them only fails to call others.
///
/// Types are never forgotten. There are as many as all modules of the process have different ones.
pub(crate) fn type_ids<'a>(types: impl Iterator<Item = (u64, &'a [u8], &'a [u8])>) -> Vec<u32> {
    static KNOWN: Mutex<Option<(Known, u32)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let (known, next) = known.get_or_insert_default();
    types
        .map(|(hash, params, results)| {
            let same = known.entry(hash).or_default();
            let is_same = |(count, all, _): &&(usize, Box<[u8]>, u32)| {
                *count == params.len() && all.len() == params.len() + results.len() && all.starts_with(params) && all.ends_with(results)
            };
            if let Some((_, _, id)) = same.iter().find(is_same) {
                return *id;
            }
            let id = *next;
            *next += 1;
            same.push((params.len(), [params, results].concat().into(), id));
            id
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ValueType::{F64, I32, I64};

    #[test]
    fn equal_types_and_only_those_have_equal_numbers() {
        let types = [
            FuncType::new([], []),
            FuncType::new([I32], []),
            FuncType::new([], [I32]),
            FuncType::new([I32, I64], [F64]),
            FuncType::new([I32], [I64, F64]),
            FuncType::new([I32, I64, F64], []),
        ];
        for (a, first) in types.iter().enumerate() {
            for (b, second) in types.iter().enumerate() {
                assert_eq!(first.id() == second.clone().id(), a == b, "{first} and {second}");
            }
        }
        // A hash that two types share does not make them one.
        assert_ne!(type_ids([(7, &[1][..], &[][..])].into_iter()), type_ids([(7, &[][..], &[1][..])].into_iter()));
    }
}
