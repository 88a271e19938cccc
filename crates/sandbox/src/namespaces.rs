//! Creating and entering namespaces: a thin cover over `clone3`, `setns` and `unshare`, see clone(2) and namespaces(7).
//!
//! Everything here must run in a single-threaded process: a copy of a threaded one may find any lock taken for ever. The callers
//! are the launch helpers, which never start a thread, and [`crate::enter`], which refuses to run beside other threads.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

pub(crate) use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, CLONE_PARENT,
};

/// Which side of a [`fork`] the caller is on.
#[derive(Debug)]
pub(crate) enum Side {
    /// The caller itself, with the new process.
    Parent {
        /// Id of the new process in the caller's pid namespace.
        pid: i32,
        /// A handle that cannot come to mean another process.
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Copies the calling process, putting the copy into new namespaces as `flags` say.
///
/// With `CLONE_PARENT` the copy is a sibling; its exit is then announced to the common parent as the caller's would be.
///
/// With `cgroup`, a directory of the unified hierarchy, the copy is there from the start.
///
/// # Safety
///
/// The calling process has one thread.
pub(crate) unsafe fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    /// `CLONE_INTO_CGROUP` of linux/sched.h, which does not fit the type the C library's crate gives it everywhere.
    const INTO_CGROUP: u64 = 1 << 33;
    let mut pidfd: libc::c_int = -1;
    let exit_signal = if flags & CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    let mut args = libc::clone_args {
        flags: u64::from((flags | libc::CLONE_PIDFD).cast_unsigned())
            | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        pidfd: (&raw mut pidfd) as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::from(exit_signal.cast_unsigned()),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.map_or(0, |fd| u64::from(fd.as_raw_fd().cast_unsigned())),
    };
    // SAFETY: `args` is a valid clone_args of the size given, without CLONE_VM the child continues on a copy of this stack, and
    // the caller promised that no other thread can hold a lock the child would need.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Side::Child),
        pid if pid > 0 => Ok(Side::Parent {
            pid: i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?,
            // SAFETY: the kernel has just stored a descriptor of ours there.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
        _ => Err(last_errno()),
    }
}

/// Leaves the namespaces named by `flags` for new ones.
pub(crate) fn unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: the flags used in this crate create namespaces only; none shares or unshares descriptors or memory.
    check(unsafe { libc::unshare(flags) })
}

/// Enters the namespace `namespace` refers to, which must be of the kind `flag`.
pub(crate) fn enter_namespace(namespace: impl AsFd, flag: i32) -> Result<(), Errno> {
    // SAFETY: plain system call on a descriptor that is open for the length of the call.
    check(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), flag) })
}

pub(crate) fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
