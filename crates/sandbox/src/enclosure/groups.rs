//! The builder's place in the unified hierarchy: the group its first process is in, and the namespace of groups above that.
//!
//! The namespace's root is the delegated group, so that the groups of the steps are inside it, and the process is in a leaf of that
//! group, beside them. A namespace begins where its maker is, and a process that moves waits until every processor has passed a quiet
//! state, some ten milliseconds in which nothing on the machine can start a process. So the supervisor's side has a process made in the
//! delegated group for the namespace alone, and the builder made in the leaf: nobody moves. An ordinary user, who may make no such
//! namespace outside of a user namespace, has the builder move.
//!
//! Nothing here may give the builder a group other than the delegated ones.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::EnclosureError;
use super::ids::Identity;
use super::plan::Plan;
use crate::cgroup::Delegation;
use crate::namespaces::{CLONE_NEWCGROUP, Side, enter_namespace, fork, unshare};
use crate::{descriptors, process};

/// How the first process comes to its place.
#[derive(Debug)]
pub(super) enum Way {
    /// There is no unified hierarchy.
    None,
    /// It is made in its leaf and enters a namespace that is there.
    Made { home: OwnedFd, namespace: OwnedFd },
    /// It is made in the delegated group, makes the namespace, and moves.
    Moves(OwnedFd),
}

impl Way {
    /// What there must be before that process is made. The calling process has one thread.
    pub(super) fn prepare(plan: &Plan) -> Result<Self, EnclosureError> {
        let Some(group) = plan.delegation.unified()? else { return Ok(Self::None) };
        match (&plan.identity, plan.delegation.home()?) {
            (Identity::Block { .. }, Some(home)) => {
                let namespace = namespace_of(&group)
                    .map_err(EnclosureError::mechanism("create the builder's cgroup namespace"))?;
                Ok(Self::Made { home, namespace })
            }
            _ => Ok(Self::Moves(group)),
        }
    }

    /// The group to make the process in.
    pub(super) fn group(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::None => None,
            Self::Made { home, .. } => Some(home.as_fd()),
            Self::Moves(group) => Some(group.as_fd()),
        }
    }

    /// In that process, while it is still root of the host, if it is.
    pub(super) fn enter(&self) -> Result<(), EnclosureError> {
        match self {
            Self::Made { namespace, .. } => enter_namespace(namespace, CLONE_NEWCGROUP)
                .map_err(EnclosureError::mechanism("enter the builder's cgroup namespace")),
            Self::None | Self::Moves(_) => Ok(()),
        }
    }

    /// In that process, once its user namespace is there: the rest of the way, and room for the groups of steps.
    pub(super) fn settle(self, delegation: &mut Delegation) -> Result<(), EnclosureError> {
        if let Self::Made { .. } = self {
            return Ok(delegation.settle()?);
        }
        unshare(CLONE_NEWCGROUP)
            .map_err(EnclosureError::mechanism("create the builder's cgroup namespace"))?;
        delegation.move_home()?;
        Ok(delegation.settle()?)
    }
}

/// A namespace of groups that begins at `group`, made by a process that is there for this alone and has ended.
fn namespace_of(group: &OwnedFd) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = descriptors::pair()?;
    // SAFETY: the caller of `prepare` has one thread.
    match unsafe { fork(0, Some(group.as_fd())) }? {
        Side::Parent { pidfd, .. } => {
            drop(theirs);
            let heard = descriptors::receive(&ours, RecvFlags::empty());
            let code = process::wait_for(&pidfd)?;
            match (heard?.and_then(|(_, mut fds)| fds.pop()), code) {
                (Some(namespace), _) => Ok(namespace),
                (None, 1..128) => Err(Errno::from_raw_os_error(code)),
                // A signal has ended it, or there was no room for the descriptor.
                (None, _) => Err(Errno::BADMSG),
            }
        }
        Side::Child => {
            let made = unshare(CLONE_NEWCGROUP).and_then(|()| {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                let own = rustix::fs::open("/proc/self/ns/cgroup", flags, Mode::empty())?;
                descriptors::send(&theirs, b"made", &[own.as_fd()])
            });
            process::exit(made.map_or_else(Errno::raw_os_error, |()| 0))
        }
    }
}
