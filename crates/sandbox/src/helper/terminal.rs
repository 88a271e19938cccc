//! A terminal of a step, pty(7): made in the step's own `/dev/pts`, so that programs find it there by name.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Gid, Mode, OFlags, ResolveFlags, Uid, makedev, openat2};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS: i64 = 0x1cd1;

/// Opens a new terminal below this process's root: the controlling end and the other one, which belongs to `owner`.
pub(super) fn open(owner: (u32, u32)) -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty())?;
    // A step with its own mounts may have put anything there.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let ours = openat2(&root, c"dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(&ours)?;
    let genuine = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(5, 2)
        && rustix::fs::fstatfs(&ours)?.f_type == DEVPTS;
    if !genuine {
        return Err(Errno::NOTTY);
    }
    unlockpt(&ours)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
    rustix::fs::fchown(&theirs, Some(uid), Some(gid))?;
    Ok((ours, theirs))
}
