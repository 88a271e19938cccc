//! Start-up: what the rows and the directories agree on is kept, everything else goes.
//!
//! Kept are partial downloads that are not too old, because they save a download; and mirrors,
//! unless the machine itself went down while they were open: their files may then be torn in a
//! way that their sizes and times do not show.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::OFlags;

use crate::database::Rows;
use crate::directory::{DirectoryEntry, DirectoryRow, Kind};
use crate::ids::{LayerId, name_of, number_of};
use crate::root::{self, Root, unlink};
use crate::state::{LayerEntry, State};
use crate::store::Store;
use crate::trash::Reaper;
use crate::walk::names;

/// A download that nobody continued for a day is not coming back.
pub(crate) const KEEP_PARTIAL: Duration = Duration::from_secs(24 * 60 * 60);
/// The file that says mirrors are open, and on which run of the machine.
const MIRROR_MARK: &str = "mirrors-open";
/// A boot id is a UUID.
const BOOT_ID_MAX: u64 = 64;

/// Fills the state from the rows and sweeps the directories.
pub(crate) fn fill_and_sweep(
    root: &Root,
    rows: Rows,
    state: &mut State,
    reaper: &Reaper,
    clean: bool,
) -> io::Result<()> {
    state.next_id = rows.next_id;
    state.record_blobs = rows.record_blobs.into_iter().collect();
    state.document_blobs = rows.document_blobs.into_iter().collect();
    fill_layers(root, rows.layers, state, reaper)?;
    fill_directories(root, rows.directories, state, reaper, clean)?;
    for name in names(root.active.as_fd())? {
        reaper.discard(root.active.as_fd(), &name)?;
    }
    for name in names(root.fresh.as_fd())? {
        unlink(root.fresh.as_fd(), &name)?;
    }
    for name in names(root.mounts.as_fd())? {
        let _ = rustix::fs::unlinkat(&root.mounts, &name, rustix::fs::AtFlags::REMOVEDIR);
    }
    for name in names(root.ingest.as_fd())? {
        let partial = !name.starts_with("tmp-");
        let young = root::age(root.ingest.as_fd(), &name).is_some_and(|age| age < KEEP_PARTIAL);
        if !(partial && young) {
            unlink(root.ingest.as_fd(), &name)?;
        }
    }
    if !names(root.trash.as_fd())?.is_empty() {
        reaper.kick();
    }
    Ok(())
}

/// Keeps layers that have both a row and a directory.
fn fill_layers(
    root: &Root,
    rows: Vec<(LayerId, crate::LayerInfo)>,
    state: &mut State,
    reaper: &Reaper,
) -> io::Result<()> {
    let dir = root.layers.as_fd();
    let mut present: HashSet<String> = names(dir)?.into_iter().collect();
    for (id, info) in rows {
        if !present.remove(&name_of(id.0)) {
            state.pending.removed_layers.insert(id);
            continue;
        }
        if let Some(chain_id) = info.chain_id {
            state.chains.insert(chain_id, id);
        }
        if info.usage.is_none() {
            state.uncounted.insert(id);
        }
        state.layers.insert(id, LayerEntry::stored(info));
    }
    for name in present {
        reaper.discard(dir, &name)?;
        skip_number(state, &name);
    }
    Ok(())
}

/// Keeps directories that have a row, their base, and contents to be trusted.
fn fill_directories(
    root: &Root,
    rows: Vec<(u64, DirectoryRow)>,
    state: &mut State,
    reaper: &Reaper,
    clean: bool,
) -> io::Result<()> {
    let dir = root.mutable.as_fd();
    let torn = mirrors_torn(root);
    let mut present: HashSet<String> = names(dir)?.into_iter().collect();
    for (id, mut row) in rows {
        let known = present.contains(&name_of(id));
        let based = row.base.iter().all(|layer| state.layers.contains_key(layer));
        if known && based && !(torn && row.kind == Kind::Mirror) {
            present.remove(&name_of(id));
            if !clean {
                // Whoever used it when the process died did not say what it takes now.
                row.usage = None;
            }
            state.directories.insert(id, DirectoryEntry::free(row));
        } else {
            state.pending.removed_directories.insert(id);
        }
    }
    for name in present {
        reaper.discard(dir, &name)?;
        skip_number(state, &name);
    }
    Ok(())
}

/// Numbers of what was swept are not given out again while messages may still name them.
fn skip_number(state: &mut State, name: &str) {
    if let Some(number) = number_of(name) {
        state.next_id = state.next_id.max(number.saturating_add(1));
    }
}

/// What tells one run of the machine from another; empty when that cannot be known.
pub(crate) fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// Whether the machine went down while mirrors were open.
fn mirrors_torn(root: &Root) -> bool {
    let Ok(mark) = root::open(root.top.as_fd(), MIRROR_MARK, OFlags::RDONLY) else { return false };
    let mut text = String::new();
    let read = std::fs::File::from(mark).take(BOOT_ID_MAX).read_to_string(&mut text);
    let boot = boot_id();
    read.is_err() || boot.is_empty() || text != boot
}

/// Writes the mark, once, before the first mirror is given out.
pub(crate) fn mark_mirrors(store: &Store) -> io::Result<()> {
    if store.mirrors_marked.load(Ordering::SeqCst) {
        return Ok(());
    }
    let top = store.root.top.as_fd();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut file = std::fs::File::from(root::open(top, MIRROR_MARK, flags)?);
    file.write_all(boot_id().as_bytes())?;
    file.sync_all()?;
    rustix::fs::fsync(top)?;
    store.mirrors_marked.store(true, Ordering::SeqCst);
    Ok(())
}

/// Takes the mark away after everything was made durable.
pub(crate) fn clear_mirror_mark(root: &Root) {
    let cleared =
        rustix::fs::syncfs(&root.top).and_then(|()| unlink(root.top.as_fd(), MIRROR_MARK));
    if let Err(error) = cleared {
        tracing::debug!(%error, "mirrors will be made anew after a restart of the machine");
    }
}
