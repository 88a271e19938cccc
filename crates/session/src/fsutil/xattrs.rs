//! Extended attributes of what is sent.
//!
//! Every entry is asked for the names of its attributes, and hardly any has one. Kernels since 6.13 answer that relative to a
//! descriptor; before, the magic link of the directory's descriptor, which names exactly that directory, takes its place and costs
//! as much again as everything else that is asked. Must never follow a link.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::dir;

/// All attributes of one entry: the kernel's own bound on the list of their names.
const MAX_XATTRS: usize = 64 << 10;

/// `listxattrat(2)`, the same on every architecture.
const LISTXATTRAT: libc::c_long = 465;

/// Whether the kernel, or a filter in front of it, does not know the call.
static IS_UNKNOWN: AtomicBool = AtomicBool::new(false);

/// The user attributes of an entry; none when they cannot be read.
pub(super) fn read(parent: BorrowedFd<'_>, name: &CStr) -> Vec<(String, Vec<u8>)> {
    // Most have none, and the others mostly a few.
    let mut few = [0; 256];
    let listed = match names(parent, name, &mut few) {
        Ok(0) => return Vec::new(),
        Ok(length) => few[..length].to_vec(),
        Err(Errno::RANGE) => {
            let mut many = vec![0; MAX_XATTRS];
            let Ok(length) = names(parent, name, &mut many) else { return Vec::new() };
            many.truncate(length);
            many
        }
        Err(_) => return Vec::new(),
    };
    let link = link(parent, name);
    let mut out = Vec::new();
    for key in listed.split(|byte| *byte == 0).filter_map(|key| std::str::from_utf8(key).ok()) {
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

/// Puts the names, each ended by a zero, into `into`; says how long they are.
fn names(parent: BorrowedFd<'_>, name: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    if !IS_UNKNOWN.load(Ordering::Relaxed) {
        match names_at(parent, name, into) {
            Err(Errno::NOSYS | Errno::PERM) => IS_UNKNOWN.store(true, Ordering::Relaxed),
            result => return result,
        }
    }
    rustix::fs::llistxattr(link(parent, name).as_slice(), into)
}

#[allow(unsafe_code, reason = "rustix does not have the call")]
fn names_at(parent: BorrowedFd<'_>, name: &CStr, into: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the descriptor is open and the name ends with a zero, both for as long as the call; it writes at most
    // `into.len()` bytes to `into`, which is borrowed alone.
    let length = unsafe {
        libc::syscall(
            LISTXATTRAT,
            parent.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            into.as_mut_ptr(),
            into.len(),
        )
    };
    usize::try_from(length)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

fn link(parent: BorrowedFd<'_>, name: &CStr) -> Vec<u8> {
    let mut link = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    link.extend_from_slice(name.to_bytes());
    link
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::ffi::CString;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn names_are_the_same_either_way_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, attributes: usize| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            for index in 0..attributes {
                let (key, flags) = (format!("user.key{index}"), rustix::fs::XattrFlags::empty());
                rustix::fs::setxattr(&path, key, b"value", flags).unwrap();
            }
        };
        for (name, attributes) in [("none", 0), ("one", 1), ("many", 60)] {
            make(name, attributes);
        }
        std::os::unix::fs::symlink("one", directory.path().join("link")).unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        let count = |name: &str| {
            let name = CString::new(name).unwrap();
            let found = read(open.as_fd(), &name);
            assert!(found.iter().all(|(_, value)| value == b"value"));
            found.len()
        };
        for _ in 0..2 {
            let counts = ["none", "one", "many", "link", "absent"].map(count);
            assert_eq!(counts, [0, 1, 60, 0, 0]);
            // As on a kernel before 6.13.
            IS_UNKNOWN.store(true, Ordering::Relaxed);
        }
    }
}
