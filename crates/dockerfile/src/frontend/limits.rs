//! Resource limits among the attributes: `ulimit` and the cgroup limits of RUN steps.
//!
//! Only checks the form; whether a limit can be granted is for the sandbox to say.

use std::collections::BTreeMap;
use std::str::FromStr;

use cofferdam_wire::pb;

use super::attrs::AttrError;

const ULIMITS: &[&str] = &[
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// `name=soft[:hard]`; -1 is unlimited.
pub(super) fn parse_ulimit(text: &str) -> Result<pb::Ulimit, AttrError> {
    let error = |reason: &str| AttrError::Ulimit(format!("{reason}: {text}"));
    let (name, values) = text.split_once('=').ok_or_else(|| error("invalid ulimit argument"))?;
    if !ULIMITS.contains(&name) {
        return Err(error("invalid ulimit type"));
    }
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse::<i64>().map_err(|_| error("invalid ulimit argument"));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(error("ulimit soft limit must be less than or equal to hard limit"));
    }
    Ok(pb::Ulimit { Name: name.to_owned(), Soft: soft, Hard: hard, ..Default::default() })
}

/// The cgroup limits; `None` when there are none.
pub(super) fn parse_limits(
    attrs: &BTreeMap<String, String>,
) -> Result<Option<pb::LinuxResources>, AttrError> {
    let limits = pb::LinuxResources {
        memory: number(attrs, "memory", |value: i64| value > 0)?,
        memorySwap: number(attrs, "memswap", |value: i64| value > 0 || value == -1)?,
        cpuShares: number(attrs, "cpushares", |value: u64| value > 0)?,
        cpuPeriod: number(attrs, "cpuperiod", |value: u64| value > 0)?,
        cpuQuota: number(attrs, "cpuquota", |value: i64| value > 0)?,
        cpusetCpus: cpuset(attrs, "cpusetcpus")?,
        cpusetMems: cpuset(attrs, "cpusetmems")?,
        ..Default::default()
    };
    Ok((limits != pb::LinuxResources::default()).then_some(limits))
}

fn number<N: FromStr + Default + Copy>(
    attrs: &BTreeMap<String, String>,
    key: &'static str,
    valid: impl Fn(N) -> bool,
) -> Result<N, AttrError> {
    let Some(text) = attrs.get(key).filter(|text| !text.is_empty()) else {
        return Ok(N::default());
    };
    match text.parse() {
        Ok(value) if valid(value) => Ok(value),
        _ => Err(AttrError::Resource { key, value: text.clone() }),
    }
}

/// Lists like `0-3,7`.
fn cpuset(attrs: &BTreeMap<String, String>, key: &'static str) -> Result<String, AttrError> {
    let Some(text) = attrs.get(key).filter(|text| !text.is_empty()) else {
        return Ok(String::new());
    };
    let item = |item: &str| match item.split_once('-') {
        None => item.parse::<u16>().is_ok(),
        Some((first, last)) => match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => first <= last,
            _ => false,
        },
    };
    if text.split(',').all(item) {
        Ok(text.clone())
    } else {
        Err(AttrError::Resource { key, value: text.clone() })
    }
}
