//! What limits of a step have to be, so that they hold what they hold without gVisor.
//!
//! Memory and processor time need nothing: `runsc` is in the step's control group with everything it does for the step. Processes
//! are counted twice, by the machine as those that serve the step and by the sentry as those that the step sees.

use crate::spec::{Spec, Ulimit};

/// Threads of `runsc`, gofer and sentry before the step has any process: some thirty on two processors, more on more.
const OWN_THREADS: u64 = 256;

/// Threads of the machine for each process of the step: seven were counted under ptrace.
const THREADS_PER_PROCESS: u64 = 8;

/// No step gets more of the machine's process numbers than half of what a machine has by default.
const MOST_THREADS: u64 = 16_384;

/// Lets the sentry hold the step's number of processes, and the machine what that takes.
pub(crate) fn adjust(spec: &mut Spec) {
    let Some(pids) = spec.limits.pids else { return };
    let threads = OWN_THREADS.saturating_add(pids.saturating_mul(THREADS_PER_PROCESS));
    spec.limits.pids = Some(threads.min(MOST_THREADS));
    match spec.ulimits.iter_mut().find(|ulimit| ulimit.name == "nproc") {
        Some(asked) => (asked.soft, asked.hard) = (asked.soft.min(pids), asked.hard.min(pids)),
        None => spec.ulimits.push(Ulimit { name: "nproc".to_owned(), soft: pids, hard: pids }),
    }
}
