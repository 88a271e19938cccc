//! The blocks of earlier packs: a layer that is packed again because one file changed takes over what
//! did not change instead of compressing it again, also after a restart.
//!
//! What is taken over goes into a layer unseen, and a wrong block would be a corrupt layer with a valid
//! digest. It is trusted because it is our own: only blobs that this builder packed are listed, at the
//! places where the packer put their blocks; they lie in the builder's store, which no step and no other
//! project can open and where no file is written to again; and a block's name is a digest of what it holds
//! and of the compressor in its exact version, so that a tenant cannot make two contents share one. Against
//! a failing disk, a list has a digest of its own, each block a checksum that is compared when it is read,
//! and no place outside of the blob is looked at. Whatever is wrong, the block is compressed anew.
//!
//! Never keeps a blob from being deleted, save while a pack reads it, and never fails a pack.

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cofferdam_digest::{Digest, Digester};
use cofferdam_image::layer::{Block, BlockKey, BlockSource, Packed};
use cofferdam_store::{Blob, Store};

/// Kind of store documents that list the blocks of a blob, by the blob's digest.
const KIND: &str = "packed-blocks";
/// Start of such a document; another one is for another encoding.
const FORMAT: &[u8; 8] = b"blocks 2";
/// Bytes of one block in it: key, offset, size, checksum.
const ENTRY: usize = 32 + 8 + 4 + 4;

/// How much is remembered.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Smaller blobs are compressed again sooner than they are looked for.
    least_bytes: u64,
    blobs: usize,
    /// Of all blobs together: some 10 MB in memory, and as much in documents.
    blocks: usize,
}

const BOUNDS: Bounds = Bounds { least_bytes: 1 << 20, blobs: 64, blocks: 200_000 };

/// The blocks of one blob.
#[derive(Debug, PartialEq, Eq)]
struct Index {
    blob: Digest,
    /// Greater than that of every blob packed before.
    turn: u64,
    /// Sorted by key.
    blocks: Vec<Block>,
}

/// What earlier packs into one store compressed.
pub(crate) struct PackedBlocks {
    store: Arc<Store>,
    /// In the order of packing. Read at first use; locked for work in memory only.
    known: OnceLock<Mutex<Vec<Arc<Index>>>>,
    bounds: Bounds,
}

impl PackedBlocks {
    /// Those of the blobs in `store`.
    pub(crate) const fn new(store: Arc<Store>) -> Self {
        Self { store, known: OnceLock::new(), bounds: BOUNDS }
    }

    /// The store whose blobs they are.
    pub(crate) const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// All blocks known by now, for one pack. *Blocking* when it is the first.
    pub(crate) fn source(&self) -> Source<'_> {
        let earlier =
            |index: &Arc<Index>| Earlier { index: Arc::clone(index), opened: OnceLock::new() };
        // The last packed first: it has most of what the next one wants.
        let earlier = self.known().iter().rev().map(earlier).collect();
        Source { store: &self.store, earlier }
    }

    /// Remembers the blocks of a blob that was packed into the store just now. *Blocking.*
    pub(crate) fn remember(&self, packed: &Packed) {
        let count = packed.blocks.len();
        if packed.reused_blocks > 0 {
            let (blob, reused) = (packed.digest, packed.reused_blocks);
            tracing::debug!(%blob, reused, count, "a layer took over blocks of earlier ones");
        }
        if packed.size < self.bounds.least_bytes || count == 0 || count > self.bounds.blocks {
            return;
        }
        let mut blocks = packed.blocks.clone();
        blocks.sort_unstable_by_key(|block| block.key);
        blocks.dedup_by_key(|block| block.key);
        let (index, dropped) = {
            let mut known = self.known();
            let turn = known.last().map_or(0, |last| last.turn).saturating_add(1);
            let index = Arc::new(Index { blob: packed.digest, turn, blocks });
            known.retain(|other| other.blob != index.blob);
            known.push(Arc::clone(&index));
            (index, trim(&mut known, self.bounds))
        };
        if let Err(error) = self.store.note_document(KIND, &index.blob.to_string(), &index.encode())
        {
            tracing::warn!(blob = %index.blob, %error, "cannot note the blocks of a layer");
        }
        self.forget(&dropped);
        self.forget_gone();
    }

    fn known(&self) -> MutexGuard<'_, Vec<Arc<Index>>> {
        let known = self.known.get_or_init(|| Mutex::new(self.load()));
        known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted before the builder was started.
    fn load(&self) -> Vec<Arc<Index>> {
        let documents = self.store.documents(KIND).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the blocks of earlier layers");
            Vec::new()
        });
        let mut known = Vec::with_capacity(documents.len());
        for document in documents {
            let index = Index::decode(&document.key, &document.bytes);
            match index.filter(|index| self.store.blob(&index.blob).is_some()) {
                Some(index) => known.push(Arc::new(index)),
                None => self.forget_document(&document.key),
            }
        }
        known.sort_by_key(|index| index.turn);
        let dropped = trim(&mut known, self.bounds);
        self.forget(&dropped);
        known
    }

    /// Forgets the blobs that are no longer in the store.
    fn forget_gone(&self) {
        let mut gone: Vec<Digest> = self.known().iter().map(|index| index.blob).collect();
        gone.retain(|blob| self.store.blob(blob).is_none());
        if !gone.is_empty() {
            self.known().retain(|index| !gone.contains(&index.blob));
            self.forget(&gone);
        }
    }

    fn forget(&self, blobs: &[Digest]) {
        for blob in blobs {
            self.forget_document(&blob.to_string());
        }
    }

    fn forget_document(&self, key: &str) {
        if let Err(error) = self.store.forget_document(KIND, key) {
            tracing::warn!(key, %error, "cannot forget the blocks of a layer");
        }
    }
}

/// Drops the oldest until the rest is within the bounds; gives their blobs.
fn trim(known: &mut Vec<Arc<Index>>, bounds: Bounds) -> Vec<Digest> {
    let mut blocks = 0;
    let fits = |index: &&Arc<Index>| {
        blocks += index.blocks.len();
        blocks <= bounds.blocks
    };
    let kept = known.iter().rev().take(bounds.blobs).take_while(fits).count();
    let dropped = known.len() - kept;
    known.drain(..dropped).map(|index| index.blob).collect()
}

impl Index {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FORMAT.len() + 8 + self.blocks.len() * ENTRY + 32);
        bytes.extend_from_slice(FORMAT);
        bytes.extend_from_slice(&self.turn.to_le_bytes());
        for block in &self.blocks {
            bytes.extend_from_slice(&block.key.0);
            bytes.extend_from_slice(&block.offset.to_le_bytes());
            bytes.extend_from_slice(&block.size.to_le_bytes());
            bytes.extend_from_slice(&block.crc.to_le_bytes());
        }
        let sum = sum(&self.blob, &bytes);
        bytes.extend_from_slice(sum.as_bytes());
        bytes
    }

    /// `None` for what is damaged or of another version.
    fn decode(key: &str, bytes: &[u8]) -> Option<Self> {
        let blob = Digest::parse(key).ok()?;
        let (body, found) = bytes.split_last_chunk::<32>()?;
        if sum(&blob, body).as_bytes() != found {
            return None;
        }
        let (turn, entries) = body.strip_prefix(FORMAT)?.split_first_chunk::<8>()?;
        let entries = entries.chunks_exact(ENTRY);
        if !entries.remainder().is_empty() {
            return None;
        }
        let blocks = entries.map(decode_block).collect::<Option<Vec<Block>>>()?;
        Some(Self { blob, turn: u64::from_le_bytes(*turn), blocks })
    }
}

fn decode_block(entry: &[u8]) -> Option<Block> {
    let (key, rest) = entry.split_first_chunk::<32>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let (crc, _) = rest.split_first_chunk::<4>()?;
    Some(Block {
        key: BlockKey(*key),
        offset: u64::from_le_bytes(*offset),
        size: u32::from_le_bytes(*size),
        crc: u32::from_le_bytes(*crc),
    })
}

/// Tells a list that was damaged, or that is another blob's.
fn sum(blob: &Digest, body: &[u8]) -> Digest {
    let mut digester = Digester::new();
    digester.field(blob.as_bytes());
    digester.field(body);
    digester.finish()
}

/// The blocks that one pack may take over. Blobs it reads are held until it is dropped.
pub(crate) struct Source<'a> {
    store: &'a Store,
    earlier: Vec<Earlier>,
}

struct Earlier {
    index: Arc<Index>,
    /// `None` when the blob is gone.
    opened: OnceLock<Option<(Blob, File)>>,
}

impl BlockSource for Source<'_> {
    fn block(&self, key: &BlockKey) -> Option<Vec<u8>> {
        self.earlier.iter().find_map(|earlier| earlier.block(self.store, key))
    }
}

impl Earlier {
    fn block(&self, store: &Store, key: &BlockKey) -> Option<Vec<u8>> {
        let found = self.index.blocks.binary_search_by_key(key, |block| block.key).ok()?;
        let block = self.index.blocks.get(found)?;
        let opened = self.opened.get_or_init(|| {
            let blob = store.blob(&self.index.blob)?;
            let file = blob.open().ok()?;
            Some((blob, file))
        });
        let (blob, file) = opened.as_ref()?;
        let end = block.offset.checked_add(block.size.into());
        let bytes = end.filter(|end| *end <= blob.size()).and_then(|_| block.read(file));
        if bytes.is_none() {
            tracing::warn!(blob = %self.index.blob, offset = block.offset, "a block of an earlier layer is not what it was");
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
