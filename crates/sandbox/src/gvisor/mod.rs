//! Steps under gVisor: `runsc` answers a step's system calls, in the step's own namespaces and with the step's own ids.
//!
//! Everything a step has at the level of namespaces it has here too: the launch helper makes the same root, mounts, network and
//! control group. What differs is the last move. Instead of the step's command, `runsc` is executed, in a small root of its own
//! (see [`cell`]) that holds the step's root as a directory, and in the step's user namespace, so that on-disk ids are the same
//! and whoever breaks out of gVisor is where a step at the level of namespaces is.
//!
//! ```text
//! helper --fork--> pid 1 of the step's namespaces = runsc run
//!                    |-- gofer    opens files of the step's root; its own root is that root
//!                    '-- sentry   the kernel that the step sees; its own root is an empty tmpfs
//! ```
//!
//! This module must never start a step that a present `runsc` could not confine: flags are taken from what the program says it
//! knows, and [`probe`] and [`trial`] refuse before the first step. OCI runtime specification 1.0 for the configuration written.

mod cell;
mod config;
mod findings;
mod limits;
mod log;
mod probe;
mod trial;

pub use findings::gvisor_findings;
pub(crate) use probe::Needs;
pub use probe::{Runsc, RunscError};

pub(crate) use cell::{Attached, Cell};
pub(crate) use config::configuration;
pub(crate) use limits::adjust;
pub(crate) use log::{GAVE_UP, Log, complaint};
pub(crate) use trial::choose_platform;

/// Where things are in the root of `runsc`.
pub(crate) mod places {
    /// The program itself.
    pub(crate) const PROGRAM: &str = "/runsc";
    /// Its configuration, named `config.json`.
    pub(crate) const BUNDLE: &str = "/bundle";
    /// The step's root.
    pub(crate) const ROOTFS: &str = "/rootfs";
    /// What is mounted in the step's root, one numbered entry each.
    pub(crate) const MOUNTS: &str = "/mounts";
    /// Where `runsc` keeps notes while the step runs.
    pub(crate) const STATE: &str = "/state";
}
