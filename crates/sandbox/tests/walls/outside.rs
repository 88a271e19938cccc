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
        ("outside::nothing_survives_the_supervisor", nothing_survives_the_supervisor),
        ("outside::signals_reach_the_builder", signals_reach_the_builder),
        ("outside::foreign_stores_are_refused", foreign_stores_are_refused),
        ("outside::failures_leave_nothing", failures_leave_nothing),
        ("outside::an_ordinary_user_has_builders_too", an_ordinary_user_has_builders_too),
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

fn options(store: &Path, args: &[&str]) -> EnclosureOptions {
    let probe = std::env::current_exe().unwrap();
    EnclosureOptions {
        store: store.to_owned(),
        args: args.iter().map(Into::into).collect(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into()), ("RUST_BACKTRACE".into(), "0".into())],
        binds: vec![Bind { source: probe, target: PROBE.into(), readonly: true }],
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

/// Control groups of this process's builders that exist now.
fn leftovers() -> Vec<PathBuf> {
    leftovers_named(&format!("-{}", std::process::id()))
}

/// A builder in which a step is running. Gives the step's upper directory as the host sees it.
fn hold(store: &Path) -> (Supervised, PathBuf) {
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

fn leftovers_named(suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if dir.ends_with("cofferdam")
                    && entry.file_name().to_string_lossy().ends_with(suffix)
                {
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

/// Any user that is not root; the ids are Debian's `games`.
const USER: u32 = 5;
const USER_GROUP: u32 = 60;

/// Runs this program as an ordinary user, with `table` in place of the tables of subordinate ids, for itself alone, and in
/// control group `group` if that is given.
fn run_as_user(store: &Path, table: &str, group: Option<&Path>) -> std::process::Output {
    use std::os::unix::process::CommandExt;
    std::os::unix::fs::chown(store, Some(USER), Some(USER_GROUP)).unwrap();
    let tables = tempfile::NamedTempFile::new().unwrap();
    fs::write(tables.path(), table).unwrap();
    fs::set_permissions(tables.path(), fs::Permissions::from_mode(0o644)).unwrap();
    let path = std::ffi::CString::new(tables.path().as_os_str().as_encoded_bytes()).unwrap();
    // Where this program was built may be closed to others, such as a directory of root's.
    let program = store.join("program");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = std::process::Command::new(program);
    command.arg("as-user").arg(store);
    let group = group.map(|group| fs::File::create(group.join("cgroup.procs")).unwrap());
    let prepare = move || {
        if let Some(mut group) = group.as_ref() {
            std::io::Write::write_all(&mut group, b"0")?;
        }
        // SAFETY: system calls on strings that outlive them.
        let failed = unsafe {
            libc::unshare(libc::CLONE_NEWNS) != 0
                || libc::mount(
                    c"none".as_ptr(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null(),
                ) != 0
                || [c"/etc/subuid", c"/etc/subgid"].iter().any(|table| {
                    libc::mount(
                        path.as_ptr(),
                        table.as_ptr(),
                        std::ptr::null(),
                        libc::MS_BIND,
                        std::ptr::null(),
                    ) != 0
                })
                || libc::setgroups(0, std::ptr::null()) != 0
                || libc::setresgid(USER_GROUP, USER_GROUP, USER_GROUP) != 0
                || libc::setresuid(USER, USER, USER) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(prepare) };
    command.output().unwrap()
}

/// The role of that program.
pub(crate) fn as_user(store: &str) -> ExitCode {
    for finding in doctor() {
        println!("doctor {} {}", finding.name, finding.present);
    }
    match Enclosure::spawn(options(&Path::new(store).join("store"), &["smoke"])) {
        Ok(mut supervised) => {
            println!("exit {}", supervised.wait().unwrap().code);
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("refused: {error}");
            ExitCode::FAILURE
        }
    }
}

fn an_ordinary_user_has_builders_too() {
    let found = Path::new("/usr/bin/newuidmap").exists() && fs::metadata("/etc/subuid").is_ok();
    assert!(found, "the package uidmap is missing");
    for (count, first) in [(65_536, 1), (131_072, 65_536)] {
        let dir = tempfile::tempdir().unwrap();
        let output = run_as_user(dir.path(), &format!("games:400000:{count}\n"), None);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("doctor subordinate user ids true"), "{said}");
        assert!(said.contains("exit 0\n"), "{said}");
        // Seen from the builder's namespace, which is the one that maps it.
        assert!(
            said.split_whitespace()
                .collect::<Vec<_>>()
                .windows(3)
                .any(|map| map == ["0", &first.to_string(), "65536"]),
            "{said}"
        );
        assert!(said.contains("limits work") || said.contains("is not available here"), "{said}");
        let made = fs::read_dir(dir.path().join("store")).unwrap().flatten();
        let made: Vec<u32> = made
            .filter_map(|entry| fs::metadata(entry.path().join("upper/made")).ok())
            .map(|metadata| metadata.uid())
            .collect();
        assert_eq!(made, [400_000 + first - 1 + 1000]);
    }
}

/// A group of the unified hierarchy that belongs to [`USER`], below one that does not, as a service manager would make it.
struct Delegated(PathBuf);

impl Delegated {
    /// `None` where the unified hierarchy has no controllers: those of version 1 cannot be given away.
    fn make() -> Option<Self> {
        let unified = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(unified.join("cgroup.controllers")).ok()?;
        controllers.contains("memory").then_some(())?;
        let top = unified.join(format!("walls-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        for group in [unified, &top] {
            fs::write(group.join("cgroup.subtree_control"), "+memory +pids").unwrap();
        }
        let delegated = Self(top);
        for group in [delegated.group(), delegated.leaf()] {
            fs::create_dir(&group).unwrap();
            for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
                std::os::unix::fs::chown(group.join(file), Some(USER), Some(USER_GROUP)).unwrap();
            }
        }
        Some(delegated)
    }

    fn group(&self) -> PathBuf {
        self.0.join("user")
    }

    /// Where the user's processes are: such a group can have no children with controllers.
    fn leaf(&self) -> PathBuf {
        self.group().join("session")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let group = self.group();
        let leaf = self.leaf();
        for path in [group.join("cofferdam"), leaf.join("cofferdam"), leaf, group, self.0.clone()] {
            fs::remove_dir(path).ok();
        }
    }
}

fn a_user_with_groups_has_limits() {
    let Some(delegated) = Delegated::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    let output = run_as_user(dir.path(), "games:400000:65536\n", Some(&delegated.leaf()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("doctor limits (cgroups) true"), "{said}");
    assert!(said.contains("limits work"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let top = delegated.0.clone();
    drop(delegated);
    assert!(!top.exists(), "control groups are left");
}

/// The builder's groups are then made where processes are: some controllers could be had there, at the price of groups that no
/// process can be put into.
fn a_user_in_the_way_of_groups_has_builders_without_limits() {
    let Some(delegated) = Delegated::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(delegated.group(), Some(0), Some(0)).unwrap();
    let output = run_as_user(dir.path(), "games:400000:65536\n", Some(&delegated.leaf()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("doctor limits (cgroups) false"), "{said}");
    assert!(said.contains("exit 0\n"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("is not available here"), "{said}");
}

fn a_user_without_subordinate_ids_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = run_as_user(dir.path(), "somebody:400000:65536\n", None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(
        said.contains("refused: /etc/subuid gives user 5 no range of at least 65536 ids"),
        "{said}"
    );
}
