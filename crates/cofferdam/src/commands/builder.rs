//! `cofferdam builder`: the supervisor of one builder, and the two processes it makes.
//!
//! The supervisor reads the configuration, binds the listeners, starts the gate and the enclosed builder, passes signals on and
//! cleans up. It never reads a byte that a tenant wrote.

mod arguments;
mod devices;
mod enclosed;
mod gate;
mod guest;
mod ignored;
mod listen;
mod places;
mod settings;
mod supervise;
mod vm;
mod vm_hypervisor;
mod vouched;

use std::process::ExitCode;

pub(crate) use arguments::BuilderArgs;
pub(crate) use enclosed::run as enclosed;
pub(crate) use gate::{MODE as GATE_MODE, run as gate};
pub(crate) use guest::{is_wanted as is_guest, run as guest};
pub(crate) use places::{CONFIG, Places};

/// Carries the command out: returns when the builder has ended.
pub(crate) fn run(args: BuilderArgs) -> anyhow::Result<ExitCode> {
    let settings = settings::Settings::new(args, &Places::of_this_user())?;
    crate::logging::start(settings.level, settings.format);
    supervise::run(settings)
}

/// Chooses the implementation of TLS for this process: dependencies are built without one of their own choice.
pub(crate) fn install_cryptography() {
    // An error means that it was chosen already.
    rustls::crypto::ring::default_provider().install_default().ok();
}
