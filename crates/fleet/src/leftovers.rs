//! What an earlier process of the server left when it was killed.
//!
//! Its builders watch a pipe that has closed then, so they are on their way out; those that do not get there are killed, and their
//! sockets and control groups removed.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use cofferdam_sandbox::Isolation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::time::{Instant, sleep};

use crate::places::Places;

/// How long an orphaned builder has to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest command line that is read; supervisors' are short.
const MAX_COMMAND: u64 = 16 << 10;

/// Ends builders of an earlier process and removes what they left. The caller knows that no such process is alive.
pub(crate) async fn sweep(places: &Places) {
    let orphans = orphans(places.projects());
    if !orphans.is_empty() {
        tracing::warn!(builders = orphans.len(), "builders of an earlier server are ending");
    }
    if !gone(&orphans, PATIENCE).await {
        for (_, orphan) in &orphans {
            pidfd_send_signal(orphan, Signal::KILL).ok();
        }
        gone(&orphans, KILLED).await;
    }
    for entry in std::fs::read_dir(places.projects()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        for level in Isolation::ALL {
            if let Some(project) = name.to_str().and_then(|id| places.project(id, level).ok()) {
                project.remove_run();
                project.remove_home();
            }
        }
    }
    sweep_groups(orphans.iter().map(|(pid, _)| *pid).collect()).await;
}

/// Removes control groups of supervisors that are gone, waiting for those of `ended` to be empty.
pub(crate) async fn sweep_groups(ended: Vec<u32>) {
    let swept = tokio::task::spawn_blocking(move || cofferdam_sandbox::sweep_groups(&ended)).await;
    if let Ok(Err(error)) = swept {
        tracing::warn!(error = crate::error::chain(&error), "control groups could not be swept");
    }
}

async fn gone(processes: &[(u32, OwnedFd)], patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while !processes.iter().all(|(_, process)| readable(process)) {
        if Instant::now() > deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}

/// A process descriptor is readable when its process has ended.
fn readable(process: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

/// Supervisors whose builder's root is below `projects`.
fn orphans(projects: &Path) -> Vec<(u32, OwnedFd)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        if !supervises(pid, projects) {
            return None;
        }
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // The number may have become another process's in between.
        let still = supervises(pid, projects);
        still.then_some((pid.unsigned_abs(), process))
    })
    .collect()
}

/// Whether process `pid` is root's and was started to supervise a builder below `projects`.
fn supervises(pid: i32, projects: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    if !std::fs::metadata(&proc).is_ok_and(|metadata| metadata.uid() == 0) {
        return false;
    }
    let mut command = Vec::new();
    let read = std::fs::File::open(proc.join("cmdline"))
        .and_then(|file| file.take(MAX_COMMAND).read_to_end(&mut command));
    if read.is_err() {
        return false;
    }
    let words: Vec<&str> = command
        .split(|byte| *byte == 0)
        .filter_map(|word| std::str::from_utf8(word).ok())
        .collect();
    let supervisor = words.get(1) == Some(&"builder") && words.contains(&"--server-socket");
    let root = words.windows(2).find(|pair| pair[0] == "--root").map(|pair| Path::new(pair[1]));
    supervisor && root.is_some_and(|root| root.starts_with(projects))
}
