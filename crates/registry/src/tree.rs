//! The registry's files: `<project>/blobs/<algorithm>/<two digits>/<hex>` and
//! `<project>/uploads/<id>`.
//!
//! Everything is resolved by the kernel beneath a directory's descriptor, and links are refused.
//! Content appears under its digest by a rename after its bytes reached the disk, so a crash
//! leaves a whole blob or none. All calls block: they belong on a blocking thread. This module
//! must never compute a path from text that has not passed a grammar.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;

use crate::digest::{Algorithm, ContentDigest};

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
const BLOBS: &str = "blobs";
const UPLOADS: &str = "uploads";
/// Times a lookup is repeated when something was renamed meanwhile.
const TRIES: usize = 100;

/// Directories that are remembered as being on the disk; a few hundred belong to each project.
const MOST_DURABLE: usize = 100_000;
/// `st_blocks` counts in these units whatever the file system's block size.
const STAT_BLOCK: u64 = 512;

/// The directory of all projects, and where removed ones go.
pub(crate) struct Tree {
    root: OwnedFd,
    trash: OwnedFd,
    durable: Arc<Durable>,
}

/// Directories whose names are known to be on the disk, by device and inode: one that is found may have been made a moment ago by
/// somebody who has not brought its name there yet.
#[derive(Default)]
struct Durable(Mutex<HashSet<(u64, u64)>>);

impl Durable {
    fn knows(&self, id: (u64, u64)) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    fn note(&self, id: (u64, u64)) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_DURABLE {
            known.clear();
        }
        known.insert(id);
    }

    /// Inodes of what is removed may soon be others'.
    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Tree {
    /// Opens both directories, making them if they are missing. They must be on one file system.
    pub(crate) fn open(root: &Path, trash: &Path) -> io::Result<Self> {
        let (root, trash) = (private_directory(root)?, private_directory(trash)?);
        Ok(Self { root, trash, durable: Arc::default() })
    }

    /// The projects that have a directory.
    pub(crate) fn projects(&self) -> io::Result<Vec<String>> {
        names(self.root.as_fd())
    }

    /// The directory of `project`, if anything was ever pushed to it.
    pub(crate) fn project(&self, project: &str) -> io::Result<Option<ProjectDir>> {
        let dir = found(open(self.root.as_fd(), project, DIRECTORY))?;
        Ok(dir.map(|dir| ProjectDir(dir, Arc::clone(&self.durable))))
    }

    /// The directory of `project`, made if it is missing.
    pub(crate) fn make_project(&self, project: &str) -> io::Result<ProjectDir> {
        let dir = make_directory(self.root.as_fd(), project, &self.durable)?;
        Ok(ProjectDir(dir, Arc::clone(&self.durable)))
    }

    /// Moves a project's directory into the trash under the name `as_name`; false if there is none.
    pub(crate) fn discard(&self, project: &str, as_name: &str) -> io::Result<bool> {
        let moved = rustix::fs::renameat(&self.root, project, &self.trash, as_name);
        if found(moved)?.is_none() {
            return Ok(false);
        }
        self.durable.forget();
        rustix::fs::fsync(&self.root)?;
        rustix::fs::fsync(&self.trash)?;
        Ok(true)
    }
}

/// One project's directory.
pub(crate) struct ProjectDir(OwnedFd, Arc<Durable>);

/// A blob that is open.
pub(crate) struct OpenBlob {
    pub(crate) file: File,
    pub(crate) length: u64,
    /// When it was last pushed or found present by somebody who may refer to it.
    pub(crate) used: SystemTime,
}

impl ProjectDir {
    /// Opens a blob for reading.
    pub(crate) fn blob(&self, digest: &ContentDigest) -> io::Result<Option<OpenBlob>> {
        let Some(shard) = self.shard(digest)? else { return Ok(None) };
        let Some(fd) = found(open(shard.as_fd(), digest.hex(), OFlags::RDONLY))? else {
            return Ok(None);
        };
        let file = File::from(fd);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("a blob is not a regular file"));
        }
        Ok(Some(OpenBlob { length: metadata.len(), used: metadata.modified()?, file }))
    }

    /// Makes an empty file for an upload.
    pub(crate) fn create_upload(&self, id: &str) -> io::Result<File> {
        let uploads = make_directory(self.0.as_fd(), UPLOADS, &self.1)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(open(uploads.as_fd(), id, flags)?))
    }

    /// Opens the file of an upload, if it is still there.
    pub(crate) fn open_upload(&self, id: &str) -> io::Result<Option<File>> {
        let Some(uploads) = found(open(self.0.as_fd(), UPLOADS, DIRECTORY))? else {
            return Ok(None);
        };
        Ok(found(open(uploads.as_fd(), id, OFlags::RDWR))?.map(File::from))
    }

    /// Removes an upload's file; a missing one is fine.
    pub(crate) fn remove_upload(&self, id: &str) -> io::Result<()> {
        let Some(uploads) = found(open(self.0.as_fd(), UPLOADS, DIRECTORY))? else { return Ok(()) };
        found(rustix::fs::unlinkat(&uploads, id, AtFlags::empty()))?;
        Ok(())
    }

    /// Removes the files of all uploads but those `keep` knows; the number of removed ones.
    pub(crate) fn sweep_uploads(&self, keep: impl Fn(&str) -> bool) -> io::Result<usize> {
        let Some(uploads) = found(open(self.0.as_fd(), UPLOADS, DIRECTORY))? else { return Ok(0) };
        let left: Vec<String> =
            names(uploads.as_fd())?.into_iter().filter(|name| !keep(name)).collect();
        for name in &left {
            found(rustix::fs::unlinkat(&uploads, name.as_str(), AtFlags::empty()))?;
        }
        Ok(left.len())
    }

    /// Gives an upload its final name: its bytes reach the disk first, then the name appears, whole.
    /// A blob that is already there is replaced by the same bytes, fresh.
    pub(crate) fn commit(
        &self,
        upload: &str,
        file: &File,
        digest: &ContentDigest,
    ) -> io::Result<()> {
        touch(file)?;
        file.sync_all()?;
        let uploads = open(self.0.as_fd(), UPLOADS, DIRECTORY)?;
        let blobs = make_directory(self.0.as_fd(), BLOBS, &self.1)?;
        let algorithm = make_directory(blobs.as_fd(), digest.algorithm().name(), &self.1)?;
        let shard = make_directory(algorithm.as_fd(), digest.shard(), &self.1)?;
        rustix::fs::renameat(&uploads, upload, &shard, digest.hex())?;
        rustix::fs::fsync(&shard)?;
        Ok(())
    }

    /// Removes a blob; false if there was none.
    pub(crate) fn remove_blob(&self, digest: &ContentDigest) -> io::Result<bool> {
        let Some(shard) = self.shard(digest)? else { return Ok(false) };
        let removed = found(rustix::fs::unlinkat(&shard, digest.hex(), AtFlags::empty()))?;
        Ok(removed.is_some())
    }

    /// The two-digit directories that hold blobs of one algorithm.
    pub(crate) fn shards(&self, algorithm: Algorithm) -> io::Result<Vec<String>> {
        match found(open(self.0.as_fd(), &format!("{BLOBS}/{}", algorithm.name()), DIRECTORY))? {
            Some(directory) => names(directory.as_fd()),
            None => Ok(Vec::new()),
        }
    }

    /// The blobs of one such directory.
    pub(crate) fn blobs(
        &self,
        algorithm: Algorithm,
        shard: &str,
    ) -> io::Result<Vec<ContentDigest>> {
        let path = format!("{BLOBS}/{}/{shard}", algorithm.name());
        let Some(directory) = found(open(self.0.as_fd(), &path, DIRECTORY))? else {
            return Ok(Vec::new());
        };
        let names = names(directory.as_fd())?.into_iter();
        Ok(names.filter_map(|name| ContentDigest::from_hex(algorithm, &name)).collect())
    }

    /// What the project takes of the disk, unfinished uploads too.
    pub(crate) fn disk_bytes(&self) -> io::Result<u64> {
        let mut bytes = 0;
        if let Some(uploads) = found(open(self.0.as_fd(), UPLOADS, DIRECTORY))? {
            bytes += files(uploads.as_fd())?;
        }
        for algorithm in Algorithm::ALL {
            for shard in self.shards(algorithm)? {
                let path = format!("{BLOBS}/{}/{shard}", algorithm.name());
                if let Some(shard) = found(open(self.0.as_fd(), &path, DIRECTORY))? {
                    bytes += files(shard.as_fd())?;
                }
            }
        }
        Ok(bytes)
    }

    /// The blobs of one such directory that were last used longer than `age` ago.
    pub(crate) fn unused_blobs(
        &self,
        algorithm: Algorithm,
        shard: &str,
        age: Duration,
    ) -> io::Result<Vec<ContentDigest>> {
        let mut unused = Vec::new();
        for digest in self.blobs(algorithm, shard)? {
            if self.blob(&digest)?.is_some_and(|blob| is_older(blob.used, age)) {
                unused.push(digest);
            }
        }
        Ok(unused)
    }

    fn shard(&self, digest: &ContentDigest) -> io::Result<Option<OwnedFd>> {
        let path = format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.shard());
        found(open(self.0.as_fd(), &path, DIRECTORY))
    }
}

/// Marks a blob as used now.
pub(crate) fn touch(file: &File) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
    };
    Ok(rustix::fs::futimens(file, &times)?)
}

/// Whether `time` lies more than `age` back. A time in the future does not.
pub(crate) fn is_older(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|elapsed| elapsed > age)
}

fn private_directory(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` beneath `dir`. Files made by this are the server's alone.
fn open(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, BENEATH) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// Opens the directory `name` in `dir`, making it if it is missing. Its name is on the disk afterwards, whoever made it.
fn make_directory(dir: BorrowedFd<'_>, name: &str, durable: &Durable) -> io::Result<OwnedFd> {
    let made = match found(open(dir, name, DIRECTORY))? {
        Some(fd) => fd,
        None => match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => open(dir, name, DIRECTORY)?,
            Err(errno) => return Err(errno.into()),
        },
    };
    let stat = rustix::fs::fstat(&made)?;
    let id = (stat.st_dev, stat.st_ino);
    if !durable.knows(id) {
        rustix::fs::fsync(dir)?;
        durable.note(id);
    }
    Ok(made)
}

/// What the files in a directory take of the disk, and itself. What goes meanwhile takes nothing.
fn files(dir: BorrowedFd<'_>) -> io::Result<u64> {
    let blocks = |stat: rustix::fs::Stat| {
        u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK)
    };
    let mut bytes = blocks(rustix::fs::fstat(dir)?);
    for name in names(dir)? {
        let stat = found(rustix::fs::statat(dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW))?;
        bytes += stat.map_or(0, blocks);
    }
    Ok(bytes)
}

fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        // Every name here is made by this module; others are not ours to touch.
        match entry.file_name().to_str() {
            Ok("." | "..") | Err(_) => {}
            Ok(name) => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

fn found<T>(result: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::{Read, Write};

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(&dir.path().join("registry"), &dir.path().join("trash")).unwrap();
        (dir, tree)
    }

    #[test]
    fn a_blob_appears_whole_and_goes() {
        let (dir, tree) = tree();
        assert!(tree.project("p").unwrap().is_none());
        let project = tree.make_project("p").unwrap();
        let digest = ContentDigest::of(Algorithm::Sha512, b"content");
        assert!(project.blob(&digest).unwrap().is_none());
        let mut file = project.create_upload("one").unwrap();
        file.write_all(b"content").unwrap();
        project.commit("one", &file, &digest).unwrap();
        let mut blob = project.blob(&digest).unwrap().unwrap();
        let mut text = String::new();
        blob.file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), blob.length), ("content", 7));
        let found: Vec<_> = project
            .shards(Algorithm::Sha512)
            .unwrap()
            .iter()
            .flat_map(|shard| {
                project.unused_blobs(Algorithm::Sha512, shard, Duration::ZERO).unwrap()
            })
            .collect();
        assert_eq!(found, std::slice::from_ref(&digest));
        assert!(project.remove_blob(&digest).unwrap());
        assert!(!project.remove_blob(&digest).unwrap());
        assert!(tree.discard("p", "gone").unwrap());
        assert!(!tree.discard("p", "gone").unwrap());
        assert!(dir.path().join("trash/gone").exists());
    }

    #[test]
    fn names_of_directories_that_others_made_are_brought_to_the_disk() {
        let (dir, tree) = tree();
        std::fs::create_dir(dir.path().join("registry/p")).unwrap();
        let project = tree.make_project("p").unwrap();
        let stat = rustix::fs::fstat(&project.0).unwrap();
        assert!(tree.durable.knows((stat.st_dev, stat.st_ino)));
        assert!(tree.discard("p", "gone").unwrap());
        assert!(!tree.durable.knows((stat.st_dev, stat.st_ino)));
    }

    #[test]
    fn links_are_not_followed() {
        let (dir, tree) = tree();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("registry/p")).unwrap();
        assert!(tree.project("p").is_err());
        assert!(tree.make_project("p").is_err());
        let project = tree.make_project("q").unwrap();
        std::os::unix::fs::symlink(&outside, dir.path().join("registry/q/uploads")).unwrap();
        assert!(project.create_upload("one").is_err());
        let digest = ContentDigest::of(Algorithm::Sha256, b"");
        let shard = dir.path().join("registry/q/blobs/sha256").join(digest.shard());
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(outside.join("secret"), shard.join(digest.hex())).unwrap();
        assert!(project.blob(&digest).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }

    #[test]
    fn a_sweep_takes_what_is_not_kept() {
        let (_dir, tree) = tree();
        let project = tree.make_project("p").unwrap();
        assert_eq!(project.sweep_uploads(|_| false).unwrap(), 0);
        for id in ["one", "two", "three"] {
            project.create_upload(id).unwrap();
        }
        assert!(project.create_upload("one").is_err());
        assert_eq!(project.sweep_uploads(|name| name == "two").unwrap(), 2);
        assert_eq!(project.sweep_uploads(|_| false).unwrap(), 1);
    }
}
