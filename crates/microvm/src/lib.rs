//! The virtual machine that a builder can live in: its kernel, first file tree and disk, the monitor that runs it (QEMU or
//! Firecracker), and the channel between host and guest.
//!
//! ```text
//! supervisor ── enclosure ── machine's process ────channel──── init of the guest ── enclosure ── builder
//!      |                       |  '── QEMU or Firecracker         (this program)                  |-- steps
//!      |                       |<──────── connections of clients ────────>                        |
//!      '── gate <──────────────'<──────── control socket, packets of each step <──────────────────'
//! ```
//!
//! The machine has a disk, a port (QEMU's virtio-serial, Firecracker's vsock) and a console. There is no network device and no
//! shared directory: the gate is the only way to the network, and it is reached over the port. The host never reads the guest's
//! disk.
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
mod firecracker;
pub mod guest;
pub mod host;
mod inherit;
mod initramfs;
mod kept;
mod kernel;
mod machine;
mod modules;
mod order;
mod probe;
mod relay;
mod seqpacket;
mod vmlinux;
mod xz;

/// Feeds arbitrary bytes to the host's end of the channel, as a guest could send them.
pub fn exercise_channel(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    if let Ok(runtime) = runtime {
        tokio::task::LocalSet::new().block_on(&runtime, channel::exercise(data));
    }
}

/// Unpacks arbitrary bytes as if they were a kernel's image.
pub fn exercise_kernel(data: &[u8]) {
    vmlinux::unpack(std::io::Cursor::new(data), std::io::sink()).ok();
}

pub use closure::ClosureError;
pub use disk::{DEFAULT as DEFAULT_DISK, DiskError, LEAST as LEAST_DISK};
pub use doctor::{FIRECRACKER, KVM, KVM_FIRECRACKER, QEMU, findings};
pub use elf::ElfError;
pub use firecracker::{Firecracker, FirecrackerError, Version as FirecrackerVersion};
pub use initramfs::{InitramfsError, prepare as prepare_initramfs};
pub use kernel::{Kernel, KernelError};
pub use machine::{Accelerator, Hypervisor, Machine, OVERHEAD};
pub use modules::ModulesError;
pub use order::Order;
pub use probe::{ProbeError, firecracker_works, kvm_works};
pub use vmlinux::{UnpackError, VmlinuxError, prepare as prepare_vmlinux};
