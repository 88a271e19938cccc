//! `cofferdam doctor`: which levels of isolation this machine can have, and what to install for the others.

use std::path::Path;
use std::process::ExitCode;

use cofferdam_builder::{Accelerator, Config, Hypervisor, Landlock, VmConfig};
use cofferdam_microvm::{FIRECRACKER, KVM, KVM_FIRECRACKER, QEMU};
use cofferdam_sandbox::{Finding, Isolation};

use crate::commands::builder::CONFIG;

/// What was found out about one level.
struct Examined {
    level: Isolation,
    findings: Vec<Finding>,
}

/// Prints what was found, level by level; fails when builds cannot be isolated here at all.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let config = Config::load(Path::new(CONFIG), false)?;
    let examined = [
        Examined { level: Isolation::Namespaces, findings: namespaces(&config) },
        Examined { level: Isolation::Gvisor, findings: cofferdam_sandbox::gvisor_findings() },
        Examined { level: Isolation::Vm, findings: vm(&config) },
    ];
    print!("{}", report(&examined));
    Ok(if available(&examined, Isolation::Namespaces) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn namespaces(config: &Config) -> Vec<Finding> {
    let mut findings = cofferdam_sandbox::doctor();
    let mut landlock = cofferdam_sandbox::landlock_finding();
    landlock.required = config.isolation.landlock == Landlock::Required;
    findings.push(landlock);
    findings
}

fn vm(config: &Config) -> Vec<Finding> {
    let vm = &config.isolation.vm;
    let mut findings = cofferdam_microvm::findings(
        vm.kernel.as_deref(),
        vm.modules.as_deref(),
        vm.firecracker.as_deref(),
    );
    require(vm, &mut findings);
    findings
}

/// Marks what a virtual machine as configured cannot be had without: one monitor, with KVM unless emulation was asked for.
fn require(vm: &VmConfig, findings: &mut [Finding]) {
    let kvm = vm.accelerator == Accelerator::Kvm;
    let firecracker = match vm.hypervisor {
        Hypervisor::Qemu => false,
        Hypervisor::Firecracker => true,
        // As a builder chooses.
        Hypervisor::Auto => {
            kvm && findings.iter().any(|found| found.name == KVM_FIRECRACKER && found.present)
        }
    };
    for finding in findings {
        finding.required = match finding.name {
            QEMU => !firecracker,
            KVM => !firecracker && kvm,
            FIRECRACKER | KVM_FIRECRACKER => firecracker,
            _ => true,
        };
    }
}

/// Whether a level can be had: everything it requires is there. Steps of gVisor are started as those of `namespaces` are; a virtual
/// machine has a kernel of its own, and is enclosed here as a builder is.
fn available(examined: &[Examined], level: Isolation) -> bool {
    let complete =
        |one: &Examined| one.findings.iter().all(|found| found.present || !found.required);
    examined
        .iter()
        .filter(|one| one.level == level || one.level == Isolation::Namespaces)
        .all(complete)
}

fn report(examined: &[Examined]) -> String {
    let mut text = String::new();
    for one in examined {
        text.push_str(&format!("{}\n{}\n", one.level, table(&one.findings)));
    }
    for one in examined {
        let verdict =
            if available(examined, one.level) { "is available" } else { "is not available" };
        text.push_str(&format!("Isolation level \"{}\" {verdict}.\n", one.level));
    }
    text
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    findings
        .iter()
        .map(|finding| {
            let mark = match (finding.present, finding.required) {
                (true, _) => "ok",
                (false, true) => "MISSING",
                (false, false) => "absent",
            };
            format!("  {mark:<8} {:<width$}  {}\n", finding.name, finding.detail)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn finding(name: &'static str, present: bool, required: bool) -> Finding {
        Finding { name, present, required, detail: "why".into() }
    }

    fn examined(namespaces: bool, gvisor: bool) -> [Examined; 2] {
        [
            Examined {
                level: Isolation::Namespaces,
                findings: vec![finding("a", namespaces, true), finding("long", false, false)],
            },
            Examined { level: Isolation::Gvisor, findings: vec![finding("c", gvisor, true)] },
        ]
    }

    #[test]
    fn a_missing_requirement_stands_out() {
        let text = report(&examined(true, false));
        assert_eq!(
            text,
            "namespaces\n  ok       a     why\n  absent   long  why\n\ngvisor\n  MISSING  c  why\n\n\
             Isolation level \"namespaces\" is available.\nIsolation level \"gvisor\" is not available.\n"
        );
    }

    #[test]
    fn one_monitor_is_enough() {
        let required = |vm: &str, works: bool| {
            let mut findings = [QEMU, KVM, FIRECRACKER, KVM_FIRECRACKER, "kernel"]
                .map(|name| finding(name, works, false));
            require(&toml::from_str(vm).unwrap(), &mut findings);
            let required = findings.iter().filter(|finding| finding.required);
            required.map(|finding| finding.name).collect::<Vec<_>>()
        };
        let (qemu, firecracker) = ([QEMU, KVM, "kernel"], [FIRECRACKER, KVM_FIRECRACKER, "kernel"]);
        assert_eq!(required("", false), qemu);
        assert_eq!(required("", true), firecracker);
        assert_eq!(required("hypervisor = 'qemu'", true), qemu);
        assert_eq!(required("hypervisor = 'firecracker'", false), firecracker);
        assert_eq!(required("accelerator = 'tcg'", true), [QEMU, "kernel"]);
    }

    #[test]
    fn a_level_needs_what_is_beneath_it() {
        let broken = examined(false, true);
        assert!(!available(&broken, Isolation::Gvisor));
        assert!(available(&examined(true, true), Isolation::Gvisor));
    }
}
