//! Walls of a project as the command line takes and shows them: level of isolation, network policy, limits.
//!
//! Policies and limits are written as a builder's configuration writes them, so that one text serves both. What is the operator's
//! alone to say (name servers, hosts that are vouched for) is refused here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use cofferdam_apiclient::{NetworkPolicy, ProjectLimits, ProjectSettings, SettingsChange};
use cofferdam_builder::{DiskSpace, Limits, Span};
use cofferdam_egress::{Mode, Policy};
use cofferdam_sandbox::Isolation;

/// What takes back what was said.
const NONE: &str = "none";
/// Largest policy file: a thousand rules of the longest names are shorter.
const MAX_POLICY: u64 = 1 << 20;

/// What is said about a project's walls.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct WallArgs {
    /// Least isolation of its builds: namespaces, gvisor or vm; `none` leaves it to the server
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    isolation: Option<Level>,

    /// File with what its builds may reach, TOML or JSON with mode, allow and deny; `none` leaves it to the server
    #[arg(long, value_name = "FILE")]
    network_policy: Option<PathBuf>,

    /// Limit of its steps or builds, such as step.memory=4GB, step.time=1h or builds=3; 0 takes one back, `none` all; may be
    /// repeated
    #[arg(long, value_name = "KEY=VALUE")]
    limit: Vec<String>,
}

/// A level, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level(Option<Isolation>);

fn level(text: &str) -> Result<Level, String> {
    if text == NONE {
        return Ok(Level(None));
    }
    text.parse().map(|level| Level(Some(level))).map_err(|error| format!("{error}"))
}

impl WallArgs {
    pub(super) fn says_nothing(&self) -> bool {
        self.isolation.is_none() && self.network_policy.is_none() && self.limit.is_empty()
    }

    /// Whether what is said about limits leaves some as they are.
    pub(super) fn needs_limits_before(&self) -> bool {
        !self.limit.is_empty()
    }

    /// The change that is asked for; `before` are the limits there are.
    pub(super) fn change(&self, before: ProjectLimits) -> anyhow::Result<SettingsChange> {
        let isolation = self.isolation.map(|Level(level)| level.map_or("", Isolation::name));
        let network_policy = self.network_policy.as_deref().map(policy).transpose()?;
        let limits = if self.limit.is_empty() {
            None
        } else {
            let mut limits = before;
            self.limit.iter().try_for_each(|text| set(&mut limits, text))?;
            Some(limits)
        };
        Ok(SettingsChange { isolation: isolation.map(str::to_owned), network_policy, limits })
    }
}

/// A policy from a file.
fn policy(path: &Path) -> anyhow::Result<NetworkPolicy> {
    if path == Path::new(NONE) {
        return Ok(NetworkPolicy::default());
    }
    let failed = || format!("read {}", path.display());
    let mut text = String::new();
    let file = File::open(path).with_context(failed)?;
    file.take(MAX_POLICY + 1).read_to_string(&mut text).with_context(failed)?;
    ensure!(
        text.len() as u64 <= MAX_POLICY,
        "{} is larger than {MAX_POLICY} bytes",
        path.display()
    );
    parse_policy(&text).with_context(failed)
}

fn parse_policy(text: &str) -> anyhow::Result<NetworkPolicy> {
    let policy: Policy = if text.trim_start().starts_with('{') {
        serde_json::from_str(text)?
    } else {
        toml::from_str(text)?
    };
    let Policy { mode, allow, deny, resolvers, vouched, within, .. } = policy;
    ensure!(
        resolvers.is_empty() && vouched.is_empty() && within.is_none(),
        "resolvers, vouched and within are for the server's configuration to say: use mode, allow and deny"
    );
    let mode = match mode {
        Mode::Public => "public",
        Mode::List => "list",
        Mode::Off => "off",
    };
    Ok(NetworkPolicy {
        mode: mode.to_owned(),
        allow: allow.into_iter().map(String::from).collect(),
        deny: deny.into_iter().map(String::from).collect(),
    })
}

/// Sets one limit from `KEY=VALUE`, as the configuration writes it.
fn set(limits: &mut ProjectLimits, text: &str) -> anyhow::Result<()> {
    if text == NONE {
        *limits = ProjectLimits::default();
        return Ok(());
    }
    let (key, value) = text.split_once('=').with_context(|| {
        format!("--limit {text:?}: use KEY=VALUE, such as step.time=1h, or {NONE}")
    })?;
    let parsed = parse(key.trim(), value.trim()).with_context(|| format!("--limit {text:?}"))?;
    let Limits { step, build, builds, .. } = parsed;
    let number = |value: Option<usize>| value.map(|value| value as u64);
    replace(&mut limits.step_cpus, step.cpus);
    replace(&mut limits.step_memory, bytes(step.memory)?);
    replace(&mut limits.step_pids, step.pids);
    replace(&mut limits.step_open_files, step.open_files);
    replace(&mut limits.step_disk, bytes(step.disk)?);
    replace(&mut limits.step_time, step.time.map(seconds));
    replace(&mut limits.step_log, bytes(step.log)?);
    replace(&mut limits.build_time, build.time.map(seconds));
    replace(&mut limits.build_steps, number(build.steps));
    replace(&mut limits.build_log, bytes(build.log)?);
    replace(&mut limits.builds, number(builds));
    Ok(())
}

fn replace<T>(known: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *known = said;
    }
}

fn parse(key: &str, value: &str) -> anyhow::Result<Limits> {
    let plain = |c: char| c.is_ascii_alphabetic() || c == '.';
    ensure!(key.chars().all(plain), "{key:?} is no limit");
    let bare = value.parse::<f64>().is_ok();
    let quoted = if bare { value.to_owned() } else { format!("{value:?}") };
    let limits: Limits = toml::from_str(&format!("{key} = {quoted}\n"))?;
    if let Some(nonsense) = limits.nonsense() {
        bail!(nonsense);
    }
    Ok(limits)
}

/// A size; a project knows no machine to take a share of.
fn bytes(space: Option<DiskSpace>) -> anyhow::Result<Option<u64>> {
    match space {
        Some(DiskSpace::Percent(_)) => bail!("a share is of one machine: use a size such as 4GB"),
        Some(DiskSpace::Bytes(bytes)) => Ok(Some(bytes)),
        None => Ok(None),
    }
}

fn seconds(span: Span) -> u64 {
    span.duration().as_secs()
}

/// What a project says, as lines for people.
pub(super) fn describe(settings: &ProjectSettings) -> Vec<(&'static str, String)> {
    let isolation = if settings.isolation.is_empty() {
        format!("{} (the server's)", settings.least_isolation)
    } else if settings.isolation == settings.least_isolation {
        settings.isolation.clone()
    } else {
        format!(
            "{} (the server's; the project's own is {})",
            settings.least_isolation, settings.isolation
        )
    };
    let mut lines = vec![("isolation", isolation)];
    let network = match &settings.network_policy {
        None => "the server's".to_owned(),
        Some(policy) => {
            let list = |name: &str, rules: &[String]| {
                (!rules.is_empty()).then(|| format!("; {name} {}", rules.join(", ")))
            };
            let allow = list("allow", &policy.allow).unwrap_or_default();
            let deny = list("deny", &policy.deny).unwrap_or_default();
            format!("{}{allow}{deny}", policy.mode)
        }
    };
    lines.push(("network", network));
    let limits = limits(&settings.limits);
    lines.push((
        "limits",
        if limits.is_empty() { "the server's".into() } else { limits.join(", ") },
    ));
    lines
}

/// Limits that are set, as `--limit` takes them.
fn limits(limits: &ProjectLimits) -> Vec<String> {
    let mut set = Vec::new();
    if limits.step_cpus > 0.0 {
        set.push(format!("step.cpus={}", limits.step_cpus));
    }
    for (key, value, unit) in [
        ("step.memory", limits.step_memory, "B"),
        ("step.pids", limits.step_pids, ""),
        ("step.openFiles", limits.step_open_files, ""),
        ("step.disk", limits.step_disk, "B"),
        ("step.time", limits.step_time, "s"),
        ("step.log", limits.step_log, "B"),
        ("build.time", limits.build_time, "s"),
        ("build.steps", limits.build_steps, ""),
        ("build.log", limits.build_log, "B"),
        ("builds", limits.builds, ""),
    ] {
        if value > 0 {
            set.push(format!("{key}={value}{unit}"));
        }
    }
    set
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn after(texts: &[&str]) -> anyhow::Result<ProjectLimits> {
        let mut limits = ProjectLimits { step_pids: 9, ..ProjectLimits::default() };
        texts.iter().try_for_each(|text| set(&mut limits, text))?;
        Ok(limits)
    }

    #[test]
    fn limits_are_written_as_in_a_configuration() {
        let set = after(&["step.memory=4GB", "step.time=1h30m", "step.cpus=1.5", "builds=3"]);
        let set = set.unwrap();
        assert_eq!((set.step_memory, set.step_time), (4_000_000_000, 5400));
        assert_eq!((set.step_cpus, set.builds, set.step_pids), (1.5, 3, 9));
        assert_eq!(after(&["step.pids=0"]).unwrap(), ProjectLimits::default());
        assert_eq!(after(&["none"]).unwrap(), ProjectLimits::default());
        let shown = limits(&set).join(" ");
        assert_eq!(
            shown,
            "step.cpus=1.5 step.memory=4000000000B step.pids=9 step.time=5400s builds=3"
        );
        // What is shown can be said again.
        assert_eq!(after(&shown.split(' ').collect::<Vec<_>>()).unwrap(), set);
        for wrong in ["step.time", "step.tme=1h", "step.memory=10%", "step.cpus=-1", "a b=1", "=1"]
        {
            assert!(after(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn policies_are_toml_or_json() {
        let toml = parse_policy("mode = \"list\"\nallow = [\"*.a.example:443\"]\n").unwrap();
        let json = parse_policy(r#" {"mode":"list","allow":["*.a.example:443"]}"#).unwrap();
        assert_eq!(toml, json);
        assert_eq!((toml.mode.as_str(), toml.allow.len()), ("list", 1));
        for wrong in
            ["mode = \"open\"", "alow = []", "allow = [\"a b\"]", "resolvers = [\"192.0.2.1\"]"]
        {
            assert!(parse_policy(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_the_server_says_is_told_apart() {
        let mut settings =
            ProjectSettings { least_isolation: "gvisor".into(), ..ProjectSettings::default() };
        assert_eq!(describe(&settings)[0].1, "gvisor (the server's)");
        settings.isolation = "namespaces".into();
        assert!(describe(&settings)[0].1.contains("own is namespaces"));
        settings.isolation = "gvisor".into();
        assert_eq!(describe(&settings)[0].1, "gvisor");
        assert_eq!(describe(&settings)[1].1, "the server's");
        settings.network_policy = Some(NetworkPolicy {
            mode: "list".into(),
            allow: vec!["a".into(), "b".into()],
            deny: vec![],
        });
        assert_eq!(describe(&settings)[1].1, "list; allow a, b");
    }
}
