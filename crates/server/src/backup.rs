//! Backups of a data directory: made while a server runs, checked, and restored into an empty one.
//!
//! A backup is a directory: `records.db` as of one moment, the logs of its builds, the blobs that its registry's index names, a
//! list of all files with their digests, and last of all `manifest.json`, without which it is none. Caches of builders are not in
//! it: they can be made again, and they are most of the disk. There is no secret in it that is not a hash, but what tenants built.
//!
//! Nothing in a backup is believed before its digest was computed, and nothing is written over. All of this blocks its thread: it
//! is for commands of their own and not for a server.

mod create;
mod files;
mod manifest;
mod restore;

use std::io;
use std::path::{Path, PathBuf};

use cofferdam_records::RecordsError;
use cofferdam_registry::{CollectError, OpenRegistryError};

use crate::layout::LayoutError;
use crate::run::ServerError;

pub use create::create;
pub use restore::{restore, verify};

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The program that made it, with its version.
    pub program: String,
    /// When its records were copied, RFC 3339.
    pub made_at: String,
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was missing or damaged in the data directory already, one line each: it is not in the backup either.
    pub incomplete: Vec<String>,
}

/// A backup could not be made, checked or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file or directory of one side.
    #[error("{action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// There is nothing to save.
    #[error("{} has no records: it is no server's data directory", path.display())]
    NoRecords {
        /// The directory.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("{} is not empty: name a directory that is, or none yet", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The backup would be part of what it saves.
    #[error("{} is in the data directory: a backup belongs elsewhere, best on another disk", path.display())]
    Inside {
        /// Where it should have gone.
        path: PathBuf,
    },
    /// There is no manifest.
    #[error("{} is no backup, or one that was not finished: it has no manifest.json", path.display())]
    NoBackup {
        /// The directory.
        path: PathBuf,
    },
    /// A newer program made it.
    #[error(
        "the backup {} has version {found}, made by {program}, and this program knows versions up to {known}: use the newer program",
        path.display()
    )]
    Newer {
        /// The backup.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest one known.
        known: u32,
        /// The program that it names.
        program: String,
    },
    /// A newer program gave the data directory its form.
    #[error(
        "the backup {} is of a data directory with layout {found}, made by {program}, and this program knows layouts up to {known}: use the newer program",
        path.display()
    )]
    NewerLayout {
        /// The backup.
        path: PathBuf,
        /// The layout.
        found: u32,
        /// The newest one known.
        known: u32,
        /// The program that it names.
        program: String,
    },
    /// A file is not what it was.
    #[error("the backup is damaged: {file} {why}")]
    Damaged {
        /// Which file of the backup.
        file: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The version of the data directory.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The data directory cannot be taken.
    #[error(transparent)]
    Taken(#[from] ServerError),
    /// The records.
    #[error("copy the records")]
    Records(#[from] RecordsError),
    /// The copied images.
    #[error(transparent)]
    Registry(#[from] OpenRegistryError),
    /// The copied images of a project.
    #[error("check the copied images of project {project}")]
    Images {
        /// The project.
        project: String,
        /// Why it did not work.
        #[source]
        source: CollectError,
    },
}

/// Reads arbitrary bytes as the manifest and the list of a backup, as whoever brings one could have written them.
pub fn exercise(data: &[u8]) {
    manifest::exercise(data);
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> BackupError + use<> {
    let path = path.to_owned();
    move |source| BackupError::File { action, path: path.clone(), source }
}

/// Whether a directory has nothing in it but what is named; one that is not there has nothing.
fn is_empty(path: &Path, but: &[&str]) -> Result<bool, BackupError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(failed("read", path)(error)),
    };
    for entry in entries {
        let name = entry.map_err(failed("read", path))?.file_name();
        if !but.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}
