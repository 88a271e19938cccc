//! `exec.d`: programs of layers that run before the process and print variables for it.
//!
//! They print TOML to descriptor 3: strings at the top level, which replace variables.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::mem::ManuallyDrop;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::environment::Environment;
use crate::error::LaunchError;
use crate::layers::MAX_FILE;

/// Where such programs write.
const DESCRIPTOR: i32 = 3;

/// Runs one program in the current directory and applies what it printed.
pub(crate) fn run(path: &Path, environment: &mut Environment) -> Result<(), LaunchError> {
    let error = |source| LaunchError::ExecD { path: path.to_owned(), source };
    let (mut child, output) = start(path, environment).map_err(error)?;
    let mut bytes = Vec::new();
    let read = output.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() > MAX_FILE {
        // It may be dead already; either way the launch fails.
        let _ = child.kill();
        let _ = child.wait();
        read.map_err(error)?;
        return Err(bad(path, &format!("more than {MAX_FILE} bytes")));
    }
    let status = child.wait().map_err(error)?;
    if !status.success() {
        return Err(LaunchError::ExecDFailed { path: path.to_owned(), status });
    }
    for (name, value) in parse(path, &bytes)? {
        environment.env.set(name, value);
    }
    Ok(())
}

/// Starts it. The returned file ends when the program and its children have closed theirs.
fn start(path: &Path, environment: &Environment) -> io::Result<(Child, File)> {
    let (reader, writer) = io::pipe()?;
    // The pipe's own ends, made first, are the lowest free descriptors: 3 is taken, and what spawning
    // opens for itself lies above. So does this writer, which only a copy of becomes 3.
    let writer = rustix::io::fcntl_dupfd_cloexec(&writer, DESCRIPTOR + 1)?;
    let mut command = Command::new(path);
    environment.give(&mut command);
    command.stdin(Stdio::null());
    let hook = move || {
        // SAFETY: nothing in the child owns descriptor 3: it is a copy of this end or of what the
        // launcher inherited, and is not closed by this value.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(DESCRIPTOR) });
        Ok(rustix::io::dup2(&writer, &mut target)?)
    };
    // SAFETY: the hook makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(hook) };
    let child = command.spawn()?;
    // The command owns this process's copy of the writer; reading would never end with it.
    drop(command);
    Ok((child, File::from(OwnedFd::from(reader))))
}

fn parse(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, String>, LaunchError> {
    let variables: BTreeMap<String, String> = cofferdam_cnb::parse_toml("output", bytes)
        .map_err(|error| bad(path, &error.to_string()))?;
    let fits = |name: &str, value: &str| {
        !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
    };
    match variables.iter().find(|(name, value)| !fits(name, value)) {
        Some((name, _)) => Err(bad(path, &format!("{name:?} cannot be a variable"))),
        None => Ok(variables),
    }
}

fn bad(path: &Path, problem: &str) -> LaunchError {
    LaunchError::ExecDOutput { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn output_is_strings() {
        let parse = |text: &str| parse(Path::new("x"), text.as_bytes());
        let variables = parse("A = 'b'\n\"c.d\" = \"\"\n").unwrap();
        assert_eq!(variables.len(), 2);
        assert_eq!(variables["A"], "b");
        for text in [
            "A = 1",
            "A = ['b']",
            "[A]\nb = 'c'",
            "A.b = 'c'",
            "'' = 'x'",
            "'A=B' = 'x'",
            "A = \"\\u0000\"",
            "A",
            "\u{1b}",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}
