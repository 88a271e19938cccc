//! Output of a running step, from its pipes to the log of its vertex.

use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::BytesMut;
use cofferdam_solver::{LogStream, Step, VertexLog};
use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use crate::failure::Failure;

/// What one read takes: a pipe's own capacity.
const READ_BYTES: usize = 64 << 10;
/// How long output may trickle in after the step's first process has ended. All processes of
/// the step are gone by then, so the pipe ends as soon as what is in it was read.
const DRAIN: Duration = Duration::from_secs(5);

/// The ends a step writes to, and what reads the others.
pub(super) struct Pipes {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) readers: Readers,
}

/// Tasks that read a step's output; dropping stops them.
pub(super) struct Readers(Vec<JoinHandle<()>>);

impl Readers {
    /// Waits until everything that was written is in the log.
    pub(super) async fn finish(mut self) {
        for reader in self.0.drain(..) {
            // A reader has nothing to report: a broken pipe just ends the log.
            let _ = tokio::time::timeout(DRAIN, reader).await;
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for reader in &self.0 {
            reader.abort();
        }
    }
}

/// Opens two pipes whose contents go to the step's log.
pub(super) fn pipes(step: &Step) -> Result<Pipes, Failure> {
    let (stdout, out_reader) = pipe_to(&step.progress, LogStream::Stdout)?;
    let (stderr, err_reader) = pipe_to(&step.progress, LogStream::Stderr)?;
    Ok(Pipes { stdout, stderr, readers: Readers(vec![out_reader, err_reader]) })
}

fn pipe_to(log: &VertexLog, stream: LogStream) -> Result<(OwnedFd, JoinHandle<()>), Failure> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(Failure::of)?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(Failure::of)?;
    let mut reader = pipe::Receiver::from_owned_fd(reader).map_err(Failure::of)?;
    let log = log.clone();
    let task = tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            buffer.reserve(READ_BYTES);
            match reader.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => log.log(stream, buffer.split().freeze()),
            }
        }
    });
    Ok((writer, task))
}
