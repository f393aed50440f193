//! Briefs: what a load needs of an image's entry and of its manifest, in one file of fixed layout.
//!
//! A brief says nothing of its own. It is written from an entry and a manifest that were read and checked, names the state of the entry's
//! file from which it was made, and counts only while that file is still in this state. So it is never wrong, only out of date; whoever
//! finds none that counts reads the two JSON files and writes it anew.
//!
//! The layout is in `docs/image-format.md`. A checksum tells damage; it is no protection against whoever may write into the store.

use crate::frozen::Frozen;
use crate::keys::PublicKey;
use crate::manifest::{Artefact, Descriptor, Function, FunctionKind, Variant};
use crate::record::{Record, Seal, Signed};
use crate::statement::Kind;
use crate::{CpuLevel, Digest, FormatError, Manifest, manifest, record};
use std::cell::Cell;
use std::collections::BTreeMap;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

/// Most bytes that a brief may have.
pub const MAX_SIZE: usize = manifest::MAX_SIZE + record::MAX_SIZE;

const FORMAT: &str = "brief";
const MAGIC: [u8; 8] = *b"PREBRIEF";
const VERSION: u32 = 1;

/// Where a list is: offset in the file, a multiple of 8, and number of records.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct List {
    offset: U32,
    count: U32,
}

/// A part of the strings: offset there, and bytes of UTF-8.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Text {
    offset: U32,
    len: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SealRecord {
    inode: U64,
    size: U64,
    mtime: I64,
    ctime: I64,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct BlobRecord {
    digest: [u8; 32],
    size: U64,
    media_type: Text,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct StatementRecord {
    signer: [u8; 32],
    statement: [u8; 32],
    key: [u8; 32],
    source: [u8; 32],
    public_key: [u8; 32],
    namespace: Text,
    build_id: Text,
    kind: U32,
    flags: U32,
    first_output: U32,
    outputs: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SealedRecord {
    digest: [u8; 32],
    seal: SealRecord,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ArtefactRecord {
    blob: BlobRecord,
    chunks: BlobRecord,
    key: [u8; 32],
    engine: Text,
    target: Text,
    cpu: U32,
    flags: U32,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PairRecord {
    name: Text,
    value: Text,
    owner: U32,
    reserved: U32,
}

/// The front of a brief: 256 bytes.
#[derive(Debug, Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    header_size: U32,
    checksum: U64,
    file_size: U64,
    subject: [u8; 32],
    entry: SealRecord,
    source: BlobRecord,
    function_name: Text,
    function_kind: U32,
    flags: U32,
    statements: List,
    outputs: List,
    seals: List,
    left_out: List,
    artefacts: List,
    pairs: List,
    args: List,
    strings: List,
    frozen: Text,
    reserved: [u8; 24],
}

/// The image has a source (header); the statement names one (statement); the artefact has a variant (artefact).
const FLAG_FIRST: u32 = 1;
/// The signer's public key is known (statement); the artefact has a chunk list (artefact).
const FLAG_SECOND: u32 = 2;
/// Pairs that belong to the manifest: its annotations.
const OWNER_MANIFEST: u32 = 0;
/// Pairs that belong to the function: its variables. Those of an artefact have 2 and its number.
const OWNER_FUNCTION: u32 = 1;
const OWNER_ARTEFACTS: u32 = 2;

const FUNCTION_KINDS: [FunctionKind; 5] =
    [FunctionKind::Command, FunctionKind::Module, FunctionKind::ComponentCommand, FunctionKind::ComponentHttp, FunctionKind::Component];
const KINDS: [Kind; 2] = [Kind::CodeObject, Kind::Image];

/// A brief that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    /// The state of the entry's file from which it was made.
    pub entry: Seal,
    /// What that file said.
    pub record: Record,
    /// The public keys of the statements' signers, in the order of the statements, where they are known.
    pub keys: Vec<Option<PublicKey>>,
    /// The image's manifest.
    pub manifest: Manifest,
}

fn damaged(what: impl Into<String>) -> FormatError {
    FormatError::Damaged { format: FORMAT, what: what.into() }
}

/// The word of a file that is its checksum: bytes 16 to 23.
const CHECKSUM: usize = 2;

/// The checksum of a brief, over all of its 64-bit words but the one that it is kept in. Each step is reversible, so that a change within one
/// word never goes unnoticed; others do with a chance of 2⁻⁶⁴.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    let step = |sum: u64, word: &[u8; 8]| (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let (before, after) = words.split_at(words.len().min(CHECKSUM));
    after.iter().skip(1).fold(before.iter().fold(0, step), step)
}

/// Puts into `bytes` the checksum that they need to be read as a brief, if there is room for one: for tests that damage briefs.
pub fn set_checksum(bytes: &mut [u8]) {
    let sum = checksum(bytes);
    if let Some(word) = bytes.as_chunks_mut::<8>().0.get_mut(CHECKSUM) {
        *word = sum.to_le_bytes();
    }
}

/// Reads the parts of a brief, each checked against the bytes that are there.
struct Reader<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    // How many bytes of strings may still be copied: many records may name one string.
    budget: Cell<usize>,
}

impl<'a> Reader<'a> {
    fn list<T: FromBytes + Immutable + KnownLayout>(&self, list: List) -> Result<&'a [T], FormatError> {
        let (offset, count) = (list.offset.get() as usize, list.count.get() as usize);
        let bytes = self.bytes.get(offset..).filter(|_| offset.is_multiple_of(8));
        let found = bytes.and_then(|bytes| <[T]>::ref_from_prefix_with_elems(bytes, count).ok());
        found.map(|(records, _)| records).ok_or_else(|| damaged("a list is out of bounds"))
    }

    fn text(&self, text: Text) -> Result<String, FormatError> {
        let (offset, len) = (text.offset.get() as usize, text.len.get() as usize);
        let bytes = self.strings.get(offset..).and_then(|bytes| bytes.get(..len)).ok_or_else(|| damaged("a string is out of bounds"))?;
        self.budget.set(self.budget.get().checked_sub(len).ok_or_else(|| damaged("more strings than there can be"))?);
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| damaged("a string is not UTF-8"))
    }

    fn blob(&self, blob: &BlobRecord) -> Result<Descriptor, FormatError> {
        Ok(Descriptor { media_type: self.text(blob.media_type)?, digest: Digest::from_bytes(blob.digest), size: blob.size.get() })
    }

    fn signed(&self, row: &StatementRecord, outputs: &[BlobRecord]) -> Result<Signed, FormatError> {
        let first = row.first_output.get() as usize;
        let outputs = outputs.get(first..).and_then(|outputs| outputs.get(..row.outputs.get() as usize));
        let outputs = outputs.ok_or_else(|| damaged("outputs are out of bounds"))?;
        Ok(Signed {
            signer: Digest::from_bytes(row.signer).into(),
            statement: Digest::from_bytes(row.statement),
            kind: *KINDS.get(row.kind.get() as usize).ok_or_else(|| damaged("a statement of unknown kind"))?,
            namespace: self.text(row.namespace)?,
            key: Digest::from_bytes(row.key),
            source: (row.flags.get() & FLAG_FIRST != 0).then(|| Digest::from_bytes(row.source)),
            build_id: self.text(row.build_id)?,
            outputs: outputs.iter().map(|output| self.blob(output)).collect::<Result<_, _>>()?,
        })
    }

    fn artefact(&self, row: &ArtefactRecord) -> Result<Artefact, FormatError> {
        let mut artefact = Artefact::of(self.blob(&row.blob)?);
        if row.flags.get() & FLAG_FIRST != 0 {
            artefact.variant = Some(Variant {
                engine: self.text(row.engine)?,
                target: self.text(row.target)?,
                cpu: CpuLevel::from_number(row.cpu.get()).ok_or_else(|| damaged("an unknown CPU level"))?,
                key: Digest::from_bytes(row.key),
            });
        }
        if row.flags.get() & FLAG_SECOND != 0 {
            artefact.chunks = Some(self.blob(&row.chunks)?);
        }
        Ok(artefact)
    }
}

impl From<Seal> for SealRecord {
    fn from(seal: Seal) -> Self {
        Self { inode: seal.inode.into(), size: seal.size.into(), mtime: seal.mtime.into(), ctime: seal.ctime.into() }
    }
}

impl From<SealRecord> for Seal {
    fn from(seal: SealRecord) -> Self {
        Self { inode: seal.inode.get(), size: seal.size.get(), mtime: seal.mtime.get(), ctime: seal.ctime.get() }
    }
}

impl Brief {
    /// Reads a brief about `subject`.
    ///
    /// # Errors
    /// When the bytes are no brief of this version, are damaged, or are about something else.
    pub fn parse(bytes: &[u8], subject: &Digest) -> Result<Self, FormatError> {
        let have = bytes.len() as u64;
        if bytes.len() > MAX_SIZE {
            return Err(damaged(format!("{have} bytes, at most {MAX_SIZE} allowed")));
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: "no magic".into() });
        }
        let need = size_of::<Header>() as u64;
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated { format: FORMAT, need, have })?;
        if header.version.get() != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: header.version.get(), supported: VERSION });
        }
        if header.file_size.get() != have {
            return Err(FormatError::Truncated { format: FORMAT, need: header.file_size.get(), have });
        }
        if u64::from(header.header_size.get()) != need || !have.is_multiple_of(8) || header.checksum.get() != checksum(bytes) {
            return Err(damaged("its bytes were changed"));
        }
        if header.subject != *subject.as_bytes() {
            return Err(damaged(format!("it is about {}, not about {subject}", Digest::from_bytes(header.subject))));
        }
        let mut reader = Reader { bytes, strings: &[], budget: Cell::new(MAX_SIZE) };
        reader.strings = reader.list(header.strings)?;
        let mut record = Record::new(*subject);
        let (statements, outputs): (&[StatementRecord], &[BlobRecord]) = (reader.list(header.statements)?, reader.list(header.outputs)?);
        // Each output belongs to one statement, in order: so what is read is never more than what is there.
        let mut next = 0u32;
        let in_order = |row: &StatementRecord| {
            let follows = row.first_output.get() == next;
            next = next.saturating_add(row.outputs.get());
            follows
        };
        if !statements.iter().all(in_order) {
            return Err(damaged("outputs of statements overlap"));
        }
        record.statements = statements.iter().map(|row| reader.signed(row, outputs)).collect::<Result<_, _>>()?;
        let known = |row: &StatementRecord| (row.flags.get() & FLAG_SECOND != 0).then(|| PublicKey::from_bytes(row.public_key));
        let keys = statements.iter().map(known).collect();
        let seals: &[SealedRecord] = reader.list(header.seals)?;
        record.seals = seals.iter().map(|row| (Digest::from_bytes(row.digest), row.seal.into())).collect();
        let left_out: &[[u8; 32]] = reader.list(header.left_out)?;
        record.left_out = left_out.iter().map(|digest| Digest::from_bytes(*digest)).collect();

        let source = (header.flags.get() & FLAG_FIRST != 0).then(|| reader.blob(&header.source)).transpose()?;
        let mut function = None;
        if let Some(kind) = header.function_kind.get().checked_sub(1) {
            let kind = *FUNCTION_KINDS.get(kind as usize).ok_or_else(|| damaged("a function of unknown kind"))?;
            let args: &[Text] = reader.list(header.args)?;
            let args = args.iter().map(|arg| reader.text(*arg)).collect::<Result<_, _>>()?;
            let frozen = reader.text(header.frozen)?;
            let frozen = if frozen.is_empty() { None } else { Some(Box::new(Frozen::parse(&frozen).map_err(damaged)?)) };
            function = Some(Function { kind, name: reader.text(header.function_name)?, args, env: BTreeMap::new(), frozen });
        }
        let artefacts: &[ArtefactRecord] = reader.list(header.artefacts)?;
        let artefacts = artefacts.iter().map(|row| reader.artefact(row)).collect::<Result<_, _>>()?;
        let mut manifest = Manifest::new(source, function, artefacts);
        let pairs: &[PairRecord] = reader.list(header.pairs)?;
        for pair in pairs {
            let owner = match pair.owner.get() {
                OWNER_MANIFEST => Some(&mut manifest.annotations),
                OWNER_FUNCTION => manifest.function.as_mut().map(|function| &mut function.env),
                number => manifest.artefacts.get_mut((number - OWNER_ARTEFACTS) as usize).map(|artefact| &mut artefact.annotations),
            };
            owner.ok_or_else(|| damaged("a pair of nobody"))?.insert(reader.text(pair.name)?, reader.text(pair.value)?);
        }
        manifest.check()?;
        Ok(Self { entry: header.entry.into(), record, keys, manifest })
    }

    /// The bytes of the brief; none if a brief of this version can't say all of it, since something has a field for which there is no place
    /// here, or too much of something.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let bytes = Writer::default().write(self)?;
        // Whatever is added to a manifest or a record one day: what would be lost is not written.
        (Self::parse(&bytes, &self.record.subject).as_ref() == Ok(self)).then_some(bytes)
    }
}

/// Collects the strings of a brief.
#[derive(Default)]
struct Writer {
    strings: Vec<u8>,
    known: BTreeMap<String, Text>,
}

impl Writer {
    fn text(&mut self, text: &str) -> Option<Text> {
        if let Some(known) = self.known.get(text) {
            return Some(*known);
        }
        let (offset, len) = (u32::try_from(self.strings.len()).ok()?, u32::try_from(text.len()).ok()?);
        self.strings.extend_from_slice(text.as_bytes());
        let place = Text { offset: offset.into(), len: len.into() };
        self.known.insert(text.to_owned(), place);
        Some(place)
    }

    fn blob(&mut self, blob: &Descriptor) -> Option<BlobRecord> {
        Some(BlobRecord { digest: *blob.digest.as_bytes(), size: blob.size.into(), media_type: self.text(&blob.media_type)? })
    }

    fn pairs(&mut self, owner: u32, pairs: &BTreeMap<String, String>, all: &mut Vec<PairRecord>) -> Option<()> {
        for (name, value) in pairs {
            let (name, value) = (self.text(name)?, self.text(value)?);
            all.push(PairRecord { name, value, owner: owner.into(), reserved: 0.into() });
        }
        Some(())
    }

    fn write(mut self, brief: &Brief) -> Option<Vec<u8>> {
        let Brief { entry, record, keys, manifest } = brief;
        let (mut outputs, mut statements) = (Vec::new(), Vec::new());
        for (signed, key) in record.statements.iter().zip(keys) {
            let first_output = u32::try_from(outputs.len()).ok()?;
            for output in &signed.outputs {
                outputs.push(self.blob(output)?);
            }
            let flags = if signed.source.is_some() { FLAG_FIRST } else { 0 } | if key.is_some() { FLAG_SECOND } else { 0 };
            statements.push(StatementRecord {
                signer: *Digest::from(signed.signer).as_bytes(),
                statement: *signed.statement.as_bytes(),
                key: *signed.key.as_bytes(),
                source: signed.source.map_or([0; 32], |source| *source.as_bytes()),
                public_key: key.as_ref().map_or([0; 32], |key| *key.as_bytes()),
                namespace: self.text(&signed.namespace)?,
                build_id: self.text(&signed.build_id)?,
                kind: u32::try_from(KINDS.iter().position(|kind| *kind == signed.kind)?).ok()?.into(),
                flags: flags.into(),
                first_output: first_output.into(),
                outputs: u32::try_from(signed.outputs.len()).ok()?.into(),
            });
        }
        let sealed = |(digest, seal): (&Digest, &Seal)| SealedRecord { digest: *digest.as_bytes(), seal: (*seal).into() };
        let seals: Vec<SealedRecord> = record.seals.iter().map(sealed).collect();
        let left_out: Vec<[u8; 32]> = record.left_out.iter().map(|digest| *digest.as_bytes()).collect();
        let (mut artefacts, mut pairs, mut args) = (Vec::new(), Vec::new(), Vec::new());
        for (owner, artefact) in (OWNER_ARTEFACTS..).zip(&manifest.artefacts) {
            let mut row = ArtefactRecord { blob: self.blob(&artefact.descriptor())?, ..ArtefactRecord::new_zeroed() };
            let mut flags = 0;
            if let Some(variant) = &artefact.variant {
                flags |= FLAG_FIRST;
                (row.engine, row.target) = (self.text(&variant.engine)?, self.text(&variant.target)?);
                (row.cpu, row.key) = (variant.cpu.number().into(), *variant.key.as_bytes());
            }
            if let Some(chunks) = &artefact.chunks {
                flags |= FLAG_SECOND;
                row.chunks = self.blob(chunks)?;
            }
            row.flags = flags.into();
            artefacts.push(row);
            self.pairs(owner, &artefact.annotations, &mut pairs)?;
        }
        self.pairs(OWNER_MANIFEST, &manifest.annotations, &mut pairs)?;
        let mut header = Header { magic: MAGIC, version: VERSION.into(), ..Header::new_zeroed() };
        header.header_size = u32::try_from(size_of::<Header>()).ok()?.into();
        (header.subject, header.entry) = (*record.subject.as_bytes(), (*entry).into());
        if let Some(source) = &manifest.source {
            (header.flags, header.source) = (FLAG_FIRST.into(), self.blob(source)?);
        }
        if let Some(function) = &manifest.function {
            let kind = FUNCTION_KINDS.iter().position(|kind| *kind == function.kind)? + 1;
            (header.function_kind, header.function_name) = (u32::try_from(kind).ok()?.into(), self.text(&function.name)?);
            if let Some(frozen) = &function.frozen {
                header.frozen = self.text(&frozen.to_json())?;
            }
            for arg in &function.args {
                args.push(self.text(arg)?);
            }
            self.pairs(OWNER_FUNCTION, &function.env, &mut pairs)?;
        }
        let mut bytes = vec![0; size_of::<Header>()];
        let mut put = |records: &[u8], count: usize| -> Option<List> {
            let list = List { offset: u32::try_from(bytes.len()).ok()?.into(), count: u32::try_from(count).ok()?.into() };
            bytes.extend_from_slice(records);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            Some(list)
        };
        header.statements = put(statements.as_bytes(), statements.len())?;
        header.outputs = put(outputs.as_bytes(), outputs.len())?;
        header.seals = put(seals.as_bytes(), seals.len())?;
        header.left_out = put(left_out.as_bytes(), left_out.len())?;
        header.artefacts = put(artefacts.as_bytes(), artefacts.len())?;
        header.pairs = put(pairs.as_bytes(), pairs.len())?;
        header.args = put(args.as_bytes(), args.len())?;
        header.strings = put(&self.strings, self.strings.len())?;
        header.file_size = U64::new(bytes.len() as u64);
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        header.checksum = checksum(&bytes).into();
        bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{KeyFields, field};
    use crate::keys::SecretKey;
    use crate::{Statement, media};
    use proptest::prelude::*;

    fn seal(number: u64) -> Seal {
        Seal { inode: number, size: number * 2, mtime: -1, ctime: i64::MAX }
    }

    /// An image with something of everything.
    fn full() -> Brief {
        let mut code = Artefact::of(Descriptor::of(media::CODE, b"code"));
        code.variant = Some(Variant { engine: "native".into(), target: "t".into(), cpu: CpuLevel::V3, key: Digest::of(b"k") });
        code.chunks = Some(Descriptor::of(media::CHUNKS, b"chunks"));
        code.annotations.insert("size".into(), "large".into());
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("ä".to_owned(), String::new())]);
        let function =
            Function { kind: FunctionKind::Command, name: "app".into(), args: vec!["-x".into(), "app".into()], env, frozen: None };
        let artefacts = vec![code, Artefact::of(Descriptor::of("application/other", b"other"))];
        let mut manifest = Manifest::new(Some(Descriptor::of(media::WASM, b"wasm")), Some(function), artefacts);
        manifest.annotations.insert(manifest::ENGINE_REASON.into(), "because".into());
        let subject = Digest::of(&manifest.to_bytes());
        let (mut record, mut keys) = (Record::new(subject), Vec::new());
        let image = Descriptor { media_type: media::MANIFEST.into(), digest: subject, size: 1 };
        for (seed, source) in [(1, true), (2, false)] {
            let mut fields = KeyFields::new().with(field::KIND, "image").with(field::BUILD_ID, "build-1");
            if source {
                fields = fields.with(field::SOURCE, Digest::of(b"wasm"));
            }
            let statement = Statement::new(Kind::Image, "team", fields, vec![image.clone(), Descriptor::of(media::CODE, b"code")]);
            record.add(Signed::new(&statement, SecretKey::from_seed([seed; 32]).public().id(), Digest::of(&[seed])));
        }
        for signed in &record.statements {
            keys.push(Some(SecretKey::from_seed([1; 32]).public()).filter(|key| key.id() == signed.signer));
        }
        record.seals = BTreeMap::from([(subject, seal(1)), (Digest::of(b"code"), seal(2))]);
        record.left_out = [Digest::of(b"code"), Digest::of(b"chunks")].into();
        Brief { entry: seal(3), record, keys, manifest }
    }

    fn bytes() -> Vec<u8> {
        full().to_bytes().unwrap()
    }

    fn parse(bytes: &[u8]) -> Result<Brief, FormatError> {
        Brief::parse(bytes, &full().record.subject)
    }

    #[test]
    fn leads_back() {
        assert_eq!(parse(&bytes()), Ok(full()));
        assert_eq!(bytes(), bytes());
        assert_eq!(full().keys.iter().flatten().count(), 1);
        let manifest = Manifest::new(None, None, Vec::new());
        let record = Record::new(Digest::of(b"m"));
        let empty = Brief { entry: seal(0), record, keys: Vec::new(), manifest };
        assert_eq!(Brief::parse(&empty.to_bytes().unwrap(), &Digest::of(b"m")), Ok(empty));
    }

    #[test]
    fn records_have_the_sizes_that_the_specification_gives() {
        assert_eq!((size_of::<Header>(), size_of::<StatementRecord>(), size_of::<BlobRecord>()), (256, 192, 48));
        assert_eq!((size_of::<SealedRecord>(), size_of::<ArtefactRecord>(), size_of::<PairRecord>()), (64, 152, 24));
    }

    #[test]
    fn every_turned_bit_and_every_cut_is_seen() {
        let bytes = bytes();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(parse(&changed).is_err(), "bit {bit} of byte {at}");
            }
            assert!(parse(&bytes[..at]).is_err(), "{at} bytes");
        }
        // The same bit in two places, where a sum might cancel out.
        for (a, b) in [(24, 32), (63, 71), (300, 308), (303, 311)] {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[a] ^= 1 << bit;
                changed[b] ^= 1 << bit;
                assert!(parse(&changed).is_err(), "bit {bit} of bytes {a} and {b}");
            }
        }
        assert!(parse(&[bytes, vec![0; 8]].concat()).is_err());
    }

    #[test]
    fn names_what_is_wrong() {
        let other = Brief::parse(&bytes(), &Digest::of(b"other"));
        assert!(matches!(&other, Err(FormatError::Damaged { what, .. }) if what.contains("it is about")), "{other:?}");
        let mut newer = bytes();
        newer[8] = 2;
        assert_eq!(parse(&newer), Err(FormatError::Version { format: FORMAT, found: 2, supported: 1 }));
        assert!(matches!(parse(b"{}"), Err(FormatError::NotThisFormat { .. })));
        assert!(matches!(parse(&bytes()[..100]), Err(FormatError::Truncated { need: 256, have: 100, .. })));
    }

    #[test]
    fn what_it_can_not_say_is_not_written() {
        let mut brief = full();
        brief.keys.pop();
        assert_eq!(brief.to_bytes(), None, "a statement less");
        let mut brief = full();
        brief.manifest.schema_version = 2;
        assert_eq!(brief.to_bytes(), None);
        let mut brief = full();
        brief.manifest.artefacts[0].variant = None;
        assert_eq!(brief.to_bytes(), None, "what is no manifest is no brief's manifest");
    }

    proptest! {
        #[test]
        fn hostile_bytes_with_the_right_sum_never_panic(changes in prop::collection::vec((0usize..1 << 16, any::<u8>()), 1..6)) {
            let mut bytes = bytes();
            for (at, byte) in changes {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            set_checksum(&mut bytes);
            if let Ok(brief) = parse(&bytes) {
                prop_assert!(brief.manifest.check().is_ok());
                let again = brief.to_bytes().and_then(|bytes| parse(&bytes).ok());
                prop_assert_eq!(again, Some(brief));
            }
        }
    }

    #[test]
    fn many_names_for_one_long_string_copy_no_more_than_there_can_be() {
        let mut brief = full();
        let long = "x".repeat(100_000);
        brief.manifest.function.as_mut().unwrap().args = vec![long; 200];
        assert_eq!(brief.to_bytes(), None, "20 MB of arguments are in no manifest");
    }
}
