//! What the store takes on disk, part by part: what `du` would say of its directory.
//!
//! Layers and free directories are what their rows say; all else is looked at. What steps write
//! to at this moment is walked as it is, so a figure is that of some moment of the walk.

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;

use cofferdam_digest::Digest;

use crate::directory::Hold;
use crate::ids::name_of;
use crate::root::{disk_size, open_directory};
use crate::state::lock;
use crate::store::Store;
use crate::walk;

/// Bytes on disk, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Committed layers.
    pub layers: u64,
    /// Cache mounts and mirrors, in use or not.
    pub directories: u64,
    /// Complete blobs.
    pub blobs: u64,
    /// Blobs under way and downloads to be taken up again.
    pub partial: u64,
    /// Layers being made.
    pub active: u64,
    /// What waits for deletion.
    pub trash: u64,
    /// The records' file.
    pub database: u64,
    /// The directories that hold all this, and small files.
    pub other: u64,
}

impl DiskUsage {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let contents = self.layers + self.directories + self.blobs + self.partial;
        contents + self.active + self.trash + self.database + self.other
    }
}

impl Store {
    /// What the store takes on disk. *Blocking*: walks what changes at this moment.
    ///
    /// # Errors
    /// A part of the store cannot be read.
    pub fn disk(&self) -> io::Result<DiskUsage> {
        self.measure();
        let mut usage = DiskUsage::default();
        let in_use: Vec<(u64, u64)> = {
            let state = lock(&self.state);
            let layers = state.layers.values().filter_map(|entry| entry.info.usage);
            usage.layers = layers.map(|usage| usage.bytes).sum();
            let mut in_use = Vec::new();
            for (id, entry) in &state.directories {
                match entry.row.usage {
                    Some(counted) if entry.hold == Hold::Free => usage.directories += counted.bytes,
                    _ => in_use.push((*id, entry.counted.bytes)),
                }
            }
            in_use
        };
        for (id, counted) in in_use {
            let opened = open_directory(self.root.mutable.as_fd(), &name_of(id));
            usage.directories += opened.map_or(counted, |directory| {
                let (found, complete) = walk::measure_live(directory);
                if complete { found.bytes } else { found.bytes.max(counted) }
            });
        }
        for dir in [&self.root.fresh, &self.root.content] {
            let names = walk::names(dir.as_fd())?;
            usage.blobs += names.iter().map(|name| disk_size(dir.as_fd(), name)).sum::<u64>();
        }
        let ingest = self.root.ingest.as_fd();
        usage.partial = walk::names(ingest)?.iter().map(|name| disk_size(ingest, name)).sum();
        let top = self.root.top.as_fd();
        usage.active = walk::measure_live(open_directory(top, "active")?).0.bytes;
        usage.trash = walk::measure_live(open_directory(top, "trash")?).0.bytes;
        usage.database = disk_size(top, "records");
        let counted = ["active", "trash", "records"];
        let others = walk::names(top)?;
        let others = others.iter().map(String::as_str).chain(["."]);
        usage.other =
            others.filter(|name| !counted.contains(name)).map(|name| disk_size(top, name)).sum();
        Ok(usage)
    }

    /// What blobs take that only documents keep which do not go by age: their owner bounds them.
    pub(crate) fn kept_by_documents(&self) -> u64 {
        let kept: HashSet<Digest> = {
            let state = lock(&self.state);
            let layers = state.layers.values().flat_map(|entry| &entry.info.blobs);
            let of_layers: HashSet<Digest> = layers.map(|blob| blob.digest).collect();
            let lasting = state.document_blobs.iter().filter(|(name, _)| {
                let (kind, _) = name;
                !state.aging.contains_key(kind)
            });
            let kept = lasting.flat_map(|(_, blobs)| blobs.iter().copied());
            kept.filter(|digest| !of_layers.contains(digest)).collect()
        };
        let names = kept.iter().map(Digest::hex);
        let (fresh, content) = (self.root.fresh.as_fd(), self.root.content.as_fd());
        names.map(|name| disk_size(fresh, &name) + disk_size(content, &name)).sum()
    }
}
