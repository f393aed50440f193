//! 128-bit vectors.

mod conversions;
mod floats;
mod integers;
mod lanes;
mod memory;
mod relaxed;

use super::Translator;
use cranelift_codegen::ir::{Type, Value};
use wasmparser::Operator;

/// Pops one vector of type `ty`, pushes the result of an instruction.
macro_rules! unary {
    ($self:ident, $ty:expr, $instruction:ident) => {{
        let operand = $self.pop_vector($ty);
        let result = $self.builder.ins().$instruction(operand);
        $self.push(result);
    }};
}

/// Pops two vectors of type `ty`, pushes the result of an instruction.
macro_rules! binary {
    ($self:ident, $ty:expr, $instruction:ident) => {{
        let (left, right) = $self.pop_vectors($ty);
        let result = $self.builder.ins().$instruction(left, right);
        $self.push(result);
    }};
}

use {binary, unary};

impl Translator<'_, '_> {
    pub(super) fn simd(&mut self, operator: &Operator<'_>) -> bool {
        self.vector_memory(operator)
            || self.vector_lanes(operator)
            || self.vector_integer(operator)
            || self.vector_float(operator)
            || self.vector_conversion(operator)
            || self.vector_relaxed(operator)
    }

    /// Pops two vectors of one type, in the order in which they were pushed.
    fn pop_vectors(&mut self, ty: Type) -> (Value, Value) {
        let (left, right) = self.pop2();
        (self.as_vector(left, ty), self.as_vector(right, ty))
    }

    /// Pops three vectors of one type, in the order in which they were pushed.
    fn pop_three_vectors(&mut self, ty: Type) -> (Value, Value, Value) {
        let (first, second, third) = self.pop3();
        (self.as_vector(first, ty), self.as_vector(second, ty), self.as_vector(third, ty))
    }
}
