//! A step's root as seen from outside: finding and making mount points in a tree that its owner may have laid traps in.
//!
//! Every lookup is done by the kernel beneath the root's descriptor; a symbolic link is followed by reading it and starting again
//! inside, never by trusting a path. What is made for a mount is remembered and taken away after the step when it is still what
//! was made, so that it does not become part of a layer.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::spec::StepIds;

/// Symbolic links followed on the way to one mount point; the kernel's own bound.
const MAX_LINKS: usize = 40;

/// Times a lookup is repeated when something was renamed meanwhile (`openat2` says `EAGAIN`).
const MAX_RETRIES: usize = 64;

/// A mount point could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RootError {
    #[error("mount destination {0:?} is not an absolute path inside the root")]
    NotAbsolute(String),
    #[error("nothing may be mounted at {0:?}")]
    Reserved(String),
    #[error("{path:?} in the root is not a {expected}")]
    WrongKind { path: String, expected: &'static str },
    #[error("too many symbolic links on the way to {0:?}")]
    Links(String),
    #[error("a symbolic link on the way to {0:?} is not valid text")]
    Text(String),
    #[error("a link of the process file system is on the way to {0:?}")]
    ProcessLink(String),
    #[error("{action} {path:?} in the root: {errno}")]
    System { action: &'static str, path: String, errno: Errno },
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// Something made in the root for the length of the step. The path has no symbolic links.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Stub {
    path: String,
    directory: bool,
    device: u64,
    inode: u64,
}

/// A directory that was there before, and in which something was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Parent {
    path: String,
    before: State,
    after: State,
}

/// What is compared to tell whether a step changed a directory itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    device: u64,
    inode: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, u32),
}

impl State {
    fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            modified: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        }
    }
}

/// The root of one step while it is being set up.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    owner: (Uid, Gid),
    stubs: Vec<Stub>,
    parents: Vec<(String, State)>,
}

impl Root {
    /// `owner` owns what is made, in builder ids.
    pub(crate) fn new(fd: OwnedFd, owner: u32) -> Self {
        let owner = (Uid::from_raw(owner), Gid::from_raw(owner));
        Self { fd, owner, stubs: Vec::new(), parents: Vec::new() }
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The directory `name` directly below the root, made when missing. A symbolic link in its place is refused: programs in the
    /// root would follow it, and what is mounted there has to be found under its name.
    pub(crate) fn standard(&mut self, name: &str) -> Result<OwnedFd, RootError> {
        let failed = |action, errno| RootError::System { action, path: format!("/{name}"), errno };
        let found = match open_beneath(&self.fd, name, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT) => {
                let top = open_beneath(&self.fd, ".", OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|errno| failed("open", errno))?;
                self.make(&top, "", name, Kind::Directory, true)?
            }
            other => other.map_err(|errno| failed("open", errno))?,
        };
        let stat = rustix::fs::fstat(&found).map_err(|errno| failed("examine", errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Ok(found)
        } else {
            Err(RootError::WrongKind { path: format!("/{name}"), expected: "directory" })
        }
    }

    /// The mount point at `path`, made when missing along with its parents, and its path without symbolic links.
    pub(crate) fn mount_point(
        &mut self,
        path: &str,
        kind: Kind,
    ) -> Result<(OwnedFd, String), RootError> {
        reserved(path, path)?;
        let (found, resolved) = self.walk(path, kind, true)?;
        reserved(&resolved, path)?;
        Ok((found, resolved))
    }

    /// Makes the directory at `path` when it is missing, along with its parents, to be kept after the step. Gives its path
    /// without symbolic links.
    pub(crate) fn lasting_directory(&mut self, path: &str) -> Result<String, RootError> {
        self.walk(path, Kind::Directory, false).map(|(_, resolved)| resolved)
    }

    /// What has to be undone by [`settle`].
    pub(crate) fn into_record(self) -> (Vec<Stub>, Vec<Parent>) {
        let Self { fd, stubs, parents, .. } = self;
        let made = |path: &String| stubs.iter().any(|stub| &stub.path == path);
        let parents = parents
            .iter()
            .filter(|(path, _)| !made(path))
            .filter_map(|(path, before)| {
                let dir = open_directory(&fd, path).ok()?;
                let after = State::of(&rustix::fs::fstat(&dir).ok()?);
                Some(Parent { path: path.clone(), before: *before, after })
            })
            .collect();
        (stubs, parents)
    }

    /// Follows `path` inside the root, one name at a time, making what is missing. Gives the end of the way and its path without
    /// symbolic links.
    fn walk(&mut self, path: &str, kind: Kind, stub: bool) -> Result<(OwnedFd, String), RootError> {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(RootError::NotAbsolute(path.to_owned()));
        }
        let failed = |action, errno| RootError::System { action, path: path.to_owned(), errno };
        let mut names: VecDeque<String> = split(path);
        let mut resolved = String::new();
        let mut here = open_directory(&self.fd, "").map_err(|errno| failed("open", errno))?;
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            if name == ".." {
                resolved.truncate(resolved.rfind('/').unwrap_or(0));
                here =
                    open_directory(&self.fd, &resolved).map_err(|errno| failed("open", errno))?;
                continue;
            }
            let last = names.is_empty();
            let found = match open_beneath(&here, &name, OFlags::PATH | OFlags::NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let kind = if last { kind } else { Kind::Directory };
                    self.make(&here, &resolved, &name, kind, stub)?
                }
                other => other.map_err(|errno| failed("open", errno))?,
            };
            let stat = rustix::fs::fstat(&found).map_err(|errno| failed("examine", errno))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    // What these point to is an open file or a process, and the text they show only looks like a path.
                    let home =
                        rustix::fs::fstatfs(&found).map_err(|errno| failed("examine", errno))?;
                    if home.f_type == rustix::fs::PROC_SUPER_MAGIC {
                        return Err(RootError::ProcessLink(path.to_owned()));
                    }
                    if links > MAX_LINKS {
                        return Err(RootError::Links(path.to_owned()));
                    }
                    let target = rustix::fs::readlinkat(&found, c"", Vec::new())
                        .map_err(|errno| failed("read the link at", errno))?;
                    let target = target.to_str().map_err(|_| RootError::Text(path.to_owned()))?;
                    if target.starts_with('/') {
                        resolved.clear();
                        here =
                            open_directory(&self.fd, "").map_err(|errno| failed("open", errno))?;
                    }
                    for name in split(target).into_iter().rev() {
                        names.push_front(name);
                    }
                }
                FileType::Directory if !last || kind == Kind::Directory => {
                    resolved.push('/');
                    resolved.push_str(&name);
                    here = found;
                }
                FileType::RegularFile if last && kind == Kind::File => {
                    resolved.push('/');
                    resolved.push_str(&name);
                    return Ok((found, resolved));
                }
                _ => {
                    let expected =
                        if last && kind == Kind::File { "regular file" } else { "directory" };
                    return Err(RootError::WrongKind { path: path.to_owned(), expected });
                }
            }
        }
        if kind == Kind::File {
            return Err(RootError::WrongKind { path: path.to_owned(), expected: "regular file" });
        }
        Ok((here, resolved))
    }

    fn make(
        &mut self,
        parent: &OwnedFd,
        parent_path: &str,
        name: &str,
        kind: Kind,
        stub: bool,
    ) -> Result<OwnedFd, RootError> {
        let path = format!("{parent_path}/{name}");
        let failed = |errno| RootError::System { action: "create", path: path.clone(), errno };
        let before = State::of(&rustix::fs::fstat(parent).map_err(failed)?);
        match kind {
            Kind::Directory => {
                rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)).map_err(failed)?
            }
            Kind::File => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))
                    .map_err(failed)?;
            }
        }
        let found = open_beneath(parent, name, OFlags::PATH | OFlags::NOFOLLOW).map_err(failed)?;
        rustix::fs::chownat(
            &found,
            c"",
            Some(self.owner.0),
            Some(self.owner.1),
            AtFlags::EMPTY_PATH,
        )
        .map_err(failed)?;
        // Inside another mount the stub belongs to that mount's owner, and cannot be reached from the root afterwards.
        let top = rustix::fs::fstat(&self.fd).map_err(failed)?;
        if stub && top.st_dev == before.device {
            let stat = rustix::fs::fstat(&found).map_err(failed)?;
            if !self.parents.iter().any(|(known, _)| known == parent_path) {
                self.parents.push((parent_path.to_owned(), before));
            }
            self.stubs.push(Stub {
                path,
                directory: kind == Kind::Directory,
                device: stat.st_dev,
                inode: stat.st_ino,
            });
        }
        Ok(found)
    }
}

/// Fills an empty directory with the mount points every step needs, for use as the lowest layer of steps' roots.
///
/// Below all layers of an image it changes nothing about them, and a root that has it needs no mount points made and removed for
/// each step, which costs several file creations, and on ext4 a search that grows with what was deleted in the last seconds.
/// Without it everything works all the same. What is made belongs to the steps' root.
///
/// # Errors
///
/// When something cannot be made; the directory is then of no use.
pub fn make_skeleton(directory: impl AsFd, ids: StepIds) -> std::io::Result<()> {
    let owner = (Some(Uid::from_raw(ids.first)), Some(Gid::from_raw(ids.first)));
    for name in ["proc", "dev", "sys", "etc"] {
        rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
        rustix::fs::chownat(&directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let etc = open_beneath(&directory, "etc", OFlags::PATH | OFlags::DIRECTORY)?;
    for name in ["resolv.conf", "hosts"] {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&etc, name, flags, Mode::from_raw_mode(0o644))?;
        rustix::fs::fchown(&file, owner.0, owner.1)?;
    }
    let top = rustix::fs::openat(
        &directory,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fchown(&top, owner.0, owner.1)?;
    rustix::fs::fchmod(&top, Mode::from_raw_mode(0o755))?;
    Ok(())
}

/// Takes stubs out of a root after its step has ended, and gives back the times of the directories they were in. Returns the
/// directories that are now as they were before.
pub(crate) fn settle(root: &OwnedFd, stubs: &[Stub], parents: &[Parent]) -> Vec<PathBuf> {
    let now: Vec<Option<(OwnedFd, State)>> = parents
        .iter()
        .map(|parent| {
            let dir = open_readable(root, &parent.path).ok()?;
            let state = State::of(&rustix::fs::fstat(&dir).ok()?);
            Some((dir, state))
        })
        .collect();
    let mut kept = false;
    for stub in stubs.iter().rev() {
        // A stub that is something else by now, or in use, is the step's own work.
        kept |= remove(root, stub).is_err();
    }
    let mut settled = Vec::new();
    for (parent, now) in parents.iter().zip(now) {
        let Some((dir, now)) = now else { continue };
        if (now.device, now.inode) != (parent.after.device, parent.after.inode) {
            continue;
        }
        let untouched = now == parent.after;
        let (seconds, nanos) = if untouched { parent.before.modified } else { now.modified };
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) },
        };
        let restored = rustix::fs::futimens(&dir, &times).is_ok();
        if untouched && restored && !kept {
            settled.push(Path::new("/").join(parent.path.trim_start_matches('/')));
        }
    }
    settled
}

fn remove(root: &OwnedFd, stub: &Stub) -> Result<(), Errno> {
    let (parent, name) = stub.path.rsplit_once('/').ok_or(Errno::INVAL)?;
    let parent = open_directory(root, parent)?;
    let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_dev, stat.st_ino) != (stub.device, stub.inode) {
        return Err(Errno::EXIST);
    }
    if !stub.directory && stat.st_size != 0 {
        return Err(Errno::NOTEMPTY);
    }
    let flags = if stub.directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
    rustix::fs::unlinkat(&parent, name, flags)
}

/// Refuses destinations that would hide what the sandbox mounts itself (CVE-2019-16884).
fn reserved(path: &str, asked: &str) -> Result<(), RootError> {
    let mut names: Vec<String> = Vec::new();
    for name in split(path) {
        if name == ".." {
            names.pop();
        } else {
            names.push(name);
        }
    }
    let top = names.first().map(String::as_str);
    match (top, names.len()) {
        (None, _) | (Some("proc" | "sys"), _) | (Some("dev"), 1) => {
            Err(RootError::Reserved(asked.to_owned()))
        }
        _ => Ok(()),
    }
}

fn split(path: &str) -> VecDeque<String> {
    path.split('/').filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect()
}

/// Opens the directory at `path`, which has no symbolic links and may start with a slash.
pub(crate) fn open_directory(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    open_beneath(root, relative(path), OFlags::PATH | OFlags::DIRECTORY)
}

fn open_readable(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    open_beneath(root, relative(path), OFlags::RDONLY | OFlags::DIRECTORY)
}

fn relative(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    if path.is_empty() { "." } else { path }
}

/// Opens `path` beneath `at` without following any symbolic link; with `O_NOFOLLOW | O_PATH` the last name may be one.
pub(crate) fn open_beneath(at: impl AsFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(&at, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn destinations_that_hide_the_sandbox_are_reserved() {
        for path in [
            "/",
            "/proc",
            "/proc/self/attr",
            "/sys",
            "/sys/fs",
            "/dev",
            "/a/../proc",
            "//proc//x",
            "/./dev/",
        ] {
            assert!(reserved(path, path).is_err(), "{path}");
        }
        for path in ["/process", "/dev/shm", "/a", "/a/proc"] {
            assert!(reserved(path, path).is_ok(), "{path}");
        }
    }

    #[test]
    fn links_lead_only_inside() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("../../../../up", inside.path().join("climb")).unwrap();
        std::os::unix::fs::symlink("loop", inside.path().join("loop")).unwrap();
        let fd =
            rustix::fs::open(inside.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let mut root = Root::new(fd, rustix::process::getuid().as_raw());
        root.mount_point("/etc/resolv.conf", Kind::File).unwrap();
        root.mount_point("/climb/x", Kind::Directory).unwrap();
        assert!(matches!(root.mount_point("/loop/x", Kind::File), Err(RootError::Links(_))));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let again =
            inside.path().join(outside.path().strip_prefix("/").unwrap()).join("resolv.conf");
        assert!(again.is_file());
        assert!(inside.path().join("up/x").is_dir());
        let fd =
            rustix::fs::open(inside.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let (stubs, parents) = root.into_record();
        settle(&fd, &stubs, &parents);
        assert_eq!(std::fs::read_dir(inside.path()).unwrap().count(), 3);
    }
}
