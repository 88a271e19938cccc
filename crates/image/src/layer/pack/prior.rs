//! Blocks that were compressed by an earlier pack.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Block, codec};

/// Blocks hold some 3 MiB before they are compressed. An index that says much more is not believed,
/// and never makes anybody allocate it.
const MAX_BLOCK_BYTES: u32 = 8 << 20;

/// Names the uncompressed bytes of a block and how they were compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey(pub [u8; 32]);

/// Finds blocks compressed earlier.
///
/// What is returned goes into the new blob as it is, so a source must be as trustworthy as the
/// store it reads.
pub trait BlockSource: Sync {
    /// The compressed bytes of the block named `key`; `None` when unknown and on any trouble.
    fn block(&self, key: &BlockKey) -> Option<Vec<u8>>;
}

impl Block {
    /// Reads the block's compressed bytes from the blob it was listed for; `None` on any trouble,
    /// also when they are not those that were written.
    #[must_use]
    pub fn read(&self, blob: &File) -> Option<Vec<u8>> {
        if self.size > MAX_BLOCK_BYTES {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(self.size).ok()?];
        blob.read_exact_at(&mut bytes, self.offset).ok()?;
        (codec::sum(&bytes) == self.crc).then_some(bytes)
    }
}

/// The blocks of one earlier blob.
pub struct PriorBlob {
    file: File,
    index: HashMap<BlockKey, Block>,
}

impl PriorBlob {
    /// `blocks` as listed when the blob in `file` was packed.
    #[must_use]
    pub fn new(file: File, blocks: &[Block]) -> Self {
        Self { file, index: blocks.iter().map(|block| (block.key, *block)).collect() }
    }
}

impl BlockSource for PriorBlob {
    fn block(&self, key: &BlockKey) -> Option<Vec<u8>> {
        self.index.get(key)?.read(&self.file)
    }
}
