//! A child process that never outlives the test, however the test ends.
//!
//! Each child is started and reaped by a thread of its own: the kernel sends the death signal when the *thread* that started a
//! child ends, and threads of tests end long before others may be done with a shared child.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

/// How long a killed process may take to be gone.
const KILLED: Duration = Duration::from_secs(10);

/// A running or ended child.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    status: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        // SAFETY: the closure makes one system call and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let status = Arc::new((Mutex::new(None), Condvar::new()));
        let (sender, receiver) = mpsc::channel();
        let theirs = Arc::clone(&status);
        std::thread::spawn(move || {
            let child = command.spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(error) => {
                    return sender.send(Err(format!("start {command:?}: {error}"))).unwrap();
                }
            };
            sender.send(Ok(Pid::from_child(&child))).unwrap();
            let ended = child.wait().unwrap();
            *theirs.0.lock().unwrap() = Some(ended);
            theirs.1.notify_all();
        });
        let pid = receiver.recv().unwrap().unwrap_or_else(|error| panic!("{error}"));
        Self { pid, status }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status.0.lock().unwrap().is_none() {
            // It may end between the two lines; then there is nobody to tell.
            kill_process(self.pid, signal).ok();
        }
    }

    /// Waits for its end; `None` when it still runs after `patience`.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let (status, changed) = &*self.status;
        let guard = status.lock().unwrap();
        *changed.wait_timeout_while(guard, patience, |status| status.is_none()).unwrap().0
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
        let _ = self.wait(KILLED);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
