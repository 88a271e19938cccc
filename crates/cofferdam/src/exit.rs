//! How this program ends: 0 when it did what was asked, 1 when not, 2 when it was asked in a way it does not understand
//! (`clap` does that itself); builds by buildpacks that fail end as a lifecycle of buildpacks would.

use std::process::ExitCode;

use cofferdam_client::text;

use crate::terminal::PrintError;

/// The process's exit code; a failure is printed with everything that led to it.
pub(crate) fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) if is_closed(&error) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cofferdam: {}", message(&error));
            error.downcast_ref::<Coded>().map_or(ExitCode::FAILURE, |coded| coded.code.into())
        }
    }
}

/// A failure with an exit code of its own.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Coded {
    code: u8,
    message: String,
}

impl Coded {
    /// `error`, told by this exit code.
    pub(crate) fn new(code: u8, error: &anyhow::Error) -> Self {
        Self { code, message: format!("{error:#}") }
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(PrintError::Closed))
}

/// What is said of a failure. Servers, builders and steps have a say in what went wrong, but none about the terminal.
fn message(error: &anyhow::Error) -> String {
    text::lines(&format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_control_nothing() {
        let error = anyhow::anyhow!("\x1b[2Jno\nlog:\r\x1b]0;t\x07 \u{202e}x").context("ask");
        assert_eq!(message(&error), "ask: [2Jno\nlog:]0;t x");
    }

    #[test]
    fn some_failures_have_codes() {
        let error = anyhow::anyhow!("detect").context("build");
        let coded = anyhow::Error::from(Coded::new(20, &error));
        assert_eq!(message(&coded), "build: detect");
        assert_eq!(code(Err(coded)), ExitCode::from(20));
        assert_eq!(code(Err(error)), ExitCode::FAILURE);
    }

    #[test]
    fn a_reader_who_has_enough_is_no_failure_to_speak_of() {
        let pipe = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_closed(&PrintError::Closed.into()));
        assert!(!is_closed(&PrintError::Failed(pipe()).into()) && !is_closed(&pipe().into()));
    }
}
