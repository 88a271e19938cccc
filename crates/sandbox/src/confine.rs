//! A second wall around the builder's own process: landlock(7).
//!
//! The enclosure decides what the builder can see; this decides what it can still do there if a parser of tenant bytes were taken
//! over. It executes programs of the host's system and nothing that a tenant wrote, makes no devices, opens no listening TCP
//! port and talks to no abstract socket, and mounts nothing on its tree. Launch helpers are made before and are not bound by it,
//! since starting steps is mounting.
//!
//! What must not be restricted: reading and writing. Views of layers are detached mounts, on which landlock has no rules, and the
//! enclosure's root holds nothing but the store that could be written.

use std::path::Path;

use landlock::{
    AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

/// Trees of the host that hold programs the builder starts (git, ssh) and their libraries.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Where the builder's devices are.
const DEVICES: &str = "/dev";

/// The builder's store, in which layers are moved between directories.
const STORE: &str = "/store";

/// Why the second wall does not stand.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The kernel does not have it, or it is switched off.
    #[error(
        "this kernel offers no landlock: add it to the lsm= list of the kernel's command line, or do without the second wall \
         around the builder with [isolation] landlock = \"off\""
    )]
    Missing,
    /// The thread that goes on mounting could not be made.
    #[error("make the thread that may still mount")]
    Mounter(#[source] std::io::Error),
    /// The rules were refused.
    #[error("restrict the builder with landlock")]
    Rules(#[source] RulesetError),
}

/// Restricts this thread and those it will make. Call it after the launch helpers were forked and before other threads exist.
///
/// # Errors
///
/// When landlock is missing. Rights that an older kernel does not know are left out.
pub fn confine_builder() -> Result<(), ConfineError> {
    crate::mounter::start().map_err(ConfineError::Mounter)?;
    restrict(&[])
}

/// Restricts the process of a virtual machine in the same way, and with it what it starts: the system's programs and `monitor`.
///
/// # Errors
///
/// As of [`confine_builder`].
pub fn confine_machine(monitor: Option<&Path>) -> Result<(), ConfineError> {
    restrict(monitor.as_slice())
}

fn restrict(programs: &[&Path]) -> Result<(), ConfineError> {
    match rules(programs).map_err(ConfineError::Rules)? {
        RulesetStatus::NotEnforced => Err(ConfineError::Missing),
        _ => Ok(()),
    }
}

fn rules(programs: &[&Path]) -> Result<RulesetStatus, RulesetError> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled())?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket)?
        .create()?;
    let programs = programs.iter().map(|path| (*path, AccessFs::Execute.into()));
    for (path, access) in allowed().map(|(path, access)| (Path::new(path), access)).chain(programs)
    {
        // What a system does not have needs no rule.
        if let Ok(path) = PathFd::new(path) {
            rules = rules.add_rule(PathBeneath::new(path, access))?;
        }
    }
    Ok(rules.restrict_self()?.ruleset)
}

/// What is forbidden where no rule allows it. Moving between directories is among it whether named or not.
fn handled() -> landlock::BitFlags<AccessFs> {
    AccessFs::Execute | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::Refer
}

fn allowed() -> impl Iterator<Item = (&'static str, landlock::BitFlags<AccessFs>)> {
    let programs = PROGRAMS.iter().map(|path| (*path, AccessFs::Execute.into()));
    programs.chain([
        (DEVICES, AccessFs::IoctlDev.into()),
        (STORE, AccessFs::Refer.into()),
        ("/tmp", AccessFs::Refer.into()),
        ("/run/cofferdam", AccessFs::Refer.into()),
    ])
}

/// The version of landlock's interface, or why there is none.
pub(crate) fn landlock_version() -> Result<i64, rustix::io::Errno> {
    /// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
    const VERSION: libc::c_uint = 1;
    // SAFETY: without attributes and with this flag nothing is read; the answer is a number and no descriptor.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, VERSION)
    };
    if version > 0 { Ok(version) } else { Err(crate::namespaces::last_errno()) }
}
