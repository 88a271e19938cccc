//! `cofferdam doctor`: which levels of isolation this machine can have, what to install for the others, and whether a server can run
//! here with its data.

mod certificate;
mod server;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use cofferdam_builder::{Accelerator, Config, Hypervisor, Landlock, VmConfig};
use cofferdam_microvm::{FIRECRACKER, KVM, KVM_FIRECRACKER, QEMU};
use cofferdam_sandbox::{Finding, Isolation};
use serde_json::{Value, json};

use crate::commands::builder::CONFIG;
use crate::commands::server::{CONFIG as SERVER_CONFIG, DataArgs};
use crate::terminal::{print, print_json};

/// What control groups give, among the findings of the first level.
const LIMITS: &str = "limits (cgroups)";

/// Show what this machine offers for building and for a server, and what it lacks
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    data: DataArgs,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// What was found out about one level.
struct Examined {
    level: Isolation,
    findings: Vec<Finding>,
}

/// Prints what was found, level by level, and for a server where there is or will be one; fails when builds cannot be isolated here
/// at all, or that server cannot run.
pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(Path::new(CONFIG), false)?;
    let examined = [
        Examined { level: Isolation::Namespaces, findings: namespaces(&config) },
        Examined { level: Isolation::Gvisor, findings: cofferdam_sandbox::gvisor_findings() },
        Examined { level: Isolation::Vm, findings: vm(&config) },
    ];
    let server = if args.data.is_named() || Path::new(SERVER_CONFIG).exists() {
        let limits = examined[0].findings.iter().find(|finding| finding.name == LIMITS);
        Some(server::findings(&args.data.configuration()?, limits))
    } else {
        None
    };
    if args.json {
        print_json(&as_json(&examined, server.as_deref()))?;
    } else {
        print(&report(&examined, server.as_deref()))?;
    }
    let ready = available(&examined, Isolation::Namespaces)
        && server.is_none_or(|findings| complete(&findings));
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether everything that is required is there.
fn complete(findings: &[Finding]) -> bool {
    findings.iter().all(|found| found.present || !found.required)
}

fn as_json(examined: &[Examined], server: Option<&[Finding]>) -> Value {
    let all = |findings: &[Finding]| -> Vec<Value> {
        let one = |finding: &Finding| {
            json!({
                "name": finding.name,
                "present": finding.present,
                "required": finding.required,
                "detail": finding.detail,
            })
        };
        findings.iter().map(one).collect()
    };
    let level = |one: &Examined| {
        json!({
            "level": one.level.name(),
            "available": available(examined, one.level),
            "findings": all(&one.findings),
        })
    };
    let server = server.map(|findings| {
        let ready = available(examined, Isolation::Namespaces) && complete(findings);
        json!({ "ready": ready, "findings": all(findings) })
    });
    json!({ "levels": examined.iter().map(level).collect::<Vec<_>>(), "server": server })
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
    examined
        .iter()
        .filter(|one| one.level == level || one.level == Isolation::Namespaces)
        .all(|one| complete(&one.findings))
}

fn report(examined: &[Examined], server: Option<&[Finding]>) -> String {
    let mut text = String::new();
    for one in examined {
        text.push_str(&format!("{}\n{}\n", one.level, table(&one.findings)));
    }
    if let Some(findings) = server {
        text.push_str(&format!("server\n{}\n", table(findings)));
    }
    for one in examined {
        let verdict =
            if available(examined, one.level) { "is available" } else { "is not available" };
        text.push_str(&format!("Isolation level \"{}\" {verdict}.\n", one.level));
    }
    if let Some(findings) = server {
        let ready = available(examined, Isolation::Namespaces) && complete(findings);
        let verdict = if ready { "can run" } else { "cannot run" };
        text.push_str(&format!("A server {verdict} here.\n"));
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
        let text = report(&examined(true, false), None);
        assert_eq!(
            text,
            "namespaces\n  ok       a     why\n  absent   long  why\n\ngvisor\n  MISSING  c  why\n\n\
             Isolation level \"namespaces\" is available.\nIsolation level \"gvisor\" is not available.\n"
        );
    }

    #[test]
    fn a_server_needs_what_it_requires_and_a_level() {
        let lacking = [finding("space", false, true)];
        let fine = [finding("space", true, true), finding("clock", false, false)];
        let verdict = |level, server: &[Finding]| {
            let examined = examined(level, false);
            let text = report(&examined, Some(server));
            let json = as_json(&examined, Some(server));
            assert_eq!(json["server"]["ready"], text.ends_with("A server can run here.\n"));
            json["server"]["ready"].as_bool().unwrap()
        };
        assert!(verdict(true, &fine));
        assert!(!verdict(true, &lacking) && !verdict(false, &fine));
        let none = as_json(&examined(true, true), None);
        assert!(none["server"].is_null() && none["levels"][1]["available"] == true, "{none}");
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
