//! A kernel stat as a stat of this wire.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use cofferdam_wire::fsutil::types::Stat;
use rustix::fs::FileType;

use super::dir;
use super::mode::GoMode;

/// Longest symlink target the kernel makes.
const MAX_TARGET: usize = 4096;

/// All attributes of one entry: the kernel's own bound on the list of their names.
const MAX_XATTRS: usize = 64 << 10;

/// The announcement of `name` in `dir` under `path`, without hard link detection.
pub(super) fn read(
    parent: impl AsFd,
    name: &std::ffi::CStr,
    path: &str,
    stat: &rustix::fs::Stat,
) -> io::Result<Stat> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut out = Stat {
        path: path.to_string(),
        // A socket cannot travel; it arrives as an empty file.
        mode: GoMode::from_unix(stat.st_mode).without_socket().0,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modTime: i64::try_from(dir::mtime(stat)).unwrap_or(i64::MAX),
        ..Stat::default()
    };
    match kind {
        FileType::RegularFile => out.size = stat.st_size,
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&parent, name, Vec::with_capacity(MAX_TARGET))?;
            out.linkname = target
                .into_string()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "target is not UTF-8"))?;
            out.size = stat.st_size;
        }
        FileType::BlockDevice | FileType::CharacterDevice => {
            out.devmajor = rustix::fs::major(stat.st_rdev).into();
            out.devminor = rustix::fs::minor(stat.st_rdev).into();
        }
        _ => {}
    }
    if matches!(kind, FileType::RegularFile | FileType::Directory) {
        out.xattrs = xattrs(&parent, name).into_iter().collect();
    }
    Ok(out)
}

/// The user attributes of an entry; none when they cannot be read.
fn xattrs(parent: impl AsFd, name: &std::ffi::CStr) -> Vec<(String, Vec<u8>)> {
    // There is no call that reads attributes relative to a descriptor; the magic link of the
    // directory's descriptor names exactly that directory.
    let mut link = format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).into_bytes();
    link.extend_from_slice(name.to_bytes());
    let Ok(size) = rustix::fs::llistxattr_query(link.as_slice()) else {
        return Vec::new();
    };
    if size == 0 || size > MAX_XATTRS {
        return Vec::new();
    }
    let mut names = vec![0; size];
    let Ok(length) = rustix::fs::llistxattr(link.as_slice(), &mut names[..]) else {
        return Vec::new();
    };
    names.truncate(length);
    let mut out = Vec::new();
    for key in names.split(|byte| *byte == 0).filter_map(|key| std::str::from_utf8(key).ok()) {
        if !dir::is_portable_xattr(key) {
            continue;
        }
        let mut value = vec![0; MAX_XATTRS];
        if let Ok(length) = rustix::fs::lgetxattr(link.as_slice(), key, &mut value[..]) {
            value.truncate(length);
            out.push((key.to_string(), value));
        }
    }
    out
}
