//! The monitor, QEMU or Firecracker, as a process.

use std::cell::RefCell;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use super::SharedConsole;
use super::port::Port;
use crate::console::Console;
use crate::disk::PATH;
use crate::firecracker;
use crate::inherit::{in_memory, inherit};
use crate::machine::{Hypervisor, Machine, PROGRAM};

/// How long the console's last lines may take to come out of the pipe after the monitor has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Firecracker's sockets, in their directory.
const SOCKET: &str = "channel";

/// A running machine. Dropping it ends it.
pub(super) struct Monitor {
    child: Child,
    pub(super) console: SharedConsole,
    readers: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// Starts a machine; also the host's end of its port. `directory` is for Firecracker's sockets, and made when needed.
    pub(super) fn start(
        machine: &Machine,
        disk: &Path,
        directory: &Path,
    ) -> std::io::Result<(Self, Port)> {
        let (command, port) = match &machine.hypervisor {
            Hypervisor::Qemu => qemu(machine, disk)?,
            Hypervisor::Firecracker { program } => firecracker(program, machine, disk, directory)?,
        };
        Ok((Self::spawn(command)?, port))
    }

    fn spawn(mut command: std::process::Command) -> std::io::Result<Self> {
        command
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let console: SharedConsole = Rc::new(RefCell::new(Console::default()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|out| read(out, Rc::clone(&console))));
        readers.extend(child.stderr.take().map(|out| read(out, Rc::clone(&console))));
        Ok(Self { child, console, readers })
    }

    /// Waits for its end, and says how that was.
    pub(super) async fn ended(&mut self) -> String {
        let status = self.child.wait().await;
        for reader in &mut self.readers {
            timeout(LAST_WORDS, reader).await.ok();
        }
        self.readers.clear();
        match status {
            Ok(status) if status.success() => "turned itself off".to_owned(),
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("cannot be watched: {error}"),
        }
    }

    /// Waits for its end, and makes it end when that takes too long.
    pub(super) async fn end(&mut self, patience: Duration) {
        if timeout(patience, self.child.wait()).await.is_err() {
            tracing::warn!("the virtual machine did not turn itself off and was ended");
            self.child.kill().await.ok();
        }
    }
}

fn qemu(machine: &Machine, disk: &Path) -> std::io::Result<(std::process::Command, Port)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = std::process::Command::new(PROGRAM);
    command.args(machine.arguments(disk));
    inherit(&mut command, vec![theirs.into()])?;
    Ok((command, Port::Open(tokio::net::UnixStream::from_std(ours)?)))
}

fn firecracker(
    program: &Path,
    machine: &Machine,
    disk: &Path,
    directory: &Path,
) -> std::io::Result<(std::process::Command, Port)> {
    std::fs::DirBuilder::new().mode(0o700).create(directory)?;
    let channel = directory.join(SOCKET);
    let description = firecracker::describe(machine, disk, &channel)?;
    let mut command = std::process::Command::new(program);
    command.args(firecracker::arguments());
    inherit(&mut command, vec![in_memory(&description)?])?;
    // There before the guest looks for it.
    let port = Port::listen(&firecracker::listener(&channel))?;
    Ok((command, port))
}

fn read(mut from: impl AsyncRead + Unpin + 'static, to: SharedConsole) -> JoinHandle<()> {
    spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            to.borrow_mut().push(&buffer[..length]);
        }
    })
}
