//! Resource limits of a step's first process, getrlimit(2).
//!
//! Limits that count per user (`nproc`, `msgqueue`) are left wide: the cgroup holds those. A hard limit can never exceed the
//! builder's own, so what is asked for is capped, not refused.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::spec::Ulimit;

/// What a step gets unless it asks for something else: name, soft, hard.
const DEFAULTS: &[(Resource, u64, u64)] = &[
    (Resource::Core, 0, 0),
    (Resource::Nofile, 1 << 16, 1 << 20),
    (Resource::Stack, 8 << 20, u64::MAX),
    (Resource::Memlock, 8 << 20, 8 << 20),
    (Resource::Msgqueue, 819_200, 819_200),
    (Resource::Nproc, u64::MAX, u64::MAX),
];

/// Applies the defaults and then what was asked for. Names must have passed [`resource`].
pub(crate) fn apply(asked: &[Ulimit]) -> Result<(), Errno> {
    for (resource, soft, hard) in DEFAULTS {
        limit(*resource, *soft, *hard)?;
    }
    for ulimit in asked {
        let resource = resource(&ulimit.name).ok_or(Errno::INVAL)?;
        limit(resource, ulimit.soft, ulimit.hard)?;
    }
    Ok(())
}

fn limit(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let hard = hard.min(ceiling);
    let soft = soft.min(hard);
    let bound = |value: u64| (value != u64::MAX).then_some(value);
    setrlimit(resource, Rlimit { current: bound(soft), maximum: bound(hard) })
}

/// The resource a limit's name stands for.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
