//! Which program is the virtual machine: what was configured if it works, or of those that work the one with less in it.
//!
//! "Works" is always tried, never guessed, by booting a kernel. What was asked for by name and does not work refuses the builder.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use cofferdam_builder::{Accelerator as Configured, Hypervisor as Wanted, VmConfig as Vm};
use cofferdam_microvm::{
    Accelerator, Firecracker, Hypervisor, Kernel, firecracker_works, kvm_works, prepare_vmlinux,
};
use cofferdam_sandbox::Bind;

use super::vm::read_only;

/// Where the machine's process finds Firecracker.
const PROGRAM: &str = "/machine/firecracker";

/// What an operator can do about KVM that does not work.
const EMULATE: &str = "level vm needs KVM, which does not work here; to have virtual machines emulated, which is several times \
                       slower, set accelerator = \"tcg\" in [isolation.vm] of the builder's configuration";

/// What runs the machine.
pub(super) struct Chosen {
    pub(super) hypervisor: Hypervisor,
    pub(super) accelerator: Accelerator,
    /// The program, when it is none of those that every enclosure has.
    pub(super) bind: Option<Bind>,
}

impl Chosen {
    /// What `vm` says, tried with `kernel`.
    pub(super) fn new(vm: &Vm, kernel: &Kernel) -> anyhow::Result<Self> {
        match (vm.hypervisor, vm.accelerator) {
            (Wanted::Firecracker, Configured::Tcg) => bail!(
                "Firecracker runs on KVM alone: set hypervisor = \"qemu\" or accelerator = \"kvm\" in [isolation.vm]"
            ),
            (_, Configured::Tcg) => Ok(Self::qemu(Accelerator::Tcg)),
            (Wanted::Qemu, Configured::Kvm) => {
                kvm_works(&kernel.image).context(EMULATE)?;
                Ok(Self::qemu(Accelerator::Kvm))
            }
            (Wanted::Firecracker, Configured::Kvm) => Self::firecracker(vm, kernel),
            (Wanted::Auto, Configured::Kvm) => Self::either(vm, kernel),
        }
    }

    fn either(vm: &Vm, kernel: &Kernel) -> anyhow::Result<Self> {
        let first = match Self::firecracker(vm, kernel) {
            Ok(chosen) => return Ok(chosen),
            Err(error) => error,
        };
        match kvm_works(&kernel.image) {
            Ok(()) => {
                tracing::info!("virtual machines are QEMU's: {first:#}");
                Ok(Self::qemu(Accelerator::Kvm))
            }
            Err(second) => {
                let second = anyhow::Error::from(second);
                bail!("{EMULATE} (Firecracker: {first:#}; QEMU: {second:#})")
            }
        }
    }

    fn qemu(accelerator: Accelerator) -> Self {
        Self { hypervisor: Hypervisor::Qemu, accelerator, bind: None }
    }

    fn firecracker(vm: &Vm, kernel: &Kernel) -> anyhow::Result<Self> {
        let found = Firecracker::find(vm.firecracker.as_deref())?;
        firecracker_works(&found.program, &kernel.image).with_context(|| {
            format!(
                "level vm with Firecracker needs KVM, and Firecracker {} at {} did not boot {} (QEMU can do without, several times \
                 slower: hypervisor = \"qemu\" and accelerator = \"tcg\" in [isolation.vm])",
                found.version,
                found.program.display(),
                kernel.image.display()
            )
        })?;
        Ok(Self {
            hypervisor: Hypervisor::Firecracker { program: PROGRAM.into() },
            accelerator: Accelerator::Kvm,
            bind: Some(read_only(&found.program, PROGRAM)),
        })
    }

    /// The kernel in the form that is loaded: Firecracker takes none that is packed. It is unpacked into `boot`.
    pub(super) fn kernel(&self, kernel: &Kernel, boot: &Path) -> anyhow::Result<PathBuf> {
        Ok(match &self.hypervisor {
            Hypervisor::Qemu => kernel.image.clone(),
            Hypervisor::Firecracker { .. } => prepare_vmlinux(boot, &kernel.image)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(vm: Vm) -> String {
        let kernel = Kernel { image: "/nowhere/vmlinuz".into(), modules: "/nowhere".into() };
        format!("{:#}", Chosen::new(&vm, &kernel).err().unwrap())
    }

    #[test]
    fn firecracker_is_never_emulated() {
        let vm =
            Vm { hypervisor: Wanted::Firecracker, accelerator: Configured::Tcg, ..Vm::default() };
        assert!(refused(vm).contains("hypervisor = \"qemu\""));
        let kernel = Kernel { image: "/nowhere".into(), modules: "/nowhere".into() };
        let vm = Vm { accelerator: Configured::Tcg, ..Vm::default() };
        let chosen = Chosen::new(&vm, &kernel).unwrap();
        assert_eq!(chosen.hypervisor, Hypervisor::Qemu);
        assert!(chosen.bind.is_none());
    }

    #[test]
    fn what_was_named_is_not_replaced() {
        let named = Some(PathBuf::from("/nowhere/firecracker"));
        let vm = Vm { hypervisor: Wanted::Firecracker, firecracker: named, ..Vm::default() };
        let said = refused(vm);
        assert!(said.contains("/nowhere/firecracker") && !said.contains("QEMU"), "{said}");
    }
}
