//! Paths beneath a directory descriptor.
//!
//! Every path that a build can influence (a layer's symlink, a `COPY` destination, a user
//! database) is resolved here by the kernel with `openat2(RESOLVE_IN_ROOT)`: absolute links and
//! `..` stay inside the root, magic links are refused. Nothing in this module may join strings
//! into host paths or check first and use later.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

/// How many dangling links one path may lead through before it is taken for a loop; the
/// kernel's own limit.
const MAX_LINKS: usize = 40;
/// Names of one directory that are kept in memory: more than the largest package mirrors have.
const MAX_NAMES: usize = 2_000_000;

/// Who owns what is created, as ids on disk, and when it claims to have been modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ownership {
    /// User id on disk.
    pub(crate) uid: u32,
    /// Group id on disk.
    pub(crate) gid: u32,
    /// Modification time in nanoseconds since the epoch; `None` leaves the present.
    pub(crate) mtime: Option<i64>,
}

/// A directory that paths cannot leave.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    resolve: ResolveFlags,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The parent directory of a path and the last component in it.
#[derive(Debug)]
pub(crate) struct Place {
    /// The opened parent.
    pub(crate) parent: Root,
    /// The last component; never empty, `.` or `..`.
    pub(crate) name: String,
}

impl Root {
    /// Wraps a directory descriptor.
    pub(crate) const fn new(fd: OwnedFd) -> Self {
        Self { fd, resolve: ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS) }
    }

    /// Another descriptor of the same directory.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()?, resolve: self.resolve })
    }

    /// The same directory without what others have mounted in it.
    pub(crate) fn one_mount(mut self) -> Self {
        self.resolve |= ResolveFlags::NO_XDEV;
        self
    }

    const fn below(&self, fd: OwnedFd) -> Self {
        Self { fd, resolve: self.resolve }
    }

    /// Opens `path` inside the root, following links within it.
    pub(crate) fn open(&self, path: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        loop {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, self.resolve) {
                // The kernel asks for another try when a rename raced with `..`.
                Err(Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Opens the directory at `path`.
    pub(crate) fn directory(&self, path: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.open(path, flags, Mode::empty()).map(|fd| self.below(fd))
    }

    /// Opens the directory `name` directly in this one. A link of that name is refused.
    pub(crate) fn child(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        self.open(name, flags, Mode::empty()).map(|fd| self.below(fd))
    }

    /// The attributes of `path`, or `None` when it does not exist.
    pub(crate) fn stat(&self, path: &str, follow: bool) -> io::Result<Option<Stat>> {
        let mut flags = OFlags::PATH;
        if !follow {
            flags |= OFlags::NOFOLLOW;
        }
        match self.open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(rustix::fs::fstat(fd)?)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Splits `path` into its parent, resolved inside the root, and its last component.
    ///
    /// # Errors
    /// `EINVAL` when the path names the root itself.
    pub(crate) fn place(&self, path: &str) -> io::Result<Place> {
        let (parent, name) = split_last(path).ok_or(Errno::INVAL)?;
        Ok(Place { parent: self.directory(&parent)?, name })
    }

    /// Reads a regular file of at most `max` bytes.
    ///
    /// # Errors
    /// `EFBIG` above the limit; `EINVAL` for anything but a regular file.
    pub(crate) fn read_file(&self, path: &str, max: u64) -> io::Result<Vec<u8>> {
        let fd = self.open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::INVAL.into());
        }
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(max + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max {
            return Err(Errno::FBIG.into());
        }
        Ok(bytes)
    }

    /// Makes `path` a directory together with its parents, and opens it. Directories that
    /// exist keep their attributes; links on the way are followed inside the root.
    pub(crate) fn create_directories(
        &self,
        path: &str,
        mode: u32,
        owner: Ownership,
    ) -> io::Result<Self> {
        let mut todo: Vec<String> = components(path).into_iter().rev().collect();
        let mut done = String::new();
        let mut links = 0;
        let mut current = self.directory(".")?;
        while let Some(name) = todo.pop() {
            let next = format!("{done}/{name}");
            match self.directory(&next) {
                Ok(directory) => {
                    current = directory;
                    done = next;
                    continue;
                }
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
            match rustix::fs::readlinkat(current.as_fd(), name.as_str(), Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
                    if target.starts_with('/') {
                        done.clear();
                        current = self.directory(".")?;
                    }
                    todo.extend(components(&target).into_iter().rev());
                }
                Err(_) => {
                    current = current.create_directory(&name, mode, owner)?;
                    done = next;
                }
            }
        }
        Ok(current)
    }

    /// Makes one directory directly in this one and opens it.
    pub(crate) fn create_directory(
        &self,
        name: &str,
        mode: u32,
        owner: Ownership,
    ) -> io::Result<Self> {
        if name == ".." {
            return self.directory("..");
        }
        match rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                owner.apply(self.as_fd(), name)?;
                chmod(self.as_fd(), name, mode)?;
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        Ok(self.below(rustix::fs::openat(&self.fd, name, flags | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// The names in this directory, sorted, without `.` and `..`. Whoever filled it may have filled it without end.
    pub(crate) fn names(&self) -> io::Result<Vec<OsString>> {
        Ok(self.entries()?.into_iter().map(|(name, _)| name).collect())
    }

    /// As [`Root::names`], each with what it is; [`FileType::Unknown`] where only a look at it says so.
    pub(crate) fn entries(&self) -> io::Result<Vec<(OsString, FileType)>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                if names.len() >= MAX_NAMES {
                    return Err(io::Error::other(format!(
                        "more than {MAX_NAMES} names in a directory"
                    )));
                }
                names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
            }
        }
        names.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(names)
    }

    /// Removes `name` in this directory with everything below it. Never follows links.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.below(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?);
        for child in directory.names()? {
            directory.remove(&child)?;
        }
        Ok(rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)?)
    }
}

impl Ownership {
    /// Gives `name` in `parent` these ids and this time, without following links.
    pub(crate) fn apply(self, parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        rustix::fs::chownat(
            parent,
            name,
            Some(Uid::from_raw(self.uid)),
            Some(Gid::from_raw(self.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        self.apply_time(parent, name)
    }

    /// Sets only the time, for use after a directory's content changed.
    pub(crate) fn apply_time(self, parent: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        match self.mtime {
            Some(nanoseconds) => set_mtime(parent, name, nanoseconds),
            None => Ok(()),
        }
    }

    /// Gives an open file or directory these ids and the permission bits `mode`, as far as it has
    /// others. Owner first: changing it clears set-id bits, which the mode brings back.
    pub(crate) fn settle(self, fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
        let found = rustix::fs::fstat(fd)?;
        if (found.st_uid, found.st_gid) != (self.uid, self.gid) {
            rustix::fs::fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?;
        }
        if found.st_mode & 0o7777 != mode & 0o7777 {
            rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))?;
        }
        Ok(())
    }

    /// Sets only the time of an open file or directory.
    pub(crate) fn settle_time(self, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self.mtime {
            Some(nanoseconds) => Ok(rustix::fs::futimens(fd, &times(nanoseconds))?),
            None => Ok(()),
        }
    }
}

/// Access and modification time at once.
const fn times(nanoseconds: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: nanoseconds.div_euclid(1_000_000_000),
        tv_nsec: nanoseconds.rem_euclid(1_000_000_000),
    };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets access and modification time of `name`, itself when it is a link.
pub(crate) fn set_mtime(parent: BorrowedFd<'_>, name: &str, nanoseconds: i64) -> io::Result<()> {
    let times = times(nanoseconds);
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the permission bits of `name`, which must not be a link.
pub(crate) fn chmod(parent: BorrowedFd<'_>, name: &str, mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode).is_symlink() {
        return Ok(());
    }
    // fchmod refuses O_PATH descriptors; the descriptor's own /proc entry names exactly the
    // inode that was checked, whatever happens to the name meanwhile.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Whether an error says that a path, or a directory on the way to it, is not there.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// The components of a path, lexically: empty and `.` left out, `..` kept for the kernel.
pub(crate) fn components(path: &str) -> Vec<String> {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
}

/// A path as Go's `filepath.Join("/", path)` gives it: absolute, `..` resolved lexically.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Parent and last component of a cleaned path; `None` for the root.
pub(crate) fn split_last(path: &str) -> Option<(String, String)> {
    let path = clean(path);
    let (parent, name) = path.rsplit_once('/')?;
    if name.is_empty() {
        return None;
    }
    let parent = if parent.is_empty() { "/" } else { parent };
    Some((parent.to_owned(), name.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ME: Ownership = Ownership { uid: 0, gid: 0, mtime: None };

    fn root(path: &std::path::Path) -> Root {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Root::new(rustix::fs::open(path, flags, Mode::empty()).unwrap())
    }

    #[test]
    fn links_stay_inside_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("abs")).unwrap();
        std::os::unix::fs::symlink("../../../../../../../..", inside.path().join("up")).unwrap();
        let root = root(inside.path());
        assert!(root.read_file("/abs/secret", 10).is_err());
        assert!(root.read_file(&format!("/up{}/secret", outside.path().display()), 10).is_err());
        root.create_directories("/abs/new", 0o755, ME).unwrap();
        assert!(!outside.path().join("new").exists());
        let landed = inside.path().join(outside.path().strip_prefix("/").unwrap()).join("new");
        assert!(landed.is_dir(), "the link was not resolved inside the root");
    }

    #[test]
    fn special_files_are_not_read() {
        let directory = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(root(directory.path()).read_file("fifo", 10).is_err());
    }

    #[test]
    fn removal_does_not_follow_links() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("keep"), "x").unwrap();
        let inside = tempfile::tempdir().unwrap();
        std::fs::create_dir(inside.path().join("d")).unwrap();
        std::os::unix::fs::symlink(outside.path(), inside.path().join("d/link")).unwrap();
        root(inside.path()).remove(OsStr::new("d")).unwrap();
        assert!(outside.path().join("keep").exists());
        assert!(!inside.path().join("d").exists());
    }
}
