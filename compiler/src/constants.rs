//! Constant expressions: the initialisers of globals, elements and the places of segments.

use crate::CompileError;
use crate::module::{impossible, narrow};
use preheat_image::abi::ValueType;
use preheat_image::native::{ConstKind, ConstOp, Expression};
use wasmparser::{ConstExpr, Operator};

/// An initialiser.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Init {
    /// Known now: the bytes of the value.
    Value([u8; 16]),
    /// Computed when the module is instantiated.
    Expression(Expression),
}

impl Init {
    /// A known i32.
    pub(crate) fn as_u32(self) -> Option<u32> {
        match self {
            Self::Value([a, b, c, d, ..]) => Some(u32::from_le_bytes([a, b, c, d])),
            Self::Expression(_) => None,
        }
    }
}

/// All constant expressions that are not known now.
#[derive(Debug, Default)]
pub(crate) struct Constants {
    pub(crate) ops: Vec<ConstOp>,
}

fn bytes<const N: usize>(value: [u8; N]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..N].copy_from_slice(&value);
    bytes
}

impl Constants {
    /// Reads an expression, and computes it if it only has constants.
    pub(crate) fn read(&mut self, expression: &ConstExpr<'_>) -> Result<Init, CompileError> {
        let mut ops = Vec::new();
        for op in expression.get_operators_reader() {
            let (kind, index, value) = match op? {
                Operator::I32Const { value } => (ConstKind::Value, 0, bytes(value.to_le_bytes())),
                Operator::I64Const { value } => (ConstKind::Value, 0, bytes(value.to_le_bytes())),
                Operator::F32Const { value } => (ConstKind::Value, 0, bytes(value.bits().to_le_bytes())),
                Operator::F64Const { value } => (ConstKind::Value, 0, bytes(value.bits().to_le_bytes())),
                Operator::V128Const { value } => (ConstKind::Value, 0, *value.bytes()),
                Operator::GlobalGet { global_index } => (ConstKind::GlobalGet, global_index, [0; 16]),
                Operator::RefNull { .. } => (ConstKind::RefNull, 0, [0; 16]),
                Operator::RefFunc { function_index } => (ConstKind::RefFunc, function_index, [0; 16]),
                Operator::I32Add => (ConstKind::I32Add, 0, [0; 16]),
                Operator::I32Sub => (ConstKind::I32Sub, 0, [0; 16]),
                Operator::I32Mul => (ConstKind::I32Mul, 0, [0; 16]),
                Operator::I64Add => (ConstKind::I64Add, 0, [0; 16]),
                Operator::I64Sub => (ConstKind::I64Sub, 0, [0; 16]),
                Operator::I64Mul => (ConstKind::I64Mul, 0, [0; 16]),
                Operator::End => continue,
                _ => return Err(impossible("an instruction that is not constant")),
            };
            ops.push((kind, index, value));
        }
        if let Some(value) = compute(&ops) {
            return Ok(Init::Value(value));
        }
        let first = narrow(self.ops.len(), "constant expressions")?;
        let count = narrow(ops.len(), "constant expressions")?;
        self.ops.extend(ops.into_iter().map(|(kind, index, value)| ConstOp { kind: (kind as u32).into(), index: index.into(), value }));
        Ok(Init::Expression(Expression { first: first.into(), count: count.into() }))
    }

    /// The instructions of an expression.
    fn ops(&self, init: Init) -> &[ConstOp] {
        match init {
            Init::Value(_) => &[],
            Init::Expression(expression) => {
                let first = expression.first.get() as usize;
                &self.ops[first..first + expression.count.get() as usize]
            }
        }
    }

    /// The functions that an expression names.
    pub(crate) fn functions(&self, init: Init) -> impl Iterator<Item = u32> {
        self.ops(init).iter().filter(|op| op.kind.get() == ConstKind::RefFunc as u32).map(|op| op.index.get())
    }

    /// What a reference expression is, if it is just a function or null.
    pub(crate) fn function(&self, init: Init) -> Option<Option<u32>> {
        match init {
            Init::Value([0, ..]) => Some(None),
            Init::Value(_) => None,
            Init::Expression(_) => match self.ops(init) {
                [op] if op.kind.get() == ConstKind::RefFunc as u32 => Some(Some(op.index.get())),
                _ => None,
            },
        }
    }
}

/// The value of an expression of constants only; null is a known reference.
fn compute(ops: &[(ConstKind, u32, [u8; 16])]) -> Option<[u8; 16]> {
    let mut stack: Vec<[u8; 16]> = Vec::new();
    for (kind, _, value) in ops {
        let result = match kind {
            ConstKind::Value => *value,
            ConstKind::RefNull => [0; 16],
            ConstKind::GlobalGet | ConstKind::RefFunc => return None,
            ConstKind::I32Add => i32s(&mut stack, u32::wrapping_add)?,
            ConstKind::I32Sub => i32s(&mut stack, u32::wrapping_sub)?,
            ConstKind::I32Mul => i32s(&mut stack, u32::wrapping_mul)?,
            ConstKind::I64Add => i64s(&mut stack, u64::wrapping_add)?,
            ConstKind::I64Sub => i64s(&mut stack, u64::wrapping_sub)?,
            ConstKind::I64Mul => i64s(&mut stack, u64::wrapping_mul)?,
        };
        stack.push(result);
    }
    stack.pop()
}

fn i32s(stack: &mut Vec<[u8; 16]>, compute: fn(u32, u32) -> u32) -> Option<[u8; 16]> {
    let mut pop = || stack.pop().and_then(|value| value.first_chunk().copied()).map(u32::from_le_bytes);
    let (right, left) = (pop()?, pop()?);
    Some(bytes(compute(left, right).to_le_bytes()))
}

fn i64s(stack: &mut Vec<[u8; 16]>, compute: fn(u64, u64) -> u64) -> Option<[u8; 16]> {
    let mut pop = || stack.pop().and_then(|value| value.first_chunk().copied()).map(u64::from_le_bytes);
    let (right, left) = (pop()?, pop()?);
    Some(bytes(compute(left, right).to_le_bytes()))
}

/// Whether a known initialiser of this type can be a constant in code.
pub(crate) const fn inline(ty: ValueType) -> bool {
    !matches!(ty, ValueType::FuncRef | ValueType::ExternRef | ValueType::ExnRef)
}
