//! The gate process: takes steps from the control socket and runs them until it closes.
//!
//! One thread, one current-thread runtime. A step that makes its own task panic loses its network, not the gate.

use std::collections::HashMap;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};

use crate::control::{ControlError, ControlSocket, MAX_MESSAGE, Party, Report, Request};
use crate::policy::Policy;
use crate::privileges::{PrivilegeError, drop_privileges};
use crate::record::StepName;
use crate::reports::Reports;
use crate::step;
use crate::tun::Tun;

/// Steps served at once: far above what one builder runs in parallel, and a bound on memory.
const MAX_STEPS: usize = 256;
/// Largest `resolv.conf` read; the resolver library itself reads a handful of lines.
const MAX_RESOLV_CONF: u64 = 65536;
/// Name servers used, as in the resolver library.
const MAX_RESOLVERS: usize = 3;

/// How the process gives up privileges.
#[derive(Debug, Clone, Copy, Default)]
pub struct GateOptions {
    /// When started as root: the user id to become. It must lie outside the builder's range.
    pub uid: Option<u32>,
    /// The group id to become; the same number as `uid` when absent.
    pub gid: Option<u32>,
    /// Whether to give up files and listening too, with landlock(7).
    pub landlock: bool,
}

/// Why a gate ended other than by its builder going away.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// A privilege could not be given up.
    #[error("the gate cannot give up its privileges")]
    Privileges(#[source] PrivilegeError),
    /// The event loop could not be started.
    #[error("the gate cannot start its event loop")]
    Runtime(#[source] io::Error),
    /// The control socket failed.
    #[error("the gate lost its control socket")]
    Control(#[source] ControlError),
}

/// What all steps of a gate share, or the builder has to itself.
#[derive(Debug)]
pub(crate) struct Outside {
    pub(crate) policy: Policy,
    pub(crate) resolvers: Vec<SocketAddr>,
}

/// Runs a gate with default options; see [`run_gate_with`].
///
/// # Errors
///
/// See [`GateError`].
pub fn run_gate(control: OwnedFd, policy: Policy) -> Result<(), GateError> {
    run_gate_with(control, policy, GateOptions::default())
}

/// The whole life of a gate process: gives up privileges, serves the steps it is handed on `control`, and returns when the
/// other end is closed. Call it from a process with a single thread that holds nothing else of value; the network namespace it
/// is in is the network the steps get. The host's resolvers are read from `/etc/resolv.conf` once, first.
///
/// # Errors
///
/// When privileges cannot be dropped or the control socket fails; never because of what a step does.
pub fn run_gate_with(
    control: OwnedFd,
    policy: Policy,
    options: GateOptions,
) -> Result<(), GateError> {
    let mut resolvers: Vec<SocketAddr> =
        policy.resolvers.iter().map(|resolver| resolver.0).collect();
    if resolvers.is_empty() {
        resolvers = host_resolvers();
    }
    drop_privileges(&options).map_err(GateError::Privileges)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(GateError::Runtime)?;
    let outside = Outside { policy: policy.for_steps(), resolvers: resolvers.clone() };
    let outside_of_builder = Outside { policy, resolvers };
    let serving = serve(control, Rc::new(outside), Rc::new(outside_of_builder));
    let result = LocalSet::new().block_on(&runtime, serving);
    // Tasks may wait on the outside for long; nothing is left to report to.
    runtime.shutdown_background();
    result.map_err(GateError::Control)
}

struct Steps {
    tasks: JoinSet<()>,
    running: HashMap<u32, mpsc::UnboundedSender<step::Order>>,
    reports: Rc<Reports>,
    outside: Rc<Outside>,
    outside_of_builder: Rc<Outside>,
}

async fn serve(
    control: OwnedFd,
    outside: Rc<Outside>,
    outside_of_builder: Rc<Outside>,
) -> Result<(), ControlError> {
    let control = Arc::new(ControlSocket::new(control)?);
    let reports = Rc::new(Reports::default());
    let mut steps = Steps {
        tasks: JoinSet::new(),
        running: HashMap::new(),
        reports: Rc::clone(&reports),
        outside,
        outside_of_builder,
    };
    let writer = async {
        loop {
            let report = reports.next().await;
            control.send(&report, None).await?;
        }
    };
    tokio::pin!(writer);
    let mut buffer = [0; MAX_MESSAGE];
    loop {
        tokio::select! {
            received = control.receive::<Request>(&mut buffer), if !reports.is_full() => match received {
                Ok(Some((Some(Request::Attach { id, step, party }), Some(fd)))) => steps.attach(id, step, party, fd),
                Ok(Some((Some(Request::Flush { id }), _))) => steps.flush(id),
                Ok(Some((Some(Request::Detach { id }), _))) => steps.detach(id),
                Ok(Some(_)) => tracing::warn!("the builder sent a message that cannot be understood"),
                Ok(None) => return Ok(()),
                Err(error) => return end_for(error),
            },
            Some(ended) = steps.tasks.join_next() => if let Err(error) = ended {
                tracing::error!(%error, "a step lost its network");
            },
            failed = &mut writer => {
                let failed: Result<std::convert::Infallible, ControlError> = failed;
                return failed.map_or_else(end_for, |never| match never {});
            }
        }
    }
}

/// What a failed exchange means. A builder that went away while it was being told is the ordinary end;
/// one that left reports unread resets the connection.
fn end_for(error: ControlError) -> Result<(), ControlError> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match &error {
        ControlError::Send(cause) | ControlError::Receive(cause)
            if matches!(cause.kind(), BrokenPipe | ConnectionReset) =>
        {
            Ok(())
        }
        _ => Err(error),
    }
}

impl Steps {
    fn attach(&mut self, id: u32, step: StepName, party: Party, fd: OwnedFd) {
        let refuse = |reason: String| self.reports.answer(Report::Refused { id, reason });
        if self.running.contains_key(&id) {
            return refuse(format!("step number {id} is in use"));
        }
        if self.running.len() >= MAX_STEPS {
            return refuse(format!("{MAX_STEPS} steps are served already"));
        }
        let tun = match Tun::new(fd) {
            Ok(tun) => tun,
            Err(error) => return refuse(error.to_string()),
        };
        let outside = match party {
            Party::Step => &self.outside,
            Party::Builder => &self.outside_of_builder,
        };
        let (orders, ordered) = mpsc::unbounded_channel();
        let run = step::run(id, step, tun, Rc::clone(outside), Rc::clone(&self.reports), ordered);
        self.tasks.spawn_local(run);
        self.running.insert(id, orders);
        self.reports.answer(Report::Attached { id });
    }

    fn flush(&self, id: u32) {
        let orders = self.running.get(&id);
        // One that crashed has nothing open.
        if orders.is_none_or(|orders| orders.send(step::Order::Flush).is_err()) {
            self.reports.answer(Report::Flushed { id });
        }
    }

    fn detach(&mut self, id: u32) {
        let orders = self.running.remove(&id);
        let stopping = orders.is_some_and(|orders| orders.send(step::Order::Stop).is_ok());
        // A step that runs reports its end itself, after its flows; one that is unknown or crashed has nobody else to do it.
        if !stopping {
            self.reports.finish(id);
        }
    }
}

fn host_resolvers() -> Vec<SocketAddr> {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open("/etc/resolv.conf") {
        let _ = file.take(MAX_RESOLV_CONF).read_to_end(&mut text);
    }
    parse_resolv_conf(&String::from_utf8_lossy(&text))
}

/// Addresses of `nameserver` lines. Scoped link-local addresses do not parse and are left out.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())??.parse::<IpAddr>().ok()
    };
    text.lines()
        .filter_map(address)
        .take(MAX_RESOLVERS)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_resolver_does() {
        let text = "# c\nsearch a.b\nnameserver 192.0.2.1\n nameserver 2001:db8::1 \nnameserver fe80::1%eth0\nnameserver\nnameserver x\noptions a\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = parse_resolv_conf(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
    }
}
