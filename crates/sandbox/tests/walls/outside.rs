//! The supervisor's role: makes enclosures, and looks at the host meanwhile and afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cofferdam_sandbox::{
    Bind, Enclosure, EnclosureError, EnclosureOptions, Supervised, doctor, gvisor_findings,
};

use crate::bench::PROBE;
use crate::inside::GVISOR;
use crate::ordinary::{
    a_user_in_the_way_of_groups_has_builders_without_limits, a_user_with_groups_has_limits,
    a_user_without_subordinate_ids_is_refused, an_ordinary_user_has_builders_too,
    an_ordinary_user_has_gvisor_too,
};
use crate::spare::{
    a_copy_knows_nothing_of_its_maker, a_program_that_others_can_write_to_is_executed_from_a_mount,
    spare,
};

pub(crate) fn main(filter: Option<&str>) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        println!("these tests need root");
        return ExitCode::FAILURE;
    }
    match filter {
        Some("measure") => {
            enclosed("measure", None, false);
            return enclosed("measure", None, true);
        }
        Some("doctor") => {
            for finding in doctor().into_iter().chain(gvisor_findings()) {
                println!("{finding:?}");
            }
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let cases: &[(&str, fn())] = &[
        ("outside::three_roots", three_roots),
        ("outside::a_builder_is_confined_itself", a_builder_is_confined_itself),
        ("outside::nothing_survives_the_supervisor", nothing_survives_the_supervisor),
        ("outside::signals_reach_the_builder", signals_reach_the_builder),
        ("outside::a_copy_knows_nothing_of_its_maker", a_copy_knows_nothing_of_its_maker),
        (
            "outside::a_program_that_others_can_write_to_is_executed_from_a_mount",
            a_program_that_others_can_write_to_is_executed_from_a_mount,
        ),
        ("outside::foreign_stores_are_refused", foreign_stores_are_refused),
        ("outside::failures_leave_nothing", failures_leave_nothing),
        ("outside::an_ordinary_user_has_builders_too", an_ordinary_user_has_builders_too),
        ("outside::an_ordinary_user_has_gvisor_too", an_ordinary_user_has_gvisor_too),
        ("outside::a_user_with_groups_has_limits", a_user_with_groups_has_limits),
        (
            "outside::a_user_in_the_way_of_groups_has_builders_without_limits",
            a_user_in_the_way_of_groups_has_builders_without_limits,
        ),
        (
            "outside::a_user_without_subordinate_ids_is_refused",
            a_user_without_subordinate_ids_is_refused,
        ),
        (
            "outside::the_builder_sees_only_what_it_was_given",
            the_builder_sees_only_what_it_was_given,
        ),
    ];
    let mut failed = false;
    for (name, case) in cases {
        if filter.is_some_and(|filter| !name.contains(filter)) {
            continue;
        }
        let outcome = std::panic::catch_unwind(case);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed |= outcome.is_err();
    }
    if filter.is_none_or(|filter| !filter.starts_with("outside")) {
        for gvisor in [false, true] {
            failed |= enclosed("cases", filter, gvisor) != ExitCode::SUCCESS;
        }
        let left = leftovers();
        assert!(left.is_empty(), "control groups left: {left:?}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

pub(crate) fn options(store: &Path, args: &[&str]) -> EnclosureOptions {
    let probe = std::env::current_exe().unwrap();
    EnclosureOptions {
        store: store.to_owned(),
        args: args.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("RUST_BACKTRACE".into(), "0".into())],
        binds: vec![Bind { source: probe, target: PROBE.into(), readonly: true }],
        spare: Some(spare()),
        ..EnclosureOptions::default()
    }
}

fn enclosed(role: &str, filter: Option<&str>, gvisor: bool) -> ExitCode {
    let dir = tempfile::tempdir().unwrap();
    let mut args = vec![role];
    args.extend(filter);
    let begun = std::time::Instant::now();
    let mut options = options(&dir.path().join("store"), &args);
    if gvisor {
        options.env.push((GVISOR.into(), "1".into()));
    }
    let mut supervised = Enclosure::spawn(options).unwrap();
    if role == "measure" {
        println!("enclosure ready after {:?}", begun.elapsed());
    }
    let exit = supervised.wait().unwrap();
    if exit.code == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn a_builder_is_confined_itself() {
    assert_eq!(enclosed("unconfined", None, false), ExitCode::SUCCESS, "control");
    assert_eq!(enclosed("confined", None, false), ExitCode::SUCCESS);
}

/// Control groups of this process's builders that exist now.
fn leftovers() -> Vec<PathBuf> {
    leftovers_named(&format!("-{}", std::process::id()))
}

/// A builder in which a step is running. Gives the step's upper directory as the host sees it.
pub(crate) fn hold(store: &Path) -> (Supervised, PathBuf) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut options = options(store, &["hold"]);
    options.descriptors.push(("ready".into(), writer));
    let supervised = Enclosure::spawn(options).unwrap();
    let mut bytes = [0; 4096];
    let length = rustix::io::read(&reader, &mut bytes).unwrap();
    assert!(length > 0, "the builder ended early");
    let inside = Path::new(std::str::from_utf8(&bytes[..length]).unwrap());
    (supervised, store.join(inside.strip_prefix("/store").unwrap()))
}

/// Host ids of the processes whose command line holds `mark`.
fn owners(mark: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter(|entry| {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        line.split('\0').any(|argument| argument == mark)
    });
    let status = found.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    status
        .filter_map(|status| {
            let line = status.lines().find(|line| line.starts_with("Uid:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse().ok()
        })
        .collect()
}

fn three_roots() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let (mut supervised, upper) = hold(&store);
    let base = fs::metadata(&store).unwrap().uid();
    assert!(base >= 1 << 28 && (base - (1 << 28)).is_multiple_of(131_072), "{base}");
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(fs::metadata(upper.join("made")).unwrap().uid(), base + 65_536);
    assert_eq!(owners("4716"), [base + 65_536]);
    let builder = owners("hold");
    assert!(!builder.is_empty() && builder.iter().all(|owner| *owner == base), "{builder:?}");
    let map = fs::read_to_string(format!("/proc/{}/uid_map", supervised.pid())).unwrap();
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &base.to_string(), "131072"]);
    assert!(!leftovers().is_empty(), "control: groups exist while it runs");
    supervised.kill();
    assert_eq!(supervised.wait().unwrap().code, 137);
    assert!(owners("4716").is_empty() && leftovers().is_empty());
    // The same store gets the same ids again.
    let (again, _) = hold(&store);
    assert_eq!(fs::metadata(&store).unwrap().uid(), base);
    drop(again);
    assert!(owners("4716").is_empty() && leftovers().is_empty());
}

/// A supervisor that is killed cannot clean up; the lifeline must.
fn nothing_survives_the_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    // SAFETY: this program has one thread in this role.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let (_held, _) = hold(&store);
        let pid = i32::try_from(std::process::id()).unwrap();
        // SAFETY: ends this process.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    let mut status = 0;
    // SAFETY: the child was made above.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    for _ in 0..400 {
        if owners("4716").is_empty() && owners("hold").is_empty() {
            // What it left in the way of control groups goes when the next one is made.
            // A process may still be on its way out the first time.
            let stale = format!("-{child}");
            for _ in 0..10 {
                drop(hold(&dir.path().join("next")));
                if leftovers_named(&stale).is_empty() {
                    return;
                }
            }
            panic!("{:?}", leftovers_named(&stale));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("left: {:?}", owners("4716"));
}

/// Groups whose names end so, but for the start of the process whose number that is.
fn leftovers_named(suffix: &str) -> Vec<PathBuf> {
    let suffix = format!("{suffix}.");
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if dir.ends_with("cofferdam") && (name + ".").contains(&suffix) {
                    found.push(entry.path());
                }
                todo.push(entry.path());
            }
        }
    }
    found
}

fn signals_reach_the_builder() {
    let dir = tempfile::tempdir().unwrap();
    let (mut supervised, _) = hold(&dir.path().join("store"));
    supervised.signal(rustix::process::Signal::TERM).unwrap();
    assert_eq!(supervised.wait().unwrap().code, 128 + 15);
    supervised.signal(rustix::process::Signal::TERM).unwrap();
}

fn foreign_stores_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(1234), Some(1234)).unwrap();
    let result = Enclosure::spawn(options(&foreign, &["smoke"]));
    assert!(matches!(result, Err(EnclosureError::StoreOwner { owner: 1234, .. })));
    let used = dir.path().join("used");
    fs::create_dir(&used).unwrap();
    fs::write(used.join("file"), "of root").unwrap();
    assert!(matches!(
        Enclosure::spawn(options(&used, &["smoke"])),
        Err(EnclosureError::StoreOwner { owner: 0, .. })
    ));
    let mut options = options(&dir.path().join("new"), &["smoke"]);
    options.ids_base = Some(0);
    assert!(matches!(Enclosure::spawn(options), Err(EnclosureError::Range { .. })));
    let two = ["a", "b"].map(|name| {
        let (held, _) = hold(&dir.path().join(name));
        drop(held);
        fs::metadata(dir.path().join(name)).unwrap().uid()
    });
    assert_ne!(two[0], two[1]);
}

fn failures_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(&dir.path().join("store"), &["smoke"]);
    options.binds.push(Bind { source: "/nonexistent".into(), target: "/x".into(), readonly: true });
    match Enclosure::spawn(options) {
        Err(EnclosureError::Inside(message)) => {
            assert!(message.contains("/nonexistent"), "{message}")
        }
        other => panic!("{other:?}"),
    }
    assert!(leftovers().is_empty());
}

fn the_builder_sees_only_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let (supervised, _) = hold(&dir.path().join("store"));
    let root = PathBuf::from(format!("/proc/{}/root", supervised.pid()));
    let mut names: Vec<String> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| {
        !["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr"].contains(&name.as_str())
    });
    names.sort();
    assert_eq!(names, ["dev", "etc", "probe", "proc", "run", "store", "sys", "tmp", "var"]);
    assert!(!root.join("etc/shadow").exists() && !root.join("root").exists());
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", supervised.pid())).unwrap();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (at, flags) = (fields[4], fields[5]);
        assert!(at == "/dev" || flags.contains("nodev"), "{line}");
        assert!(flags.contains("nosuid"), "{line}");
        let writable = ["/store", "/tmp", "/proc", "/run/cofferdam/files"].contains(&at)
            || at.starts_with("/run/cofferdam/cgroup");
        assert_eq!(flags.split(',').any(|flag| flag == "ro"), !writable, "{line}");
    }
}
