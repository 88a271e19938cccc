//! The version of a directory of ours: a small file in it says which form it has, and which program gave it that form.
//!
//! A directory without the file has version 1, as all had before there was one. What is older is brought along one version at a
//! time; what is newer is refused, and who wrote it named. Nothing else in a directory may be touched before its version is known.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// The file.
const FILE: &str = "layout";
/// The file before it has its name.
const PART: &str = "layout.part";
/// What is in a directory that holds nothing yet.
const NOTHING: &[&str] = &["lock", PART];
/// Longest file; two lines are far below.
const MAX_FILE: u64 = 4096;
/// Longest name of a program that is repeated.
const MAX_PROGRAM: usize = 100;
/// Stands for a version while a directory is being filled from a backup.
const UNFINISHED: u32 = 0;
/// This program, as the file names it.
const PROGRAM: &str = concat!("cofferdam ", env!("CARGO_PKG_VERSION"));

/// How a directory comes from one version to the next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Nothing in it is different.
    Noted,
    /// Work in the directory, beneath its descriptor: what is below may be a tenant's. A crash may come at any moment: doing it again must be harmless.
    #[cfg_attr(not(test), expect(dead_code, reason = "no version has needed any so far"))]
    Changed(fn(&OwnedFd) -> io::Result<()>),
}

/// The versions of one kind of directory.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// What such a directory is called.
    what: &'static str,
    /// What each version but the first adds to the one before. Further ones are appended.
    steps: &'static [Step],
}

/// A server's data directory. 2: the version is noted.
pub const SERVER: Layout = Layout { what: "data directory", steps: &[Step::Noted] };

/// A builder's root. 2: the version is noted.
pub const BUILDER: Layout = Layout { what: "builder's root", steps: &[Step::Noted] };

/// A directory's version cannot be known, or is none that this program can work with.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file or the directory.
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
    /// The file says no version.
    #[error("{} says no version: it is damaged", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
    /// A restore stopped in the middle.
    #[error("{} was being restored from a backup, and that was not finished: empty it and restore again", dir.display())]
    Unfinished {
        /// The directory.
        dir: PathBuf,
    },
    /// A newer program gave it its form.
    #[error(
        "the {what} {} has layout {found}, written by {program}, and this program ({PROGRAM}) knows layouts up to {known}: use the newer program",
        dir.display()
    )]
    Newer {
        /// What it is.
        what: &'static str,
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
        /// The newest one known.
        known: u32,
        /// The program that the file names.
        program: String,
    },
    /// An older program gave it its form, and it is not to be changed.
    #[error(
        "the {what} {} has layout {found}, and this program ({PROGRAM}) needs layout {known}: start the server with this program first",
        dir.display()
    )]
    Older {
        /// What it is.
        what: &'static str,
        /// The directory.
        dir: PathBuf,
        /// Its version.
        found: u32,
        /// The one needed.
        known: u32,
    },
    /// It could not be brought to a version; what was done is done again the next time.
    #[error("bring {} to layout {to}", dir.display())]
    Migrate {
        /// The directory.
        dir: PathBuf,
        /// The version.
        to: u32,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A directory that can be used, whose version may not be noted yet.
#[derive(Debug)]
#[must_use = "the version is to be noted"]
pub struct Unnoted<'a> {
    dir: &'a Path,
    /// None if it was noted before.
    version: Option<u32>,
}

impl Unnoted<'_> {
    /// Notes the version, if it is not; waits for the disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn note(self) -> Result<(), LayoutError> {
        self.version.map_or(Ok(()), |version| note(self.dir, version))
    }
}

/// What the file says.
struct Noted {
    version: u32,
    program: String,
}

impl Layout {
    /// The version that this program brings directories to.
    #[must_use]
    pub fn known(&self) -> u32 {
        u32::try_from(self.steps.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Gives a directory the form that this program knows. The caller holds the directory's lock.
    ///
    /// # Errors
    /// It has a newer form, was left by an unfinished restore, or cannot be changed.
    pub fn bring_up_to_date(&self, dir: &Path) -> Result<(), LayoutError> {
        self.prepare(dir)?.note()
    }

    /// The same, but that of a directory with nothing in it the version is not noted yet, which waits twice for the disk. Until it is
    /// noted, nothing may be in it that a later version would change.
    ///
    /// # Errors
    /// As of [`Self::bring_up_to_date`].
    pub fn prepare<'a>(&self, dir: &'a Path) -> Result<Unnoted<'a>, LayoutError> {
        let noted = read(dir)?;
        if noted.is_none() && holds_nothing(dir)? {
            return Ok(Unnoted { dir, version: Some(self.known()) });
        }
        self.migrate(dir, noted)?;
        Ok(Unnoted { dir, version: None })
    }

    fn migrate(&self, dir: &Path, noted: Option<Noted>) -> Result<(), LayoutError> {
        let found = self.judge(dir, noted)?;
        for (step, to) in self.missing(found) {
            if let Step::Changed(change) = step {
                let failed = |source| LayoutError::Migrate { dir: dir.to_owned(), to, source };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let opened = rustix::fs::open(dir, flags, Mode::empty());
                opened.map_err(io::Error::from).and_then(|dir| change(&dir)).map_err(failed)?;
            }
            match note(dir, to) {
                // A full disk is no reason to stop: what is here can be used as it is, and room can be made.
                Err(LayoutError::File { source, .. })
                    if is_full(&source) && !self.differs(found) =>
                {
                    tracing::warn!(dir = %dir.display(), "no room to note the version of the {}", self.what);
                    return Ok(());
                }
                noted => noted?,
            }
            tracing::info!(dir = %dir.display(), layout = to, "brought the {} up to date", self.what);
        }
        Ok(())
    }

    /// The version of a directory that somebody else may be using; it stays as it is.
    ///
    /// # Errors
    /// It has a form that this program cannot work with as it is.
    pub fn expect(&self, dir: &Path) -> Result<u32, LayoutError> {
        let noted = read(dir)?;
        let found = self.judge(dir, noted)?;
        if self.differs(found) {
            let (what, dir, known) = (self.what, dir.to_owned(), self.known());
            return Err(LayoutError::Older { what, dir, found, known });
        }
        Ok(found)
    }

    /// Marks an empty directory as one that is being filled: no server takes it before [`Self::filled`].
    pub(crate) fn filling(&self, dir: &Path) -> Result<(), LayoutError> {
        note(dir, UNFINISHED)
    }

    /// Says that a directory has been filled with what a version has.
    pub(crate) fn filled(&self, dir: &Path, version: u32) -> Result<(), LayoutError> {
        note(dir, version)
    }

    /// The version that was noted, unless nobody can work with it here.
    fn judge(&self, dir: &Path, noted: Option<Noted>) -> Result<u32, LayoutError> {
        let Some(Noted { version, program }) = noted else { return Ok(1) };
        let dir = dir.to_owned();
        match version {
            UNFINISHED => Err(LayoutError::Unfinished { dir }),
            found if found > self.known() => {
                let (what, known) = (self.what, self.known());
                Err(LayoutError::Newer { what, dir, found, known, program })
            }
            found => Ok(found),
        }
    }

    /// What a version lacks, with the version that each step leads to.
    fn missing(&self, found: u32) -> impl Iterator<Item = (Step, u32)> + use<> {
        let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
        self.steps.iter().copied().zip(2_u32..).skip(done)
    }

    /// Whether anything but the number lies between a version and this program's.
    fn differs(&self, found: u32) -> bool {
        self.missing(found).any(|(step, _)| matches!(step, Step::Changed(_)))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> LayoutError + use<> {
    let path = path.to_owned();
    move |source| LayoutError::File { action, path: path.clone(), source }
}

/// Whether a directory has nothing in it but what is there before the version.
fn holds_nothing(dir: &Path) -> Result<bool, LayoutError> {
    for entry in std::fs::read_dir(dir).map_err(failed("read", dir))? {
        let name = entry.map_err(failed("read", dir))?.file_name();
        if !NOTHING.iter().any(|known| name == *known) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read(dir: &Path) -> Result<Option<Noted>, LayoutError> {
    let path = dir.join(FILE);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed("open", &path)(errno.into())),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed("read", &path))?;
    parse(&bytes).map(Some).ok_or(LayoutError::Damaged { path })
}

/// Reads what every version of the file has; later ones may say more.
fn parse(bytes: &[u8]) -> Option<Noted> {
    let table: toml::Table = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    let version = u32::try_from(table.get("version")?.as_integer()?).ok()?;
    let program = table.get("program").and_then(toml::Value::as_str).unwrap_or("another program");
    Some(Noted { version, program: plain(program) })
}

/// The name of a program as it is repeated to people, whoever wrote it.
pub(crate) fn plain(program: &str) -> String {
    program.chars().filter(|char| !char.is_control()).take(MAX_PROGRAM).collect()
}

/// Writes the version; a crash leaves the old file or the new one.
fn note(dir: &Path, version: u32) -> Result<(), LayoutError> {
    let (part, path) = (dir.join(PART), dir.join(FILE));
    let text = format!("version = {version}\nprogram = \"{PROGRAM}\"\n");
    let write = || {
        DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        File::open(dir)?.sync_all()
    };
    write().map_err(failed("write", &path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn first(dir: &OwnedFd) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(dir, "first", flags, Mode::RUSR | Mode::WUSR).map(drop)?)
    }

    fn second(dir: &OwnedFd) -> io::Result<()> {
        // Fails as long as something is in its way, like a crash.
        Ok(rustix::fs::mkdirat(dir, "second", Mode::RWXU)?)
    }

    const LATER: Layout = Layout {
        what: "data directory",
        steps: &[Step::Noted, Step::Changed(first), Step::Changed(second)],
    };

    fn version(dir: &Path) -> Option<u32> {
        read(dir).unwrap().map(|noted| noted.version)
    }

    #[test]
    fn a_new_directory_has_the_newest_version() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "").unwrap();
        let unnoted = LATER.prepare(dir.path()).unwrap();
        assert_eq!(version(dir.path()), None);
        unnoted.note().unwrap();
        assert_eq!(version(dir.path()), Some(4));
        assert!(!dir.path().join("first").exists());
        LATER.bring_up_to_date(dir.path()).unwrap();
        assert_eq!(LATER.expect(dir.path()).unwrap(), 4);
    }

    #[test]
    fn an_older_one_is_brought_along_step_by_step() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("records.db"), "").unwrap();
        let older = LATER.expect(dir.path()).unwrap_err();
        assert!(matches!(older, LayoutError::Older { found: 1, known: 4, .. }), "{older}");
        std::fs::write(dir.path().join("second"), "in the way").unwrap();
        let stopped = LATER.bring_up_to_date(dir.path()).unwrap_err();
        assert!(matches!(stopped, LayoutError::Migrate { to: 4, .. }), "{stopped}");
        assert_eq!(version(dir.path()), Some(3));
        // What was done before the crash is not done again.
        std::fs::remove_file(dir.path().join("first")).unwrap();
        std::fs::remove_file(dir.path().join("second")).unwrap();
        LATER.bring_up_to_date(dir.path()).unwrap();
        assert_eq!(version(dir.path()), Some(4));
        assert!(dir.path().join("second").exists() && !dir.path().join("first").exists());
    }

    #[test]
    fn directories_of_before_are_used_and_noted() {
        for layout in [SERVER, BUILDER] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join("store")).unwrap();
            assert_eq!(layout.expect(dir.path()).unwrap(), 1);
            layout.bring_up_to_date(dir.path()).unwrap();
            assert_eq!(version(dir.path()), Some(layout.known()));
        }
    }

    #[test]
    fn a_newer_one_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let text = "version = 9\nprogram = \"cofferdam 7.1\\u001b[2J\"\nfurther = [1]\n";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let errors = [SERVER.bring_up_to_date(dir.path()), SERVER.expect(dir.path()).map(|_| ())];
        for error in errors {
            let said = error.unwrap_err().to_string();
            assert!(said.contains("layout 9") && said.contains("cofferdam 7.1[2J"), "{said}");
            assert!(said.contains(&format!("layouts up to {}", SERVER.known())), "{said}");
        }
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).unwrap(), text);
    }

    #[test]
    fn what_says_no_version_is_not_guessed() {
        for text in ["", "version", "version = \"2\"", "version = -1", "program = \"x\"", "\u{0}"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(FILE), text).unwrap();
            let error = SERVER.bring_up_to_date(dir.path()).unwrap_err();
            assert!(matches!(error, LayoutError::Damaged { .. }), "{text:?}: {error}");
        }
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join(FILE)).unwrap();
        assert!(matches!(SERVER.expect(dir.path()), Err(LayoutError::File { .. })));
    }

    #[test]
    fn nobody_works_with_half_a_restore() {
        let dir = tempfile::tempdir().unwrap();
        SERVER.filling(dir.path()).unwrap();
        let error = SERVER.bring_up_to_date(dir.path()).unwrap_err();
        assert!(matches!(error, LayoutError::Unfinished { .. }), "{error}");
        SERVER.filled(dir.path(), 1).unwrap();
        SERVER.bring_up_to_date(dir.path()).unwrap();
        assert_eq!(version(dir.path()), Some(SERVER.known()));
    }
}
