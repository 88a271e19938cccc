//! The server end to end: the real program, and the clients that people have. None of them is ours or knows that it does not talk
//! to Depot.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod account;
mod bake;
mod browser;
mod builds;
mod docker;
mod examples;
mod exec;
mod images;
mod interruption;
mod late;
mod observing;
mod pages;
mod protocols;
mod python;
mod quota;
mod sdk;
mod stopping;
mod trust;
mod turns;
