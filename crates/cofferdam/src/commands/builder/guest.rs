//! The first process of a virtual machine: makes it ready, and is the supervisor of the builder in it.
//!
//! The builder is enclosed as on a host: what guards a host against it guards this process against it too. The gate that it talks to
//! is on the host; its socket is carried there.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use cofferdam_egress::control_pair;
use cofferdam_microvm::guest::{self, Inside, Session, Target};
use cofferdam_sandbox::{Enclosure, EnclosureOptions, Limits, Network, Supervised};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::task::LocalSet;

use super::{enclosed, gate, listen};

/// Whether this process is the first of a virtual machine.
pub(crate) fn is_wanted() -> bool {
    guest::is_wanted()
}

/// The whole life of the machine, which ends with this.
pub(crate) fn run() -> ExitCode {
    if let Err(error) = live() {
        // To the console: the host shows its last lines.
        writeln!(std::io::stderr(), "cofferdam: {error:#}").ok();
    }
    guest::power_off()
}

fn live() -> anyhow::Result<()> {
    let port = guest::boot()?;
    let store = guest::mount_store()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let session = Session::receive(port).await?;
        match start(&session, &store) {
            Ok(started) => Ok(session.serve(started.inside()?).await?),
            Err(error) => Ok(session.fail(format!("{error:#}")).await?),
        }
    })
}

/// A builder that was just started.
struct Started {
    builder: Supervised,
    gate: OwnedFd,
    log: OwnedFd,
    targets: Vec<Target>,
}

fn start(session: &Session, store: &Path) -> anyhow::Result<Started> {
    let order = session.order();
    let mut descriptors = Vec::new();
    let mut targets = Vec::new();
    for (number, name) in order.listeners.iter().enumerate() {
        let (fd, target) = bind(number, name).with_context(|| format!("listen for {name}"))?;
        descriptors.push((name.clone(), fd));
        targets.push(target);
    }
    let (ours, gates) = control_pair()?;
    descriptors.push((enclosed::GATE.to_owned(), ours));
    let config = gate::in_memory(c"config", order.config.as_bytes())?;
    descriptors.push((enclosed::CONFIG.to_owned(), config));
    let options = EnclosureOptions {
        store: store.to_owned(),
        args: vec![enclosed::MODE.into()],
        env: order.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        descriptors,
        limits: Limits { pids: order.pids, ..Limits::default() },
        network: Network::Gate,
        ..EnclosureOptions::default()
    };
    let (log, builder) = logged(|| Enclosure::spawn(options))?;
    Ok(Started { builder: builder.context("start the builder")?, gate: gates, log, targets })
}

/// Runs `spawn` with standard error in a pipe, so that what it starts writes there; the pipe's other end.
fn logged<T>(spawn: impl FnOnce() -> T) -> anyhow::Result<(OwnedFd, T)> {
    let (log, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let console = std::io::stderr().as_fd().try_clone_to_owned()?;
    replace_stderr(&pipe)?;
    let spawned = spawn();
    replace_stderr(&console)?;
    Ok((log, spawned))
}

fn replace_stderr(with: &OwnedFd) -> std::io::Result<()> {
    // SAFETY: both descriptors are open; standard error stays one throughout.
    if unsafe { libc::dup2(with.as_raw_fd(), libc::STDERR_FILENO) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn bind(number: usize, name: &str) -> anyhow::Result<(OwnedFd, Target)> {
    if listen::is_tcp(name) {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        return Ok((listener.into(), Target::Tcp(address)));
    }
    let path = Path::new("/run").join(format!("{number}.sock"));
    let listener = UnixListener::bind(&path)?;
    Ok((listener.into(), Target::Unix(path)))
}

impl Started {
    fn inside(self) -> anyhow::Result<Inside<impl Future<Output = i32>, impl Fn(i32) + 'static>> {
        let Self { mut builder, gate, log, targets } = self;
        let process = builder.pidfd().try_clone_to_owned()?;
        let signal = move |number: i32| {
            let signal = if number == libc::SIGINT { Signal::INT } else { Signal::TERM };
            // Too late is no error.
            pidfd_send_signal(&process, signal).ok();
        };
        let ended = async move { builder.exited().await.map_or(1, |exit| exit.code) };
        Ok(Inside { gate, log, targets, ended, signal })
    }
}
