//! `cofferdam builder`: the supervisor of one builder, and the two processes it makes, which are copies of it from before it had read
//! anything.
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

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::ExitCode;

use anyhow::{Context, bail};
use cofferdam_sandbox::{Spare, Task, Twin};

pub(crate) use arguments::BuilderArgs;
pub(crate) use enclosed::run as enclosed;
pub(crate) use guest::{is_wanted as is_guest, run as guest};
pub(crate) use places::{CONFIG, Places};

const MISSING: &str = "copies of this process for gate and builder are missing";

/// The copies of this process that gate and builder are made of.
#[derive(Debug)]
pub(crate) struct Spares {
    gate: Spare,
    builder: Spare,
}

/// What came of [`begin`].
#[derive(Debug)]
pub(crate) enum Begun {
    /// This is the process that was started, and it has its spare copies.
    Supervisor(Spares),
    /// This was one of the copies, and its life is over.
    Copy(ExitCode),
}

/// Makes the spare copies. To be called first, by a process with one thread that has read nothing but its arguments. In a copy it
/// returns when what the copy became has ended; there it takes the arguments away.
pub(crate) fn begin(arguments: &mut Vec<OsString>) -> anyhow::Result<Begun> {
    match Spare::make(2)? {
        Twin::Maker(mut spares) => match (spares.pop(), spares.pop()) {
            (Some(builder), Some(gate)) => Ok(Begun::Supervisor(Spares { gate, builder })),
            _ => bail!(MISSING),
        },
        Twin::Copy(task) => {
            arguments.drain(..).for_each(wipe);
            part(&task).map(Begun::Copy)
        }
    }
}

/// Overwrites a text that is of no more use.
fn wipe(text: OsString) {
    let mut bytes = text.into_vec();
    bytes.fill(0);
    // Otherwise nobody would read what was written.
    std::hint::black_box(&bytes);
}

/// The life of a copy.
fn part(task: &Task) -> anyhow::Result<ExitCode> {
    match cofferdam_sandbox::enter()? {
        Some(entered) => enclosed::run(entered, &task.args),
        None if task.args.get(1).is_some_and(|mode| mode == gate::MODE) => gate::run(),
        None => bail!("no part of a builder is called {:?}", task.args),
    }
}

/// Carries the command out with the copies that were made for it: returns when the builder has ended.
pub(crate) fn run(args: BuilderArgs, spares: Option<Spares>) -> anyhow::Result<ExitCode> {
    let spares = spares.context(MISSING)?;
    let settings = settings::Settings::new(args, &Places::of_this_user())?;
    crate::logging::start(settings.level, settings.format);
    supervise::run(settings, spares)
}

/// Chooses the implementation of TLS for this process: dependencies are built without one of their own choice.
pub(crate) fn install_cryptography() {
    // An error means that it was chosen already.
    rustls::crypto::ring::default_provider().install_default().ok();
}
