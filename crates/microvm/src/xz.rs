//! What memory an xz stream takes to be unpacked, found out before anything is. Nothing is unpacked here.
//!
//! The .xz File Format 1.2.1, sections 2 and 3. The chunks of LZMA2 say how long they are, so that the end of a block is found
//! without unpacking it.

use std::io::{self, Read};

/// Length of the stream's header, and where in it the kind of check is.
const STREAM: usize = 12;
const CHECK: usize = 7;
/// Bytes of each kind of check.
const CHECKS: [u64; 16] = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64];
/// Flags of a block: the number of filters less one, and that sizes are in its header.
const FILTERS: u8 = 0x03;
const SIZES: u8 = 0xc0;
/// The filter that packs, and the largest number for the size of its dictionary.
const LZMA2: u8 = 0x21;
const MAX_BITS: u64 = 40;

/// Size of the dictionary of the stream that `packed` begins with: the unpacker takes that much memory, whatever a file says. None
/// when there is anything but one block, since each has a dictionary of its own, or it is not as kernels are packed.
pub(crate) fn dictionary<R: Read>(packed: &mut R) -> io::Result<Option<u64>> {
    let mut stream = [0; STREAM];
    packed.read_exact(&mut stream)?;
    let length = byte(packed)?;
    if length == 0 {
        return Ok(None);
    }
    let mut header = vec![0; usize::from(length) * 4 + 3];
    packed.read_exact(&mut header)?;
    let Some(size) = of_block(&header) else { return Ok(None) };
    let Some(length) = pass_block(packed)? else { return Ok(None) };
    let padding = length.next_multiple_of(4) - length;
    pass(packed, padding + CHECKS[usize::from(stream[CHECK] & 0x0f)])?;
    // The index begins with a zero, a further block does not.
    Ok((byte(packed)? == 0).then_some(size))
}

/// The dictionary by a block's header, without the length before it.
fn of_block(header: &[u8]) -> Option<u64> {
    let (&flags, mut rest) = header.split_first()?;
    // Kernels are packed from a pipe, so neither size is known when the header is written.
    if flags & SIZES != 0 {
        return None;
    }
    for _ in 0..=flags & FILTERS {
        let (&[id, length], behind) = rest.split_first_chunk()?;
        let (properties, behind) = behind.split_at_checked(length.into())?;
        rest = behind;
        if id == LZMA2 {
            let bits = u64::from(*properties.first()?);
            return (bits <= MAX_BITS).then(|| (2 | (bits & 1)) << (bits / 2 + 11));
        }
    }
    None
}

/// Reads past the chunks of a block; their length.
fn pass_block<R: Read>(packed: &mut R) -> io::Result<Option<u64>> {
    let mut length = 1_u64;
    loop {
        let control = byte(packed)?;
        let (header, data) = match control {
            0 => return Ok(Some(length)),
            1 | 2 => (3_u64, number(packed)?),
            0x80.. => {
                // What comes out of it, then what is in it; some have a byte of properties between.
                number(packed)?;
                (5, number(packed)? + u64::from(control >= 0xc0))
            }
            _ => return Ok(None),
        };
        pass(packed, data)?;
        length += header + data;
    }
}

fn byte<R: Read>(packed: &mut R) -> io::Result<u8> {
    let mut byte = [0];
    packed.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// A length, stored as one less.
fn number<R: Read>(packed: &mut R) -> io::Result<u64> {
    let mut bytes = [0; 2];
    packed.read_exact(&mut bytes)?;
    Ok(u64::from(u16::from_be_bytes(bytes)) + 1)
}

fn pass<R: Read>(packed: &mut R, length: u64) -> io::Result<()> {
    let passed = io::copy(&mut packed.take(length), &mut io::sink())?;
    if passed == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
