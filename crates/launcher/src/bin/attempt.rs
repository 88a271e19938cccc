//! `attempt RESULT PROGRAM ARGUMENT...`: runs a program and writes down how it ended.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_launcher::attempt()
}
