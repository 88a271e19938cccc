#![allow(clippy::unwrap_used)]
use std::fs;
use std::io::Cursor;
use std::num::NonZeroU64;

use super::*;

/// The header of an ELF file for x86-64, and megabytes more.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; ELF_HEADER];
    bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    bytes[16] = 2;
    bytes[18] = 62;
    let mut state = 1_u64;
    // More than one block of those that lz4 makes.
    for _ in 0..9 << 10 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend([&state.to_le_bytes()[..], &[(state >> 60) as u8; 1016]].concat());
    }
    bytes
}

/// An image with `packed` as what is behind its loader.
fn image(packed: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 5 * 512 + 32];
    bytes[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    bytes[VERSION..VERSION + 2].copy_from_slice(&0x020f_u16.to_le_bytes());
    bytes[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&32_u32.to_le_bytes());
    let length = u32::try_from(packed.len()).unwrap();
    bytes[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
    bytes.extend(packed);
    // A loader has more behind the kernel.
    bytes.extend([0xcc; 300]);
    bytes
}

fn sized(mut packed: Vec<u8>, kernel: &[u8]) -> Vec<u8> {
    packed.extend(u32::try_from(kernel.len()).unwrap().to_le_bytes());
    packed
}

fn gzip(kernel: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(kernel).unwrap();
    packer.finish().unwrap()
}

fn xz(kernel: &[u8]) -> Vec<u8> {
    xz_in_blocks(kernel, None)
}

fn xz_in_blocks(kernel: &[u8], size: Option<NonZeroU64>) -> Vec<u8> {
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    // As kernels are packed: with a filter for the processor's instructions in front.
    options.filters.push(lzma_rust2::FilterConfig::new_bcj_x86(0));
    options.set_block_size(size);
    let mut packer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    packer.write_all(kernel).unwrap();
    sized(packer.finish().unwrap(), kernel)
}

fn zstandard(kernel: &[u8]) -> Vec<u8> {
    sized(zstd::encode_all(kernel, 1).unwrap(), kernel)
}

/// In the form of `lz4 -l`: blocks of 8 MiB, each behind its length.
fn lz4(kernel: &[u8]) -> Vec<u8> {
    let mut packed = b"\x02\x21\x4c\x18".to_vec();
    for block in kernel.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend(block);
    }
    sized(packed, kernel)
}

fn unpacked(image: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let mut out = Vec::new();
    unpack(Cursor::new(image), &mut out).map(|()| out)
}

#[test]
fn every_way_of_packing_is_unpacked() {
    let kernel = kernel();
    for pack in [gzip, xz, zstandard, lz4] {
        assert!(unpacked(&image(&pack(&kernel))).unwrap() == kernel);
    }
}

#[test]
fn fuzzing_begins_with_images_that_are_unpacked() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/kernel");
    for name in ["gzip", "xz", "zstd", "lz4"] {
        let kernel = unpacked(&fs::read(seeds.join(name)).unwrap()).unwrap();
        assert!(kernel.ends_with(b"kernel kernel "), "{name}");
    }
}

#[test]
fn what_is_no_kernel_is_refused() {
    let kernel = kernel();
    let good = image(&lz4(&kernel));
    let with = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        image[at..at + bytes.len()].copy_from_slice(bytes);
        unpacked(&image).unwrap_err()
    };
    assert!(matches!(unpacked(b"").unwrap_err(), UnpackError::NotAKernel));
    assert!(matches!(unpacked(&good[..0x24e]).unwrap_err(), UnpackError::NotAKernel));
    assert!(matches!(with(MAGIC, b"hdrs"), UnpackError::NotAKernel));
    assert!(matches!(with(VERSION, &[7, 2]), UnpackError::Old(0x207)));
    // Beyond the end, nothing at all, and more than any kernel.
    assert!(matches!(with(PAYLOAD_OFFSET, &[0xff; 4]), UnpackError::Io(_)));
    assert!(matches!(with(PAYLOAD_LENGTH, &[4, 0, 0, 0]), UnpackError::Place));
    assert!(matches!(with(PAYLOAD_LENGTH, &[0xff; 4]), UnpackError::Place));
    assert!(matches!(with(SETUP_SECTORS, &[0xff]), UnpackError::Packing(_) | UnpackError::Io(_)));
    let packed = 5 * 512 + 32;
    assert!(matches!(with(packed, b"BZh9"), UnpackError::Packing("bzip2")));
    assert!(matches!(with(packed + 20, &[0xff; 64]), UnpackError::Io(_) | UnpackError::Size(..)));
}

#[test]
fn what_comes_out_must_be_what_was_said() {
    let kernel = kernel();
    let mut packed = zstandard(&kernel);
    let end = packed.len() - 4;
    packed[end] ^= 1;
    assert!(matches!(unpacked(&image(&packed)).unwrap_err(), UnpackError::Size(..)));
    packed[end..].copy_from_slice(&[0xff; 4]);
    assert!(matches!(unpacked(&image(&packed)).unwrap_err(), UnpackError::Place));
    for other in [&b"#!/bin/sh\n"[..], &[0; 4096], b"\x7fELF"] {
        let refused = unpacked(&image(&zstandard(other))).unwrap_err();
        assert!(matches!(refused, UnpackError::Elf), "{refused}");
    }
    let mut other = kernel;
    other[18] = 183;
    assert!(matches!(unpacked(&image(&gzip(&other))).unwrap_err(), UnpackError::Elf));
}

#[test]
fn a_bomb_does_not_go_off() {
    // A thousandfold, four gigabytes of it: the writer is not asked to take more than a kernel has.
    let zeros = io::repeat(0).take(MAX_KERNEL + (4 << 20));
    let mut packed = zstd::encode_all(zeros, 1).unwrap();
    packed.extend(1_u32.to_le_bytes());
    let mut out = Counted(0);
    let refused = unpack(Cursor::new(image(&packed)), &mut out).unwrap_err();
    assert!(
        matches!(refused, UnpackError::Io(ref error) if error.kind() == io::ErrorKind::FileTooLarge)
    );
    assert!(out.0 <= MAX_KERNEL);
    // A dictionary of four gigabytes, which would be taken before anything is unpacked.
    let mut packed = xz(&kernel());
    assert!(dictionary(&packed).unwrap() <= MAX_DICTIONARY);
    assert!(unpacked(&image(&packed)).is_ok());
    let at = packed.windows(2).position(|pair| pair == [0x21, 1]).unwrap();
    packed[at + 2] = 40;
    assert!(matches!(unpacked(&image(&packed)).unwrap_err(), UnpackError::Place));
    // A later block may have such a dictionary as well: there is one block or none.
    let blocks = xz_in_blocks(&kernel(), NonZeroU64::new(1 << 20));
    assert_eq!(dictionary(&blocks), None);
    assert!(matches!(unpacked(&image(&blocks)).unwrap_err(), UnpackError::Place));
    // One that ends before its block does is no stream.
    let cut = sized(xz(&kernel())[..1000].to_vec(), &kernel());
    assert!(matches!(unpacked(&image(&cut)).unwrap_err(), UnpackError::Io(_)));
}

fn dictionary(mut packed: &[u8]) -> Option<u64> {
    crate::xz::dictionary(&mut packed).unwrap()
}

struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_kernel_is_unpacked_once() {
    let dir = tempfile::tempdir().unwrap();
    let boot = dir.path().join("boot");
    fs::create_dir(&boot).unwrap();
    let path = dir.path().join("vmlinuz");
    let kernel = kernel();
    fs::write(&path, image(&gzip(&kernel))).unwrap();
    let first = prepare(&boot, &path).unwrap();
    assert!(fs::read(&first).unwrap() == kernel);
    let inode = fs::metadata(&first).unwrap().ino();
    assert_eq!(prepare(&boot, &path).unwrap(), first);
    assert_eq!(fs::metadata(&first).unwrap().ino(), inode);

    // Another image takes its place.
    let mut other = kernel.clone();
    other.push(1);
    fs::remove_file(&path).unwrap();
    fs::write(&path, image(&gzip(&other))).unwrap();
    let second = prepare(&boot, &path).unwrap();
    assert!(fs::read(&second).unwrap() == other && second != first);
    assert_eq!(fs::read_dir(&boot).unwrap().count(), 1);

    // One that needs no unpacking is what it is, and what is broken leaves nothing.
    fs::write(&path, &kernel).unwrap();
    assert_eq!(prepare(&boot, &path).unwrap(), path);
    fs::write(&path, "text").unwrap();
    let error = prepare(&boot, &path).unwrap_err();
    assert!(matches!(error, VmlinuxError::Unpack { .. }), "{error}");
    assert_eq!(fs::read_dir(&boot).unwrap().count(), 1);
}
