//! Complete trees and single files as one plain tar, for people to unpack.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::BorrowedFd;

use tar::EntryType;

use super::cutter::Sink;
use super::error::PackError;
use super::walk::{Flavor, Walk};
use crate::layer::{IDENTITY, MapId, name};

/// How to write a merged tree.
pub struct TreeOptions<'a> {
    /// No time in the tar is later than this, in seconds since 1970.
    pub epoch: Option<i64>,
    /// Id on disk to container id.
    pub ids: MapId<'a>,
}

impl Default for TreeOptions<'_> {
    fn default() -> Self {
        Self { epoch: None, ids: IDENTITY }
    }
}

/// Writes trees and files, each under a path of its own, as one uncompressed tar.
pub struct TreeWriter<'a, W: Write> {
    out: Plain<W>,
    walk: Walk<'a>,
    directories: BTreeSet<Vec<u8>>,
}

struct Plain<W>(W);

impl<W: Write> Sink for Plain<W> {
    fn entry(&mut self, _path: &[u8]) -> Result<(), PackError> {
        Ok(())
    }

    fn data_follows(&mut self, _size: u64) -> Result<(), PackError> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), PackError> {
        self.0.write_all(bytes).map_err(PackError::Write)
    }
}

impl<'a, W: Write> TreeWriter<'a, W> {
    /// Starts a tar.
    pub fn new(out: W, options: &TreeOptions<'a>) -> Self {
        Self {
            out: Plain(out),
            walk: Walk::new(Flavor::Merged, options.epoch, options.ids),
            directories: BTreeSet::new(),
        }
    }

    /// Adds everything beneath `root`, under the directory `prefix` (empty for the top).
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn tree(&mut self, root: BorrowedFd<'_>, prefix: &str) -> Result<(), PackError> {
        let prefix = self.parents(prefix.as_bytes())?;
        self.walk.tree(root, &prefix, &mut self.out)
    }

    /// Adds a file, and the directories above it when they are new.
    ///
    /// # Errors
    /// See [`PackError`].
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), PackError> {
        let bad = || PackError::unrepresentable(path.as_bytes(), "its name is malformed");
        let path = name::clean(path.as_bytes()).map_err(|_| bad())?.ok_or_else(bad)?;
        self.parents(name::split(&path).0)?;
        self.walk.synthetic(&path, EntryType::Regular, mode, content, &mut self.out)
    }

    /// Ends the tar and gives the destination back.
    ///
    /// # Errors
    /// The destination failed.
    pub fn finish(mut self) -> Result<W, PackError> {
        self.out.write(&[0; 1024])?;
        self.out.0.flush().map_err(PackError::Write)?;
        Ok(self.out.0)
    }

    /// Writes the directories down to `path`, each once; gives `path/`, or nothing for the top.
    fn parents(&mut self, path: &[u8]) -> Result<Vec<u8>, PackError> {
        let bad = |_| PackError::unrepresentable(path, "its name is malformed");
        let Some(path) = name::clean(path).map_err(bad)? else { return Ok(Vec::new()) };
        let mut sofar = Vec::new();
        for component in path.split(|&byte| byte == b'/') {
            sofar.extend_from_slice(component);
            sofar.push(b'/');
            if self.directories.insert(sofar.clone()) {
                self.walk.synthetic(&sofar, EntryType::Directory, 0o755, b"", &mut self.out)?;
            }
        }
        Ok(sofar)
    }
}

/// Writes everything beneath `root` as a tar.
///
/// # Errors
/// See [`PackError`].
pub fn write_tree<W: Write>(
    root: BorrowedFd<'_>,
    options: &TreeOptions<'_>,
    out: W,
) -> Result<W, PackError> {
    let mut writer = TreeWriter::new(out, options);
    writer.tree(root, "")?;
    writer.finish()
}
