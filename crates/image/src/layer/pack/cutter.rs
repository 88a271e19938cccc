//! Cuts the tar into blocks that are compressed separately.
//!
//! Where a block ends depends on nearby names and sizes only, so that a change in one place moves
//! no bounds elsewhere: blocks end between entries, at names chosen by a hash, and large files are
//! cut at fixed distances from their own start.

use super::error::PackError;

/// Blocks between entries are at least this long (except around large files) …
const MIN_BLOCK: usize = 512 << 10;
/// … and end at the next entry boundary from here on.
const MAX_BLOCK: usize = 2 << 20;
/// Files from this size on are cut into blocks of this size.
const FILE_BLOCK: usize = 1 << 20;
/// One in so many names ends a block that is long enough.
const NAMES_PER_CUT: u64 = 8;

/// Where a tar is written to.
pub(super) trait Sink {
    /// An entry with this name starts.
    fn entry(&mut self, path: &[u8]) -> Result<(), PackError>;
    /// So many bytes of file content start.
    fn data_follows(&mut self, size: u64) -> Result<(), PackError>;
    /// Bytes of the tar.
    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError>;
}

/// Hands complete blocks to `emit`, which gives an empty buffer for the next one.
pub(super) struct Cutter<E> {
    block: Vec<u8>,
    /// Content bytes of a large file still to come.
    in_file: u64,
    emit: E,
}

impl<E: FnMut(Vec<u8>) -> Result<Vec<u8>, PackError>> Cutter<E> {
    pub(super) const fn new(emit: E) -> Self {
        Self { block: Vec::new(), in_file: 0, emit }
    }

    /// Emits what is left.
    pub(super) fn finish(mut self) -> Result<(), PackError> {
        self.cut()
    }

    fn cut(&mut self) -> Result<(), PackError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.block = (self.emit)(std::mem::take(&mut self.block))?;
        // Nearly every block is a little longer than the least.
        self.block.reserve(FILE_BLOCK);
        Ok(())
    }
}

impl<E: FnMut(Vec<u8>) -> Result<Vec<u8>, PackError>> Sink for Cutter<E> {
    fn entry(&mut self, path: &[u8]) -> Result<(), PackError> {
        let length = self.block.len();
        if length >= MAX_BLOCK || (length >= MIN_BLOCK && hash(path).is_multiple_of(NAMES_PER_CUT))
        {
            self.cut()?;
        }
        Ok(())
    }

    fn data_follows(&mut self, size: u64) -> Result<(), PackError> {
        if size >= FILE_BLOCK as u64 {
            self.in_file = size;
            self.cut()?;
        }
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), PackError> {
        while self.in_file > 0 && !bytes.is_empty() {
            let room = FILE_BLOCK - self.block.len();
            let of_file = usize::try_from(self.in_file).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(of_file).min(bytes.len()));
            self.block.extend_from_slice(now);
            self.in_file -= now.len() as u64;
            bytes = rest;
            if self.block.len() == FILE_BLOCK {
                self.cut()?;
            }
        }
        self.block.extend_from_slice(bytes);
        Ok(())
    }
}

/// FNV-1a: stable across versions and machines, unlike the standard library's hasher.
fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // The low bits of FNV are weak for similar names.
    folded ^ (folded >> 32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn blocks(changed: bool) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        let mut cutter = Cutter::new(|block| {
            blocks.push(block);
            Ok(Vec::new())
        });
        for number in 0..3000_u32 {
            if changed && number == 10 {
                cutter.entry(b"new").unwrap();
                cutter.write(&[1; 512]).unwrap();
            }
            cutter.entry(format!("dir/file{number}").as_bytes()).unwrap();
            cutter.write(&number.to_le_bytes().repeat(1000)).unwrap();
            if number == 1500 {
                cutter.data_follows((3 << 20) + 5).unwrap();
                cutter.write(&vec![7; (3 << 20) + 5]).unwrap();
            }
        }
        cutter.finish().unwrap();
        blocks
    }

    #[test]
    fn a_change_stays_local() {
        let before = blocks(false);
        let after = blocks(true);
        assert!(before.len() > 10);
        let known = after.iter().filter(|block| before.contains(block)).count();
        assert!(after.len() - known <= 3, "{known} of {} blocks are known", after.len());
        assert!(before.iter().all(|block| block.len() <= MAX_BLOCK + 8192));
    }
}
