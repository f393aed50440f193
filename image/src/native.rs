//! What the native engine's code objects hold: which sections of the [`crate::code`] container there are, and their tables.
//!
//! Every table is an array of fixed-layout records, so that a reader checks that the arrays lie within the file and then uses them where
//! they are: its cost does not depend on their length. Numbers *inside* records (indices, ranges) are **not** checked by
//! [`NativeCode::parse`]; whoever follows one uses a checked accessor. Text is trusted because of its signature, tables are not.
//!
//! | section | kind, tag | contents |
//! |---|---|---|
//! | `.text` | text, 0 | machine code; every offset "in the text" counts from its beginning |
//! | `.preheat.module` | read-only, 1 | [`ModuleHeader`], then the lists that it names, each at a multiple of 8 |
//! | `.preheat.functions` | read-only, 2 | [`FunctionRange`]s ordered by place |
//! | `.preheat.traps` | read-only, 3 | n offsets in the text (`u32`, ascending), then n trap codes (`u8`) |
//! | `.preheat.addresses` | read-only, 4 | [`AddressRecord`]s ordered by place |
//! | `.preheat.names` | read-only, 5 | [`NameRecord`]s ordered by function |
//! | `.preheat.memory` | read-only, 6 | pages of initial memories, see [`MemoryRun`] |
//! | `.preheat.tables` | read-only, 7 | initial table entries, see [`TablePlan`] |
//! | `.preheat.data` | read-only, 8 | bytes of data segments that are not in the initial memories |
//! | `.preheat.strings` | read-only, 9 | names of functions, each ended by a zero byte; also the ELF symbols' names |
//! | `.preheat.calls` | read-only, 10 | [`CallSite`]s with exception handlers, ordered by place |
//! | `.preheat.handlers` | read-only, 11 | [`HandlerRecord`]s |
//! | `.preheat.sites` | read-only, 12 | [`SiteRecord`]s ordered by place: of code that can be frozen |
//! | `.preheat.values` | read-only, 13 | [`SiteValue`]s, which [`SiteRecord`]s name |
//! | `.preheat.resume` | read-only, 14 | [`ResumeHeader`], [`ResumeRecord`]s, value types: of a resume object |
//!
//! The first two are always there, the others if they are not empty.
//!
//! # Sites
//! A *site* is a `call` or `call_indirect` at which a program may be frozen, named by the index of its function and by the offset of the
//! instruction in the Wasm bytes. What must survive there is its *site layout*, a list of values that follows from the Wasm alone, see
//! `docs/image-format.md`: the locals that are live behind the call, ascending, then all operands below the call's arguments, bottom first.
//!
//! *Capture code* stores these values into a *shadow frame* in its machine frame before each call; [`SiteRecord`] says where. A *resume
//! object* has functions that take them from a [`crate::abi::WakeFrame`] and go on behind the call. It is a code object of its own, which
//! belongs to the code object with the digest [`ResumeHeader::base`], of the same module: its lists of the module section but types and
//! value types are empty, and its code takes everything of the module's from the context of an instance of the base.

use crate::abi::{ABI_VERSION, ContextCounts, ContextLayout, NONE, PAGE, TrapCode, VALUE_SIZE, ValueType};
use crate::code::{CodeObject, Section, SectionKind, Symbol, SymbolTable};
use crate::{CpuLevel, Digest, FormatError};
use std::cmp::Ordering;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const FORMAT: &str = "native code object";
const VERSION: u32 = 1;

/// Tags of the read-only sections.
pub mod tag {
    /// The text, which is of the other kind.
    pub const TEXT: u32 = 0;
    /// Header and lists.
    pub const MODULE: u32 = 1;
    /// [`super::FunctionRange`]s.
    pub const FUNCTIONS: u32 = 2;
    /// Trap sites.
    pub const TRAPS: u32 = 3;
    /// [`super::AddressRecord`]s.
    pub const ADDRESSES: u32 = 4;
    /// [`super::NameRecord`]s.
    pub const NAMES: u32 = 5;
    /// Pages of initial memories.
    pub const MEMORY: u32 = 6;
    /// Initial table entries.
    pub const TABLES: u32 = 7;
    /// Data segments.
    pub const DATA: u32 = 8;
    /// Names of functions.
    pub const STRINGS: u32 = 9;
    /// [`super::CallSite`]s.
    pub const CALLS: u32 = 10;
    /// [`super::HandlerRecord`]s.
    pub const HANDLERS: u32 = 11;
    /// [`super::SiteRecord`]s.
    pub const SITES: u32 = 12;
    /// [`super::SiteValue`]s.
    pub const VALUES: u32 = 13;
    /// [`super::ResumeHeader`] and what belongs to it.
    pub const RESUME: u32 = 14;
}

/// Code looks at the interrupt page. Without this flag it can't be interrupted.
pub const FLAG_INTERRUPTIBLE: u32 = 1;
/// Capture code: every site of its own functions has a [`SiteRecord`].
pub const FLAG_CAPTURE: u32 = 2;

/// An array in the section `.preheat.module`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct List {
    /// Where it begins in the section.
    pub offset: U32,
    /// How many records.
    pub count: U32,
}

/// The front of `.preheat.module`.
#[derive(Debug, Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModuleHeader {
    /// Version of these tables, 1.
    pub version: U32,
    /// [`ABI_VERSION`] of the code.
    pub abi: U32,
    /// [`FLAG_INTERRUPTIBLE`], [`FLAG_CAPTURE`]; the other bits are zero.
    pub flags: U32,
    /// Index of the start function, or [`NONE`].
    pub start: U32,
    /// Imported functions.
    pub imported_functions: U32,
    /// Imported memories.
    pub imported_memories: U32,
    /// Imported globals.
    pub imported_globals: U32,
    /// Imported tables.
    pub imported_tables: U32,
    /// Imported tags.
    pub imported_tags: U32,
    /// Zero.
    pub reserved: U32,
    /// [`TypeRecord`]s: the function types, each once.
    pub types: List,
    /// Bytes: numbers of value types, which [`TypeRecord`]s name.
    pub value_types: List,
    /// [`ImportRecord`]s in the module's order.
    pub imports: List,
    /// [`ExportRecord`]s ordered by name.
    pub exports: List,
    /// [`FunctionRecord`]s of all functions by index, imported ones first.
    pub functions: List,
    /// [`MemoryPlan`]s of own memories.
    pub memories: List,
    /// [`TablePlan`]s of own tables.
    pub tables: List,
    /// [`GlobalRecord`]s of own globals.
    pub globals: List,
    /// Initial values of own globals, 16 bytes each; those with an initialiser are zero.
    pub global_values: List,
    /// Types of own tags: `u32`, numbers of types.
    pub tags: List,
    /// [`DataSegment`]s.
    pub data_segments: List,
    /// [`ElementSegment`]s.
    pub element_segments: List,
    /// `u32`: function indices of element segments, [`NONE`] for null.
    pub elements: List,
    /// [`Expression`]s of element segments.
    pub element_expressions: List,
    /// [`ConstOp`]s, which [`Expression`]s name.
    pub const_ops: List,
    /// [`TableFixup`]s.
    pub table_fixups: List,
    /// [`MemoryRun`]s, those of a memory together and in the order of their pages.
    pub memory_runs: List,
    /// Bytes: names of imports and exports.
    pub strings: List,
}

/// A function type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TypeRecord {
    /// Where its value types begin in `value_types`: first the parameters, then the results.
    pub first: U32,
    /// How many parameters.
    pub params: U32,
    /// How many results.
    pub results: U32,
    /// Where its enter trampoline is in the text, or [`NONE`]: no function of this type can be reached from outside.
    pub enter: U32,
    /// Where its host trampoline is in the text, or [`NONE`]: nothing of this type is imported.
    pub host: U32,
    /// Zero.
    pub reserved: U32,
    /// The first eight bytes of the SHA-256 over the number of parameters (`u32`) and the numbers of the value types (bytes). Equal types
    /// have equal hashes; the reverse must not be relied upon.
    pub hash: U64,
}

/// A part of the module's strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StringRange {
    /// Where it begins in `strings`.
    pub offset: U32,
    /// How many bytes of UTF-8.
    pub len: U32,
}

/// What is imported or exported. The numbers are those of Wasm's binary format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExternKind {
    /// A function.
    Function = 0,
    /// A table.
    Table = 1,
    /// A memory.
    Memory = 2,
    /// A global.
    Global = 3,
    /// A tag.
    Tag = 4,
}

impl ExternKind {
    /// The kind of a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Function, Self::Table, Self::Memory, Self::Global, Self::Tag].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// An import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ImportRecord {
    /// The module's name.
    pub module: StringRange,
    /// The name in it.
    pub name: StringRange,
    /// Number of the [`ExternKind`].
    pub kind: U32,
    /// Function, tag: number of its type in `types`. Table, global: number of the [`ValueType`]. Memory: zero.
    pub ty: U32,
    /// Global: 1 if it is mutable. Else zero.
    pub mutable: U32,
    /// Zero.
    pub reserved: U32,
    /// Table, memory: the size that it must have at least, in entries or Wasm pages.
    pub min: U64,
    /// Table, memory: the maximum that it must have at most; `u64::MAX` if it need not have one.
    pub max: U64,
}

/// An export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExportRecord {
    /// Its name.
    pub name: StringRange,
    /// Number of the [`ExternKind`].
    pub kind: U32,
    /// Index in the index space of that kind.
    pub index: U32,
}

/// A function by its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionRecord {
    /// Where its code begins in the text; [`NONE`] if it is imported.
    pub code: U32,
    /// Number of its type in `types`.
    pub ty: U32,
}

/// How a memory of the module begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryPlan {
    /// Size in Wasm pages at first.
    pub min: U64,
    /// To how many Wasm pages it may grow; `u64::MAX` without maximum.
    pub max: U64,
    /// Its first [`MemoryRun`].
    pub first_run: U32,
    /// How many runs it has.
    pub runs: U32,
}

/// Consecutive pages of an initial memory. What no run covers is zero. All runs are within the memory's first size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryRun {
    /// Number of the first page of [`PAGE`] bytes in the memory.
    pub first: U32,
    /// How many pages.
    pub pages: U32,
    /// Where they begin in `.preheat.memory`, a multiple of [`PAGE`].
    pub offset: U64,
}

/// How a table of the module begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TablePlan {
    /// Number of the [`ValueType`] of its elements.
    pub element: U32,
    /// How many of its first entries are in `.preheat.tables`; the others are null. At most `min`.
    pub entries: U32,
    /// Where they begin in `.preheat.tables`, a multiple of [`PAGE`]. What follows them up to the end of the page is zero.
    pub offset: U64,
    /// How many entries it has at first.
    pub min: U64,
    /// To how many it may grow; `u64::MAX` without maximum.
    pub max: U64,
}

/// An initial table entry that is not the same for every instance: an imported function. `.preheat.tables` has null there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TableFixup {
    /// Which own table.
    pub table: U32,
    /// Which entry.
    pub index: U32,
    /// Index of the function.
    pub function: U32,
}

/// A global of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GlobalRecord {
    /// Number of the [`ValueType`].
    pub ty: U16,
    /// 1 if it is mutable.
    pub mutable: U16,
    /// How its value is found at instantiation; empty if `global_values` has it.
    pub init: Expression,
}

/// A constant expression: consecutive [`ConstOp`]s for a stack machine, which leave one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Expression {
    /// The first in `const_ops`.
    pub first: U32,
    /// How many.
    pub count: U32,
}

/// An instruction of a constant expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ConstOp {
    /// Number of the [`ConstKind`].
    pub kind: U32,
    /// Which global or function.
    pub index: U32,
    /// The constant, in its first bytes.
    pub value: [u8; 16],
}

/// What an instruction of a constant expression does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConstKind {
    /// Pushes the constant: any type but references.
    Value = 1,
    /// Pushes the value of the global with this index.
    GlobalGet = 2,
    /// Pushes null.
    RefNull = 3,
    /// Pushes the function with this index.
    RefFunc = 4,
    /// `i32.add`.
    I32Add = 5,
    /// `i32.sub`.
    I32Sub = 6,
    /// `i32.mul`.
    I32Mul = 7,
    /// `i64.add`.
    I64Add = 8,
    /// `i64.sub`.
    I64Sub = 9,
    /// `i64.mul`.
    I64Mul = 10,
}

impl ConstKind {
    /// The kind of a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        use ConstKind::*;
        [Value, GlobalGet, RefNull, RefFunc, I32Add, I32Sub, I32Mul, I64Add, I64Sub, I64Mul].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// What becomes of a segment at instantiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SegmentMode {
    /// Nothing: it waits for `memory.init` or `table.init`.
    Passive = 0,
    /// It is copied, in the order of segments, elements before data, and then dropped. One that does not fit is a trap.
    Active = 1,
    /// It is in the initial memory or table already, and dropped from the beginning.
    Initial = 2,
    /// An element segment that only declares functions: dropped from the beginning.
    Declared = 3,
}

impl SegmentMode {
    /// The mode of a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Passive, Self::Active, Self::Initial, Self::Declared].into_iter().find(|mode| *mode as u32 == number)
    }
}

/// A data segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DataSegment {
    /// Number of the [`SegmentMode`].
    pub mode: U32,
    /// Active: index of the memory.
    pub memory: U32,
    /// Active: where it goes, an i32.
    pub at: Expression,
    /// Where its bytes begin in `.preheat.data`.
    pub offset: U32,
    /// How many bytes; zero if it is dropped from the beginning.
    pub len: U32,
}

/// An element segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ElementSegment {
    /// Number of the [`SegmentMode`].
    pub mode: U32,
    /// Active: index of the table.
    pub table: U32,
    /// Active: where it goes, an i32.
    pub at: Expression,
    /// Number of the [`ValueType`] of its elements.
    pub element: U32,
    /// 0: its elements are in `elements`. 1: they are in `element_expressions`.
    pub expressions: U32,
    /// Its first element there.
    pub first: U32,
    /// How many; zero if it is dropped from the beginning.
    pub count: U32,
}

/// What lies in a part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RangeKind {
    /// A function of the module; `index` is its index.
    Function = 0,
    /// An enter trampoline; `index` is the type.
    Enter = 1,
    /// A host trampoline; `index` is the type.
    Host = 2,
    /// The stub of a library call; `index` is its number.
    Libcall = 3,
    /// A helper that needs nothing from outside, such as rounding where the CPU level has no instruction for it.
    Helper = 4,
    /// In a resume object, where [`Self::Function`] is a resume function of the function with that index: what calls an imported function
    /// from a wake frame; `index` is the function's index.
    Import = 5,
}

impl RangeKind {
    /// The kind of a number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        [Self::Function, Self::Enter, Self::Host, Self::Libcall, Self::Helper, Self::Import].into_iter().find(|kind| *kind as u32 == number)
    }
}

/// A part of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FunctionRange {
    /// Where it begins in the text.
    pub start: U32,
    /// How many bytes.
    pub size: U32,
    /// Number of the [`RangeKind`].
    pub kind: U32,
    /// Which of its kind.
    pub index: U32,
    /// Where the body of the function begins in the Wasm bytes: at its locals. Zero for what is not a function of the module.
    pub body: U32,
    /// How many bytes the body has.
    pub body_size: U32,
}

/// From some place in the text on, up to the next record, code comes from one place in the Wasm bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressRecord {
    /// Where in the text.
    pub code: U32,
    /// Offset of the instruction in the Wasm bytes; [`NONE`] if there is none.
    pub wasm: U32,
}

/// The name of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NameRecord {
    /// Index of the function.
    pub function: U32,
    /// Its name in `.preheat.strings`.
    pub name: StringRange,
}

/// A call that exceptions may come out of into the same function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallSite {
    /// Return address, as offset in the text.
    pub return_to: U32,
    /// By how much the stack pointer is below the frame pointer at the landing pads.
    pub frame_size: U32,
    /// The first of its handlers, in the order in which they are tried.
    pub first: U32,
    /// How many.
    pub count: U32,
}

/// A handler of a [`CallSite`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HandlerRecord {
    /// Index of the tag that it takes, or [`NONE`] for all.
    pub tag: U32,
    /// Where its landing pad is in the text. It is entered with the exnref in `rax`, the stack pointer as [`CallSite`] says, and the
    /// frame pointer of the function.
    pub target: U32,
    /// Where the frame keeps the function's context, as offset from the stack pointer of the landing pad.
    pub context: U32,
}

/// A call in capture code. A site may have several: resume functions have copies of loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SiteRecord {
    /// Return address, as offset in the text.
    pub return_to: U32,
    /// Index of the function.
    pub function: U32,
    /// Offset of the call in the Wasm bytes.
    pub site: U32,
    /// How many bytes the first byte of the shadow frame is below the function's frame pointer.
    pub frame: U32,
    /// The first of its values.
    pub first: U32,
    /// How many.
    pub count: U32,
}

/// Where in the shadow frame a value of a site layout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SiteValue {
    /// Which slot of [`VALUE_SIZE`] bytes.
    pub slot: U16,
    /// Number of the [`ValueType`].
    pub ty: u8,
    /// Zero.
    pub reserved: u8,
}

/// The front of `.preheat.resume`. Behind it are the records, and behind them the numbers of value types, 1 byte each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResumeHeader {
    /// Digest of the code object to which it belongs.
    pub base: [u8; 32],
    /// How many [`ResumeRecord`]s.
    pub count: U32,
    /// How many value types.
    pub value_types: U32,
    /// Zero.
    pub reserved: U64,
}

/// What goes on at a site, or for an imported function: what makes the call in which the program was frozen again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResumeRecord {
    /// Index of the function.
    pub function: U32,
    /// Offset of the call in the Wasm bytes; [`NONE`] for an imported function.
    pub site: U32,
    /// Where its code begins in the text.
    pub code: U32,
    /// Number of its type in this object's `types`: an i64 (the address of the wake frame) to the function's results.
    pub ty: U32,
    /// Number of the type of the code that the next wake frame must have: an i64 to the results of the call at the site. [`NONE`] for an
    /// imported function, which is the last.
    pub callee: U32,
    /// The first of the value types of its wake frame: the site layout, or the imported function's parameters.
    pub first: U32,
    /// How many.
    pub count: U32,
}

/// The section `.preheat.resume`.
#[derive(Debug, Clone, Copy)]
pub struct Resume<'a> {
    /// Digest of the code object to which it belongs.
    pub base: Digest,
    /// What there is, ordered by function and site.
    pub records: &'a [ResumeRecord],
    value_types: &'a [u8],
}

impl<'a> Resume<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (header, rest) = ResumeHeader::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
            format: FORMAT,
            need: size_of::<ResumeHeader>() as u64,
            have: bytes.len() as u64,
        })?;
        if header.reserved.get() != 0 {
            return Err(damaged("unknown flags of the resume section".into()));
        }
        let parts = <[ResumeRecord]>::ref_from_prefix_with_elems(rest, header.count.get() as usize).ok();
        parts
            .filter(|(_, value_types)| value_types.len() == header.value_types.get() as usize)
            .map(|(records, value_types)| Self { base: Digest::from_bytes(header.base), records, value_types })
            .ok_or_else(|| damaged(format!("{} resume records do not fill the section", header.count)))
    }

    /// What goes on behind the call at `site` in `function`, or calls the imported `function` if `site` is [`NONE`].
    #[must_use]
    pub fn find(&self, function: u32, site: u32) -> Option<&'a ResumeRecord> {
        let at = self.records.binary_search_by_key(&(function, site), |record| (record.function.get(), record.site.get())).ok()?;
        Some(&self.records[at])
    }

    /// The types of the values in the wake frame of a record, as numbers of [`ValueType`]s.
    ///
    /// # Errors
    /// When they are out of bounds or one is unknown.
    pub fn value_types(&self, record: &ResumeRecord) -> Result<&'a [u8], FormatError> {
        let types = slice(self.value_types, record.first, record.count, "value types of a wake frame")?;
        if types.iter().any(|number| ValueType::from_number(*number).is_none()) {
            return Err(damaged("a wake frame has a value of unknown type".into()));
        }
        Ok(types)
    }
}

fn damaged(what: String) -> FormatError {
    FormatError::Damaged { format: FORMAT, what }
}

/// A section as an array of records that fill it.
fn records<'a, T: FromBytes + Immutable + KnownLayout>(bytes: &'a [u8], name: &str) -> Result<&'a [T], FormatError> {
    let count = bytes.len() / size_of::<T>();
    match <[T]>::ref_from_prefix_with_elems(bytes, count) {
        Ok((records, [])) => Ok(records),
        _ => Err(damaged(format!("the section of {name} has {} bytes, not a multiple of {}", bytes.len(), size_of::<T>()))),
    }
}

/// A list of the module section.
fn list<'a, T: FromBytes + Immutable + KnownLayout>(bytes: &'a [u8], list: List, what: &str) -> Result<&'a [T], FormatError> {
    let rest = bytes.get(list.offset.get() as usize..);
    rest.and_then(|rest| <[T]>::ref_from_prefix_with_elems(rest, list.count.get() as usize).ok())
        .map(|(list, _)| list)
        .ok_or_else(|| damaged(format!("{} {what} at {:#x} do not fit into the section", list.count, list.offset)))
}

/// A native code object in the bytes of its file, whose sections and lists were checked to lie within it.
#[derive(Debug, Clone)]
pub struct NativeCode<'a> {
    /// The container.
    pub object: CodeObject,
    /// Where the text is in the file.
    pub text: Section,
    /// Where `.preheat.memory` is in the file; empty if there is none.
    pub memory_image: Section,
    /// Where `.preheat.tables` is in the file; empty if there is none.
    pub table_image: Section,
    /// The front of the module section.
    pub header: &'a ModuleHeader,
    /// Where everything is in an instance context.
    pub layout: ContextLayout,
    /// Function types.
    pub types: &'a [TypeRecord],
    /// Imports.
    pub imports: &'a [ImportRecord],
    /// Exports ordered by name.
    pub exports: &'a [ExportRecord],
    /// All functions by index.
    pub functions: &'a [FunctionRecord],
    /// Own memories.
    pub memories: &'a [MemoryPlan],
    /// Own tables.
    pub tables: &'a [TablePlan],
    /// Own globals.
    pub globals: &'a [GlobalRecord],
    /// Initial values of own globals, as many as [`Self::globals`].
    pub global_values: &'a [[u8; VALUE_SIZE as usize]],
    /// Type numbers of own tags.
    pub tags: &'a [U32],
    /// Data segments.
    pub data_segments: &'a [DataSegment],
    /// Element segments.
    pub element_segments: &'a [ElementSegment],
    /// Table entries to be filled in for each instance.
    pub table_fixups: &'a [TableFixup],
    /// Parts of the text by place.
    pub ranges: &'a [FunctionRange],
    /// Offsets of the trap sites in the text, ascending.
    pub trap_offsets: &'a [U32],
    /// Their codes.
    pub trap_codes: &'a [u8],
    /// The address map.
    pub addresses: &'a [AddressRecord],
    /// Names of functions.
    pub names: &'a [NameRecord],
    /// Calls with handlers.
    pub call_sites: &'a [CallSite],
    /// Calls of capture code, by place.
    pub sites: &'a [SiteRecord],
    /// What makes it a resume object.
    pub resume: Option<Resume<'a>>,
    site_values: &'a [SiteValue],
    value_types: &'a [u8],
    elements: &'a [U32],
    element_expressions: &'a [Expression],
    const_ops: &'a [ConstOp],
    memory_runs: &'a [MemoryRun],
    module_strings: &'a [u8],
    strings: &'a [u8],
    data: &'a [u8],
    handlers: &'a [HandlerRecord],
}

impl<'a> NativeCode<'a> {
    /// Reads a code object from the bytes of its whole file. Only the headers are looked at.
    ///
    /// # Errors
    /// When the file is no code object of the native engine, or of another version, or a section or list is out of bounds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let object = CodeObject::parse(bytes, bytes.len() as u64)?;
        let mut found: [Option<Section>; 15] = [None; 15];
        for section in &object.sections {
            let expected = if section.tag == tag::TEXT { SectionKind::Text } else { SectionKind::ReadOnly };
            let place = usize::try_from(section.tag).ok().and_then(|tag| found.get_mut(tag)).filter(|_| section.kind == expected);
            let place = place.ok_or_else(|| damaged(format!("a section of unknown tag {}", section.tag)))?;
            if place.replace(*section).is_some() {
                return Err(damaged(format!("two sections of tag {}", section.tag)));
            }
        }
        let required = |tag: u32| found[tag as usize].ok_or_else(|| damaged(format!("no section of tag {tag}")));
        let optional = |tag: u32| found[tag as usize].unwrap_or(Section { kind: SectionKind::ReadOnly, tag, offset: 0, size: 0 });
        let contents = |section: Section| {
            let start = usize::try_from(section.offset).ok();
            let size = usize::try_from(section.size).ok();
            // Both are within the file.
            start.zip(size).and_then(|(start, size)| bytes.get(start..)?.get(..size)).unwrap_or_default()
        };
        let text = required(tag::TEXT)?;
        if u32::try_from(text.size).is_err() {
            return Err(damaged(format!("{:#x} bytes of text", text.size)));
        }
        let module = contents(required(tag::MODULE)?);
        let (header, _) = ModuleHeader::ref_from_prefix(module).map_err(|_| FormatError::Truncated {
            format: FORMAT,
            need: size_of::<ModuleHeader>() as u64,
            have: module.len() as u64,
        })?;
        if header.version.get() != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: header.version.get(), supported: VERSION });
        }
        if header.abi.get() != ABI_VERSION {
            return Err(FormatError::Version { format: "native ABI", found: header.abi.get(), supported: ABI_VERSION });
        }
        if header.flags.get() & !(FLAG_INTERRUPTIBLE | FLAG_CAPTURE) != 0 || header.reserved.get() != 0 {
            return Err(damaged("unknown flags".into()));
        }
        let functions: &[FunctionRecord] = list(module, header.functions, "functions")?;
        let memories: &[MemoryPlan] = list(module, header.memories, "memories")?;
        let tables: &[TablePlan] = list(module, header.tables, "tables")?;
        let globals: &[GlobalRecord] = list(module, header.globals, "globals")?;
        let global_values: &[[u8; VALUE_SIZE as usize]] = list(module, header.global_values, "values of globals")?;
        let tags: &[U32] = list(module, header.tags, "tags")?;
        let data_segments: &[DataSegment] = list(module, header.data_segments, "data segments")?;
        let element_segments: &[ElementSegment] = list(module, header.element_segments, "element segments")?;
        if globals.len() != global_values.len() {
            return Err(damaged(format!("{} globals with {} values", globals.len(), global_values.len())));
        }
        if header.imported_functions.get() > header.functions.count.get() {
            return Err(damaged(format!("{} imported functions of {}", header.imported_functions, header.functions.count)));
        }
        let layout = ContextLayout::new(ContextCounts {
            memories: header.memories.count.get(),
            imported_memories: header.imported_memories.get(),
            globals: header.globals.count.get(),
            imported_globals: header.imported_globals.get(),
            tables: header.tables.count.get(),
            imported_tables: header.imported_tables.get(),
            imported_functions: header.imported_functions.get(),
            tags: header.tags.count.get(),
            imported_tags: header.imported_tags.get(),
            data_segments: header.data_segments.count.get(),
            element_segments: header.element_segments.count.get(),
        })
        .ok_or_else(|| damaged("an instance context would be too large".into()))?;
        let imports: &[ImportRecord] = list(module, header.imports, "imports")?;
        let imported =
            [header.imported_functions, header.imported_memories, header.imported_globals, header.imported_tables, header.imported_tags];
        if imported.into_iter().map(|count| u64::from(count.get())).sum::<u64>() != imports.len() as u64 {
            return Err(damaged(format!("{} imports, which is not the sum of their kinds", imports.len())));
        }
        let traps = contents(optional(tag::TRAPS));
        let trap_count = traps.len() / 5;
        let (trap_offsets, trap_codes) = <[U32]>::ref_from_prefix_with_elems(traps, trap_count)
            .ok()
            .filter(|(_, codes)| codes.len() == trap_count)
            .ok_or_else(|| damaged(format!("{} bytes of trap sites", traps.len())))?;
        Ok(Self {
            text,
            memory_image: optional(tag::MEMORY),
            table_image: optional(tag::TABLES),
            header,
            layout,
            types: list(module, header.types, "types")?,
            imports,
            exports: list(module, header.exports, "exports")?,
            functions,
            memories,
            tables,
            globals,
            global_values,
            tags,
            data_segments,
            element_segments,
            table_fixups: list(module, header.table_fixups, "table entries of imported functions")?,
            ranges: records(contents(optional(tag::FUNCTIONS)), "functions")?,
            trap_offsets,
            trap_codes,
            addresses: records(contents(optional(tag::ADDRESSES)), "addresses")?,
            names: records(contents(optional(tag::NAMES)), "names")?,
            call_sites: records(contents(optional(tag::CALLS)), "call sites")?,
            handlers: records(contents(optional(tag::HANDLERS)), "handlers")?,
            sites: records(contents(optional(tag::SITES)), "sites")?,
            site_values: records(contents(optional(tag::VALUES)), "values of sites")?,
            resume: found[tag::RESUME as usize].map(|section| Resume::parse(contents(section))).transpose()?,
            value_types: list(module, header.value_types, "value types")?,
            elements: list(module, header.elements, "elements")?,
            element_expressions: list(module, header.element_expressions, "element expressions")?,
            const_ops: list(module, header.const_ops, "constant instructions")?,
            memory_runs: list(module, header.memory_runs, "memory runs")?,
            module_strings: list(module, header.strings, "bytes of strings")?,
            strings: contents(optional(tag::STRINGS)),
            data: contents(optional(tag::DATA)),
            object,
        })
    }

    /// Whether code looks at the interrupt page.
    #[must_use]
    pub fn interruptible(&self) -> bool {
        self.header.flags.get() & FLAG_INTERRUPTIBLE != 0
    }

    /// Whether it is capture code, which can be frozen at every site.
    #[must_use]
    pub fn captures(&self) -> bool {
        self.header.flags.get() & FLAG_CAPTURE != 0
    }

    /// Parameters and results of a type, as numbers of [`ValueType`]s.
    ///
    /// # Errors
    /// When they are out of bounds or one is unknown.
    pub fn signature(&self, ty: &TypeRecord) -> Result<(&'a [u8], &'a [u8]), FormatError> {
        let (params, results) = (ty.params.get() as usize, ty.results.get() as usize);
        let all = params.checked_add(results).and_then(|count| self.value_types.get(ty.first.get() as usize..)?.get(..count));
        all.filter(|all| all.iter().all(|number| ValueType::from_number(*number).is_some()))
            .map(|all| all.split_at(params))
            .ok_or_else(|| damaged("a function type is out of bounds".into()))
    }

    /// The type of a function by its index.
    ///
    /// # Errors
    /// When there is no such function, or its type is out of bounds.
    pub fn type_of(&self, function: u32) -> Result<&'a TypeRecord, FormatError> {
        let record = self.functions.get(function as usize);
        record
            .and_then(|record| self.types.get(record.ty.get() as usize))
            .ok_or_else(|| damaged(format!("function {function} or its type is out of bounds")))
    }

    /// A name of an import or export.
    ///
    /// # Errors
    /// When it is out of bounds or not UTF-8.
    pub fn string(&self, range: StringRange) -> Result<&'a str, FormatError> {
        string(self.module_strings, range)
    }

    /// The export with this name.
    ///
    /// # Errors
    /// When a name that is looked at on the way is out of bounds.
    pub fn export(&self, name: &str) -> Result<Option<&'a ExportRecord>, FormatError> {
        let (mut low, mut high) = (0, self.exports.len());
        while low < high {
            let middle = low.midpoint(high);
            let export = &self.exports[middle];
            match self.string(export.name)?.cmp(name) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(export)),
            }
        }
        Ok(None)
    }

    /// The instructions of a constant expression.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn expression(&self, expression: Expression) -> Result<&'a [ConstOp], FormatError> {
        slice(self.const_ops, expression.first, expression.count, "a constant expression")
    }

    /// The runs of an initial memory.
    ///
    /// # Errors
    /// When they are out of bounds, or not ascending, or not within the memory's first size or the section.
    pub fn runs(&self, memory: &MemoryPlan) -> Result<&'a [MemoryRun], FormatError> {
        let runs = slice(self.memory_runs, memory.first_run, memory.runs, "memory runs")?;
        let mut end = 0;
        for run in runs {
            let (first, pages, offset) = (u64::from(run.first.get()), u64::from(run.pages.get()), run.offset.get());
            let contents = offset.checked_add(pages * PAGE).filter(|_| offset % PAGE == 0);
            if first < end || contents.is_none_or(|contents| contents > self.memory_image.size) {
                return Err(damaged(format!("a memory run of {pages} pages at {first} is out of order or out of bounds")));
            }
            end = first + pages;
        }
        if memory.min.get().checked_mul(crate::abi::WASM_PAGE / PAGE).is_none_or(|pages| end > pages) {
            return Err(damaged(format!("memory runs up to page {end} of a memory of {} Wasm pages", memory.min)));
        }
        Ok(runs)
    }

    /// Checks where the initial entries of a table are, and gives their range in the file in bytes.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn initial_entries(&self, table: &TablePlan) -> Result<core::ops::Range<u64>, FormatError> {
        let (offset, size) = (table.offset.get(), u64::from(table.entries.get()) * size_of::<u64>() as u64);
        let end = offset.checked_add(size).filter(|end| *end <= self.table_image.size);
        let end = end.filter(|_| offset % PAGE == 0 && u64::from(table.entries.get()) <= table.min.get());
        let end = end.ok_or_else(|| damaged(format!("{} initial table entries are out of bounds", table.entries)))?;
        Ok(self.table_image.offset + offset..self.table_image.offset + end)
    }

    /// The bytes of a data segment.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn data(&self, segment: &DataSegment) -> Result<&'a [u8], FormatError> {
        slice(self.data, segment.offset, segment.len, "a data segment")
    }

    /// The elements of an element segment.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn elements(&self, segment: &ElementSegment) -> Result<Elements<'a>, FormatError> {
        Ok(if segment.expressions.get() == 0 {
            Elements::Functions(slice(self.elements, segment.first, segment.count, "elements")?)
        } else {
            Elements::Expressions(slice(self.element_expressions, segment.first, segment.count, "element expressions")?)
        })
    }

    /// The handlers of a call site.
    ///
    /// # Errors
    /// When they are out of bounds.
    pub fn handlers(&self, site: &CallSite) -> Result<&'a [HandlerRecord], FormatError> {
        slice(self.handlers, site.first, site.count, "exception handlers")
    }

    /// The name of a function: from the module's name section, else that of an export. `None` if it has none.
    #[must_use]
    pub fn name(&self, function: u32) -> Option<&'a str> {
        let at = self.names.binary_search_by_key(&function, |name| name.function.get()).ok()?;
        string(self.strings, self.names[at].name).ok()
    }

    /// The part of the text that has the byte at `offset`.
    #[must_use]
    pub fn range(&self, offset: u32) -> Option<&'a FunctionRange> {
        let after = self.ranges.partition_point(|range| range.start.get() <= offset);
        let range = &self.ranges[after.checked_sub(1)?];
        (offset - range.start.get() < range.size.get()).then_some(range)
    }

    /// The trap of the instruction at `offset` in the text.
    #[must_use]
    pub fn trap(&self, offset: u32) -> Option<TrapCode> {
        let at = self.trap_offsets.binary_search_by_key(&offset, |site| site.get()).ok()?;
        TrapCode::from_number(*self.trap_codes.get(at)?)
    }

    /// The offset in the Wasm bytes of what the instruction at `offset` in the text was made from.
    #[must_use]
    pub fn wasm_offset(&self, offset: u32) -> Option<u32> {
        let after = self.addresses.partition_point(|record| record.code.get() <= offset);
        let record = &self.addresses[after.checked_sub(1)?];
        (record.wasm.get() != NONE).then_some(record.wasm.get())
    }

    /// The call site to which a call returns at `offset` in the text.
    #[must_use]
    pub fn call_site(&self, offset: u32) -> Option<&'a CallSite> {
        let at = self.call_sites.binary_search_by_key(&offset, |site| site.return_to.get()).ok()?;
        Some(&self.call_sites[at])
    }

    /// The site whose call returns to `offset` in the text.
    #[must_use]
    pub fn site(&self, offset: u32) -> Option<&'a SiteRecord> {
        let at = self.sites.binary_search_by_key(&offset, |site| site.return_to.get()).ok()?;
        Some(&self.sites[at])
    }

    /// Where the values of a site's layout are, in its order.
    ///
    /// # Errors
    /// When they are out of bounds, or not within the frame, or one is of an unknown type.
    pub fn site_values(&self, site: &SiteRecord) -> Result<&'a [SiteValue], FormatError> {
        let values = slice(self.site_values, site.first, site.count, "values of a site")?;
        let fits = |value: &SiteValue| {
            let end = (u32::from(value.slot.get()) + 1) * VALUE_SIZE;
            end <= site.frame.get() && value.reserved == 0 && ValueType::from_number(value.ty).is_some()
        };
        if !values.iter().all(fits) {
            return Err(damaged("a value of a site is outside of the frame or of unknown type".into()));
        }
        Ok(values)
    }
}

/// The elements of an element segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elements<'a> {
    /// Function indices, [`NONE`] for null.
    Functions(&'a [U32]),
    /// A constant expression each.
    Expressions(&'a [Expression]),
}

fn slice<'a, T>(all: &'a [T], first: U32, count: U32, what: &str) -> Result<&'a [T], FormatError> {
    all.get(first.get() as usize..)
        .and_then(|rest| rest.get(..count.get() as usize))
        .ok_or_else(|| damaged(format!("{what} at {first}, {count} long, out of bounds")))
}

fn string(bytes: &[u8], range: StringRange) -> Result<&str, FormatError> {
    let bytes = slice(bytes, range.offset, range.len, "a name")?;
    std::str::from_utf8(bytes).map_err(|_| damaged("a name is not UTF-8".into()))
}

/// Everything that a native code object holds, to be written. The fields are the sections and lists of the same names; see there.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "the records say it")]
pub struct NativeParts {
    pub text: Vec<u8>,
    pub interruptible: bool,
    pub capture: bool,
    pub start: Option<u32>,
    pub imported_functions: u32,
    pub imported_memories: u32,
    pub imported_globals: u32,
    pub imported_tables: u32,
    pub imported_tags: u32,
    pub types: Vec<TypeRecord>,
    pub value_types: Vec<u8>,
    pub imports: Vec<ImportRecord>,
    pub exports: Vec<ExportRecord>,
    pub functions: Vec<FunctionRecord>,
    pub memories: Vec<MemoryPlan>,
    pub tables: Vec<TablePlan>,
    pub globals: Vec<GlobalRecord>,
    pub global_values: Vec<[u8; VALUE_SIZE as usize]>,
    pub tags: Vec<U32>,
    pub data_segments: Vec<DataSegment>,
    pub element_segments: Vec<ElementSegment>,
    pub elements: Vec<U32>,
    pub element_expressions: Vec<Expression>,
    pub const_ops: Vec<ConstOp>,
    pub table_fixups: Vec<TableFixup>,
    pub memory_runs: Vec<MemoryRun>,
    pub module_strings: Vec<u8>,
    pub ranges: Vec<FunctionRange>,
    pub trap_offsets: Vec<U32>,
    pub trap_codes: Vec<u8>,
    pub addresses: Vec<AddressRecord>,
    pub names: Vec<NameRecord>,
    pub memory_image: Vec<u8>,
    pub table_image: Vec<u8>,
    pub data: Vec<u8>,
    pub strings: Vec<u8>,
    pub call_sites: Vec<CallSite>,
    pub handlers: Vec<HandlerRecord>,
    pub sites: Vec<SiteRecord>,
    pub site_values: Vec<SiteValue>,
    pub resume: Option<ResumeParts>,
    /// For each of `ranges` its symbol's name in `strings`.
    pub symbol_names: Vec<U32>,
}

/// What a resume object holds more than others, to be written. See [`ResumeHeader`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the records say it")]
pub struct ResumeParts {
    pub base: Digest,
    pub records: Vec<ResumeRecord>,
    pub value_types: Vec<u8>,
}

impl ResumeParts {
    fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 resume records".into()));
        let header = ResumeHeader {
            base: *self.base.as_bytes(),
            count: narrow(self.records.len())?,
            value_types: narrow(self.value_types.len())?,
            reserved: 0.into(),
        };
        Ok([header.as_bytes(), self.records.as_bytes(), &self.value_types].concat())
    }
}

impl NativeParts {
    /// Writes a code object of the module `source` under the build key `key`.
    ///
    /// # Errors
    /// When something has more than 2^32 records or bytes.
    pub fn encode(&self, source: Digest, key: Digest, cpu: CpuLevel) -> Result<Vec<u8>, FormatError> {
        let module = self.module()?;
        let traps = [self.trap_offsets.as_bytes(), &self.trap_codes].concat();
        let resume = self.resume.as_ref().map(ResumeParts::encode).transpose()?.unwrap_or_default();
        let optional: [(u32, &str, &[u8]); 13] = [
            (tag::FUNCTIONS, ".preheat.functions", self.ranges.as_bytes()),
            (tag::TRAPS, ".preheat.traps", &traps),
            (tag::ADDRESSES, ".preheat.addresses", self.addresses.as_bytes()),
            (tag::NAMES, ".preheat.names", self.names.as_bytes()),
            (tag::MEMORY, ".preheat.memory", &self.memory_image),
            (tag::TABLES, ".preheat.tables", &self.table_image),
            (tag::DATA, ".preheat.data", &self.data),
            (tag::CALLS, ".preheat.calls", self.call_sites.as_bytes()),
            (tag::HANDLERS, ".preheat.handlers", self.handlers.as_bytes()),
            (tag::SITES, ".preheat.sites", self.sites.as_bytes()),
            (tag::VALUES, ".preheat.values", self.site_values.as_bytes()),
            (tag::RESUME, ".preheat.resume", &resume),
            (tag::STRINGS, ".preheat.strings", &self.strings),
        ];
        let mut sections: Vec<(SectionKind, u32, &str, &[u8])> = vec![(SectionKind::ReadOnly, tag::MODULE, ".preheat.module", &module)];
        sections.push((SectionKind::Text, tag::TEXT, ".text", &self.text));
        for (tag, name, bytes) in optional {
            if !bytes.is_empty() {
                sections.push((SectionKind::ReadOnly, tag, name, bytes));
            }
        }
        let symbols = self.ranges.iter().zip(&self.symbol_names).map(|(range, name)| Symbol {
            name: name.get(),
            section: 1,
            offset: range.start.get().into(),
            size: range.size.get().into(),
        });
        let symbols = SymbolTable { names: sections.len() - 1, symbols: symbols.collect() };
        CodeObject::encode_with_symbols(source, key, cpu, &sections, (!self.strings.is_empty()).then_some(&symbols))
    }

    /// The section `.preheat.module`.
    fn module(&self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = vec![0; size_of::<ModuleHeader>()];
        let mut put = |content: &[u8], count: usize| {
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let narrow = |value: usize| u32::try_from(value).map(U32::new).map_err(|_| damaged("more than 2^32 bytes of tables".into()));
            let list = List { offset: narrow(bytes.len())?, count: narrow(count)? };
            bytes.extend_from_slice(content);
            Ok::<_, FormatError>(list)
        };
        let header = ModuleHeader {
            version: VERSION.into(),
            abi: ABI_VERSION.into(),
            flags: (if self.interruptible { FLAG_INTERRUPTIBLE } else { 0 } | if self.capture { FLAG_CAPTURE } else { 0 }).into(),
            start: self.start.unwrap_or(NONE).into(),
            imported_functions: self.imported_functions.into(),
            imported_memories: self.imported_memories.into(),
            imported_globals: self.imported_globals.into(),
            imported_tables: self.imported_tables.into(),
            imported_tags: self.imported_tags.into(),
            reserved: 0.into(),
            types: put(self.types.as_bytes(), self.types.len())?,
            value_types: put(&self.value_types, self.value_types.len())?,
            imports: put(self.imports.as_bytes(), self.imports.len())?,
            exports: put(self.exports.as_bytes(), self.exports.len())?,
            functions: put(self.functions.as_bytes(), self.functions.len())?,
            memories: put(self.memories.as_bytes(), self.memories.len())?,
            tables: put(self.tables.as_bytes(), self.tables.len())?,
            globals: put(self.globals.as_bytes(), self.globals.len())?,
            global_values: put(self.global_values.as_bytes(), self.global_values.len())?,
            tags: put(self.tags.as_bytes(), self.tags.len())?,
            data_segments: put(self.data_segments.as_bytes(), self.data_segments.len())?,
            element_segments: put(self.element_segments.as_bytes(), self.element_segments.len())?,
            elements: put(self.elements.as_bytes(), self.elements.len())?,
            element_expressions: put(self.element_expressions.as_bytes(), self.element_expressions.len())?,
            const_ops: put(self.const_ops.as_bytes(), self.const_ops.len())?,
            table_fixups: put(self.table_fixups.as_bytes(), self.table_fixups.len())?,
            memory_runs: put(self.memory_runs.as_bytes(), self.memory_runs.len())?,
            strings: put(&self.module_strings, self.module_strings.len())?,
        };
        bytes[..size_of::<ModuleHeader>()].copy_from_slice(header.as_bytes());
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::local_entry;
    use proptest::prelude::*;

    fn range(offset: u32, len: u32) -> StringRange {
        StringRange { offset: offset.into(), len: len.into() }
    }

    /// Two functions, the first imported; a memory, a table and a global, each with something in it.
    pub(super) fn example() -> NativeParts {
        let mut memory_image = vec![0; 8192];
        memory_image[4096] = 7;
        let mut table_image = vec![0; 4096];
        table_image[..8].copy_from_slice(&local_entry(0, 0).unwrap().to_le_bytes());
        NativeParts {
            text: vec![0xcc; 64],
            interruptible: true,
            start: Some(1),
            imported_functions: 1,
            types: vec![TypeRecord {
                first: 0.into(),
                params: 1.into(),
                results: 2.into(),
                enter: 32.into(),
                host: 48.into(),
                reserved: 0.into(),
                hash: 5.into(),
            }],
            value_types: vec![1, 2, 5],
            imports: vec![ImportRecord {
                module: range(0, 3),
                name: range(3, 1),
                kind: 0.into(),
                ty: 0.into(),
                mutable: 0.into(),
                reserved: 0.into(),
                min: 0.into(),
                max: 0.into(),
            }],
            exports: vec![
                ExportRecord { name: range(3, 1), kind: 0.into(), index: 1.into() },
                ExportRecord { name: range(4, 2), kind: 2.into(), index: 0.into() },
            ],
            functions: vec![FunctionRecord { code: NONE.into(), ty: 0.into() }, FunctionRecord { code: 0.into(), ty: 0.into() }],
            memories: vec![MemoryPlan { min: 1.into(), max: u64::MAX.into(), first_run: 0.into(), runs: 2.into() }],
            memory_runs: vec![
                MemoryRun { first: 0.into(), pages: 1.into(), offset: 0.into() },
                MemoryRun { first: 15.into(), pages: 1.into(), offset: 4096.into() },
            ],
            memory_image,
            tables: vec![TablePlan { element: 6.into(), entries: 1.into(), offset: 0.into(), min: 2.into(), max: 2.into() }],
            table_image,
            table_fixups: vec![TableFixup { table: 0.into(), index: 1.into(), function: 0.into() }],
            globals: vec![GlobalRecord { ty: 1.into(), mutable: 1.into(), init: Expression { first: 0.into(), count: 1.into() } }],
            global_values: vec![[0; 16]],
            const_ops: vec![ConstOp { kind: 1.into(), index: 0.into(), value: [3; 16] }],
            data_segments: vec![DataSegment {
                mode: 0.into(),
                memory: 0.into(),
                at: Expression::default(),
                offset: 1.into(),
                len: 2.into(),
            }],
            data: b"abc".to_vec(),
            element_segments: vec![ElementSegment {
                mode: 0.into(),
                table: 0.into(),
                at: Expression::default(),
                element: 6.into(),
                expressions: 0.into(),
                first: 0.into(),
                count: 2.into(),
            }],
            elements: vec![1.into(), NONE.into()],
            module_strings: b"envfgh".to_vec(),
            ranges: vec![FunctionRange {
                start: 0.into(),
                size: 30.into(),
                kind: 0.into(),
                index: 1.into(),
                body: 100.into(),
                body_size: 20.into(),
            }],
            trap_offsets: vec![3.into(), 9.into()],
            trap_codes: vec![1, 2],
            addresses: vec![AddressRecord { code: 0.into(), wasm: 101.into() }, AddressRecord { code: 20.into(), wasm: NONE.into() }],
            names: vec![NameRecord { function: 1.into(), name: range(1, 4) }],
            strings: b"\0main\0".to_vec(),
            symbol_names: vec![1.into()],
            call_sites: vec![CallSite { return_to: 12.into(), frame_size: 32.into(), first: 0.into(), count: 1.into() }],
            handlers: vec![HandlerRecord { tag: NONE.into(), target: 16.into(), context: 8.into() }],
            capture: true,
            sites: vec![SiteRecord {
                return_to: 12.into(),
                function: 1.into(),
                site: 105.into(),
                frame: 48.into(),
                first: 1.into(),
                count: 2.into(),
            }],
            site_values: [(0, 2), (0, 1), (2, 5)].map(|(slot, ty)| SiteValue { slot: U16::new(slot), ty, reserved: 0 }).to_vec(),
            ..NativeParts::default()
        }
    }

    /// What wakes a frozen call of the first function by the second.
    fn resume_example() -> NativeParts {
        let record = |function: u32, site: u32, callee: u32, first: u32, count: u32| ResumeRecord {
            function: function.into(),
            site: site.into(),
            code: (function * 16).into(),
            ty: 0.into(),
            callee: callee.into(),
            first: first.into(),
            count: count.into(),
        };
        let records = vec![record(0, NONE, NONE, 0, 1), record(1, 105, 0, 1, 2), record(1, 108, 0, 3, 0)];
        NativeParts {
            resume: Some(ResumeParts { base: Digest::of(b"base"), records, value_types: vec![1, 1, 5] }),
            text: vec![0xcc; 64],
            ..NativeParts::default()
        }
    }

    fn encode(parts: &NativeParts) -> Vec<u8> {
        parts.encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3).unwrap()
    }

    #[test]
    fn leads_back() {
        let bytes = encode(&example());
        let code = NativeCode::parse(&bytes).unwrap();
        assert_eq!((code.object.source, code.object.cpu, code.text.size), (Digest::of(b"wasm"), CpuLevel::V3, 64));
        assert!(code.interruptible());
        assert_eq!(code.header.start.get(), 1);
        assert_eq!(code.signature(code.type_of(1).unwrap()), Ok((&[1u8][..], &[2u8, 5][..])));
        assert!(code.type_of(2).is_err());
        assert_eq!(code.string(code.imports[0].module), Ok("env"));
        assert_eq!(code.export("f").unwrap().map(|export| export.index.get()), Some(1));
        assert_eq!(code.export("gh").unwrap().map(|export| export.kind.get()), Some(2));
        assert_eq!(["", "a", "fa", "z"].map(|name| code.export(name).unwrap()), [None; 4]);
        let runs = code.runs(&code.memories[0]).unwrap();
        assert_eq!((runs.len(), bytes[usize::try_from(code.memory_image.offset + runs[1].offset.get()).unwrap()]), (2, 7));
        let entries = code.initial_entries(&code.tables[0]).unwrap();
        assert_eq!((entries.start, entries.end - entries.start), (code.table_image.offset, 8));
        assert_eq!(code.expression(code.globals[0].init).unwrap(), [ConstOp { kind: 1.into(), index: 0.into(), value: [3; 16] }]);
        assert_eq!(code.data(&code.data_segments[0]), Ok(&b"bc"[..]));
        assert_eq!(code.elements(&code.element_segments[0]), Ok(Elements::Functions(&[1.into(), NONE.into()])));
        assert_eq!((code.name(1), code.name(0)), (Some("main"), None));
        assert_eq!((code.range(29).map(|range| range.index.get()), code.range(30)), (Some(1), None));
        assert_eq!((code.trap(3), code.trap(9)), (Some(TrapCode::Unreachable), Some(TrapCode::MemoryOutOfBounds)));
        assert_eq!((code.trap(4), code.wasm_offset(19), code.wasm_offset(20)), (None, Some(101), None));
        let site = code.call_site(12).unwrap();
        assert_eq!(code.handlers(site).unwrap()[0].target.get(), 16);
        assert_eq!(code.layout.size, 32 + 16 + 16 + 16 + 16 + 16);
        let site = code.site(12).unwrap();
        let values: Vec<_> = code.site_values(site).unwrap().iter().map(|value| (value.slot.get(), value.ty)).collect();
        assert_eq!((site.site.get(), values, code.captures()), (105, vec![(0, 1), (2, 5)], true));
        assert!(code.site(11).is_none() && code.resume.is_none());
    }

    #[test]
    fn a_resume_object_leads_back() {
        let bytes = encode(&resume_example());
        let code = NativeCode::parse(&bytes).unwrap();
        assert!(!code.captures());
        let resume = code.resume.unwrap();
        assert_eq!((resume.base, resume.records.len()), (Digest::of(b"base"), 3));
        let record = resume.find(1, 105).unwrap();
        assert_eq!((record.code.get(), resume.value_types(record)), (16, Ok(&[1u8, 5][..])));
        assert_eq!(resume.value_types(resume.find(0, NONE).unwrap()), Ok(&[1u8][..]));
        assert_eq!(resume.value_types(resume.find(1, 108).unwrap()), Ok(&[][..]));
        assert!(resume.find(1, 106).is_none() && resume.find(2, NONE).is_none());
    }

    #[test]
    fn what_a_resume_object_claims_must_be_there() {
        let with = |change: &dyn Fn(&mut ResumeParts)| {
            let mut parts = resume_example();
            change(parts.resume.as_mut().unwrap());
            encode(&parts)
        };
        let bytes = with(&|resume| resume.records[1].first = 2.into());
        let resume = NativeCode::parse(&bytes).unwrap().resume.unwrap();
        assert!(resume.value_types(&resume.records[1]).is_err());
        let bytes = with(&|resume| resume.value_types[0] = 9);
        let resume = NativeCode::parse(&bytes).unwrap().resume.unwrap();
        assert!(resume.value_types(&resume.records[0]).is_err());
        let mut bytes = with(&|_| ());
        let section = NativeCode::parse(&bytes).unwrap().object.sections.iter().find(|section| section.tag == tag::RESUME).unwrap().offset;
        let at = usize::try_from(section).unwrap();
        bytes[at + 32] += 1;
        assert!(NativeCode::parse(&bytes).unwrap_err().to_string().contains("4 resume records"));
    }

    #[test]
    fn records_have_the_sizes_that_the_specification_gives() {
        assert_eq!((size_of::<ModuleHeader>(), size_of::<List>()), (184, 8));
        assert_eq!((size_of::<TypeRecord>(), size_of::<ImportRecord>(), size_of::<ExportRecord>()), (32, 48, 16));
        assert_eq!((size_of::<FunctionRecord>(), size_of::<MemoryPlan>(), size_of::<MemoryRun>()), (8, 24, 16));
        assert_eq!((size_of::<TablePlan>(), size_of::<TableFixup>(), size_of::<GlobalRecord>()), (32, 12, 12));
        assert_eq!((size_of::<ConstOp>(), size_of::<DataSegment>(), size_of::<ElementSegment>()), (24, 24, 32));
        assert_eq!((size_of::<FunctionRange>(), size_of::<AddressRecord>(), size_of::<NameRecord>()), (24, 8, 12));
        assert_eq!((size_of::<CallSite>(), size_of::<HandlerRecord>()), (16, 12));
        assert_eq!((size_of::<SiteRecord>(), size_of::<SiteValue>()), (24, 4));
        assert_eq!((size_of::<ResumeHeader>(), size_of::<ResumeRecord>()), (48, 28));
        let offsets = [
            core::mem::offset_of!(ModuleHeader, types),
            core::mem::offset_of!(ModuleHeader, memories),
            core::mem::offset_of!(ModuleHeader, data_segments),
            core::mem::offset_of!(ModuleHeader, strings),
        ];
        assert_eq!(offsets, [40, 80, 120, 176]);
    }

    #[test]
    fn an_empty_module_leads_back() {
        let bytes = encode(&NativeParts::default());
        let code = NativeCode::parse(&bytes).unwrap();
        assert_eq!((code.functions.len(), code.ranges.len(), code.header.start.get(), code.interruptible()), (0, 0, NONE, false));
        assert_eq!((code.name(0), code.range(0), code.trap(0), code.wasm_offset(0)), (None, None, None, None));
    }

    #[test]
    fn tools_see_the_functions() {
        use object::{Object as _, ObjectSymbol as _};
        let bytes = encode(&example());
        let file = object::File::parse(&*bytes).unwrap();
        let symbol = file.symbols().next().unwrap();
        assert_eq!((symbol.name(), symbol.size()), (Ok("main"), 30));
    }

    #[test]
    fn names_what_is_wrong() {
        let error = |change: &dyn Fn(&mut NativeParts)| {
            let mut parts = example();
            change(&mut parts);
            NativeCode::parse(&encode(&parts)).unwrap_err().to_string()
        };
        assert!(error(&|parts| parts.imported_functions = 3).contains("3 imported functions of 2"));
        assert!(error(&|parts| parts.imported_globals = 1).contains("1 imports"));
        assert!(error(&|parts| parts.global_values.clear()).contains("1 globals with 0 values"));
        assert!(error(&|parts| parts.trap_codes.push(1)).contains("trap sites"));
        let bytes = encode(&example());
        let module = NativeCode::parse(&bytes).unwrap().object.sections[0].offset;
        let at = usize::try_from(module).unwrap();
        let with = |offset: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at + offset] = value;
            NativeCode::parse(&bytes).unwrap_err()
        };
        assert_eq!(with(0, 9), FormatError::Version { format: FORMAT, found: 9, supported: VERSION });
        assert_eq!(with(4, 9), FormatError::Version { format: "native ABI", found: 9, supported: ABI_VERSION });
        assert!(with(8, 4).to_string().contains("flags"));
        assert!(with(43, 0xff).to_string().contains("types at"));

        let mut parts = example();
        parts.memory_runs[1].first = 16.into();
        parts.tables[0].entries = 3.into();
        let bytes = encode(&parts);
        let code = NativeCode::parse(&bytes).unwrap();
        assert!(code.runs(&code.memories[0]).is_err() && code.initial_entries(&code.tables[0]).is_err());

        let changes: [&dyn Fn(&mut NativeParts); 4] = [
            &|parts| parts.sites[0].frame = 47.into(),
            &|parts| parts.sites[0].first = 2.into(),
            &|parts| parts.site_values[1].ty = 9,
            &|parts| parts.site_values[1].reserved = 1,
        ];
        for change in changes {
            let mut parts = example();
            change(&mut parts);
            let bytes = encode(&parts);
            let code = NativeCode::parse(&bytes).unwrap();
            assert!(code.site_values(&code.sites[0]).is_err());
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_can_be_read(changes in prop::collection::vec((0usize..1 << 16, any::<u8>()), 1..6)) {
            for parts in [example(), resume_example()] {
                let mut bytes = encode(&parts);
                for (at, value) in &changes {
                    let len = bytes.len();
                    bytes[at % len] = *value;
                }
                walk(&bytes);
            }
        }
    }

    /// Follows everything in a code object that might be damaged.
    fn walk(bytes: &[u8]) {
        let Ok(code) = NativeCode::parse(bytes) else { return };
        for ty in code.types {
            let _ = code.signature(ty);
        }
        for function in 0..3 {
            let _ = (code.type_of(function), code.name(function));
        }
        for import in code.imports {
            let _ = (code.string(import.module), code.string(import.name));
        }
        let _ = code.export("f");
        for memory in code.memories {
            for run in code.runs(memory).unwrap_or_default() {
                assert!(run.offset.get() + u64::from(run.pages.get()) * PAGE <= code.memory_image.size);
            }
        }
        for table in code.tables {
            if let Ok(range) = code.initial_entries(table) {
                assert!(range.end <= bytes.len() as u64);
            }
        }
        for global in code.globals {
            let _ = code.expression(global.init);
        }
        for segment in code.data_segments {
            let _ = code.data(segment);
        }
        for segment in code.element_segments {
            let _ = code.elements(segment);
        }
        for site in code.call_sites {
            let _ = code.handlers(site);
        }
        for site in code.sites {
            for value in code.site_values(site).unwrap_or_default() {
                assert!((u32::from(value.slot.get()) + 1) * VALUE_SIZE <= site.frame.get());
            }
        }
        if let Some(resume) = &code.resume {
            for record in resume.records {
                let _ = (resume.value_types(record), resume.find(record.function.get(), record.site.get()));
            }
        }
        for offset in [0, 3, 12, 40, u32::MAX] {
            let _ = (code.site(offset), code.range(offset), code.trap(offset), code.wasm_offset(offset), code.call_site(offset));
        }
    }
}
