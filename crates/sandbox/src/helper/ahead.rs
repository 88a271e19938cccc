//! A network for the step that comes next, made while the step before it runs.
//!
//! To make a network namespace with its devices is a third of what starting a step takes. A helper that has just started a step moves
//! to a new namespace and prepares it; the next step with a gate is copied from the helper and is in it from the start. The namespace
//! belongs to the builder's user namespace, as one that is made with the step does, and nothing but the helper was ever in it.
//!
//! A namespace is never given to two steps: it counts as ready until it is taken, once. Steps in the builder's own network are
//! started from there, so a helper that could not go back stays where it is and makes nothing ahead.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::message::Failure;
use crate::namespaces::{CLONE_NEWNET, enter_namespace, unshare};
use crate::network;
use crate::spec::StepIds;

/// How long a network waits for its step. A builder at rest keeps none.
const PATIENCE: Duration = Duration::from_secs(5);

/// The network that a helper makes ahead.
#[derive(Debug)]
pub(super) struct NextNetwork {
    ids: StepIds,
    /// The builder's own namespace; `None` when it cannot be entered again.
    home: Option<OwnedFd>,
    away: bool,
    ready: Option<(OwnedFd, Instant)>,
}

impl NextNetwork {
    /// Nothing yet. The caller is in the builder's own namespace.
    pub(super) fn new(ids: StepIds) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let home = rustix::fs::open(c"/proc/self/ns/net", flags, Mode::empty()).ok();
        // A builder in the machine's network has no power over it.
        let home = home.filter(|home| enter_namespace(home, CLONE_NEWNET).is_ok());
        Self { ids, home, away: false, ready: None }
    }

    /// Moves the caller to a new namespace and prepares it. What fails here is tried again, and told, when a step makes its own.
    ///
    /// # Errors
    ///
    /// When the caller cannot go back to the builder's own namespace.
    pub(super) fn make(&mut self) -> Result<(), Errno> {
        if self.home.is_none() || self.ready.is_some() || unshare(CLONE_NEWNET).is_err() {
            return Ok(());
        }
        self.away = true;
        match prepare(self.ids) {
            Ok(tun) => {
                self.ready = Some((tun, Instant::now()));
                Ok(())
            }
            Err(_) => self.leave(),
        }
    }

    /// The TUN device of the namespace that the caller is in, for one step; `None` when none is ready.
    pub(super) fn take(&mut self) -> Option<OwnedFd> {
        self.ready.take().map(|(tun, _)| tun)
    }

    /// Goes back to the builder's own namespace, and gives up what was made.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered.
    pub(super) fn leave(&mut self) -> Result<(), Errno> {
        self.ready = None;
        if let (true, Some(home)) = (self.away, &self.home) {
            enter_namespace(home, CLONE_NEWNET)?;
            self.away = false;
        }
        Ok(())
    }

    /// How long what is ready still waits for a step; `None` when nothing is.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.ready.as_ref().map(|(_, since)| PATIENCE.saturating_sub(since.elapsed()))
    }
}

/// Brings up what a step with a gate finds, in the caller's namespace. Gives its TUN device.
fn prepare(ids: StepIds) -> Result<OwnedFd, Failure> {
    loopback(ids)?;
    tun()
}

/// Brings up the loopback device in the caller's namespace, and what a step's programs expect of root there.
pub(super) fn loopback(ids: StepIds) -> Result<(), Failure> {
    network::prepare_loopback().map_err(Failure::mechanism("bring up the loopback device"))?;
    network::allow_ping(ids.first, ids.first + (ids.count - 1))
        .map_err(Failure::mechanism("allow ping sockets"))
}

/// Makes the device of a gate in the caller's namespace.
pub(super) fn tun() -> Result<OwnedFd, Failure> {
    network::create_tun().map_err(Failure::mechanism("create the network device with /dev/net/tun"))
}
