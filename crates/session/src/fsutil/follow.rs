//! Resolves paths through symlinks, to know what has to be sent along.
//!
//! Every link on the way and the final target become include patterns. Links are taken as if
//! the tree were the whole file system; nothing outside it is looked at.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};

use super::dir;
use crate::patterns::Glob;

/// Entries looked at for one list: wildcards over links could otherwise multiply.
const MAX_LOOKUPS: usize = 100_000;

/// Longest path worth resolving.
const MAX_PATH: usize = 16 << 10;

/// Paths that could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Links and wildcards lead to too many places.
    #[error("following {path} takes too many steps")]
    TooMany {
        /// Where it was given up.
        path: String,
    },
    /// The tree could not be read.
    #[error("follow {path}")]
    Disk {
        /// Where.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The include patterns that `paths` mean in `root`; `None` when one of them is the root.
///
/// # Errors
/// An unreadable tree, or links that multiply without end.
pub fn resolve(root: &OwnedFd, paths: &[String]) -> Result<Option<Vec<String>>, FollowError> {
    let mut follower = Follower { root, resolved: BTreeSet::new(), lookups: 0 };
    let mut todo: Vec<String> = paths.iter().rev().map(|path| relative(path)).collect();
    while let Some(path) = todo.pop() {
        let targets = follower.follow(&path)?;
        todo.extend(targets.into_iter().rev());
    }
    Ok(without_children(follower.resolved.into_iter()))
}

/// Drops paths below an earlier one; `None` when the root itself is among them.
pub(super) fn without_children(paths: impl Iterator<Item = String>) -> Option<Vec<String>> {
    let mut out: Vec<String> = Vec::new();
    for path in paths {
        if path == "." {
            return None;
        }
        let below = out.last().is_some_and(|last| {
            path.strip_prefix(last.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        if !below {
            out.push(path);
        }
    }
    Some(out)
}

/// The path as seen from the root of the tree, cleaned; `..` does not leave it.
fn relative(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_string() } else { parts.join("/") }
}

struct Follower<'a> {
    root: &'a OwnedFd,
    resolved: BTreeSet<String>,
    lookups: usize,
}

impl Follower<'_> {
    /// Walks down `path` to its first link; returns where that leads.
    fn follow(&mut self, path: &str) -> Result<Vec<String>, FollowError> {
        let mut end = 0;
        loop {
            end = path[end..].find('/').map_or(path.len(), |index| end + index);
            let current = &path[..end];
            let rest = path.get(end + 1..).unwrap_or("");
            let targets = self.links(current)?;
            if !targets.is_empty() {
                if !self.resolved.insert(current.to_string()) {
                    return Ok(Vec::new());
                }
                return Ok(targets
                    .into_iter()
                    .map(|target| relative(&format!("{target}/{rest}")))
                    .filter(|target| target.len() <= MAX_PATH)
                    .collect());
            }
            if rest.is_empty() {
                self.resolved.insert(current.to_string());
                return Ok(Vec::new());
            }
            end += 1;
        }
    }

    /// Targets of `path`, from the root, if it is a link or a wildcard over links.
    fn links(&mut self, path: &str) -> Result<Vec<String>, FollowError> {
        let (parent, name) = super::order::split(path);
        let failed = |source| FollowError::Disk { path: path.to_string(), source };
        let directory = match dir::open_beneath(
            self.root,
            parent,
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        ) {
            Ok(directory) => directory,
            Err(error) if is_elsewhere(&error) => return Ok(Vec::new()),
            Err(source) => return Err(failed(source)),
        };
        let Ok(glob) = Glob::new(name) else { return Ok(Vec::new()) };
        if !Glob::has_wildcard(name) {
            return Ok(self.link(&directory, parent, name, path)?.into_iter().collect());
        }
        let mut names: Vec<String> = dir::list(&directory)
            .map_err(failed)?
            .into_iter()
            .filter(|entry| matches!(entry.kind, FileType::Symlink | FileType::Unknown))
            .filter_map(|entry| entry.name.into_string().ok())
            .filter(|name| glob.matches(name))
            .collect();
        names.sort();
        let mut out = Vec::new();
        for name in names {
            out.extend(self.link(&directory, parent, &name, path)?);
        }
        Ok(out)
    }

    fn link(
        &mut self,
        directory: impl AsFd,
        parent: &str,
        name: &str,
        path: &str,
    ) -> Result<Option<String>, FollowError> {
        self.lookups += 1;
        if self.lookups > MAX_LOOKUPS {
            return Err(FollowError::TooMany { path: path.to_string() });
        }
        let target = match rustix::fs::readlinkat(directory, name, Vec::new()) {
            Ok(target) => target,
            Err(error) if is_elsewhere(&error.into()) => return Ok(None),
            Err(error) => {
                return Err(FollowError::Disk { path: path.to_string(), source: error.into() });
            }
        };
        let Ok(target) = target.into_string() else { return Ok(None) };
        let from = if target.starts_with('/') { "" } else { parent };
        Ok(Some(relative(&format!("{from}/{target}"))))
    }
}

/// Whether an error means that the path names no link of the tree.
fn is_elsewhere(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::EINVAL | libc::ELOOP | libc::ENAMETOOLONG)
    )
}
