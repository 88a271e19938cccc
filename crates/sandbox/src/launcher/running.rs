//! A step from the moment it was asked for until nothing of it is left.
//!
//! Three parts share the work: [`Handle`] can end the step at any time, also before its process is known; [`Watch`] is the task
//! that waits for the end and cleans up; [`Running`] is what the caller holds.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::Interest;
use tokio::sync::{Notify, oneshot};

use super::connection::Connection;
use super::{LaunchError, watched};
use crate::cgroup::Leaf;
use crate::descriptors;
use crate::gvisor::{self, Log};
use crate::message::{Failure, Report};
use crate::process::Ended;
use crate::rootfs::{Parent, Stub, settle};
use crate::spec::{Exit, Usage};

/// The means to end a step.
#[derive(Debug)]
pub(super) struct Handle {
    leaf: Option<Leaf>,
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pidfd: Option<OwnedFd>,
    condemned: bool,
    over: bool,
}

impl Handle {
    /// Takes note of the step's first process; ends it if that was asked for before it was known.
    pub(super) fn started(&self, pidfd: OwnedFd) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.condemned {
            self.end(&pidfd);
        }
        state.pidfd = Some(pidfd);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes note of the step's end, or of there being none.
    pub(super) fn over(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_waiters();
    }

    /// Waits until the first process is known, or there will be none. The step itself tells of its start by another way, and may be
    /// first.
    async fn known(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let known = {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.pidfd.is_some() || state.condemned || state.over
            };
            if known {
                return;
            }
            changed.await;
        }
    }

    /// Ends every process of the step.
    pub(super) fn kill(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.condemned = true;
        if let Some(pidfd) = &state.pidfd {
            self.end(pidfd);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Name of the step's control group.
    pub(super) fn leaf(&self) -> Option<String> {
        self.leaf.as_ref().map(|leaf| leaf.name().to_owned())
    }

    /// Another handle on the first process; `None` when it is about to be ended or not there yet.
    pub(super) fn pidfd(&self) -> Option<OwnedFd> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pidfd = state.pidfd.as_ref().filter(|_| !state.condemned)?;
        rustix::io::fcntl_dupfd_cloexec(pidfd, 0).ok()
    }

    fn signal(&self, signal: Signal) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pidfd) = &state.pidfd {
            // Already gone is fine.
            pidfd_send_signal(pidfd, signal).ok();
        }
    }

    fn end(&self, pidfd: &OwnedFd) {
        if let Some(leaf) = &self.leaf {
            leaf.kill();
        }
        // The first process is the init of its pid namespace: with it everything goes. Already gone is fine.
        pidfd_send_signal(pidfd, Signal::KILL).ok();
    }
}

/// Ends the step when dropped.
#[derive(Debug)]
struct Guard(Arc<Handle>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// What was made in the root and has to be taken out again; told to the watch when the command is running.
#[derive(Debug, Default)]
struct Record {
    stubs: Vec<Stub>,
    parents: Vec<Parent>,
}

/// The caller's promise to tell the watch about the record. Dropped without telling, the watch cleans up what it can.
#[derive(Debug)]
pub(super) struct Watch {
    record: oneshot::Sender<Record>,
}

impl Watch {
    /// Starts watching over a step that is about to be asked for. A process that joins a step has neither group nor root of its own.
    pub(super) fn start(
        id: u64,
        helper: &Connection,
        leaf: Option<Leaf>,
        root: Option<OwnedFd>,
    ) -> (Self, Running) {
        let handle = Arc::new(Handle { leaf, state: Mutex::default(), changed: Notify::new() });
        let (end, ended) = oneshot::channel();
        let (record, told) = oneshot::channel();
        let (done, exit) = oneshot::channel();
        helper.expect(id, Arc::clone(&handle), end);
        let watched = Arc::clone(&handle);
        tokio::spawn(async move {
            let ended = ended.await.unwrap_or(Err(LaunchError::HelperLost));
            let record = told.await.unwrap_or_default();
            let cleaned =
                tokio::task::spawn_blocking(move || clean(&watched, root.as_ref(), &record)).await;
            let exit = ended.map(|ended| exit_of(ended, cleaned.unwrap_or_default()));
            // Nobody waits for a step whose `Running` was dropped.
            done.send(exit).ok();
        });
        (
            Self { record },
            Running {
                guard: Guard(handle),
                exit: Some(exit),
                finished: None,
                tun: None,
                log: None,
                terminal: None,
            },
        )
    }
}

/// What was found while cleaning up.
#[derive(Default)]
struct Found {
    oom_killed: bool,
    pids_exhausted: bool,
    settled_parents: Vec<std::path::PathBuf>,
}

fn exit_of(ended: Ended, found: Found) -> Exit {
    Exit {
        code: ended.code,
        signal: ended.signal,
        oom_killed: found.oom_killed,
        pids_exhausted: found.pids_exhausted,
        usage: Usage {
            user: Duration::from_micros(ended.user_micros),
            system: Duration::from_micros(ended.system_micros),
            peak_resident: ended.peak_resident,
        },
        settled_parents: found.settled_parents,
    }
}

/// Everything that is to be done after a step has ended. Blocks, for a moment as a rule.
fn clean(handle: &Handle, root: Option<&OwnedFd>, record: &Record) -> Found {
    let mut found = Found::default();
    if let Some(leaf) = &handle.leaf {
        found.oom_killed = leaf.oom_killed();
        found.pids_exhausted = leaf.pids_exhausted();
        leaf.kill();
    }
    if let Some(root) = root {
        found.settled_parents = settle(root, &record.stubs, &record.parents);
    }
    if let Some(leaf) = &handle.leaf
        && let Err(error) = leaf.remove()
    {
        tracing::warn!(%error, "a step left its control group busy");
    }
    found
}

/// A running step as others than its owner know it. Cheap to clone; does not keep the step running.
#[derive(Debug, Clone)]
pub struct Control(Arc<Handle>);

impl Control {
    /// Sends `signal` to the first process. A process that has ended gets none.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// As [`Running::kill`].
    pub fn kill(&self) {
        self.0.kill();
    }

    /// What another process needs to join this step.
    pub(super) fn handle(&self) -> &Handle {
        &self.0
    }
}

/// A step whose command is running. Dropping it ends the step.
#[derive(Debug)]
pub struct Running {
    guard: Guard,
    exit: Option<oneshot::Receiver<Result<Exit, LaunchError>>>,
    finished: Option<Exit>,
    tun: Option<OwnedFd>,
    log: Option<Log>,
    terminal: Option<OwnedFd>,
}

impl Running {
    /// Listens to the step being set up until its command runs or it fails.
    pub(super) async fn started(
        mut self,
        report: OwnedFd,
        watch: Watch,
    ) -> Result<Self, LaunchError> {
        let mut record = Record::default();
        let failure = self.listen(report, &mut record).await;
        let told = watch.record.send(record);
        match failure {
            Ok(None) if told.is_ok() => {
                self.guard.0.known().await;
                Ok(self)
            }
            Ok(None) => Err(LaunchError::HelperLost),
            Ok(Some(failure)) => {
                // The process is on its way out; its mounts and groups must be gone before the caller goes on.
                self.wait().await.ok();
                Err(failure.into())
            }
            Err(errno) => {
                self.kill();
                self.wait().await.ok();
                Err(LaunchError::Helper(errno))
            }
        }
    }

    async fn listen(
        &mut self,
        report: OwnedFd,
        record: &mut Record,
    ) -> Result<Option<Failure>, rustix::io::Errno> {
        use rustix::io::Errno;
        let report = watched(report)?;
        loop {
            let heard = report
                .async_io(Interest::READABLE, |fd| {
                    Ok(descriptors::receive(fd, RecvFlags::DONTWAIT)?)
                })
                .await
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let Some((bytes, fds)) = heard else { return Ok(None) };
            match serde_json::from_slice(&bytes).map_err(|_| Errno::BADMSG)? {
                Report::Made { stubs, parents } => {
                    record.stubs.extend(stubs);
                    record.parents.extend(parents);
                }
                Report::Tun => self.tun = fds.into_iter().next(),
                Report::Terminal => self.terminal = fds.into_iter().next(),
                Report::Log => {
                    self.log = fds.into_iter().next().map(Log::follow).transpose()?;
                }
                Report::Failed(failure) => return Ok(Some(failure)),
            }
        }
    }

    /// The step's network device, for [`crate::Network::Gate`]; once.
    pub fn take_tun(&mut self) -> Option<OwnedFd> {
        self.tun.take()
    }

    /// The builder's end of the terminal, when one was asked for; once. It comes from a process of the step: whoever uses it must
    /// expect any file.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The step for those who do not wait for its end.
    #[must_use]
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.guard.0))
    }

    /// Ends every process of the step. [`Running::wait`] then tells of signal 9.
    pub fn kill(&self) {
        self.guard.0.kill();
    }

    /// Waits until the step has ended and nothing of it is left: no process, no mount, no control group, no mount point in its
    /// root. May be called again.
    ///
    /// # Errors
    ///
    /// When the step was lost together with its helper, or gVisor could not run it.
    pub async fn wait(&mut self) -> Result<Exit, LaunchError> {
        if let Some(exit) = &self.finished {
            return Ok(exit.clone());
        }
        let Some(receiver) = &mut self.exit else { return Err(LaunchError::HelperLost) };
        let exit = receiver.await.unwrap_or(Err(LaunchError::HelperLost));
        self.exit = None;
        let exit = self.explain(exit?).await?;
        self.finished = Some(exit.clone());
        Ok(exit)
    }
    /// What the end of `runsc` says about the end of the step.
    async fn explain(&mut self, mut exit: Exit) -> Result<Exit, LaunchError> {
        let Some(log) = self.log.take() else { return Ok(exit) };
        if exit.code != Some(gvisor::GAVE_UP) {
            return Ok(exit);
        }
        if exit.oom_killed {
            // The kernel ended the sentry, and with it everything in it.
            (exit.code, exit.signal) = (None, Some(Signal::KILL.as_raw()));
            return Ok(exit);
        }
        match gvisor::complaint(&log.finish().await) {
            Some(failure) => Err(failure.into()),
            None => Ok(exit),
        }
    }
}
