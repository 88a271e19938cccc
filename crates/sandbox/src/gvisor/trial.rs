//! One step before all others, to see that `runsc` starts anything here: it runs itself under itself and says its version.
//!
//! Everything is as for a real step, so what is missing on this machine is found when the builder starts and not in somebody's
//! build. The first platform that works is the one steps get.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};

use super::log::complaint;
use super::probe::{Runsc, RunscError};
use crate::helper::{Equipment, Step};
use crate::message::{Failure, MountOrder, Order, SourceOrder};
use crate::mounts::{detached_bind, detached_directory};
use crate::namespaces::{CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUTS, Side, fork};
use crate::spec::{Network, Security, User};
use crate::{descriptors, process};

/// What a start takes at the very most, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is read of each of its outputs.
const MAX_OUTPUT: u64 = 64 << 10;

/// Where the program is in the root of the trial.
const PROGRAM: &str = "/bin/runsc";

/// Puts `runsc` into `equipment`, on the first of its platforms that works.
///
/// # Safety
///
/// The calling process has one thread.
pub(crate) unsafe fn choose_platform(
    equipment: &mut Equipment,
    runsc: Runsc,
) -> Result<(), RunscError> {
    let mut reasons = Vec::new();
    for platform in runsc.platforms() {
        equipment.runsc = Some(runsc.on(platform));
        // SAFETY: the caller's promise.
        match unsafe { attempt(equipment, runsc.path()) } {
            Ok(()) => return Ok(()),
            Err(reason) => reasons.push(format!("{platform}: {reason}")),
        }
    }
    Err(RunscError::NoPlatform {
        path: runsc.path().to_owned(),
        version: runsc.version().to_owned(),
        reasons: reasons.join("; "),
    })
}

/// # Safety
///
/// The calling process has one thread.
unsafe fn attempt(equipment: &Equipment, program: &std::path::Path) -> Result<(), String> {
    let failed = |errno: Errno| errno.to_string();
    let (stdout, stdout_in) = pipe().map_err(failed)?;
    let (stderr, stderr_in) = pipe().map_err(failed)?;
    let (report, theirs) = descriptors::pair().map_err(failed)?;
    let root = detached_directory((equipment.ids.first, equipment.ids.first), 0o755, None)
        .map_err(|error| error.to_string())?;
    let program = rustix::fs::openat(CWD, program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed)?;
    let program = detached_bind(program, false).map_err(|error| error.to_string())?;
    let step = Step::new(order(), theirs, root, [stdout_in, stderr_in], program);
    let flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
    // SAFETY: the caller's promise.
    match unsafe { fork(flags, None) }.map_err(failed)? {
        Side::Child => step.become_command(equipment),
        Side::Parent { pid, pidfd } => {
            drop(step);
            let log = hear(&report);
            let ended = await_end(pid, &pidfd).map_err(failed)?;
            let log = match log {
                Ok(log) => log.map(read).unwrap_or_default(),
                Err(failure) => return Err(failure_text(&failure)),
            };
            judge(ended, &read(stdout), &read(stderr), &log)
        }
    }
}

fn order() -> Order {
    Order {
        id: "trial-0".to_owned(),
        leaf: None,
        readonly_root: false,
        mounts: vec![MountOrder {
            dest: PROGRAM.to_owned(),
            readonly: true,
            source: SourceOrder::Descriptor,
        }],
        args: vec![PROGRAM.to_owned(), "--version".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        user: User::default(),
        hostname: "trial".to_owned(),
        hosts: String::new(),
        resolv_conf: Vec::new(),
        // The way steps with a network take; whose it is does not matter for a program that uses none.
        network: Network::Host,
        security: Security::Sandbox,
        ulimits: Vec::new(),
        shm_size: 1 << 20,
        no_new_privileges: true,
        terminal: false,
    }
}

/// Hears the step out until the program is executed. Gives its log.
fn hear(report: &OwnedFd) -> Result<Option<OwnedFd>, Failure> {
    use crate::message::Report;
    let mut log = None;
    loop {
        let heard = descriptors::receive(report, rustix::net::RecvFlags::empty())
            .map_err(Failure::mechanism("hear of the trial"))?;
        let Some((bytes, fds)) = heard else { return Ok(log) };
        match serde_json::from_slice(&bytes) {
            Ok(Report::Failed(failure)) => return Err(failure),
            Ok(Report::Log) => log = fds.into_iter().next(),
            Ok(Report::Made { .. } | Report::Tun | Report::Terminal) | Err(_) => {}
        }
    }
}

/// Waits for the end of the process, and brings it about when patience ends.
fn await_end(pid: i32, pidfd: &OwnedFd) -> Result<process::Ended, Errno> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            pidfd_send_signal(pidfd, Signal::KILL).ok();
        }
        let wait = if left.is_zero() { PATIENCE } else { left };
        let wait = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(0),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if let Some((_, ended)) = process::reap(pid) {
            return Ok(ended);
        }
    }
}

fn judge(ended: process::Ended, stdout: &[u8], stderr: &[u8], log: &[u8]) -> Result<(), String> {
    let said = String::from_utf8_lossy(stdout);
    if ended.code == Some(0) && said.contains("runsc version") {
        return Ok(());
    }
    if let Some(failure) = complaint(log) {
        return Err(failure_text(&failure));
    }
    let how = match (ended.code, ended.signal) {
        (_, Some(signal)) => format!("ended by signal {signal}"),
        (code, _) => format!("exit code {}", code.unwrap_or_default()),
    };
    let words: String = String::from_utf8_lossy(stderr).trim().chars().take(400).collect();
    Err(format!("{how}: {words}"))
}

fn failure_text(failure: &Failure) -> String {
    match failure {
        Failure::Command { message, .. } | Failure::Root { message } => message.clone(),
        Failure::Mechanism { action, message } => format!("{action}: {message}"),
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
}

/// All of a pipe nobody writes to any more; what does not fit into a pipe was never waited for.
fn read(pipe: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(pipe).take(MAX_OUTPUT).read_to_end(&mut bytes).ok();
    bytes
}
