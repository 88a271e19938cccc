//! What layers of an image have for its processes: directories and files, by name, with bounds.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::LaunchError;

/// Most entries of a directory that is listed: layers of a buildpack, its files of variables and its
/// scripts are a handful.
const MAX_ENTRIES: usize = 10_000;
/// Largest file that is read. Linux takes no variable of more than 128 KiB.
pub(crate) const MAX_FILE: usize = 1 << 20;

/// Layers of one buildpack, by name.
pub(crate) fn layers(buildpack: &Path) -> Result<Vec<PathBuf>, LaunchError> {
    list(buildpack, true)
}

/// Files of a directory, links among them, by name.
pub(crate) fn scripts(directory: &Path) -> Result<Vec<PathBuf>, LaunchError> {
    list(directory, false)
}

/// Files of a directory of variables; links to files count.
pub(crate) fn variables(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, LaunchError> {
    let mut files = BTreeMap::new();
    for path in list(directory, false)? {
        let name = path.file_name().and_then(|name| name.to_str());
        // A name that is not UTF-8 is no name of a variable.
        if let Some(name) = name.filter(|_| path.is_file()) {
            files.insert(name.to_owned(), read(&path)?);
        }
    }
    Ok(files)
}

/// A whole file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LaunchError> {
    let error = |source| LaunchError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(error)?;
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() > MAX_FILE {
        return Err(LaunchError::Limit { path: path.to_owned(), limit: MAX_FILE, what: "bytes" });
    }
    Ok(bytes)
}

fn list(directory: &Path, directories: bool) -> Result<Vec<PathBuf>, LaunchError> {
    let error = |source| LaunchError::Read { path: directory.to_owned(), source };
    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if absent.contains(&error.kind()) => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut paths = Vec::new();
    for (count, entry) in entries.enumerate() {
        let entry = entry.map_err(error)?;
        if count >= MAX_ENTRIES {
            let path = directory.to_owned();
            return Err(LaunchError::Limit { path, limit: MAX_ENTRIES, what: "entries" });
        }
        if entry.file_type().map_err(error)?.is_dir() == directories {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}
