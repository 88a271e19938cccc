//! Deleting what was discarded: trees that tenants wrote, of any depth and shape.
//!
//! No path into such a tree is ever formed and no link followed: directories are opened by descriptor, entry by entry, and a
//! directory that is found is first moved up next to the tree, so that neither depth nor recursion is needed. What cannot be
//! deleted stays for the next start.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Deletes everything in `trash`. Blocks, for as long as it takes.
pub(crate) fn empty(trash: &Path) -> Result<(), Errno> {
    let trash = open(CWD, trash)?;
    let mut queue: VecDeque<CString> = names(&trash)?.into_iter().map(|(name, _)| name).collect();
    let mut moved: u64 = 0;
    let mut failed = Ok(());
    while let Some(name) = queue.pop_front() {
        match rustix::fs::unlinkat(&trash, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => {
                failed = Err(errno);
                continue;
            }
        }
        if let Err(errno) = clear(&trash, &name, &mut queue, &mut moved)
            .and_then(|()| rustix::fs::unlinkat(&trash, &name, AtFlags::REMOVEDIR))
        {
            failed = Err(errno);
        }
    }
    failed
}

/// Empties one directory of the trash: files are deleted, directories moved up.
fn clear(
    trash: &OwnedFd,
    name: &CString,
    queue: &mut VecDeque<CString>,
    moved: &mut u64,
) -> Result<(), Errno> {
    let directory = open(trash, name)?;
    for (entry, kind) in names(&directory)? {
        if kind != FileType::Directory {
            match rustix::fs::unlinkat(&directory, &entry, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // Some file systems do not say what an entry is.
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        let up = free_name(trash, moved)?;
        rustix::fs::renameat(&directory, &entry, trash, &up)?;
        queue.push_back(up);
    }
    Ok(())
}

/// A name that nothing in the trash has.
fn free_name(trash: &OwnedFd, moved: &mut u64) -> Result<CString, Errno> {
    loop {
        *moved += 1;
        let name = CString::new(format!("below-{}-{moved}", std::process::id()))
            .map_err(|_| Errno::INVAL)?;
        match rustix::fs::statat(trash, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(name),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn open(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// The entries of a directory, without itself and the one above.
fn names(directory: &OwnedFd) -> Result<Vec<(CString, FileType)>, Errno> {
    let entries = Dir::read_from(directory)?
        .map(|entry| entry.map(|entry| (entry.file_name().to_owned(), entry.file_type())));
    let real = |entry: &Result<(CString, FileType), Errno>| !matches!(entry, Ok((name, _)) if matches!(name.to_bytes(), b"." | b".."));
    entries.filter(real).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_not_followed_and_depth_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join("trash");
        let outside = dir.path().join("outside");
        fs::create_dir_all(trash.join("tree/with/files")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        fs::write(trash.join("file"), "x").unwrap();
        fs::write(trash.join("tree/with/files/a"), "x").unwrap();
        symlink(&outside, trash.join("link")).unwrap();
        symlink(&outside, trash.join("tree/with/link")).unwrap();
        symlink("/", trash.join("tree/with/files/root")).unwrap();
        // Deeper than any path may be long.
        let mut at = open(CWD, &trash).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o700)).unwrap();
            at = open(&at, "d").unwrap();
        }
        empty(&trash).unwrap();
        assert_eq!(fs::read_dir(&trash).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
    }
}
