//! Checks a step as a whole and takes it apart into what is written down and what is passed as descriptors.

use std::fmt::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use super::LaunchError;
use crate::descriptors::MAX_DESCRIPTORS;
use crate::message::{MountOrder, Order, SourceOrder};
use crate::rlimits;
use crate::spec::{Mount, MountSource, Network, Process, Spec, StepIds, Ulimit, User};

/// Mounts of one step: their descriptors travel in one message, with six others.
const MAX_MOUNTS: usize = MAX_DESCRIPTORS - 6;

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// Longest name of a step; a file name holds 255 bytes, and a number is added.
const MAX_NAME: usize = 128;

/// Longest path the kernel takes.
const MAX_PATH: usize = 4096;

/// Size of `/dev/shm` when none is given, as elsewhere.
const DEFAULT_SHM: u64 = 64 << 20;

/// A step in the form a helper takes it.
pub(super) struct Prepared {
    pub(super) order: Order,
    pub(super) root: OwnedFd,
    pub(super) mounts: Vec<OwnedFd>,
}

pub(super) fn ids(ids: StepIds) -> Result<(), LaunchError> {
    if ids.first == 0 || ids.count == 0 || ids.first.checked_add(ids.count).is_none() {
        return Err(LaunchError::Invalid(format!("step ids {} + {}", ids.first, ids.count)));
    }
    Ok(())
}

pub(super) fn spec(spec: &Spec, ids: StepIds) -> Result<(), LaunchError> {
    let invalid = |message: String| Err(LaunchError::Invalid(message));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if spec.name.is_empty()
        || spec.name.len() > MAX_NAME
        || !spec.name.chars().all(plain)
        || spec.name.starts_with('.')
    {
        return invalid(format!("name {:?}", spec.name));
    }
    command(&spec.args, &spec.user, &spec.ulimits, ids)?;
    if spec.mounts.len() > MAX_MOUNTS {
        return invalid(format!("{} mounts, more than {MAX_MOUNTS}", spec.mounts.len()));
    }
    for path in spec.mounts.iter().map(|mount| &mount.dest).chain([&spec.cwd]) {
        self::path(path)?;
    }
    if spec.hostname.len() > MAX_HOSTNAME || spec.hostname.contains(['\0', '\n', ' ']) {
        return invalid(format!("host name {:?}", spec.hostname));
    }
    if let Some((_, name)) =
        spec.hosts.iter().find(|(_, name)| name.contains(char::is_whitespace) || name.contains('#'))
    {
        return invalid(format!("host entry {name:?}"));
    }
    Ok(())
}

/// Checks one more process of a running step.
pub(super) fn process(process: &Process, ids: StepIds) -> Result<(), LaunchError> {
    command(&process.args, &process.user, &process.ulimits, ids)?;
    path(&process.cwd)
}

fn command(
    args: &[String],
    user: &User,
    ulimits: &[Ulimit],
    ids: StepIds,
) -> Result<(), LaunchError> {
    let invalid = |message: String| Err(LaunchError::Invalid(message));
    if args.is_empty() {
        return invalid("no command".to_owned());
    }
    if let Some(id) = [user.uid, user.gid].iter().chain(&user.groups).find(|id| **id >= ids.count) {
        return invalid(format!("id {id} is not below {}", ids.count));
    }
    match ulimits.iter().find(|ulimit| rlimits::resource(&ulimit.name).is_none()) {
        Some(ulimit) => invalid(format!("ulimit {:?}", ulimit.name)),
        None => Ok(()),
    }
}

fn path(path: &str) -> Result<(), LaunchError> {
    if path.len() >= MAX_PATH || !path.starts_with('/') || path.contains('\0') {
        return Err(LaunchError::Invalid(format!("path {path:?}")));
    }
    Ok(())
}

pub(super) fn order(spec: Spec, id: u64, leaf: Option<String>) -> Prepared {
    let mut mounts = spec.mounts;
    // What is mounted higher comes first, so that it does not hide what is below.
    mounts.sort_by_key(|mount| mount.dest.split('/').filter(|name| !name.is_empty()).count());
    let hosts = hosts(&spec.hostname, &spec.hosts);
    let (mounts, fds): (Vec<MountOrder>, Vec<Option<OwnedFd>>) =
        mounts.into_iter().map(mount).unzip();
    let order = Order {
        id: format!("{}-{id}", spec.name),
        leaf,
        readonly_root: spec.readonly_root,
        mounts,
        args: spec.args,
        env: spec.env,
        cwd: spec.cwd,
        // Root of a step gains nothing from a set-user-id file, so it may as well be told so.
        no_new_privileges: spec.no_new_privileges || spec.user.uid == 0,
        user: spec.user,
        hostname: spec.hostname,
        hosts,
        resolv_conf: spec.resolv_conf,
        network: spec.network,
        security: spec.security,
        ulimits: spec.ulimits,
        shm_size: spec.shm_size.unwrap_or(DEFAULT_SHM),
        terminal: spec.terminal,
    };
    Prepared { order, root: spec.root, mounts: fds.into_iter().flatten().collect() }
}

/// The order for one more process; what was decided for its step is not asked for again.
pub(super) fn join_order(process: Process, id: u64, leaf: Option<String>) -> Order {
    Order {
        id: format!("process-{id}"),
        leaf,
        readonly_root: false,
        mounts: Vec::new(),
        args: process.args,
        env: process.env,
        cwd: process.cwd,
        no_new_privileges: process.no_new_privileges || process.user.uid == 0,
        user: process.user,
        hostname: String::new(),
        hosts: String::new(),
        resolv_conf: Vec::new(),
        network: Network::None,
        security: process.security,
        ulimits: process.ulimits,
        shm_size: 0,
        terminal: process.terminal,
    }
}

fn mount(mount: Mount) -> (MountOrder, Option<OwnedFd>) {
    let (source, fd) = match mount.source {
        MountSource::Fd(fd) => (SourceOrder::Descriptor, Some(fd)),
        MountSource::Tmpfs { size } => (SourceOrder::Tmpfs { size }, None),
    };
    (MountOrder { dest: mount.dest, readonly: mount.readonly, source }, fd)
}

fn hosts(hostname: &str, more: &[(IpAddr, String)]) -> String {
    let mut text =
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for (address, name) in more {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}
