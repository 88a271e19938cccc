//! Files of a result with statements about them beside them, for exporters of plain files.
//!
//! Statements are written into a layer on top of the result that is thrown away afterwards, so that
//! whoever sends files sees one tree.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cofferdam_digest::Digesting;
use cofferdam_provenance::Subject;
use cofferdam_store::{Tree, mount_tree};
use rustix::fs::{FileType, Mode, OFlags};

use super::{Export, Part};
use crate::attest;
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::op::file::{Maker, mkfile_from};
use crate::rooted::Root;
use crate::snapshot::Workspace;

/// Files that statements can be about: as many as image tools unpack.
const MAX_FILES: usize = 2_000_000;
/// Statements are for the one who asked for them.
const MODE: u32 = 0o600;

/// Files that are held open.
pub(super) struct Files {
    root: OwnedFd,
    /// The layer with the statements, for as long as somebody reads.
    _beside: Option<Workspace>,
}

impl Files {
    /// The directory.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// The files of a part, with its statements beside them.
pub(super) async fn files(
    export: &Export,
    part: &Part,
    platform_in_name: bool,
) -> Result<Files, Failure> {
    let tree = part.tree.fetch().await?;
    let shown = part.attestations.iter().filter(|attestation| !attestation.is_inline_only());
    let shown: Vec<_> = shown.cloned().collect();
    if shown.is_empty() {
        let root = blocking(move || opened(&mounted(&tree)?)).await??;
        return Ok(Files { root, _beside: None });
    }
    let about = tree.clone();
    let subjects = blocking(move || subjects(&mounted(&about)?)).await??;
    let mut named = Vec::new();
    let mut budget = attest::Budget::default();
    for (path, statement) in attest::statements(&shown, &subjects, None, &mut budget).await? {
        let id = platform_in_name.then_some(part.id.as_str());
        let name = name(&export.attributes.attestation_prefix, &path, id)?;
        if named.iter().any(|(known, _)| *known == name) {
            return Err(Failure::invalid(format!("duplicate attestation path name {name}")));
        }
        named.push((name, serde_json::to_vec_pretty(&statement).map_err(Failure::internal)?));
    }
    let store = std::sync::Arc::clone(&export.context.store);
    let time = export.attributes.epoch.map_or(-1, |epoch| epoch.saturating_mul(1_000_000_000));
    let beside = blocking(move || {
        let workspace = Workspace::mounted(&store, tree, "statements beside files")?;
        let root = store.ids().first;
        let maker = Maker { owner: Some((root, root)), root: (root, root) };
        for (name, bytes) in named {
            if workspace.root().stat(&name, false).map_err(Failure::store)?.is_some() {
                workspace.root().remove(name.as_ref()).map_err(Failure::store)?;
            }
            mkfile_from(workspace.root(), &name, &mut bytes.as_slice(), MODE, time, maker)
                .map_err(Failure::of)?;
        }
        Ok::<_, Failure>(workspace)
    });
    let beside = beside.await??;
    Ok(Files { root: opened(beside.root())?, _beside: Some(beside) })
}

fn mounted(tree: &Tree) -> Result<Root, Failure> {
    mount_tree(tree, None).map(Root::new).map_err(Failure::store)
}

/// The mount itself can only be opened beneath, not read.
fn opened(root: &Root) -> Result<OwnedFd, Failure> {
    root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).map_err(Failure::store)
}

/// Name of the file for an attestation at `path`.
fn name(prefix: &str, path: &str, platform: Option<&str>) -> Result<String, Failure> {
    let base = path.rsplit('/').next().unwrap_or_default();
    let mut name = format!("{prefix}{base}");
    if let Some(platform) = platform {
        let platform = platform.replace('/', "_");
        name = match name.rsplit_once('.') {
            Some((stem, extension)) => format!("{stem}.{platform}.{extension}"),
            None => format!("{name}.{platform}"),
        };
    }
    if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
        return Err(Failure::invalid(format!("invalid attestation file name {name:?}")));
    }
    Ok(name)
}

/// Every regular file by its digest.
fn subjects(root: &Root) -> Result<Vec<Subject>, Failure> {
    let mut subjects = Vec::new();
    walk(root, &mut |path, kind| {
        if kind == FileType::RegularFile {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let file = root.open(path, flags, Mode::empty()).map_err(Failure::store)?;
            let mut reader = Digesting::new(std::fs::File::from(file));
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(Failure::store)?;
            let (_, digest, _) = reader.finish();
            subjects.push(Subject::new(path.to_owned(), &digest));
        }
        Ok(())
    })?;
    Ok(subjects)
}

/// Every path below `root` with its type, parents first.
fn walk(
    root: &Root,
    visit: &mut dyn FnMut(&str, FileType) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut seen = 0;
    let mut open = vec![String::new()];
    while let Some(directory) = open.pop() {
        let at = if directory.is_empty() { "." } else { &directory };
        let names = root.directory(at).and_then(|found| found.names()).map_err(Failure::store)?;
        for name in names {
            seen += 1;
            if seen > MAX_FILES {
                return Err(Failure::invalid(format!(
                    "the result has more than {MAX_FILES} files"
                )));
            }
            // Names that are not text cannot be told in JSON.
            let Some(name) = name.to_str() else { continue };
            let path = match directory.as_str() {
                "" => name.to_owned(),
                parent => format!("{parent}/{name}"),
            };
            let Some(stat) = root.stat(&path, false).map_err(Failure::store)? else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            visit(&path, kind)?;
            if kind == FileType::Directory {
                open.push(path);
            }
        }
    }
    Ok(())
}

/// Files of platforms that share one directory.
#[derive(Default)]
pub(super) struct Visited(HashMap<String, String>);

impl Visited {
    /// Adds the files of `platform`; none may be another platform's.
    pub(super) async fn add(&mut self, files: &Files, platform: &str) -> Result<(), Failure> {
        let root = Root::new(files.root().try_clone_to_owned().map_err(Failure::store)?);
        let paths = blocking(move || {
            let mut paths = Vec::new();
            walk(&root, &mut |path, kind| {
                if kind != FileType::Directory {
                    paths.push(path.to_owned());
                }
                Ok(())
            })?;
            Ok::<_, Failure>(paths)
        });
        for path in paths.await?? {
            if let Some(other) = self.0.get(&path) {
                return Err(Failure::invalid(format!(
                    "cannot overwrite {path} from {other} with {platform} when split option is \
                     disabled"
                )));
            }
            self.0.insert(path, platform.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_stay_in_the_directory() {
        assert_eq!(name("", "a/provenance.json", None).unwrap(), "provenance.json");
        let split = name("x-", "sbom.spdx.json", Some("linux/arm64")).unwrap();
        assert_eq!(split, "x-sbom.spdx.linux_arm64.json");
        for (prefix, path) in [("../", "a"), ("", ""), ("", "a/.."), ("a/", "b")] {
            assert!(name(prefix, path, None).is_err());
        }
    }
}
