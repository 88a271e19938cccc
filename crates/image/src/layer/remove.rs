//! Removal of a subtree beneath a directory descriptor; links are removed and never followed.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use super::limits::MAX_DEPTH;

/// Deepest directory that is removed when a file takes its place. What this module creates is
/// at most [`MAX_DEPTH`] deep.
const MAX_REMOVE_DEPTH: usize = MAX_DEPTH + 8;

/// Removes whatever `base` is, by descriptors, never following a link.
pub(super) fn remove_all(parent: BorrowedFd<'_>, base: &[u8], depth: usize) -> Result<(), Errno> {
    match unlinkat(parent, base, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) if depth < MAX_REMOVE_DEPTH => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat(parent, base, flags, Mode::empty())?;
    for entry in Dir::read_from(&fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove_all(fd.as_fd(), name, depth + 1)?;
        }
    }
    unlinkat(parent, base, AtFlags::REMOVEDIR)
}
