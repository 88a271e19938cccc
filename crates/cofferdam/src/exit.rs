//! How this program ends: 0 when it did what was asked, 1 when not, 2 when it was asked in a way it does not understand
//! (`clap` does that itself).

use std::process::ExitCode;

/// The process's exit code; a failure is printed with everything that led to it.
pub(crate) fn code(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cofferdam: {error:#}");
            ExitCode::FAILURE
        }
    }
}
