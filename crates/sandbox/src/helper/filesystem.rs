//! What a step sees of file systems: its root, the standard mounts and its own, and nothing of the builder's.
//!
//! All of this happens in a mount namespace owned by the builder's user namespace, so the step has no power over any of it. The
//! root's own content is hostile: mount points come from [`Root`], and nodes that mask something are checked by descriptor before
//! they are used (CVE-2025-31133).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, makedev, openat2};
use rustix::io::Errno;

use super::lookup::Lookup;
use crate::enclosure::{SCRATCH, STEP_ROOT};
use crate::gvisor::{self, Attached, Cell};
use crate::message::{Failure, MountOrder, Order, SourceOrder};
use crate::mounts::{
    self, Attributes, MountError, attach, attach_at, detached_bind, detached_directory,
    new_filesystem, restrict,
};
use crate::rootfs::{Kind, Parent, Root, RootError, Stub, open_beneath};
use crate::spec::{Security, StepIds};

/// Size of `/dev`: it holds links and mount points only.
const DEV_SIZE: &str = "65536";

/// Device nodes of a step: name, major, minor.
const NODES: &[(&str, u32, u32)] = &[
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Links in `/dev`.
const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Entries of `/proc` that say more about the machine than a step should know.
const MASKED: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "timer_list",
    "timer_stats",
    "sched_debug",
    "scsi",
];

/// Entries of `/proc` that can be read but not changed.
const READONLY: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The file in `/tmp`, see [`View::enter_cell`].
const HELD: &str = "/tmp/.cofferdam";

/// Group that owns terminals, by convention.
pub(super) const TTY_GROUP: u32 = 5;

/// A step's view of file systems while it is put together.
pub(super) struct View {
    root: Root,
    ids: StepIds,
    scratch: OwnedFd,
    attached: Vec<Attached>,
    sockets: bool,
}

impl View {
    /// Attaches `root`, a detached mount, in the calling process's mount namespace.
    pub(super) fn new(root: OwnedFd, ids: StepIds) -> Result<Self, Failure> {
        mounts::make_private().map_err(mount_failed("cut off mount events"))?;
        attach_at(&root, STEP_ROOT).map_err(mount_failed("attach the root"))?;
        let scratch = detached_directory((ids.first, ids.first), 0o755, None)
            .map_err(mount_failed("make files for the step"))?;
        attach_at(&scratch, SCRATCH).map_err(mount_failed("make files for the step"))?;
        let root = Root::new(root, ids.first);
        Ok(Self { root, ids, scratch, attached: Vec::new(), sockets: false })
    }

    /// `/proc`, `/dev`, `/sys` and the resolver's files.
    pub(super) fn mount_standard(&mut self, order: &Order) -> Result<(), Failure> {
        self.mount_proc(order.security)?;
        self.mount_dev(order.shm_size)?;
        let sys = self.root.standard("sys").map_err(root_failed)?;
        let empty = detached_directory((self.ids.first, self.ids.first), 0o755, None)
            .map_err(mount_failed("mount /sys"))?;
        restrict(&empty, Attributes::READONLY_DATA, false).map_err(mount_failed("mount /sys"))?;
        attach(empty, sys).map_err(mount_failed("mount /sys"))?;
        self.mount_file("resolv.conf", "/etc/resolv.conf", &order.resolv_conf)?;
        self.mount_file("hosts", "/etc/hosts", order.hosts.as_bytes())
    }

    fn mount_proc(&mut self, security: Security) -> Result<(), Failure> {
        let failed = mount_failed("mount /proc");
        let target = self.root.standard("proc").map_err(root_failed)?;
        let proc = new_filesystem(c"proc", &[], Attributes::DATA).map_err(&failed)?;
        attach(&proc, target).map_err(&failed)?;
        if security == Security::Insecure {
            return Ok(());
        }
        for name in READONLY {
            let Some(found) = self.find_in_proc(&proc, name)? else { continue };
            let clone = detached_bind(&found, true).map_err(&failed)?;
            restrict(&clone, Attributes::READONLY_DATA, true).map_err(&failed)?;
            attach(clone, found).map_err(&failed)?;
        }
        let null = device("null", 1, 3)?;
        let empty =
            detached_directory((self.ids.first, self.ids.first), 0o555, None).map_err(&failed)?;
        let empty_at = self.place_in_scratch("empty", &empty)?;
        for name in MASKED {
            let Some(found) = self.find_in_proc(&proc, name)? else { continue };
            let stat = rustix::fs::fstat(&found)
                .map_err(Failure::mechanism(format!("examine /proc/{name}")))?;
            let mask = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => detached_bind(&empty_at, false).map_err(&failed)?,
                _ => detached_bind(&null, false).map_err(&failed)?,
            };
            restrict(&mask, Attributes::READONLY, false).map_err(&failed)?;
            attach(mask, found).map_err(&failed)?;
        }
        Ok(())
    }

    fn find_in_proc(&self, proc: &OwnedFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
        match open_beneath(proc, name, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Failure::mechanism(format!("find /proc/{name}"))(errno)),
        }
    }

    fn mount_dev(&mut self, shm_size: u64) -> Result<(), Failure> {
        let failed = mount_failed("mount /dev");
        let target = self.root.standard("dev").map_err(root_failed)?;
        let first = self.ids.first.to_string();
        let owned = [("uid", first.as_str()), ("gid", first.as_str())];
        let options = [owned[0], owned[1], ("mode", "755"), ("size", DEV_SIZE)];
        let dev = new_filesystem(
            c"tmpfs",
            &options,
            Attributes { nosuid: true, noexec: true, ..Attributes::NONE },
        )
        .map_err(&failed)?;
        attach(&dev, target).map_err(&failed)?;
        for (name, major, minor) in NODES {
            let source = detached_bind(device(name, *major, *minor)?, false).map_err(&failed)?;
            let target = self
                .file_in(&dev, name)
                .map_err(Failure::mechanism(format!("create /dev/{name}")))?;
            attach(source, target).map_err(&failed)?;
        }
        for (name, to) in LINKS {
            rustix::fs::symlinkat(*to, &dev, *name)
                .and_then(|()| self.own(&dev, name))
                .map_err(Failure::mechanism(format!("create /dev/{name}")))?;
        }
        let terminals = (self.ids.first + TTY_GROUP).to_string();
        let size = shm_size.to_string();
        let pts = [("mode", "620"), ("ptmxmode", "666"), ("gid", terminals.as_str())];
        let shm = [owned[0], owned[1], ("mode", "1777"), ("size", size.as_str())];
        let terminals = Attributes { nosuid: true, noexec: true, ..Attributes::NONE };
        for (name, kind, options, attributes) in [
            ("pts", c"devpts", &pts[..], terminals),
            ("shm", c"tmpfs", &shm[..], Attributes::DATA),
            ("mqueue", c"mqueue", &[], Attributes::DATA),
        ] {
            let target = self
                .directory_in(&dev, name)
                .map_err(Failure::mechanism(format!("create /dev/{name}")))?;
            let source = match new_filesystem(kind, options, attributes) {
                // Kernels can be built without POSIX message queues; programs that use them notice by themselves.
                Err(MountError::New { source: Errno::NODEV, .. }) if name == "mqueue" => continue,
                other => other.map_err(&failed)?,
            };
            attach(source, target).map_err(&failed)?;
        }
        Ok(())
    }

    /// Mounts a generated file read-only over `dest`.
    fn mount_file(&mut self, name: &str, dest: &str, bytes: &[u8]) -> Result<(), Failure> {
        let (target, dest) = self.root.mount_point(dest, Kind::File).map_err(root_failed)?;
        let action = || Failure::mechanism(format!("write {dest}"));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.scratch, name, flags, Mode::from_raw_mode(0o644))
            .map_err(action())?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(action())?;
            rest = &rest[written..];
        }
        self.own(&self.scratch, name).map_err(action())?;
        let file = open_beneath(&self.scratch, name, OFlags::PATH).map_err(action())?;
        let failed = mount_failed("mount a resolver file");
        let clone = detached_bind(file, false).map_err(&failed)?;
        restrict(&clone, Attributes::READONLY_DATA, false).map_err(&failed)?;
        attach(&clone, target).map_err(&failed)?;
        self.attached.push(Attached { dest, mount: clone, readonly: true });
        Ok(())
    }

    /// One mount the caller asked for.
    pub(super) fn mount(&mut self, mount: &MountOrder, fd: Option<OwnedFd>) -> Result<(), Failure> {
        let action = format!("mount {}", mount.dest);
        let failed = |error: MountError| Failure::chain(action.clone(), &error);
        let source = match (&mount.source, fd) {
            (SourceOrder::Tmpfs { size }, _) => {
                detached_directory((self.ids.first, self.ids.first), 0o1777, *size)
                    .map_err(failed)?
            }
            (SourceOrder::Descriptor, Some(fd)) => fd,
            (SourceOrder::Descriptor, None) => {
                return Err(Failure::Root { message: format!("{action}: no source given") });
            }
        };
        let stat = rustix::fs::fstat(&source).map_err(Failure::mechanism(action.clone()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            // A socket is attached like a file: agents are reached through one.
            FileType::Socket => {
                self.sockets = true;
                Kind::File
            }
            _ => {
                return Err(Failure::Root {
                    message: format!("{action}: neither a file nor a directory"),
                });
            }
        };
        let (target, dest) = self.root.mount_point(&mount.dest, kind).map_err(root_failed)?;
        let attributes = Attributes { readonly: mount.readonly, nodev: true, ..Attributes::NONE };
        restrict(&source, attributes, true).map_err(failed)?;
        attach(&source, target).map_err(failed)?;
        self.attached.push(Attached { dest, mount: source, readonly: mount.readonly });
        Ok(())
    }

    /// Whether a socket is among the mounts.
    pub(super) fn has_sockets(&self) -> bool {
        self.sockets
    }

    /// Makes the working directory when it is missing. Gives its path without symbolic links, to be opened when the root is final.
    pub(super) fn working_directory(&mut self, path: &str) -> Result<String, Failure> {
        self.root.lasting_directory(path).map_err(|error| Failure::Root {
            message: format!("working directory {path:?}: {error}"),
        })
    }

    /// Makes the step's root the root of this process and lets go of the builder's. Returns what was made in it.
    pub(super) fn enter(self, readonly: bool) -> Result<(Vec<Stub>, Vec<Parent>), Failure> {
        let action = || Failure::mechanism("change root");
        let new = if readonly {
            // A second mount of the same tree: the first stays writable for taking stubs out again.
            let clone = detached_bind(self.root.fd(), true)
                .map_err(mount_failed("make the root read-only"))?;
            restrict(&clone, Attributes::READONLY, false)
                .map_err(mount_failed("make the root read-only"))?;
            attach(&clone, self.root.fd()).map_err(mount_failed("make the root read-only"))?;
            clone
        } else {
            rustix::io::fcntl_dupfd_cloexec(self.root.fd(), 0).map_err(action())?
        };
        let record = self.root.into_record();
        rustix::process::fchdir(&new).map_err(action())?;
        rustix::process::pivot_root(c".", c".").map_err(action())?;
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
            .map_err(Failure::mechanism("detach the builder's root"))?;
        rustix::process::chdir(c"/").map_err(action())?;
        Ok(record)
    }

    /// Gives the step's root to `runsc` and makes the root of that the root of this process. Returns what was made in the step's,
    /// also when this fails.
    pub(super) fn enter_cell(
        mut self,
        program: &Path,
        order: &Order,
        cwd: &str,
    ) -> ((Vec<Stub>, Vec<Parent>), Result<(), Failure>) {
        let made = self.make_cell(program, order, cwd);
        let record = self.root.into_record();
        (record, made.and_then(|(cell, configuration)| cell.enter(&configuration)))
    }

    fn make_cell(
        &mut self,
        program: &Path,
        order: &Order,
        cwd: &str,
    ) -> Result<(Cell, Vec<u8>), Failure> {
        let args = Lookup { root: self.root.fd(), ids: self.ids, cwd, order }.resolve()?;
        self.hold_temporary_directory()?;
        let cell = Cell::new(program, self.ids, SCRATCH)?;
        let placed = cell.take_in(self.root.fd(), order.readonly_root, &self.attached)?;
        let configuration = gvisor::configuration(order, &args, cwd, &placed);
        Ok((cell, configuration))
    }

    /// gVisor puts a file system in memory over an empty or missing `/tmp`, and what the step leaves there would be lost to its
    /// layer. A file for the length of the step keeps it from doing so.
    fn hold_temporary_directory(&mut self) -> Result<(), Failure> {
        if self.attached.iter().any(|mount| mount.dest == "/tmp") {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let held = match openat2(self.root.fd(), "tmp", flags, Mode::empty(), resolve) {
            Ok(directory) => !is_empty(directory)?,
            Err(Errno::NOENT) => false,
            // No directory, so nothing is mounted there.
            Err(_) => true,
        };
        if !held {
            self.root.mount_point(HELD, Kind::File).map_err(root_failed)?;
        }
        Ok(())
    }

    /// Attaches a directory in the scratch tree, where it can be cloned from.
    fn place_in_scratch(&self, name: &str, mount: &OwnedFd) -> Result<OwnedFd, Failure> {
        let action = || Failure::mechanism("make files for the step");
        let target = self.directory_in(&self.scratch, name).map_err(action())?;
        attach(mount, target).map_err(mount_failed("make files for the step"))?;
        open_beneath(&self.scratch, name, OFlags::PATH).map_err(action())
    }

    fn file_in(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666))?;
        open_beneath(dir, name, OFlags::PATH)
    }

    fn directory_in(&self, dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
        self.own(dir, name)?;
        open_beneath(dir, name, OFlags::PATH)
    }

    fn own(&self, dir: &OwnedFd, name: &str) -> Result<(), Errno> {
        let (uid, gid) = (Uid::from_raw(self.ids.first), Gid::from_raw(self.ids.first));
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
    }
}

fn is_empty(directory: OwnedFd) -> Result<bool, Failure> {
    let action = || Failure::mechanism("read /tmp of the step");
    for entry in rustix::fs::Dir::new(directory).map_err(action())? {
        let entry = entry.map_err(action())?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A device node of the builder's own `/dev`, checked to be what its name says.
fn device(name: &str, major: u32, minor: u32) -> Result<OwnedFd, Failure> {
    let path = format!("/dev/{name}");
    let node =
        rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::mechanism(format!("open {path}")))?;
    let stat =
        rustix::fs::fstat(node.as_fd()).map_err(Failure::mechanism(format!("examine {path}")))?;
    let right = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == makedev(major, minor);
    if right {
        Ok(node)
    } else {
        Err(Failure::Mechanism {
            action: format!("use {path}"),
            message: "not the device it should be".to_owned(),
        })
    }
}

fn mount_failed(action: &'static str) -> impl Fn(MountError) -> Failure {
    move |error| Failure::chain(action, &error)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn root_failed(error: RootError) -> Failure {
    Failure::Root { message: error.to_string() }
}
