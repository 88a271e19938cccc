//! The builders that this user trusts and denies: `trust.toml` next to the configuration.
//!
//! Unlike tokens it may be read by others; it may be written by its owner only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use cofferdam_buildpacks::TrustFile;

use crate::accounts::{configuration_directory, replace_private};

/// Largest file; the parser's own bound is the same.
const LARGEST: u64 = cofferdam_cnb::MAX_FILE as u64;

/// Access that would let somebody else decide.
const OTHERS_WRITE: u32 = 0o022;

/// Where it is.
pub(crate) fn path() -> anyhow::Result<PathBuf> {
    let directory = configuration_directory();
    Ok(directory.context("no place for trust: set XDG_CONFIG_HOME or HOME")?.join("trust.toml"))
}

/// This user's; nobody when there is no place for it.
pub(crate) fn of_this_user() -> anyhow::Result<TrustFile> {
    path().map_or_else(|_| Ok(TrustFile::default()), |path| load(&path))
}

/// What is in `path`; nobody when there is no such file.
pub(crate) fn load(path: &Path) -> anyhow::Result<TrustFile> {
    let failed = || format!("read {}", path.display());
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TrustFile::default()),
        file => file.with_context(failed)?,
    };
    ensure!(
        file.metadata().with_context(failed)?.mode() & OTHERS_WRITE == 0,
        "{} says whom to trust and others can write it: chmod 600 it",
        path.display()
    );
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(failed)?;
    Ok(TrustFile::parse(&path.display().to_string(), &bytes)?)
}

/// Replaces the file in `path`, whole or not at all.
pub(crate) fn store(path: &Path, trust: &TrustFile) -> anyhow::Result<()> {
    replace_private(path, trust.render().as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use cofferdam_buildpacks::TrustEntry;

    use super::*;

    #[test]
    fn what_is_stored_is_there_and_the_users_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/trust.toml");
        assert_eq!(load(&path).unwrap(), TrustFile::default());
        let mut trust = TrustFile::default();
        trust.add(TrustEntry::parse("r.example/b").unwrap());
        trust.deny(TrustEntry::parse("evil/x:1").unwrap());
        store(&path, &trust).unwrap();
        assert_eq!(load(&path).unwrap(), trust);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_others_wrote_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.toml");
        for (bits, fine) in [(0o600, true), (0o644, true), (0o620, false), (0o602, false)] {
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(bits)).unwrap();
            assert_eq!(load(&path).is_ok(), fine, "{bits:o}");
        }
        std::fs::write(&path, "[[denied]]\nname = \"x\"\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("trust.toml"));
    }
}
