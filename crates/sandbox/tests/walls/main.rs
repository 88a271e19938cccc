//! Tries the walls of the sandbox from inside, with real namespaces, real mounts and a busybox root.
//!
//! The program runs in three roles: outside it makes enclosures and looks at the host, enclosed it is the builder that starts
//! steps, and as `probe` it is the hostile command in a step. Needs root; says so and does nothing otherwise.

mod bench;
mod inside;
mod ordinary;
mod outside;
mod probe;
mod spare;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cofferdam_sandbox::enter() {
        Ok(Some(entered)) => {
            let args: Vec<String> = std::env::args().collect();
            return inside::main(entered, &args);
        }
        Ok(None) => {}
        Err(error) => {
            eprintln!("enter: {error}");
            return ExitCode::FAILURE;
        }
    }
    let args: Vec<String> = std::env::args().collect();
    match args.get(1).map(String::as_str) {
        Some("probe") => probe::main(&args[2..]),
        Some("knowing") => spare::knowing(&args[2]),
        Some("from") => spare::from(&args[2]),
        Some("as-user") => ordinary::as_user(args.get(2).map_or("", String::as_str)),
        Some("--list") => ExitCode::SUCCESS,
        _ => outside::main(args.get(1).filter(|arg| !arg.starts_with('-')).map(String::as_str)),
    }
}
