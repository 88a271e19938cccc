//! QEMU as a process.

use std::cell::RefCell;
use std::os::fd::AsRawFd;
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
use crate::console::Console;
use crate::disk::PATH;
use crate::machine::{Machine, PORT, PROGRAM};

/// How long the console's last lines may take to come out of the pipe after QEMU has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A running machine. Dropping it ends it.
pub(super) struct Qemu {
    child: Child,
    pub(super) console: SharedConsole,
    readers: Vec<JoinHandle<()>>,
}

impl Qemu {
    /// Starts a machine; also the host's side of its port.
    pub(super) fn start(machine: &Machine, disk: &Path) -> std::io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let mut command = std::process::Command::new(PROGRAM);
        command
            .args(machine.arguments(disk))
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Above the place it is to have, so that being put there always makes a copy that stays open.
        let theirs = rustix::io::fcntl_dupfd_cloexec(&theirs, PORT + 1)?;
        let number = theirs.as_raw_fd();
        let place = move || {
            // SAFETY: dup2 is allowed between fork and exec; what PORT meant before is of no further use there.
            if unsafe { libc::dup2(number, PORT) } < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: `place` only calls dup2.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, place) };
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let console: SharedConsole = Rc::new(RefCell::new(Console::default()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|out| read(out, Rc::clone(&console))));
        readers.extend(child.stderr.take().map(|out| read(out, Rc::clone(&console))));
        Ok((Self { child, console, readers }, ours))
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

fn read(mut from: impl AsyncRead + Unpin + 'static, to: SharedConsole) -> JoinHandle<()> {
    spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            to.borrow_mut().push(&buffer[..length]);
        }
    })
}
