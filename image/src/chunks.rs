//! Chunk lists: the digests of a large blob's 64 KiB pieces, so that a reader can tell which piece is damaged, verify while it streams
//! and serve ranges.
//!
//! Layout (little-endian):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `PREHCHNK` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | chunk size in bytes, 65,536 |
//! | 16 | 8 | size of the blob in bytes |
//! | 24 | 8 | number of chunks: size of the blob divided by the chunk size, rounded up |
//! | 32 | 32 each | SHA-256 of each chunk; the last may be shorter than the others |

use crate::{Digest, DigestHasher, FormatError};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Size of a chunk in bytes.
pub const CHUNK_SIZE: usize = CHUNK_SIZE_FIELD as usize;
/// Blobs of at least this size in bytes get a chunk list when they are built.
pub const CHUNKED_FROM: usize = 1024 * 1024;

const FORMAT: &str = "chunk list";
const MAGIC: [u8; 8] = *b"PREHCHNK";
const VERSION: u32 = 1;
const CHUNK_SIZE_FIELD: u32 = 64 * 1024;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    chunk_size: U32,
    blob_size: U64,
    count: U64,
}

/// A chunk list in the bytes it was read from.
#[derive(Debug, Clone, Copy)]
pub struct ChunkList<'a> {
    blob_size: u64,
    digests: &'a [[u8; 32]],
}

impl<'a> ChunkList<'a> {
    /// Reads a chunk list.
    ///
    /// # Errors
    /// When the bytes are not a chunk list of this version, or their length is not what their header says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (header, rest) = Header::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
            format: FORMAT,
            need: size_of::<Header>() as u64,
            have: bytes.len() as u64,
        })?;
        if header.magic != MAGIC {
            return Err(FormatError::NotThisFormat { format: FORMAT, found: "other magic".into() });
        }
        if header.version.get() != VERSION {
            return Err(FormatError::Version { format: FORMAT, found: header.version.get(), supported: VERSION });
        }
        let damaged = |what: String| FormatError::Damaged { format: FORMAT, what };
        if header.chunk_size.get() != CHUNK_SIZE_FIELD {
            return Err(damaged(format!("chunk size {}, expected {CHUNK_SIZE}", header.chunk_size.get())));
        }
        let blob_size = header.blob_size.get();
        if header.count.get() != blob_size.div_ceil(CHUNK_SIZE as u64) {
            return Err(damaged(format!("{} chunks for a blob of {blob_size} bytes", header.count.get())));
        }
        if rest.len() as u64 != header.count.get().saturating_mul(32) {
            return Err(damaged(format!("{} bytes of digests for {} chunks", rest.len(), header.count.get())));
        }
        let (digests, _) = rest.as_chunks::<32>();
        Ok(Self { blob_size, digests })
    }

    /// Size of the blob in bytes.
    #[must_use]
    pub fn blob_size(&self) -> u64 {
        self.blob_size
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> usize {
        self.digests.len()
    }

    /// Whether the blob, and so the list, is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// The SHA-256 of the chunk with this number, counted from 0.
    #[must_use]
    pub fn digest(&self, index: usize) -> Option<Digest> {
        self.digests.get(index).map(|digest| Digest::from_bytes(*digest))
    }

    /// The chunks of `blob` that are not what the list says, as byte ranges; what `blob` lacks or has beyond the list's size counts as damaged.
    #[must_use]
    pub fn damaged(&self, blob: &[u8]) -> Vec<std::ops::Range<u64>> {
        let chunk = CHUNK_SIZE as u64;
        let mut damaged = Vec::new();
        let mut pieces = blob.chunks(CHUNK_SIZE);
        for (index, digest) in (0u64..).zip(self.digests) {
            let range = index * chunk..(index * chunk + chunk).min(self.blob_size);
            let whole =
                pieces.next().is_some_and(|piece| piece.len() as u64 == range.end - range.start && Digest::of(piece).as_bytes() == digest);
            if !whole {
                damaged.push(range);
            }
        }
        if blob.len() as u64 > self.blob_size {
            damaged.push(self.blob_size..blob.len() as u64);
        }
        damaged
    }
}

/// Makes the chunk list of `blob`.
#[must_use]
pub fn encode(blob: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new();
    builder.update(blob);
    builder.finish()
}

/// Makes the chunk list of a blob that arrives in pieces of any size.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    size: u64,
    /// Of the chunk that is not whole yet.
    hasher: DigestHasher,
    filled: usize,
    digests: Vec<[u8; 32]>,
}

impl Builder {
    /// Begins with no bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece.
    pub fn update(&mut self, mut piece: &[u8]) {
        self.size += piece.len() as u64;
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(CHUNK_SIZE - self.filled));
            self.hasher.update(now);
            self.filled += now.len();
            piece = later;
            if self.filled == CHUNK_SIZE {
                self.end_chunk();
            }
        }
    }

    fn end_chunk(&mut self) {
        self.digests.push(*std::mem::take(&mut self.hasher).finalize().as_bytes());
        self.filled = 0;
    }

    /// The chunk list of all pieces.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.end_chunk();
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            chunk_size: CHUNK_SIZE_FIELD.into(),
            blob_size: U64::new(self.size),
            count: U64::new(self.digests.len() as u64),
        };
        let mut bytes = Vec::with_capacity(size_of::<Header>() + self.digests.len() * 32);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(self.digests.as_flattened());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_damaged_chunk() {
        for size in [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 5 * CHUNK_SIZE + 77] {
            let mut blob: Vec<u8> = (0..size).map(|i| (i * 7 + i / 251).to_le_bytes()[0]).collect();
            let bytes = encode(&blob);
            let list = ChunkList::parse(&bytes).unwrap();
            assert_eq!(list.damaged(&blob), vec![]);
            assert_eq!(list.len(), size.div_ceil(CHUNK_SIZE));
            if let Some(last) = blob.last_mut() {
                *last ^= 1;
                let start = ((size - 1) / CHUNK_SIZE * CHUNK_SIZE) as u64;
                assert_eq!(list.damaged(&blob), vec![start..size as u64]);
                blob.pop();
                assert_eq!(list.damaged(&blob), vec![start..size as u64]);
            }
        }
    }

    #[test]
    fn pieces_make_the_list_of_the_whole() {
        let blob: Vec<u8> = (0..3 * CHUNK_SIZE + 5).map(|i| (i * 31 + i / 97).to_le_bytes()[0]).collect();
        for piece in [1000, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, blob.len()] {
            let mut builder = Builder::new();
            blob.chunks(piece).for_each(|piece| builder.update(piece));
            assert_eq!(builder.finish(), encode(&blob));
        }
        let bytes = encode(&blob);
        let list = ChunkList::parse(&bytes).unwrap();
        assert_eq!(list.digest(3), Some(Digest::of(&blob[3 * CHUNK_SIZE..])));
        assert_eq!(list.digest(4), None);
    }

    #[test]
    fn a_longer_blob_is_damaged() {
        let bytes = encode(b"abc");
        let list = ChunkList::parse(&bytes).unwrap();
        assert_eq!(list.damaged(b"abcd"), vec![0..3, 3..4]);
    }

    #[test]
    fn refuses_other_lengths_and_versions() {
        let bytes = encode(&[7; CHUNK_SIZE + 1]);
        assert!(matches!(ChunkList::parse(&bytes[..31]), Err(FormatError::Truncated { .. })));
        assert!(matches!(ChunkList::parse(&bytes[..bytes.len() - 1]), Err(FormatError::Damaged { .. })));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(ChunkList::parse(&newer).unwrap_err(), FormatError::Version { format: FORMAT, found: 2, supported: 1 });
        let mut claims = bytes;
        claims[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        claims[24..32].copy_from_slice(&(u64::MAX.div_ceil(CHUNK_SIZE as u64)).to_le_bytes());
        assert!(matches!(ChunkList::parse(&claims), Err(FormatError::Damaged { .. })));
    }
}
