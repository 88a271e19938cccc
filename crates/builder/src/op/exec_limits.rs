//! Limits of a step: what its sandbox is told, and when it has to be ended.
//!
//! What a client asks for holds as far as the builder's `[limits]` allow; nothing here ever widens those. Processors, memory,
//! processes and open files are the kernel's to hold; time and disk are watched here.

use std::path::Path;
use std::time::Duration;

use cofferdam_sandbox::{Limits, Ulimit};
use cofferdam_solver::Step;
use cofferdam_wire::pb;
use connectrpc::ErrorCode;

use super::exec_disk::Written;
use crate::config;
use crate::context::Context;
use crate::failure::Failure;

/// Where the detail of a failed process tells what it had run into. BuildKit's clients read past it.
pub(crate) const REACHED: &str = "Reached";

/// How often the disk is looked at while a step runs.
const DISK_INTERVAL: Duration = Duration::from_millis(200);
/// The part of the disk that no step may take: one in so many, but no more than the next.
const DISK_SHARE: u64 = 50;
/// The most that is kept free.
const MAX_RESERVE: u64 = 1 << 30;
/// Length of a scheduling period in microseconds, the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// Name of the limit on open files.
const OPEN_FILES: &str = "nofile";
/// Files that a process may have open before it asks for more, where a limit is set.
const SOFT_OPEN_FILES: u64 = 1 << 16;

/// The limits of a step's control group.
pub(super) fn of_group(context: &Context, asked: Option<&pb::LinuxResources>) -> Limits {
    let machine = rustix::system::sysinfo();
    let total = machine.totalram.saturating_mul(machine.mem_unit.into());
    let mut limits = bounded(self::asked(asked), &context.config.limits, total);
    // Where nobody set it, this one is for the machine's good: without control groups there is none.
    let pids = context.config.limits.default_step_pids();
    if pids.is_some() && context.launcher.can_limit(&Limits { pids, ..Limits::default() }) {
        limits.pids = pids;
    }
    limits
}

/// What the client wants for the step.
fn asked(wanted: Option<&pb::LinuxResources>) -> Limits {
    let Some(wanted) = wanted else { return Limits::default() };
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &String| (!value.is_empty()).then(|| value.clone());
    let memory = positive(wanted.memory);
    Limits {
        memory,
        // The wire counts memory and swap together, the limit counts swap alone.
        swap: positive(wanted.memorySwap).map(|both| both.saturating_sub(memory.unwrap_or(0))),
        pids: None,
        cpu_quota: positive(wanted.cpuQuota),
        cpu_period: Some(wanted.cpuPeriod).filter(|value| *value > 0),
        cpu_shares: Some(wanted.cpuShares).filter(|value| *value > 0),
        cpuset_cpus: text(&wanted.cpusetCpus),
        cpuset_mems: text(&wanted.cpusetMems),
    }
}

/// What was asked for, as far as it may be had.
fn bounded(mut limits: Limits, most: &config::Limits, machine: u64) -> Limits {
    if let Some(most) = most.step_memory(machine) {
        let memory = limits.memory.map_or(most, |asked| asked.min(most));
        limits.memory = Some(memory);
        // Swap is memory by another name.
        limits.swap = limits.swap.map(|swap| swap.min(most - memory));
    }
    limits.pids = most.step_pids();
    if let Some(cpus) = most.step_cpus() {
        let period = limits.cpu_period.unwrap_or(CPU_PERIOD);
        // Positive and far below the limits of both types.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        #[expect(clippy::cast_precision_loss)]
        let quota = (cpus * period as f64) as u64;
        limits.cpu_period = Some(period);
        limits.cpu_quota = Some(limits.cpu_quota.map_or(quota, |asked| asked.min(quota)));
    }
    limits
}

/// Limits of a step's processes: what a client asks for, the last of each name, as far as it may be had.
pub(super) fn of_processes(most: &config::Limits, meta: &pb::Meta) -> Vec<Ulimit> {
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let mut limits: Vec<Ulimit> = Vec::new();
    for asked in &meta.ulimit {
        limits.retain(|limit| limit.name != asked.Name);
        let (soft, hard) = (number(asked.Soft), number(asked.Hard));
        limits.push(Ulimit { name: asked.Name.clone(), soft, hard });
    }
    if let Some(most) = most.step_open_files() {
        match limits.iter_mut().find(|limit| limit.name == OPEN_FILES) {
            Some(files) => (files.soft, files.hard) = (files.soft.min(most), files.hard.min(most)),
            None => limits.push(Ulimit {
                name: OPEN_FILES.to_owned(),
                soft: most.min(SOFT_OPEN_FILES),
                hard: most,
            }),
        }
    }
    limits
}

/// What a step that failed had run into, for its error.
pub(super) fn reached(context: &Context, exit: &cofferdam_sandbox::Exit) -> Option<String> {
    if exit.oom_killed {
        return Some("the step ran out of memory and was killed".to_owned());
    }
    if exit.pids_exhausted {
        return Some(no_more_processes(context));
    }
    // A quick writer fills a disk between two looks at it.
    let left = disk_is_low(context.store.path())?;
    Some(format!("only {left} left on the builder's disk"))
}

fn no_more_processes(context: &Context) -> String {
    let limits = &context.config.limits;
    let pids = limits.step_pids().or_else(|| limits.default_step_pids());
    match (pids, context.config.isolation.pids) {
        (Some(pids), None) => {
            format!("the step reached its limit of {pids} processes (limits.step.pids)")
        }
        (Some(pids), Some(all)) => format!(
            "the step reached its limit of {pids} processes (limits.step.pids), or all steps theirs of {all} (isolation.pids)"
        ),
        (None, _) => "all steps together reached their limit of processes (isolation.pids)".into(),
    }
}

/// The detail of a failed process: its code as BuildKit tells it, and what it had run into.
pub(super) fn exit_detail(code: i32, reached: Option<String>) -> String {
    let mut detail = serde_json::json!({ "Code": code });
    if let Some(reached) = reached {
        detail[REACHED] = reached.into();
    }
    detail.to_string()
}

/// Waits until a step has to be ended: nobody wants it any more, it takes too long, it writes too much, or the disk that the
/// builder and others need is full.
pub(super) async fn unwanted(context: &Context, step: &Step, written: &Written) -> Failure {
    tokio::select! {
        () = step.cancel.cancelled() => Failure::canceled(),
        failure = late(context) => failure,
        failure = too_much(written) => failure,
        failure = full(context.store.path()) => failure,
    }
}

async fn late(context: &Context) -> Failure {
    let Some(time) = context.config.limits.step_time() else { return std::future::pending().await };
    tokio::time::sleep(time).await;
    let time = human_time(time);
    Failure::new(
        ErrorCode::DeadlineExceeded,
        format!("the step was ended: it ran longer than {time} (limits.step.time)"),
    )
}

async fn too_much(written: &Written) -> Failure {
    Failure::new(ErrorCode::ResourceExhausted, written.too_much().await)
}

async fn full(path: &Path) -> Failure {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        if let Some(left) = disk_is_low(path) {
            let message = format!("the step was ended: only {left} left on the builder's disk");
            return Failure::new(ErrorCode::ResourceExhausted, message);
        }
    }
}

/// What is left of a disk, when that is too little. A disk is full as well when it takes no more files.
pub(super) fn disk_is_low(path: &Path) -> Option<String> {
    let disk = rustix::fs::statvfs(path).ok()?;
    let (total, free) = (disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize);
    if free < (total / DISK_SHARE).min(MAX_RESERVE) {
        return Some(format!("{} MiB are", free >> 20));
    }
    // Some file systems have no fixed number of files and say 0.
    let few = disk.f_files > 0 && disk.f_favail < disk.f_files / DISK_SHARE;
    few.then(|| format!("{} files are", disk.f_favail))
}

/// A span as people write it.
pub(crate) fn human_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let text: String = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if text.is_empty() { format!("{}ms", time.as_millis()) } else { text }
}

/// A size as people write it.
pub(super) fn human_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole
        .map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn most(text: &str) -> config::Limits {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_client_gets_what_it_asks_for_as_far_as_it_may() {
        let most = most("step.memory = 1000\nstep.cpus = 2\nstep.pids = 7");
        let none = bounded(Limits::default(), &most, 0);
        assert_eq!((none.memory, none.swap, none.pids), (Some(1000), None, Some(7)));
        assert_eq!((none.cpu_quota, none.cpu_period), (Some(200_000), Some(100_000)));
        let less = Limits {
            memory: Some(600),
            swap: Some(300),
            cpu_quota: Some(5_000),
            cpu_period: Some(10_000),
            ..Limits::default()
        };
        let given = bounded(less.clone(), &most, 0);
        assert_eq!(given, Limits { pids: Some(7), ..less });
        let more = Limits {
            memory: Some(5000),
            swap: Some(5000),
            cpu_quota: Some(50_000),
            cpu_period: Some(10_000),
            ..Limits::default()
        };
        let given = bounded(more, &most, 0);
        assert_eq!((given.memory, given.swap), (Some(1000), Some(0)));
        assert_eq!((given.cpu_quota, given.cpu_period), (Some(20_000), Some(10_000)));
        let swap = Limits { memory: Some(600), swap: Some(5000), ..Limits::default() };
        assert_eq!(bounded(swap, &most, 0).swap, Some(400));
    }

    #[test]
    fn open_files_are_those_asked_for_as_far_as_they_may_be_had() {
        let asked = |limits: &[(&str, i64, i64)]| pb::Meta {
            ulimit: limits
                .iter()
                .map(|(name, soft, hard)| pb::Ulimit {
                    Name: (*name).to_owned(),
                    Soft: *soft,
                    Hard: *hard,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let given = |most: &str, asked: &pb::Meta| {
            let limits = of_processes(&toml::from_str(most).unwrap(), asked);
            limits.into_iter().map(|one| (one.name, one.soft, one.hard)).collect::<Vec<_>>()
        };
        let nofile = |soft, hard| vec![("nofile".to_owned(), soft, hard)];
        assert_eq!(given("", &asked(&[])), []);
        assert_eq!(given("step.openFiles = 40", &asked(&[])), nofile(40, 40));
        let more = asked(&[("nofile", 10, 20), ("nofile", 100, -1)]);
        assert_eq!(given("step.openFiles = 40", &more), nofile(40, 40));
        assert_eq!(given("", &more), nofile(100, u64::MAX));
        let less = asked(&[("nofile", 5, 30)]);
        assert_eq!(given("step.openFiles = 40", &less), nofile(5, 30));
    }

    #[test]
    fn without_limits_everything_asked_for_is_given() {
        let asked = Limits { memory: Some(5), cpu_quota: Some(6), ..Limits::default() };
        assert_eq!(bounded(asked.clone(), &config::Limits::default(), 0), asked);
    }

    #[test]
    fn spans_and_sizes_are_readable() {
        let times = [(3661, "1h1m1s"), (7200, "2h"), (90, "1m30s")];
        for (seconds, text) in times {
            assert_eq!(human_time(Duration::from_secs(seconds)), text);
        }
        assert_eq!(human_time(Duration::from_millis(300)), "300ms");
        assert_eq!(human_size(20 << 20), "20 MiB");
        assert_eq!(human_size(5000), "5000 bytes");
    }
}
