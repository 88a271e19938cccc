//! Programs with everything they need to start: their loader and their libraries, found as ld.so(8) finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::elf::{self, ElfError};

/// Where libraries are when nothing else is said, ld.so(8), with the directories of Debian's and of other systems.
const LIBRARIES: &[&str] = &[
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/usr/local/lib",
];

/// Most libraries of one set of programs; git with TLS needs some forty.
const MAX_FILES: usize = 512;

/// The files of some programs could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum ClosureError {
    /// A program or library cannot be read.
    #[error("find the libraries of a program")]
    Elf(#[from] ElfError),
    /// A library is nowhere.
    #[error("{program} needs {library}, which is in none of the usual directories")]
    Missing {
        /// Who needs it.
        program: PathBuf,
        /// Its name.
        library: String,
    },
    /// There is no end of libraries.
    #[error("programs of the guest need more than {MAX_FILES} libraries")]
    TooMany,
}

/// Where in the guest a file is, and where on the host it comes from.
#[derive(Debug, Default)]
pub(crate) struct Closure {
    files: BTreeMap<PathBuf, PathBuf>,
    seen: BTreeSet<PathBuf>,
    /// Directory of the C library, which every loader searches without being told.
    home: Option<PathBuf>,
}

impl Closure {
    /// Adds the program at `source` as `target`, with what it needs.
    pub(crate) fn add(&mut self, target: &Path, source: &Path) -> Result<(), ClosureError> {
        self.files.insert(merged(target), source.to_owned());
        let mut waiting = vec![source.to_owned()];
        while let Some(program) = waiting.pop() {
            let path = program.canonicalize().unwrap_or_else(|_| program.clone());
            if !self.seen.insert(path.clone()) {
                continue;
            }
            if self.seen.len() > MAX_FILES {
                return Err(ClosureError::TooMany);
            }
            let headers = elf::headers(&path)?;
            if let Some(loader) = &headers.interpreter {
                self.files.insert(merged(Path::new(loader)), loader.into());
            }
            for library in &headers.needed {
                let found = find(library, &headers.search, &path).ok_or_else(|| {
                    ClosureError::Missing { program: path.clone(), library: library.clone() }
                })?;
                if library.starts_with("libc.so.") {
                    self.home = found.parent().map(merged);
                }
                waiting.push(found.clone());
                self.libraries_insert(library, found);
            }
        }
        Ok(())
    }

    fn libraries_insert(&mut self, library: &str, found: PathBuf) {
        // By name for now: where they go is known when the C library was seen.
        self.files.insert(Path::new(BY_NAME).join(library), found);
    }

    /// All files: target and source.
    pub(crate) fn files(self) -> impl Iterator<Item = (PathBuf, PathBuf)> {
        let home = self.home.unwrap_or_else(|| "/usr/lib".into());
        self.files.into_iter().map(move |(target, source)| {
            match target.strip_prefix(BY_NAME) {
                // A loader is named by its path, and may be needed by name too.
                Ok(name) => (home.join(name), source),
                Err(_) => (target, source),
            }
        })
    }
}

/// Stands for the directory of libraries in [`Closure::files`].
const BY_NAME: &str = "//libraries";

/// The path in a tree where `/bin`, `/sbin`, `/lib` and `/lib64` are links into `/usr`, as the guest's is.
pub(crate) fn merged(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    for top in ["bin", "sbin", "lib", "lib64"] {
        if let Ok(rest) = path.strip_prefix(Path::new("/").join(top)) {
            return Path::new("/usr").join(top).join(rest);
        }
    }
    path.to_owned()
}

fn find(library: &str, search: &[String], program: &Path) -> Option<PathBuf> {
    let origin = program.parent()?.to_string_lossy();
    let own =
        search.iter().map(|path| path.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &origin));
    own.chain(LIBRARIES.iter().map(|path| (*path).to_owned()))
        .map(|directory| Path::new(&directory).join(library))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_comes_with_loader_and_libraries() {
        let mut closure = Closure::default();
        closure.add(Path::new("/init"), &std::env::current_exe().unwrap()).unwrap();
        let files: BTreeMap<_, _> = closure.files().collect();
        assert!(files.contains_key(Path::new("/init")));
        let named = |name: &str| files.keys().find(|path| path.ends_with(name));
        let library = named("libc.so.6").unwrap();
        assert!(library.starts_with("/usr/lib"), "{library:?}");
        assert!(files.keys().any(|path| path.to_string_lossy().contains("ld-linux")));
        assert!(!files.keys().any(|path| path.starts_with(BY_NAME)));
    }

    #[test]
    fn a_library_that_is_nowhere_is_named() {
        assert_eq!(find("libnowhere.so.1", &[], Path::new("/bin/x")), None);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("libhere.so.1"), "").unwrap();
        let program = dir.path().join("program");
        let found = find("libhere.so.1", &["$ORIGIN".to_owned()], &program);
        assert_eq!(found, Some(dir.path().join("libhere.so.1")));
    }

    #[test]
    fn paths_of_split_trees_are_merged() {
        assert_eq!(merged("/bin/sh"), Path::new("/usr/bin/sh"));
        assert_eq!(merged("/lib64/ld.so"), Path::new("/usr/lib64/ld.so"));
        assert_eq!(merged("/library"), Path::new("/library"));
    }
}
