//! What is left of an exec operation: its writable mounts, committed.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use cofferdam_wire::pb;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::exec_mounts::{Prepared, Slot};
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::remains::{Remains, Subject};
use crate::rooted::{Root, split_last};
use crate::snapshot::{Snapshot, Workspace};

/// Commits the writable layers and returns the op's outputs in mount order.
///
/// `settled` are the directories in which mount points were made and taken away again.
pub(super) async fn collect(
    prepared: Prepared,
    inputs: Vec<Snapshot>,
    settled: Vec<PathBuf>,
) -> Result<Vec<Snapshot>, Failure> {
    let slots = blocking(move || prepared.into_slots()).await?;
    let mut outputs = Vec::with_capacity(slots.len());
    for slot in slots {
        outputs.push(match slot {
            Slot::Layer(workspace) => {
                let settled = settled.clone();
                let tree = blocking(move || commit(*workspace, settled)).await??;
                Snapshot::committed(tree)
            }
            Slot::Input(index) => inputs.get(index).cloned().unwrap_or_else(Snapshot::scratch),
            Slot::Scratch => Snapshot::scratch(),
        });
    }
    Ok(outputs)
}

/// What the mounts of a failed step hold, for whoever wants to look into it. Trouble leaves a mount out.
pub(super) async fn remains(
    prepared: Prepared,
    mounts: &[pb::Mount],
    inputs: &[Snapshot],
    settled: Vec<PathBuf>,
) -> Result<Remains, Failure> {
    let input = |mount: &pb::Mount| inputs.get(usize::try_from(mount.input).ok()?).cloned();
    let before: Vec<Option<Snapshot>> = mounts.iter().map(input).collect();
    let mut after = vec![None; mounts.len()];
    for (at, slot) in blocking(move || prepared.into_mounts()).await? {
        let Some(place) = after.get_mut(at) else { continue };
        *place = match slot {
            Slot::Layer(workspace) => {
                let settled = settled.clone();
                let tree = blocking(move || commit(*workspace, settled)).await?;
                tree.ok().map(Snapshot::committed)
            }
            Slot::Input(index) => inputs.get(index).cloned(),
            Slot::Scratch => None,
        };
    }
    Ok(Remains { inputs: before, mounts: after, subject: Subject::Whole })
}

fn commit(
    workspace: Workspace,
    mut settled: Vec<PathBuf>,
) -> Result<crate::snapshot::Tree, Failure> {
    let upper = workspace.upper()?;
    // The deepest first, so that a directory emptied by the loop is seen empty.
    settled.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    workspace.commit_after(|| {
        for path in &settled {
            if let Some(path) = path.to_str() {
                drop_copied_up(&upper, path).map_err(Failure::store)?;
            }
        }
        Ok(())
    })
}

/// Removes a directory that the overlay copied up only because a mount point was made in it.
fn drop_copied_up(upper: &Root, path: &str) -> io::Result<()> {
    let Some((parent, name)) = split_last(path) else { return Ok(()) };
    let Ok(parent) = upper.directory(&parent) else { return Ok(()) };
    match rustix::fs::unlinkat(parent.as_fd(), name.as_str(), AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
