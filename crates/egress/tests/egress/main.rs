//! The gate against real interfaces: every test makes three network namespaces (step, gate, world), runs a gate process in the
//! middle one, and sends nothing outside them. Needs root, `/dev/net/tun` and iproute2; without root the tests pass unrun.
#![allow(clippy::unwrap_used, missing_docs)]

mod breach;
mod builder;
mod dns;
mod flows;
mod hostile;
mod throughput;
mod world;

use std::os::fd::{FromRawFd, OwnedFd};

/// The gate process: this test binary again, started by `World`.
#[test]
#[ignore = "run by the other tests as a process of its own"]
fn gate_process() {
    let Ok(policy) = std::env::var(world::POLICY) else { return };
    let control = std::env::var(world::CONTROL).unwrap().parse().unwrap();
    // SAFETY: the parent left the control socket open at this number for us alone.
    let control = unsafe { OwnedFd::from_raw_fd(control) };
    let policy = serde_json::from_str(&policy).unwrap();
    let options = cofferdam_egress::GateOptions { uid: Some(54321), gid: None, landlock: true };
    cofferdam_egress::run_gate_with(control, policy, options).unwrap();
}
