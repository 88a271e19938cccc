//! Digests of a mirror's files on disk, so that a builder that was idle and ended knows them when it starts again.
//!
//! They lie beside the mirror, in the directory that no step and no client sees, and go with it: a mirror that may not
//! hold what was written to it, as after a power cut, is not there any more, and neither are they. What is read is
//! believed as far as what is in memory is: inode, size and both times of a file have to be the same. Whatever is damaged,
//! of another builder's ids or of another form is as if it were not there. Must never keep a digest that memory did not.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use cofferdam_digest::{Digest, Digester};
use cofferdam_store::IdRange;
use rustix::fs::{Mode, OFlags};

use super::known::Stamp;

/// Their file, and the one that takes its place.
const NAME: &str = "digests";
const NEW_NAME: &str = "digests.new";
/// Start of the file. To be changed with its form, and with what the digest of a file covers.
const FORMAT: &[u8; 8] = b"digest 1";
/// Before the entries: the form and the ids.
const HEAD: usize = FORMAT.len() + 8;
/// Bytes of one entry: inode, size, two times, digest.
const ENTRY: usize = 8 + 8 + 2 * (8 + 4) + 32;
/// Behind them: a digest of all.
const SUM: usize = 32;
/// Files of one mirror that are kept, some 14 MB; what has more is read anew.
const MAX_ENTRIES: usize = 200_000;

/// One file: inode, state and digest.
pub(super) type Entry = (u64, Stamp, Digest);

/// Where the digests of one mirror are kept.
pub(super) struct Kept {
    state: OwnedFd,
    ids: IdRange,
}

impl Kept {
    /// In the directory `state`, of digests that were made with `ids`.
    pub(super) const fn new(state: OwnedFd, ids: IdRange) -> Self {
        Self { state, ids }
    }

    /// The file system that the mirror is on. Its number may be another one after a restart of the machine, so it is not kept.
    #[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
    pub(super) fn device(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.state)?.st_dev as u64)
    }

    /// What was kept; nothing where that cannot be told. *Blocking.*
    pub(super) fn load(&self) -> Vec<Entry> {
        match self.read() {
            Ok(bytes) => decode(&bytes, self.ids).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::debug!(%error, "digests of a mirror cannot be read");
                Vec::new()
            }
        }
    }

    /// Keeps these in place of what was kept. *Blocking.*
    pub(super) fn save(&self, entries: &[Entry]) -> io::Result<()> {
        // Most of so many are of files that are gone.
        let entries = if entries.len() > MAX_ENTRIES { &[] } else { entries };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = self.open(NEW_NAME, flags)?;
        file.write_all(&encode(entries, self.ids))?;
        rustix::fs::renameat(&self.state, NEW_NAME, &self.state, NAME)?;
        Ok(())
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let most = HEAD + MAX_ENTRIES * ENTRY + SUM;
        let mut bytes = Vec::new();
        self.open(NAME, OFlags::RDONLY)?.take(most as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn open(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(File::from(rustix::fs::openat(self.state.as_fd(), name, flags, mode)?))
    }
}

fn encode(entries: &[Entry], ids: IdRange) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + entries.len() * ENTRY + SUM);
    bytes.extend_from_slice(FORMAT);
    bytes.extend_from_slice(&ids.first.to_le_bytes());
    bytes.extend_from_slice(&ids.count.to_le_bytes());
    for (inode, stamp, digest) in entries {
        bytes.extend_from_slice(&inode.to_le_bytes());
        bytes.extend_from_slice(&stamp.size.to_le_bytes());
        for (seconds, nanoseconds) in [stamp.modified, stamp.changed] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
            bytes.extend_from_slice(&nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(digest.as_bytes());
    }
    let sum = sum(&bytes);
    bytes.extend_from_slice(sum.as_bytes());
    bytes
}

/// `None` for what is damaged, of other ids or of another form.
fn decode(bytes: &[u8], ids: IdRange) -> Option<Vec<Entry>> {
    let (body, found) = bytes.split_last_chunk::<SUM>()?;
    if sum(body).as_bytes() != found {
        return None;
    }
    let (first, rest) = body.strip_prefix(FORMAT)?.split_first_chunk::<4>()?;
    let (count, entries) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*first) != ids.first || u32::from_le_bytes(*count) != ids.count {
        return None;
    }
    let entries = entries.chunks_exact(ENTRY);
    if !entries.remainder().is_empty() {
        return None;
    }
    entries.map(decode_entry).collect()
}

fn decode_entry(entry: &[u8]) -> Option<Entry> {
    let (inode, rest) = entry.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (modified, rest) = decode_time(rest)?;
    let (changed, rest) = decode_time(rest)?;
    let (digest, _) = rest.split_first_chunk::<32>()?;
    let stamp = Stamp { size: u64::from_le_bytes(*size), modified, changed };
    Some((u64::from_le_bytes(*inode), stamp, Digest::from_bytes(*digest)))
}

fn decode_time(bytes: &[u8]) -> Option<((i64, u32), &[u8])> {
    let (seconds, rest) = bytes.split_first_chunk::<8>()?;
    let (nanoseconds, rest) = rest.split_first_chunk::<4>()?;
    Some(((i64::from_le_bytes(*seconds), u32::from_le_bytes(*nanoseconds)), rest))
}

/// Tells a file that was damaged or torn.
fn sum(body: &[u8]) -> Digest {
    let mut digester = Digester::new();
    digester.field("digests of a mirror");
    digester.field(body);
    digester.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::path::Path;

    const IDS: IdRange = IdRange { first: 100_000, count: 65_536 };

    fn kept(directory: &Path, ids: IdRange) -> Kept {
        Kept::new(File::open(directory).unwrap().into(), ids)
    }

    fn entries(count: u64) -> Vec<Entry> {
        let stamp = |index: u64| Stamp {
            size: index,
            modified: (-1, 999_999_999),
            changed: (i64::MAX, u32::try_from(index).unwrap()),
        };
        (0..count).map(|index| (index, stamp(index), Digest::of(index.to_string()))).collect()
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_damaged_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let kept_here = kept(directory.path(), IDS);
        assert!(kept_here.load().is_empty());
        kept_here.save(&entries(9)).unwrap();
        kept_here.save(&entries(3)).unwrap();
        assert!(kept_here.load() == entries(3));
        let others = IdRange { first: 200_000, ..IDS };
        assert!(kept(directory.path(), others).load().is_empty());
        let file = directory.path().join(NAME);
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).unwrap();
            assert!(kept_here.load().is_empty(), "byte {at}");
            std::fs::write(&file, &whole[..at]).unwrap();
            assert!(kept_here.load().is_empty(), "{at} bytes");
        }
        std::fs::write(&file, &whole).unwrap();
        assert!(kept_here.load() == entries(3));
    }

    #[test]
    fn no_more_is_kept_than_is_worth_it() {
        let directory = tempfile::tempdir().unwrap();
        let kept = kept(directory.path(), IDS);
        kept.save(&entries(MAX_ENTRIES as u64)).unwrap();
        assert_eq!(kept.load().len(), MAX_ENTRIES);
        kept.save(&entries(MAX_ENTRIES as u64 + 1)).unwrap();
        assert!(kept.load().is_empty());
    }
}
