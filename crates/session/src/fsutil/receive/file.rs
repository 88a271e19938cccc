//! A file whose content was asked for, from its first packet to its last attribute.
//!
//! Content that is whole in one packet is kept until then, so that one call makes the file and another writes
//! it, on whatever thread has time. What is longer goes to the disk as it comes. Names go through the
//! descriptor of the file's directory and are made anew, so no link is ever followed.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Mode;

use super::ReceiveError;
use super::apply::{Attributes, Disk, UNFINISHED, apply_attributes, failed};
use crate::fsutil::{dir, order};

/// Most content of a file that is kept in memory. With the limit on files in transit it bounds what a sender can fill.
const MAX_HELD: usize = 64 << 10;

/// Directories that stay open for the files to come in them. Content comes about in the order of its
/// announcement, so few are enough.
const MAX_PARENTS: usize = 16;

/// Directories that files arrived in lately. An announced directory keeps its place until the
/// transfer ends, so a path leads to the same one throughout.
#[derive(Default)]
pub(super) struct Parents {
    open: VecDeque<(String, Arc<OwnedFd>)>,
}

impl Parents {
    /// The directory that `path` is in.
    pub(super) fn of(&mut self, disk: &Disk, path: &str) -> Result<Arc<OwnedFd>, ReceiveError> {
        let (parent, _) = order::split(path);
        if let Some((_, fd)) = self.open.iter().rev().find(|(known, _)| known == parent) {
            return Ok(Arc::clone(fd));
        }
        let fd = Arc::new(disk.open_parent(path)?);
        if self.open.len() >= MAX_PARENTS {
            self.open.pop_front();
        }
        self.open.push_back((parent.to_owned(), Arc::clone(&fd)));
        Ok(fd)
    }
}

/// What there is of a file.
#[derive(Default)]
enum Content {
    #[default]
    Nothing,
    Held(Vec<u8>),
    Open(File),
}

/// A file that is not whole.
pub(super) struct FileInProgress {
    id: u32,
    path: String,
    attributes: Attributes,
    /// Whether its place is taken until it is whole.
    beside: bool,
    content: Content,
}

impl FileInProgress {
    pub(super) fn new(id: u32, path: &str, attributes: Attributes, beside: bool) -> Self {
        Self { id, path: path.to_owned(), attributes, beside, content: Content::Nothing }
    }

    /// Its path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether something of it has arrived.
    pub(super) const fn has_begun(&self) -> bool {
        !matches!(self.content, Content::Nothing)
    }

    /// Whether it is on the disk already.
    pub(super) const fn is_open(&self) -> bool {
        matches!(self.content, Content::Open(_))
    }

    /// Takes in the next part of its content.
    pub(super) fn add(
        &mut self,
        data: &[u8],
        disk: &Disk,
        parents: &mut Parents,
    ) -> Result<(), ReceiveError> {
        let mut file = match std::mem::take(&mut self.content) {
            Content::Nothing if data.len() <= MAX_HELD => {
                self.content = Content::Held(data.to_vec());
                return Ok(());
            }
            Content::Open(file) => file,
            content => {
                let parent = parents.of(disk, &self.path)?;
                // It may stay unfinished for long.
                let mut file = self.create(&parent, UNFINISHED)?;
                if let Content::Held(held) = content {
                    file.write_all(&held).map_err(failed("write", &self.path))?;
                }
                file
            }
        };
        file.write_all(data).map_err(failed("write", &self.path))?;
        self.content = Content::Open(file);
        Ok(())
    }

    /// Makes it what was announced, in the directory it is in.
    pub(super) fn finish(mut self, parent: &OwnedFd) -> Result<(), ReceiveError> {
        let content = std::mem::take(&mut self.content);
        let file = if let Content::Open(file) = content {
            file
        } else {
            let mut file = self.create(parent, self.attributes.mode_at_once())?;
            if let Content::Held(held) = content {
                file.write_all(&held).map_err(failed("write", &self.path))?;
            }
            file
        };
        let apply = || -> io::Result<()> {
            apply_attributes(&file, &self.attributes)?;
            if self.beside {
                let (_, name) = order::split(&self.path);
                rustix::fs::renameat(parent, &*self.name(), parent, name)?;
            }
            Ok(())
        };
        apply().map_err(failed("finish", &self.path))
    }

    /// The name it has until it is finished.
    fn name(&self) -> Cow<'_, str> {
        if self.beside {
            Cow::Owned(format!(".cofferdam-{}-{}", self.id, std::process::id()))
        } else {
            Cow::Borrowed(order::split(&self.path).1)
        }
    }

    fn create(&self, parent: &OwnedFd, mode: Mode) -> Result<File, ReceiveError> {
        dir::create_child_file(parent, &self.name(), mode)
            .map(File::from)
            .map_err(failed("create", &self.path))
    }
}
