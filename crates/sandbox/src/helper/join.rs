//! One more process for a step that is running: its namespaces, entered from outside by its first process's pidfd, setns(2).
//!
//! Unlike the first one, this process has neighbours while it is set up, and they may be hostile. It must not be open to
//! inspection (ptrace(2), `/proc/<pid>/fd`) before it is no more than they are (CVE-2016-9962), and nothing is looked up by
//! path in their mounts with the builder's powers, but the terminal, which is checked.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, PidfdFlags, pidfd_open, set_dumpable_behavior};

use crate::message::Failure;
use crate::namespaces::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, Side,
    enter_namespace, fork,
};
use crate::process;

/// Copies the calling process into the pid namespace of `target`; in all else the copy is where the caller is.
///
/// # Safety
///
/// The calling process has one thread.
pub(super) unsafe fn fork_beside(
    target: &OwnedFd,
    cgroup: Option<BorrowedFd<'_>>,
) -> Result<Side, Errno> {
    let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    enter_namespace(target, CLONE_NEWPID)?;
    // SAFETY: passed on to the caller.
    let side = unsafe { fork(0, cgroup) };
    if !matches!(side, Ok(Side::Child)) && enter_namespace(&own, CLONE_NEWPID).is_err() {
        // The next step would be put beside a foreign one. Without its helper no step goes on.
        process::exit(1);
    }
    side
}

/// Enters what else the step has of its own. Afterwards its root is this process's root.
pub(super) fn enter(target: &OwnedFd) -> Result<(), Failure> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(Failure::mechanism("hide the process from its neighbours"))?;
    let kinds = CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWNS;
    enter_namespace(target, kinds).map_err(Failure::mechanism("enter the container"))
}
