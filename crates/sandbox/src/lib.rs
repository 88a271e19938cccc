//! Runs one process tree in a given root, and the builder itself under its own ids.
//!
//! Two walls live here. The [`Enclosure`] turns the builder into a process that owns nothing on the host: its own user, mount,
//! pid, ipc, uts and cgroup namespaces, a root made of what it was given, and a range of ids that belongs to one project. The
//! [`Launcher`] starts a step inside that enclosure: another set of namespaces, a nested user namespace, a filtered system-call
//! surface and limits. A step's root, the builder's root and the host's root are three different ids.
//!
//! Nothing here has a weaker mode to fall back to: a mechanism that is missing is an error that names it. [`doctor`] lists what
//! the machine offers before anything is started.

mod capabilities;
mod cgroup;
mod confine;
mod descriptors;
mod doctor;
mod enclosure;
mod gvisor;
mod helper;
mod identity;
mod isolation;
mod launcher;
mod message;
mod mounter;
mod mounts;
mod namespaces;
mod network;
mod process;
mod profile;
mod rlimits;
mod rootfs;
mod seccomp;
mod spare;
mod spec;

pub use cgroup::{CgroupError, Delegation, Hierarchy, HierarchyKind, sweep_groups};
pub use confine::{ConfineError, confine_builder, confine_machine};
pub use doctor::{Finding, can_limit, doctor, landlock_finding};
pub use enclosure::{
    Bind, Enclosure, EnclosureError, EnclosureOptions, Entered, Supervised, SupervisedExit, enter,
};
pub use gvisor::{Runsc, RunscError, gvisor_findings};
pub use isolation::{Isolation, IsolationError};
pub use launcher::{Control, LaunchError, Launcher, LauncherConfig, Preforked, Running};
pub use mounts::{MountError, detached_bind, detached_directory, detached_file, detached_part};
pub use network::{
    GATE_ADDRESS, STEP_ADDRESS, STEP_INTERFACE, STEP_MTU, STEP_NETMASK, STEP_PREFIX_LENGTH,
};
pub use rootfs::make_skeleton;
pub use spare::{Spare, SpareError, Task, Twin};
pub use spec::{
    Exit, Limits, Mount, MountSource, Network, Process, Security, Spec, StepIds, Ulimit, Usage,
    User,
};
