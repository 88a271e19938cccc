//! Files of a backup and of a data directory: found beneath a directory's descriptor, with digests computed on the way.
//!
//! Names pass a grammar before they are looked up, and links are refused: a backup may have come from anywhere.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256, Sha512};

/// Longest name with everything above it.
const MAX_PATH: usize = 512;
/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;
/// Times a lookup is repeated when something was renamed meanwhile.
const TRIES: usize = 100;
/// What a data directory has that backups have too.
pub(super) const RECORDS: &str = "records.db";
pub(super) const LOGS: &str = "logs";
pub(super) const REGISTRY: &str = "registry";

/// Whether a name is one that we give: plain components, in one of the places that are saved.
pub(super) fn is_ours(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let component =
        |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(plain);
    let place = path.split('/').next().unwrap_or_default();
    path.len() <= MAX_PATH
        && path.split('/').all(component)
        && (path == RECORDS || path != place && (place == LOGS || place == REGISTRY))
}

/// A directory in which files are found.
#[derive(Debug)]
pub(super) struct Beneath(OwnedFd);

impl Beneath {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Opens a regular file for reading, if it is there.
    pub(super) fn file(&self, path: &str) -> io::Result<Option<File>> {
        let file = match lookup(&self.0, path, OFlags::RDONLY | OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Some(file))
    }

    /// Makes a file that is not there yet, and the directories above it; they are their owner's alone.
    pub(super) fn create(&self, path: &str) -> io::Result<File> {
        let mut directory = self.0.try_clone()?;
        let mut rest = path;
        while let Some((first, below)) = rest.split_once('/') {
            match rustix::fs::mkdirat(&directory, first, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            directory = lookup(&directory, first, OFlags::RDONLY | OFlags::DIRECTORY)?;
            rest = below;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(File::from(lookup(&directory, rest, flags)?))
    }

    /// Brings everything on its file system to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }
}

fn lookup(directory: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(directory, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

/// How a digest is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Sha256,
    Sha512,
}

/// A digest as text: `<algorithm>:<lower-case hex>`, always well formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digest {
    algorithm: Algorithm,
    hex: String,
}

impl Digest {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        let (algorithm, digits) = match algorithm {
            "sha256" => (Algorithm::Sha256, 64),
            "sha512" => (Algorithm::Sha512, 128),
            _ => return None,
        };
        let lower = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let well_formed = hex.len() == digits && hex.bytes().all(lower);
        well_formed.then(|| Self { algorithm, hex: hex.to_owned() })
    }

    pub(super) const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Where the registry has the blob of this digest.
    pub(super) fn place(&self, project: &str) -> String {
        let (name, hex) = (self.algorithm.name(), &self.hex);
        format!("{REGISTRY}/{project}/blobs/{name}/{}/{hex}", &hex[..2])
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.algorithm.name(), self.hex)
    }
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    fn finish(self) -> Digest {
        let (algorithm, hex) = match self {
            Self::Sha256(hash) => (Algorithm::Sha256, hex::encode(hash.finalize())),
            Self::Sha512(hash) => (Algorithm::Sha512, hex::encode(hash.finalize())),
        };
        Digest { algorithm, hex }
    }
}

/// Passes everything on; the digest of it, and how many bytes it was.
pub(super) fn pour(
    mut from: impl Read,
    to: &mut dyn Write,
    algorithm: Algorithm,
) -> io::Result<(Digest, u64)> {
    let mut hasher = match algorithm {
        Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
        Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
    };
    let mut chunk = vec![0; CHUNK];
    let mut bytes = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok((hasher.finish(), bytes)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(&chunk[..read]);
        to.write_all(&chunk[..read])?;
        bytes += read as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_lead_nowhere_else() {
        for ours in ["records.db", "logs/p/b/0", "registry/p/blobs/sha256/e3/e3b0"] {
            assert!(is_ours(ours), "{ours}");
        }
        let long = format!("logs/{}", "x".repeat(MAX_PATH));
        for other in [
            "",
            "logs",
            "registry",
            "lock",
            "layout",
            "records.db-wal",
            "records.db/x",
            "/logs/x",
            "logs/../x",
            "logs//x",
            "logs/./x",
            "logs/x/",
            "projects/p/x",
            "logs/a b",
            "logs/\n",
            &long,
        ] {
            assert!(!is_ours(other), "{other:?}");
        }
    }

    #[test]
    fn links_are_refused_and_nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let beneath = Beneath::open(dir.path()).unwrap();
        assert!(beneath.file("logs/p/0").unwrap().is_none());
        beneath.create("logs/p/0").unwrap().write_all(b"x").unwrap();
        beneath.create("logs/p/0").unwrap_err();
        let file = beneath.file("logs/p/0").unwrap().unwrap();
        let (digest, bytes) = pour(file, &mut io::sink(), Algorithm::Sha256).unwrap();
        assert_eq!(bytes, 1);
        assert_eq!(Digest::parse(&digest.to_string()), Some(digest));
        std::os::unix::fs::symlink("/etc", dir.path().join("registry")).unwrap();
        beneath.file("registry/hostname").unwrap_err();
        beneath.create("registry/x").unwrap_err();
        beneath.file("logs/p").unwrap_err();
    }

    #[test]
    fn digests_are_strict() {
        let hex = "a".repeat(64);
        assert!(Digest::parse(&format!("sha256:{hex}")).is_some());
        for bad in [hex.clone(), format!("sha512:{hex}"), format!("sha256:{}/", &hex[1..])] {
            assert!(Digest::parse(&bad).is_none(), "{bad}");
        }
    }
}
