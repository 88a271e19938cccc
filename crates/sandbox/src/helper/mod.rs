//! The processes that start steps: one nursery that keeps a number of launch helpers alive, and the helpers.
//!
//! All of them are copies of the builder made before it had a second thread, which is what makes it sound to fork from them. A
//! helper does nothing but copy itself for each step and report how the copies end; setting a step up is the copy's own work, so
//! one helper has any number of steps in hand at once. They hold the descriptors they need and nothing else of the builder's.

mod ahead;
mod command;
mod filesystem;
mod join;
mod lookup;
mod step;
mod terminal;

pub(crate) use step::Step;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, set_parent_process_death_signal};

use self::ahead::NextNetwork;
use crate::cgroup::Cgroups;
use crate::descriptors;
use crate::gvisor::Runsc;
use crate::identity::StepIdentity;
use crate::message::{Notice, Request, encode};
use crate::namespaces::{
    CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, Side, fork,
};
use crate::process;
use crate::seccomp::Filter;
use crate::spec::{Network, StepIds};

/// A helper that ends sooner than this after its start is started again only after a pause, so that a fault that meets every
/// helper does not keep a processor busy.
const SHORT_LIFE: Duration = Duration::from_millis(200);

/// What every helper knows from the start.
#[derive(Debug)]
pub(crate) struct Equipment {
    pub(crate) ids: StepIds,
    pub(crate) identity: StepIdentity,
    pub(crate) filter: Filter,
    pub(crate) cgroups: Cgroups,
    /// What executes steps' commands, when this machine's kernel must not.
    pub(crate) runsc: Option<Runsc>,
}

/// Starts the nursery. Returns the socket on which it announces helpers: one message per helper, its number in the first byte,
/// with the helper's socket.
///
/// # Safety
///
/// The calling process has one thread.
pub(crate) unsafe fn start_nursery(equipment: &Equipment, helpers: u8) -> Result<OwnedFd, Errno> {
    let (ours, theirs) = descriptors::pair()?;
    // SAFETY: passed on to the caller.
    match unsafe { fork(0, None) }? {
        Side::Parent { .. } => Ok(ours),
        Side::Child => {
            set_parent_process_death_signal(Some(Signal::KILL)).ok();
            let mut keep = equipment.raw_descriptors();
            keep.push(theirs.as_raw_fd());
            // SAFETY: this copy never returns to code that owns other descriptors.
            let closed = unsafe { process::close_all_but(&keep) };
            if closed.is_ok() {
                nurse(equipment, &theirs, helpers);
            }
            process::exit(1)
        }
    }
}

impl Equipment {
    fn raw_descriptors(&self) -> Vec<i32> {
        let identity = self.identity.descriptors();
        identity
            .iter()
            .map(AsFd::as_fd)
            .chain(self.cgroups.descriptors())
            .map(|fd| fd.as_raw_fd())
            .collect()
    }
}

/// Keeps `helpers` helpers alive until the builder is gone.
fn nurse(equipment: &Equipment, builder: &OwnedFd, helpers: u8) {
    let mut alive: Vec<(u8, i32, Instant)> = Vec::new();
    for number in 0..helpers {
        let Ok(pid) = start_helper(equipment, builder, number) else { return };
        alive.push((number, pid, Instant::now()));
    }
    loop {
        // Any child: steps of a dead helper are not ours, they go to the init of the builder's enclosure.
        let Ok(Some((pid, _))) = rustix::process::wait(rustix::process::WaitOptions::empty())
        else {
            return;
        };
        let pid = pid.as_raw_nonzero().get();
        let Some(at) = alive.iter().position(|(_, known, _)| *known == pid) else { continue };
        let (number, _, since) = alive.swap_remove(at);
        if since.elapsed() < SHORT_LIFE {
            std::thread::sleep(SHORT_LIFE);
        }
        let Ok(pid) = start_helper(equipment, builder, number) else { return };
        alive.push((number, pid, Instant::now()));
    }
}

fn start_helper(equipment: &Equipment, builder: &OwnedFd, number: u8) -> Result<i32, Errno> {
    let (ours, theirs) = descriptors::pair()?;
    // SAFETY: the nursery has one thread.
    match unsafe { fork(0, None) }? {
        Side::Parent { pid, .. } => {
            drop(theirs);
            descriptors::send(builder, &[number], &[ours.as_fd()])?;
            Ok(pid)
        }
        Side::Child => {
            set_parent_process_death_signal(Some(Signal::KILL)).ok();
            drop(ours);
            let mut keep = equipment.raw_descriptors();
            keep.push(theirs.as_raw_fd());
            // SAFETY: this copy never returns.
            unsafe { process::close_all_but(&keep) }.ok();
            let next = NextNetwork::new(equipment.ids);
            Helper { equipment, builder: theirs, running: Vec::new(), next }.serve();
            process::exit(0)
        }
    }
}

/// One launch helper.
struct Helper<'a> {
    equipment: &'a Equipment,
    builder: OwnedFd,
    running: Vec<Child>,
    next: NextNetwork,
}

struct Child {
    id: u64,
    pid: i32,
    pidfd: OwnedFd,
}

impl Helper<'_> {
    /// Serves until the builder closes the socket; ends every step then.
    fn serve(&mut self) {
        loop {
            let ready = self.wait();
            let Ok((requested, ended)) = ready else { break };
            for at in ended.into_iter().rev() {
                self.reap(at);
            }
            if requested && !self.accept() {
                break;
            }
            let waited_long = self.next.patience().is_some_and(|left| left.is_zero());
            if waited_long && self.next.leave().is_err() {
                break;
            }
        }
        for child in &self.running {
            rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL).ok();
        }
    }

    /// Waits for a request, the end of a step, or the time to give up what was made ahead: whether there is a request, and which
    /// steps have ended.
    fn wait(&self) -> Result<(bool, Vec<usize>), Errno> {
        let patience = self.next.patience().map(|left| Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = vec![PollFd::new(&self.builder, PollFlags::IN)];
        fds.extend(self.running.iter().map(|child| PollFd::new(&child.pidfd, PollFlags::IN)));
        loop {
            match poll(&mut fds, patience.as_ref()) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let requested = ready.next().unwrap_or(false);
        Ok((requested, ready.enumerate().filter_map(|(at, ended)| ended.then_some(at)).collect()))
    }

    fn reap(&mut self, at: usize) {
        let Some((_, ended)) = process::reap(self.running[at].pid) else { return };
        let child = self.running.swap_remove(at);
        self.tell(&Notice::Exited { id: child.id, ended }, None);
    }

    fn tell(&self, notice: &Notice, fd: Option<&OwnedFd>) {
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        // A builder that is gone is noticed at the next read.
        descriptors::send(&self.builder, &encode(notice), &fds).ok();
    }

    /// Starts one step; `false` when the builder is gone.
    fn accept(&mut self) -> bool {
        let (request, mut fds) = match descriptors::receive(&self.builder, RecvFlags::empty()) {
            Ok(Some((bytes, fds))) => match serde_json::from_slice::<Request>(&bytes) {
                Ok(request) => (request, fds.into_iter()),
                Err(_) => return false,
            },
            Ok(None) | Err(_) => return false,
        };
        let Some(step) = step::Step::read(&request, &mut fds) else {
            self.refuse(request.id, Errno::INVAL);
            return true;
        };
        let gated = step.order.network == Network::Gate && step.joined().is_none();
        if let Err(errno) = self.start(request.id, step) {
            self.refuse(request.id, errno);
        }
        // Another step is likely to follow, and this one has its own work to do meanwhile.
        !gated || self.next.make().is_ok()
    }

    fn refuse(&self, id: u64, errno: Errno) {
        self.tell(&Notice::Refused { id, errno: errno.raw_os_error() }, None);
    }

    /// Copies this process into a step, in its control group and namespaces.
    fn start(&mut self, id: u64, mut step: Step) -> Result<(), Errno> {
        let mut flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
        match step.order.network {
            Network::Host => self.next.leave()?,
            Network::Gate if step.joined().is_none() => step.tun = self.next.take(),
            Network::Gate | Network::None => {}
        }
        if step.order.network != Network::Host && step.tun.is_none() {
            flags |= CLONE_NEWNET;
        }
        let leaf = match &step.order.leaf {
            Some(leaf) => self.equipment.cgroups.unified(leaf)?,
            None => None,
        };
        let leaf = leaf.as_ref().map(AsFd::as_fd);
        let side = match step.joined() {
            // SAFETY: a helper has one thread.
            None => unsafe { fork(flags, leaf) },
            // SAFETY: likewise.
            Some(target) => unsafe { join::fork_beside(target, leaf) },
        };
        match side? {
            Side::Parent { pid, pidfd } => {
                self.tell(&Notice::Started { id }, Some(&pidfd));
                self.running.push(Child { id, pid, pidfd });
                Ok(())
            }
            Side::Child => {
                set_parent_process_death_signal(Some(Signal::KILL)).ok();
                // What waits for another step is none of this one's.
                drop(self.next.take());
                step.become_command(self.equipment)
            }
        }
    }
}
