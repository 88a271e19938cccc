//! Whether KVM works here, found out by booting a kernel with it.
//!
//! That `/dev/kvm` exists proves nothing: inside other virtual machines it is often there and hangs.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::disk::PATH;
use crate::machine::{Machine, PROGRAM};

/// A kernel says its first words within a tenth of a second; a machine under load may be slower.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often an ended process is looked for after it was killed. One that hangs in the kernel is left to it.
const KILLED: Duration = Duration::from_secs(1);
/// What a kernel says first.
const SIGN: &[u8] = b"Linux version";
/// Most that is read of the console and of QEMU's complaints.
const MAX_SAID: usize = 64 << 10;

/// KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no device, or it may not be opened.
    #[error("open /dev/kvm")]
    Device(#[source] std::io::Error),
    /// QEMU could not be started.
    #[error("run {PROGRAM}: install qemu-system-x86")]
    Program(#[source] std::io::Error),
    /// QEMU gave up.
    #[error("a virtual machine with KVM did not boot: {0}")]
    Failed(String),
    /// The kernel did not say a word.
    #[error("a virtual machine with KVM hangs: /dev/kvm is there and does not work")]
    Hangs,
}

/// Boots `kernel` with KVM, in a child that is ended after some seconds.
///
/// # Errors
///
/// Says why KVM cannot be used.
pub fn kvm_works(kernel: &Path) -> Result<(), ProbeError> {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").map_err(ProbeError::Device)?;
    let mut child = Command::new(PROGRAM)
        .args(Machine::probe(kernel))
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(ProbeError::Program)?;
    let result = watch(&mut child);
    child.kill().ok();
    let end = Instant::now() + KILLED;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    result
}

fn watch(child: &mut Child) -> Result<(), ProbeError> {
    let (sender, said) = mpsc::channel();
    if let Some(console) = child.stdout.take() {
        forward(console, true, sender.clone());
    }
    if let Some(complaints) = child.stderr.take() {
        forward(complaints, false, sender);
    }
    let end = Instant::now() + PATIENCE;
    let (mut console, mut complaints) = (Vec::new(), Vec::new());
    loop {
        match said.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((true, bytes)) => console.extend(bytes),
            Ok((false, bytes)) => complaints.extend(bytes),
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(ProbeError::Hangs),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                let text = String::from_utf8_lossy(&complaints);
                let text = crate::console::printable(text.trim());
                return Err(ProbeError::Failed(text));
            }
        }
        if console.windows(SIGN.len()).any(|window| window == SIGN) {
            return Ok(());
        }
        if console.len() + complaints.len() > MAX_SAID {
            return Err(ProbeError::Failed("it said much and never booted".to_owned()));
        }
    }
}

/// Reads on a thread of its own, which ends with the child.
fn forward(mut from: impl Read + Send + 'static, console: bool, to: mpsc::Sender<(bool, Vec<u8>)>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.send((console, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}
