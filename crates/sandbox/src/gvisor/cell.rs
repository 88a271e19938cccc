//! The root of `runsc` itself: the program, the step's root as a directory of it, the step's mounts, and nothing else.
//!
//! Who breaks out of the sentry or the gofer before they have moved on to roots of their own finds only this. All of it belongs to
//! the builder's root, whom the step's user namespace has no name for, so that neither program nor configuration can be changed
//! from inside; the two directories `runsc` writes to are the step's.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::config::Placed;
use super::places::{BUNDLE, MOUNTS, PROGRAM, ROOTFS, STATE};
use crate::message::Failure;
use crate::mounts::{
    Attributes, MountError, attach, attach_at, detached_bind, detached_directory, new_filesystem,
    restrict,
};
use crate::rootfs::open_beneath;
use crate::spec::StepIds;

/// Room for directories, the configuration and what `runsc` notes. The configuration holds arguments and environment, which the
/// kernel bounds to some megabytes, several times longer when every character is escaped.
const SIZE: &str = "67108864";

/// What the step has mounted: where in its root, the mount, and whether it is read-only.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Path in the step's root, without symbolic links.
    pub(crate) dest: String,
    /// The mount, attached in this mount namespace.
    pub(crate) mount: OwnedFd,
    pub(crate) readonly: bool,
}

/// The root of `runsc` while it is put together.
pub(crate) struct Cell {
    root: OwnedFd,
    ids: StepIds,
}

impl Cell {
    /// Makes it and attaches it at `at`, a directory of this crate's own choice.
    pub(crate) fn new(program: &std::path::Path, ids: StepIds, at: &str) -> Result<Self, Failure> {
        let failed = mount_failed("make a root for runsc");
        let attributes = Attributes { nosuid: true, nodev: true, ..Attributes::NONE };
        let options = [("mode", "755"), ("size", SIZE)];
        let root = new_filesystem(c"tmpfs", &options, attributes).map_err(&failed)?;
        attach_at(&root, at).map_err(&failed)?;
        let cell = Self { root, ids };
        for name in [ROOTFS, MOUNTS, BUNDLE, "/proc", "/dev"] {
            cell.directory(name)?;
        }
        // The sentry makes its own root on the second.
        for name in [STATE, "/tmp"] {
            let directory = cell.directory(name)?;
            let owner = (Uid::from_raw(ids.first), Gid::from_raw(ids.first));
            rustix::fs::chownat(&directory, c"", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)
                .map_err(Failure::mechanism("make a root for runsc"))?;
        }
        cell.place(program, PROGRAM, true)?;
        cell.place("/dev/null".as_ref(), "/dev/null", false)?;
        // With nothing in front of it: the sentry mounts one of its own, which the kernel allows only where one is seen whole.
        let proc = new_filesystem(c"proc", &[], Attributes::DATA).map_err(&failed)?;
        attach(proc, cell.open("/proc")?).map_err(&failed)?;
        Ok(cell)
    }

    /// Takes in the step's root, without what is mounted in it, and the mounts beside it.
    pub(crate) fn take_in(
        &self,
        root: &OwnedFd,
        readonly: bool,
        mounts: &[Attached],
    ) -> Result<Vec<Placed>, Failure> {
        let failed = mount_failed("give the step's root to runsc");
        let clone = detached_bind(root, false).map_err(&failed)?;
        if readonly {
            restrict(&clone, Attributes::READONLY, false).map_err(&failed)?;
        }
        attach(&clone, self.open(ROOTFS)?).map_err(&failed)?;
        // The step has a /dev of the sentry's. Mount points below it are made here and not in the step's own directory.
        let dev = self.small_tmpfs("755").map_err(&failed)?;
        rustix::fs::mkdirat(&dev, "shm", Mode::from_raw_mode(0o755))
            .map_err(Failure::mechanism("make /dev for runsc"))?;
        let target = open_beneath(&clone, "dev", OFlags::PATH | OFlags::DIRECTORY)
            .map_err(Failure::mechanism("open /dev of the step"))?;
        attach(dev, target).map_err(&failed)?;
        let mut placed = vec![self.empty_sys()?];
        for (number, mount) in mounts.iter().enumerate() {
            placed.push(self.take_mount(number, mount)?);
        }
        Ok(placed)
    }

    fn take_mount(&self, number: usize, mount: &Attached) -> Result<Placed, Failure> {
        let action = format!("give {} to runsc", mount.dest);
        let failed = |error: MountError| Failure::chain(action.clone(), &error);
        let clone = detached_bind(&mount.mount, true).map_err(failed)?;
        let stat = rustix::fs::fstat(&clone).map_err(Failure::mechanism(action.clone()))?;
        let source = format!("{MOUNTS}/{number}");
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.directory(&source)?,
            _ => self.file(&source)?,
        };
        attach(clone, target).map_err(failed)?;
        Ok(Placed { dest: mount.dest.clone(), source, readonly: mount.readonly })
    }

    /// `/sys` is as empty as it is without gVisor.
    fn empty_sys(&self) -> Result<Placed, Failure> {
        let failed = mount_failed("mount /sys");
        let owner = (self.ids.first, self.ids.first);
        let empty = detached_directory(owner, 0o755, None).map_err(&failed)?;
        restrict(&empty, Attributes::READONLY_DATA, false).map_err(&failed)?;
        let source = format!("{MOUNTS}/sys");
        attach(empty, self.directory(&source)?).map_err(&failed)?;
        Ok(Placed { dest: "/sys".to_owned(), source, readonly: true })
    }

    /// Writes the configuration and makes this root the root of the process.
    pub(crate) fn enter(self, configuration: &[u8]) -> Result<(), Failure> {
        let action = || Failure::mechanism("write the configuration of runsc");
        let bundle = self.open(BUNDLE)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o444);
        let file = rustix::fs::openat(&bundle, "config.json", flags, mode).map_err(action())?;
        let mut rest = configuration;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).map_err(action())?;
            rest = &rest[written..];
        }
        let action = || Failure::mechanism("change root");
        rustix::process::fchdir(&self.root).map_err(action())?;
        rustix::process::pivot_root(c".", c".").map_err(action())?;
        rustix::mount::unmount(c".", rustix::mount::UnmountFlags::DETACH)
            .map_err(Failure::mechanism("detach the builder's root"))?;
        rustix::process::chdir(c"/").map_err(action())
    }

    /// Binds a file of the builder's root.
    fn place(&self, source: &std::path::Path, at: &str, readonly: bool) -> Result<(), Failure> {
        let action = format!("give {} to runsc", source.display());
        let opened = rustix::fs::openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::mechanism(action.clone()))?;
        let failed = |error: MountError| Failure::chain(action.clone(), &error);
        let clone = detached_bind(opened, false).map_err(failed)?;
        if readonly {
            restrict(&clone, Attributes { nosuid: true, ..Attributes::READONLY }, false)
                .map_err(failed)?;
        }
        attach(clone, self.file(at)?).map_err(failed)
    }

    fn small_tmpfs(&self, mode: &str) -> Result<OwnedFd, MountError> {
        let owner = self.ids.first.to_string();
        let options = [("mode", mode), ("uid", &owner), ("gid", &owner), ("size", "65536")];
        new_filesystem(c"tmpfs", &options, Attributes::DATA)
    }

    fn directory(&self, path: &str) -> Result<OwnedFd, Failure> {
        let made = |errno: Errno| Failure::mechanism(format!("make {path} for runsc"))(errno);
        rustix::fs::mkdirat(&self.root, relative(path), Mode::from_raw_mode(0o755))
            .map_err(made)?;
        self.open(path)
    }

    fn file(&self, path: &str) -> Result<OwnedFd, Failure> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(&self.root, relative(path), flags, Mode::from_raw_mode(0o644))
            .map_err(Failure::mechanism(format!("make {path} for runsc")))?;
        self.open(path)
    }

    fn open(&self, path: &str) -> Result<OwnedFd, Failure> {
        open_beneath(self.root.as_fd(), relative(path), OFlags::PATH)
            .map_err(Failure::mechanism(format!("open {path} for runsc")))
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn mount_failed(action: &'static str) -> impl Fn(MountError) -> Failure {
    move |error| Failure::chain(action, &error)
}
