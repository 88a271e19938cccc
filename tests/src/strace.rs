//! System calls that fail when a test wants it: `strace`, attached to a process that runs.
//!
//! The process itself knows nothing of it and goes on as before when the tracer has gone. Only calls about certain files are
//! touched: what a process needs to live (clocks, sockets, wake-ups) must never fail here, since no disk makes those fail. Needs
//! root and the Debian package `strace`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::leftovers;
use crate::process::Process;

/// How long attaching and detaching may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls of a process that fail, until this is stopped or dropped.
#[derive(Debug)]
pub struct Faults {
    process: Process,
    dir: TempDir,
}

impl Faults {
    /// Makes system calls of process `pid` fail that are about one of `paths`: those in `calls` (separated by commas), with `error`
    /// (`ENOSPC`), when their number is in `when`: `1` the first one, `2+3` the second and then each third, `1+` all. Each thread
    /// counts for itself. A directory stands for calls about names in it; paths are those of [`store_of`].
    ///
    /// # Panics
    /// When it does not attach.
    #[must_use]
    pub fn inject(pid: i32, calls: &str, error: &str, when: &str, paths: &[PathBuf]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("strace");
        command
            .args(["-f", "-e", &format!("inject={calls}:error={error}:when={when}"), "-o"])
            .arg(dir.path().join("calls"));
        for path in paths {
            command.arg("-P").arg(path);
        }
        command
            .args(["-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("said")).unwrap());
        let faults = Self { process: Process::start(command), dir };
        let begun = Instant::now();
        while !is_traced(pid) {
            let ended = faults.process.wait(Duration::from_millis(10));
            assert!(
                ended.is_none() && begun.elapsed() < PATIENCE,
                "strace does not attach to {pid}: {ended:?}\n{}",
                faults.read("said")
            );
        }
        faults
    }

    fn read(&self, name: &str) -> String {
        let text = fs::read(self.dir.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Lets go; gives how many calls failed.
    ///
    /// # Panics
    /// When the tracer does not end.
    #[must_use]
    pub fn stop(self) -> usize {
        self.process.signal(Signal::TERM);
        assert!(self.process.wait(PATIENCE).is_some(), "strace does not let go");
        self.read("calls").matches("(INJECTED)").count()
    }
}

/// Whether every thread of a process has a tracer.
fn is_traced(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_none_or(|tracer| tracer.trim() != "0")
    })
}

/// The process below a supervisor, or a server with one builder, that has a store open; and the store's path in the terms of that
/// process, which has another root directory than this one.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn store_of(supervisor: i32) -> (i32, PathBuf) {
    let tree = leftovers::tree(supervisor);
    let found = tree.keys().find_map(|pid| Some((*pid, store_in(*pid)?)));
    found.unwrap_or_else(|| panic!("none of {tree:?} has a store open"))
}

fn store_in(pid: i32) -> Option<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let open: Vec<PathBuf> = descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
    let part = open.iter().find(|path| path.ends_with("content"))?;
    let store: &Path = part.parent()?;
    open.contains(&store.join("layers")).then(|| store.to_owned())
}

/// Bytes of memory that a process has for itself alone, files not counted.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn memory_of(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.unwrap_or_else(|| panic!("{status}")).parse::<u64>().unwrap() << 10
}
