//! Where builders are on disk. Everything above a builder's root is root's alone, so no project's ids reach another's files by
//! any path.

use std::fs::{DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cofferdam_sandbox::Isolation;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use crate::error::FleetError;
use crate::walk::{self, FileId};

/// Name of a builder's socket in its `run` directory.
pub(crate) const SOCKET: &str = "builder.sock";
/// Name of a builder's configuration, likewise.
pub(crate) const CONFIG: &str = "builder.toml";
/// Longest id of a project: ids are components of paths.
const MAX_ID: usize = 64;

/// The directories of a fleet.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    projects: PathBuf,
    trash: PathBuf,
}

impl Places {
    /// Makes the directories below `data_dir`.
    pub(crate) fn create(data_dir: &Path) -> Result<Self, FleetError> {
        make(data_dir)?;
        let data_dir = data_dir.canonicalize().map_err(failed("open", data_dir))?;
        let places = Self { projects: data_dir.join("projects"), trash: data_dir.join("trash") };
        make(&places.projects)?;
        make(&places.trash)?;
        Ok(places)
    }

    /// The directory above all projects.
    pub(crate) fn projects(&self) -> &Path {
        &self.projects
    }

    /// Where things wait to be deleted.
    pub(crate) fn trash(&self) -> &Path {
        &self.trash
    }

    /// The places of one project's builder of a level.
    pub(crate) fn project(
        &self,
        id: &str,
        isolation: Isolation,
    ) -> Result<ProjectPlaces, FleetError> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if id.is_empty() || id.len() > MAX_ID || id.starts_with('-') || !id.bytes().all(plain) {
            return Err(FleetError::Project(id.to_owned()));
        }
        Ok(ProjectPlaces { home: self.projects.join(id), isolation })
    }
}

/// The directories of one project's builder of a level.
#[derive(Debug, Clone)]
pub(crate) struct ProjectPlaces {
    home: PathBuf,
    isolation: Isolation,
}

impl ProjectPlaces {
    /// The builder's root.
    pub(crate) fn root(&self) -> PathBuf {
        self.home.join(self.named("builder"))
    }

    /// Names of the first level are as they were when there was one.
    fn named(&self, name: &str) -> String {
        match self.isolation {
            Isolation::Namespaces => name.to_owned(),
            stronger => format!("{name}-{stronger}"),
        }
    }

    /// The root, to be looked through; nothing when there is none.
    pub(crate) fn open_root(&self) -> Result<Option<OwnedFd>, FleetError> {
        let root = self.root();
        walk::open_top(&root).map_err(|errno| failed("open", &root)(errno.into()))
    }

    /// Which directory the root is at the moment.
    pub(crate) fn root_id(&self) -> Option<FileId> {
        let stat = rustix::fs::statat(CWD, self.root(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(walk::id_of(&stat))
    }

    /// When a build used the root last; nothing when there is none. It is the root's own time of change, which its builder could
    /// set: a time that has not come counts as none that is known, long ago.
    pub(crate) fn used_at(&self) -> Option<SystemTime> {
        let metadata = std::fs::symlink_metadata(self.root()).ok()?;
        let used = metadata.modified().ok().filter(|used| *used <= SystemTime::now());
        Some(used.unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// Notes when a build used the root last. Only the order in which caches are made smaller depends on it.
    pub(crate) fn set_used(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
        };
        rustix::fs::utimensat(CWD, self.root(), &times, AtFlags::SYMLINK_NOFOLLOW).ok();
    }

    /// Where its socket and configuration are while it runs.
    pub(crate) fn run(&self) -> PathBuf {
        self.home.join(self.named("run"))
    }

    /// Makes an empty `run` directory and holds it open.
    pub(crate) fn create_run(&self) -> Result<OwnedFd, FleetError> {
        make(&self.home)?;
        self.remove_run();
        let run = self.run();
        make(&run)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &run, flags, Mode::empty())
            .map_err(|errno| failed("open", &run)(errno.into()))
    }

    /// Removes the `run` directory and the project's own, when nothing else is in it.
    pub(crate) fn remove_run(&self) {
        let run = self.run();
        for name in [SOCKET, CONFIG] {
            std::fs::remove_file(run.join(name)).ok();
        }
        std::fs::remove_dir(&run).ok();
    }

    /// Removes the project's directory when nothing is left in it.
    pub(crate) fn remove_home(&self) {
        std::fs::remove_dir(&self.home).ok();
    }

    /// Puts the builder's root away under `trash`, where it is nobody's. Without one there is nothing to do.
    pub(crate) fn discard_root(&self, trash: &Path) -> Result<(), FleetError> {
        let root = self.root();
        let away = trash.join(unique_name(&root)?);
        match std::fs::rename(&root, &away) {
            Ok(()) => sync(trash),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("discard", &root)(error)),
        }
    }
}

/// Nobody may find what was discarded again after a crash.
fn sync(directory: &Path) -> Result<(), FleetError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync", directory))
}

fn unique_name(of: &Path) -> Result<String, FleetError> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed("name the discarded", of)(errno.into()))?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}

/// A directory for root alone.
fn make(path: &Path) -> Result<(), FleetError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

pub(crate) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> FleetError {
    let path = path.to_owned();
    move |error| FleetError::Directory { action, path, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ids_that_would_leave_the_directory_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::create(&dir.path().join("data")).unwrap();
        for bad in ["", ".", "..", "a/b", "-a", "A", "a\0", "a b", &"x".repeat(65)] {
            assert!(places.project(bad, Isolation::Namespaces).is_err(), "{bad:?}");
        }
        let place = |level| places.project("bcdf0123-9", level).unwrap();
        assert!(place(Isolation::Namespaces).root().ends_with("bcdf0123-9/builder"));
        assert!(place(Isolation::Gvisor).root().ends_with("bcdf0123-9/builder-gvisor"));
        assert!(place(Isolation::Vm).run().ends_with("bcdf0123-9/run-vm"));
    }

    #[test]
    fn a_root_says_when_it_was_used() {
        let dir = tempfile::tempdir().unwrap();
        let project = Places::create(dir.path()).unwrap().project("p", Isolation::Gvisor).unwrap();
        assert_eq!(project.used_at(), None);
        assert!(project.open_root().unwrap().is_none() && project.root_id().is_none());
        std::fs::create_dir_all(project.root()).unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5);
        project.set_used(used);
        assert_eq!(project.used_at(), Some(used));
        project.set_used(SystemTime::now() + Duration::from_secs(3600));
        assert_eq!(project.used_at(), Some(SystemTime::UNIX_EPOCH));
    }

    #[test]
    fn a_root_goes_to_the_trash_and_no_home_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::create(dir.path()).unwrap();
        let project = places.project("p", Isolation::Vm).unwrap();
        project.create_run().unwrap();
        std::fs::create_dir(project.root()).unwrap();
        std::fs::write(project.root().join("file"), "x").unwrap();
        project.discard_root(places.trash()).unwrap();
        project.discard_root(places.trash()).unwrap();
        project.remove_run();
        project.remove_home();
        assert_eq!(std::fs::read_dir(places.projects()).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(places.trash()).unwrap().count(), 1);
    }
}
