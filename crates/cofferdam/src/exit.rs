//! How this program ends: 0 when it did what was asked, 1 when not, 2 when it was asked in a way it does not understand
//! (`clap` does that itself).

use std::io;
use std::process::ExitCode;

use cofferdam_client::text;

/// The process's exit code; a failure is printed with everything that led to it.
pub(crate) fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        // Whoever reads our output has enough of it.
        Err(error) if is_closed(&error) => ExitCode::FAILURE,
        Err(error) => {
            // Servers, builders and steps have a say in what went wrong, but none about the terminal.
            eprintln!("cofferdam: {}", text::lines(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
