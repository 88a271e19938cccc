//! From a list of arguments to an executed program: working directory, `PATH` lookup, and the words for what can go wrong.

use std::ffi::CString;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::message::Failure;

/// What is searched when the environment has no `PATH`.
pub(super) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit codes of a shell for a command that is not there, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// Moves into `path`, which has no symbolic links, and makes sure that it is inside the root (CVE-2024-21626).
pub(super) fn enter_directory(path: &str) -> Result<(), Failure> {
    let refused =
        |why: String| Failure::Root { message: format!("working directory {path:?}: {why}") };
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let directory = root.and_then(|root| crate::rootfs::open_directory(&root, path));
    rustix::process::fchdir(directory.map_err(|errno| refused(errno.to_string()))?)
        .map_err(|errno| refused(errno.to_string()))?;
    inside_root(path)
}

fn inside_root(path: &str) -> Result<(), Failure> {
    let refused =
        |why: String| Failure::Root { message: format!("working directory {path:?}: {why}") };
    let here = rustix::process::getcwd(Vec::new()).map_err(|errno| refused(errno.to_string()))?;
    // The kernel writes "(unreachable)" before a directory that is not below the root.
    if here.to_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(refused("not inside the root".to_owned()))
    }
}

/// Moves into `path` of a root that others are changing, wherever it leads inside.
pub(super) fn enter_found(path: &str) -> Result<(), Failure> {
    let refused = |errno: Errno| Failure::Root {
        message: format!("working directory {path:?}: {}", words(errno)),
    };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).map_err(refused)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = flags | OFlags::DIRECTORY;
    let found = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve);
    rustix::process::fchdir(found.map_err(refused)?).map_err(refused)?;
    inside_root(path)
}

/// Executes the command. Returns only when that fails.
pub(super) fn execute(args: &[String], env: &[String]) -> Failure {
    let Some(name) = args.first() else {
        return no_such_command();
    };
    let (Some(argv), Some(envp)) = (strings(args), strings(env)) else {
        return Failure::Command {
            message: format!("exec: {name:?}: argument holds a zero byte"),
            code: NOT_EXECUTABLE,
        };
    };
    if name.contains('/') {
        let errno = exec(name, &argv, &envp);
        return match errno {
            Errno::NOENT | Errno::NOTDIR => not_found(name, errno),
            _ => refused(name, errno),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{name}");
        match exec(&candidate, &argv, &envp) {
            Errno::NOENT | Errno::NOTDIR if !exists(&candidate) => {}
            Errno::ACCESS => denied = Some(Errno::ACCESS),
            errno => return refused(&candidate, errno),
        }
    }
    match denied {
        Some(errno) => not_executable(name, errno),
        None => not_in_path(name),
    }
}

pub(super) fn no_such_command() -> Failure {
    Failure::Command { message: "no command given".to_owned(), code: NOT_FOUND }
}

pub(super) fn not_found(name: &str, errno: Errno) -> Failure {
    let message = format!("exec: {name:?}: stat {name}: {}", words(errno));
    Failure::Command { message, code: code(errno) }
}

pub(super) fn refused(path: &str, errno: Errno) -> Failure {
    Failure::Command { message: format!("exec {path}: {}", words(errno)), code: code(errno) }
}

pub(super) fn not_executable(name: &str, errno: Errno) -> Failure {
    let message = format!("exec: {name:?}: {}", words(errno));
    Failure::Command { message, code: NOT_EXECUTABLE }
}

pub(super) fn not_in_path(name: &str) -> Failure {
    let message = format!("exec: {name:?}: executable file not found in $PATH");
    Failure::Command { message, code: NOT_FOUND }
}

/// A file that is there while executing it says otherwise lacks its interpreter.
fn exists(path: &str) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok()
}

fn exec(path: &str, argv: &[CString], envp: &[CString]) -> Errno {
    let Ok(path) = CString::new(path) else { return Errno::INVAL };
    let pointers = |strings: &[CString]| {
        let mut pointers: Vec<*const libc::c_char> =
            strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        pointers
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both lists end in null and point to strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    crate::namespaces::last_errno()
}

fn strings(of: &[String]) -> Option<Vec<CString>> {
    of.iter().map(|string| CString::new(string.as_str()).ok()).collect()
}

fn code(errno: Errno) -> i32 {
    match errno {
        Errno::NOENT | Errno::NOTDIR => NOT_FOUND,
        _ => NOT_EXECUTABLE,
    }
}

/// Errors as other container runtimes word them; people search for these.
fn words(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".to_owned(),
        Errno::NOTDIR => "not a directory".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        Errno::NOEXEC => "exec format error".to_owned(),
        Errno::TOOBIG => "argument list too long".to_owned(),
        Errno::ISDIR => "is a directory".to_owned(),
        other => other.to_string(),
    }
}
