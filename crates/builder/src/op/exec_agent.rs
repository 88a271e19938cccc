//! The socket through which a step talks to an SSH agent of its client.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_sandbox::{detached_directory, detached_part};
use rustix::fs::{Mode, OFlags};
use tokio::net::UnixListener;

/// Makes a listening socket owned by `owner` (ids on disk) and a detached mount of it. The
/// socket's directory is a tmpfs of its own that nothing else can reach.
pub(super) fn socket(owner: (u32, u32), mode: u32) -> io::Result<(UnixListener, OwnedFd)> {
    let directory = detached_directory((0, 0), 0o700, Some(1 << 16)).map_err(io::Error::other)?;
    let path = format!("/proc/self/fd/{}/agent", std::os::fd::AsRawFd::as_raw_fd(&directory));
    let listener = UnixListener::bind(path)?;
    rustix::fs::chownat(
        &directory,
        "agent",
        Some(rustix::fs::Uid::from_raw(owner.0)),
        Some(rustix::fs::Gid::from_raw(owner.1)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )?;
    crate::rooted::chmod(directory.as_fd(), "agent", mode & 0o777)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let socket = rustix::fs::openat(&directory, "agent", flags, Mode::empty())?;
    let mount = detached_part(&directory, socket).map_err(io::Error::other)?;
    Ok((listener, mount))
}
