//! The standard streams of a container's process: pipes, or a terminal of the process's own.
//!
//! What the process does with its ends is its affair: it may close them, never read, or leave them to others when it ends.
//! Nothing here waits for it without a way out.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

use crate::failure::Failure;

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Streams {
    /// Somebody writes to the process.
    pub(crate) stdin: bool,
    /// Somebody reads its output.
    pub(crate) stdout: bool,
    /// Somebody reads its errors.
    pub(crate) stderr: bool,
}

/// The ends that a process gets.
pub(super) struct Theirs {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// The ends that stay.
#[derive(Default)]
pub(crate) struct Ours {
    /// Where its input is written to.
    pub(crate) input: Option<Input>,
    /// Where its output is read from, by the number it has in the process.
    pub(crate) outputs: Vec<(u32, Source)>,
    /// Its terminal, when it has one.
    pub(crate) terminal: Option<Terminal>,
}

/// Where to write to.
pub(crate) enum Input {
    /// A pipe.
    Pipe(pipe::Sender),
    /// A terminal.
    Terminal(Terminal),
}

/// Where to read from.
pub(crate) enum Source {
    /// A pipe.
    Pipe(pipe::Receiver),
    /// A terminal.
    Terminal(Terminal),
}

/// Opens pipes for the streams that are wanted; the others lead nowhere.
pub(super) fn pipes(wanted: Streams) -> Result<(Theirs, Ours), Failure> {
    let mut ours = Ours::default();
    let stdin = if wanted.stdin {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Failure::of)?;
        rustix::io::ioctl_fionbio(&writer, true).map_err(Failure::of)?;
        let writer = pipe::Sender::from_owned_fd(writer).map_err(Failure::of)?;
        ours.input = Some(Input::Pipe(writer));
        Some(reader)
    } else {
        None
    };
    let mut output = |number: u32, wanted: bool| -> Result<OwnedFd, Failure> {
        if !wanted {
            return nowhere();
        }
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Failure::of)?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(Failure::of)?;
        let reader = pipe::Receiver::from_owned_fd(reader).map_err(Failure::of)?;
        ours.outputs.push((number, Source::Pipe(reader)));
        Ok(writer)
    };
    let (stdout, stderr) = (output(1, wanted.stdout)?, output(2, wanted.stderr)?);
    Ok((Theirs { stdin, stdout, stderr }, ours))
}

/// For a process that makes a terminal instead.
pub(super) fn no_pipes() -> Result<Theirs, Failure> {
    Ok(Theirs { stdin: None, stdout: nowhere()?, stderr: nowhere()? })
}

fn nowhere() -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(c"/dev/null", flags, Mode::empty()).map_err(Failure::of)
}

/// The streams of a process that has a terminal: everything it writes counts as its output.
pub(super) fn of_terminal(fd: OwnedFd, wanted: Streams) -> Result<Ours, Failure> {
    let terminal = Terminal::new(fd)?;
    let number = if wanted.stdout { Some(1) } else { wanted.stderr.then_some(2) };
    let outputs = number.map(|number| (number, Source::Terminal(terminal.clone())));
    Ok(Ours {
        input: wanted.stdin.then(|| Input::Terminal(terminal.clone())),
        outputs: outputs.into_iter().collect(),
        terminal: Some(terminal),
    })
}

impl Input {
    /// Writes all of `bytes`.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.write_all(bytes).await,
            Self::Terminal(terminal) => terminal.write(bytes).await,
        }
    }
}

impl Source {
    /// The next bytes; none at the end.
    pub(crate) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.read(buffer).await,
            Self::Terminal(terminal) => terminal.read(buffer).await,
        }
    }
}

/// The builder's end of a terminal.
#[derive(Clone)]
pub(crate) struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(fd: OwnedFd) -> Result<Self, Failure> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        // SAFETY: an owned descriptor stays the same open file until the AsyncFd that owns it deregisters and drops it.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) };
        Ok(Self(Arc::new(watched.map_err(|error| Failure::of(io::Error::from(error)))?)))
    }

    async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read =
            self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut *buffer)?));
        match read.await {
            // Nobody has the other end open any more.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Ok(0)
            }
            result => result,
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written =
                self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?)).await?;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Says how large the terminal is.
    pub(crate) fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), size)?)
    }
}
