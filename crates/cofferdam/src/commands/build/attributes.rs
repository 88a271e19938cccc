//! Flags as attributes of the Dockerfile frontend, the way every client of BuildKit's sends them.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};

use super::arguments::BuildArgs;
use super::attestations::attestations;

/// Attributes and the privileges they need.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) frontend: BTreeMap<String, String>,
    pub(super) entitlements: Vec<String>,
}

/// Everything that follows from the flags alone; the context's own attributes are added later. `environment` looks a variable of
/// the caller up.
pub(super) fn attributes(
    args: &BuildArgs,
    environment: impl Fn(&str) -> Option<String>,
) -> anyhow::Result<Attributes> {
    let mut attrs = BTreeMap::new();
    let mut set = |key: &str, value: String| attrs.insert(key.to_owned(), value);
    if let Some(target) = &args.target {
        set("target", target.clone());
    }
    if !args.inputs.platform.is_empty() {
        set("platform", args.inputs.platform.join(","));
    }
    if args.inputs.pull {
        set("image-resolve-mode", "pull".to_owned());
    }
    if args.caches.no_cache {
        set("no-cache", String::new());
    } else if !args.caches.no_cache_filter.is_empty() {
        set("no-cache", args.caches.no_cache_filter.join(","));
    }
    if !args.steps.add_host.is_empty() {
        let hosts: Vec<String> =
            args.steps.add_host.iter().map(|text| extra_host(text)).collect::<Result<_, _>>()?;
        set("add-hosts", hosts.join(","));
    }
    if let Some(size) = &args.steps.shm_size {
        set("shm-size", bytes(size).with_context(|| format!("--shm-size {size:?}"))?.to_string());
    }
    if !args.steps.ulimit.is_empty() {
        set("ulimit", args.steps.ulimit.join(","));
    }
    if let Some(group) = &args.steps.cgroup_parent {
        set("cgroup-parent", group.clone());
    }
    for label in &args.outputs.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        set(&format!("label:{key}"), value.to_owned());
    }
    build_args(args, environment, &mut set)?;
    let mut entitlements = args.steps.allow.clone();
    if let Some(mode) = network(args.steps.network.as_deref())? {
        set("force-network-mode", mode.to_owned());
        // Asking for it on the command line is granting it.
        if mode == "host" && !entitlements.iter().any(|given| given == "network.host") {
            entitlements.push("network.host".to_owned());
        }
    }
    attrs.extend(attestations(&args.outputs)?);
    Ok(Attributes { frontend: attrs, entitlements })
}

fn build_args(
    args: &BuildArgs,
    environment: impl Fn(&str) -> Option<String>,
    set: &mut impl FnMut(&str, String) -> Option<String>,
) -> anyhow::Result<()> {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    // A flag wins, as everywhere.
    if let Some(epoch) = environment(EPOCH) {
        set(&format!("build-arg:{EPOCH}"), epoch);
    }
    for arg in &args.inputs.build_arg {
        let (key, value) = match arg.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (arg.as_str(), environment(arg)),
        };
        ensure!(!key.is_empty(), "--build-arg {arg:?} has no name");
        // Without a value anywhere, the default in the Dockerfile holds.
        if let Some(value) = value {
            set(&format!("build-arg:{key}"), value);
        }
    }
    Ok(())
}

pub(super) fn network(mode: Option<&str>) -> anyhow::Result<Option<&str>> {
    match mode {
        None | Some("" | "default") => Ok(None),
        Some(mode @ ("none" | "host" | "sandbox")) => Ok(Some(mode)),
        Some(mode) => bail!("--network {mode:?}: use default, none or host"),
    }
}

/// `host:ip` and `host=ip`, as `host=ip`.
fn extra_host(text: &str) -> anyhow::Result<String> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let (host, address) = parts.with_context(|| format!("--add-host {text:?}: use HOST:IP"))?;
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    ensure!(
        !host.is_empty() && bare.parse::<std::net::IpAddr>().is_ok(),
        "--add-host {text:?}: {address:?} is not an IP address"
    );
    Ok(format!("{host}={bare}"))
}

/// A size with a binary unit: `64m`, `1.5GiB`, `1024`.
fn bytes(text: &str) -> anyhow::Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = match unit.trim().to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b')
    {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => bail!("unknown unit {unit:?}"),
    };
    let number: f64 = number.parse().context("not a size")?;
    let size = number * 1024_f64.powi(power);
    // Beyond this a float has no exact bytes, and no machine the memory.
    ensure!(size < 9e15, "too large");
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be in range; no sign is parsed"
    )]
    Ok(size as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(change: impl FnOnce(&mut BuildArgs)) -> anyhow::Result<Attributes> {
        let mut args = BuildArgs::default();
        change(&mut args);
        attributes(&args, |name| (name == "FROM_ENV").then(|| "value".to_owned()))
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn no_flags_no_attributes() {
        assert_eq!(of(|_| ()).unwrap(), Attributes::default());
    }

    #[test]
    fn every_flag_has_its_attribute() {
        let given = of(|args| {
            args.target = Some("final".into());
            args.inputs.platform = texts(&["linux/amd64", "linux/arm64"]);
            args.inputs.pull = true;
            args.inputs.build_arg = texts(&["A=1=2", "FROM_ENV", "NOWHERE", "EMPTY="]);
            args.caches.no_cache_filter = texts(&["one", "two"]);
            args.steps.add_host = texts(&["a:10.0.0.1", "b=[::1]", "c:::1"]);
            args.steps.network = Some("host".into());
            args.steps.shm_size = Some("64m".into());
            args.steps.ulimit = texts(&["nofile=1024:2048", "nproc=9"]);
            args.steps.cgroup_parent = Some("g".into());
            args.outputs.label = texts(&["k=v", "bare"]);
            args.outputs.sbom = Some("false".into());
            args.outputs.provenance = Some("mode=max".into());
        })
        .unwrap();
        let expected = [
            ("add-hosts", "a=10.0.0.1,b=::1,c=::1"),
            ("attest:provenance", "mode=max"),
            ("build-arg:A", "1=2"),
            ("build-arg:EMPTY", ""),
            ("build-arg:FROM_ENV", "value"),
            ("cgroup-parent", "g"),
            ("force-network-mode", "host"),
            ("image-resolve-mode", "pull"),
            ("label:bare", ""),
            ("label:k", "v"),
            ("no-cache", "one,two"),
            ("platform", "linux/amd64,linux/arm64"),
            ("shm-size", "67108864"),
            ("target", "final"),
            ("ulimit", "nofile=1024:2048,nproc=9"),
        ];
        let found: Vec<(&str, &str)> =
            given.frontend.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(given.entitlements, ["network.host"]);
    }

    #[test]
    fn no_cache_means_all_stages() {
        let given = of(|args| {
            args.caches.no_cache = true;
            args.caches.no_cache_filter = texts(&["one"]);
        })
        .unwrap();
        assert_eq!(given.frontend["no-cache"], "");
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("1024", 1024),
            ("64m", 64 << 20),
            ("1.5GiB", 3 << 29),
            ("2kb", 2048),
            ("1t", 1 << 40),
            ("0", 0),
        ] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "m", "-1", "1x", "9999999t", "1.2.3"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(of(|args| args.steps.network = Some("bridge".into())).is_err());
        assert!(of(|args| args.steps.add_host = texts(&["host"])).is_err());
        assert!(of(|args| args.steps.add_host = texts(&["a:host-gateway"])).is_err());
        assert!(of(|args| args.inputs.build_arg = texts(&["=x"])).is_err());
        assert!(of(|args| args.outputs.attest = texts(&["mode=max"])).is_err());
    }
}
