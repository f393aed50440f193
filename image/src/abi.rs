//! The contract between compiled code and the runtime that calls it: the *native ABI*. The compiler emits loads and stores at these offsets
//! and calls with these signatures, the runtime lays out memory accordingly; both take every number from here.
//!
//! x86-64 Linux. All fields are little-endian and naturally aligned. An *address* is a `u64` here, since this crate holds no pointers.
//!
//! # The instance context
//! Every guest function's first parameter is the address of its *instance context*, a multiple of [`PAGE`]. A context begins with a
//! [`ContextHeader`]; the arrays behind it have the places that [`ContextLayout`] gives. The page that ends where the context begins (at
//! [`INTERRUPT_OFFSET`]) is the *interrupt page*: normally readable, made inaccessible to interrupt. Code looks there with an atomic
//! load in each loop header and on entry to each function that calls others; a fault there has the trap code [`TrapCode::Interrupt`].
//! What lies behind [`ContextLayout::size`] is the runtime's. Code writes to globals, to the dropped-segment flags and to nothing else.
//!
//! Linked instances share a [`StoreRecord`], in which all that concerns the running thread is: the stack limit and how to reach the host.
//!
//! # Calls
//! Guest functions use Cranelift's `tail` calling convention: the context, then the parameters of the Wasm signature. References are
//! 64-bit integers. Text holds no absolute address: code of the same code object is called directly, everything else through the context.
//! All functions keep frame pointers: `[rbp]` is the caller's frame pointer and `[rbp + 8]` the return address.
//!
//! The border has two trampolines for each signature that crosses it, see [`crate::native::TypeRecord`]:
//! - *enter* (host to guest), `extern "sysv64" fn(context, code, values)`: `code` is the address of a guest function of this signature,
//!   `context` what is passed to it, `values` the address of [`VALUE_SIZE`]-byte slots, at least as many as there are parameters and as
//!   there are results. It reads the parameters from the slots, calls, and leaves the results there. It is to run on the guest's stack.
//! - *host* (guest to host), a guest function whose context parameter is the address of a [`HostFunction`]. It checks the stack limit,
//!   saves its frame pointer in [`StoreRecord::exit_frame`], writes the parameters to slots on the stack, calls [`HostFunction::entry`],
//!   raises the trap that it may return, and reads the results from the slots.
//!
//! An import of another instance's function is just that function's code and context.
//!
//! # Library calls
//! What is done by the runtime on behalf of an instruction is called through [`StoreRecord::libcalls`], see [`Libcall`]. Code calls a stub
//! in the text (tail convention), which checks the stack limit, saves its frame pointer in [`StoreRecord::exit_frame`] and makes the call.
//!
//! # Freezing and waking
//! Before each call of a `call` or `call_indirect`, *capture code* stores what is live into its frame, see [`crate::native::SiteRecord`], so
//! that a host function can find the state of all frames from [`StoreRecord::exit_frame`] to the enter trampoline by frame pointers and
//! return addresses.
//!
//! A *resume function* is a `tail` function `fn(context, frame) -> results of its Wasm function` in the text of a resume object. `frame` is
//! the address of its [`WakeFrame`]. It begins behind its site: it loads its values from the frame, calls the code of the next wake frame
//! in place of what the site calls, and goes on with the results. The last wake frame is that of an imported function; its code calls the
//! import with the values of the frame, and leaves no frame of its own. Resume functions reach everything of the module through
//! the context, which is that of an instance of the base; [`ContextHeader::text_base`] is the base's text. The enter trampoline for the
//! first one is in the resume object.
//!
//! # Values
//! A value slot or a global has its value in the first bytes: i32 and f32 in 4, i64, f64 and references in 8, v128 in 16. The others
//! may hold anything; a reader ignores them.
//!
//! A *funcref value* (parameter, local, global, operand) is 0 for null, else the address of a [`FuncRef`]. An *externref value* is 0 for
//! null, else whatever the runtime wants it to be.
//!
//! # Tables
//! A table of externrefs holds the values. A table of functions holds *entries* of 64 bits:
//! - 0: null.
//! - Lowest bit set, a *local entry*: a function of the instance that owns the table. Bits 1 to 31 are the number of its type in
//!   that instance's code object, bits 32 to 63 the offset of its code in that text. See [`local_entry`].
//! - Otherwise: the address of a [`FuncRef`].
//!
//! So the initial entries of a table are the same bytes for every instance. A local entry means something only in a table of its owner:
//! who copies it to another owner's table makes a [`FuncRef`] of it.
//!
//! # Stack
//! The guest runs on a stack of its own with a guard below. Guest code does not compare the stack pointer: it touches each page of a large
//! frame in turn, and runs into the guard. A fault there is a stack overflow, whatever the trap table says of that instruction.

use core::mem::{offset_of, size_of};

/// Version of this contract. Code of another version must not be run.
pub const ABI_VERSION: u32 = 1;

/// Page size in bytes.
pub const PAGE: u64 = 4096;

/// Where the interrupt page is, relative to the context.
pub const INTERRUPT_OFFSET: i32 = -4096;

/// Size of a page of a Wasm memory in bytes.
pub const WASM_PAGE: u64 = 65536;

/// Address space from the base of a memory that holds nothing else: every address that a 32-bit index can give.
pub const MEMORY_RESERVATION: u64 = 1 << 32;

/// Inaccessible address space behind [`MEMORY_RESERVATION`]. Code does not check accesses with a constant offset whose last byte is
/// at most this far behind the index; it checks the others against the reservation.
pub const MEMORY_GUARD: u64 = 32 << 20;

/// Size in bytes of a slot in the arrays through which trampolines pass values, and of a global. Slots are aligned to it.
pub const VALUE_SIZE: u32 = 16;

/// The smallest guard below a guest stack in bytes: code touches a frame's pages in steps of [`PAGE`].
pub const STACK_GUARD: u64 = PAGE;

/// No function, no start function, no trampoline, no maximum: "none" in 32-bit fields.
pub const NONE: u32 = u32::MAX;

/// The front of an instance context.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ContextHeader {
    /// Address of the first byte of the code object's text.
    pub text_base: u64,
    /// Address of an array of `u32`, one for each type of the code object: its process-wide number. Two types of any code objects have the
    /// same number if and only if they are equal.
    pub type_ids: u64,
    /// Address of the [`StoreRecord`].
    pub store: u64,
    /// The runtime's; code does not touch it.
    pub runtime: u64,
}

/// A memory. Its base never changes while the memory lives, so code loads it once.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MemoryRecord {
    /// Address of the first byte.
    pub base: u64,
    /// Current size in bytes, a multiple of [`WASM_PAGE`].
    pub length: u64,
}

/// A table. Its base never changes while the table lives: address space for its growth is reserved.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct TableRecord {
    /// Address of the first entry.
    pub base: u64,
    /// Current number of entries.
    pub length: u64,
}

/// A table of another instance or of the host.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ImportedTable {
    /// Address of the owner's [`TableRecord`].
    pub record: u64,
    /// The owner's context. For a table of the host, in which there are no local entries, the address of any readable
    /// [`ContextHeader`].
    pub context: u64,
}

/// An imported function.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ImportedFunction {
    /// Address of its code: a guest function of another instance, or a host trampoline.
    pub code: u64,
    /// What is passed as its context: that instance's context, or a [`HostFunction`].
    pub context: u64,
}

/// What a funcref value points to. Aligned to 8. The runtime may keep more behind it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct FuncRef {
    /// Address of the code.
    pub code: u64,
    /// What is passed as its context.
    pub context: u64,
    /// Process-wide number of its type, as in [`ContextHeader::type_ids`].
    pub type_id: u32,
    /// The runtime's: for example the index of the function in its instance.
    pub index: u32,
}

/// What a host trampoline gets as its context. The runtime may keep more behind it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct HostFunction {
    /// Address of an `extern "sysv64" fn(function: *mut HostFunction, values: *mut [u8; 16]) -> u64`. The values are the parameters on
    /// entry, and the results when it returns 0. Another number is the [`TrapCode`] to raise.
    pub entry: u64,
    /// Address of the [`StoreRecord`].
    pub store: u64,
    /// The runtime's: for example the context of the instance that imports it.
    pub context: u64,
    /// The runtime's.
    pub runtime: u64,
}

/// What linked instances have in common. The runtime may keep more behind it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct StoreRecord {
    /// The lowest stack pointer with which the host may be called. Below it, host trampolines and libcall stubs trap.
    pub stack_limit: u64,
    /// Frame pointer of the host trampoline or stub through which the guest last called the host. Its return address lies in a guest
    /// function, and from it the frames of the guest can be followed up to the enter trampoline.
    pub exit_frame: u64,
    /// Address of an `extern "sysv64" fn(store: *mut StoreRecord, code: u64) -> !`, which ends the call of the guest with a trap. It is
    /// called on the guest's stack with `exit_frame` set, and drops the frames of the guest as they are: they own nothing.
    pub raise: u64,
    /// Addresses of the library calls, by [`Libcall::number`].
    pub libcalls: [u64; Libcall::ALL.len()],
}

/// The front of what a resume function takes its values from. Behind it is a slot of [`VALUE_SIZE`] bytes for each value of the site layout,
/// or for each parameter of the imported function, in order; directly behind them the wake frame of what the site called. Aligned to
/// [`VALUE_SIZE`]. Code only reads it, and is done with it when it makes the call.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct WakeFrame {
    /// Address of the code of the resume function.
    pub code: u64,
    /// Size in bytes with all slots: how far the next wake frame is.
    pub size: u64,
}

/// Offsets of fields of records, as code needs them.
pub mod offset {
    use super::*;

    /// Of a field whose offset is known to be small.
    const fn of(offset: usize) -> i32 {
        assert!(offset < 4096, "records are small");
        #[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "checked above")]
        let offset = offset as i32;
        offset
    }

    /// [`ContextHeader::text_base`].
    pub const CONTEXT_TEXT_BASE: i32 = of(offset_of!(ContextHeader, text_base));
    /// [`ContextHeader::type_ids`].
    pub const CONTEXT_TYPE_IDS: i32 = of(offset_of!(ContextHeader, type_ids));
    /// [`ContextHeader::store`].
    pub const CONTEXT_STORE: i32 = of(offset_of!(ContextHeader, store));
    /// [`MemoryRecord::base`].
    pub const MEMORY_BASE: i32 = of(offset_of!(MemoryRecord, base));
    /// [`MemoryRecord::length`].
    pub const MEMORY_LENGTH: i32 = of(offset_of!(MemoryRecord, length));
    /// [`TableRecord::base`].
    pub const TABLE_BASE: i32 = of(offset_of!(TableRecord, base));
    /// [`TableRecord::length`].
    pub const TABLE_LENGTH: i32 = of(offset_of!(TableRecord, length));
    /// [`ImportedTable::record`].
    pub const IMPORTED_TABLE_RECORD: i32 = of(offset_of!(ImportedTable, record));
    /// [`ImportedTable::context`].
    pub const IMPORTED_TABLE_CONTEXT: i32 = of(offset_of!(ImportedTable, context));
    /// [`ImportedFunction::code`].
    pub const IMPORTED_FUNCTION_CODE: i32 = of(offset_of!(ImportedFunction, code));
    /// [`ImportedFunction::context`].
    pub const IMPORTED_FUNCTION_CONTEXT: i32 = of(offset_of!(ImportedFunction, context));
    /// [`FuncRef::code`].
    pub const FUNC_REF_CODE: i32 = of(offset_of!(FuncRef, code));
    /// [`FuncRef::context`].
    pub const FUNC_REF_CONTEXT: i32 = of(offset_of!(FuncRef, context));
    /// [`FuncRef::type_id`].
    pub const FUNC_REF_TYPE_ID: i32 = of(offset_of!(FuncRef, type_id));
    /// [`HostFunction::entry`].
    pub const HOST_FUNCTION_ENTRY: i32 = of(offset_of!(HostFunction, entry));
    /// [`HostFunction::store`].
    pub const HOST_FUNCTION_STORE: i32 = of(offset_of!(HostFunction, store));
    /// [`StoreRecord::stack_limit`].
    pub const STORE_STACK_LIMIT: i32 = of(offset_of!(StoreRecord, stack_limit));
    /// [`StoreRecord::exit_frame`].
    pub const STORE_EXIT_FRAME: i32 = of(offset_of!(StoreRecord, exit_frame));
    /// [`StoreRecord::raise`].
    pub const STORE_RAISE: i32 = of(offset_of!(StoreRecord, raise));

    /// [`WakeFrame::code`].
    pub const WAKE_FRAME_CODE: i32 = of(offset_of!(WakeFrame, code));
    /// The first value behind a [`WakeFrame`].
    pub const WAKE_FRAME_VALUES: i32 = of(size_of::<WakeFrame>());

    /// The entry of `libcall` in [`StoreRecord::libcalls`].
    #[must_use]
    pub const fn store_libcall(libcall: Libcall) -> i32 {
        of(offset_of!(StoreRecord, libcalls) + libcall.number() as usize * size_of::<u64>())
    }
}

/// How many there are of everything that has a place in a context. "Own" means defined by the module itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ContextCounts {
    /// Own memories.
    pub memories: u32,
    /// Imported memories.
    pub imported_memories: u32,
    /// Own globals.
    pub globals: u32,
    /// Imported globals.
    pub imported_globals: u32,
    /// Own tables.
    pub tables: u32,
    /// Imported tables.
    pub imported_tables: u32,
    /// Imported functions.
    pub imported_functions: u32,
    /// Own tags.
    pub tags: u32,
    /// Imported tags.
    pub imported_tags: u32,
    /// Data segments.
    pub data_segments: u32,
    /// Element segments.
    pub element_segments: u32,
}

impl ContextCounts {
    /// Nothing.
    pub const NONE: Self = Self {
        memories: 0,
        imported_memories: 0,
        globals: 0,
        imported_globals: 0,
        tables: 0,
        imported_tables: 0,
        imported_functions: 0,
        tags: 0,
        imported_tags: 0,
        data_segments: 0,
        element_segments: 0,
    };
}

/// Offsets in a context of its arrays, in bytes from its beginning. Each array is in the order of the module's index space, imports and
/// own things counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextLayout {
    /// How many elements the arrays have.
    pub counts: ContextCounts,
    /// Own memories: [`MemoryRecord`].
    pub memories: u32,
    /// Own globals: [`VALUE_SIZE`] bytes each, aligned to it.
    pub globals: u32,
    /// Imported memories: addresses of the owners' [`MemoryRecord`]s.
    pub imported_memories: u32,
    /// Imported globals: addresses of the owners' globals.
    pub imported_globals: u32,
    /// Own tables: [`TableRecord`].
    pub tables: u32,
    /// Imported tables: [`ImportedTable`].
    pub imported_tables: u32,
    /// Imported functions: [`ImportedFunction`].
    pub imported_functions: u32,
    /// Own tags: 8 bytes each that are the runtime's. A tag's identity is the address of this place.
    pub tags: u32,
    /// Imported tags: addresses of the owners' tags, that is, their identities.
    pub imported_tags: u32,
    /// One byte for each data segment: not 0 once it is dropped. Written by `data.drop` in the code, read by the runtime, which sets
    /// it for active segments when they are initialised.
    pub dropped_data: u32,
    /// The same for element segments.
    pub dropped_elements: u32,
    /// Size of what the code knows of, a multiple of [`VALUE_SIZE`].
    pub size: u32,
}

impl ContextLayout {
    /// The largest context in bytes: Cranelift's offsets are signed 32-bit numbers.
    pub const MAX_SIZE: u32 = i32::MAX as u32 & !(VALUE_SIZE - 1);

    /// The layout of a module that has nothing.
    pub const EMPTY: Self = {
        // The header's size.
        let end = 32;
        assert!(end as usize == size_of::<ContextHeader>());
        Self {
            counts: ContextCounts::NONE,
            memories: end,
            globals: end,
            imported_memories: end,
            imported_globals: end,
            tables: end,
            imported_tables: end,
            imported_functions: end,
            tags: end,
            imported_tags: end,
            dropped_data: end,
            dropped_elements: end,
            size: end,
        }
    };

    /// Where everything is. `None` if it is more than [`Self::MAX_SIZE`].
    #[must_use]
    pub fn new(counts: ContextCounts) -> Option<Self> {
        let mut end = size_of::<ContextHeader>() as u64;
        let mut place = |count: u32, size: usize| {
            let at = end.next_multiple_of(size.min(VALUE_SIZE as usize) as u64);
            // At most eleven arrays of 2^32 elements of 16 bytes: no overflow.
            end = at + u64::from(count) * size as u64;
            at
        };
        let memories = place(counts.memories, size_of::<MemoryRecord>());
        let globals = place(counts.globals, VALUE_SIZE as usize);
        let imported_memories = place(counts.imported_memories, 8);
        let imported_globals = place(counts.imported_globals, 8);
        let tables = place(counts.tables, size_of::<TableRecord>());
        let imported_tables = place(counts.imported_tables, size_of::<ImportedTable>());
        let imported_functions = place(counts.imported_functions, size_of::<ImportedFunction>());
        let tags = place(counts.tags, 8);
        let imported_tags = place(counts.imported_tags, 8);
        let dropped_data = place(counts.data_segments, 1);
        let dropped_elements = place(counts.element_segments, 1);
        let size = u32::try_from(end.next_multiple_of(u64::from(VALUE_SIZE))).ok().filter(|size| *size <= Self::MAX_SIZE)?;
        // All are below `size`.
        let narrow = |offset: u64| u32::try_from(offset).ok();
        Some(Self {
            counts,
            memories: narrow(memories)?,
            globals: narrow(globals)?,
            imported_memories: narrow(imported_memories)?,
            imported_globals: narrow(imported_globals)?,
            tables: narrow(tables)?,
            imported_tables: narrow(imported_tables)?,
            imported_functions: narrow(imported_functions)?,
            tags: narrow(tags)?,
            imported_tags: narrow(imported_tags)?,
            dropped_data: narrow(dropped_data)?,
            dropped_elements: narrow(dropped_elements)?,
            size,
        })
    }

    /// Where the `own`-th own memory is.
    #[must_use]
    pub fn memory(&self, own: u32) -> Option<u32> {
        place(self.memories, own, self.counts.memories, size_of::<MemoryRecord>())
    }

    /// Where the address of the record of the `import`-th imported memory is.
    #[must_use]
    pub fn imported_memory(&self, import: u32) -> Option<u32> {
        place(self.imported_memories, import, self.counts.imported_memories, 8)
    }

    /// Where the `own`-th own global is.
    #[must_use]
    pub fn global(&self, own: u32) -> Option<u32> {
        place(self.globals, own, self.counts.globals, VALUE_SIZE as usize)
    }

    /// Where the address of the `import`-th imported global is.
    #[must_use]
    pub fn imported_global(&self, import: u32) -> Option<u32> {
        place(self.imported_globals, import, self.counts.imported_globals, 8)
    }

    /// Where the `own`-th own table is.
    #[must_use]
    pub fn table(&self, own: u32) -> Option<u32> {
        place(self.tables, own, self.counts.tables, size_of::<TableRecord>())
    }

    /// Where the `import`-th [`ImportedTable`] is.
    #[must_use]
    pub fn imported_table(&self, import: u32) -> Option<u32> {
        place(self.imported_tables, import, self.counts.imported_tables, size_of::<ImportedTable>())
    }

    /// Where the `import`-th [`ImportedFunction`] is.
    #[must_use]
    pub fn imported_function(&self, import: u32) -> Option<u32> {
        place(self.imported_functions, import, self.counts.imported_functions, size_of::<ImportedFunction>())
    }

    /// Where the `own`-th own tag is.
    #[must_use]
    pub fn tag(&self, own: u32) -> Option<u32> {
        place(self.tags, own, self.counts.tags, 8)
    }

    /// Where the identity of the `import`-th imported tag is.
    #[must_use]
    pub fn imported_tag(&self, import: u32) -> Option<u32> {
        place(self.imported_tags, import, self.counts.imported_tags, 8)
    }

    /// Where the flag of a data segment is.
    #[must_use]
    pub fn dropped_data(&self, segment: u32) -> Option<u32> {
        place(self.dropped_data, segment, self.counts.data_segments, 1)
    }

    /// Where the flag of an element segment is.
    #[must_use]
    pub fn dropped_element(&self, segment: u32) -> Option<u32> {
        place(self.dropped_elements, segment, self.counts.element_segments, 1)
    }
}

/// The place of element `index` of an array of `count` elements at `base`.
fn place(base: u32, index: u32, count: u32, size: usize) -> Option<u32> {
    (index < count).then_some(())?;
    base.checked_add(index.checked_mul(u32::try_from(size).ok()?)?)
}

/// Bit 0 of a table entry: it is local.
pub const LOCAL_TAG: u64 = 1;
/// The largest type number that a local entry can have.
pub const MAX_TYPE: u32 = (1 << 31) - 1;

/// The table entry of a function of the table's owner, of the type with number `ty` in its code object, with its code at `offset` in its
/// text. `None` if the type number is more than [`MAX_TYPE`].
#[must_use]
pub const fn local_entry(offset: u32, ty: u32) -> Option<u64> {
    if ty > MAX_TYPE { None } else { Some((offset as u64) << 32 | (ty as u64) << 1 | LOCAL_TAG) }
}

/// What a table entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// No function.
    Null,
    /// A function of the table's owner.
    Local {
        /// Where its code is in the text.
        offset: u32,
        /// Number of its type.
        ty: u32,
    },
    /// The address of a [`FuncRef`].
    Reference(u64),
}

impl Entry {
    /// Reads an entry.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is asked for")]
    pub const fn of(entry: u64) -> Self {
        if entry == 0 {
            Self::Null
        } else if entry & LOCAL_TAG != 0 {
            Self::Local { offset: (entry >> 32) as u32, ty: entry as u32 >> 1 }
        } else {
            Self::Reference(entry)
        }
    }
}

/// Why the guest was stopped. The numbers are in trap tables and are what library calls and host functions return; 0 is "no trap".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TrapCode {
    /// An `unreachable` was executed.
    Unreachable = 1,
    /// An access beyond the end of a memory.
    MemoryOutOfBounds = 2,
    /// An access beyond the end of a table.
    TableOutOfBounds = 3,
    /// An indirect call of a null entry.
    NullEntry = 4,
    /// An indirect call of a function of another type.
    BadSignature = 5,
    /// A null reference where a function or exception is needed.
    NullReference = 6,
    /// An integer result that does not fit: division of the smallest by minus one, or a conversion out of range.
    IntegerOverflow = 7,
    /// A division by zero.
    DivisionByZero = 8,
    /// A conversion of NaN to an integer.
    BadConversion = 9,
    /// The stack is used up.
    StackOverflow = 10,
    /// The interrupt page was inaccessible: the embedder wants the guest to stop.
    Interrupt = 11,
    /// A host function ended the call; the runtime knows why.
    Host = 12,
    /// The runtime could not get what it needed for the guest, such as memory for a reference.
    OutOfResources = 13,
    /// An exception that nothing caught.
    UncaughtException = 14,
}

impl TrapCode {
    /// All codes.
    pub const ALL: [Self; 14] = [
        Self::Unreachable,
        Self::MemoryOutOfBounds,
        Self::TableOutOfBounds,
        Self::NullEntry,
        Self::BadSignature,
        Self::NullReference,
        Self::IntegerOverflow,
        Self::DivisionByZero,
        Self::BadConversion,
        Self::StackOverflow,
        Self::Interrupt,
        Self::Host,
        Self::OutOfResources,
        Self::UncaughtException,
    ];

    /// The number of this code.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The code of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.number() == number)
    }

    /// What happened, in the words of the Wasm specification's test suite where it has some.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::MemoryOutOfBounds => "out of bounds memory access",
            Self::TableOutOfBounds => "out of bounds table access",
            Self::NullEntry => "uninitialized element",
            Self::BadSignature => "indirect call type mismatch",
            Self::NullReference => "null reference",
            Self::IntegerOverflow => "integer overflow",
            Self::DivisionByZero => "integer divide by zero",
            Self::BadConversion => "invalid conversion to integer",
            Self::StackOverflow => "call stack exhausted",
            Self::Interrupt => "interrupted",
            Self::Host => "host function failed",
            Self::OutOfResources => "out of resources",
            Self::UncaughtException => "unhandled exception",
        }
    }
}

/// A machine type in the signature of a library call. 32-bit values are passed with the upper half of the register undefined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// `u32`.
    I32,
    /// `u64`, addresses and references.
    I64,
}

/// What a library call returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LibcallResult {
    /// A `u64` with its own meaning.
    Value,
    /// A `u64`: 0 when it was done, else the number of the [`TrapCode`] to raise.
    Status,
    /// A `u64`: a reference; 0 raises [`TrapCode::OutOfResources`].
    Reference,
}

/// The library calls. Each is an `extern "sysv64" fn(context, …) -> u64`; memories, tables, functions and segments are named by
/// their index in the module of `context`, imports included. The runtime checks all bounds.
///
/// | call | parameters after the context | result |
/// |---|---|---|
/// | `MemoryGrow` | memory `u32`, pages to add `u64` | the old size in pages, or `u64::MAX` if it can't grow |
/// | `MemoryCopy` | memory to `u32`, memory from `u32`, to `u64`, from `u64`, length `u64` in bytes | status |
/// | `MemoryFill` | memory `u32`, at `u64`, byte `u32` (its low 8 bits), length `u64` | status |
/// | `MemoryInit` | memory `u32`, data segment `u32`, to `u64`, from `u64`, length `u64` | status |
/// | `TableGrow` | table `u32`, entries to add `u64`, initial value `u64` | the old size, or `u64::MAX` |
/// | `TableCopy` | table to `u32`, table from `u32`, to `u64`, from `u64`, length `u64` in entries | status |
/// | `TableFill` | table `u32`, at `u64`, value `u64`, length `u64` | status |
/// | `TableInit` | table `u32`, element segment `u32`, to `u64`, from `u64`, length `u64` | status |
/// | `EntryReference` | table `u32`, local entry `u64` read from it | the funcref value for it |
/// | `FunctionReference` | function `u32` | the funcref value for it |
/// | `ExceptionNew` | tag `u32`, number of values `u32` | an exnref value, see [`ExceptionRecord`] |
/// | `Throw` | exnref `u64`, not null | does not return when a handler is found, else the status |
///
/// Values of tables are funcref or externref values, never entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Libcall {
    /// `memory.grow`.
    MemoryGrow,
    /// `memory.copy`.
    MemoryCopy,
    /// `memory.fill`.
    MemoryFill,
    /// `memory.init`.
    MemoryInit,
    /// `table.grow`.
    TableGrow,
    /// `table.copy`.
    TableCopy,
    /// `table.fill`.
    TableFill,
    /// `table.init`.
    TableInit,
    /// `table.get` that found a local entry.
    EntryReference,
    /// `ref.func`.
    FunctionReference,
    /// The first half of `throw`: makes the exception, whose values the code then stores.
    ExceptionNew,
    /// The second half of `throw`, and `throw_ref`.
    Throw,
}

impl Libcall {
    /// All library calls by number.
    pub const ALL: [Self; 12] = [
        Self::MemoryGrow,
        Self::MemoryCopy,
        Self::MemoryFill,
        Self::MemoryInit,
        Self::TableGrow,
        Self::TableCopy,
        Self::TableFill,
        Self::TableInit,
        Self::EntryReference,
        Self::FunctionReference,
        Self::ExceptionNew,
        Self::Throw,
    ];

    /// Its position in [`StoreRecord::libcalls`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The parameters after the context.
    #[must_use]
    pub const fn params(self) -> &'static [Scalar] {
        use Scalar::{I32, I64};
        match self {
            Self::MemoryGrow | Self::EntryReference => &[I32, I64],
            Self::MemoryCopy | Self::MemoryInit | Self::TableCopy | Self::TableInit => &[I32, I32, I64, I64, I64],
            Self::MemoryFill => &[I32, I64, I32, I64],
            Self::TableGrow => &[I32, I64, I64],
            Self::TableFill => &[I32, I64, I64, I64],
            Self::FunctionReference => &[I32],
            Self::ExceptionNew => &[I32, I32],
            Self::Throw => &[I64],
        }
    }

    /// What it returns.
    #[must_use]
    pub const fn result(self) -> LibcallResult {
        match self {
            Self::MemoryGrow | Self::TableGrow => LibcallResult::Value,
            Self::EntryReference | Self::FunctionReference | Self::ExceptionNew => LibcallResult::Reference,
            _ => LibcallResult::Status,
        }
    }

    /// Its name in symbols.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemoryGrow => "memory.grow",
            Self::MemoryCopy => "memory.copy",
            Self::MemoryFill => "memory.fill",
            Self::MemoryInit => "memory.init",
            Self::TableGrow => "table.grow",
            Self::TableCopy => "table.copy",
            Self::TableFill => "table.fill",
            Self::TableInit => "table.init",
            Self::EntryReference => "table.get",
            Self::FunctionReference => "ref.func",
            Self::ExceptionNew => "throw.new",
            Self::Throw => "throw",
        }
    }
}

/// What an exnref value points to. Behind it are the exception's values in slots of [`VALUE_SIZE`] bytes. Aligned to [`VALUE_SIZE`]. The
/// runtime owns it; it lives at least until the outermost call of the guest returns.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct ExceptionRecord {
    /// Identity of its tag, see [`ContextLayout::tags`].
    pub tag: u64,
    /// How many values.
    pub count: u64,
}

/// The type of a value, with its number in fixed layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ValueType {
    /// 32-bit integer.
    I32 = 1,
    /// 64-bit integer.
    I64 = 2,
    /// Single precision.
    F32 = 3,
    /// Double precision.
    F64 = 4,
    /// 128-bit vector.
    V128 = 5,
    /// Nullable reference to a function.
    FuncRef = 6,
    /// Nullable reference to something of the host.
    ExternRef = 7,
    /// Nullable reference to an exception.
    ExnRef = 8,
}

impl ValueType {
    /// All types.
    pub const ALL: [Self; 8] = [Self::I32, Self::I64, Self::F32, Self::F64, Self::V128, Self::FuncRef, Self::ExternRef, Self::ExnRef];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The type of a number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.number() == number)
    }

    /// Its name in the text format.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::V128 => "v128",
            Self::FuncRef => "funcref",
            Self::ExternRef => "externref",
            Self::ExnRef => "exnref",
        }
    }

    /// Whether values of it are references, not numbers or vectors.
    #[must_use]
    pub const fn is_reference(self) -> bool {
        matches!(self, Self::FuncRef | Self::ExternRef | Self::ExnRef)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_lead_back() {
        for (number, libcall) in Libcall::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(libcall.number()), number);
        }
        for code in TrapCode::ALL {
            assert_eq!(TrapCode::from_number(code.number()), Some(code));
        }
        for ty in ValueType::ALL {
            assert_eq!(ValueType::from_number(ty.number()), Some(ty));
        }
        assert_eq!((TrapCode::from_number(0), ValueType::from_number(0), ValueType::from_number(9)), (None, None, None));
    }

    #[test]
    fn entries_lead_back() {
        assert_eq!(Entry::of(0), Entry::Null);
        assert_eq!(Entry::of(0x7f00_0000_1000), Entry::Reference(0x7f00_0000_1000));
        for (offset, ty) in [(0, 0), (u32::MAX, MAX_TYPE), (0x1234_5678, 77)] {
            assert_eq!(local_entry(offset, ty).map(Entry::of), Some(Entry::Local { offset, ty }));
        }
        assert_eq!(local_entry(0, MAX_TYPE + 1), None);
    }

    #[test]
    fn the_first_memory_and_globals_are_within_reach_of_a_short_displacement() {
        let layout = ContextLayout::new(ContextCounts { memories: 1, globals: 9, ..ContextCounts::default() }).unwrap();
        assert_eq!((layout.memory(0), layout.global(0), layout.global(4), layout.global(9)), (Some(32), Some(48), Some(112), None));
    }

    #[test]
    fn a_context_that_is_too_large_has_no_layout() {
        assert_eq!(ContextLayout::new(ContextCounts::default()), Some(ContextLayout::EMPTY));
        assert_eq!(ContextLayout::new(ContextCounts { globals: u32::MAX, ..ContextCounts::default() }), None);
        let counts = ContextCounts { globals: ContextLayout::MAX_SIZE / 16 - 2, ..ContextCounts::default() };
        assert_eq!(ContextLayout::new(counts).map(|layout| layout.size), Some(ContextLayout::MAX_SIZE));
    }

    proptest! {
        #[test]
        fn arrays_are_aligned_and_do_not_overlap(counts: [u16; 11]) {
            let [memories, imported_memories, globals, imported_globals, tables, imported_tables, imported_functions, tags, imported_tags,
                data_segments, element_segments] = counts.map(u32::from);
            let counts = ContextCounts { memories, imported_memories, globals, imported_globals, tables, imported_tables,
                imported_functions, tags, imported_tags, data_segments, element_segments };
            let layout = ContextLayout::new(counts).unwrap();
            let arrays = [
                (layout.memories, memories, 16), (layout.globals, globals, 16), (layout.imported_memories, imported_memories, 8),
                (layout.imported_globals, imported_globals, 8), (layout.tables, tables, 16), (layout.imported_tables, imported_tables, 16),
                (layout.imported_functions, imported_functions, 16), (layout.tags, tags, 8), (layout.imported_tags, imported_tags, 8),
                (layout.dropped_data, data_segments, 1), (layout.dropped_elements, element_segments, 1), (layout.size, 0, 16),
            ];
            let mut end = 32;
            for (at, count, size) in arrays {
                prop_assert!(at >= end && at % size == 0);
                end = at + count * size;
            }
        }
    }
}
