//! What this machine offers for level `vm`, each thing tried and not guessed.

use std::path::Path;
use std::process::{Command, Stdio};

use cofferdam_sandbox::Finding;

use crate::disk::{MKFS, PATH};
use crate::kernel::Kernel;
use crate::machine::PROGRAM;
use crate::probe::kvm_works;

/// Longest version that is shown.
const MAX_VERSION: usize = 60;

/// Looks for what level `vm` needs, with the kernel that was configured if one was. Nothing here is required for other levels. The
/// last finding is KVM, tried by booting a virtual machine; without it the level can be had with `accelerator = "tcg"`.
#[must_use]
pub fn findings(image: Option<&Path>, modules: Option<&Path>) -> Vec<Finding> {
    let kernel = Kernel::find(image, modules);
    let found = match &kernel {
        Ok(kernel) => (true, kernel.image.display().to_string()),
        Err(error) => (false, error.to_string()),
    };
    vec![
        program("QEMU", PROGRAM, "qemu-system-x86"),
        program("ext4 file systems (mkfs.ext4)", MKFS, "e2fsprogs"),
        finding("kernel for virtual machines", found),
        finding(
            "KVM",
            kernel.as_ref().map_or((false, "not tried without a kernel".to_owned()), kvm),
        ),
    ]
}

fn kvm(kernel: &Kernel) -> (bool, String) {
    match kvm_works(&kernel.image) {
        Ok(()) => (true, "a virtual machine booted with it".to_owned()),
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            let advice =
                "virtual machines are emulated only with [isolation.vm] accelerator = \"tcg\"";
            (false, format!("{error}{cause}; {advice}"))
        }
    }
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
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_to_install() {
        let missing = program("x", "no-such-program", "some-package");
        assert!(!missing.present && missing.detail.contains("some-package"), "{missing:?}");
        let findings = findings(Some(Path::new("/nowhere/vmlinuz")), None);
        let kernel = findings.iter().find(|finding| finding.name.starts_with("kernel"));
        assert!(kernel.is_some_and(|kernel| !kernel.present), "{findings:?}");
        assert!(findings.iter().all(|finding| !finding.required));
    }
}
