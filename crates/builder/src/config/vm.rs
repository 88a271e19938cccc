//! `[isolation.vm]`: the virtual machine of level `vm`. The supervisor makes it; the builder inside has no use for this.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::units::DiskSpace;

/// What level `vm` runs on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Vm {
    /// The program that is the machine.
    pub hypervisor: Hypervisor,
    /// Firecracker's program; the one where programs are when absent.
    pub firecracker: Option<PathBuf>,
    /// What runs the guest's instructions.
    pub accelerator: Accelerator,
    /// The kernel's image; the newest one installed for virtual machines when absent.
    pub kernel: Option<PathBuf>,
    /// The directory of its modules; that of the kernel's version below `/lib/modules` when absent.
    pub modules: Option<PathBuf>,
    /// Size of the store's disk. Blocks that were never written take no space.
    pub disk: Option<DiskSpace>,
}

/// The program that is the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// Firecracker where it is installed and boots a kernel, else QEMU.
    #[default]
    Auto,
    /// QEMU. The builder does not start where that does not work.
    Qemu,
    /// Firecracker, likewise.
    Firecracker,
}

/// What runs the guest's instructions. Never chosen by itself: emulation is several times slower, and whoever expects a processor's
/// own walls around tenants should not get a program's in silence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor. The builder does not start where that does not work.
    #[default]
    Kvm,
    /// QEMU's own emulation.
    Tcg,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn emulation_is_never_the_default() {
        let vm: Vm = toml::from_str("").unwrap();
        assert_eq!(vm.accelerator, Accelerator::Kvm);
        let vm: Vm = toml::from_str("accelerator = 'tcg'\nkernel = '/k'\ndisk = '10GB'").unwrap();
        assert_eq!(vm.accelerator, Accelerator::Tcg);
        assert_eq!(vm.disk, Some(DiskSpace::Bytes(10_000_000_000)));
        assert!(toml::from_str::<Vm>("accelerator = 'auto'").is_err());
        assert_eq!(vm.hypervisor, Hypervisor::Auto);
        let vm: Vm = toml::from_str("hypervisor = 'firecracker'\nfirecracker = '/f'").unwrap();
        assert_eq!((vm.hypervisor, vm.firecracker), (Hypervisor::Firecracker, Some("/f".into())));
        assert!(toml::from_str::<Vm>("hypervisor = 'xen'").is_err());
        assert!(toml::from_str::<Vm>("speed = 1").is_err());
    }
}
