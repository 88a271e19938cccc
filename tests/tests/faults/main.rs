//! Faults: what the machine and the other side do wrong, one at a time, and what becomes of builds, stores and records.
//!
//! The same rules hold for each: the client is told once and in plain words, the process goes on or comes back, the store is what
//! its records say, and when the fault is over the same build gives the same image as if nothing had been. Where each is tried:
//!
//! | Fault | Where |
//! |---|---|
//! | disk full at any byte or file that a build writes | here, [`disk`] |
//! | disk full while a step or a copy runs | `e2e/failures.rs`; at level `vm` in `vm/main.rs`; a buildpack's layers in `buildpacks/walls/resources.rs` |
//! | creating, naming, recording or syncing that fails | here, [`calls`]; a sync that lost what was written, in `crates/store/src/flush.rs` |
//! | disk full under a store that is opened, pruned or closed | `crates/store/tests/{trust,pruning}.rs` |
//! | disk full under a server | here, [`server`]; an end that cannot be recorded, in `server/interruption.rs` |
//! | disk full at the client | `crates/session/tests/hostile.rs` |
//! | read errors, wrong bytes on the disk | here, [`reads`]; damaged records and blobs in `crates/store/tests/trust.rs` |
//! | registry that cuts a pull, a push or TLS | here, [`registries`]; byte by byte in `crates/image/tests/slow_registry.rs` |
//! | registry that is silent, drips, takes nothing | `crates/image/tests/slow_registry.rs`; here, that its build can be stopped |
//! | registry with other bytes, digests, lengths, documents | `e2e/failures.rs`, `walls/registries.rs`, `crates/image/tests/hostile_registry.rs` |
//! | registry that limits | here, [`registries`]; `crates/image/tests/slow_registry.rs` |
//! | client that stops reading | here, [`logs`] |
//! | clock that jumps | here, [`clock`] (server) and [`builder_clock`]; the store in `crates/store/tests/clock.rs`; the clock of a virtual machine in `crates/microvm/src/clock.rs` |
//! | out of memory in a step | here, [`memory`]; `e2e/limits.rs`; `walls/resources.rs` |
//! | signals in every phase | here, [`stopping`]; a running step also in `e2e/interruption.rs`, draining in `server/stopping.rs` |
//! | death without a signal | `e2e/interruption.rs`, `server/interruption.rs`, `server/stopping.rs`, `crates/store/tests` |
//! | two of a kind on one directory | builders: here, [`stopping`]; servers: `server/stopping.rs` |
//!
//! Nothing here may depend on how long something takes, except that it ends.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod builder_clock;
mod calls;
mod clock;
mod disk;
mod logs;
mod memory;
mod reads;
mod registries;
mod server;
mod shared;
mod stopping;
