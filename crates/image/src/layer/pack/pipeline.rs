//! The threads of a pack: tar building (the caller), hashing, compressing, writing.
//!
//! ```text
//!            +-> hasher                               diff_id
//!  walk -----+-> workers --(one result each)--+
//!            +-> results, in order -----------+-> writer   digest, blocks
//! ```
//! Every queue is bounded, so memory is a few blocks per thread whatever the size of the tree.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use cofferdam_digest::{Digest, Digester, Digesting};
use crc32fast::Hasher as Crc;

use super::cutter::{Cutter, Sink};
use super::error::PackError;
use super::{Block, BlockKey, Compression, PackOptions, Packed, codec};

/// Blocks under way per compressing thread.
const BLOCKS_PER_THREAD: usize = 3;
/// More threads than this only cost memory.
const MAX_THREADS: usize = 64;
/// A tar ends with two empty blocks.
const END: [u8; 1024] = [0; 1024];

struct Task {
    block: Arc<Vec<u8>>,
    result: SyncSender<Result<Encoded, PackError>>,
}

struct Encoded {
    bytes: Vec<u8>,
    /// How many bytes these were before they were compressed, and their checksum.
    length: u64,
    crc: Crc,
    /// Of `bytes`, when they are listed.
    sum: u32,
    key: Option<BlockKey>,
    reused: bool,
}

/// Buffers of blocks that are done with: one that was never used costs a page fault for every 4 KiB.
#[derive(Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer.
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Whoever lets go of a block last leaves its buffer here.
    fn release(&self, block: Arc<Vec<u8>>) {
        let Some(mut buffer) = Arc::into_inner(block) else { return };
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

type Results = Receiver<Receiver<Result<Encoded, PackError>>>;

struct Written {
    digest: Digest,
    size: u64,
    blocks: Vec<Block>,
    reused: u64,
}

/// Runs `build`, which writes the tar and returns its number of entries, and everything behind it.
pub(super) fn run(
    options: &PackOptions<'_>,
    out: impl Write + Send,
    build: impl FnOnce(&mut dyn Sink) -> Result<u64, PackError>,
) -> Result<Packed, PackError> {
    let threads = options.threads.clamp(1, MAX_THREADS);
    let depth = threads * BLOCKS_PER_THREAD;
    let buffers = &Buffers::default();
    std::thread::scope(|scope| {
        let (to_hasher, from_walk) = sync_channel::<Arc<Vec<u8>>>(depth);
        let (to_workers, tasks) = sync_channel::<Task>(depth);
        let (to_writer, results) = sync_channel(depth);
        let tasks = Arc::new(Mutex::new(tasks));
        let hasher = spawn(scope, "pack-hash", move || hash(&from_walk, buffers))?;
        for _ in 0..threads {
            let tasks = Arc::clone(&tasks);
            spawn(scope, "pack-compress", move || compress(options, &tasks, buffers))?;
        }
        drop(tasks);
        let writer = spawn(scope, "pack-write", move || write(options, &results, out))?;

        let mut cutter = Cutter::new(move |block| {
            let block = Arc::new(block);
            let (result, slot) = sync_channel(1);
            to_hasher.send(Arc::clone(&block)).map_err(|_| PackError::Worker)?;
            to_writer.send(slot).map_err(|_| PackError::Worker)?;
            to_workers.send(Task { block, result }).map_err(|_| PackError::Worker)?;
            Ok(buffers.take())
        });
        let built = build(&mut cutter).and_then(|entries| {
            cutter.write(&END)?;
            cutter.finish()?;
            Ok(entries)
        });
        let (diff_id, uncompressed_size) = hasher.join().map_err(|_| PackError::Worker)?;
        let written = writer.join().map_err(|_| PackError::Worker)?;
        // A writer that failed makes the walk fail too; its error is the one that says why.
        let entries = match (&built, &written) {
            (Err(PackError::Worker), Err(_)) => 0,
            _ => built?,
        };
        let written = written?;
        Ok(Packed {
            digest: written.digest,
            size: written.size,
            diff_id,
            uncompressed_size,
            entries,
            annotations: std::collections::BTreeMap::new(),
            blocks: written.blocks,
            reused_blocks: written.reused,
        })
    })
}

/// Starts a thread by the name that a profile of it should have.
fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>, PackError> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn_scoped(scope, work).map_err(PackError::Thread)
}

fn hash(blocks: &Receiver<Arc<Vec<u8>>>, buffers: &Buffers) -> (Digest, u64) {
    let mut digester = Digester::new();
    for block in blocks {
        digester.update(block.as_slice());
        buffers.release(block);
    }
    let size = digester.len();
    (digester.finish(), size)
}

fn compress(options: &PackOptions<'_>, tasks: &Mutex<Receiver<Task>>, buffers: &Buffers) {
    let mut encoder = codec::Encoder::new(options.compression);
    loop {
        let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { return };
        let encoded = match &mut encoder {
            Ok(encoder) => encode(options, encoder, &task.block),
            Err(error) => Err(PackError::Compress(error.kind().into())),
        };
        // The writer is gone when it failed; then nobody needs this.
        let _ = task.result.send(encoded);
        buffers.release(task.block);
    }
}

fn encode(
    options: &PackOptions<'_>,
    encoder: &mut codec::Encoder,
    block: &[u8],
) -> Result<Encoded, PackError> {
    let compression = options.compression;
    let compressed = compression != Compression::Uncompressed;
    let wanted = compressed && (options.index || options.prior.is_some());
    let key = wanted.then(|| codec::key(compression, block));
    let crc = codec::checksum(compression, block);
    let known = key.as_ref().and_then(|key| options.prior?.block(key));
    let reused = known.is_some();
    let bytes = match known {
        Some(bytes) => bytes,
        None => encoder.encode(block).map_err(PackError::Compress)?,
    };
    let sum = if key.is_some() && options.index { codec::sum(&bytes) } else { 0 };
    Ok(Encoded { bytes, length: block.len() as u64, crc, sum, key, reused })
}

fn write(
    options: &PackOptions<'_>,
    results: &Results,
    out: impl Write,
) -> Result<Written, PackError> {
    let mut out = Digesting::new(out);
    out.write_all(codec::prologue(options.compression)).map_err(PackError::Write)?;
    let (mut length, mut crc) = (0, Crc::new());
    let mut blocks = Vec::new();
    let mut reused = 0;
    for slot in results {
        let encoded = slot.recv().map_err(|_| PackError::Worker)??;
        if let Some(key) = encoded.key.filter(|_| options.index) {
            let size = u32::try_from(encoded.bytes.len()).map_err(|_| PackError::Worker)?;
            blocks.push(Block { key, offset: out.len(), size, crc: encoded.sum });
        }
        reused += u64::from(encoded.reused);
        length += encoded.length;
        crc.combine(&encoded.crc);
        out.write_all(&encoded.bytes).map_err(PackError::Write)?;
    }
    out.write_all(&codec::epilogue(options.compression, crc, length)).map_err(PackError::Write)?;
    out.flush().map_err(PackError::Write)?;
    let (_, digest, size) = out.finish();
    Ok(Written { digest, size, blocks, reused })
}
