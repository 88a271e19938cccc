//! The first process of an enclosure: reaps what nobody else does, passes signals on, and ends when the builder or the supervisor
//! has ended. With it the kernel ends everything else in the pid namespace.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::process;

/// Added to the number of the signal that ended the builder to make an exit code, as shells do.
const SIGNAL_BASE: i32 = 128;

/// Watches over the builder until it has ended. `signals` is a descriptor for `SIGCHLD` and what is to be passed on.
pub(super) fn watch(builder: i32, signals: &OwnedFd, lifeline: &OwnedFd) -> ! {
    // SAFETY: this process ends in this function and uses no other descriptor.
    unsafe { process::close_all_but(&[signals.as_raw_fd(), lifeline.as_raw_fd()]) }.ok();
    loop {
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(lifeline, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => process::exit(1),
        }
        // Nothing is ever written: any event is the end of the supervisor.
        if !fds[1].revents().is_empty() {
            process::exit(1);
        }
        while let Some(signal) = process::next_signal(signals) {
            if signal != libc::SIGCHLD {
                // SAFETY: the builder has not been reaped, so the number is its own. Too late is no error.
                unsafe { libc::kill(builder, signal) };
            }
        }
        while let Some((pid, ended)) = process::reap(-1) {
            if pid == builder {
                let by_signal = ended.signal.map(|signal| SIGNAL_BASE + signal);
                process::exit(ended.code.or(by_signal).unwrap_or(1));
            }
        }
    }
}
