//! Code objects in Preheat's own layout: an ELF file that tools can read, whose loader needs no decoding. A fixed header stands directly
//! behind the ELF file header; it leads to a directory of sections, each page-aligned. `docs/image-format.md` gives the bytes.
//!
//! The wasmtime engine's code object is wasmtime's own artefact file and has none of this; [`kind_of`] tells the two apart.

use crate::elf;
use crate::{CpuLevel, Digest, FormatError};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// Alignment of every section in bytes: the page size of x86-64.
pub const ALIGN: u64 = PAGE as u64;
/// Most sections that a code object may have.
pub const MAX_SECTIONS: usize = 64;

const FORMAT: &str = "code object";
const MAGIC: [u8; 8] = *b"PREHCODE";
const VERSION: u32 = 1;
const PAGE: usize = 4096;
const TARGET_X86_64_LINUX: u32 = 1;

/// What a section holds, and so how it is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SectionKind {
    /// Machine code: mapped read and execute.
    Text,
    /// Tables: mapped read-only.
    ReadOnly,
}

impl SectionKind {
    const fn number(self) -> u32 {
        match self {
            Self::Text => 1,
            Self::ReadOnly => 2,
        }
    }
}

/// The header: 128 bytes at file offset 64.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    header_size: U32,
    source: [u8; 32],
    key: [u8; 32],
    target: U32,
    cpu: U32,
    file_size: U64,
    directory: U64,
    section_count: U32,
    reserved: [u8; 20],
}

/// An entry of the directory: 32 bytes.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct DirectoryEntry {
    kind: U32,
    /// Distinguishes sections of one kind; engine-defined.
    tag: U32,
    offset: U64,
    size: U64,
    reserved: [u8; 8],
}

/// Which layout the bytes of a code object begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeKind {
    /// Preheat's own.
    Own,
    /// An ELF file of another maker, such as wasmtime's artefact.
    OtherElf,
}

/// Tells Preheat's own layout from another ELF file by the first bytes of the file.
///
/// # Errors
/// When the bytes are not the beginning of a 64-bit little-endian ELF file.
pub fn kind_of(bytes: &[u8]) -> Result<CodeKind, FormatError> {
    let (file, rest) = elf::FileHeader::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
        format: FORMAT,
        need: size_of::<elf::FileHeader>() as u64,
        have: bytes.len() as u64,
    })?;
    if file.ident[..7] != elf::IDENT[..7] {
        return Err(FormatError::NotThisFormat { format: FORMAT, found: "not a 64-bit little-endian ELF file".into() });
    }
    Ok(if rest.starts_with(&MAGIC) { CodeKind::Own } else { CodeKind::OtherElf })
}

/// A section of a code object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// How it is mapped.
    pub kind: SectionKind,
    /// Which one of its kind; the engine gives the meaning.
    pub tag: u32,
    /// Where it begins in the file, a multiple of [`ALIGN`].
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// A code object whose header and directory were checked. Every section lies within the file and overlaps no other.
#[derive(Debug, Clone)]
pub struct CodeObject {
    /// Digest of the Wasm bytes from which it was compiled.
    pub source: Digest,
    /// Its build key.
    pub key: Digest,
    /// The CPU level that it needs.
    pub cpu: CpuLevel,
    /// The sections in file order.
    pub sections: Vec<Section>,
}

impl CodeObject {
    /// Reads the header and the directory of a code object of `file_size` bytes from its first bytes. 8 KiB are enough for every file.
    ///
    /// # Errors
    /// When the bytes are not the beginning of a code object of this version, or a section is out of bounds, unaligned, or overlaps.
    pub fn parse(bytes: &[u8], file_size: u64) -> Result<Self, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if kind_of(bytes)? != CodeKind::Own {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: "an ELF file of another maker".into() });
        }
        let elf_size = size_of::<elf::FileHeader>();
        let (file, rest) = elf::FileHeader::ref_from_prefix(bytes).map_err(|_| damaged("no ELF header".into()))?;
        if file.kind.get() != elf::ET_DYN || file.machine.get() != elf::EM_X86_64 {
            return Err(damaged(format!("ELF type {} for machine {}, expected a shared object for x86-64", file.kind, file.machine)));
        }
        let need = (elf_size + size_of::<Header>()) as u64;
        let (header, _) =
            Header::ref_from_prefix(rest).map_err(|_| FormatError::Truncated { format: FORMAT, need, have: bytes.len() as u64 })?;
        if header.version.get() != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: header.version.get(), supported: VERSION });
        }
        if header.header_size.get() as usize != size_of::<Header>() || header.reserved != [0; 20] {
            return Err(damaged("the header is not that of version 1".into()));
        }
        if header.file_size.get() != file_size {
            return Err(FormatError::Truncated { format: FORMAT, need: header.file_size.get(), have: file_size });
        }
        if header.target.get() != TARGET_X86_64_LINUX {
            return Err(damaged(format!("target {} is unknown", header.target)));
        }
        let cpu = CpuLevel::from_number(header.cpu.get()).ok_or_else(|| damaged(format!("CPU level {} is unknown", header.cpu)))?;
        let count = header.section_count.get() as usize;
        if count > MAX_SECTIONS {
            return Err(damaged(format!("{count} sections, at most {MAX_SECTIONS} allowed")));
        }
        let directory = usize::try_from(header.directory.get()).ok().filter(|&at| at as u64 == need).and_then(|at| bytes.get(at..));
        let (entries, _) = directory
            .and_then(|bytes| <[DirectoryEntry]>::ref_from_prefix_with_elems(bytes, count).ok())
            .ok_or_else(|| damaged("the directory is out of bounds".into()))?;
        let mut end = header.directory.get() + (count * size_of::<DirectoryEntry>()) as u64;
        let mut sections = Vec::with_capacity(count);
        for (index, entry) in entries.iter().enumerate() {
            let kind = [SectionKind::Text, SectionKind::ReadOnly].into_iter().find(|kind| kind.number() == entry.kind.get());
            let kind = kind.ok_or_else(|| damaged(format!("section {index} is of unknown kind {}", entry.kind)))?;
            let (offset, size) = (entry.offset.get(), entry.size.get());
            if entry.reserved != [0; 8] || offset % ALIGN != 0 || offset < end {
                return Err(damaged(format!("section {index} at {offset:#x} is unaligned or overlaps what is before it")));
            }
            end = offset.checked_add(size).filter(|&end| end <= file_size).ok_or_else(|| {
                damaged(format!("section {index} ends beyond the file: {offset:#x} + {size:#x} in a file of {file_size:#x}"))
            })?;
            sections.push(Section { kind, tag: entry.tag.get(), offset, size });
        }
        Ok(Self { source: Digest::from_bytes(header.source), key: Digest::from_bytes(header.key), cpu, sections })
    }

    /// Writes a code object of `sections`: kind, tag, name for tools, bytes. The offsets are given here.
    ///
    /// # Errors
    /// When there are more than [`MAX_SECTIONS`].
    pub fn encode(
        source: Digest,
        key: Digest,
        cpu: CpuLevel,
        sections: &[(SectionKind, u32, &str, &[u8])],
    ) -> Result<Vec<u8>, FormatError> {
        Self::encode_with_symbols(source, key, cpu, sections, None)
    }

    /// Writes a code object as [`Self::encode`] does, with symbols for tools.
    ///
    /// # Errors
    /// When there are more than [`MAX_SECTIONS`], or a symbol names a section that is not there.
    pub fn encode_with_symbols(
        source: Digest,
        key: Digest,
        cpu: CpuLevel,
        sections: &[(SectionKind, u32, &str, &[u8])],
        symbols: Option<&SymbolTable>,
    ) -> Result<Vec<u8>, FormatError> {
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if sections.len() > MAX_SECTIONS {
            return Err(damaged(format!("{} sections, at most {MAX_SECTIONS} allowed", sections.len())));
        }
        let directory = size_of::<elf::FileHeader>() + size_of::<Header>();
        let mut bytes = vec![0; directory + sections.len() * size_of::<DirectoryEntry>()];
        let mut entries = Vec::new();
        let mut names = vec![0u8];
        let mut headers = vec![section_header(0, 0, 0, 0, 0)];
        let narrow = |value: usize| u32::try_from(value).map_err(|_| damaged("a name table of 4 GiB".into()));
        for (kind, tag, name, content) in sections {
            bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
            let (offset, size) = (bytes.len() as u64, content.len() as u64);
            bytes.extend_from_slice(content);
            entries.push(DirectoryEntry {
                kind: kind.number().into(),
                tag: (*tag).into(),
                offset: offset.into(),
                size: size.into(),
                reserved: [0; 8],
            });
            let flags = if *kind == SectionKind::Text { elf::SHF_ALLOC | elf::SHF_EXECINSTR } else { elf::SHF_ALLOC };
            headers.push(section_header(narrow(names.len())?, elf::SHT_PROGBITS, flags, offset, size));
            names.extend_from_slice(name.as_bytes());
            names.push(0);
        }
        let names_at = narrow(names.len())?;
        names.extend_from_slice(b".shstrtab\0");
        if symbols.is_some() {
            names.extend_from_slice(b".symtab\0");
        }
        headers.push(section_header(names_at, elf::SHT_STRTAB, 0, bytes.len() as u64, names.len() as u64));
        bytes.extend_from_slice(&names);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if let Some(symbols) = symbols {
            let table = symbols.to_elf(&headers[1..=sections.len()])?;
            // The null header is before those of the sections.
            let named = headers[1..=sections.len()].get_mut(symbols.names);
            named.ok_or_else(|| damaged("the symbols' names are in no section".into()))?.kind = elf::SHT_STRTAB.into();
            let name = names_at + narrow(b".shstrtab\0".len())?;
            let mut header = section_header(name, elf::SHT_SYMTAB, 0, bytes.len() as u64, size_of_val(&*table) as u64);
            header.link = narrow(symbols.names + 1)?.into();
            // All are local: two functions may have one name.
            header.info = narrow(table.len())?.into();
            header.align = 8.into();
            header.entry_size = U64::new(size_of::<elf::Symbol>() as u64);
            headers.push(header);
            bytes.extend_from_slice(table.as_bytes());
        }
        let headers_at = bytes.len() as u64;
        bytes.extend_from_slice(headers.as_bytes());

        let count = |value: usize| u16::try_from(value).map(U16::new).map_err(|_| damaged("too many sections".into()));
        let file = elf::FileHeader {
            ident: elf::IDENT,
            kind: elf::ET_DYN.into(),
            machine: elf::EM_X86_64.into(),
            version: 1.into(),
            entry: 0.into(),
            program_headers: 0.into(),
            section_headers: headers_at.into(),
            flags: 0.into(),
            header_size: count(size_of::<elf::FileHeader>())?,
            program_header_size: 0.into(),
            program_header_count: 0.into(),
            section_header_size: count(size_of::<elf::SectionHeader>())?,
            section_header_count: count(headers.len())?,
            section_names: count(sections.len() + 1)?,
        };
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            header_size: narrow(size_of::<Header>())?.into(),
            source: *source.as_bytes(),
            key: *key.as_bytes(),
            target: TARGET_X86_64_LINUX.into(),
            cpu: cpu.number().into(),
            file_size: U64::new(bytes.len() as u64),
            directory: U64::new(directory as u64),
            section_count: narrow(sections.len())?.into(),
            reserved: [0; 20],
        };
        let front = [file.as_bytes(), header.as_bytes(), entries.as_bytes()].concat();
        bytes[..front.len()].copy_from_slice(&front);
        Ok(bytes)
    }
}

/// A name for tools to show for a part of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Where its name begins in [`SymbolTable::names`]; a zero byte ends it.
    pub name: u32,
    /// Position of the section in the list of sections.
    pub section: usize,
    /// Where it begins in the section.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// Symbols of functions, which tools show. The loader does not look at them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SymbolTable {
    /// Position in the list of sections of the one with the names. Its first byte is zero.
    pub names: usize,
    /// The symbols.
    pub symbols: Vec<Symbol>,
}

impl SymbolTable {
    /// The table as ELF has it, with the null symbol in front. `headers` are those of the sections.
    fn to_elf(&self, headers: &[elf::SectionHeader]) -> Result<Vec<elf::Symbol>, FormatError> {
        let damaged = |what: &str| FormatError::Damaged { format: FORMAT, what: what.into() };
        let mut table = vec![elf::Symbol::new_zeroed()];
        for symbol in &self.symbols {
            let header = headers.get(symbol.section).ok_or_else(|| damaged("a symbol is in no section"))?;
            let section = u16::try_from(symbol.section + 1).map_err(|_| damaged("too many sections"))?;
            table.push(elf::Symbol {
                name: symbol.name.into(),
                info: elf::STT_FUNC,
                other: 0,
                section: section.into(),
                value: header.address + symbol.offset,
                size: symbol.size.into(),
            });
        }
        Ok(table)
    }
}

fn section_header(name: u32, kind: u32, flags: u64, offset: u64, size: u64) -> elf::SectionHeader {
    // The address of a section is its offset, so that tools show the addresses that the loader's map has.
    let address = if flags == 0 { 0 } else { offset };
    elf::SectionHeader {
        name: name.into(),
        kind: kind.into(),
        flags: flags.into(),
        address: address.into(),
        offset: offset.into(),
        size: size.into(),
        link: 0.into(),
        info: 0.into(),
        align: U64::new(if flags == 0 { 1 } else { ALIGN }),
        entry_size: 0.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Vec<u8> {
        let sections: [(SectionKind, u32, &str, &[u8]); 2] =
            [(SectionKind::ReadOnly, 7, ".preheat.functions", &[1, 2, 3]), (SectionKind::Text, 0, ".text", &[0xc3; 5000])];
        CodeObject::encode(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3, &sections).unwrap()
    }

    #[test]
    fn leads_back() {
        let bytes = example();
        let code = CodeObject::parse(&bytes[..8192], bytes.len() as u64).unwrap();
        assert_eq!((code.source, code.key, code.cpu), (Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3));
        assert_eq!(code.sections.len(), 2);
        let text = code.sections[1];
        assert_eq!((text.kind, text.offset, text.size), (SectionKind::Text, 8192, 5000));
        assert_eq!(bytes[8192..13192], [0xc3; 5000]);
        assert_eq!(size_of::<Header>(), 128);
        assert_eq!(size_of::<DirectoryEntry>(), 32);
    }

    #[test]
    fn tools_can_read_it() {
        use object::{Object as _, ObjectSection as _};
        let bytes = example();
        let file = object::File::parse(&*bytes).unwrap();
        let text = file.section_by_name(".text").unwrap();
        assert_eq!(text.data().unwrap(), [0xc3; 5000]);
        assert_eq!(text.kind(), object::SectionKind::Text);
        assert_eq!(file.section_by_name(".preheat.functions").unwrap().data().unwrap(), [1, 2, 3]);
    }

    #[test]
    fn tools_see_symbols() {
        use object::{Object as _, ObjectSymbol as _};
        let sections: [(SectionKind, u32, &str, &[u8]); 2] =
            [(SectionKind::Text, 0, ".text", &[0xc3; 10]), (SectionKind::ReadOnly, 9, ".preheat.strings", b"\0first\0second\0")];
        let symbol = |name, offset| Symbol { name, section: 0, offset, size: 5 };
        let encode = |symbols: &SymbolTable| {
            CodeObject::encode_with_symbols(Digest::of(b"wasm"), Digest::of(b"key"), CpuLevel::V3, &sections, Some(symbols))
        };
        let mut table = SymbolTable { names: 1, symbols: vec![symbol(1, 0), symbol(7, 5)] };
        let bytes = encode(&table).unwrap();
        assert_eq!(CodeObject::parse(&bytes, bytes.len() as u64).unwrap().sections.len(), 2);
        let file = object::File::parse(&*bytes).unwrap();
        let seen: Vec<_> = file.symbols().map(|symbol| (symbol.name().unwrap(), symbol.address(), symbol.size())).collect();
        assert_eq!(seen, [("first", 4096, 5), ("second", 4101, 5)]);
        table.names = 2;
        assert!(encode(&table).is_err());
        table.symbols[0].section = 2;
        assert!(encode(&table).is_err());
    }

    #[test]
    fn names_what_is_wrong() {
        let bytes = example();
        let size = bytes.len() as u64;
        let error = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            CodeObject::parse(&bytes, size).unwrap_err()
        };
        assert!(matches!(error(0, 0), FormatError::NotThisFormat { .. }));
        assert!(matches!(error(64, 0), FormatError::NotThisFormat { .. }));
        assert_eq!(error(72, 9), FormatError::Version { format: FORMAT, found: 9, supported: 1 });
        assert!(error(148, 5).to_string().contains("CPU level 5"));
        assert!(matches!(CodeObject::parse(&bytes, size - 1), Err(FormatError::Truncated { .. })));
        for len in 0..256 {
            assert!(CodeObject::parse(&bytes[..len], size).is_err());
        }
    }

    proptest! {
        #[test]
        fn sections_of_whatever_parses_are_within_the_file(at in 64usize..320, value: u8, at2 in 64usize..320, value2: u8) {
            let mut bytes = example();
            bytes[at] = value;
            bytes[at2] = value2;
            let size = bytes.len() as u64;
            if let Ok(code) = CodeObject::parse(&bytes, size) {
                let mut end = 0;
                for section in code.sections {
                    prop_assert!(section.offset >= end && section.offset + section.size <= size && section.offset % ALIGN == 0);
                    end = section.offset + section.size;
                }
            }
        }
    }
}
