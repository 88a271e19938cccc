//! The configuration `runsc` is started with, an OCI `config.json`.
//!
//! Only what the step is: identity, command, limits of its processes, mounts. Namespaces, control group and network are there
//! already when `runsc` starts.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::places::ROOTFS;
use crate::message::Order;
use crate::spec::Security;
use crate::{capabilities, rlimits};

/// A mount of the step in the form `runsc` takes it.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    /// Path in the step's root, without symbolic links.
    pub(crate) dest: String,
    /// Path in the root of `runsc`.
    pub(crate) source: String,
    pub(crate) readonly: bool,
}

/// The whole file. `args` is the command with its program looked up, `cwd` a path without symbolic links.
pub(crate) fn configuration(
    order: &Order,
    args: &[String],
    cwd: &str,
    mounts: &[Placed],
) -> Vec<u8> {
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    let user = &order.user;
    let value = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": args,
            "env": first_of_each_name(&order.env),
            "cwd": cwd,
            "capabilities": capability_sets(order),
            "rlimits": limits(order),
            "noNewPrivileges": order.no_new_privileges,
        },
        // A read-only root is read-only as a mount, which no flag of a program can change back.
        "root": { "path": ROOTFS, "readonly": false },
        "hostname": order.hostname,
        "mounts": mount_list(order, mounts),
        "linux": { "namespaces": [
            { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" },
        ] },
    });
    // A tree of plain values has a form in JSON.
    serde_json::to_vec(&value).unwrap_or_default()
}

/// Programs read the environment from the front; `runsc` would keep the last of two variables of one name.
fn first_of_each_name(env: &[String]) -> Vec<&String> {
    let mut seen = HashSet::new();
    let name = |variable: &String| variable.split('=').next().unwrap_or_default().to_owned();
    env.iter().filter(|variable| seen.insert(name(variable))).collect()
}

/// As at the level of namespaces: root has what builds need, anybody else nothing, and inheritable and ambient sets are empty.
fn capability_sets(order: &Order) -> Value {
    let bounding = match order.security {
        Security::Sandbox => capabilities::names(capabilities::build_mask()),
        Security::Insecure => capabilities::names(u64::MAX),
    };
    let held = if order.user.uid == 0 { bounding.clone() } else { Vec::new() };
    json!({ "bounding": bounding, "effective": held, "permitted": held })
}

fn limits(order: &Order) -> Vec<Value> {
    let limit = |(name, soft, hard): (String, u64, u64)| json!({ "type": format!("RLIMIT_{}", name.to_ascii_uppercase()), "soft": soft, "hard": hard });
    rlimits::resolved(&order.ulimits).into_iter().map(limit).collect()
}

fn mount_list(order: &Order, mounts: &[Placed]) -> Vec<Value> {
    let mut list =
        vec![json!({ "destination": "/proc", "type": "proc", "source": "proc", "options": [] })];
    if !mounts.iter().any(|mount| mount.dest == "/dev/shm") {
        let size = format!("size={}", order.shm_size);
        let options = ["nosuid", "nodev", "noexec", "mode=1777", size.as_str()];
        list.push(json!({
            "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options,
        }));
    }
    list.extend(mounts.iter().map(|mount| {
        let access = if mount.readonly { "ro" } else { "rw" };
        json!({
            "destination": mount.dest, "type": "bind", "source": mount.source,
            "options": ["rbind", access],
        })
    }));
    list
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::spec::{Network, Ulimit, User};

    fn order() -> Order {
        Order {
            id: "step-1".into(),
            leaf: None,
            readonly_root: true,
            mounts: Vec::new(),
            args: vec!["sh".into()],
            env: vec!["A=b".into(), "B=".into(), "A=c".into()],
            cwd: "/".into(),
            user: User { uid: 1000, gid: 100, groups: vec![7] },
            hostname: "here".into(),
            hosts: String::new(),
            resolv_conf: Vec::new(),
            network: Network::None,
            security: Security::Sandbox,
            ulimits: vec![Ulimit { name: "fsize".into(), soft: 5, hard: 6 }],
            shm_size: 4096,
            no_new_privileges: false,
            terminal: false,
        }
    }

    #[test]
    fn a_user_holds_no_capability_and_root_those_of_builds() {
        let read = |order: &Order| -> Value {
            let placed = Placed { dest: "/in".into(), source: "/mounts/0".into(), readonly: true };
            serde_json::from_slice(&configuration(order, &order.args, "", &[placed])).unwrap()
        };
        let mut order = order();
        let user = read(&order);
        let sets = &user["process"]["capabilities"];
        assert_eq!(sets["effective"].as_array().unwrap().len(), 0);
        assert!(sets["bounding"].as_array().unwrap().contains(&"CAP_CHOWN".into()));
        assert!(sets.get("ambient").is_none() && sets.get("inheritable").is_none());
        assert_eq!(user["process"]["cwd"], "/");
        assert_eq!(user["process"]["env"], json!(["A=b", "B="]));
        assert_eq!(user["mounts"][2]["options"], json!(["rbind", "ro"]));
        let limits = user["process"]["rlimits"].as_array().unwrap();
        assert!(limits.contains(&json!({ "type": "RLIMIT_FSIZE", "soft": 5, "hard": 6 })));
        order.user = User::default();
        order.security = Security::Insecure;
        let root = read(&order);
        let held = root["process"]["capabilities"]["effective"].as_array().unwrap().clone();
        assert!(held.contains(&"CAP_SYS_ADMIN".into()));
    }
}
