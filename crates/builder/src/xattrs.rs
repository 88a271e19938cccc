//! Extended attributes that belong to a file's content: `user.*` without the overlay's own,
//! and file capabilities. Everything else (`trusted.*`, labels, ACL) stays behind, and what is
//! read is bounded.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Attribute that carries file capabilities.
pub(crate) const CAPABILITY: &str = "security.capability";
/// Where overlayfs keeps its own marks when mounted without privilege.
const OVERLAY_PREFIX: &str = "user.overlay.";
/// The kernel's own limit for one value and for the list of names.
pub(crate) const MAX_XATTR_BYTES: usize = 64 << 10;

/// Whether an attribute takes part in copies, layers and content digests.
pub(crate) fn is_content(name: &str) -> bool {
    name == CAPABILITY || (name.starts_with("user.") && !name.starts_with(OVERLAY_PREFIX))
}

/// The content attributes of the file at `path` (a `/proc/self/fd/N` name), sorted by name.
/// A filesystem without attributes has none.
pub(crate) fn read(path: &str) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0_u8; MAX_XATTR_BYTES];
    let Ok(len) = rustix::fs::listxattr(path, names.as_mut_slice()) else { return Vec::new() };
    content(&names[..len], |name, value| rustix::fs::getxattr(path, name, value)).0
}

/// As [`read`], of an open file, which what an `O_PATH` descriptor names is not. `names` is room
/// for their names, [`MAX_XATTR_BYTES`] of it, so that whoever reads many makes it once.
pub(crate) fn read_open(fd: BorrowedFd<'_>, names: &mut [u8]) -> Vec<(String, Vec<u8>)> {
    read_open_whole(fd, names).0
}

/// As [`read_open`], with whether it is all of them: `false` when one or their list could not be read.
pub(crate) fn read_open_whole(
    fd: BorrowedFd<'_>,
    names: &mut [u8],
) -> (Vec<(String, Vec<u8>)>, bool) {
    match rustix::fs::flistxattr(fd, &mut *names) {
        Ok(len) => content(&names[..len], |name, value| rustix::fs::fgetxattr(fd, name, value)),
        Err(error) => (Vec::new(), error == Errno::OPNOTSUPP),
    }
}

/// The attributes among `names`, each ended by a zero, that belong to content, and whether each could be read.
fn content(
    names: &[u8],
    read: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> (Vec<(String, Vec<u8>)>, bool) {
    let mut found = Vec::new();
    let mut whole = true;
    for name in names.split(|byte| *byte == 0) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if !is_content(name) {
            continue;
        }
        let mut value = vec![0_u8; MAX_XATTR_BYTES];
        match read(name, value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                found.push((name.to_owned(), value));
            }
            Err(_) => whole = false,
        }
    }
    found.sort();
    (found, whole)
}
