//! Creates entries beneath one directory descriptor, whatever their names say.
//!
//! Parents are opened by the kernel beneath the root with no links allowed; only when a link is in
//! the way are the components walked one by one, with links resolved inside the root and every
//! step a single name opened with `O_NOFOLLOW`. The last component is always created exclusively,
//! after an `unlinkat` when something is in its place, so nothing is ever written, chowned or
//! chmodded through a link.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    XattrFlags, chownat, fchmod, fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat,
    openat2, readlinkat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::error::ApplyError;
use super::limits::{MAX_DEPTH, MAX_NAME};
use super::name;
use super::remove::remove_all;
use super::{MapId, XATTR_CAPABILITY, XATTR_OPAQUE};

/// Links followed while resolving one parent, the kernel's own bound.
const MAX_LINKS: usize = 40;
/// Bytes of names waiting to be resolved: a few links, each as long as a path may be.
const MAX_PENDING: usize = 64 << 10;

pub(super) struct Tree<'a> {
    root: Rc<OwnedFd>,
    ids: MapId<'a>,
    whiteouts: bool,
    /// The parent of the previous entry: archives list directories together.
    last_parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
}

/// Metadata of an entry, owner already mapped.
pub(super) struct Meta<'a> {
    pub(super) mode: u32,
    pub(super) owner: (Uid, Gid),
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// What is to be done about missing directories.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

impl<'a> Tree<'a> {
    pub(super) fn new(
        root: BorrowedFd<'_>,
        ids: MapId<'a>,
        whiteouts: bool,
    ) -> Result<Self, ApplyError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root =
            openat(root, c".", flags, Mode::empty()).map_err(ApplyError::write("open", b"/"))?;
        Ok(Self { root: Rc::new(root), ids, whiteouts, last_parent: None })
    }

    /// Maps an owner to the ids on disk.
    pub(super) fn owner(&self, uid: u64, gid: u64, path: &[u8]) -> Result<(Uid, Gid), ApplyError> {
        let map = |kind, id: u64| {
            let mapped =
                u32::try_from(id).ok().filter(|id| *id != u32::MAX).and_then(|id| (self.ids)(id));
            mapped.filter(|id| *id != u32::MAX).ok_or_else(|| ApplyError::UnmappedId {
                kind,
                id,
                path: super::error::display(path),
            })
        };
        Ok((Uid::from_raw(map("user", uid)?), Gid::from_raw(map("group", gid)?)))
    }

    pub(super) fn file(&mut self, path: &[u8]) -> Result<File, ApplyError> {
        let (parent, base) = self.place(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.exclusively(&parent, base, path, || {
            openat(&parent, base, flags, Mode::from_raw_mode(0o600))
        })?;
        Ok(File::from(fd))
    }

    /// Sets what [`Tree::file`] left open, once its content is written.
    pub(super) fn finish_file(
        &self,
        file: &File,
        meta: &Meta<'_>,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        self.set_meta(file.as_fd(), meta, path)?;
        futimens(file, &times(meta.mtime)).map_err(ApplyError::write("set the times of", path))
    }

    /// Creates a directory or takes over the one that is there. Its times are set at the end.
    pub(super) fn directory(&mut self, path: &[u8], meta: &Meta<'_>) -> Result<(), ApplyError> {
        let (parent, base) = self.place(path)?;
        let mut opaque = false;
        match mkdirat(&parent, base, Mode::from_raw_mode(0o700)) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = stat(&parent, base).map_err(ApplyError::write("examine", path))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    opaque = self.is_whiteout(&there);
                    self.remove(&parent, base, path)?;
                    mkdirat(&parent, base, Mode::from_raw_mode(0o700))
                        .map_err(ApplyError::write("create directory", path))?;
                }
            }
            Err(errno) => return Err(ApplyError::write("create directory", path)(errno)),
        }
        let fd = open_readable(&parent, base).map_err(ApplyError::write("open directory", path))?;
        self.set_meta(fd.as_fd(), meta, path)?;
        if opaque {
            set_opaque(&fd, path)?;
        }
        Ok(())
    }

    pub(super) fn symlink(
        &mut self,
        path: &[u8],
        target: &[u8],
        meta: &Meta<'_>,
    ) -> Result<(), ApplyError> {
        let (parent, base) = self.place(path)?;
        self.exclusively(&parent, base, path, || symlinkat(target, &parent, base))?;
        self.set_meta_unopened(&parent, base, meta, path)
    }

    pub(super) fn fifo(&mut self, path: &[u8], meta: &Meta<'_>) -> Result<(), ApplyError> {
        let (parent, base) = self.place(path)?;
        let mode = Mode::from_raw_mode(meta.mode & 0o777);
        self.exclusively(&parent, base, path, || mknodat(&parent, base, FileType::Fifo, mode, 0))?;
        self.set_meta_unopened(&parent, base, meta, path)
    }

    /// Links `path` to the entry `target` of the same tree.
    pub(super) fn hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ApplyError> {
        let (target_parent, target_base) = name::split(target);
        let from = self.parent(target_parent, Missing::Fail, path)?;
        let missing = |_| ApplyError::refused(path, "the target of the hard link is missing");
        let there = stat(&from, target_base).map_err(missing)?;
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory || self.is_whiteout(&there)
        {
            return Err(ApplyError::refused(path, "the target of the hard link is not a file"));
        }
        let (parent, base) = self.place(path)?;
        if let Ok(existing) = stat(&parent, base)
            && (existing.st_dev, existing.st_ino) == (there.st_dev, there.st_ino)
        {
            return Ok(());
        }
        self.exclusively(&parent, base, path, || {
            linkat(&from, target_base, &parent, base, AtFlags::empty())
        })
    }

    /// Records that lower layers' `base` in the parent of `path` is gone. What this layer itself
    /// has there stays, as the specification says; a directory becomes opaque.
    pub(super) fn whiteout(
        &mut self,
        parent: &[u8],
        base: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let parent = self.parent(parent, Missing::Create, path)?;
        match stat(&parent, base) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let fd = open_readable(&parent, base)
                    .map_err(ApplyError::write("open directory", path))?;
                set_opaque(&fd, path)
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => {
                mknodat(&parent, base, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(ApplyError::write("create whiteout", path))?;
                let (uid, gid) = self.owner(0, 0, path)?;
                chownat(&parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(ApplyError::write("set the owner of", path))
            }
            Err(errno) => Err(ApplyError::write("examine", path)(errno)),
        }
    }

    /// Hides what lower layers have in the directory `parent`.
    pub(super) fn opaque(&mut self, parent: &[u8], path: &[u8]) -> Result<(), ApplyError> {
        if parent.is_empty() {
            return Err(ApplyError::refused(path, "the root of a layer cannot be opaque"));
        }
        let parent = self.parent(parent, Missing::Create, path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(&parent, c".", flags, Mode::empty())
            .map_err(ApplyError::write("open directory", path))?;
        set_opaque(&fd, path)
    }

    /// Sets the times of a directory once nothing more is created in it. A directory that was
    /// replaced since is left alone.
    pub(super) fn set_directory_times(&self, path: &[u8], mtime: (i64, u32)) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        if let Ok(fd) = openat2(&self.root, path, flags, Mode::empty(), resolve) {
            // The content is complete and correct either way.
            let _ = futimens(&fd, &times(mtime));
        }
    }

    fn is_whiteout(&self, there: &Stat) -> bool {
        self.whiteouts
            && FileType::from_raw_mode(there.st_mode) == FileType::CharacterDevice
            && there.st_rdev == 0
    }

    /// The opened parent and the name of a new entry.
    fn place<'p>(&mut self, path: &'p [u8]) -> Result<(Rc<OwnedFd>, &'p [u8]), ApplyError> {
        let (parent, base) = name::split(path);
        Ok((self.parent(parent, Missing::Create, path)?, base))
    }

    fn parent(
        &mut self,
        parent: &[u8],
        missing: Missing,
        path: &[u8],
    ) -> Result<Rc<OwnedFd>, ApplyError> {
        if parent.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((known, fd)) = &self.last_parent
            && known == parent
        {
            return Ok(Rc::clone(fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let fd = match openat2(&self.root, parent, flags, Mode::empty(), resolve) {
            Ok(fd) => Rc::new(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.walk(parent, missing, path)?,
            Err(errno) => return Err(ApplyError::write("open the parent of", path)(errno)),
        };
        self.last_parent = Some((parent.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// Resolves `parent` name by name, inside the root.
    fn walk(
        &self,
        parent: &[u8],
        missing: Missing,
        path: &[u8],
    ) -> Result<Rc<OwnedFd>, ApplyError> {
        let mut stack = vec![Rc::clone(&self.root)];
        let mut pending: VecDeque<Vec<u8>> =
            parent.split(|&byte| byte == b'/').map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(component) = pending.pop_front() {
            if component == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let here = stack.last().map_or_else(|| Rc::clone(&self.root), Rc::clone);
            match self.step(&here, &component, missing, path)? {
                Step::Into(fd) => stack.push(Rc::new(fd)),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(ApplyError::refused(path, "too many links in the path"));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    for part in target.split(|&byte| byte == b'/').rev() {
                        if !part.is_empty() && part != b"." {
                            pending.push_front(part.to_vec());
                        }
                    }
                }
            }
            if stack.len() > MAX_DEPTH + 1
                || pending.iter().map(Vec::len).sum::<usize>() > MAX_PENDING
            {
                return Err(ApplyError::refused(path, "the path is too deep"));
            }
        }
        Ok(stack.pop().unwrap_or_else(|| Rc::clone(&self.root)))
    }

    fn step(
        &self,
        here: &OwnedFd,
        component: &[u8],
        missing: Missing,
        path: &[u8],
    ) -> Result<Step, ApplyError> {
        if component.len() > MAX_NAME {
            return Err(ApplyError::refused(path, "a name is too long"));
        }
        let there = match stat(here, component) {
            Ok(there) => Some(there),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(ApplyError::write("examine the parent of", path)(errno)),
        };
        match there.as_ref().map(|there| FileType::from_raw_mode(there.st_mode)) {
            Some(FileType::Directory) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = openat(here, component, flags, Mode::empty())
                    .map_err(ApplyError::write("open the parent of", path))?;
                Ok(Step::Into(fd))
            }
            Some(FileType::Symlink) => readlinkat(here, component, Vec::new())
                .map(|target| Step::Link(target.into_bytes()))
                .map_err(ApplyError::write("read a link in the path of", path)),
            None if missing == Missing::Create => {
                self.make_parent(here, component, false, path).map(Step::Into)
            }
            Some(_)
                if missing == Missing::Create
                    && there.is_some_and(|there| self.is_whiteout(&there)) =>
            {
                unlinkat(here, component, AtFlags::empty())
                    .map_err(ApplyError::write("replace", path))?;
                self.make_parent(here, component, true, path).map(Step::Into)
            }
            None => Err(ApplyError::refused(path, "a directory in the path is missing")),
            Some(_) => Err(ApplyError::refused(path, "a parent is not a directory")),
        }
    }

    /// Makes a directory the archive uses without listing it: root's, mode 0755.
    fn make_parent(
        &self,
        here: &OwnedFd,
        component: &[u8],
        opaque: bool,
        path: &[u8],
    ) -> Result<OwnedFd, ApplyError> {
        let action = "create the parent of";
        mkdirat(here, component, Mode::from_raw_mode(0o755))
            .map_err(ApplyError::write(action, path))?;
        let fd = open_readable(here, component).map_err(ApplyError::write(action, path))?;
        let (uid, gid) = self.owner(0, 0, path)?;
        fchown(&fd, Some(uid), Some(gid)).map_err(ApplyError::write(action, path))?;
        fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(ApplyError::write(action, path))?;
        if opaque {
            set_opaque(&fd, path)?;
        }
        Ok(fd)
    }

    /// Runs an operation that fails when the name is taken; then frees the name and runs it again.
    fn exclusively<T>(
        &mut self,
        parent: &OwnedFd,
        base: &[u8],
        path: &[u8],
        mut create: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, ApplyError> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(parent, base, path)?;
                create().map_err(ApplyError::write("create", path))
            }
            other => other.map_err(ApplyError::write("create", path)),
        }
    }

    fn remove(&mut self, parent: &OwnedFd, base: &[u8], path: &[u8]) -> Result<(), ApplyError> {
        // The remembered parent may be what is removed.
        self.last_parent = None;
        remove_all(parent.as_fd(), base, 0).map_err(ApplyError::write("replace", path))
    }

    fn set_meta(&self, fd: BorrowedFd<'_>, meta: &Meta<'_>, path: &[u8]) -> Result<(), ApplyError> {
        let (uid, gid) = meta.owner;
        fchown(fd, Some(uid), Some(gid)).map_err(ApplyError::write("set the owner of", path))?;
        // After the owner: changing that clears set-id bits.
        fchmod(fd, Mode::from_raw_mode(meta.mode))
            .map_err(ApplyError::write("set the mode of", path))?;
        for (name, value) in meta.xattrs {
            self.set_xattr(fd, name, value, path)?;
        }
        Ok(())
    }

    /// For entries that cannot be opened (links, FIFOs): the name was just created exclusively in a
    /// directory only this process writes to.
    fn set_meta_unopened(
        &self,
        parent: &OwnedFd,
        base: &[u8],
        meta: &Meta<'_>,
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let (uid, gid) = meta.owner;
        chownat(parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ApplyError::write("set the owner of", path))?;
        utimensat(parent, base, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ApplyError::write("set the times of", path))
    }

    /// Sets the attributes a layer may carry and silently drops the others: those that steer the
    /// overlay file system, and those whose meaning belongs to the host.
    fn set_xattr(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        value: &[u8],
        path: &[u8],
    ) -> Result<(), ApplyError> {
        let value = if name == XATTR_CAPABILITY.as_bytes() {
            match self.capability_on_disk(value) {
                Some(value) => value,
                None => return Ok(()),
            }
        } else if name.len() > 5
            && name.starts_with(b"user.")
            && !name.starts_with(b"user.overlay.")
        {
            value.to_vec()
        } else {
            return Ok(());
        };
        match fsetxattr(fd, name, &value, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => Ok(()),
            other => other.map_err(ApplyError::write("set an extended attribute of", path)),
        }
    }

    /// A version 2 capability as stored here: version 3 with the root of our range, when the range
    /// does not start at 0. Other versions are dropped.
    fn capability_on_disk(&self, value: &[u8]) -> Option<Vec<u8>> {
        const VERSION_2: [u8; 3] = [0, 0, 2];
        if value.len() != 20 || value[1..4] != VERSION_2 {
            return None;
        }
        let mut value = value.to_vec();
        let root = (self.ids)(0)?;
        if root != 0 {
            value[3] = 3;
            value.extend_from_slice(&root.to_le_bytes());
        }
        Some(value)
    }
}

enum Step {
    Into(OwnedFd),
    Link(Vec<u8>),
}

fn stat(parent: &OwnedFd, base: &[u8]) -> Result<Stat, Errno> {
    statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)
}

fn open_readable(parent: &OwnedFd, base: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, base, flags, Mode::empty())
}

fn set_opaque(fd: &OwnedFd, path: &[u8]) -> Result<(), ApplyError> {
    fsetxattr(fd, XATTR_OPAQUE, b"y", XattrFlags::empty())
        .map_err(ApplyError::write("make opaque", path))
}

const fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps { last_access: time, last_modification: time }
}
