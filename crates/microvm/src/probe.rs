//! Whether KVM works here, found out by booting a kernel with it.
//!
//! That `/dev/kvm` exists proves nothing: inside other virtual machines it is often there and hangs.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::disk::PATH;
use crate::firecracker;
use crate::inherit::{in_memory, inherit};
use crate::machine::{Machine, PROGRAM};
use crate::vmlinux::{self, VmlinuxError};

/// A kernel says its first words within a tenth of a second; a machine under load may be slower.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often an ended process is looked for after it was killed. One that hangs in the kernel is left to it.
const KILLED: Duration = Duration::from_secs(1);
/// What a kernel says first.
const SIGN: &[u8] = b"Linux version";
/// Most that is read of the console and of complaints.
const MAX_SAID: usize = 64 << 10;

/// Longest description of a process that is read.
const MAX_STATUS: u64 = 64 << 10;

/// KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// There is no device, or it may not be opened.
    #[error("open /dev/kvm")]
    Device(#[source] std::io::Error),
    /// QEMU could not be started.
    #[error("run {PROGRAM}: install qemu-system-x86")]
    Program(#[source] std::io::Error),
    /// Firecracker could not be started.
    #[error("run Firecracker")]
    Firecracker(#[source] std::io::Error),
    /// There is no kernel that Firecracker loads.
    #[error("find a kernel for Firecracker")]
    Kernel(#[from] VmlinuxError),
    /// The monitor gave up.
    #[error("a virtual machine with KVM did not boot: {0}")]
    Failed(String),
    /// Firecracker was built without its filter for system calls, or with an empty one.
    #[error(
        "this Firecracker runs without its own filter for system calls: take the program of a release, which has one"
    )]
    Unfiltered,
    /// The kernel did not say a word.
    #[error("a virtual machine with KVM hangs: /dev/kvm is there and does not work")]
    Hangs,
}

/// Boots `kernel` with QEMU and KVM, in a child that is ended after some seconds.
///
/// # Errors
///
/// Says why KVM cannot be used.
pub fn kvm_works(kernel: &Path) -> Result<(), ProbeError> {
    open_device()?;
    let mut command = Command::new(PROGRAM);
    command.args(Machine::probe(kernel));
    attempt(command, ProbeError::Program, |_| Ok(()))
}

/// Boots the kernel of `image` with Firecracker, likewise.
///
/// # Errors
///
/// Says why Firecracker or KVM cannot be used.
pub fn firecracker_works(program: &Path, image: &Path) -> Result<(), ProbeError> {
    open_device()?;
    let kernel = vmlinux::in_memory(image)?;
    let mut command = Command::new(program);
    command.args(firecracker::arguments());
    let kernel_at = format!("/proc/self/fd/{}", firecracker::DESCRIPTION + 1);
    let prepared = firecracker::describe_probe(&kernel_at)
        .and_then(|description| in_memory(&description))
        .and_then(|description| {
            let kernel = kernel.as_fd().try_clone_to_owned()?;
            inherit(&mut command, vec![description, kernel])
        });
    prepared.map_err(ProbeError::Firecracker)?;
    attempt(command, ProbeError::Firecracker, is_filtered)
}

/// Whether a process, which has begun to run its guest, has a filter for system calls: proc_pid_status(5), `Seccomp`.
fn is_filtered(process: u32) -> Result<(), ProbeError> {
    let mut status = String::new();
    let file = std::fs::File::open(format!("/proc/{process}/status"));
    let read = file.and_then(|file| file.take(MAX_STATUS).read_to_string(&mut status));
    read.map_err(ProbeError::Firecracker)?;
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    if mode.is_some_and(|mode| mode.trim() == "2") { Ok(()) } else { Err(ProbeError::Unfiltered) }
}

fn open_device() -> Result<(), ProbeError> {
    std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map(drop)
        .map_err(ProbeError::Device)
}

fn attempt(
    mut command: Command,
    failed: impl FnOnce(std::io::Error) -> ProbeError,
    check: impl FnOnce(u32) -> Result<(), ProbeError>,
) -> Result<(), ProbeError> {
    let mut child = command
        .env_clear()
        .env("PATH", PATH)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    // It has not been waited for, so that its number is still its own even when it has ended.
    let result = watch(&mut child).and_then(|()| check(child.id()));
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
                // A program that is no monitor complains anywhere.
                let said = if complaints.is_empty() { &console } else { &complaints };
                let text = String::from_utf8_lossy(said);
                let text = crate::console::printable(&text.trim().replace('\n', "; "));
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
