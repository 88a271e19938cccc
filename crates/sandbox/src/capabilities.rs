//! Capability sets, capabilities(7). Which a step's root keeps is data in [`crate::profile`].
//!
//! A step in the sandbox keeps what package managers and build tools use of a container's root, all of it valid in the step's own
//! user namespace only. Inheritable and ambient sets are empty: with anything in the inheritable set, file capabilities could
//! regain privilege (CVE-2022-29162).

use rustix::io::Errno;

use crate::namespaces::check;
use crate::profile::CAPABILITIES;

/// One past the largest capability number any kernel could know: the sets are 64 bits wide.
const LIMIT: u32 = 64;

/// Names by number, as configurations of other runtimes write them; those after the last are newer than the oldest of these.
const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
];

/// The capabilities of a mask that have a name here.
pub(crate) fn names(mask: u64) -> Vec<String> {
    let held = NAMES.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0);
    held.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Every capability of a step's root as a mask.
pub(crate) fn build_mask() -> u64 {
    CAPABILITIES.iter().fold(0, |mask, capability| mask | 1 << capability.number)
}

/// Takes everything but `keep` from the bounding set, so that no program executed later can have it.
pub(crate) fn limit_bounding_set(keep: u64) -> Result<(), Errno> {
    for number in (0..LIMIT).filter(|number| keep & (1 << number) == 0) {
        // SAFETY: plain integers.
        match check(unsafe {
            libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0)
        }) {
            Ok(()) => {}
            // The kernel knows no capability of this number, nor any higher one.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Makes permitted and effective sets `mask` and leaves inheritable and ambient sets empty.
pub(crate) fn set(mask: u64) -> Result<(), Errno> {
    use rustix::thread::{
        CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities,
    };
    clear_ambient_capability_set()?;
    let kept = CapabilitySet::from_bits_retain(mask);
    set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )
}
