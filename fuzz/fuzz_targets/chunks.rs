//! Chunk lists: of any bytes, and made for a blob that is then damaged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use preheat_image::chunks::{self, CHUNK_SIZE, ChunkList};

fuzz_target!(|data: &[u8]| {
    if let Ok(list) = ChunkList::parse(data) {
        assert_eq!(32 + 32 * list.len(), data.len());
        assert_eq!(list.is_empty(), list.blob_size() == 0);
        // A list of all but the last bytes, held against them: ranges in order, within the blob.
        let damaged = list.damaged(data);
        let mut end = 0;
        for range in &damaged {
            assert!(range.start >= end && range.end > range.start);
            end = range.end;
        }
        assert!(damaged.len() <= list.len() + 1 && end <= list.blob_size().max(data.len() as u64));
    }
    let bytes = chunks::encode(data);
    let list = ChunkList::parse(&bytes).expect("what was written is a chunk list");
    assert_eq!(list.blob_size(), data.len() as u64);
    assert!(list.damaged(data).is_empty());
    if let Some((first, rest)) = data.split_first() {
        let mut blob = data.to_vec();
        let at = rest.len() * usize::from(*first) / 256;
        blob[at] ^= 1 << (first % 8);
        let start = (at / CHUNK_SIZE * CHUNK_SIZE) as u64;
        assert_eq!(list.damaged(&blob), vec![start..(start + CHUNK_SIZE as u64).min(data.len() as u64)]);
    }
});
