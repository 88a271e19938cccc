//! Decompression of layers and archives, bounded and complete.
//!
//! Every format is decoded in process. A stream must end where its format says it ends: a
//! truncated stream and bytes behind the last member are errors, so that what was checked is all
//! there is. Decoder memory is bounded (zstd window, xz dictionary) and so is the output.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use super::limits::{Limits, MAX_ZSTD_WINDOW_LOG};

const BUFFER: usize = 128 << 10;
/// Enough to recognise every format and to see the first xz block header.
const PREFIX: u64 = 64;
/// Dictionary sizes in xz headers are codes; 32 is 256 MiB, twice what any preset of `xz` makes.
const MAX_XZ_DICTIONARY_CODE: u8 = 32;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrapping {
    None,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Wrapping {
    /// Recognises the format by its first bytes.
    pub(crate) fn detect(prefix: &[u8]) -> Self {
        let zstd_skippable =
            prefix.len() >= 4 && prefix[0] & 0xf0 == 0x50 && prefix[1..4] == [0x2a, 0x4d, 0x18];
        match prefix {
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ if zstd_skippable => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::None,
        }
    }
}

/// The uncompressed bytes of an archive.
pub(crate) struct Source<R: Read> {
    decoder: Decoder<R>,
    consumed: Rc<Cell<u64>>,
    produced: u64,
    limits: Limits,
}

type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, Counting<R>>>;

enum Decoder<R: Read> {
    None(Input<R>),
    Gzip(Members<Input<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Input<R>>>),
    Bzip2(MultiBzDecoder<Input<R>>),
    Xz(Box<XzReader<Input<R>>>),
}

/// Counts compressed bytes, for the ratio.
struct Counting<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.set(self.count.get() + count as u64);
        Ok(count)
    }
}

impl<R: Read> Source<R> {
    /// Opens `reader`, recognising the compression by its first bytes among those `allowed`.
    pub(crate) fn open(reader: R, allowed: &[Wrapping], limits: &Limits) -> io::Result<Self> {
        let consumed = Rc::new(Cell::new(0));
        let mut reader = Counting { inner: reader, count: Rc::clone(&consumed) };
        let mut prefix = Vec::with_capacity(PREFIX as usize);
        reader.by_ref().take(PREFIX).read_to_end(&mut prefix)?;
        let mut wrapping = Wrapping::detect(&prefix);
        if !allowed.contains(&wrapping) {
            wrapping = Wrapping::None;
        }
        if wrapping == Wrapping::Xz {
            check_xz_dictionary(&prefix)?;
        }
        let input = BufReader::with_capacity(BUFFER, Cursor::new(prefix).chain(reader));
        let decoder = match wrapping {
            Wrapping::None => Decoder::None(input),
            Wrapping::Gzip => Decoder::Gzip(Members::new(input)),
            Wrapping::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
                Decoder::Zstd(Box::new(decoder))
            }
            Wrapping::Bzip2 => Decoder::Bzip2(MultiBzDecoder::new(input)),
            Wrapping::Xz => Decoder::Xz(Box::new(XzReader::new(input, true))),
        };
        Ok(Self { decoder, consumed, produced: 0, limits: limits.clone() })
    }

    fn check(&self) -> io::Result<()> {
        if self.produced > self.limits.output_bytes {
            return Err(refuse("the archive unpacks to more bytes than allowed"));
        }
        let ratio = self.produced / self.consumed.get().max(1);
        if self.produced > self.limits.ratio_free && ratio > self.limits.ratio {
            return Err(refuse("the archive unpacks to suspiciously many bytes for its size"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match &mut self.decoder {
            Decoder::None(reader) => reader.read(buffer),
            Decoder::Gzip(reader) => reader.read(buffer),
            Decoder::Zstd(reader) => reader.read(buffer),
            Decoder::Bzip2(reader) => reader.read(buffer),
            Decoder::Xz(reader) => reader.read(buffer),
        }?;
        self.produced += count as u64;
        self.check()?;
        Ok(count)
    }
}

fn refuse(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Concatenated gzip members; nothing but zero padding may follow the last.
struct Members<R: BufRead> {
    state: Member<R>,
}

enum Member<R: BufRead> {
    Inside(Box<GzDecoder<R>>),
    Between(R),
    Done,
}

impl<R: BufRead> Members<R> {
    fn new(reader: R) -> Self {
        Self { state: Member::Inside(Box::new(GzDecoder::new(reader))) }
    }

    /// Looks behind the end of a member.
    fn advance(mut reader: R) -> io::Result<Member<R>> {
        loop {
            let bytes = reader.fill_buf()?;
            match bytes.first() {
                None => return Ok(Member::Done),
                Some(0x1f) => return Ok(Member::Inside(Box::new(GzDecoder::new(reader)))),
                Some(0) => {
                    let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
                    reader.consume(zeros);
                }
                Some(_) => return Err(refuse("bytes follow the end of the gzip stream")),
            }
        }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.state, Member::Done) {
                Member::Inside(mut decoder) => {
                    let count = decoder.read(buffer)?;
                    self.state = if count == 0 {
                        Member::Between(decoder.into_inner())
                    } else {
                        Member::Inside(decoder)
                    };
                    if count > 0 {
                        return Ok(count);
                    }
                }
                Member::Between(reader) => self.state = Self::advance(reader)?,
                Member::Done => return Ok(0),
            }
        }
    }
}

/// Refuses an xz stream whose first block asks for a dictionary above [`MAX_XZ_DICTIONARY_CODE`]:
/// the decoder allocates what the header says. Layout: 12 bytes of stream header, then block
/// header size, flags, optional sizes, filter id 0x21, property length 1, dictionary code.
fn check_xz_dictionary(prefix: &[u8]) -> io::Result<()> {
    let block = prefix.get(12..).unwrap_or_default();
    let has_sizes = block.get(1).is_some_and(|flags| flags & 0xc0 != 0);
    let filters = block.get(2..).unwrap_or_default();
    let codes =
        filters.windows(3).filter(|window| window[..2] == [0x21, 1]).map(|window| window[2]);
    let code = if has_sizes { codes.max() } else { filters.get(2).copied() };
    if code.is_some_and(|code| code > MAX_XZ_DICTIONARY_CODE) {
        return Err(refuse("the xz dictionary is larger than allowed"));
    }
    Ok(())
}
