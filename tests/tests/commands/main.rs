//! Our own commands against a server: what people type, what they read, and what scripts get.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

#[path = "../server/browser.rs"]
mod browser;

mod account;
mod builds;
mod hosted;
mod images;
mod manage;
mod walls;

use std::time::{Duration, Instant};

use cofferdam_tests::{Client, Server, program};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, for somebody with the organization's token.
fn cofferdam(server: &Server, args: &str) -> Client {
    with_token(server, server.token(), args)
}

/// The program, for somebody with this token.
fn with_token(server: &Server, token: &str, args: &str) -> Client {
    Client::new(program())
        .env("COFFERDAM_SERVER", server.url())
        .env("COFFERDAM_TOKEN", token)
        .args(args)
}

/// Waits until something is there.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
