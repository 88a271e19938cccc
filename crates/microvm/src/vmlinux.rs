//! The kernel itself, out of the image that a distribution installs: Firecracker loads an uncompressed ELF file and no other.
//!
//! An image ("bzImage") is a loader with a packed kernel behind it; where that begins and how long it is stands in its header: the
//! kernel's Documentation/arch/x86/boot.rst, fields `setup_sects`, `payload_offset` and `payload_length`. All but gzip have the
//! unpacked size behind the packed bytes, and gzip ends in the same four bytes by itself.
//!
//! Images are the operator's own. What is read is bounded all the same, and nothing of it is executed on the host.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object::LittleEndian;
use object::elf::{EM_X86_64, ET_DYN, ET_EXEC, FileHeader64};
use object::read::elf::FileHeader;
use sha2::{Digest, Sha256};

use crate::{kept, xz};

/// Beginning of the names of unpacked kernels.
const PREFIX: &str = "vmlinux-";

/// Length of an image's header up to the last field that is read, and where those are.
const HEADER: usize = 0x250;
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The version of the header from which on it says where the kernel is.
const LEAST_VERSION: u16 = 0x0208;
const SECTOR: u64 = 512;
/// Sectors of the loader where the header says none.
const DEFAULT_SECTORS: u8 = 4;
/// Length of the size behind the packed kernel.
const SIZE: u64 = 4;

/// Most that is packed and unpacked: ten times what the kernels of distributions have.
const MAX_PACKED: u64 = 128 << 20;
const MAX_KERNEL: u64 = 512 << 20;
/// Largest dictionary of xz: it is memory. Kernels are packed with 32 or 128 MiB.
const MAX_DICTIONARY: u64 = 128 << 20;
/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// Length of the header of an ELF file.
const ELF_HEADER: usize = 64;

/// The kernel could not be had from an image.
#[derive(Debug, thiserror::Error)]
pub enum VmlinuxError {
    /// The image cannot be read.
    #[error("read the kernel {path}")]
    Read {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds no kernel that can be unpacked.
    #[error("unpack the kernel {path}")]
    Unpack {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// The kernel cannot be written.
    #[error("write the unpacked kernel {path}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is something else.
    #[error("it is neither an ELF file nor a Linux kernel of x86")]
    NotAKernel,
    /// Its header is of a time when it did not say where the kernel is.
    #[error("its boot protocol {0:#06x} is too old")]
    Old(u16),
    /// The kernel is not where the header says, or larger than any.
    #[error("its header says nonsense about the packed kernel")]
    Place,
    /// It is packed in a way that is not known.
    #[error("it is packed with {0}; gzip, xz, lz4 and zstd are known")]
    Packing(&'static str),
    /// What came out is not what was said to be in it.
    #[error("{0} bytes were unpacked, and its end says {1} of {2}")]
    Size(u64, u32, u64),
    /// What came out is no kernel.
    #[error("what is in it is no ELF file for x86-64")]
    Elf,
    /// The packed bytes are broken, or the result could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The kernel of the image at `path` as an ELF file: the image itself when it is one, else unpacked into `directory`, where it is
/// kept. Those of other images are removed.
///
/// # Errors
///
/// When there is no kernel in it or it cannot be written.
pub fn prepare(directory: &Path, image: &Path) -> Result<PathBuf, VmlinuxError> {
    let failed = |source| VmlinuxError::Read { path: image.to_owned(), source };
    let mut file = File::open(image).map_err(failed)?;
    if is_elf(&mut file).map_err(failed)? {
        return Ok(image.to_owned());
    }
    let identity = identity(&file).map_err(failed)?;
    kept::keep(
        directory,
        PREFIX,
        &identity,
        |part| write(file, image, part),
        |path, source| VmlinuxError::Write { path, source },
    )
}

/// The kernel of the image at `path` as an ELF file in memory, for a trial.
pub(crate) fn in_memory(image: &Path) -> Result<File, VmlinuxError> {
    let failed = |source| VmlinuxError::Read { path: image.to_owned(), source };
    let mut file = File::open(image).map_err(failed)?;
    if is_elf(&mut file).map_err(failed)? {
        return Ok(file);
    }
    let memory = rustix::fs::memfd_create(c"kernel", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| VmlinuxError::Write { path: "memory".into(), source: error.into() })?;
    let memory = File::from(memory);
    unpack(file, &memory)
        .map_err(|source| VmlinuxError::Unpack { path: image.to_owned(), source })?;
    Ok(memory)
}

fn write(image: File, from: &Path, to: &Path) -> Result<(), VmlinuxError> {
    let failed = |source| VmlinuxError::Write { path: to.to_owned(), source };
    let file = kept::create(to).map_err(failed)?;
    unpack(image, &file)
        .map_err(|source| VmlinuxError::Unpack { path: from.to_owned(), source })?;
    file.sync_all().map_err(failed)
}

fn is_elf(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(4).read_to_end(&mut start)?;
    file.rewind()?;
    Ok(start == object::elf::ELFMAG)
}

/// Tells images apart: by what changes with their content.
fn identity(file: &File) -> io::Result<String> {
    let found = file.metadata()?;
    let mut digest = Sha256::new();
    for number in [
        found.dev(),
        found.ino(),
        found.len(),
        found.mtime().cast_unsigned(),
        found.mtime_nsec().cast_unsigned(),
        found.ctime().cast_unsigned(),
    ] {
        digest.update(number.to_le_bytes());
    }
    Ok(hex::encode(digest.finalize()))
}

/// Unpacks the kernel of `image` into `out`.
pub(crate) fn unpack(mut image: impl Read + Seek, out: impl Write) -> Result<(), UnpackError> {
    let mut header = Vec::new();
    image.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
    let (start, length) = place(&header)?;
    image.seek(SeekFrom::Start(start + length - SIZE))?;
    let mut said = [0; SIZE as usize];
    image.read_exact(&mut said)?;
    let said = u32::from_le_bytes(said);
    if u64::from(said) > MAX_KERNEL {
        return Err(UnpackError::Place);
    }
    image.seek(SeekFrom::Start(start))?;
    if !takes_little(image.by_ref().take(length))? {
        return Err(UnpackError::Place);
    }
    image.seek(SeekFrom::Start(start))?;
    let mut packed = io::BufReader::with_capacity(BUFFER, image.take(length));
    let mut kernel = Kernel { out, length: 0, header: Vec::new() };
    copy(&mut packed, length, &mut kernel)?;
    if kernel.length != u64::from(said) {
        return Err(UnpackError::Size(kernel.length, said, length));
    }
    let header: &[u8] = &kernel.header;
    let header = FileHeader64::<LittleEndian>::parse(header).map_err(|_| UnpackError::Elf)?;
    let fits = header.e_machine(LittleEndian) == EM_X86_64
        && [ET_EXEC, ET_DYN].contains(&header.e_type(LittleEndian));
    if fits { Ok(()) } else { Err(UnpackError::Elf) }
}

/// Whether unpacking takes no more memory than kernels need.
fn takes_little(packed: impl Read) -> io::Result<bool> {
    let mut packed = io::BufReader::with_capacity(BUFFER, packed);
    if kind(packed.fill_buf()?) != Packing::Xz {
        return Ok(true);
    }
    Ok(xz::dictionary(&mut packed)?.is_some_and(|size| size <= MAX_DICTIONARY))
}

/// Where in the image the packed kernel is: offset and length.
fn place(header: &[u8]) -> Result<(u64, u64), UnpackError> {
    let number = |at: usize| {
        let bytes = header.get(at..).and_then(<[u8]>::first_chunk).copied();
        bytes.map(|bytes| u64::from(u32::from_le_bytes(bytes))).ok_or(UnpackError::NotAKernel)
    };
    if header.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Err(UnpackError::NotAKernel);
    }
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is the version")]
    let version = number(VERSION)? as u16;
    if version < LEAST_VERSION {
        return Err(UnpackError::Old(version));
    }
    let sectors = match header[SETUP_SECTORS] {
        0 => DEFAULT_SECTORS,
        sectors => sectors,
    };
    let start = (u64::from(sectors) + 1) * SECTOR + number(PAYLOAD_OFFSET)?;
    let length = number(PAYLOAD_LENGTH)?;
    let sensible = length > SIZE && length <= MAX_PACKED;
    if sensible { Ok((start, length)) } else { Err(UnpackError::Place) }
}

/// Unpacks what `packed` holds, by what it begins with.
fn copy<R: BufRead, W: Write>(
    packed: &mut R,
    length: u64,
    kernel: &mut Kernel<W>,
) -> Result<(), UnpackError> {
    let kind = kind(packed.fill_buf()?);
    let mut drain = |mut from: &mut dyn Read| io::copy(&mut from, kernel);
    match kind {
        Packing::Gzip => drain(&mut flate2::bufread::GzDecoder::new(packed)),
        Packing::Xz => drain(&mut lzma_rust2::XzReader::new(packed.take(length - SIZE), false)),
        Packing::Zstd => {
            drain(&mut zstd::Decoder::with_buffer(packed.take(length - SIZE))?.single_frame())
        }
        Packing::Lz4 => drain(&mut lz4_flex::frame::FrameDecoder::new(packed.take(length - SIZE))),
        Packing::Other(name) => return Err(UnpackError::Packing(name)),
    }?;
    Ok(())
}

/// How a kernel is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Gzip,
    Xz,
    Zstd,
    Lz4,
    Other(&'static str),
}

fn kind(start: &[u8]) -> Packing {
    /// What a file of each kind begins with; lz4 in the form that kernels are packed with.
    const KINDS: &[(&[u8], Packing)] = &[
        (b"\x1f\x8b", Packing::Gzip),
        (b"\xfd7zXZ\0", Packing::Xz),
        (b"\x28\xb5\x2f\xfd", Packing::Zstd),
        (b"\x02\x21\x4c\x18", Packing::Lz4),
        (b"BZh", Packing::Other("bzip2")),
        (b"\x89LZO", Packing::Other("lzo")),
        (b"\x5d\0\0", Packing::Other("lzma")),
    ];
    let found = KINDS.iter().find(|(magic, _)| start.starts_with(magic));
    found.map_or(Packing::Other("something unknown"), |(_, packing)| *packing)
}

/// Takes a kernel in, as far as it may go.
struct Kernel<W> {
    out: W,
    length: u64,
    /// Its beginning.
    header: Vec<u8>,
}

impl<W: Write> Write for Kernel<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length + bytes.len() as u64 > MAX_KERNEL {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let wanted = (ELF_HEADER - self.header.len()).min(bytes.len());
        self.header.extend_from_slice(&bytes[..wanted]);
        self.out.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
#[path = "vmlinux_tests.rs"]
mod tests;
