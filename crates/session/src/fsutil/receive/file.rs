//! A file whose content was asked for, from its first packet to its last attribute.
//!
//! Content that is whole in one packet is kept until then, so that one call makes the file and another writes
//! it, on whatever thread has time. What is longer goes to the disk as it comes. Names go through the
//! descriptor of the file's directory and are made anew, so no link is ever followed. A file whose place is taken
//! has a random name until then: what a process that was killed left behind is in nobody's way. It is not looked for
//! either, for nothing tells it from what another transfer into the same directory is at.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode};
use rustix::rand::{GetRandomFlags, getrandom};

use super::ReceiveError;
use super::apply::{Attributes, Disk, UNFINISHED, apply_attributes, failed};
use crate::fsutil::{dir, order};

/// Most content of a file that is kept in memory. With the limit on files in transit it bounds what a sender can fill.
const MAX_HELD: usize = 64 << 10;

/// Directories that stay open for the files to come in them. Content comes about in the order of its
/// announcement, so few are enough.
const MAX_PARENTS: usize = 16;

/// Random names that are tried before something else must be wrong.
const MAX_NAMES: usize = 16;

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
    Open(File, Option<Beside>),
}

/// A file under a name of its own beside the one it is to have. Goes when it is dropped.
struct Beside {
    parent: Arc<OwnedFd>,
    /// `None` once it has its place.
    name: Option<String>,
}

impl Beside {
    /// Makes such a file.
    fn create(parent: &Arc<OwnedFd>, mode: Mode) -> io::Result<(File, Self)> {
        let mut taken: io::Error = io::ErrorKind::AlreadyExists.into();
        for _ in 0..MAX_NAMES {
            let name = random_name()?;
            match dir::create_child_file(parent, &name, mode) {
                Ok(fd) => {
                    let beside = Self { parent: Arc::clone(parent), name: Some(name) };
                    return Ok((File::from(fd), beside));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
                Err(error) => return Err(error),
            }
        }
        Err(taken)
    }

    /// Gives the file its place, from whatever is there.
    fn place(mut self, name: &str) -> io::Result<()> {
        if let Some(beside) = &self.name {
            rustix::fs::renameat(&self.parent, beside.as_str(), &self.parent, name)?;
        }
        self.name = None;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // It is in nobody's way, so there is nothing to do when it stays.
            let _ = rustix::fs::unlinkat(&self.parent, name.as_str(), AtFlags::empty());
        }
    }
}

fn random_name() -> io::Result<String> {
    let mut random = [0; 8];
    // So few bytes come whole.
    getrandom(&mut random, GetRandomFlags::empty())?;
    Ok(format!(".cofferdam-{:016x}", u64::from_ne_bytes(random)))
}

/// A file that is not whole.
pub(super) struct FileInProgress {
    path: String,
    attributes: Attributes,
    /// Whether its place is taken until it is whole.
    beside: bool,
    content: Content,
}

impl FileInProgress {
    pub(super) fn new(path: &str, attributes: Attributes, beside: bool) -> Self {
        Self { path: path.to_owned(), attributes, beside, content: Content::Nothing }
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
        matches!(self.content, Content::Open(..))
    }

    /// Takes in the next part of its content.
    pub(super) fn add(
        &mut self,
        data: &[u8],
        disk: &Disk,
        parents: &mut Parents,
    ) -> Result<(), ReceiveError> {
        let (mut file, beside) = match std::mem::take(&mut self.content) {
            Content::Nothing if data.len() <= MAX_HELD => {
                self.content = Content::Held(data.to_vec());
                return Ok(());
            }
            Content::Open(file, beside) => (file, beside),
            content => {
                let parent = parents.of(disk, &self.path)?;
                // It may stay unfinished for long.
                let (mut file, beside) = self.create(&parent, UNFINISHED)?;
                if let Content::Held(held) = content {
                    file.write_all(&held).map_err(failed("write", &self.path))?;
                }
                (file, beside)
            }
        };
        file.write_all(data).map_err(failed("write", &self.path))?;
        self.content = Content::Open(file, beside);
        Ok(())
    }

    /// Makes it what was announced, in the directory it is in.
    pub(super) fn finish(mut self, parent: &Arc<OwnedFd>) -> Result<(), ReceiveError> {
        let content = std::mem::take(&mut self.content);
        let (file, beside) = if let Content::Open(file, beside) = content {
            (file, beside)
        } else {
            let (mut file, beside) = self.create(parent, self.attributes.mode_at_once())?;
            if let Content::Held(held) = content {
                file.write_all(&held).map_err(failed("write", &self.path))?;
            }
            (file, beside)
        };
        let apply = || -> io::Result<()> {
            apply_attributes(&file, &self.attributes)?;
            match beside {
                Some(beside) => beside.place(order::split(&self.path).1),
                None => Ok(()),
            }
        };
        apply().map_err(failed("finish", &self.path))
    }

    /// Makes the file, under its own name where that is free.
    fn create(
        &self,
        parent: &Arc<OwnedFd>,
        mode: Mode,
    ) -> Result<(File, Option<Beside>), ReceiveError> {
        let made = if self.beside {
            Beside::create(parent, mode).map(|(file, beside)| (file, Some(beside)))
        } else {
            let (_, name) = order::split(&self.path);
            dir::create_child_file(parent, name, mode).map(|fd| (File::from(fd), None))
        };
        made.map_err(failed("create", &self.path))
    }
}
