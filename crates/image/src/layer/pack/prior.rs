//! Blocks that were compressed by an earlier pack.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use cofferdam_digest::Digest;

use super::Block;

/// Finds blocks compressed earlier.
///
/// What is returned goes into the new blob as it is, so a source must be as trustworthy as the
/// store it reads.
pub trait BlockSource: Sync {
    /// The compressed bytes of the block named `key`; `None` when unknown and on any trouble.
    fn block(&self, key: &Digest) -> Option<Vec<u8>>;
}

/// The blocks of one earlier blob.
pub struct PriorBlob {
    file: File,
    index: HashMap<Digest, (u64, u32)>,
}

impl PriorBlob {
    /// `blocks` as listed when the blob in `file` was packed.
    #[must_use]
    pub fn new(file: File, blocks: &[Block]) -> Self {
        let index = blocks.iter().map(|block| (block.key, (block.offset, block.size))).collect();
        Self { file, index }
    }
}

impl BlockSource for PriorBlob {
    fn block(&self, key: &Digest) -> Option<Vec<u8>> {
        let (offset, size) = *self.index.get(key)?;
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}
