//! Looking whether the disk holds what the records say.
//!
//! Meant for a store at rest; beside builds it reads a lot but reports nothing that is merely
//! under way. Without `repair` it must never change anything.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cofferdam_digest::Digest;

use crate::content;
use crate::directory::Hold;
use crate::error::RecordError;
use crate::ids::{LayerId, name_of, number_of};
use crate::loss::{is_damage, is_intact};
use crate::prune::{Above, forget_layer};
use crate::root::open_directory;
use crate::state::{State, lock};
use crate::store::Store;
use crate::walk;

/// What a count may be off: file systems move blocks about after the fact.
const SLACK: u64 = 64 << 10;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Trouble {
    /// A blob has other bytes than its name says, or the disk fails to give them.
    Blob {
        /// The blob.
        digest: Digest,
    },
    /// A file or directory that nothing names.
    Orphan {
        /// Its path within the store.
        path: String,
    },
    /// A layer or directory that is gone from the disk, or a record that cannot be read.
    Row {
        /// What it is, for people.
        name: String,
    },
    /// A layer takes other space than was counted.
    Size {
        /// The layer.
        id: LayerId,
        /// What was counted.
        counted: u64,
        /// What it takes.
        found: u64,
    },
}

impl Store {
    /// Compares the disk with the records. With `repair`, wrong blobs and orphans are set aside,
    /// rows without files forgotten and sizes counted anew; held things are only reported.
    /// *Blocking*, and long: reads every blob.
    ///
    /// # Errors
    /// A part of the store or the records cannot be read at all.
    pub fn verify(&self, repair: bool) -> Result<Vec<Trouble>, RecordError> {
        let mut found = Vec::new();
        let failed = |source| RecordError::Verify { source };
        self.verify_blobs(repair, &mut found).map_err(failed)?;
        let (layers, mutable) = (&self.root.layers, &self.root.mutable);
        self.verify_part("layers", layers, repair, &mut found).map_err(failed)?;
        self.verify_part("mutable", mutable, repair, &mut found).map_err(failed)?;
        self.verify_sizes(repair, &mut found);
        for identity in self.database.unreadable_records()? {
            found.push(Trouble::Row { name: format!("record {identity}") });
            if repair {
                self.remove_record(&identity);
            }
        }
        if repair && !found.is_empty() {
            self.flush()?;
        }
        Ok(found)
    }

    fn verify_blobs(&self, repair: bool, found: &mut Vec<Trouble>) -> io::Result<()> {
        for digest in content::stored(&self.root)? {
            match is_intact(&self.root, &digest, true) {
                Ok(true) => continue,
                Ok(false) => {}
                // Evicted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
            found.push(Trouble::Blob { digest });
            if repair {
                self.distrust(&digest);
            }
        }
        for (part, dir) in [("fresh", &self.root.fresh), ("content", &self.root.content)] {
            for name in walk::names(dir.as_fd())? {
                if Digest::parse(&format!("sha256:{name}")).is_err() {
                    self.orphan(part, dir, &name, repair, found)?;
                }
            }
        }
        Ok(())
    }

    /// Layers or mutable directories against their rows.
    fn verify_part(
        &self,
        part: &str,
        dir: &OwnedFd,
        repair: bool,
        found: &mut Vec<Trouble>,
    ) -> io::Result<()> {
        let names: HashSet<String> = walk::names(dir.as_fd())?.into_iter().collect();
        // A layer gets its directory, then its row, and only then stops being an active one.
        let active: HashSet<String> = walk::names(self.root.active.as_fd())?.into_iter().collect();
        let orphans: Vec<&String> = {
            let state = lock(&self.state);
            let unnamed = |name: &&String| !is_named(&state, part, name) && !active.contains(*name);
            names.iter().filter(unnamed).collect()
        };
        for name in orphans {
            self.orphan(part, dir, name, repair, found)?;
        }
        let mut state = lock(&self.state);
        let rows: Vec<u64> = match part {
            "layers" => state.layers.keys().map(|id| id.0).collect(),
            _ => state.directories.keys().copied().collect(),
        };
        for id in rows {
            let name = name_of(id);
            // Those that are younger than the look at the directory are looked for again.
            if names.contains(&name) || open_directory(dir.as_fd(), &name).is_ok() {
                continue;
            }
            found.push(Trouble::Row { name: format!("{part}/{name}") });
            if repair {
                self.forget(&mut state, part, id);
            }
        }
        Ok(())
    }

    fn orphan(
        &self,
        part: &str,
        dir: &OwnedFd,
        name: &str,
        repair: bool,
        found: &mut Vec<Trouble>,
    ) -> io::Result<()> {
        if rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_err() {
            // Evicted meanwhile.
            return Ok(());
        }
        found.push(Trouble::Orphan { path: format!("{part}/{name}") });
        if repair { self.reaper.discard(dir.as_fd(), name) } else { Ok(()) }
    }

    /// Forgets a row without files, unless somebody holds what it tells of.
    fn forget(&self, state: &mut State, part: &str, id: u64) {
        if part != "layers" {
            if state.directories.get(&id).is_some_and(|entry| entry.hold == Hold::Free) {
                self.remove_directory(state, id);
            }
            return;
        }
        let id = LayerId(id);
        if state.layers.get(&id).is_none_or(|entry| entry.in_use()) {
            return;
        }
        if let Some(entry) = state.layers.remove(&id) {
            forget_layer(state, id, entry.info.chain_id, Above::Others);
        }
    }

    fn verify_sizes(&self, repair: bool, found: &mut Vec<Trouble>) {
        let layers: Vec<(LayerId, u64)> = {
            let state = lock(&self.state);
            let counted = state.layers.iter().filter(|(_, entry)| entry.durable);
            counted.filter_map(|(id, entry)| Some((*id, entry.info.usage?.bytes))).collect()
        };
        for (id, counted) in layers {
            // What is gone was told of already, or was evicted meanwhile.
            let opened = open_directory(self.root.layers.as_fd(), &name_of(id.0));
            let Ok(usage) = opened.map_err(io::Error::from).and_then(walk::measure) else {
                continue;
            };
            if usage.bytes.abs_diff(counted) <= (counted / 100).max(SLACK) {
                continue;
            }
            found.push(Trouble::Size { id, counted, found: usage.bytes });
            if !repair {
                continue;
            }
            let mut state = lock(&self.state);
            if let Some(entry) = state.layers.get_mut(&id) {
                entry.info.usage = Some(usage);
                state.pending.layers.insert(id);
            }
        }
    }
}

/// Whether something in memory is called so.
fn is_named(state: &State, part: &str, name: &str) -> bool {
    let Some(number) = number_of(name) else { return false };
    if part != "layers" {
        return state.directories.contains_key(&number);
    }
    let id = LayerId(number);
    state.layers.contains_key(&id) || state.lost_layers.iter().any(|(lost, _)| *lost == id)
}
