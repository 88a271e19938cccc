//! What a server needs of its machine, and whether its data directory is one that it can use.
//!
//! Nothing that is there is changed; what a probe makes is removed again. A server may be running meanwhile.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use cofferdam_sandbox::Finding;
use cofferdam_server::{CheckError, Config};
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen};
use rustix::process::{Resource, getrlimit};

use super::certificate;
use crate::terminal::bytes;

/// Free bytes below which a server stops being one, and below which somebody should look.
const LEAST_FREE: u64 = 1 << 30;
const GOOD_FREE: u64 = 10 << 30;
/// Open files that do for the default number of builders, with all that their clients hold open.
const OPEN_FILES: u64 = 65_536;
/// Host ids of all projects at all levels of isolation: the fleet's first one, and the one after its last.
const PROJECT_IDS: (u64, u64) = (1 << 28, (1 << 28) + 3 * 10_000 * 131_072);
/// Groups of limits that sizes of projects and limits of steps are made with.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Longest table of users that is read.
const MAX_TABLE: u64 = 4 << 20;
/// A clock before 2025 was never set.
const NEVER_SET: Duration = Duration::from_secs(1_735_689_600);
/// How far the newest record may be in the future.
const SLACK: Duration = Duration::from_secs(3600);

/// Looks at the machine and the data directory. `limits` is what was found out about control groups.
pub(super) fn findings(config: &Config, limits: Option<&Finding>) -> Vec<Finding> {
    let dir = config.data_dir.as_path();
    let place = existing(dir);
    let mut findings = vec![
        finding("root", rustix::process::geteuid().is_root(), true, user()),
        version(dir),
        way(dir),
        file_system(&place),
        attributes(&place),
        free_space(&place),
        mapped_ids(),
        free_ids(),
        controllers(limits),
        open_files(),
        clock(dir),
        git(),
    ];
    findings.extend(config.tls.as_ref().map(certificate::finding));
    findings
}

pub(super) fn finding(
    name: &'static str,
    present: bool,
    required: bool,
    detail: impl Into<String>,
) -> Finding {
    Finding { name, present, required, detail: detail.into() }
}

fn user() -> String {
    format!("user {}; every project gets ids of its own", rustix::process::geteuid().as_raw())
}

/// The directory, or the nearest one above it that is there.
fn existing(dir: &Path) -> PathBuf {
    let found = dir.ancestors().find(|place| place.is_dir());
    found.unwrap_or(Path::new("/")).to_owned()
}

fn version(dir: &Path) -> Finding {
    let name = "data directory";
    let found = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| Ok(runtime.block_on(cofferdam_server::versions(dir))?));
    let at = dir.display();
    match found {
        Ok(layout) => finding(name, true, true, format!("{at}: layout {layout}, records of today")),
        Err(error) if matches!(error.downcast_ref(), Some(CheckError::NoRecords { .. })) => {
            finding(name, true, true, format!("{at}: no server has used it yet"))
        }
        Err(error) if matches!(error.downcast_ref(), Some(CheckError::NoLogs { .. })) => {
            finding(name, false, false, error.to_string())
        }
        Err(error) => finding(name, false, true, format!("{at}: {error:#}")),
    }
}

/// Builders run with ids of their own and have to pass through everything above their stores.
fn way(dir: &Path) -> Finding {
    let closed = dir.ancestors().find(|place| {
        place.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & 0o001 == 0)
    });
    let detail = closed.map_or_else(
        || "open to builders".to_owned(),
        |place| format!("{} is closed to builders: chmod o+x", place.display()),
    );
    finding("way to the data directory", closed.is_none(), true, detail)
}

/// Layers are directories of an overlay: whether the disk can carry one is tried.
fn file_system(place: &Path) -> Finding {
    let name = "layers on its file system (overlay)";
    let kind = rustix::fs::statfs(place)
        .map_or_else(|errno| errno.to_string(), |found| kind(found.f_type as u64));
    if !rustix::process::geteuid().is_root() {
        return finding(name, true, false, format!("{kind}; only root can try"));
    }
    match try_overlay(place) {
        Ok(()) => finding(name, true, true, kind),
        Err(error) => finding(name, false, true, format!("{kind}: {error}")),
    }
}

fn try_overlay(place: &Path) -> std::io::Result<()> {
    let own = place.join(format!("doctor-{}", std::process::id()));
    std::fs::create_dir(&own)?;
    let tried = overlay_in(&own);
    let removed = std::fs::remove_dir_all(&own);
    tried.and(removed)
}

/// Makes an overlay that is mounted nowhere and goes with its descriptor.
fn overlay_in(own: &Path) -> std::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Older kernels look names up when the overlay is made.
    let mut directories = Vec::new();
    for (key, name) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let path = own.join(name);
        std::fs::create_dir(&path)?;
        let directory = File::open(path)?;
        // The path itself may have colons in it.
        fsconfig_set_string(&context, key, format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        directories.push(directory);
    }
    fsconfig_set_flag(&context, "userxattr")?;
    Ok(fsconfig_create(&context)?)
}

fn kind(magic: u64) -> String {
    let name = match magic {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs, which is gone with the machine's power",
        0x794c_7630 => "overlay, which cannot carry another one",
        0x6969 => "nfs, which keeps no locks worth the name",
        0x2fc1_2fc1 => "zfs",
        other => return format!("file system {other:#x}"),
    };
    name.to_owned()
}

fn attributes(place: &Path) -> Finding {
    let own = place.join(format!("doctor-{}.attributes", std::process::id()));
    let tried = File::create_new(&own).and_then(|_| {
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(&own, "user.cofferdam", b"1", flags);
        std::fs::remove_file(&own)?;
        Ok(set?)
    });
    let detail =
        tried.as_ref().err().map_or_else(|| "can be written".to_owned(), ToString::to_string);
    finding("extended attributes", tried.is_ok(), true, detail)
}

fn free_space(place: &Path) -> Finding {
    let name = "free space";
    match rustix::fs::statvfs(place) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let detail = format!("{} and {} files", bytes(free), found.f_favail);
            finding(name, free >= GOOD_FREE, free < LEAST_FREE, detail)
        }
        Err(errno) => finding(name, false, false, errno.to_string()),
    }
}

/// In a container, only some ids of the host may be there.
fn mapped_ids() -> Finding {
    let (first, end) = PROJECT_IDS;
    let lacks = ["/proc/self/uid_map", "/proc/self/gid_map"].into_iter().find(|file| {
        let mapped = ranges(&table(file), |words| {
            let [inside, _, count] = words else { return None };
            Some((inside.parse().ok()?, count.parse().ok()?))
        });
        !mapped.iter().any(|(from, count)| *from <= first && from.saturating_add(*count) >= end)
    });
    let detail = match lacks {
        None => format!("{first} to {}", end - 1),
        Some(file) => format!("{file} lacks some of {first} to {}", end - 1),
    };
    finding("ids for projects", lacks.is_none(), true, detail)
}

/// Whoever else has an id of a project's has a way into what belongs to it.
fn free_ids() -> Finding {
    let subordinate = |words: &[&str]| {
        let [_, from, count] = words else { return None };
        Some((from.parse().ok()?, count.parse().ok()?))
    };
    let user = |words: &[&str]| Some((words.get(2)?.parse().ok()?, 1));
    let taken = ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .find(|file| overlaps(&ranges(&table(file), subordinate)))
        .or_else(|| {
            let mut files = ["/etc/passwd", "/etc/group"].into_iter();
            files.find(|file| overlaps(&ranges(&table(file), user)))
        });
    let detail = taken.map_or_else(
        || "nobody else has one of them".to_owned(),
        |file| format!("{file} gives some of them to others"),
    );
    finding("ids of projects alone", taken.is_none(), true, detail)
}

fn overlaps(ranges: &[(u64, u64)]) -> bool {
    let (first, end) = PROJECT_IDS;
    ranges.iter().any(|(from, count)| *from < end && from.saturating_add(*count) > first)
}

/// The ranges of a table, whose words stand between colons or white space.
fn ranges(text: &str, read: impl Fn(&[&str]) -> Option<(u64, u64)>) -> Vec<(u64, u64)> {
    let words = |line: &str| -> Option<(u64, u64)> {
        let words: Vec<&str> = if line.contains(':') {
            line.split(':').collect()
        } else {
            line.split_whitespace().collect()
        };
        read(&words)
    };
    text.lines().filter_map(words).collect()
}

fn table(file: &str) -> String {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|file| file.take(MAX_TABLE).read_to_end(&mut bytes));
    // A table that is not there gives nobody anything. Names in it may be in any encoding.
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn controllers(limits: Option<&Finding>) -> Finding {
    let found = limits.map_or("", |limits| limits.detail.as_str());
    let lacks: Vec<&str> = CONTROLLERS
        .into_iter()
        .filter(|name| !found.split_whitespace().any(|word| word == *name))
        .collect();
    let detail = if lacks.is_empty() {
        CONTROLLERS.join(" ")
    } else {
        format!("no {}: sizes of projects and limits of steps do not hold", lacks.join(", "))
    };
    finding("limits of projects (cgroups)", lacks.is_empty(), true, detail)
}

fn open_files() -> Finding {
    let most = getrlimit(Resource::Nofile).maximum;
    let enough = most.is_none_or(|most| most >= OPEN_FILES);
    let detail = most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string());
    let advice = if enough { "" } else { ": raise LimitNOFILE or ulimit -Hn" };
    finding("open files", enough, false, format!("{detail}{advice}"))
}

fn clock(dir: &Path) -> Finding {
    let name = "clock";
    let now = SystemTime::now();
    if now < SystemTime::UNIX_EPOCH + NEVER_SET {
        return finding(
            name,
            false,
            true,
            "was never set: tokens and certificates cannot be judged",
        );
    }
    let newest = dir.join("records.db").metadata().and_then(|metadata| metadata.modified()).ok();
    if newest.is_some_and(|newest| newest > now + SLACK) {
        return finding(name, false, true, "is behind what is in the data directory");
    }
    let synchronized = synchronized();
    let detail = if synchronized { "synchronized" } else { "set, but nothing keeps it right" };
    finding(name, synchronized, false, detail)
}

/// Whether the kernel was told that the clock is kept right.
fn synchronized() -> bool {
    // SAFETY: all zeros are a valid `timex`, and with no mode set the call only reads.
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut timex)
    };
    (0..libc::TIME_ERROR).contains(&state)
}

fn git() -> Finding {
    let mut command = Command::new("git");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let found = command.status().is_ok_and(|status| status.success());
    let detail = if found { "installed" } else { "builds of repositories need it: install git" };
    finding("git", found, false, detail)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_that_others_have_are_seen() {
        let subordinate = |words: &[&str]| {
            let [_, from, count] = words else { return None };
            Some((from.parse().ok()?, count.parse().ok()?))
        };
        let of = |text: &str| overlaps(&ranges(text, subordinate));
        assert!(!of("user:100000:65536\nother:165536:65536\n\nnonsense\n"));
        assert!(of("user:100000:65536\nother:268435000:65536\n"));
        assert!(of("other:4000000000:1\n"));
        let (_, end) = PROJECT_IDS;
        assert!(!of(&format!("other:{end}:1\n")));
        assert!(end < 1 << 32);
    }

    #[test]
    fn controllers_that_lack_are_named() {
        let limits = |detail: &str| finding("limits (cgroups)", true, false, detail.to_owned());
        assert!(controllers(Some(&limits("controllers: cpu memory pids io"))).present);
        let lacking = controllers(Some(&limits("controllers: cpu")));
        assert!(!lacking.present && lacking.detail.contains("memory, pids"), "{lacking:?}");
        assert!(!controllers(None).present);
    }

    #[test]
    fn a_directory_nobody_can_pass_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o700)).unwrap();
        let found = way(&closed.join("data"));
        assert!(!found.present && found.detail.contains("closed"), "{found:?}");
        assert_eq!(existing(&closed.join("data/further")), closed);
    }

    #[test]
    fn probes_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        attributes(dir.path());
        file_system(dir.path());
        assert!(free_space(dir.path()).detail.contains("files"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
