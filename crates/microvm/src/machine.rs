//! What a machine is made of, and QEMU's command line for it: a `microvm` machine with a disk, one port and a serial console, and
//! nothing else. Firecracker's description of the same is in [`crate::firecracker`].
//!
//! No network device, no shared directory, no monitor, no display. What is emulated is what a guest can attack, so each device here
//! has a reason. QEMU itself may not start programs, change its ids or take more privileges (its `-sandbox`).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{clock, guest};

/// The program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The number of the descriptor that is the host's side of the port.
pub(crate) const PORT: i32 = 3;

/// Translated code of an emulated machine that QEMU keeps, in megabytes.
const TRANSLATED: u64 = 256;

/// Memory QEMU takes besides the guest's: its own, translated code, and what the channel holds.
pub const OVERHEAD: u64 = 768 << 20;

/// System calls that QEMU has no use for once it runs.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Kernel parameters of every guest. The console is kept short: an emulated serial line is slow.
pub(crate) const PARAMETERS: &str =
    "console=ttyS0 quiet panic=-1 random.trust_cpu=on oops=panic cgroup_no_v1=all";
/// Those of QEMU's: it ends when the guest starts again, however that does it.
const OWN_PARAMETERS: &str = "reboot=t";

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor, by the kernel's KVM.
    Kvm,
    /// A program. Several times slower, and more code between guest and host.
    Tcg,
}

/// The program that is the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// QEMU, from the host's packages.
    Qemu,
    /// Firecracker. It needs KVM.
    Firecracker {
        /// Where it is.
        program: PathBuf,
    },
}

/// A machine to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// What runs it.
    pub hypervisor: Hypervisor,
    /// The kernel's image; for Firecracker an ELF file.
    pub kernel: PathBuf,
    /// The guest's first file tree.
    pub initramfs: PathBuf,
    /// What runs its instructions.
    pub accelerator: Accelerator,
    /// Bytes of memory.
    pub memory: u64,
    /// Number of processors.
    pub cpus: u32,
}

impl Machine {
    /// The monitor's program, when it is none of the system's.
    pub(crate) fn program(&self) -> Option<&Path> {
        match &self.hypervisor {
            Hypervisor::Qemu => None,
            Hypervisor::Firecracker { program } => Some(program),
        }
    }

    /// QEMU's whole command line after the program's name, with `disk` as the store.
    pub(crate) fn arguments(&self, disk: &Path) -> Vec<OsString> {
        let mut arguments = common(self.accelerator, self.memory, self.cpus);
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        add("-kernel", self.kernel.clone().into());
        add("-initrd", self.initramfs.clone().into());
        add("-append", format!("{} -- {}", parameters(self.accelerator), guest::MODE).into());
        let mut drive =
            OsString::from("id=store,if=none,format=raw,discard=unmap,detect-zeroes=unmap,file=");
        // A comma ends a value unless it is doubled.
        drive.push(disk.to_string_lossy().replace(',', ",,"));
        add("-drive", drive);
        add("-device", "virtio-blk-device,drive=store".into());
        add("-device", "virtio-serial-device,max_ports=2".into());
        add("-chardev", format!("socket,id=port,fd={PORT}").into());
        add(
            "-device",
            format!("virtserialport,chardev=port,nr=1,name={}", guest::PORT_NAME).into(),
        );
        add("-device", "virtio-rng-device".into());
        arguments
    }

    /// One that boots the kernel with nothing to run: it says so and ends.
    pub(crate) fn probe(kernel: &Path) -> Vec<OsString> {
        let mut arguments = common(Accelerator::Kvm, 128 << 20, 1);
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        add("-kernel", kernel.into());
        // Not quiet: the first lines are the sign of life.
        add("-append", "console=ttyS0 panic=-1 reboot=t".into());
        arguments
    }
}

fn common(accelerator: Accelerator, memory: u64, cpus: u32) -> Vec<OsString> {
    let (accelerated, processor) = match accelerator {
        Accelerator::Kvm => ("kvm".to_owned(), "host"),
        Accelerator::Tcg => (format!("tcg,thread=multi,tb-size={TRANSLATED}"), "max"),
    };
    let megabytes = memory >> 20;
    [
        ("-M", "microvm,acpi=on".to_owned()),
        ("-global", "virtio-mmio.force-legacy=false".to_owned()),
        ("-accel", accelerated),
        ("-cpu", processor.to_owned()),
        ("-smp", cpus.to_string()),
        ("-m", format!("{megabytes}M")),
        ("-display", "none".to_owned()),
        ("-monitor", "none".to_owned()),
        ("-chardev", "stdio,id=console,signal=off".to_owned()),
        ("-serial", "chardev:console".to_owned()),
        ("-sandbox", SANDBOX.to_owned()),
    ]
    .into_iter()
    .flat_map(|(name, value)| [name.into(), value.into()])
    .chain(["-nodefaults", "-no-user-config", "-no-reboot"].map(OsString::from))
    .collect()
}

fn parameters(accelerator: Accelerator) -> String {
    match accelerator {
        Accelerator::Kvm => format!("{PARAMETERS} {OWN_PARAMETERS}"),
        Accelerator::Tcg => {
            format!("{PARAMETERS} {OWN_PARAMETERS} tsc_early_khz={}", clock::tsc_khz())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(accelerator: Accelerator) -> String {
        let machine = Machine {
            hypervisor: Hypervisor::Qemu,
            kernel: "/k".into(),
            initramfs: "/i".into(),
            accelerator,
            memory: 1 << 30,
            cpus: 2,
        };
        let arguments = machine.arguments(Path::new("/a,b"));
        let arguments: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
        arguments.join(" ")
    }

    #[test]
    fn a_machine_has_no_network_and_no_shared_directory() {
        for accelerator in [Accelerator::Kvm, Accelerator::Tcg] {
            let line = line(accelerator);
            for device in
                ["virtio-net", "-netdev", "-nic", "-virtfs", "-fsdev", "vhost", "qmp", "secret"]
            {
                assert!(!line.contains(device), "{device} in {line}");
            }
            for word in
                ["-nodefaults", "spawn=deny", "elevateprivileges=deny", "-m 1024M", "file=/a,,b"]
            {
                assert!(line.contains(word), "no {word} in {line}");
            }
        }
    }

    #[test]
    fn an_emulated_machine_is_told_the_rate_of_its_clock() {
        assert!(line(Accelerator::Tcg).contains("tsc_early_khz="));
        assert!(!line(Accelerator::Kvm).contains("tsc_early_khz="));
    }
}
