//! Resource limits of a step's first process, getrlimit(2).
//!
//! Limits that count per user (`nproc`, `msgqueue`) are left wide: the cgroup holds those. A hard limit can never exceed the
//! builder's own, so what is asked for is capped, not refused.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::spec::Ulimit;

/// What a step gets unless it asks for something else: name, soft, hard.
const DEFAULTS: &[(&str, u64, u64)] = &[
    ("core", 0, 0),
    ("nofile", 1 << 16, 1 << 20),
    ("stack", 8 << 20, u64::MAX),
    ("memlock", 8 << 20, 8 << 20),
    ("msgqueue", 819_200, 819_200),
    ("nproc", u64::MAX, u64::MAX),
];

/// Applies the defaults and then what was asked for. Names must have passed [`resource`].
pub(crate) fn apply(asked: &[Ulimit]) -> Result<(), Errno> {
    for (name, soft, hard) in resolved(asked) {
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let limit = Rlimit { current: bound(soft), maximum: bound(hard) };
        setrlimit(resource(&name).ok_or(Errno::INVAL)?, limit)?;
    }
    Ok(())
}

/// What [`apply`] applies: name, soft, hard. Names that are unknown are passed on.
pub(crate) fn resolved(asked: &[Ulimit]) -> Vec<(String, u64, u64)> {
    let defaults =
        DEFAULTS.iter().filter(|(name, ..)| !asked.iter().any(|ulimit| ulimit.name == *name));
    let defaults = defaults.map(|(name, soft, hard)| ((*name).to_owned(), *soft, *hard));
    let asked = asked.iter().map(|ulimit| (ulimit.name.clone(), ulimit.soft, ulimit.hard));
    defaults
        .chain(asked)
        .map(|(name, soft, hard)| {
            let ceiling = resource(&name).and_then(|resource| getrlimit(resource).maximum);
            let hard = hard.min(ceiling.unwrap_or(u64::MAX));
            (name, soft.min(hard), hard)
        })
        .collect()
}

/// Lets a program that serves the step open as many files as the builder could.
pub(crate) fn raise_files() -> Result<(), Errno> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
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
