//! Whether a command can be executed, found out by looking: for steps whose program another kernel than this one executes.
//!
//! Says only what is certain; what remains is said by whoever executes the program. Every lookup is done by the kernel inside
//! the step's root.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::command::{
    DEFAULT_PATH, no_such_command, not_executable, not_found, not_in_path, refused,
};
use crate::message::{Failure, Order};
use crate::spec::StepIds;

/// The step's root and the identity that would execute something in it.
pub(super) struct Lookup<'a> {
    pub(super) root: &'a OwnedFd,
    pub(super) ids: StepIds,
    pub(super) cwd: &'a str,
    pub(super) order: &'a Order,
}

impl Lookup<'_> {
    /// The arguments to execute: as given, with a path for the program where another kernel would look elsewhere than we do.
    pub(super) fn resolve(&self) -> Result<Vec<String>, Failure> {
        let args = &self.order.args;
        let Some(name) = args.first() else { return Err(no_such_command()) };
        if name.contains('/') {
            return match self.examine(name) {
                Ok(()) => Ok(args.clone()),
                Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => Err(not_found(name, errno)),
                Err(errno) => Err(refused(name, errno)),
            };
        }
        let paths: Vec<&str> =
            self.order.env.iter().filter_map(|variable| variable.strip_prefix("PATH=")).collect();
        let mut denied = false;
        for directory in paths.last().unwrap_or(&DEFAULT_PATH).split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            let candidate = format!("{directory}/{name}");
            match self.examine(&candidate) {
                Ok(()) => {
                    let mut args = args.clone();
                    if paths.len() != 1 {
                        args[0] = candidate;
                    }
                    return Ok(args);
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) => denied = true,
                Err(errno) => return Err(refused(&candidate, errno)),
            }
        }
        Err(if denied { not_executable(name, Errno::ACCESS) } else { not_in_path(name) })
    }

    fn examine(&self, path: &str) -> Result<(), Errno> {
        let path =
            if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.cwd) };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = match rustix::fs::openat2(self.root, path, flags, Mode::empty(), resolve) {
            // A link of the process file system, or something that changes meanwhile: not certain.
            Err(Errno::LOOP | Errno::AGAIN) => return Ok(()),
            other => other?,
        };
        let stat = rustix::fs::fstat(&found)?;
        let user = &self.order.user;
        let own = |id: u32| id.checked_sub(self.ids.first);
        let bits = if user.uid == 0 {
            0o111
        } else if own(stat.st_uid) == Some(user.uid) {
            0o100
        } else if own(stat.st_gid).is_some_and(|gid| gid == user.gid || user.groups.contains(&gid))
        {
            0o010
        } else {
            0o001
        };
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if regular && stat.st_mode & bits != 0 { Ok(()) } else { Err(Errno::ACCESS) }
    }
}
