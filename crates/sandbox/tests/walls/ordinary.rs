//! Builders of an ordinary user, who has subordinate ids and what of control groups was given away.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cofferdam_sandbox::{Enclosure, doctor};

use crate::inside::GVISOR;
use crate::outside::options;

/// Any user that is not root; the ids are Debian's `games`.
const USER: u32 = 5;
const USER_GROUP: u32 = 60;

/// Runs this program as an ordinary user, with `table` in place of the tables of subordinate ids, for itself alone, and in
/// control group `group` if that is given.
fn run_as_user(store: &Path, table: &str, group: Option<&Path>) -> std::process::Output {
    run_as_user_at(store, table, group, false)
}

/// The same, under gVisor if so wanted.
fn run_as_user_at(
    store: &Path,
    table: &str,
    group: Option<&Path>,
    gvisor: bool,
) -> std::process::Output {
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
    if gvisor {
        command.env(GVISOR, "1");
    }
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
    let mut options = options(&Path::new(store).join("store"), &["smoke"]);
    options.env.extend(std::env::var_os(GVISOR).map(|value| (GVISOR.into(), value)));
    match Enclosure::spawn(options) {
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

pub(crate) fn an_ordinary_user_has_gvisor_too() {
    for (count, first) in [(65_536, 1), (131_072, 65_536)] {
        let dir = tempfile::tempdir().unwrap();
        let table = format!("games:400000:{count}\n");
        let output = run_as_user_at(dir.path(), &table, None, true);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(said.contains("exit 0\n"), "{said}{}", String::from_utf8_lossy(&output.stderr));
        // The sentry's own map, which is how to tell that it ran.
        assert!(said.contains("4294967295"), "{said}");
        let made = fs::read_dir(dir.path().join("store")).unwrap().flatten();
        let made = made.filter_map(|entry| fs::metadata(entry.path().join("upper/made")).ok());
        let owners: Vec<u32> = made.map(|metadata| metadata.uid()).collect();
        assert_eq!(owners, [400_000 + first - 1 + 1000]);
    }
}

pub(crate) fn an_ordinary_user_has_builders_too() {
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

pub(crate) fn a_user_with_groups_has_limits() {
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
pub(crate) fn a_user_in_the_way_of_groups_has_builders_without_limits() {
    let Some(delegated) = Delegated::make() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(delegated.group(), Some(0), Some(0)).unwrap();
    let output = run_as_user(dir.path(), "games:400000:65536\n", Some(&delegated.leaf()));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("doctor limits (cgroups) false"), "{said}");
    assert!(said.contains("exit 0\n"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("is not available here"), "{said}");
}

pub(crate) fn a_user_without_subordinate_ids_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = run_as_user(dir.path(), "somebody:400000:65536\n", None);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success());
    assert!(
        said.contains("refused: /etc/subuid gives user 5 no range of at least 65536 ids"),
        "{said}"
    );
}
