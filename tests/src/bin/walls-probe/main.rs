//! The hostile command of the wall tests: tries to leave a sandbox in every known way and says what came of it.
//!
//! Each attempt is one line, `wall <key> held|breached: <what was seen>`. The same program runs in a step, where everything has
//! to be held, and in a plain chroot, where the controls expect to see it breached. Therefore nothing here does harm where it
//! succeeds: files are opened for writing and not written, calls get arguments that do nothing.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "calls that are made to be refused, with arguments the kernel checks"
)]
#![allow(clippy::unwrap_used, reason = "a probe that cannot go on should stop where it is")]

mod calls;
mod escapes;
mod files;
mod neighbours;
mod races;
mod sockets;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["inside", facts @ ..] => {
            let facts = Facts(facts);
            // First, while there is none of the probe's own.
            files::descriptors();
            calls::all();
            sockets::all(&facts);
            files::all();
            escapes::all(&facts);
            neighbours::all(&facts);
        }
        ["capabilities"] => files::capabilities(),
        ["swap", path, target, seconds] => races::swap(path, target, seconds.parse().unwrap()),
        ["masks", seconds] => races::masks(seconds.parse().unwrap()),
        ["ask-agent"] => println!("{}", neighbours::ask_agent()),
        ["listen", address] => sockets::listen(address),
        ["reopen", number, counter] => escapes::reopen(number, counter.parse().unwrap()),
        ["reach", address] => println!("{}", sockets::reach(address)),
        ["plant-shm", key] => neighbours::plant_shared_memory(key.parse().unwrap()),
        ["remove-shm", key] => neighbours::remove_shared_memory(key.parse().unwrap()),
        ["set-capability", path] => files::set_capability(path),
        _ => {
            eprintln!("unknown: {args:?}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What the test planted outside: `name=value` each.
pub(crate) struct Facts<'a>(&'a [&'a str]);

impl<'a> Facts<'a> {
    pub(crate) fn get(&self, name: &str) -> &'a str {
        let found = self.0.iter().find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("no {name}"))
    }
}

/// Says what came of an attempt.
pub(crate) fn say(key: &str, breached: bool, detail: &str) {
    let detail = detail.replace(['\n', '\r'], " ");
    println!("wall {key} {}: {detail}", if breached { "breached" } else { "held" });
}

/// The answer of the last call, as a word.
pub(crate) fn errno() -> (i32, String) {
    let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
    (code, word(code))
}

pub(crate) fn word(code: i32) -> String {
    let known = [
        (libc::EPERM, "EPERM"),
        (libc::ENOSYS, "ENOSYS"),
        (libc::EACCES, "EACCES"),
        (libc::EROFS, "EROFS"),
        (libc::ENOENT, "ENOENT"),
        (libc::EINVAL, "EINVAL"),
        (libc::EFAULT, "EFAULT"),
        (libc::EBADF, "EBADF"),
        (libc::EXDEV, "EXDEV"),
        (libc::ESRCH, "ESRCH"),
        (libc::ENXIO, "ENXIO"),
        (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::ETXTBSY, "ETXTBSY"),
        (libc::EIO, "EIO"),
    ];
    known
        .iter()
        .find(|(number, _)| *number == code)
        .map_or_else(|| format!("errno {code}"), |(_, name)| (*name).to_owned())
}
