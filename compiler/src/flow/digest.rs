//! Which functions of two builds of a program are the same, as far as profiles go.
//!
//! Adding a function to a program gives other functions, types and globals other indices, and data other addresses, so that hardly any
//! function keeps its bytes. [`body_digest`] is over what such a function keeps: its locals and instructions, but
//! - instead of the indices of functions and types, the signatures that they have;
//! - no indices of globals, tags, element segments and data segments;
//! - no integer constants and no offsets of loads and stores that are 1024 or more, most of which are addresses.
//!
//! [`shape_digest`] is over much less, only what control flow consists of: which instructions of blocks, branches and calls follow one
//! another, with the depths of branches. A function that has been changed a little often keeps it.
//!
//! Functions with the same digest of either kind have the same [sites](mod@super::sites), one for one in the same order. Their offsets may
//! differ, for an index that is larger may take more bytes: what belongs together is told by the order, never by the offset. Several
//! functions of one module may have the same digest; of a large program one in ten shares that of its body with another.

use sha2::{Digest as _, Sha256};
use wasmparser::{AbstractHeapType, BinaryReader, BinaryReaderError, BlockType, Catch, FunctionBody, HeapType, MemArg, Operator, ValType};

/// The first half of an SHA-256 digest.
pub(crate) type BodyDigest = [u8; 16];

/// Begins what is digested: what kind it is, and which version of it.
const BODY: &[u8] = b"preheat function body 1\0";
const SHAPE: &[u8] = b"preheat function shape 1\0";

/// Constants and offsets from here on are taken for addresses.
const ADDRESSES: i64 = 1024;

/// The signatures of a module. Value types have the numbers that the ABI gives them.
pub(crate) trait Signatures {
    /// Parameters and results of the type with this index.
    fn of_type(&self, index: u32) -> (Vec<u8>, Vec<u8>);

    /// Parameters and results of the function with this index.
    fn of_function(&self, index: u32) -> (Vec<u8>, Vec<u8>);
}

/// Digest over the locals and instructions of a validated body, without what other functions change.
///
/// # Errors
/// When it can't be read, so never.
pub(crate) fn body_digest(body: &FunctionBody<'_>, signatures: &impl Signatures) -> Result<BodyDigest, BinaryReaderError> {
    let mut text = Text::new(BODY);
    let locals = body.get_locals_reader()?;
    text.number(locals.get_count());
    for local in locals {
        let (count, ty) = local?;
        text.number(count);
        text.byte(value_type(ty));
    }
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let mut bytes = reader.get_binary_reader();
        let operator = reader.read()?;
        text.opcode(&mut bytes)?;
        text.immediates(&operator, signatures, || {
            let size = reader.original_position() - bytes.original_position();
            bytes.read_bytes(size)
        })?;
    }
    Ok(text.digest())
}

/// Digest over the control flow of a validated body.
///
/// # Errors
/// When it can't be read, so never.
pub(crate) fn shape_digest(body: &FunctionBody<'_>) -> Result<BodyDigest, BinaryReaderError> {
    let mut text = Text::new(SHAPE);
    let mut reader = body.get_operators_reader()?;
    while !reader.eof() {
        let mut bytes = reader.get_binary_reader();
        match reader.read()? {
            Operator::Block { .. }
            | Operator::Loop { .. }
            | Operator::If { .. }
            | Operator::Else
            | Operator::End
            | Operator::Return
            | Operator::Unreachable
            | Operator::Call { .. }
            | Operator::CallIndirect { .. }
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. }
            | Operator::Throw { .. }
            | Operator::ThrowRef => text.opcode(&mut bytes)?,
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
                text.opcode(&mut bytes)?;
                text.number(relative_depth);
            }
            Operator::BrTable { targets } => {
                text.opcode(&mut bytes)?;
                text.targets(&targets)?;
            }
            Operator::TryTable { try_table } => {
                text.opcode(&mut bytes)?;
                text.clauses(&try_table.catches);
            }
            _ => {}
        }
    }
    Ok(text.digest())
}

/// What is digested. Everything in it has a fixed size or says how long it is.
struct Text(Sha256);

impl Text {
    fn new(kind: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(kind))
    }

    fn digest(self) -> BodyDigest {
        let digest: [u8; 32] = self.0.finalize().into();
        std::array::from_fn(|index| digest[index])
    }

    fn byte(&mut self, byte: u8) {
        self.0.update([byte]);
    }

    fn number(&mut self, number: u32) {
        self.0.update(number.to_le_bytes());
    }

    /// The opcode that `bytes` begin with, which they are read past.
    fn opcode(&mut self, bytes: &mut BinaryReader<'_>) -> Result<(), BinaryReaderError> {
        let opcode = bytes.read_u8()?;
        self.byte(opcode);
        // These are followed by another number.
        if (0xfb..=0xfe).contains(&opcode) {
            self.number(bytes.read_var_u32()?);
        }
        Ok(())
    }

    /// What follows the opcode of an instruction. Where that has one form only, it is digested as the `rest` of the bytes.
    fn immediates<'a>(
        &mut self,
        operator: &Operator<'_>,
        signatures: &impl Signatures,
        rest: impl FnOnce() -> Result<&'a [u8], BinaryReaderError>,
    ) -> Result<(), BinaryReaderError> {
        match operator {
            Operator::Block { blockty } | Operator::Loop { blockty } | Operator::If { blockty } => self.block_type(*blockty, signatures),
            Operator::TryTable { try_table } => {
                self.block_type(try_table.ty, signatures);
                self.clauses(&try_table.catches);
            }
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => self.number(*relative_depth),
            Operator::BrTable { targets } => self.targets(targets)?,
            Operator::Call { function_index } | Operator::ReturnCall { function_index } | Operator::RefFunc { function_index } => {
                self.signature(signatures.of_function(*function_index));
            }
            Operator::CallIndirect { type_index, table_index } | Operator::ReturnCallIndirect { type_index, table_index } => {
                self.signature(signatures.of_type(*type_index));
                self.number(*table_index);
            }
            Operator::Throw { .. }
            | Operator::GlobalGet { .. }
            | Operator::GlobalSet { .. }
            | Operator::DataDrop { .. }
            | Operator::ElemDrop { .. } => {}
            Operator::LocalGet { local_index } | Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
                self.number(*local_index);
            }
            Operator::I32Const { value } => self.constant(i64::from(*value)),
            Operator::I64Const { value } => self.constant(*value),
            Operator::MemorySize { mem } | Operator::MemoryGrow { mem } | Operator::MemoryFill { mem } => self.number(*mem),
            Operator::MemoryInit { mem, .. } => self.number(*mem),
            Operator::MemoryCopy { dst_mem: to, src_mem: from } | Operator::TableCopy { dst_table: to, src_table: from } => {
                self.number(*to);
                self.number(*from);
            }
            Operator::TableGet { table }
            | Operator::TableSet { table }
            | Operator::TableGrow { table }
            | Operator::TableSize { table }
            | Operator::TableFill { table }
            | Operator::TableInit { table, .. } => self.number(*table),
            _ => {
                if let Some((memarg, lane)) = access(operator) {
                    self.access(memarg);
                    self.byte(lane);
                } else {
                    self.0.update(rest()?);
                }
            }
        }
        Ok(())
    }

    fn block_type(&mut self, ty: BlockType, signatures: &impl Signatures) {
        self.signature(match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(ty) => (Vec::new(), vec![value_type(ty)]),
            BlockType::FuncType(index) => signatures.of_type(index),
        });
    }

    fn signature(&mut self, (params, results): (Vec<u8>, Vec<u8>)) {
        for types in [params, results] {
            // Validation limits both to 1,000.
            self.number(u32::try_from(types.len()).unwrap_or(u32::MAX));
            self.0.update(&types);
        }
    }

    fn targets(&mut self, targets: &wasmparser::BrTable<'_>) -> Result<(), BinaryReaderError> {
        self.number(targets.len());
        for depth in targets.targets() {
            self.number(depth?);
        }
        self.number(targets.default());
        Ok(())
    }

    /// Catch clauses, but not their tags.
    fn clauses(&mut self, catches: &[Catch]) {
        // Validation limits them to 10,000.
        self.number(u32::try_from(catches.len()).unwrap_or(u32::MAX));
        for catch in catches {
            let (kind, label) = match *catch {
                Catch::One { label, .. } => (0, label),
                Catch::OneRef { label, .. } => (1, label),
                Catch::All { label } => (2, label),
                Catch::AllRef { label } => (3, label),
            };
            self.byte(kind);
            self.number(label);
        }
    }

    /// An integer that is no address.
    fn constant(&mut self, value: i64) {
        let kept = Some(value).filter(|value| *value < ADDRESSES);
        self.byte(u8::from(kept.is_some()));
        self.0.update(kept.unwrap_or(0).to_le_bytes());
    }

    fn access(&mut self, memarg: &MemArg) {
        self.byte(memarg.align);
        self.number(memarg.memory);
        self.constant(i64::try_from(memarg.offset).unwrap_or(ADDRESSES));
    }
}

/// What a load or store has, and its lane if it is of one.
fn access<'o>(operator: &'o Operator<'_>) -> Option<(&'o MemArg, u8)> {
    use Operator as O;
    Some(match operator {
        O::I32Load { memarg } | O::I64Load { memarg } | O::F32Load { memarg } | O::F64Load { memarg } => (memarg, 0),
        O::I32Load8S { memarg } | O::I32Load8U { memarg } | O::I32Load16S { memarg } | O::I32Load16U { memarg } => (memarg, 0),
        O::I64Load8S { memarg } | O::I64Load8U { memarg } | O::I64Load16S { memarg } | O::I64Load16U { memarg } => (memarg, 0),
        O::I64Load32S { memarg } | O::I64Load32U { memarg } => (memarg, 0),
        O::I32Store { memarg } | O::I64Store { memarg } | O::F32Store { memarg } | O::F64Store { memarg } => (memarg, 0),
        O::I32Store8 { memarg } | O::I32Store16 { memarg } => (memarg, 0),
        O::I64Store8 { memarg } | O::I64Store16 { memarg } | O::I64Store32 { memarg } => (memarg, 0),
        O::V128Load { memarg } | O::V128Store { memarg } => (memarg, 0),
        O::V128Load8x8S { memarg } | O::V128Load16x4S { memarg } | O::V128Load32x2S { memarg } => (memarg, 0),
        O::V128Load8x8U { memarg } | O::V128Load16x4U { memarg } | O::V128Load32x2U { memarg } => (memarg, 0),
        O::V128Load8Splat { memarg } | O::V128Load16Splat { memarg } => (memarg, 0),
        O::V128Load32Splat { memarg } | O::V128Load64Splat { memarg } => (memarg, 0),
        O::V128Load32Zero { memarg } | O::V128Load64Zero { memarg } => (memarg, 0),
        O::V128Load8Lane { memarg, lane } | O::V128Load16Lane { memarg, lane } => (memarg, *lane),
        O::V128Load32Lane { memarg, lane } | O::V128Load64Lane { memarg, lane } => (memarg, *lane),
        O::V128Store8Lane { memarg, lane } | O::V128Store16Lane { memarg, lane } => (memarg, *lane),
        O::V128Store32Lane { memarg, lane } | O::V128Store64Lane { memarg, lane } => (memarg, *lane),
        _ => return None,
    })
}

/// The number that the ABI gives a value type; 0 for one that validation of our features never lets through.
fn value_type(ty: ValType) -> u8 {
    match ty {
        ValType::I32 => 1,
        ValType::I64 => 2,
        ValType::F32 => 3,
        ValType::F64 => 4,
        ValType::V128 => 5,
        ValType::Ref(ty) => match ty.heap_type() {
            HeapType::Abstract { ty: AbstractHeapType::Func, .. } => 6,
            HeapType::Abstract { ty: AbstractHeapType::Extern, .. } => 7,
            HeapType::Abstract { ty: AbstractHeapType::Exn, .. } => 8,
            _ => 0,
        },
    }
}
