//! The user namespace steps live in, user_namespaces(7).
//!
//! One namespace serves all steps of a builder: it is the same mapping every time, and steps cannot see each other through it,
//! because everything else (processes, mounts, network) is in namespaces of their own, owned by the builder's user namespace.
//! Making it once keeps map writing, and a round trip for it, out of the start of a step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::namespaces::{CLONE_NEWUSER, Side, enter_namespace, fork, unshare};
use crate::process;
use crate::spec::{Security, StepIds};

/// The namespaces steps are put into, by how far they are trusted.
#[derive(Debug)]
pub(crate) struct StepIdentity {
    sandbox: OwnedFd,
    insecure: OwnedFd,
}

impl StepIdentity {
    /// Creates both namespaces. The caller has one thread, is root of its own user namespace and is dumpable.
    pub(crate) fn create(ids: StepIds) -> Result<Self, Errno> {
        // Nested namespaces are the door to most of the kernel's privileged code, so the ordinary one allows none.
        Ok(Self { sandbox: create(ids, false)?, insecure: create(ids, true)? })
    }

    /// Enters the namespace for steps of this kind, with all capabilities in it.
    pub(crate) fn enter(&self, security: Security) -> Result<(), Errno> {
        let namespace = match security {
            Security::Sandbox => &self.sandbox,
            Security::Insecure => &self.insecure,
        };
        enter_namespace(namespace, CLONE_NEWUSER)
    }

    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.sandbox.as_fd(), self.insecure.as_fd()]
    }
}

fn create(ids: StepIds, nested: bool) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = crate::descriptors::pair()?;
    // SAFETY: the caller promised one thread.
    match unsafe { fork(0, None) }? {
        Side::Child => {
            drop(ours);
            let result = hold(&theirs, nested);
            process::exit(i32::from(result.is_err()));
        }
        Side::Parent { pid, pidfd: _pidfd } => {
            drop(theirs);
            let namespace = name(pid, &ours, ids);
            drop(ours);
            // The holder ends when its socket does.
            let status = rustix::process::waitpid(
                rustix::process::Pid::from_raw(pid),
                rustix::process::WaitOptions::empty(),
            )?;
            let namespace = namespace?;
            match status {
                Some((_, status)) if status.exit_status() == Some(0) => Ok(namespace),
                _ => Err(Errno::PERM),
            }
        }
    }
}

/// The short life of the process that a namespace is made with.
fn hold(socket: &OwnedFd, nested: bool) -> Result<(), Errno> {
    unshare(CLONE_NEWUSER)?;
    crate::descriptors::send(socket, b"made", &[])?;
    crate::descriptors::receive(socket, rustix::net::RecvFlags::empty())?;
    if !nested {
        write_file("/proc/sys/user/max_user_namespaces", b"0")?;
    }
    crate::descriptors::send(socket, b"limited", &[])?;
    crate::descriptors::receive(socket, rustix::net::RecvFlags::empty())?;
    Ok(())
}

fn name(pid: i32, socket: &OwnedFd, ids: StepIds) -> Result<OwnedFd, Errno> {
    let heard = || match crate::descriptors::receive(socket, rustix::net::RecvFlags::empty())? {
        Some(_) => Ok(()),
        None => Err(Errno::PERM),
    };
    heard()?;
    let map = format!("0 {} {}\n", ids.first, ids.count);
    write_file(&format!("/proc/{pid}/uid_map"), map.as_bytes())?;
    write_file(&format!("/proc/{pid}/gid_map"), map.as_bytes())?;
    crate::descriptors::send(socket, b"mapped", &[])?;
    heard()?;
    rustix::fs::openat(
        CWD,
        format!("/proc/{pid}/ns/user"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

pub(crate) fn write_file(path: &str, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(|_| ())
}
