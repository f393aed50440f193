//! Chunk lists of blobs, from their files.

use super::files::FileLayer;
use super::local::wrong;
use super::{Seal, StorageError};
use bytes::Bytes;
use preheat_image::chunks::CHUNK_SIZE;
use std::collections::VecDeque;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Lists from this size on, in bytes, are kept: each reader of a part of a very large blob would else read, and hold, megabytes.
const KEPT_FROM: u64 = 64 * 1024;
/// Kept lists are this long together at most, in bytes, but there is always room for one.
const KEPT: usize = 16 * 1024 * 1024;

/// Reads chunk lists, and keeps those of very large blobs that were read last.
#[derive(Debug, Default)]
pub(super) struct Lists {
    kept: Mutex<VecDeque<(Seal, Bytes)>>,
}

impl Lists {
    /// The chunk list of a blob of `size` bytes, as it is; `None` if there is none, or one that can't be that blob's.
    pub(super) fn read<F: FileLayer>(&self, layer: &F, path: &Path, size: u64) -> Result<Option<Bytes>, StorageError> {
        let Some(mut file) = layer.open(path).map_err(wrong("open", path))? else { return Ok(None) };
        let seal = super::local::seal(&file).map_err(wrong("look at", path))?;
        if seal.size > 32 + 32 * size.div_ceil(CHUNK_SIZE as u64) {
            return Ok(None);
        }
        if let Some(list) = self.get(&seal) {
            return Ok(Some(list));
        }
        let mut list = vec![0; usize::try_from(seal.size).unwrap_or_default()];
        file.read_exact(&mut list).map_err(wrong("read", path))?;
        let list = Bytes::from(list);
        if seal.size >= KEPT_FROM {
            self.keep(seal, list.clone());
        }
        Ok(Some(list))
    }

    fn get(&self, seal: &Seal) -> Option<Bytes> {
        if seal.size < KEPT_FROM {
            return None;
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(of, _)| of == seal).map(|(_, list)| list.clone())
    }

    fn keep(&self, seal: Seal, list: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((seal, list));
        while kept.len() > 1 && kept.iter().map(|(_, list)| list.len()).sum::<usize>() > KEPT {
            kept.pop_front();
        }
    }
}
