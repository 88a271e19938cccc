//! Gives up what a gate does not need, before it reads the first byte of a step.
//!
//! After this the process cannot gain privileges by executing anything, cannot be traced or dumped by its own uid, and holds no
//! capabilities. Relaying needs none: TUN descriptors come open, sockets use ordinary ports.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr,
    RulesetCreated, RulesetError, RulesetStatus, Scope,
};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use crate::gate::GateOptions;

/// Which privilege could not be given up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempt}")]
pub struct PrivilegeError {
    attempt: &'static str,
    #[source]
    source: io::Error,
}

impl PrivilegeError {
    fn new(attempt: &'static str, source: impl Into<io::Error>) -> PrivilegeError {
        PrivilegeError { attempt, source: source.into() }
    }
}

/// Order matters: limits while they may be raised, ids while there is the capability to change them, capabilities last.
pub(crate) fn drop_privileges(options: &GateOptions) -> Result<(), PrivilegeError> {
    raise_descriptor_limit();
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
        .map_err(|e| PrivilegeError::new("forbid core dumps", e))?;
    if rustix::process::geteuid().is_root()
        && let Some(uid) = options.uid
    {
        change_ids(uid, options.gid.unwrap_or(uid))?;
    }
    set_no_new_privs(true).map_err(|e| PrivilegeError::new("set no_new_privs", e))?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(|e| PrivilegeError::new("drop capabilities", e))?;
    // After the ids: changing them resets the flag.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| PrivilegeError::new("forbid tracing", e))?;
    if options.landlock { give_up_files() } else { Ok(()) }
}

/// Opens nothing, executes nothing and listens on no TCP port from here on: what a gate needs is open already. An older kernel
/// knows fewer of these rights.
fn give_up_files() -> Result<(), PrivilegeError> {
    let failed =
        |error: RulesetError| PrivilegeError::new("give up files", io::Error::other(error));
    let rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.handle_access(AccessNet::BindTcp))
        .and_then(|rules| rules.scope(Scope::AbstractUnixSocket | Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self);
    match rules.map_err(failed)?.ruleset {
        RulesetStatus::NotEnforced => {
            Err(PrivilegeError::new("give up files", io::Error::from(io::ErrorKind::Unsupported)))
        }
        _ => Ok(()),
    }
}

/// Every flow costs a descriptor. Best effort: with fewer, connections fail one by one and say so.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn change_ids(uid: u32, gid: u32) -> Result<(), PrivilegeError> {
    let failed = |attempt| PrivilegeError::new(attempt, io::Error::last_os_error());
    // SAFETY: an empty list is passed, so the pointer is never read.
    if unsafe { libc::setgroups(0, std::ptr::null()) } != 0 {
        return Err(failed("leave supplementary groups"));
    }
    // SAFETY: plain integers are passed; libc applies the change to every thread of the process.
    if unsafe { libc::setresgid(gid, gid, gid) } != 0 {
        return Err(failed("change the group id"));
    }
    // SAFETY: as above.
    if unsafe { libc::setresuid(uid, uid, uid) } != 0 {
        return Err(failed("change the user id"));
    }
    Ok(())
}
