//! The unit for systemd: what it says exists, and what it must not say is not there.

use std::collections::BTreeMap;

use cofferdam_tests::repository;

use crate::cofferdam;

/// Directives of `[Service]`, with all their values.
fn service() -> BTreeMap<String, Vec<String>> {
    let path = repository().join("contrib/systemd/cofferdam-server.service");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("[Service]").nth(1).unwrap().split("\n[").next().unwrap();
    let mut directives: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in section.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("no directive: {line}"));
        directives.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    directives
}

#[test]
fn the_command_is_one_that_the_program_knows() {
    let service = service();
    let [command] = service["ExecStart"].as_slice() else { panic!("one command is enough") };
    let mut words = command.split_whitespace();
    assert!(words.next().unwrap().ends_with("/cofferdam"));
    assert_eq!(words.next(), Some("server"));
    let help = cofferdam("server --help").run().success().text();
    let flags: Vec<&str> = words.filter(|word| word.starts_with("--")).collect();
    assert!(!flags.is_empty());
    for flag in flags {
        assert!(help.contains(&format!("{flag} ")), "{flag} is no flag of the server:\n{help}");
    }
    let state = format!("/var/lib/{}/", service["StateDirectory"][0]);
    assert!(command.contains(&format!("--data-dir {state}")), "{command}");
}

#[test]
fn it_is_hardened_as_far_as_builds_allow() {
    let service = service();
    for (name, value) in [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("KillMode", "mixed"),
        ("OOMPolicy", "continue"),
        ("StateDirectoryMode", "0711"),
        ("UMask", "0022"),
        ("Delegate", "yes"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("DevicePolicy", "closed"),
        ("SystemCallArchitectures", "native"),
    ] {
        assert_eq!(service.get(name).map(Vec::as_slice), Some(&[value.to_owned()][..]), "{name}");
    }
    // What a builder's group of version 1 allows, the unit's has to allow: `closed` has pseudo terminals without `m`.
    assert!(service["DeviceAllow"].contains(&"char-pts rwm".to_owned()));
    // Each of these is inherited by steps, or hides a part of /proc, and builds break.
    for name in [
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateNetwork",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "RestrictNamespaces",
        "RestrictSUIDSGID",
        "User",
    ] {
        assert!(!service.contains_key(name), "{name}");
        let page = std::fs::read_to_string(repository().join("docs/operating.md")).unwrap();
        assert!(
            page.contains(&format!("`{name}")),
            "docs/operating.md does not say why not {name}"
        );
    }
}

#[test]
fn it_waits_longer_than_a_stop_takes() {
    let service = service();
    let seconds = |name: &str| service[name][0].parse::<u64>().unwrap();
    // Builds of a server that is configured as by default, then requests and builders.
    assert!(seconds("TimeoutStopSec") > 60 + 3 + 15);
    assert!(seconds("TimeoutStartSec") > 90);
    assert!(seconds("LimitNOFILE") >= 65_536);
}
