//! The way into an enclosure, walked by a process that has just begun for it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{DumpableBehavior, Signal, pidfd_send_signal, set_dumpable_behavior};

use super::groups::Way;
use super::ids::Identity;
use super::plan::{FIRST_INHERITED, LIFELINE, MARK, PLAN, Plan, STATUS, Status};
use super::{EnclosureError, init, maps, root};
use crate::cgroup::Delegation;
use crate::descriptors;
use crate::identity::write_file;
use crate::message::encode;
use crate::namespaces::{
    CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS,
    CLONE_PARENT, Side, fork, unshare,
};
use crate::network;
use crate::process;
use crate::spec::{Network, StepIds};

/// Namespaces that belong to the builder's user namespace in any case. That of control groups is made by [`Way`].
const OWNED: i32 = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS;

/// What a process finds when it has entered its enclosure.
#[derive(Debug)]
pub struct Entered {
    /// The store directory.
    pub store: PathBuf,
    /// The ids steps live in.
    pub ids: StepIds,
    /// Where control groups may be made; `None` when there is no place, and steps with limits will be refused.
    pub cgroup: Option<Delegation>,
    /// The builder's own way to the network, when it is to have one: a TUN device for the gate.
    pub tun: Option<OwnedFd>,
    /// The descriptors the supervisor passed on, by name; closed when another program is executed.
    pub descriptors: BTreeMap<String, OwnedFd>,
}

/// Enters the enclosure this process was begun for; `None` when it was begun for something else.
///
/// To be called before anything else in `main`, or as soon as a spare copy was told what to become: the process must have one thread. The process that returns is not the one that
/// called, but a copy of it: the builder. What fails on the way is told to the supervisor, and the process ends.
///
/// # Errors
///
/// When this process was marked for an enclosure and yet has no plan to follow.
pub fn enter() -> Result<Option<Entered>, EnclosureError> {
    if std::env::var_os(MARK).is_none() {
        return Ok(None);
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(EnclosureError::Threads(threads));
    }
    // SAFETY: one thread, counted above.
    unsafe { std::env::remove_var(MARK) };
    let (plan, status, lifeline, inherited) = inherit()?;
    match walk(&plan, &status, &lifeline) {
        Ok((delegation, tun)) => {
            tell(&status, &Status::Ready, None)?;
            let cgroup = (!delegation.hierarchies.is_empty()).then_some(delegation);
            let descriptors = plan.descriptors.into_iter().zip(inherited).collect();
            let (store, ids) = (root::STORE.into(), plan.steps);
            Ok(Some(Entered { store, ids, cgroup, tun, descriptors }))
        }
        Err(error) => {
            tell(&status, &Status::Failed(chain(&error)), None).ok();
            process::exit(1)
        }
    }
}

/// Takes over the descriptors the supervisor put in their places.
fn inherit() -> Result<(Plan, OwnedFd, OwnedFd, Vec<OwnedFd>), EnclosureError> {
    process::close_on_exec_above_stdio().map_err(EnclosureError::mechanism("close descriptors"))?;
    // SAFETY: the supervisor made these for us, and nothing in this process, which has only just started, has touched them.
    let [plan, status, lifeline] =
        [PLAN, STATUS, LIFELINE].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let plan =
        process::read_memfd(plan).map_err(|error| EnclosureError::Plan(error.to_string()))?;
    let plan: Plan =
        serde_json::from_slice(&plan).map_err(|error| EnclosureError::Plan(error.to_string()))?;
    let inherited = (FIRST_INHERITED..)
        .zip(&plan.descriptors)
        // SAFETY: likewise.
        .map(|(fd, _)| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect();
    Ok((plan, status, lifeline, inherited))
}

/// The whole way. Returns in the builder only, with its control groups and its network device.
fn walk(
    plan: &Plan,
    status: &OwnedFd,
    lifeline: &OwnedFd,
) -> Result<(Delegation, Option<OwnedFd>), EnclosureError> {
    for group in &plan.join {
        // By thread, of which there is one: `cgroup.procs` waits until every processor has passed a quiet state, which takes
        // longer than all else here.
        write_file(&format!("{}/tasks", group.display()), b"0")
            .map_err(EnclosureError::mechanism(format!("join cgroup {}", group.display())))?;
    }
    let (ours, theirs) = descriptors::pair().map_err(EnclosureError::mechanism("make a socket"))?;
    let flags = CLONE_PARENT | CLONE_NEWPID | CLONE_NEWNS;
    let flags = match plan.identity {
        Identity::Block { .. } => flags,
        Identity::Subordinate { .. } => flags | CLONE_NEWUSER | owned(plan),
    };
    let way = Way::prepare(plan)?;
    // SAFETY: one thread, counted by `enter`.
    let forked = unsafe { fork(flags, way.group()) };
    match forked.map_err(EnclosureError::mechanism("create namespaces"))? {
        Side::Parent { pid, pidfd } => {
            drop(theirs);
            lead(plan, status, &ours, pid, &pidfd)
        }
        Side::Child => {
            drop(ours);
            way.enter()?;
            let mut delegation = match plan.identity {
                Identity::Block { .. } => follow_as_root(plan, &theirs)?,
                Identity::Subordinate { .. } => follow_as_user(plan, &theirs)?,
            };
            drop(theirs);
            way.settle(&mut delegation)?;
            settle_in()?;
            let tun = prepare_network(plan.network)?;
            become_builder(lifeline)?;
            Ok((delegation, tun))
        }
    }
}

/// The namespaces made together with the builder's user namespace.
fn owned(plan: &Plan) -> i32 {
    if plan.network == Network::Host { OWNED } else { OWNED | CLONE_NEWNET }
}

/// Sets up the network namespace, which has just been made.
fn prepare_network(network: Network) -> Result<Option<OwnedFd>, EnclosureError> {
    match network {
        Network::Host => Ok(None),
        Network::None => network::prepare_loopback()
            .map(|()| None)
            .map_err(EnclosureError::mechanism("set up the builder's loopback")),
        Network::Gate => network::create_builders_tun().map(Some).map_err(
            EnclosureError::mechanism("set up the builder's network device with /dev/net/tun"),
        ),
    }
}

/// The outer process: writes the maps of the inner one and ends.
fn lead(
    plan: &Plan,
    status: &OwnedFd,
    inner: &OwnedFd,
    pid: i32,
    pidfd: &OwnedFd,
) -> Result<(Delegation, Option<OwnedFd>), EnclosureError> {
    tell(status, &Status::Started { pid }, Some(pidfd))?;
    if !heard(inner)? {
        // It has told the supervisor why; this process has nothing to add.
        process::exit(1);
    }
    let led = || {
        maps::write(pid, &plan.identity)?;
        descriptors::send(inner, b"mapped", &[])
            .map_err(EnclosureError::mechanism("release the builder"))
    };
    if let Err(error) = led() {
        pidfd_send_signal(pidfd, Signal::KILL).ok();
        return Err(error);
    }
    process::exit(0)
}

/// The inner process as root of the host: the root first, then the user namespace that locks it.
fn follow_as_root(plan: &Plan, outer: &OwnedFd) -> Result<Delegation, EnclosureError> {
    let delegation = root::build(plan)?;
    unshare(CLONE_NEWUSER | owned(plan))
        .map_err(EnclosureError::mechanism("create the builder's namespaces"))?;
    become_root(outer)?;
    Ok(delegation)
}

/// The inner process as an ordinary user: nothing can be done before the user namespace.
fn follow_as_user(plan: &Plan, outer: &OwnedFd) -> Result<Delegation, EnclosureError> {
    become_root(outer)?;
    root::build(plan)
}

/// Waits for the maps and becomes root of the user namespace.
fn become_root(outer: &OwnedFd) -> Result<(), EnclosureError> {
    use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    descriptors::send(outer, b"unshared", &[])
        .map_err(EnclosureError::mechanism("ask for id maps"))?;
    hear(outer)?;
    let change = || {
        set_thread_groups(&[])?;
        set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        // Otherwise our own files in /proc belong to root of the host, and no step's maps could be written.
        set_dumpable_behavior(DumpableBehavior::Dumpable)
    };
    change().map_err(EnclosureError::mechanism("take the builder's ids"))
}

fn settle_in() -> Result<(), EnclosureError> {
    rustix::process::setsid().map_err(EnclosureError::mechanism("start a session"))?;
    process::new_session_keyring().map_err(EnclosureError::mechanism("start a keyring"))?;
    rustix::system::sethostname(b"builder")
        .map_err(EnclosureError::mechanism("set the host name"))?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// Splits off the builder and stays behind as init.
fn become_builder(lifeline: &OwnedFd) -> Result<(), EnclosureError> {
    let mut signals = process::FORWARDED.to_vec();
    signals.push(libc::SIGCHLD);
    let signals = process::signal_descriptor(&signals)
        .map_err(EnclosureError::mechanism("watch for signals"))?;
    // SAFETY: still one thread.
    match unsafe { fork(0, None) }.map_err(EnclosureError::mechanism("create the builder"))? {
        Side::Parent { pid, .. } => init::watch(pid, &signals, lifeline),
        Side::Child => {
            process::unblock_signals();
            Ok(())
        }
    }
}

fn hear(socket: &OwnedFd) -> Result<(), EnclosureError> {
    if heard(socket)? {
        Ok(())
    } else {
        Err(EnclosureError::mechanism("wait for the other process")(Errno::PIPE))
    }
}

/// Waits for a word; `false` when the other process is gone instead.
fn heard(socket: &OwnedFd) -> Result<bool, EnclosureError> {
    let heard = descriptors::receive(socket, RecvFlags::empty());
    Ok(heard.map_err(EnclosureError::mechanism("wait for the other process"))?.is_some())
}

fn tell(status: &OwnedFd, news: &Status, fd: Option<&OwnedFd>) -> Result<(), EnclosureError> {
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    descriptors::send(status, &encode(news), &fds)
        .map_err(EnclosureError::mechanism("tell the supervisor"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        message.push_str(": ");
        message.push_str(&error.to_string());
        source = error.source();
    }
    message
}
