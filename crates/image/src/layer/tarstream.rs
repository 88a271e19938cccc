//! A strict streaming reader of tar archives.
//!
//! Field decoding is the `tar` crate's; the framing is done here, because what matters is that
//! this reader and every other one see the same entries (CVE-2025-62518 and relatives): sizes in
//! extended headers that contradict the main header, duplicate keys, GNU and PAX long names on
//! the same entry, data behind entries that have none and bytes behind the end (but for the table of an eStargz) are all refused.

use std::io::Read;

use tar::{EntryType, Header};

use super::error::ApplyError;
use super::limits::{MAX_EXTENDED_HEADER, MAX_PATH};

mod pax;

use pax::Pax;

const BLOCK: usize = 512;
/// What an eStargz calls its table of contents, the only file of a second tar behind the first.
pub(crate) const ESTARGZ_TABLE: &[u8] = b"stargz.index.json";
/// Sizes up to this fit into the 11 octal digits of a plain header.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;
/// Each entry may be preceded by at most one of each kind of extended header.
const MAX_EXTENDED_HEADERS: usize = 4;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
    Device,
}

/// One entry; its data follows through [`TarStream::data`].
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) struct TarStream<R> {
    reader: R,
    offset: u64,
    /// Data bytes of the current entry not read yet.
    remaining: u64,
    /// Zero bytes behind them.
    padding: u64,
}

/// Extended headers collected for the next entry.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> TarStream<R> {
    pub(crate) const fn new(reader: R) -> Self {
        Self { reader, offset: 0, remaining: 0, padding: 0 }
    }

    pub(crate) const fn malformed(&self, reason: &'static str) -> ApplyError {
        ApplyError::Malformed { offset: self.offset, reason }
    }

    /// The next entry, or `None` at the end, when everything behind the end was seen to be zero.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ApplyError> {
        self.skip_data()?;
        let mut extended = Extended::default();
        for _ in 0..=MAX_EXTENDED_HEADERS {
            let Some(header) = self.header()? else {
                if extended.pax.is_some()
                    || extended.long_path.is_some()
                    || extended.long_link.is_some()
                {
                    return Err(self.malformed("the archive ends after an extended header"));
                }
                return Ok(None);
            };
            match header.entry_type() {
                EntryType::XHeader => {
                    let body = self.body(&header)?;
                    let pax = Pax::parse(&body).map_err(|reason| self.malformed(reason))?;
                    if extended.pax.replace(pax).is_some() {
                        return Err(self.malformed("two extended headers for one entry"));
                    }
                }
                EntryType::XGlobalHeader => {
                    let body = self.body(&header)?;
                    let pax = Pax::parse(&body).map_err(|reason| self.malformed(reason))?;
                    if pax.changes_framing() {
                        return Err(self.malformed("a global header sets names or sizes"));
                    }
                }
                EntryType::GNULongName => self.long(&header, &mut extended.long_path)?,
                EntryType::GNULongLink => self.long(&header, &mut extended.long_link)?,
                _ => return self.entry(&header, extended).map(Some),
            }
        }
        Err(self.malformed("too many extended headers"))
    }

    /// Reads data of the current entry; 0 at its end.
    pub(crate) fn data(&mut self, buffer: &mut [u8]) -> Result<usize, ApplyError> {
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..wanted]).map_err(ApplyError::Read)?;
        if count == 0 {
            return Err(self.malformed("the archive ends inside an entry"));
        }
        self.offset += count as u64;
        self.remaining -= count as u64;
        Ok(count)
    }

    fn skip_data(&mut self) -> Result<(), ApplyError> {
        let mut scratch = [0; 16 << 10];
        while self.data(&mut scratch)? > 0 {}
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        self.exact(&mut scratch[..padding])
    }

    /// Bytes of the current entry that were not read yet.
    pub(crate) const fn remaining(&self) -> u64 {
        self.remaining
    }

    fn exact(&mut self, buffer: &mut [u8]) -> Result<(), ApplyError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let count = self.reader.read(&mut buffer[filled..]).map_err(ApplyError::Read)?;
            if count == 0 {
                return Err(self.malformed("the archive is truncated"));
            }
            filled += count;
            self.offset += count as u64;
        }
        Ok(())
    }

    /// The next header block; `None` at the end marker or at a clean end of the stream.
    fn header(&mut self) -> Result<Option<Header>, ApplyError> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let first = self.reader.read(&mut block[..]).map_err(ApplyError::Read)?;
        if first == 0 {
            return Ok(None);
        }
        self.offset += first as u64;
        let mut rest = *block;
        self.exact(&mut rest[first..])?;
        *header.as_mut_bytes() = rest;
        if rest.iter().all(|&byte| byte == 0) {
            self.nothing_follows()?;
            return Ok(None);
        }
        self.check_sum(&header)?;
        Ok(Some(header))
    }

    /// Reads what is behind the end: zeros and, in an eStargz, the table of contents, which is no part of what is unpacked.
    fn nothing_follows(&mut self) -> Result<(), ApplyError> {
        let mut tables = 0;
        loop {
            let mut block = [0; BLOCK];
            let count = self.rest(&mut block)?;
            if count == 0 {
                return Ok(());
            }
            if block.iter().all(|&byte| byte == 0) {
                continue;
            }
            let mut header = Header::new_old();
            *header.as_mut_bytes() = block;
            let table = count == BLOCK
                && tables == 0
                && header.entry_type() == EntryType::Regular
                && *header.path_bytes() == *ESTARGZ_TABLE;
            if !table || self.check_sum(&header).is_err() {
                return Err(self.malformed("bytes follow the end of the archive"));
            }
            tables += 1;
            self.remaining = self.size(&header, None, Kind::File)?;
            self.padding = self.remaining.next_multiple_of(BLOCK as u64) - self.remaining;
            self.skip_data()?;
        }
    }

    /// Fills `buffer` as far as the stream goes.
    fn rest(&mut self, buffer: &mut [u8]) -> Result<usize, ApplyError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.reader.read(&mut buffer[filled..]).map_err(ApplyError::Read)? {
                0 => break,
                count => filled += count,
            }
        }
        self.offset += filled as u64;
        Ok(filled)
    }

    fn check_sum(&self, header: &Header) -> Result<(), ApplyError> {
        let stored =
            header.cksum().map_err(|_| self.malformed("the header checksum is malformed"))?;
        let bytes = header.as_bytes();
        let counted = |at: usize| if (148..156).contains(&at) { b' ' } else { bytes[at] };
        let unsigned: u32 = (0..BLOCK).map(|at| u32::from(counted(at))).sum();
        // Some old writers summed signed characters; both are accepted everywhere.
        let signed: i32 = (0..BLOCK).map(|at| i32::from(counted(at).cast_signed())).sum();
        if stored == unsigned || i32::try_from(stored) == Ok(signed) {
            return Ok(());
        }
        Err(self.malformed("the header checksum is wrong"))
    }

    fn body(&mut self, header: &Header) -> Result<Vec<u8>, ApplyError> {
        let size = header
            .entry_size()
            .map_err(|_| self.malformed("the size of an extended header is malformed"))?;
        if size > MAX_EXTENDED_HEADER {
            return Err(self.malformed("an extended header is too large"));
        }
        let len =
            usize::try_from(size).map_err(|_| self.malformed("an extended header is too large"))?;
        let mut body = vec![0; len.next_multiple_of(BLOCK)];
        self.exact(&mut body)?;
        body.truncate(len);
        Ok(body)
    }

    fn long(&mut self, header: &Header, slot: &mut Option<Vec<u8>>) -> Result<(), ApplyError> {
        let mut body = self.body(header)?;
        if let Some(end) = body.iter().position(|&byte| byte == 0) {
            body.truncate(end);
        }
        if body.is_empty() || body.len() > MAX_PATH {
            return Err(self.malformed("a long name is empty or too long"));
        }
        if slot.replace(body).is_some() {
            return Err(self.malformed("two long names for one entry"));
        }
        Ok(())
    }

    fn entry(&mut self, header: &Header, extended: Extended) -> Result<Entry, ApplyError> {
        if extended.pax.is_some() && (extended.long_path.is_some() || extended.long_link.is_some())
        {
            return Err(self.malformed("an entry has both GNU and PAX extended headers"));
        }
        let star = header.as_ustar().is_some() && header.as_bytes()[508..] == *b"tar\0";
        if star {
            return Err(self.malformed("the star format is not supported"));
        }
        let pax = extended.pax.unwrap_or_default();
        let path =
            pax.path.or(extended.long_path).unwrap_or_else(|| header.path_bytes().into_owned());
        let link = pax
            .link
            .or(extended.long_link)
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned))
            .unwrap_or_default();
        let kind = self.kind(header, &path)?;
        let size = self.size(header, pax.size, kind)?;
        let number = |field: &[u8], value: std::io::Result<u64>| {
            // Writers leave fields they do not care about blank; every reader takes that for 0.
            if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
                return Ok(0);
            }
            value.map_err(|_| self.malformed("an owner id or time is malformed"))
        };
        let fields = header.as_old();
        let mtime = number(&fields.mtime, header.mtime())?;
        let entry = Entry {
            mode: header.mode().map_err(|_| self.malformed("the mode is malformed"))? & 0o7777,
            uid: pax.uid.map_or_else(|| number(&fields.uid, header.uid()), Ok)?,
            gid: pax.gid.map_or_else(|| number(&fields.gid, header.gid()), Ok)?,
            // Base-256 times before 1970 arrive as huge numbers; their two's complement is the time.
            mtime: pax.mtime.unwrap_or((mtime.cast_signed(), 0)),
            xattrs: pax.xattrs,
            path,
            link,
            kind,
        };
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(entry)
    }

    fn kind(&self, header: &Header, path: &[u8]) -> Result<Kind, ApplyError> {
        let old_directory = header.as_bytes()[156] == 0 && path.ends_with(b"/");
        Ok(match header.entry_type() {
            EntryType::Regular if old_directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            EntryType::Fifo => Kind::Fifo,
            EntryType::Char | EntryType::Block => Kind::Device,
            EntryType::GNUSparse => return Err(self.malformed("sparse entries are not supported")),
            _ => return Err(self.malformed("the entry type is not supported")),
        })
    }

    fn size(&self, header: &Header, pax: Option<u64>, kind: Kind) -> Result<u64, ApplyError> {
        let plain = header.entry_size().map_err(|_| self.malformed("the size is malformed"))?;
        let size = match pax {
            // Writers put 0 where a size does not fit; any other difference is a disguise.
            Some(size) if size == plain || (plain == 0 && size > MAX_OCTAL_SIZE) => size,
            Some(_) => return Err(self.malformed("the extended header contradicts the size")),
            None => plain,
        };
        if size > i64::MAX as u64 {
            return Err(self.malformed("the size is malformed"));
        }
        if size > 0 && kind != Kind::File {
            return Err(self.malformed("an entry that is not a file has data"));
        }
        Ok(size)
    }
}
