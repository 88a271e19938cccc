//! Kernel files, devices, control groups, descriptors, capabilities.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::{errno, say, word};

pub(crate) fn all() {
    written();
    masked();
    sys();
    cgroups();
    devices();
    capabilities();
    hard_links();
}

fn code(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), word)
}

/// Files through which the whole machine is changed. They are opened and not written.
fn written() {
    for (key, path) in [
        ("core_pattern", "/proc/sys/kernel/core_pattern"),
        ("modprobe", "/proc/sys/kernel/modprobe"),
        ("sysrq", "/proc/sysrq-trigger"),
        ("hostname", "/proc/sys/kernel/hostname"),
        ("panic", "/proc/sys/kernel/panic"),
        ("overcommit", "/proc/sys/vm/overcommit_memory"),
        ("binfmt", "/proc/sys/fs/binfmt_misc/register"),
        ("forward", "/proc/sys/net/ipv4/ip_forward"),
        ("irq", "/proc/irq/default_smp_affinity"),
        ("uevent_helper", "/sys/kernel/uevent_helper"),
        ("mem-of-first", "/proc/1/mem"),
    ] {
        match OpenOptions::new().write(true).open(path) {
            // A step's first process is its own; what lies outside is tried elsewhere.
            Ok(_) if key == "mem-of-first" && own_first() => {
                say("write-mem-of-first", false, "its own")
            }
            Ok(_) => say(&format!("write-{key}"), true, "opened for writing"),
            Err(error) => say(&format!("write-{key}"), false, &code(&error)),
        }
    }
}

/// Whether process 1 is the command of the step.
fn own_first() -> bool {
    std::fs::read("/proc/1/cmdline")
        .is_ok_and(|line| String::from_utf8_lossy(&line).contains("walls/probe"))
}

/// Files that tell of the whole machine or of others.
fn masked() {
    for name in [
        "kcore",
        "keys",
        "timer_list",
        "sched_debug",
        "kmsg",
        "interrupts",
        "latency_stats",
        "acpi",
        "scsi",
        "asound",
        "key-users",
        "slabinfo",
        "vmallocinfo",
        "pagetypeinfo",
    ] {
        let path = format!("/proc/{name}");
        let seen = if Path::new(&path).is_dir() {
            std::fs::read_dir(&path).map(|entries| entries.flatten().count())
        } else {
            File::open(&path).and_then(|mut file| {
                let mut bytes = [0; 64];
                // kmsg blocks when there is nothing to read; it always has something where it can be opened.
                if name == "kmsg" { Ok(1) } else { file.read(&mut bytes) }
            })
        };
        match seen {
            Ok(count) => say(&format!("read-{name}"), count > 0, &format!("{count} seen")),
            Err(error) => say(&format!("read-{name}"), false, &code(&error)),
        }
    }
}

fn sys() {
    let seen: Vec<String> = names("/sys");
    say("sys", seen.iter().any(|name| name != "fs"), &format!("/sys holds {}", seen.join(" ")));
    let firmware = names("/sys/firmware").len() + names("/sys/devices/virtual/powercap").len();
    say("firmware", firmware > 0, &format!("{firmware} entries"));
}

fn names(path: &str) -> Vec<String> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Directories of control groups that can be found.
fn hierarchies() -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).chain([top.to_owned()]).collect()
}

fn cgroups() {
    let mut seen = Vec::new();
    for hierarchy in hierarchies() {
        for name in [
            "release_agent",
            "cgroup.procs",
            "tasks",
            "memory.limit_in_bytes",
            "pids.max",
            "devices.allow",
            "cgroup.kill",
        ] {
            if OpenOptions::new().write(true).open(hierarchy.join(name)).is_ok() {
                seen.push(hierarchy.join(name).display().to_string());
            }
        }
        let made = hierarchy.join("walls-probe");
        if hierarchy.join("cgroup.procs").exists() && std::fs::create_dir(&made).is_ok() {
            seen.push(made.display().to_string());
            std::fs::remove_dir(made).ok();
        }
    }
    let agent = seen.iter().any(|path| path.ends_with("release_agent"));
    say("cgroup-release-agent", agent, if agent { "opened for writing" } else { "there is none" });
    say("cgroup-write", !seen.is_empty(), &format!("open for writing: {}", seen.len()));
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let shown: Vec<&str> = own
        .lines()
        .filter_map(|line| line.rsplit(':').next())
        .filter(|path| *path != "/")
        .collect();
    say("cgroup-names", !shown.is_empty(), &format!("its groups are called {}", shown.join(" ")));
}

fn devices() {
    for (key, kind, major, minor) in
        [("null", libc::S_IFCHR, 1, 3), ("mem", libc::S_IFCHR, 1, 1), ("disk", libc::S_IFBLK, 8, 0)]
    {
        let path = std::ffi::CString::new(format!("/tmp/walls-{key}")).unwrap();
        let made = unsafe { libc::mknod(path.as_ptr(), kind | 0o666, libc::makedev(major, minor)) };
        let (_, answer) = errno();
        // A node that does nothing when opened is none.
        let opens = made == 0 && key == "null" && File::open("/tmp/walls-null").is_ok();
        unsafe { libc::unlink(path.as_ptr()) };
        say(
            &format!("mknod-{key}"),
            made == 0 && (opens || key != "null"),
            if made == 0 { "made" } else { &answer },
        );
    }
    // null, full, zero, random, urandom, tty, ptmx; terminals are the step's own.
    let harmless = |major, minor| {
        matches!((major, minor), (1, 3 | 5 | 7 | 8 | 9) | (5, 0 | 2) | (136..=143, _))
    };
    let mut others = Vec::new();
    let mut todo = vec![PathBuf::from("/dev")];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.path().symlink_metadata() else { continue };
            let kind = found.file_type();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_block_device()
                || kind.is_char_device()
                    && !harmless(libc::major(found.rdev()), libc::minor(found.rdev()))
            {
                others.push(entry.path());
            }
        }
    }
    // Its own row: gVisor has one that is answered inside the sandbox.
    let fuse = others.iter().any(|path| path.ends_with("fuse"));
    say("device-fuse", fuse || File::open("/dev/fuse").is_ok(), "/dev/fuse");
    others.retain(|path| !path.ends_with("fuse"));
    say("devices", !others.is_empty(), &format!("nodes: {others:?}"));
    let mut opened = Vec::new();
    for path in [
        "/dev/mem",
        "/dev/kmsg",
        "/dev/vda",
        "/dev/sda",
        "/dev/kvm",
        "/dev/net/tun",
        "/dev/loop-control",
    ] {
        if File::open(path).is_ok() {
            opened.push(path);
        }
    }
    say("devices-opened", !opened.is_empty(), &format!("opened: {}", opened.join(" ")));
}

/// Descriptors that are not the step's own: none, and its streams lead to pipes only.
pub(crate) fn descriptors() {
    let mut found = Vec::new();
    for fd in 0..4096 {
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
            continue;
        }
        let kind = stat.st_mode & libc::S_IFMT;
        let stream = fd <= 2 && [libc::S_IFIFO, libc::S_IFCHR].contains(&kind);
        if !stream {
            found.push(format!("{fd}:{kind:o}"));
        }
    }
    say("descriptors", !found.is_empty(), &format!("open: {}", found.join(" ")));
}

/// What this process holds: nothing inheritable, nothing that administers a machine.
pub(crate) fn capabilities() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        u64::from_str_radix(line.trim(), 16).unwrap_or(0)
    };
    let inherited = value("CapInh:") | value("CapAmb:");
    say("capabilities-inheritable", inherited != 0, &format!("{inherited:x}"));
    // DAC_READ_SEARCH LINUX_IMMUTABLE NET_ADMIN NET_RAW IPC_OWNER SYS_MODULE SYS_RAWIO SYS_PTRACE SYS_ADMIN SYS_BOOT
    // SYS_RESOURCE SYS_TIME SYSLOG MAC_ADMIN PERFMON BPF CHECKPOINT_RESTORE
    let administers = [2, 9, 12, 13, 15, 16, 17, 19, 21, 22, 24, 25, 34, 33, 38, 39, 40];
    let bounding = value("CapBnd:");
    let effective = value("CapEff:");
    let held = |set: u64| administers.iter().any(|bit| set >> bit & 1 == 1);
    say("capabilities-bounding", held(bounding), &format!("{bounding:x}"));
    say("capabilities-effective", held(effective), &format!("{effective:x}"));
    let filtered = status.lines().any(|line| line.replace([' ', '\t'], "") == "Seccomp:2");
    say("seccomp", !filtered, if filtered { "mode 2" } else { "no filter" });
    let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
    unsafe { libc::getrlimit(libc::RLIMIT_CORE, &raw mut limit) };
    say("core-dumps", limit.rlim_max != 0, &format!("limit {}", limit.rlim_max));
}

/// A link is a name in another tree for a file that is only lent: none crosses a mount.
fn hard_links() {
    for (key, from) in
        [("resolv", "/etc/resolv.conf"), ("proc", "/proc/version"), ("null", "/dev/null")]
    {
        let to = format!("/tmp/walls-link-{key}");
        match std::fs::hard_link(from, &to) {
            Ok(()) => say(&format!("hard-link-{key}"), true, "made"),
            Err(error) => say(&format!("hard-link-{key}"), false, &code(&error)),
        }
        std::fs::remove_file(to).ok();
    }
}

/// Gives a program a capability by its file, as a package would: `CAP_SYS_ADMIN`, effective.
pub(crate) fn set_capability(path: &str) {
    let mut value = Vec::new();
    for word in [0x0200_0001_u32, 1 << 21, 0, 0, 0] {
        value.extend(word.to_le_bytes());
    }
    let path = std::ffi::CString::new(path).unwrap();
    let name = c"security.capability";
    let done = unsafe {
        libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    println!("set: {}", if done == 0 { "done".to_owned() } else { errno().1 });
}
