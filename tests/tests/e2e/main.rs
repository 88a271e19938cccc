//! Builds end to end: the real program, real registries, real sandboxes, and clients that are not ours.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test that cannot go on should stop where it is")]

mod smoke;
