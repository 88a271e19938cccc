//! What a process must put in order about itself: signals, descriptors, keyring, and its end.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::namespaces::{check, last_errno};

/// Signals an init passes on to the builder.
pub(crate) const FORWARDED: &[libc::c_int] =
    &[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Undoes what the Rust runtime, our own set-up and whoever started us did to signals, so that an executed program starts with none
/// blocked or ignored.
pub(crate) fn reset_signals() {
    /// One past the largest signal number, and the size of the kernel's signal set in bytes.
    const SIGNALS: libc::c_long = 65;
    const SET_SIZE: libc::c_long = 8;
    unblock_signals();
    // A `struct sigaction` of the kernel's (not the C library's) that is all zero asks for the default; this is at least as large.
    // By system call, since the C library keeps two signals to itself and refuses to reset them.
    let default = [0_u64; 8];
    for signal in 1..SIGNALS {
        // SAFETY: the structure is only read. The two signals that cannot be changed are refused, which is what is wanted of them.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null::<u64>(),
                SET_SIZE,
            );
        }
    }
}

/// Blocks `signals` and gives a descriptor they can be read from.
pub(crate) fn signal_descriptor(signals: &[libc::c_int]) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: the set is initialised before use and the descriptor returned is new.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(last_errno()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Unblocks what [`signal_descriptor`] blocked.
pub(crate) fn unblock_signals() {
    // SAFETY: the set is initialised before it is read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// The next pending signal of a descriptor made by [`signal_descriptor`].
pub(crate) fn next_signal(fd: &OwnedFd) -> Option<libc::c_int> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(fd, &mut info) {
        // The number is the first field.
        Ok(length) if length == info.len() => {
            Some(u32::from_ne_bytes([info[0], info[1], info[2], info[3]]).cast_signed())
        }
        _ => None,
    }
}

/// Marks every descriptor from 3 on as closed when the next program is executed.
pub(crate) fn close_on_exec_above_stdio() -> Result<(), Errno> {
    // SAFETY: closes nothing, only marks.
    check(unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed())
    })
}

/// Closes every descriptor from 3 on that is not in `keep`.
///
/// # Safety
///
/// Nothing in this process uses or drops an owner of any other descriptor afterwards; the caller ends in `exit` or `exec`.
pub(crate) unsafe fn close_all_but(keep: &[RawFd]) -> Result<(), Errno> {
    let mut keep: Vec<libc::c_uint> =
        keep.iter().filter(|fd| **fd > 2).map(|fd| fd.cast_unsigned()).collect();
    keep.sort_unstable();
    keep.dedup();
    let mut from: libc::c_uint = 3;
    for fd in keep {
        if from < fd {
            // SAFETY: the caller gave up every descriptor in the gaps.
            check(unsafe { libc::close_range(from, fd - 1, 0) })?;
        }
        from = fd + 1;
    }
    // SAFETY: likewise.
    check(unsafe { libc::close_range(from, libc::c_uint::MAX, 0) })
}

/// Moves to a new, empty session keyring, so that keys of whoever started us are out of reach.
pub(crate) fn new_session_keyring() -> Result<(), Errno> {
    /// `KEYCTL_JOIN_SESSION_KEYRING` of linux/keyctl.h.
    const JOIN: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, JOIN, std::ptr::null::<libc::c_char>()) };
    match if result < 0 { Err(last_errno()) } else { Ok(()) } {
        // A kernel without keys has none to lose.
        Err(Errno::NOSYS) => Ok(()),
        other => other,
    }
}

/// Ends this process at once, running no destructor: those belong to the process this one was copied from.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always sound; nothing is run on the way out.
    unsafe { libc::_exit(code) }
}

/// A file in memory holding `bytes`, positioned at its start and sealed against change.
pub(crate) fn sealed_memfd(name: &str, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::{SealFlags, SeekFrom};
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&fd, rest)?;
        rest = &rest[written..];
    }
    rustix::fs::seek(&fd, SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// Reads all of a file made by [`sealed_memfd`], whose size is its own bound.
pub(crate) fn read_memfd(fd: OwnedFd) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut file = std::fs::File::from(fd);
    let size = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.by_ref().take(size).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Puts `fd` in the place of descriptor `number`, open across exec.
pub(crate) fn place(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: only used for 0, 1 and 2, which no owner in this crate holds, and by a spare copy, which has closed all others.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 { Err(last_errno()) } else { Ok(()) }
}

/// How a child ended, from wait4(2).
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) user_micros: u64,
    pub(crate) system_micros: u64,
    pub(crate) peak_resident: u64,
}

/// Reaps a child if it has ended: the given one, or with -1 any.
pub(crate) fn reap(pid: i32) -> Option<(i32, Ended)> {
    let mut status = 0;
    // SAFETY: rusage is made of integers; both pointers are valid for the call.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let pid = libc::wait4(pid, &raw mut status, libc::WNOHANG | libc::__WALL, &raw mut usage);
        (pid, usage)
    };
    if pid <= 0 {
        return None;
    }
    let micros = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    let ended = Ended {
        code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        signal: libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)),
        user_micros: micros(usage.ru_utime),
        system_micros: micros(usage.ru_stime),
        peak_resident: u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10,
    };
    Some((pid, ended))
}

/// Reaps a child by its descriptor; gives its exit code, or 128 and the number of the signal that ended it.
pub(crate) fn wait_for(pidfd: &OwnedFd) -> Result<i32, Errno> {
    /// `P_PIDFD` of wait.h.
    const BY_DESCRIPTOR: libc::idtype_t = 3;
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(|_| Errno::BADF)?;
    loop {
        // SAFETY: siginfo_t is made of integers; the pointer is valid for the call.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let result =
                libc::waitid(BY_DESCRIPTOR, id, &raw mut info, libc::WEXITED | libc::__WALL);
            (result, info)
        };
        if result == 0 {
            // SAFETY: waitid has filled in the fields of a child's end.
            let status = unsafe { info.si_status() };
            return Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status });
        }
        match last_errno() {
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}
