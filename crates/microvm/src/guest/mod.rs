//! The inside of the machine: what this program does as the guest's first process, up to where the builder starts.
//!
//! Nothing here runs on a host. Whatever fails is said on the console and turns the machine off: the host's side shows the
//! console's last lines.

mod port;
mod serve;
mod start;

pub use serve::{Inside, Session, Target};
pub use start::{boot, mount_store, power_off};

/// First argument of the guest's init.
pub const MODE: &str = "__guest";
/// The name of the port on the host's command line and in the guest's sysfs.
pub const PORT_NAME: &str = "cofferdam";
/// The port of the host that the guest connects to where there is no virtio port. Those below are for the privileged, vsock(7).
pub const VSOCK_PORT: u32 = 1024;
/// Where the kernel modules are in the guest's first file tree.
pub const MODULES: &str = "/modules";
/// Where the store's disk is mounted.
pub const DISK: &str = "/disk";

/// Whether this process is the init of a machine.
#[must_use]
pub fn is_wanted() -> bool {
    std::process::id() == 1 && std::env::args_os().nth(1).is_some_and(|first| first == MODE)
}

/// The machine could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A step on the way failed.
    #[error("{action}")]
    Start {
        /// What was tried.
        action: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// There is no way to the host.
    #[error(
        "there is no virtio port named {PORT_NAME}, and nobody listens at the host's vsock port {VSOCK_PORT}"
    )]
    NoPort(#[source] std::io::Error),
    /// The host closed the channel, or did not keep to the protocol.
    #[error("talk to the host")]
    Channel(#[source] std::io::Error),
}

impl GuestError {
    fn start<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Start { action, source: source.into() }
    }
}
