//! The virtual machine that a builder can live in: its kernel, first file tree and disk, QEMU's command line, and the channel
//! between host and guest.
//!
//! ```text
//! supervisor ── enclosure ── machine's process ──virtio port── init of the guest ── enclosure ── builder
//!      |                       |  '── QEMU                        (this program)                  |-- steps
//!      |                       |<──────── connections of clients ────────>                        |
//!      '── gate <──────────────'<──────── control socket, packets of each step <──────────────────'
//! ```
//!
//! The machine has a disk, a port and a console. There is no network device and no shared directory: the gate is the only way to
//! the network, and it is reached over the port. The host never reads the guest's disk.
//!
//! [`host::run`] is the machine's process, [`guest`] what is inside. What both need of the builder (its enclosure, configuration,
//! listeners) is the caller's: this crate does not know what a builder is, and must never read what clients and builder say to each
//! other.

mod channel;
mod clock;
mod closure;
mod console;
mod disk;
mod doctor;
mod elf;
pub mod guest;
pub mod host;
mod initramfs;
mod kernel;
mod machine;
mod modules;
mod order;
mod probe;
mod relay;
mod seqpacket;

/// Feeds arbitrary bytes to the host's end of the channel, as a guest could send them.
pub fn exercise_channel(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Ok(runtime) = runtime {
        tokio::task::LocalSet::new().block_on(&runtime, channel::exercise(data));
    }
}

pub use closure::ClosureError;
pub use disk::{DEFAULT as DEFAULT_DISK, DiskError, LEAST as LEAST_DISK};
pub use doctor::findings;
pub use elf::ElfError;
pub use initramfs::{InitramfsError, prepare as prepare_initramfs};
pub use kernel::{Kernel, KernelError};
pub use machine::{Accelerator, Machine, OVERHEAD};
pub use modules::ModulesError;
pub use order::Order;
pub use probe::{ProbeError, kvm_works};
