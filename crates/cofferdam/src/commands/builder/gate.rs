//! The gate's process: a spare copy of the supervisor under an id that is no builder's, with nothing but the control socket and a policy.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use anyhow::{Context, bail};
use cofferdam_builder::Landlock;
use cofferdam_egress::{GateOptions, Policy, run_gate_with};
use cofferdam_sandbox::{Spare, Task};
use serde::{Deserialize, Serialize};

use super::settings::Settings;

/// First argument of a copy that is to be a gate.
pub(super) const MODE: &str = "__gate";

/// The id a gate takes on when started as root: the one below those that builders are given.
const GATE_ID: u32 = (1 << 28) - 1;

/// Ids of one builder.
const BUILDER_IDS: u32 = 131_072;

/// Longest order that is read: policies of tens of thousands of rules are shorter.
const MAX_ORDER: u64 = 16 << 20;

/// What a gate is told, in a file in memory that is its standard output. Its standard input is the control socket: both are
/// places that need no agreement about numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Order {
    level: String,
    format: String,
    id: u32,
    landlock: bool,
    policy: Policy,
}

/// Makes a gate on `control` of this copy. It ends when the other end of that socket is closed, or when it is dropped.
pub(super) fn start(spare: Spare, control: &OwnedFd, settings: &Settings) -> anyhow::Result<Spare> {
    let order = Order {
        level: settings.level.name().to_owned(),
        format: settings.format.name().to_owned(),
        id: gate_id(settings.config.isolation.ids_base),
        landlock: settings.config.isolation.landlock == Landlock::Required,
        policy: settings.config.egress.clone(),
    };
    let order = in_memory(c"gate", &serde_json::to_vec(&order)?)?;
    let task = Task { args: vec!["cofferdam".into(), MODE.into()], env: Vec::new(), first: 0 };
    spare.tell(&task, &[control.as_fd(), order.as_fd()]).context("start the gate")?;
    Ok(spare)
}

/// An id outside of the builder's.
fn gate_id(builder: Option<u32>) -> u32 {
    match builder {
        Some(base) if (base..base.saturating_add(BUILDER_IDS)).contains(&GATE_ID) => {
            base.saturating_sub(1)
        }
        _ => GATE_ID,
    }
}

/// A file in memory, positioned at its start.
pub(super) fn in_memory(name: &std::ffi::CStr, bytes: &[u8]) -> anyhow::Result<OwnedFd> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)
        .context("make a file in memory")?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

/// The gate's whole life.
pub(super) fn run() -> anyhow::Result<ExitCode> {
    let order = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    let mut bytes = Vec::new();
    order
        .take(MAX_ORDER)
        .read_to_end(&mut bytes)
        .context("this mode is for a supervisor to start")?;
    let order: Order =
        serde_json::from_slice(&bytes).context("this mode is for a supervisor to start")?;
    crate::logging::start(order.level.parse()?, order.format.parse()?);
    let control = std::io::stdin().as_fd().try_clone_to_owned()?;
    if order.id == 0 {
        bail!("a gate cannot be root");
    }
    let options = GateOptions { uid: Some(order.id), gid: None, landlock: order.landlock };
    run_gate_with(control, order.policy, options)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_gate_is_never_one_of_the_builders_ids() {
        for base in
            [None, Some(1 << 28), Some(GATE_ID), Some(GATE_ID - BUILDER_IDS + 1), Some(100_000)]
        {
            let id = gate_id(base);
            let first = base.unwrap_or(1 << 28);
            assert!(!(first..first + BUILDER_IDS).contains(&id), "{base:?}");
        }
    }

    #[test]
    fn memory_is_read_back_from_its_start() {
        let mut text = String::new();
        File::from(in_memory(c"test", b"words").unwrap()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "words");
    }
}
