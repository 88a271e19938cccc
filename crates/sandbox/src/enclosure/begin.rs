//! How the process that enters an enclosure begins: as a spare copy of its supervisor, or by executing this program again.
//!
//! Either way it finds its descriptors at the numbers of [`super::plan`], the marked environment, and nothing else of the
//! supervisor's.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags};

use super::ids::{BLOCK, Identity};
use super::plan::{FIRST_INHERITED, MARK, PLAN};
use super::{EnclosureError, EnclosureOptions};
use crate::mounts::{Attributes, detached_bind, restrict};
use crate::spare::{Spare, Task};

/// A process that is on its way into an enclosure.
#[derive(Debug)]
pub(super) enum Begun {
    Copy(Spare),
    Program(Child),
}

impl Begun {
    /// Reaps it. It ends soon in any case.
    pub(super) fn wait(&mut self) -> Result<(), EnclosureError> {
        match self {
            Self::Copy(spare) => spare.wait().map(drop)?,
            Self::Program(child) => child.wait().map(drop).map_err(EnclosureError::Spawn)?,
        }
        Ok(())
    }
}

/// Begins it with these descriptors: plan, status, lifeline and those of the caller.
pub(super) fn begin(
    spare: Option<Spare>,
    options: &EnclosureOptions,
    identity: &Identity,
    inherited: &[BorrowedFd<'_>],
) -> Result<Begun, EnclosureError> {
    match spare.filter(|_| is_out_of_reach(identity)) {
        Some(spare) => {
            let mut args = vec![own_name()];
            args.extend(options.args.iter().cloned());
            let mut env = options.env.clone();
            env.push((MARK.into(), "1".into()));
            spare.tell(&Task { args, env, first: PLAN }, inherited)?;
            Ok(Begun::Copy(spare))
        }
        None => {
            let child = command(options, inherited)?.spawn().map_err(EnclosureError::Spawn)?;
            Ok(Begun::Program(child))
        }
    }
}

fn own_name() -> OsString {
    std::env::args_os().next().unwrap_or_else(|| "cofferdam".into())
}

/// Whether none of the builder's ids can write to the file of this program, so that a process of the builder may run from it as it is.
/// See [`program`]. Also where the file has an access list: what that gives anybody is bounded by the bits of the group.
fn is_out_of_reach(identity: &Identity) -> bool {
    const OTHERS_WRITE: u32 = 0o022;
    match identity {
        Identity::Subordinate { .. } => true,
        Identity::Block { base } => std::fs::metadata("/proc/self/exe").is_ok_and(|file| {
            file.mode() & OTHERS_WRITE == 0
                && !(*base..base.saturating_add(BLOCK)).contains(&file.uid())
        }),
    }
}

fn command(
    options: &EnclosureOptions,
    inherited: &[BorrowedFd<'_>],
) -> Result<Command, EnclosureError> {
    // First out of the way of the places they are to have, then into them.
    let above = FIRST_INHERITED + i32::try_from(inherited.len()).unwrap_or(i32::MAX / 2);
    let program = program(above)?;
    let mut command = match &program {
        Some(program) => Command::new(format!("/proc/self/fd/{}", program.as_raw_fd())),
        None => Command::new("/proc/self/exe"),
    };
    command
        .arg0(own_name())
        .args(&options.args)
        .env_clear()
        .envs(options.env.iter().cloned())
        .env(MARK, "1");
    command.stdin(Stdio::null());
    let mut moved: Vec<OwnedFd> = Vec::with_capacity(inherited.len());
    for fd in inherited {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, above)
            .map_err(EnclosureError::mechanism("pass descriptors on"))?;
        moved.push(copy);
    }
    let place_all = move || {
        // Held until the program is executed from it.
        let _program = &program;
        for (number, fd) in (PLAN..).zip(&moved) {
            place(fd.as_raw_fd(), number)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only dup2 is called, which is allowed there; the numbers from PLAN on are below every
    // descriptor in `moved`, and what they meant in the copied table is of no further use.
    unsafe { command.pre_exec(place_all) };
    Ok(command)
}

/// This program on a read-only mount of its own, by a descriptor from `above` on. A step can make the kernel run what it was
/// copied from (CVE-2019-5736): that file must not be writable through anything a step can name, whoever owns it. Only root can
/// make such a mount; an ordinary user's steps have other ids than whoever owns the file.
fn program(above: RawFd) -> Result<Option<OwnedFd>, EnclosureError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let failed = |action: &'static str| EnclosureError::mechanism(action);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = rustix::fs::open("/proc/self/exe", flags, Mode::empty())
        .map_err(failed("open this program"))?;
    let attributes = Attributes { readonly: true, nosuid: true, nodev: true, noexec: false };
    let mount = detached_bind(file, false).and_then(|mount| {
        restrict(&mount, attributes, false)?;
        Ok(mount)
    });
    let mount = mount.map_err(|error| EnclosureError::Program { source: error })?;
    rustix::io::fcntl_dupfd_cloexec(&mount, above).map(Some).map_err(failed("pass this program on"))
}

fn place(fd: RawFd, number: RawFd) -> std::io::Result<()> {
    // SAFETY: see `command`.
    if unsafe { libc::dup2(fd, number) } < 0 {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(())
    }
}
