//! One more process for a step that is running: its namespaces, entered from outside by its first process's pidfd, setns(2).
//!
//! Unlike the first one, this process has neighbours while it is set up, and they may be hostile. It must not be open to
//! inspection (ptrace(2), `/proc/<pid>/fd`) before it is no more than they are (CVE-2016-9962), and nothing is looked up by
//! path in their mounts with the builder's powers, but the terminal, which is checked.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, Pid, WaitOptions, set_dumpable_behavior, waitpid};

use crate::descriptors;
use crate::message::Failure;
use crate::namespaces::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS,
    CLONE_PARENT, Side, enter_namespace, fork,
};
use crate::process;

/// Makes a copy of the calling process in the pid namespace of `target`; in all else the copy is where the caller is, and the
/// caller's child like any other.
///
/// Who enters a pid namespace cannot always come back, so a process in between does, and ends.
///
/// # Safety
///
/// The calling process has one thread.
pub(super) unsafe fn fork_beside(
    target: &OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Side, Errno> {
    let (ours, theirs) = descriptors::pair()?;
    // SAFETY: passed on to the caller.
    match unsafe { fork(0, None) }? {
        Side::Parent { pid: between, .. } => {
            drop(theirs);
            let heard = descriptors::receive(&ours, RecvFlags::empty());
            let between = Pid::from_raw(between);
            while let Err(Errno::INTR) = waitpid(between, WaitOptions::empty()) {}
            let (bytes, fds) = heard?.ok_or(Errno::CHILD)?;
            let number = bytes.try_into().map(i32::from_ne_bytes).map_err(|_| Errno::BADMSG)?;
            match fds.into_iter().next() {
                Some(pidfd) => Ok(Side::Parent { pid: number, pidfd }),
                None => Err(Errno::from_raw_os_error(number)),
            }
        }
        Side::Child => {
            drop(ours);
            let made = enter_namespace(target, CLONE_NEWPID)
                // SAFETY: likewise.
                .and_then(|()| unsafe { fork(CLONE_PARENT, cgroup) });
            let told = match made {
                Ok(Side::Child) => return Ok(Side::Child),
                Ok(Side::Parent { pid, pidfd }) => {
                    descriptors::send(&theirs, &pid.to_ne_bytes(), &[pidfd.as_fd()])
                }
                Err(errno) => descriptors::send(&theirs, &errno.raw_os_error().to_ne_bytes(), &[]),
            };
            process::exit(i32::from(told.is_err()))
        }
    }
}

/// Enters what else the step has of its own. Afterwards its root is this process's root.
pub(super) fn enter(target: &OwnedFd) -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Failure::mechanism("hide the process from its neighbours"))?;
    let kinds = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS;
    enter_namespace(target, kinds).map_err(Failure::mechanism("enter the container"))
}
