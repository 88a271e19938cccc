//! The `cofferdam` program: reads arguments, calls the rooms below, prints.
//!
//! One executable plays all parts. Those with commands are started by people; of `builder` more processes are made: the gate, the
//! enclosed builder itself or the process of its virtual machine, and the first process in that. They are told apart before any
//! argument is parsed, because they must do their first steps with a single thread and nothing else of value in memory. This crate
//! holds no domain logic.

mod accounts;
mod artifact;
mod below;
mod cli;
mod commands;
mod exit;
mod logging;
mod paging;
mod remote;
mod terminal;
mod trusted;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    if commands::builder::is_guest() {
        return commands::builder::guest();
    }
    exit::code(play())
}

/// What this process was started for.
fn play() -> anyhow::Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match cofferdam_sandbox::enter()? {
        Some(entered) => commands::builder::enclosed(entered, &arguments),
        None => cli::run(arguments),
    }
}
