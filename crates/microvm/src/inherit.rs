//! Descriptors that a started program finds at numbers it was told.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The first number: those before it are standard input, output and error.
const FIRST: RawFd = 3;

/// Has `command` inherit `descriptors`, at 3 and the numbers after it.
pub(crate) fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) -> io::Result<()> {
    let above = FIRST + RawFd::try_from(descriptors.len()).map_err(io::Error::other)?;
    // Above the places they are to have, so that being put there always makes a copy that stays open.
    let moved: Vec<OwnedFd> = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, above))
        .collect::<Result<_, _>>()?;
    // They may be at those places themselves, which are free once they are gone.
    drop(descriptors);
    // The places are taken before the command starts, so that none of what it opens for itself, such as the pipe that tells of a
    // failure, is at one of them and closed by this.
    let mut taken = Vec::new();
    if let Some(first) = moved.first() {
        loop {
            let fd = rustix::io::fcntl_dupfd_cloexec(first, FIRST)?;
            if fd.as_raw_fd() >= above {
                break;
            }
            taken.push(fd);
        }
    }
    let place = move || {
        // As long as the command, they are open.
        let _taken = &taken;
        for (number, fd) in (FIRST..).zip(&moved) {
            // SAFETY: dup2 is allowed between fork and exec; what the number meant before is of no further use there.
            if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `place` only calls dup2.
    unsafe { command.pre_exec(place) };
    Ok(())
}

/// Bytes as a file in memory.
pub(crate) fn in_memory(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(c"machine", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    io::Write::write_all(&mut file, bytes)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn descriptors_are_at_their_numbers_and_a_failure_is_told() {
        let files = || vec![in_memory(b"one").unwrap(), in_memory(b"two").unwrap()];
        let mut command = Command::new("cat");
        command.args(["/proc/self/fd/3", "/proc/self/fd/4"]);
        inherit(&mut command, files()).unwrap();
        assert_eq!(command.output().unwrap().stdout, b"onetwo");
        // Whoever waits for the pipe of a program that cannot be started is told, whatever its number is.
        let mut missing = Command::new("/nowhere/program");
        inherit(&mut missing, files()).unwrap();
        assert_eq!(missing.status().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
