//! What a dynamically linked program needs in order to start, read from its ELF headers (System V ABI, gABI 5.0).
//!
//! Only programs of the host are read here, never anything a tenant wrote.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::read::{ReadCache, ReadRef};

/// Longest name in a dynamic section; paths of libraries are shorter.
const MAX_NAME: u64 = 4096;

/// A program could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// The file cannot be opened.
    #[error("open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no program this machine runs.
    #[error("read the ELF headers of {path}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: object::read::Error,
    },
}

/// What the headers of a program or library say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Headers {
    /// The program that loads it.
    pub(crate) interpreter: Option<String>,
    /// Names of libraries.
    pub(crate) needed: Vec<String>,
    /// Where it wants them looked for, first.
    pub(crate) search: Vec<String>,
    /// Length of the file up to the end of what is loaded: behind it are sections for debuggers.
    pub(crate) loaded: u64,
}

/// Reads the headers of the program or library at `path`.
pub(crate) fn headers(path: &Path) -> Result<Headers, ElfError> {
    let file =
        File::open(path).map_err(|source| ElfError::Open { path: path.to_owned(), source })?;
    let cache = ReadCache::new(file);
    parse(&cache).map_err(|source| ElfError::Parse { path: path.to_owned(), source })
}

fn parse<'d, R: ReadRef<'d>>(data: R) -> object::read::Result<Headers> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut found = Headers::default();
    let mut dynamic = None;
    for segment in segments {
        if segment.p_type(endian) == object::elf::PT_LOAD {
            let end = segment.p_offset(endian).saturating_add(segment.p_filesz(endian));
            found.loaded = found.loaded.max(end);
        }
        if let Some(interpreter) = segment.interpreter(endian, data)? {
            found.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
        }
        dynamic = dynamic.or(segment.dynamic(endian, data)?);
    }
    let Some(dynamic) = dynamic else { return Ok(found) };
    let value = |tag| dynamic.iter().find(|entry| entry.d_tag(endian) == tag);
    let Some(table) = value(object::elf::DT_STRTAB) else { return Ok(found) };
    let address = table.d_val(endian);
    // The table's address is virtual; the segment that holds it says where in the file that is.
    let Some(start) = segments.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.p_vaddr(endian))?;
        (segment.p_type(endian) == object::elf::PT_LOAD && offset < segment.p_filesz(endian))
            .then(|| segment.p_offset(endian) + offset)
    }) else {
        return Ok(found);
    };
    let text = |entry: &<FileHeader64<Endianness> as FileHeader>::Dyn| {
        let from = start.saturating_add(entry.d_val(endian));
        let bytes = data.read_bytes_at_until(from..from.saturating_add(MAX_NAME), 0).ok()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    for entry in dynamic {
        match entry.d_tag(endian) {
            object::elf::DT_NEEDED => found.needed.extend(text(entry)),
            object::elf::DT_RPATH | object::elf::DT_RUNPATH => {
                let paths = text(entry).unwrap_or_default();
                found.search.extend(paths.split(':').map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_program_needs_the_c_library() {
        let path = std::env::current_exe().unwrap();
        let found = headers(&path).unwrap();
        assert!(found.needed.iter().any(|name| name.starts_with("libc.so")), "{found:?}");
        assert!(found.interpreter.unwrap().contains("ld-linux"));
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(found.loaded > 0 && found.loaded < length, "a test program has debug sections");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "#!/bin/sh\n").unwrap();
        assert!(matches!(headers(file.path()), Err(ElfError::Parse { .. })));
        assert!(matches!(headers(Path::new("/nowhere")), Err(ElfError::Open { .. })));
    }
}
