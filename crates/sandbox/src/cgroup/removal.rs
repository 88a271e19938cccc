//! Removing control groups: of one builder, and of supervisors that are gone. Nothing is killed here.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};
use rustix::io::Errno;

use super::orphans::{Supervisors, orphans};
use super::{CgroupError, retry};

/// Removes groups, each with the number that its supervisor had; fails when one of `ended` stays.
pub(super) fn remove_all(
    mut groups: Vec<(u32, PathBuf)>,
    ended: &[u32],
) -> Result<(), CgroupError> {
    let mut stays = None;
    retry(|| {
        let mut again = Ok(());
        stays = None;
        groups.retain(|(supervisor, path)| {
            let Err(source) = remove_tree(path) else { return false };
            if source == Errno::NOENT {
                return false;
            }
            let awaited = ended.contains(supervisor);
            if awaited {
                stays = Some(CgroupError::Remove { path: path.clone(), source });
            }
            // What else keeps others', such as a lack of rights, does not pass.
            let passes = awaited || source == Errno::BUSY;
            if passes {
                again = Err(source);
            }
            passes
        });
        again
    })
    .ok();
    stays.map_or(Ok(()), Err)
}

/// Removes groups of supervisors that are gone, as far as they are empty.
pub(super) fn sweep(family: &Path, known: &mut Supervisors) {
    for (_, path) in orphans(family, known) {
        remove_tree(&path).ok();
    }
}

/// Removes a group and those below it; none may have a process.
pub(super) fn remove_tree(path: &Path) -> Result<(), Errno> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)
}
