//! Runs a program and writes its exit code into a file.
//!
//! For steps of builds whose failure is an answer, not an end of the build. The program owns
//! everything the file is next to, so the file may be a trap: links are not followed, and
//! opening never waits. Nothing but `std` and the numbers of flags, so that the program stays tiny.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use rustix::fs::OFlags;

use crate::error::say;

/// The code for a program that exists and cannot be started, as shells have it.
const CANNOT_START: i32 = 126;
/// The code for a program that does not exist, as shells have it.
const NOT_FOUND: i32 = 127;
/// Added to the number of the signal that ended a program, as shells do.
const SIGNALLED: i32 = 128;

/// The program `attempt RESULT PROGRAM ARGUMENT...`: inherits all to `PROGRAM`, waits, writes its exit code
/// as decimal number into the file `RESULT`. Succeeds when it could write that, whatever the code.
#[must_use]
pub fn attempt() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let (Some(result), Some(program)) = (args.next(), args.next()) else {
        say(format_args!("ERROR: usage: attempt RESULT PROGRAM [ARGUMENT...]"));
        return ExitCode::from(2);
    };
    let code = run(&program, args);
    match write(Path::new(&result), code) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("ERROR: write {result:?}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(program: &OsStr, args: impl Iterator<Item = OsString>) -> i32 {
    match Command::new(program).args(args).status() {
        Ok(status) => code(status),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if Path::new(program).is_file() {
                say(format_args!(
                    "ERROR: {program:?} cannot be started: what interprets it does not exist"
                ));
            } else {
                say(format_args!("ERROR: {program:?} does not exist"));
            }
            NOT_FOUND
        }
        Err(error) => {
            say(format_args!("ERROR: {program:?} cannot be started: {error}"));
            CANNOT_START
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    let signal = status.signal().map(|signal| SIGNALLED + signal);
    status.code().or(signal).unwrap_or(CANNOT_START)
}

fn write(path: &Path, code: i32) -> io::Result<()> {
    // Not waiting matters for a fifo that nobody reads.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o644);
    let mut file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    file.write_all(code.to_string().as_bytes())
}
