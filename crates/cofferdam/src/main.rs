//! The `cofferdam` program: reads arguments, calls the rooms below, prints.
//!
//! One executable plays all parts. Those with commands are started by people; of `builder` more processes
//! are made from the same file: the gate, the enclosed builder itself or the process of its virtual machine, and the first process
//! in that. They are told apart before any argument is
//! parsed, because they must do their first steps with a single thread and nothing else of value in memory. This crate holds no
//! domain logic.

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

use std::process::ExitCode;

fn main() -> ExitCode {
    if commands::builder::is_guest() {
        return commands::builder::guest();
    }
    match cofferdam_sandbox::enter() {
        Ok(Some(entered)) => return exit::code(commands::builder::enclosed(entered)),
        Ok(None) => {}
        Err(error) => return exit::code(Err(error.into())),
    }
    if std::env::args_os().nth(1).is_some_and(|first| first == commands::builder::GATE_MODE) {
        return exit::code(commands::builder::gate());
    }
    exit::code(cli::run(std::env::args_os()))
}
