//! What this machine offers and what it lacks, asked before anything is started.
//!
//! Each probe does the thing itself where that is possible without leaving a trace, in a short-lived copy of a fresh process
//! where it is not; it never concludes from version numbers.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// Whether it is there.
    pub present: bool,
    /// Whether steps can be started at all without it.
    pub required: bool,
    /// What is lost without it, or what was found.
    pub detail: String,
}

/// Looks at the machine as the calling user.
#[must_use]
pub fn doctor() -> Vec<Finding> {
    let root = rustix::process::geteuid().is_root();
    let mut findings =
        vec![user_namespaces(), openat2(), mount_calls(), filters(), tun(), cgroups()];
    if !root {
        findings.push(subordinate("/etc/subuid", "subordinate user ids"));
        findings.push(subordinate("/etc/subgid", "subordinate group ids"));
        findings.push(program("newuidmap"));
        findings.push(program("newgidmap"));
    }
    findings
}

/// Looks for the second wall around a builder's own process.
#[must_use]
pub fn landlock_finding() -> Finding {
    let version = crate::confine::landlock_version();
    let detail = match version {
        Ok(version) => format!("version {version} of the interface"),
        Err(errno) => format!(
            "{errno}: add landlock to the lsm= list of the kernel's command line, or set [isolation] landlock = \"off\""
        ),
    };
    Finding {
        name: "restrictions of the builder (landlock)",
        present: version.is_ok(),
        required: true,
        detail,
    }
}

fn user_namespaces() -> Finding {
    let limit = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    let limit: u64 = limit.trim().parse().unwrap_or(0);
    let restricted =
        std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let restricted =
        restricted.is_ok_and(|value| value.trim() == "1") && !rustix::process::geteuid().is_root();
    Finding {
        name: "user namespaces",
        present: limit > 0 && !restricted,
        required: true,
        detail: if restricted {
            "restricted to programs with an AppArmor profile (kernel.apparmor_restrict_unprivileged_userns)".to_owned()
        } else {
            format!("user.max_user_namespaces is {limit}")
        },
    }
}

fn openat2() -> Finding {
    use rustix::fs::ResolveFlags;
    let opened = rustix::fs::openat2(
        rustix::fs::CWD,
        ".",
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    );
    let detail = opened.as_ref().err().map_or_else(|| "works".to_owned(), ToString::to_string);
    Finding {
        name: "lookups beneath a directory (openat2)",
        present: opened.is_ok(),
        required: true,
        detail,
    }
}

fn mount_calls() -> Finding {
    // With a bad descriptor a kernel that knows the call says so.
    // SAFETY: all arguments are rejected before they are used.
    let result = unsafe {
        libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0)
    };
    let known = result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS);
    Finding {
        name: "mounts by descriptor (mount_setattr)",
        present: known,
        required: true,
        detail: if known { "known".to_owned() } else { "needs Linux 5.12".to_owned() },
    }
}

fn filters() -> Finding {
    let actions =
        std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    Finding {
        name: "system-call filters (seccomp)",
        present: actions.split_whitespace().any(|action| action == "errno"),
        required: true,
        detail: actions.trim().to_owned(),
    }
}

fn tun() -> Finding {
    let root = rustix::process::geteuid().is_root();
    let opened = rustix::fs::open(c"/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    // Root of the host makes a node of its own.
    let present = opened.is_ok() || root && Path::new("/sys/class/misc/tun").exists();
    let detail = match opened {
        Ok(_) => "can be opened".to_owned(),
        Err(errno) => {
            format!("/dev/net/tun: {errno}; it is the way of steps and builders to the network")
        }
    };
    Finding { name: "network devices (tun)", present, required: true, detail }
}

/// Whether the calling user can hold what it encloses to `limits`: others than root can where a control group was delegated to them.
#[must_use]
pub fn can_limit(limits: &crate::spec::Limits) -> bool {
    let name = format!("trial-{}", std::process::id());
    let owner = rustix::process::geteuid().is_root().then_some(0);
    let grant = crate::cgroup::Delegator { name: &name, owner, limits, kvm: false }.create();
    // One that cannot be removed is swept with those of ended builders.
    grant.is_ok_and(|grant| grant.remove().is_ok())
}

fn cgroups() -> Finding {
    let limits = crate::spec::Limits::default();
    let name = format!("doctor-{}", std::process::id());
    let owner = rustix::process::geteuid().is_root().then_some(0);
    let grant =
        crate::cgroup::Delegator { name: &name, owner, limits: &limits, kvm: false }.create();
    let (present, detail) = match grant {
        Ok(grant) => {
            let hierarchies = &grant.delegation.hierarchies;
            let controllers: Vec<&str> = hierarchies
                .iter()
                .flat_map(|hierarchy| &hierarchy.controllers)
                .map(String::as_str)
                .collect();
            let removed = grant.remove();
            let note = removed.err().map_or_else(String::new, |error| format!(" ({error})"));
            (!controllers.is_empty(), format!("controllers: {}{note}", controllers.join(" ")))
        }
        Err(error) => (false, error.to_string()),
    };
    Finding { name: "limits (cgroups)", present, required: false, detail }
}

fn subordinate(file: &'static str, name: &'static str) -> Finding {
    let user = rustix::process::geteuid().as_raw();
    let range = crate::enclosure::subordinate_range(file, user);
    Finding {
        name,
        present: range.is_some(),
        required: true,
        detail: range.map_or_else(
            || format!("{file} has no range of 65536 ids for user {user}"),
            |(first, count)| format!("{count} from {first}"),
        ),
    }
}

fn program(name: &'static str) -> Finding {
    let run = Command::new(name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let detail = run.as_ref().err().map_or_else(|| "installed".to_owned(), ToString::to_string);
    Finding { name, present: run.is_ok(), required: true, detail }
}
