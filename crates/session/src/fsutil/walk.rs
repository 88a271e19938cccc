//! The sending end's walk: entries of a tree in wire order, filtered and stat'ed.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_wire::fsutil::types::Stat;
use rustix::fs::FileType;

use super::dir;
use super::filter::{Filter, Inherited, Verdict};
use super::stat;

/// Directories inside each other: each holds a descriptor while it is walked.
const MAX_DEPTH: usize = 512;

/// What a visitor decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// Announced.
    Keep,
    /// Left out.
    Drop,
    /// Left out with everything below.
    Skip,
}

/// Why a walk ended.
#[derive(Debug)]
pub(super) enum WalkError<E> {
    /// The visitor's own reason.
    Visitor(E),
    /// The tree could not be read.
    Disk { action: &'static str, path: String, source: io::Error },
}

/// Something to announce; `decide` before `announce`, so that a directory above is announced
/// only for an entry that is kept.
pub(super) trait Visitor {
    type Error;
    /// May change the entry.
    fn decide(&mut self, stat: &mut Stat) -> Visit;
    /// Takes it, in order.
    fn announce(&mut self, stat: Stat) -> Result<(), Self::Error>;
}

/// A directory on the way down that is announced once something below it is.
struct Above {
    stat: Option<Stat>,
}

pub(super) struct Walk<'a, V> {
    filter: &'a Filter,
    visitor: &'a mut V,
    above: Vec<Above>,
    /// First announced name of each file with several.
    origins: HashMap<(u64, u64), String>,
    /// Put before every path, with its slash.
    prefix: String,
}

impl<'a, V: Visitor> Walk<'a, V> {
    pub(super) fn new(filter: &'a Filter, visitor: &'a mut V, under: Option<&str>) -> Self {
        let prefix = under.map(|under| format!("{under}/")).unwrap_or_default();
        Self { filter, visitor, above: Vec::new(), origins: HashMap::new(), prefix }
    }

    /// Walks everything below `root`.
    pub(super) fn run(&mut self, root: &OwnedFd) -> Result<(), WalkError<V::Error>> {
        let fd = dir::open_dir(root, "").map_err(|source| WalkError::Disk {
            action: "open",
            path: ".".to_string(),
            source,
        })?;
        self.directory(&fd, "", None)
    }

    fn directory(
        &mut self,
        fd: &OwnedFd,
        path: &str,
        inherited: Option<&Inherited>,
    ) -> Result<(), WalkError<V::Error>> {
        let mut entries = dir::list(fd).map_err(|source| disk("list", path, source))?;
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        for entry in entries {
            let Ok(name) = entry.name.to_str() else {
                let source = io::Error::new(io::ErrorKind::InvalidData, "name is not UTF-8");
                let shown = entry.name.to_string_lossy();
                return Err(disk("send", &format!("{path}/{shown}"), source));
            };
            let child = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
            self.entry(fd, &entry.name, entry.kind, &child, inherited)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        fd: &OwnedFd,
        name: &CString,
        listed: FileType,
        path: &str,
        inherited: Option<&Inherited>,
    ) -> Result<(), WalkError<V::Error>> {
        let mut found = None;
        let kind = if listed == FileType::Unknown {
            found =
                dir::stat(fd, name.as_c_str()).map_err(|source| disk("look at", path, source))?;
            match &found {
                Some(found) => FileType::from_raw_mode(found.st_mode),
                None => return Ok(()),
            }
        } else {
            listed
        };
        let is_dir = kind == FileType::Directory;
        let (verdict, own) = self.filter.judge(path, is_dir, inherited);
        match verdict {
            Verdict::Skip => return Ok(()),
            Verdict::Descend if !is_dir => return Ok(()),
            Verdict::Descend | Verdict::Announce => {}
        }
        let found = match found {
            Some(found) => Some(found),
            None => {
                dir::stat(fd, name.as_c_str()).map_err(|source| disk("look at", path, source))?
            }
        };
        // Gone since it was listed: as if it had never been there.
        let Some(found) = found else { return Ok(()) };
        let announced = format!("{}{path}", self.prefix);
        let mut stat = match stat::read(fd, name, &announced, &found) {
            Ok(stat) => stat,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(disk("look at", path, source)),
        };
        let mut pending = None;
        if verdict == Verdict::Descend {
            pending = Some(stat);
        } else {
            match self.visitor.decide(&mut stat) {
                Visit::Skip => return Ok(()),
                Visit::Drop => {}
                Visit::Keep => {
                    if !self.announce_above()? {
                        return Ok(());
                    }
                    self.link_to_origin(&mut stat, &found, kind);
                    self.visitor.announce(stat).map_err(WalkError::Visitor)?;
                }
            }
        }
        if is_dir {
            self.descend(fd, name, path, pending, &own)?;
        }
        Ok(())
    }

    fn descend(
        &mut self,
        fd: impl AsFd,
        name: &CString,
        path: &str,
        pending: Option<Stat>,
        own: &Inherited,
    ) -> Result<(), WalkError<V::Error>> {
        if self.above.len() >= MAX_DEPTH {
            let source = io::Error::new(io::ErrorKind::InvalidData, "directories nested too deep");
            return Err(disk("open", path, source));
        }
        let left_out = pending.is_some();
        let child = match dir::open_child_dir(fd, name.as_c_str()) {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Nobody asked for what is in there.
            Err(error) if left_out && error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(());
            }
            Err(source) => return Err(disk("open", path, source)),
        };
        self.above.push(Above { stat: pending });
        let result = self.directory(&child, path, Some(own));
        self.above.pop();
        result
    }

    /// Announces the directories above that were not; false when one of them is left out with
    /// everything below it.
    fn announce_above(&mut self) -> Result<bool, WalkError<V::Error>> {
        for above in &mut self.above {
            let Some(mut stat) = above.stat.take() else { continue };
            match self.visitor.decide(&mut stat) {
                Visit::Keep => self.visitor.announce(stat).map_err(WalkError::Visitor)?,
                Visit::Drop => {}
                Visit::Skip => {
                    above.stat = Some(stat);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    #[allow(clippy::unnecessary_cast, reason = "field types differ between architectures")]
    fn link_to_origin(&mut self, stat: &mut Stat, found: &rustix::fs::Stat, kind: FileType) {
        if kind != FileType::RegularFile || (found.st_nlink as u64) < 2 {
            return;
        }
        let key = (found.st_dev as u64, found.st_ino as u64);
        match self.origins.get(&key) {
            Some(origin) => {
                stat.linkname.clone_from(origin);
                stat.size = 0;
            }
            None => {
                self.origins.insert(key, stat.path.clone());
            }
        }
    }
}

fn disk<E>(action: &'static str, path: &str, source: io::Error) -> WalkError<E> {
    WalkError::Disk { action, path: path.to_string(), source }
}
