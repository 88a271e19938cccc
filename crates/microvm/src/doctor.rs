//! What this machine offers for level `vm`, each thing tried and not guessed.

use std::path::Path;
use std::process::{Command, Stdio};

use cofferdam_sandbox::Finding;

use crate::disk::{MKFS, PATH};
use crate::firecracker::Firecracker;
use crate::kernel::Kernel;
use crate::machine::PROGRAM;
use crate::probe::{ProbeError, firecracker_works, kvm_works};

/// Longest version that is shown.
const MAX_VERSION: usize = 60;

/// Names of findings that not every configuration requires.
pub const QEMU: &str = "QEMU";
/// Whether a virtual machine of QEMU booted with KVM.
pub const KVM: &str = "KVM with QEMU";
/// Whether Firecracker is there, in a version that serves.
pub const FIRECRACKER: &str = "Firecracker";
/// Whether a virtual machine of Firecracker booted.
pub const KVM_FIRECRACKER: &str = "KVM with Firecracker";

/// Looks for what level `vm` needs, with the kernel and the Firecracker that were configured if they were. Nothing here is required
/// for other levels, and one monitor is enough: which, is the caller's to say. KVM is tried by booting virtual machines; without it
/// the level can be had with `accelerator = "tcg"`.
#[must_use]
pub fn findings(
    image: Option<&Path>,
    modules: Option<&Path>,
    firecracker: Option<&Path>,
) -> Vec<Finding> {
    let kernel = Kernel::find(image, modules);
    let firecracker = Firecracker::find(firecracker);
    let qemu = program(QEMU, PROGRAM, "qemu-system-x86");
    let not_tried = |without: &str| (false, format!("not tried without {without}"));
    // A machine that hangs takes seconds to be given up; two take no longer than one.
    let (with_qemu, with_firecracker) = std::thread::scope(|scope| {
        let second = scope.spawn(|| match (&kernel, &firecracker) {
            (Ok(kernel), Ok(found)) => {
                tried(firecracker_works(&found.program, &kernel.image), None)
            }
            (Err(_), _) => not_tried("a kernel"),
            (_, Err(_)) => not_tried("Firecracker"),
        });
        let advice = "virtual machines are emulated only with [isolation.vm] accelerator = \"tcg\"";
        let first = match &kernel {
            Ok(kernel) => tried(kvm_works(&kernel.image), Some(advice)),
            Err(_) => not_tried("a kernel"),
        };
        (first, second.join().unwrap_or_else(|_| not_tried("a thread")))
    });
    vec![
        qemu,
        program("ext4 file systems (mkfs.ext4)", MKFS, "e2fsprogs"),
        finding(
            "kernel for virtual machines",
            shown(&kernel, |kernel| kernel.image.display().to_string()),
        ),
        finding(KVM, with_qemu),
        finding(
            FIRECRACKER,
            shown(&firecracker, |found| {
                format!("{} at {}", found.version, found.program.display())
            }),
        ),
        finding(KVM_FIRECRACKER, with_firecracker),
    ]
}

fn shown<T, E: std::error::Error>(
    found: &Result<T, E>,
    show: impl FnOnce(&T) -> String,
) -> (bool, String) {
    match found {
        Ok(found) => (true, show(found)),
        Err(error) => (false, with_causes(error)),
    }
}

fn tried(result: Result<(), ProbeError>, advice: Option<&str>) -> (bool, String) {
    match result {
        Ok(()) => (true, "a virtual machine booted with it".to_owned()),
        Err(error) => {
            let advice = advice.map(|advice| format!("; {advice}")).unwrap_or_default();
            (false, format!("{}{advice}", with_causes(&error)))
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

fn program(name: &'static str, program: &str, package: &str) -> Finding {
    let flag = if program == MKFS { "-V" } else { "--version" };
    let run =
        Command::new(program).arg(flag).env_clear().env("PATH", PATH).stdin(Stdio::null()).output();
    finding(
        name,
        match run {
            Ok(output) => {
                // mkfs.ext4 says its version where errors go.
                let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
                let said = String::from_utf8_lossy(&said);
                let line = said.lines().next().unwrap_or_default();
                (output.status.success(), line.chars().take(MAX_VERSION).collect())
            }
            Err(error) => (false, format!("run {program}: {error}; install {package}")),
        },
    )
}

fn finding(name: &'static str, (present, detail): (bool, String)) -> Finding {
    Finding { name, present, required: false, detail }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_install() {
        let missing = program("x", "no-such-program", "some-package");
        assert!(!missing.present && missing.detail.contains("some-package"), "{missing:?}");
        let nowhere = Path::new("/nowhere/firecracker");
        let findings = findings(Some(Path::new("/nowhere/vmlinuz")), None, Some(nowhere));
        let found = |name: &str| findings.iter().find(|f| f.name.starts_with(name)).unwrap();
        assert!(!found("kernel").present, "{findings:?}");
        assert!(found(FIRECRACKER).detail.contains("/nowhere/firecracker"), "{findings:?}");
        for name in [KVM, KVM_FIRECRACKER] {
            assert_eq!(found(name).detail, "not tried without a kernel");
        }
        assert!(findings.iter().all(|finding| !finding.required));
    }
}
