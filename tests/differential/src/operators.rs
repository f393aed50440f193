//! The operators that the native engine has, by number and name.

use wasmparser::Operator;

macro_rules! operators {
    ($( @$proposal:ident $operator:ident $({ $($field:ident: $ty:ty),* $(,)? })? => $visit:ident ($($arity:tt)*) )*) => {
        /// All that wasmparser knows, with their proposals.
        #[repr(usize)]
        enum Number {
            $($operator),*
        }

        const ALL: &[(&str, &str)] = &[$((stringify!($proposal), stringify!($visit))),*];

        /// The number of an operator, below [`count`].
        #[must_use]
        pub fn number(operator: &Operator<'_>) -> usize {
            match operator {
                $(Operator::$operator { .. } => Number::$operator as usize,)*
                _ => ALL.len(),
            }
        }
    };
}

wasmparser::for_each_operator!(operators);

/// How many numbers there are.
#[must_use]
pub fn count() -> usize {
    ALL.len() + 1
}

/// The name of an operator as in the text format.
#[must_use]
pub fn name(number: usize) -> String {
    let name = ALL.get(number).map_or("unknown", |(_, visit)| visit.strip_prefix("visit_").unwrap_or(visit));
    if name == "typed_select" {
        return "select t".into();
    }
    match name.split_once('_') {
        Some((
            kind @ ("i32" | "i64" | "f32" | "f64" | "v128" | "local" | "global" | "table" | "memory" | "data" | "elem" | "ref"),
            rest,
        )) => {
            format!("{kind}.{rest}")
        }
        Some((kind, rest)) if kind.contains('x') && kind.starts_with(['i', 'f']) => format!("{kind}.{rest}"),
        _ => name.into(),
    }
}

/// The numbers of the operators that the native engine has.
pub fn supported() -> impl Iterator<Item = usize> {
    const PROPOSALS: [&str; 9] = [
        "mvp",
        "sign_extension",
        "saturating_float_to_int",
        "bulk_memory",
        "reference_types",
        "tail_call",
        "exceptions",
        "simd",
        "relaxed_simd",
    ];
    // `select` of several values is in the format, but not valid.
    let invalid = |visit: &str| visit == "visit_typed_select_multi";
    ALL.iter().enumerate().filter(move |(_, (proposal, visit))| PROPOSALS.contains(proposal) && !invalid(visit)).map(|(number, _)| number)
}

/// Whether an operator's results are left open to the engine.
#[must_use]
pub fn is_relaxed(number: usize) -> bool {
    ALL.get(number).is_some_and(|(proposal, _)| *proposal == "relaxed_simd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_text_format() {
        assert_eq!(name(number(&Operator::I32Add)), "i32.add");
        assert_eq!(name(number(&Operator::BrIf { relative_depth: 0 })), "br_if");
        assert_eq!(name(number(&Operator::I8x16Swizzle)), "i8x16.swizzle");
        assert_eq!(name(number(&Operator::RefIsNull)), "ref.is_null");
        let all: std::collections::BTreeSet<_> = supported().map(name).collect();
        // Wasm 1.0, sign extensions, conversions that saturate, bulk memory, references, tail calls, exceptions, vectors, relaxed vectors.
        let sum = 172 + 5 + 8 + 7 + 9 + 2 + 3 + 236 + 20;
        assert_eq!((all.len(), supported().count()), (sum, sum));
    }
}
