//! Copies of this process, made before it has read anything, that wait to be told what to become.
//!
//! A builder takes three processes of one program. Executed each for itself, every one of them writes more than a megabyte of
//! addresses into memory of its own before its first line runs; a copy shares what was written already.
//!
//! A copy must not know what its maker knows: it is made first, closes every descriptor at once, and when it is told what to become
//! it wipes the arguments and the environment of its maker also where the kernel put them. What it shares with its maker are the
//! places of things in memory, which are as random as those of any program.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::descriptors;
use crate::message::encode;
use crate::namespaces::{Side, fork};
use crate::process;

/// A copy could not be made, or not be told what to become.
#[derive(Debug, thiserror::Error)]
pub enum SpareError {
    /// Copies are made by a process with one thread.
    #[error("copies of this process are made before any other thread; it has {0}")]
    Threads(usize),
    /// A system call failed.
    #[error("{action}")]
    Mechanism {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: Errno,
    },
    /// What the copy was told cannot be understood.
    #[error("read what this copy of the process is to become")]
    Task(#[source] std::io::Error),
    /// The maker's arguments and environment could not be wiped.
    #[error("wipe arguments and environment of the process that this is a copy of")]
    Wipe(#[source] std::io::Error),
}

impl SpareError {
    fn mechanism(action: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Mechanism { action, source }
    }
}

/// A copy of this process that waits. Dropping it ends it, also when it has become something.
#[derive(Debug)]
pub struct Spare {
    pid: i32,
    pidfd: OwnedFd,
    socket: OwnedFd,
    code: Option<i32>,
}

/// On which side of [`Spare::make`] the caller is.
#[derive(Debug)]
pub enum Twin {
    /// The process that made the copies.
    Maker(Vec<Spare>),
    /// One of the copies, which was told what to become.
    Copy(Task),
}

/// What a copy is to become.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    /// Its arguments, the program's name first. `std::env::args_os` of a copy is not to be asked.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// The number of the first descriptor that it is given; the others follow. Below it are standard streams: the first of them
    /// reads nothing, and the others are the maker's.
    pub first: RawFd,
}

impl Spare {
    /// Copies this process so many times. The maker goes on at once; a copy returns when it was told what to become, and ends by itself
    /// when its maker has ended before.
    ///
    /// To be called first in `main`, by a process that has one thread and has read nothing.
    ///
    /// # Errors
    ///
    /// When no copy can be made; in a copy, when it cannot become what it was told to.
    pub fn make(count: usize) -> Result<Twin, SpareError> {
        let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
        if threads != 1 {
            return Err(SpareError::Threads(threads));
        }
        let failed = SpareError::mechanism;
        let mut made = Vec::with_capacity(count);
        for _ in 0..count {
            let (socket, theirs) = descriptors::pair().map_err(failed("make a socket"))?;
            // SAFETY: one thread, counted above.
            match unsafe { fork(0, None) }.map_err(failed("copy this process"))? {
                Side::Parent { pid, pidfd } => {
                    made.push(Self { pid, pidfd, socket, code: None });
                }
                Side::Child => {
                    // They are the maker's.
                    std::mem::forget((made, socket));
                    return wait(theirs).map(Twin::Copy);
                }
            }
        }
        Ok(Twin::Maker(made))
    }

    /// Tells the copy what to become, with these descriptors. It is told once.
    ///
    /// # Errors
    ///
    /// When the copy is gone.
    pub fn tell(&self, task: &Task, fds: &[BorrowedFd<'_>]) -> Result<(), SpareError> {
        let failed = SpareError::mechanism;
        // Proxies and the like may be longer than a message.
        let task = process::sealed_memfd("task", &encode(task)).map_err(failed("write a task"))?;
        let mut all = vec![task.as_fd()];
        all.extend(fds);
        descriptors::send(&self.socket, b"become", &all)
            .map_err(failed("tell a copy of this process what to become"))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until it has ended, and gives its exit code, or 128 and the number of the signal that ended it. Blocks.
    ///
    /// # Errors
    ///
    /// When it is not ours to wait for.
    pub fn wait(&mut self) -> Result<i32, SpareError> {
        if let Some(code) = self.code {
            return Ok(code);
        }
        let code = process::wait_for(&self.pidfd)
            .map_err(SpareError::mechanism("wait for a copy of this process"))?;
        self.code = Some(code);
        Ok(code)
    }

    /// Waits likewise without blocking, inside a runtime.
    ///
    /// # Errors
    ///
    /// Likewise.
    pub async fn exited(&mut self) -> Result<i32, SpareError> {
        if self.code.is_none() {
            let failed = SpareError::mechanism("wait for a copy of this process");
            descriptors::until_readable(&self.pidfd).await.map_err(failed)?;
        }
        // It has ended: what remains takes a moment.
        self.wait()
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if self.code.is_none() {
            pidfd_send_signal(&self.pidfd, Signal::KILL).ok();
            self.wait().ok();
        }
    }
}

/// The life of a copy until it becomes something.
fn wait(socket: OwnedFd) -> Result<Task, SpareError> {
    let failed = SpareError::mechanism;
    // SAFETY: the maker has only just started: besides this socket, and what `make` forgot, no descriptor has an owner here.
    unsafe { process::close_all_but(&[socket.as_raw_fd()]) }
        .map_err(failed("close descriptors"))?;
    let nothing =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .map_err(failed("open /dev/null"))?;
    process::place(nothing.as_fd(), 0).map_err(failed("leave standard input"))?;
    drop(nothing);
    // A terminal's Ctrl-C is for the maker.
    rustix::process::setpgid(None, None).map_err(failed("leave the group of processes"))?;
    let heard = descriptors::receive(&socket, RecvFlags::empty())
        .map_err(failed("wait for what to become"))?;
    let Some((_, mut fds)) = heard.filter(|(_, fds)| !fds.is_empty()) else { process::exit(0) };
    drop(socket);
    let bytes = process::read_memfd(fds.remove(0)).map_err(SpareError::Task)?;
    let task: Task = serde_json::from_slice(&bytes).map_err(|e| SpareError::Task(e.into()))?;
    take_places(fds, task.first).map_err(failed("put descriptors in their places"))?;
    wipe(&task.args).map_err(SpareError::Wipe)?;
    for (name, value) in &task.env {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(name, value) };
    }
    Ok(task)
}

/// Gives these descriptors the numbers from `first` on, open across exec.
fn take_places(fds: Vec<OwnedFd>, first: RawFd) -> Result<(), Errno> {
    let above = first.saturating_add(RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX)).max(3);
    let copies = fds.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, above));
    let copies: Vec<OwnedFd> = copies.collect::<Result<_, _>>()?;
    // Their numbers may be among those that are taken now.
    drop(fds);
    for (number, fd) in (first..).zip(&copies) {
        process::place(fd.as_fd(), number)?;
    }
    Ok(())
}

/// Overwrites the arguments and the environment this program was started with, and puts `args` in place of the arguments: lists of
/// processes show them.
fn wipe(args: &[OsString]) -> std::io::Result<()> {
    // SAFETY: this process has one thread; nothing holds a pointer into the environment.
    unsafe { libc::clearenv() };
    let [arguments, environment] = given_by_the_kernel()?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let length = |place: &Range<u64>| usize::try_from(place.end - place.start).unwrap_or(0);
    memory.write_all_at(&vec![0; length(&environment)], environment.start)?;
    let follows = arguments.end == environment.start;
    let more = if follows { length(&environment) } else { 0 };
    memory.write_all_at(&title(args, length(&arguments), more), arguments.start)
}

/// What is written to so many bytes of arguments, which are followed by `more` bytes that may be used. The kernel shows the bytes of the
/// arguments; when the last of them is not zero, it shows one text that ends with the first zero.
fn title(args: &[OsString], room: usize, more: usize) -> Vec<u8> {
    let words = |short: bool, between: &[u8]| {
        let mut words: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        if short && let Some(first) = words.first_mut() {
            *first = first.rsplit(|byte| *byte == b'/').next().unwrap_or(first);
        }
        words.join(between)
    };
    let fitting = [words(false, b"\0"), words(true, b"\0")];
    if let Some(mut title) = fitting.into_iter().find(|title| title.len() < room) {
        title.resize(room, 0);
        return title;
    }
    let mut title = words(true, b" ");
    title.truncate((room + more).saturating_sub(1));
    title.resize(title.len().max(room), 0);
    title
}

/// Where the kernel put arguments and environment: fields 48 to 51 of proc_pid_stat(5).
fn given_by_the_kernel() -> std::io::Result<[Range<u64>; 2]> {
    /// The fields that follow the name of the process begin with the third.
    const AFTER_NAME: usize = 3;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name stands in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let numbers: Vec<u64> = fields
        .split_whitespace()
        .skip(48 - AFTER_NAME)
        .take(4)
        .filter_map(|field| field.parse().ok())
        .collect();
    match numbers[..] {
        [args, args_end, env, env_end] if args != 0 && args <= args_end && env <= env_end => {
            Ok([args..args_end, env..env_end])
        }
        _ => Err(std::io::Error::other("/proc/self/stat does not say where they are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_takes_the_room_there_is() {
        let args: Vec<OsString> = vec!["/opt/bin/cofferdam".into(), "__builder".into()];
        let whole = b"/opt/bin/cofferdam\0__builder\0";
        assert_eq!(title(&args, whole.len(), 0), whole);
        assert_eq!(title(&args, whole.len() + 2, 9), [&whole[..], b"\0\0"].concat());
        let short = b"cofferdam\0__builder\0";
        assert_eq!(title(&args, whole.len() - 1, 9)[..short.len()], short[..]);
        // As many bytes as `cofferdam builder` takes: the rest goes where the environment was.
        assert_eq!(title(&args, 18, 9), b"cofferdam __builder");
        // The last byte of that stays zero.
        assert_eq!(title(&args, 18, 1), b"cofferdam __builde");
        assert_eq!(title(&args, 4, 0), b"cof\0");
        assert_eq!(title(&args, 0, 0), b"");
    }
}
