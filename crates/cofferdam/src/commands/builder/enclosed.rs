//! The builder's own process, from inside its enclosure.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use cofferdam_builder::{Config, Parts};
use cofferdam_sandbox::{Entered, Isolation, Launcher, LauncherConfig, Runsc};

use super::{listen, vm};
use crate::logging;

/// Names of inherited descriptors, besides those of listeners.
pub(super) const CONFIG: &str = "config";
pub(super) const GATE: &str = "gate";
pub(super) const DEVICES: &str = "devices";

/// Arguments of this process, for whoever looks at a list of processes.
pub(super) const MODE: &str = "__builder";

/// Processes that start steps. Two, so that one busy with a slow root does not hold up everybody.
const LAUNCH_HELPERS: u8 = 2;

/// Longest configuration: certificates included, it stays far below.
const MAX_CONFIG: u64 = 64 << 20;

/// Becomes the builder and serves until told to stop. The process has one thread when this is called, and was begun with `arguments`.
pub(crate) fn run(entered: Entered, arguments: &[OsString]) -> anyhow::Result<ExitCode> {
    if arguments.get(1).is_some_and(|first| first == vm::MODE) {
        return vm::run(entered);
    }
    let Entered { store, ids, cgroup, tun, mut descriptors } = entered;
    let config = descriptors
        .remove(CONFIG)
        .ok_or_else(|| anyhow!("the supervisor left no configuration"))?;
    let mut bytes = Vec::new();
    File::from(config)
        .take(MAX_CONFIG)
        .read_to_end(&mut bytes)
        .context("read the supervisor's configuration")?;
    let config: Config =
        serde_json::from_slice(&bytes).context("read the supervisor's configuration")?;
    logging::start(config.log.level.parse()?, config.log.format.parse()?);
    // Before any other thread exists.
    let gvisor = match config.isolation.level {
        Isolation::Gvisor => Some(Runsc::find()?),
        // In a virtual machine steps are run as without one.
        Isolation::Namespaces | Isolation::Vm => None,
    };
    let launcher =
        Launcher::prefork(LauncherConfig { helpers: LAUNCH_HELPERS, ids, cgroup, gvisor })?;
    cofferdam_server::bound_builders_memory();
    super::install_cryptography();
    let gate = descriptors.remove(GATE);
    let devices = descriptors.remove(DEVICES);
    let listeners = listen::inherited(descriptors);
    cofferdam_builder::run(Parts {
        root: store,
        config,
        listeners,
        gate,
        tun,
        devices,
        launcher,
        step_ids: ids,
    })?;
    Ok(ExitCode::SUCCESS)
}
