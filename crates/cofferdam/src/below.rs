//! Files written below a directory, whatever their names say.
//!
//! Names come from archives that strangers made. Every part of one is opened by itself below the part before, links are never followed,
//! and nothing but plain files and directories is made.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;
use rustix::fs::{Mode, OFlags};

/// Most that is unpacked from one archive: SBOMs of real images have a few MiB.
const MAX_UNPACKED: u64 = 256 << 20;

/// Most entries of one archive.
const MAX_ENTRIES: usize = 100_000;

/// A directory that is written below.
pub(crate) struct Below(OwnedFd);

/// An archive that is not unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// It has too much in it.
    #[error("the archive has more than {MAX_UNPACKED} bytes or {MAX_ENTRIES} entries")]
    Size,
    /// An entry that leads elsewhere, or is neither file nor directory.
    #[error("the archive has an entry that is not written: {}", .0.display())]
    Entry(PathBuf),
    /// It cannot be read.
    #[error("read the archive")]
    Read(#[source] io::Error),
    /// A file cannot be written.
    #[error("write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Below {
    /// Opens a directory of the user's own, made where it is missing.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let failed = || format!("create {}", path.display());
        std::fs::create_dir_all(path).with_context(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty()).with_context(failed)?))
    }

    /// Writes one file, over a plain file of that name.
    pub(crate) fn write(&self, path: &Path, content: &mut dyn Read) -> Result<u64, UnpackError> {
        let failed = |source: io::Error| UnpackError::Write { path: path.to_owned(), source };
        let parts = parts(path).ok_or_else(|| UnpackError::Entry(path.to_owned()))?;
        let Some((name, directories)) = parts.split_last() else {
            return Err(UnpackError::Entry(path.to_owned()));
        };
        let directory = self.directory(directories).map_err(|error| failed(error.into()))?;
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, *name, flags, Mode::from_raw_mode(0o644));
        let mut file = File::from(file.map_err(|error| failed(error.into()))?);
        io::copy(content, &mut file).map_err(failed)
    }

    /// The directory that is these parts below, made where it is missing.
    fn directory(&self, parts: &[&str]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let mut directory = self.0.try_clone().map_err(|_| rustix::io::Errno::MFILE)?;
        for part in parts {
            match rustix::fs::mkdirat(&directory, *part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            directory = rustix::fs::openat(&directory, *part, flags, Mode::empty())?;
        }
        Ok(directory)
    }

    /// Writes the files of a tar whose path `wanted` accepts; gives how many there were.
    pub(crate) fn unpack(
        &self,
        archive: impl Read,
        wanted: impl Fn(&Path) -> bool,
    ) -> Result<usize, UnpackError> {
        let mut archive = tar::Archive::new(archive.take(MAX_UNPACKED + 1));
        let (mut files, mut bytes) = (0, 0_u64);
        for (number, entry) in archive.entries().map_err(UnpackError::Read)?.enumerate() {
            let mut entry = entry.map_err(UnpackError::Read)?;
            bytes = bytes.saturating_add(entry.size());
            if number >= MAX_ENTRIES || bytes > MAX_UNPACKED {
                return Err(UnpackError::Size);
            }
            let path = entry.path().map_err(UnpackError::Read)?.into_owned();
            let kind = entry.header().entry_type();
            // A directory without files is not missed.
            if kind.is_dir() || !wanted(&path) {
                continue;
            }
            if !kind.is_file() {
                return Err(UnpackError::Entry(path));
            }
            self.write(&path, &mut entry)?;
            files += 1;
        }
        Ok(files)
    }
}

/// The parts of a path that leads down only; those of layers start at the root, which is where it is written to.
fn parts(path: &Path) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then_some(parts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// A tar with names as they are, whatever they are.
    fn tar(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o777);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc").unwrap();
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn files_are_written_below() {
        let dir = tempfile::tempdir().unwrap();
        let below = Below::create(&dir.path().join("a/b")).unwrap();
        let archive = tar(&[
            ("/layers", EntryType::Directory, b""),
            ("/layers/x/one", EntryType::Regular, b"1"),
            ("./two", EntryType::Regular, b"2"),
            ("no", EntryType::Regular, b"3"),
        ]);
        let wanted = |path: &Path| path != Path::new("no");
        assert_eq!(below.unpack(archive.as_slice(), wanted).unwrap(), 2);
        let root = dir.path().join("a/b");
        assert_eq!(std::fs::read_to_string(root.join("layers/x/one")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(root.join("two")).unwrap(), "2");
        assert!(!root.join("no").exists());
    }

    #[test]
    fn nothing_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let below = Below::create(&root).unwrap();
        std::os::unix::fs::symlink(dir.path(), root.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("victim"), root.join("file")).unwrap();
        for entry in [
            ("../victim", EntryType::Regular, &b"x"[..]),
            ("a/../../victim", EntryType::Regular, b"x"),
            ("link/victim", EntryType::Regular, b"x"),
            ("file", EntryType::Regular, b"x"),
            ("new", EntryType::Symlink, b""),
            ("pipe", EntryType::Fifo, b""),
            ("hard", EntryType::Link, b""),
            (".", EntryType::Regular, b"x"),
        ] {
            assert!(below.unpack(tar(&[entry]).as_slice(), |_| true).is_err(), "{}", entry.0);
            assert!(!dir.path().join("victim").exists(), "{}", entry.0);
        }
        assert!(below.unpack(&b"no archive at all"[..], |_| true).is_err());
    }

    #[test]
    fn sizes_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let below = Below::create(dir.path()).unwrap();
        let mut header = Header::new_ustar();
        header.set_path("large").unwrap();
        header.set_size(MAX_UNPACKED + 1);
        header.set_cksum();
        let result = below.unpack(header.as_bytes().as_slice(), |_| true);
        assert!(matches!(result, Err(UnpackError::Size)));
    }
}
