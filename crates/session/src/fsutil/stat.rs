//! A kernel stat as a stat of this wire.

use std::io;
use std::os::fd::AsFd;

use cofferdam_wire::fsutil::types::Stat;
use rustix::fs::FileType;

use super::dir;
use super::mode::GoMode;
use super::xattrs;

/// Longest symlink target the kernel makes.
const MAX_TARGET: usize = 4096;

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
        out.xattrs = xattrs::read(parent.as_fd(), name).into_iter().collect();
    }
    Ok(out)
}
