//! From [`Limits`] to control files, in either version of the interface.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;

use super::{CgroupError, Hierarchy, HierarchyKind, write_control};
use crate::spec::Limits;

/// Length of a scheduling period when only a quota is given, in microseconds; the kernel's own default.
const DEFAULT_PERIOD: u64 = 100_000;

/// The limits that are set, by the name of the field, and the controller each needs.
pub(super) fn required(limits: &Limits) -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        (limits.memory.is_some(), "memory", "memory"),
        (limits.swap.is_some(), "swap", "memory"),
        (limits.pids.is_some(), "pids", "pids"),
        (limits.cpu_quota.is_some() || limits.cpu_period.is_some(), "cpu quota", "cpu"),
        (limits.cpu_shares.is_some(), "cpu shares", "cpu"),
        (limits.cpuset_cpus.is_some(), "cpuset cpus", "cpuset"),
        (limits.cpuset_mems.is_some(), "cpuset mems", "cpuset"),
    ]
    .into_iter()
    .filter_map(|(set, limit, controller)| set.then_some((limit, controller)))
}

/// Writes those of `limits` that this hierarchy is responsible for.
pub(super) fn write(
    dir: &OwnedFd,
    path: &Path,
    hierarchy: &Hierarchy,
    limits: &Limits,
) -> Result<(), CgroupError> {
    let set = |file: &str, value: String| {
        write_control(dir, file, &value).map_err(|source| CgroupError::Write {
            path: path.to_owned(),
            file: file.to_owned(),
            value,
            source,
        })
    };
    for controller in &hierarchy.controllers {
        match (hierarchy.kind, controller.as_str()) {
            (HierarchyKind::V1, "memory") => memory_v1(limits, &set)?,
            (HierarchyKind::V2, "memory") => memory_v2(limits, &set)?,
            (HierarchyKind::V1, "cpu") => cpu_v1(limits, &set)?,
            (HierarchyKind::V2, "cpu") => cpu_v2(limits, &set)?,
            (_, "pids") => put(&set, "pids.max", limits.pids)?,
            (_, "cpuset") => {
                put(&set, "cpuset.cpus", limits.cpuset_cpus.as_ref())?;
                put(&set, "cpuset.mems", limits.cpuset_mems.as_ref())?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn put(
    set: &impl Fn(&str, String) -> Result<(), CgroupError>,
    file: &str,
    value: Option<impl ToString>,
) -> Result<(), CgroupError> {
    value.map_or(Ok(()), |value| set(file, value.to_string()))
}

fn memory_v1(
    limits: &Limits,
    set: &impl Fn(&str, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let Some(memory) = limits.memory else { return Ok(()) };
    set("memory.limit_in_bytes", memory.to_string())?;
    let total = memory.saturating_add(limits.swap.unwrap_or(0));
    match set("memory.memsw.limit_in_bytes", total.to_string()) {
        // A kernel that accounts for no swap has no such file; memory is limited all the same.
        Err(CgroupError::Write { source: Errno::NOENT | Errno::ACCESS, .. }) => Ok(()),
        other => other,
    }
}

fn memory_v2(
    limits: &Limits,
    set: &impl Fn(&str, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    let Some(memory) = limits.memory else { return put(set, "memory.swap.max", limits.swap) };
    set("memory.max", memory.to_string())?;
    // A step with some of its processes gone would only fail later and less clearly.
    set("memory.oom.group", "1".to_owned())?;
    match set("memory.swap.max", limits.swap.unwrap_or(0).to_string()) {
        Err(CgroupError::Write { source: Errno::NOENT | Errno::ACCESS, .. }) => Ok(()),
        other => other,
    }
}

fn cpu_v1(
    limits: &Limits,
    set: &impl Fn(&str, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    put(set, "cpu.shares", limits.cpu_shares)?;
    put(set, "cpu.cfs_period_us", limits.cpu_period)?;
    put(set, "cpu.cfs_quota_us", limits.cpu_quota)
}

fn cpu_v2(
    limits: &Limits,
    set: &impl Fn(&str, String) -> Result<(), CgroupError>,
) -> Result<(), CgroupError> {
    if let Some(shares) = limits.cpu_shares {
        set("cpu.weight", weight(shares).to_string())?;
    }
    match (limits.cpu_quota, limits.cpu_period) {
        (Some(quota), period) => {
            set("cpu.max", format!("{quota} {}", period.unwrap_or(DEFAULT_PERIOD)))
        }
        (None, Some(period)) => set("cpu.max", format!("max {period}")),
        (None, None) => Ok(()),
    }
}

/// Version 1 shares (2 to 262144, normally 1024) as a version 2 weight (1 to 10000): ends on ends, linear between them, as OCI
/// runtimes convert.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9_999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_map_to_the_ends_of_the_weight_scale() {
        assert_eq!(weight(0), 1);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(262_144), 10_000);
        assert_eq!(weight(u64::MAX), 10_000);
    }

    #[test]
    fn every_limit_names_a_controller() {
        let all = Limits {
            memory: Some(1),
            swap: Some(1),
            pids: Some(1),
            cpu_quota: Some(1),
            cpu_period: Some(1),
            cpu_shares: Some(1),
            cpuset_cpus: Some("0".into()),
            cpuset_mems: Some("0".into()),
        };
        assert_eq!(required(&all).count(), 7);
        assert_eq!(required(&Limits::default()).count(), 0);
    }
}
