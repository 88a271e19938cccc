//! A server's fleet of builders: the real program, real builds by the command line, as many projects as a test wants.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod builds;
mod keeping;
mod leases;
mod turns;
mod walls;
mod yard;
