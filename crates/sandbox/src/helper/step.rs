//! A copy of a helper on its way to becoming a step.
//!
//! The order matters and is written once, in [`Step::prepare`] and [`Step::confine`]: first everything that needs the builder's
//! powers (groups, mounts, network), then the change of root, then the step's own user namespace, and from there on only giving
//! things up. Nothing of the builder's is open when the command starts.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::{Equipment, ahead, command, filesystem, join, terminal};
use crate::gvisor::{Needs, Runsc};
use crate::message::{Failure, Order, Report, Request, SourceOrder, encode};
use crate::namespaces::{CLONE_NEWCGROUP, CLONE_NEWNS, unshare};
use crate::rootfs::{Parent, Stub};
use crate::spec::{Network, Security};
use crate::{capabilities, descriptors, process, rlimits};

/// Paths have up to 4096 bytes, and up to six characters each in a report; twelve of them stay below a message's bound if they are
/// of any usual kind, and a longer report is only lost, with the stubs left in the root.
const MADE_PER_REPORT: usize = 6;

/// How readily the kernel ends a process when memory runs out: more than any other.
const FIRST_TO_GO: &str = "1000";

/// A step that was asked for, with its descriptors.
pub(crate) struct Step {
    pub(super) order: Order,
    report: OwnedFd,
    root: Option<OwnedFd>,
    stdio: [OwnedFd; 2],
    stdin: Option<OwnedFd>,
    mounts: Vec<Option<OwnedFd>>,
    /// The step that this process joins, by its first process.
    joined: Option<OwnedFd>,
    /// The device of the network namespace this process is made in, when that was made ahead.
    pub(super) tun: Option<OwnedFd>,
}

impl Step {
    /// Takes a request apart; `None` when it is not what a builder sends.
    pub(super) fn read(request: &Request, fds: &mut impl Iterator<Item = OwnedFd>) -> Option<Self> {
        let order = process::read_memfd(fds.next()?).ok()?;
        let order: Order = serde_json::from_slice(&order).ok()?;
        let report = fds.next()?;
        let (root, joined) =
            if request.joins { (None, Some(fds.next()?)) } else { (fds.next(), None) };
        let stdio = [fds.next()?, fds.next()?];
        let stdin = if request.stdin { Some(fds.next()?) } else { None };
        let mut mounts = Vec::with_capacity(order.mounts.len());
        for mount in &order.mounts {
            mounts.push(match mount.source {
                SourceOrder::Descriptor => Some(fds.next()?),
                SourceOrder::Tmpfs { .. } => None,
            });
        }
        Some(Self { order, report, root, stdio, stdin, mounts, joined, tun: None })
    }

    /// A step of this crate's own making, with one mount and nothing to read.
    pub(crate) fn new(
        order: Order,
        report: OwnedFd,
        root: OwnedFd,
        stdio: [OwnedFd; 2],
        mount: OwnedFd,
    ) -> Self {
        Self {
            order,
            report,
            root: Some(root),
            stdio,
            stdin: None,
            mounts: vec![Some(mount)],
            joined: None,
            tun: None,
        }
    }

    /// The step that this process joins.
    pub(super) fn joined(&self) -> Option<&OwnedFd> {
        self.joined.as_ref()
    }

    /// Sets this process up and executes the command.
    pub(crate) fn become_command(mut self, equipment: &Equipment) -> ! {
        be_first_to_go();
        let failure = match &equipment.runsc {
            None => {
                self.prepare(equipment).and_then(|cwd| self.confine(equipment, &cwd)).map_or_else(
                    |failure| failure,
                    |()| command::execute(&self.order.args, &self.order.env),
                )
            }
            Some(runsc) => self.become_runsc(equipment, runsc),
        };
        self.tell(&Report::Failed(failure), None);
        process::exit(125)
    }

    /// Everything that needs the builder's powers. Returns the working directory.
    fn prepare(&mut self, equipment: &Equipment) -> Result<String, Failure> {
        if let Some(target) = &self.joined {
            self.join_group(equipment)?;
            self.place_stdio(equipment)?;
            join::enter(target)?;
            self.place_terminal(equipment)?;
            return Ok(self.order.cwd.clone());
        }
        let (view, cwd) = self.put_together(equipment)?;
        let (stubs, parents) = view.enter(self.order.readonly_root)?;
        self.tell_made(stubs, parents);
        self.place_terminal(equipment)?;
        Ok(cwd)
    }

    /// The step's view of file systems, ready to be entered, and its working directory.
    fn put_together(
        &mut self,
        equipment: &Equipment,
    ) -> Result<(filesystem::View, String), Failure> {
        self.join_group(equipment)?;
        unshare(CLONE_NEWCGROUP).map_err(Failure::mechanism("create a cgroup namespace"))?;
        self.place_stdio(equipment)?;

        let root = self
            .root
            .take()
            .ok_or_else(|| Failure::Root { message: "no root given".to_owned() })?;
        let mut view = filesystem::View::new(root, equipment.ids)?;
        view.mount_standard(&self.order)?;
        for (mount, fd) in self.order.mounts.iter().zip(self.mounts.iter_mut()) {
            view.mount(mount, fd.take())?;
        }
        let cwd = view.working_directory(&self.order.cwd)?;
        if let Some(tun) = self.prepare_network(equipment)? {
            self.tell(&Report::Tun, Some(tun));
        }
        rustix::system::sethostname(self.order.hostname.as_bytes())
            .map_err(Failure::mechanism("set the host name"))?;
        Ok((view, cwd))
    }

    /// Sets this process up and executes `runsc`, which executes the command. Returns only when that fails.
    fn become_runsc(&mut self, equipment: &Equipment, runsc: &Runsc) -> Failure {
        let mut become_it = || {
            let (view, cwd) = self.put_together(equipment)?;
            let sockets = view.has_sockets();
            let ((stubs, parents), entered) = view.enter_cell(runsc.path(), &self.order, &cwd);
            self.tell_made(stubs, parents);
            entered?;
            let log = self.open_log()?;
            self.confine_runsc(equipment)?;
            rustix::io::fcntl_setfd(&log, rustix::io::FdFlags::empty())
                .map_err(Failure::mechanism("pass the log on to runsc"))?;
            let needs = Needs {
                network: self.order.network,
                security: self.order.security,
                sockets,
                privileges_by_file: !self.order.no_new_privileges,
                log: log.as_raw_fd(),
            };
            Ok((runsc.arguments(needs, &self.order.id), log))
        };
        match become_it() {
            Ok((arguments, _log)) => command::execute(&arguments, &[]),
            Err(failure) => failure,
        }
    }

    /// A pipe for complaints, whose other end goes to the builder.
    fn open_log(&self) -> Result<OwnedFd, Failure> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(Failure::mechanism("make a log for runsc"))?;
        self.tell(&Report::Log, Some(reader));
        Ok(writer)
    }

    /// Gives up the builder's powers. What remains is root of the step's user namespace, which `runsc` needs for mounts and
    /// namespaces of its own; before it runs the command, its processes drop that too and narrow the filter further.
    fn confine_runsc(&self, equipment: &Equipment) -> Result<(), Failure> {
        use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        // Without a network the sentry moves to a user namespace of its own, with a single id and no power; with one it cannot.
        let nested = self.order.network == Network::None;
        let kind = if nested { Security::Insecure } else { Security::Sandbox };
        equipment
            .identity
            .enter(kind)
            .map_err(Failure::mechanism("enter the step's user namespace"))?;
        set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT))
            .and_then(|()| set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT))
            .map_err(Failure::mechanism("become root of the step"))?;
        rustix::process::setsid().map_err(Failure::mechanism("start a session"))?;
        rlimits::raise_files().map_err(Failure::mechanism("set resource limits"))?;
        process::close_on_exec_above_stdio().map_err(Failure::mechanism("close descriptors"))?;
        rustix::thread::set_no_new_privs(true)
            .map_err(Failure::mechanism("forbid new privileges"))?;
        equipment.filter.install().map_err(Failure::mechanism("install the system-call filter"))?;
        // Changes of identity clear it.
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(Failure::mechanism("tie the step to its helper"))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        process::reset_signals();
        Ok(())
    }

    fn place_stdio(&self, equipment: &Equipment) -> Result<(), Failure> {
        use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
        let null;
        let stdin = match &self.stdin {
            Some(stdin) => stdin,
            None => {
                null =
                    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                        .map_err(Failure::mechanism("open /dev/null"))?;
                &null
            }
        };
        let user = &self.order.user;
        let owner = Uid::from_raw(equipment.ids.first + user.uid);
        let group = Gid::from_raw(equipment.ids.first + user.gid);
        for (number, fd) in [(0, stdin), (1, &self.stdio[0]), (2, &self.stdio[1])] {
            let stat =
                rustix::fs::fstat(fd).map_err(Failure::mechanism("examine a standard stream"))?;
            if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo) {
                // Programs open /dev/stdout and the like anew. A pipe somebody else owns is then simply not openable.
                rustix::fs::fchown(fd, Some(owner), Some(group)).ok();
            }
            process::place(fd.as_fd(), number)
                .map_err(Failure::mechanism("set up a standard stream"))?;
        }
        Ok(())
    }

    fn join_group(&self, equipment: &Equipment) -> Result<(), Failure> {
        let Some(leaf) = &self.order.leaf else { return Ok(()) };
        let joined = equipment.cgroups.join(leaf);
        joined.map_err(|error| Failure::chain("limit the step", &error))
    }

    /// Makes a terminal, when one is wanted, and gives its other end to the builder. The step's root is this process's root.
    fn place_terminal(&self, equipment: &Equipment) -> Result<(), Failure> {
        if !self.order.terminal {
            return Ok(());
        }
        let first = equipment.ids.first;
        let owner = (first + self.order.user.uid, first + filesystem::TTY_GROUP);
        let (ours, theirs) =
            terminal::open(owner).map_err(Failure::mechanism("make a terminal"))?;
        for number in 0..=2 {
            process::place(theirs.as_fd(), number)
                .map_err(Failure::mechanism("set up a standard stream"))?;
        }
        self.tell(&Report::Terminal, Some(ours));
        Ok(())
    }

    fn prepare_network(&mut self, equipment: &Equipment) -> Result<Option<OwnedFd>, Failure> {
        if self.order.network == Network::Host {
            return Ok(None);
        }
        if let Some(tun) = self.tun.take() {
            return Ok(Some(tun));
        }
        ahead::loopback(equipment.ids)?;
        match self.order.network {
            Network::Gate => ahead::tun().map(Some),
            Network::None | Network::Host => Ok(None),
        }
    }

    /// Gives up everything a step must not have.
    fn confine(&self, equipment: &Equipment, cwd: &str) -> Result<(), Failure> {
        let order = &self.order;
        let sandboxed = order.security == Security::Sandbox;
        equipment
            .identity
            .enter(order.security)
            .map_err(Failure::mechanism("enter the step's user namespace"))?;
        if !sandboxed && self.joined.is_none() {
            // Its own, of the new user namespace: what it mounts there is its own affair.
            unshare(CLONE_NEWNS).map_err(Failure::mechanism("create a mount namespace"))?;
        }
        rustix::process::setsid().map_err(Failure::mechanism("start a session"))?;
        if order.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .map_err(Failure::mechanism("take the terminal"))?;
        }
        if self.joined.is_some() {
            command::enter_found(cwd)
        } else {
            command::enter_directory(cwd)
        }?;
        rlimits::apply(&order.ulimits).map_err(Failure::mechanism("set resource limits"))?;
        let kept = if sandboxed { capabilities::build_mask() } else { u64::MAX };
        if sandboxed {
            capabilities::limit_bounding_set(kept)
                .map_err(Failure::mechanism("limit the capability bounding set"))?;
        }
        process::close_on_exec_above_stdio().map_err(Failure::mechanism("close descriptors"))?;
        if order.no_new_privileges {
            rustix::thread::set_no_new_privs(true)
                .map_err(Failure::mechanism("forbid new privileges"))?;
        }
        // Last while there are still capabilities to install it with; what follows is in the profile.
        if sandboxed {
            equipment
                .filter
                .install()
                .map_err(Failure::mechanism("install the system-call filter"))?;
        }
        self.become_user(kept)?;
        // Changes of identity clear it.
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(Failure::mechanism("tie the step to its helper"))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        process::reset_signals();
        Ok(())
    }

    fn become_user(&self, kept: u64) -> Result<(), Failure> {
        use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
        let user = &self.order.user;
        let groups: Vec<Gid> = user.groups.iter().map(|group| Gid::from_raw(*group)).collect();
        set_thread_groups(&groups).map_err(Failure::mechanism("set supplementary groups"))?;
        let gid = Gid::from_raw(user.gid);
        set_thread_res_gid(gid, gid, gid).map_err(Failure::mechanism("set the group"))?;
        let uid = Uid::from_raw(user.uid);
        set_thread_res_uid(uid, uid, uid).map_err(Failure::mechanism("set the user"))?;
        // For another user than root the kernel has taken all of them already.
        let mask = if user.uid == 0 { kept } else { 0 };
        capabilities::set(mask).map_err(Failure::mechanism("set capabilities"))
    }

    /// Reports what was made in the root, a few at a time: paths can be long and messages cannot.
    fn tell_made(&self, mut stubs: Vec<Stub>, mut parents: Vec<Parent>) {
        while !stubs.is_empty() || !parents.is_empty() {
            let rest = stubs.split_off(stubs.len().min(MADE_PER_REPORT));
            let rest_parents = parents.split_off(parents.len().min(MADE_PER_REPORT));
            self.tell(&Report::Made { stubs, parents }, None);
            (stubs, parents) = (rest, rest_parents);
        }
    }

    fn tell(&self, report: &Report, fd: Option<OwnedFd>) {
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        // A builder that stopped listening has given up on the step and will end it.
        descriptors::send(&self.report, &encode(report), &fds).ok();
    }
}

/// When the memory of all runs out, a step ends and not the builder with every build. Asking for this needs no right; a machine that
/// does not grant it is no worse than it was.
fn be_first_to_go() {
    std::fs::write("/proc/self/oom_score_adj", FIRST_TO_GO).ok();
}
