//! What `runsc` has to complain about, kept apart from what the step says.
//!
//! The sentry holds the other end, and the sentry is where hostile code runs: what is read is bounded and becomes an error text,
//! nothing else.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::task::JoinHandle;

use crate::descriptors;
use crate::message::Failure;

/// Exit code of `runsc` when it could not do what it was asked. A step can exit with it too, and then there is no complaint.
pub(crate) const GAVE_UP: i32 = 128;

/// How much of the log's end is kept: an error is one line.
const KEPT: usize = 16 << 10;

/// How long the end of the log is waited for; every process that could write is gone by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest complaint that is passed on.
const MAX_COMPLAINT: usize = 2000;

/// Reads a log while the step runs, so that nobody who writes has to wait.
#[derive(Debug)]
pub(crate) struct Log(JoinHandle<Vec<u8>>);

impl Log {
    /// Starts reading. Inside a runtime.
    pub(crate) fn follow(pipe: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&pipe, true)?;
        let pipe = descriptors::watch(pipe, Interest::READABLE)?;
        Ok(Self(tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut piece = vec![0; KEPT];
            loop {
                let read = pipe
                    .async_io(Interest::READABLE, |pipe| Ok(rustix::io::read(pipe, &mut piece)?))
                    .await;
                let Ok(length @ 1..) = read else { return kept };
                kept.extend_from_slice(&piece[..length]);
                kept.drain(..kept.len().saturating_sub(KEPT));
            }
        })))
    }

    /// The end of the log, after the step has ended.
    pub(crate) async fn finish(self) -> Vec<u8> {
        match tokio::time::timeout(PATIENCE, self.0).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

/// The last error in a log, as the failure it means for the step.
pub(crate) fn complaint(log: &[u8]) -> Option<Failure> {
    #[derive(serde::Deserialize)]
    struct Line {
        msg: String,
        level: String,
    }
    let lines = serde_json::Deserializer::from_slice(log).into_iter::<Line>();
    let whole = lines.map_while(Result::ok).filter(serious).last();
    // When the beginning was dropped, the first line is not whole.
    let found = whole.or_else(|| {
        let lines = log.split(|byte| *byte == b'\n').skip(1);
        lines.filter_map(|line| serde_json::from_slice(line).ok()).filter(serious).last()
    })?;
    fn serious(line: &Line) -> bool {
        matches!(line.level.as_str(), "error" | "fatal" | "warning")
            && line.msg.contains("running container")
    }
    let message: String = found.msg.chars().take(MAX_COMPLAINT).collect();
    Some(translate(&message))
}

/// Complaints about the command become what they are at the level of namespaces.
fn translate(message: &str) -> Failure {
    let of_command = message.split_once("failed to load ").and_then(|(_, what)| {
        let (path, words) = what.rsplit_once(": ")?;
        let code = match words {
            "no such file or directory" | "not a directory" => 127,
            "permission denied" | "exec format error" | "argument list too long" => 126,
            _ => return None,
        };
        Some(Failure::Command { message: format!("exec {path}: {words}"), code })
    });
    of_command.unwrap_or_else(|| Failure::Mechanism {
        action: "run the step with runsc".to_owned(),
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_error_is_found() {
        let log = br#"{"msg":"running container: x","level":"info","time":"1"}{"msg":"running container: starting: failed to load /x: exec format error","level":"error","time":"2"}"#;
        match complaint(log) {
            Some(Failure::Command { message, code: 126 }) => {
                assert_eq!(message, "exec /x: exec format error");
            }
            other => panic!("{other:?}"),
        }
        let cut = b"lf a line\"}\n{\"msg\":\"running container: creating container: no space\",\"level\":\"error\"}\n";
        assert!(matches!(complaint(cut), Some(Failure::Mechanism { .. })));
        assert!(complaint(b"not a log").is_none() && complaint(b"").is_none());
    }
}
