//! Walls of projects: what one demands, checked when it is said, and put together with what the server demands when a builder
//! starts.
//!
//! Levels only rise: the server's is the least, a project's can be higher, and a build's higher still. A project's network policy
//! and limits stand within the server's, which the builder enforces together. Text that cannot be read stands for no weaker wall:
//! nothing is built then.

use cofferdam_egress::{Mode, Rule};
use cofferdam_fleet::Isolation;
use cofferdam_records::{Project, Walls};
use cofferdam_wire::cofferdam::server::v1 as wire;
use serde::{Deserialize, Serialize};
use toml::Table;

/// Header by which a client demands a level for one build.
pub(crate) const ISOLATION_HEADER: &str = "cofferdam-isolation";
/// Rules of one list: a gate looks through all of them for every connection.
const MAX_RULES: usize = 1000;
/// Largest number that a configuration can hold.
const MAX_NUMBER: u64 = i64::MAX.unsigned_abs();
/// Least and most processors that mean anything.
const CPUS: std::ops::RangeInclusive<f64> = 0.01..=1e6;

/// Why walls cannot be built as they are described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WallsError {
    /// A level.
    #[error("isolation: {0}")]
    Isolation(String),
    /// The network policy.
    #[error("network_policy: {0}")]
    Network(String),
    /// The limits.
    #[error("limits: {0}")]
    Limits(String),
    /// What was kept is not what this server keeps.
    #[error("the project's {0} cannot be read: set it again")]
    Kept(&'static str),
}

/// What a project's builder is started with.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Built {
    /// The level that the project's builds have at least.
    pub(crate) isolation: Isolation,
    /// As the fleet takes it.
    pub(crate) network: Option<Table>,
    /// As the fleet takes it.
    pub(crate) limits: Option<Table>,
}

/// A network policy as it is kept; the keys are those of a builder's configuration.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Network {
    mode: Mode,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// Limits as they are kept, likewise. What is not there has no limit.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Limits {
    step: Step,
    build: Build,
    #[serde(skip_serializing_if = "Option::is_none")]
    builds: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Step {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_files: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Build {
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<u64>,
}

/// A level by name; nothing said demands none.
pub(crate) fn level(text: &str) -> Result<Option<Isolation>, WallsError> {
    let read = |text: &str| text.parse::<Isolation>();
    let level = (!text.is_empty()).then(|| read(text)).transpose();
    level.map_err(|error| WallsError::Isolation(error.to_string()))
}

/// The level that the configuration of builders demands.
pub(crate) fn least(builder: &Table) -> Result<Isolation, WallsError> {
    let wrong = || WallsError::Isolation("expected namespaces, gvisor or vm".to_owned());
    let said = builder.get("isolation").and_then(|isolation| isolation.get("level"));
    let text = said.map(|said| said.as_str().ok_or_else(wrong)).transpose()?;
    Ok(level(text.unwrap_or_default())?.unwrap_or_default())
}

/// What the records say about a project, with the level that the server demands.
pub(crate) fn built(project: &Project, least: Isolation) -> Result<Built, WallsError> {
    let Walls { isolation, network_policy, limits } = &project.walls;
    let own = level(isolation).map_err(|_| WallsError::Kept("isolation"))?.unwrap_or_default();
    Ok(Built {
        isolation: own.max(least),
        network: kept::<Network>(network_policy, "network policy")?,
        limits: kept::<Limits>(limits, "limits")?,
    })
}

/// Kept text as a table, when there is any and it is a `T`.
fn kept<T: Serialize + for<'a> Deserialize<'a>>(
    text: &str,
    what: &'static str,
) -> Result<Option<Table>, WallsError> {
    if text.is_empty() {
        return Ok(None);
    }
    let value: T = serde_json::from_str(text).map_err(|_| WallsError::Kept(what))?;
    Table::try_from(value).map(Some).map_err(|_| WallsError::Kept(what))
}

fn written(value: &impl Serialize) -> String {
    // Numbers, texts and lists of them: nothing of this fails.
    serde_json::to_string(value).unwrap_or_default()
}

/// A network policy as it is to be kept; without a mode there is none.
pub(crate) fn network(said: &wire::NetworkPolicy) -> Result<String, WallsError> {
    let wrong = |message: String| WallsError::Network(message);
    let mode = match said.mode.as_str() {
        "" if said.allow.is_empty() && said.deny.is_empty() => return Ok(String::new()),
        "public" => Mode::Public,
        "list" => Mode::List,
        "off" => Mode::Off,
        other => return Err(wrong(format!("{other:?} is no mode: use public, list or off"))),
    };
    let rules = |texts: &[String]| -> Result<Vec<Rule>, WallsError> {
        if texts.len() > MAX_RULES {
            return Err(wrong(format!("a list has more than {MAX_RULES} rules")));
        }
        let read = texts.iter().map(|text| text.parse::<Rule>());
        read.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))
    };
    Ok(written(&Network { mode, allow: rules(&said.allow)?, deny: rules(&said.deny)? }))
}

/// Limits as they are to be kept; without any there is nothing.
pub(crate) fn limits(said: &wire::ProjectLimits) -> Result<String, WallsError> {
    let cpus = Some(said.step_cpus).filter(|cpus| *cpus != 0.0);
    if cpus.is_some_and(|cpus| !CPUS.contains(&cpus)) {
        let message = format!("step_cpus: {} is no number of processors", said.step_cpus);
        return Err(WallsError::Limits(message));
    }
    let number = |value: u64| match value {
        0 => Ok(None),
        value if value <= MAX_NUMBER => Ok(Some(value)),
        value => Err(WallsError::Limits(format!("{value} is more than there can be"))),
    };
    let limits = Limits {
        step: Step {
            cpus,
            memory: number(said.step_memory_bytes)?,
            pids: number(said.step_pids)?,
            open_files: number(said.step_open_files)?,
            disk: number(said.step_disk_bytes)?,
            time: number(said.step_seconds)?,
            log: number(said.step_log_bytes)?,
        },
        build: Build {
            time: number(said.build_seconds)?,
            steps: number(said.build_steps)?,
            log: number(said.build_log_bytes)?,
        },
        builds: number(said.builds)?,
    };
    Ok(if limits == Limits::default() { String::new() } else { written(&limits) })
}

/// What a project says, as the wire has it.
pub(crate) fn told(walls: &Walls, least: Isolation) -> Result<wire::ProjectSettings, WallsError> {
    let own = level(&walls.isolation).map_err(|_| WallsError::Kept("isolation"))?;
    let network = match walls.network_policy.as_str() {
        "" => None,
        text => Some(told_network(text)?),
    };
    Ok(wire::ProjectSettings {
        isolation: walls.isolation.clone(),
        least_isolation: own.unwrap_or_default().max(least).name().to_owned(),
        network_policy: network.into(),
        limits: Some(told_limits(&walls.limits)?).into(),
        ..Default::default()
    })
}

fn told_network(text: &str) -> Result<wire::NetworkPolicy, WallsError> {
    let kept: Network =
        serde_json::from_str(text).map_err(|_| WallsError::Kept("network policy"))?;
    let mode = match kept.mode {
        Mode::Public => "public",
        Mode::List => "list",
        Mode::Off => "off",
    };
    let texts = |rules: Vec<Rule>| rules.into_iter().map(String::from).collect();
    Ok(wire::NetworkPolicy {
        mode: mode.to_owned(),
        allow: texts(kept.allow),
        deny: texts(kept.deny),
        ..Default::default()
    })
}

fn told_limits(text: &str) -> Result<wire::ProjectLimits, WallsError> {
    let kept: Limits = match text {
        "" => Limits::default(),
        text => serde_json::from_str(text).map_err(|_| WallsError::Kept("limits"))?,
    };
    let Limits { step, build, builds } = kept;
    let number = |value: Option<u64>| value.unwrap_or(0);
    Ok(wire::ProjectLimits {
        step_cpus: step.cpus.unwrap_or(0.0),
        step_memory_bytes: number(step.memory),
        step_pids: number(step.pids),
        step_open_files: number(step.open_files),
        step_disk_bytes: number(step.disk),
        step_seconds: number(step.time),
        step_log_bytes: number(step.log),
        build_seconds: number(build.time),
        build_steps: number(build.steps),
        build_log_bytes: number(build.log),
        builds: number(builds),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn project(walls: Walls) -> Project {
        Project {
            id: "p".into(),
            organization: "o".into(),
            name: "n".into(),
            region: "r".into(),
            cache: cofferdam_records::CachePolicy::default(),
            hardware: 0,
            slot: 0,
            state: cofferdam_records::ProjectState::Active,
            reset_pending: false,
            walls,
            created_at: chrono::Utc::now(),
        }
    }

    #[test]
    fn levels_only_rise() {
        let at = |own: &str, least| {
            let walls = Walls { isolation: own.into(), ..Walls::default() };
            built(&project(walls), least).map(|built| built.isolation)
        };
        assert_eq!(at("", Isolation::Namespaces), Ok(Isolation::Namespaces));
        assert_eq!(at("gvisor", Isolation::Namespaces), Ok(Isolation::Gvisor));
        assert_eq!(at("namespaces", Isolation::Vm), Ok(Isolation::Vm));
        assert_eq!(at("none", Isolation::Namespaces), Err(WallsError::Kept("isolation")));
    }

    #[test]
    fn the_servers_level_is_read_from_what_builders_are_given() {
        let of = |text: &str| least(&text.parse().unwrap());
        assert_eq!(of(""), Ok(Isolation::Namespaces));
        assert_eq!(of("[isolation]\nlevel = \"gvisor\""), Ok(Isolation::Gvisor));
        assert!(of("[isolation]\nlevel = \"strong\"").is_err());
        assert!(of("[isolation]\nlevel = 3").is_err());
    }

    #[test]
    fn policies_and_limits_are_kept_and_told_as_they_were_said() {
        let policy = wire::NetworkPolicy {
            mode: "list".into(),
            allow: vec!["*.packages.example:443".into(), "10.0.0.0/8".into()],
            deny: vec!["bad.packages.example".into()],
            ..Default::default()
        };
        let some = wire::ProjectLimits {
            step_cpus: 1.5,
            step_seconds: 60,
            build_steps: 2,
            builds: 3,
            ..Default::default()
        };
        let walls = Walls {
            isolation: "vm".into(),
            network_policy: network(&policy).unwrap(),
            limits: limits(&some).unwrap(),
        };
        let told = told(&walls, Isolation::Gvisor).unwrap();
        assert_eq!((told.isolation.as_str(), told.least_isolation.as_str()), ("vm", "vm"));
        assert_eq!(told.network_policy.into_option(), Some(policy));
        assert_eq!(told.limits.into_option(), Some(some));
        let built = built(&project(walls), Isolation::Namespaces).unwrap();
        assert_eq!(built.network.unwrap()["allow"][1].as_str(), Some("10.0.0.0/8"));
        let limits = built.limits.unwrap();
        assert_eq!(limits["step"]["cpus"].as_float(), Some(1.5));
        assert_eq!(
            (limits["step"]["time"].as_integer(), limits["builds"].as_integer()),
            (Some(60), Some(3))
        );
        assert!(limits["step"].get("pids").is_none());
    }

    #[test]
    fn nothing_said_is_nothing_kept() {
        assert_eq!(network(&wire::NetworkPolicy::default()).unwrap(), "");
        assert_eq!(limits(&wire::ProjectLimits::default()).unwrap(), "");
        let none = built(&project(Walls::default()), Isolation::Namespaces).unwrap();
        assert_eq!((none.network, none.limits), (None, None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let policy = |mode: &str, allow: &[&str]| {
            network(&wire::NetworkPolicy {
                mode: mode.into(),
                allow: allow.iter().map(|rule| (*rule).to_owned()).collect(),
                ..Default::default()
            })
        };
        assert!(policy("open", &[]).unwrap_err().to_string().contains("public, list or off"));
        assert!(policy("", &["a.example"]).is_err());
        assert!(policy("list", &["10.0.0.1/8"]).unwrap_err().to_string().contains("10.0.0.1/8"));
        assert!(policy("list", &["x"; MAX_RULES + 1]).is_err());
        for cpus in [-1.0, f64::NAN, f64::INFINITY, 0.001] {
            let said = wire::ProjectLimits { step_cpus: cpus, ..Default::default() };
            assert!(limits(&said).is_err(), "{cpus}");
        }
        let said = wire::ProjectLimits { builds: u64::MAX, ..Default::default() };
        assert!(limits(&said).is_err());
        let broken = Walls { limits: "{\"step\":3}".into(), ..Walls::default() };
        assert!(built(&project(broken), Isolation::Namespaces).is_err());
    }
}
