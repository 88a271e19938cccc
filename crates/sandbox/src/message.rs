//! What the builder, its launch helpers and a step that is being set up say to each other.
//!
//! ```text
//! builder --(Request + descriptors)--> helper --fork--> step
//!    ^  ^---------(Notice)----------------'               |
//!    '-------------(Report, one socket per step)----------'
//! ```
//!
//! The report socket is close-on-exec: its end without a failure is the news that the command is running.

use serde::{Deserialize, Serialize};

use crate::process::Ended;
use crate::rootfs::{Parent, Stub};
use crate::spec::{Network, Security, Ulimit, User};

/// Everything about a step that is not a descriptor. Travels in a sealed memfd: arguments may be larger than any message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Name of this step among all of the builder.
    pub(crate) id: String,
    pub(crate) leaf: Option<String>,
    pub(crate) readonly_root: bool,
    pub(crate) mounts: Vec<MountOrder>,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: User,
    pub(crate) hostname: String,
    pub(crate) hosts: String,
    pub(crate) resolv_conf: Vec<u8>,
    pub(crate) network: Network,
    pub(crate) security: Security,
    pub(crate) ulimits: Vec<Ulimit>,
    pub(crate) shm_size: u64,
    pub(crate) no_new_privileges: bool,
    /// Whether the standard streams are a terminal of the step's own.
    pub(crate) terminal: bool,
}

/// One mount of an [`Order`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MountOrder {
    pub(crate) dest: String,
    pub(crate) readonly: bool,
    pub(crate) source: SourceOrder,
}

/// Where a mount comes from.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SourceOrder {
    /// The next descriptor of the request that has not been used.
    Descriptor,
    /// A new tmpfs.
    Tmpfs { size: Option<u64> },
}

/// Asks a helper to start a step. Descriptors: order, report, root, stdout, stderr, stdin if any, then one per mount that has one.
/// A process that joins a running step has that step's pidfd in place of a root.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) stdin: bool,
    pub(crate) joins: bool,
}

/// What a helper tells the builder.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Notice {
    /// The step's first process exists; its pidfd comes along.
    Started { id: u64 },
    /// No process could be made.
    Refused { id: u64, errno: i32 },
    /// The first process has ended and everything in its pid namespace with it.
    Exited { id: u64, ended: Ended },
}

/// What a step says while it is being set up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// Mount points were made in the root, in these directories. Several reports if there are many.
    Made { stubs: Vec<Stub>, parents: Vec<Parent> },
    /// The TUN device, whose descriptor comes along.
    Tun,
    /// Where `runsc` complains; the end to read from comes along.
    Log,
    /// The terminal whose other end is the standard streams; the end to read from and write to comes along.
    Terminal,
    /// Set-up has failed; nothing was executed.
    Failed(Failure),
}

/// Why a step could not be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The command cannot be executed; the code is what a shell would give.
    Command { message: String, code: i32 },
    /// What was asked for cannot be done with this root.
    Root { message: String },
    /// A mechanism of the sandbox failed.
    Mechanism { action: String, message: String },
}

impl Failure {
    /// A mechanism that failed, with everything the error says about why.
    pub(crate) fn mechanism(action: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let action = action.into();
        move |errno| Self::Mechanism { action, message: errno.to_string() }
    }

    /// A mechanism that failed with an error of this crate.
    pub(crate) fn chain(action: impl Into<String>, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            message.push_str(": ");
            message.push_str(&error.to_string());
            source = error.source();
        }
        Self::Mechanism { action: action.into(), message }
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // The types above have no map with non-text keys, the one thing JSON refuses.
    serde_json::to_vec(value).unwrap_or_default()
}
