//! The configuration of one project's builder: what the operator wrote for all, and over it what is the project's own.

use toml::{Table, Value};

use crate::spec::{ProjectSpec, Resources};

/// Processes and threads of a builder and all its steps; some thousand make a large compilation, many more a fork bomb.
const PIDS: i64 = 32_768;
/// The most that a builder keeps of past builds where nothing is said.
const HISTORY: i64 = 2 << 30;
/// Part of the cache's size that past builds may have beside it.
const HISTORY_PART: i64 = 10;
/// Bytes of the unit that cache policies count in, as the API and its clients have it.
const GB: i64 = 1 << 30;

/// The configuration file of a project's builder.
pub(crate) fn of_project(
    all: &Table,
    spec: &ProjectSpec,
    first_id: u32,
    resources: Resources,
) -> Table {
    let mut config = all.clone();
    // Where a builder listens and keeps its state is not the operator's to say: another project's would be reached.
    config.remove("grpc");
    config.remove("root");
    egress(&mut config, spec);
    limits(&mut config, spec);
    history(&mut config, spec);
    let isolation = table(&mut config, "isolation");
    isolation.insert("level".to_owned(), Value::String(spec.isolation.name().to_owned()));
    isolation.insert("idsBase".to_owned(), Value::Integer(first_id.into()));
    isolation.insert("cpus".to_owned(), Value::Integer(resources.cpus.into()));
    let memory = i64::try_from(resources.memory).unwrap_or(i64::MAX);
    isolation.insert("memory".to_owned(), Value::Integer(memory));
    isolation.entry("pids").or_insert(Value::Integer(PIDS));
    let log = table(&mut config, "log");
    log.entry("level").or_insert_with(|| Value::String("warn".to_owned()));
    // The server reads ids out of it and gives it the shape of its own log.
    log.entry("format").or_insert_with(|| Value::String("json".to_owned()));
    named(table(&mut config, "otel"), &spec.project);
    let oci = table(table(&mut config, "worker"), "oci");
    let rules = rules(oci, spec);
    if !rules.is_empty() {
        let own = oci.remove("gcpolicy").and_then(|own| match own {
            Value::Array(own) => Some(own),
            _ => None,
        });
        let rules = rules.into_iter().chain(own.into_iter().flatten()).collect();
        oci.insert("gcpolicy".to_owned(), Value::Array(rules));
    }
    config
}

/// Traces of a builder say whose it is, in the attributes of its resource.
fn named(otel: &mut Table, project: &str) {
    let project = Value::String(project.to_owned());
    table(otel, "attributes").insert("cofferdam.project".to_owned(), project);
}

/// The project's network policy within the operator's: what either refuses is refused. Name servers are the operator's to say.
fn egress(config: &mut Table, spec: &ProjectSpec) {
    let Some(own) = &spec.network else { return };
    let mut outer = match config.remove("egress") {
        Some(Value::Table(outer)) => outer,
        _ => Table::new(),
    };
    let mut policy = Table::new();
    if let Some(resolvers) = outer.remove("resolvers") {
        policy.insert("resolvers".to_owned(), resolvers);
    }
    // What the operator answers for is open to the builder itself, whatever the project says.
    if let Some(vouched) = outer.get("vouched") {
        policy.insert("vouched".to_owned(), vouched.clone());
    }
    for key in ["mode", "allow", "deny"] {
        if let Some(value) = own.get(key) {
            policy.insert(key.to_owned(), value.clone());
        }
    }
    policy.insert("within".to_owned(), Value::Table(outer));
    config.insert("egress".to_owned(), Value::Table(policy));
}

/// The project's limits within the operator's: the smaller of two holds.
fn limits(config: &mut Table, spec: &ProjectSpec) {
    let Some(own) = &spec.limits else { return };
    let mut limits = own.clone();
    limits.remove("within");
    if let Some(outer) = config.remove("limits") {
        limits.insert("within".to_owned(), outer);
    }
    config.insert("limits".to_owned(), Value::Table(limits));
}

/// Records of past builds are no cache and no rule of it removes them: beside a small cache there are few, unless the operator has
/// said how many.
fn history(config: &mut Table, spec: &ProjectSpec) {
    if spec.keep_gb > 0 {
        let bytes = i64::from(spec.keep_gb).saturating_mul(GB / HISTORY_PART).min(HISTORY);
        table(config, "history").entry("maxBytes").or_insert(Value::Integer(bytes));
    }
}

/// A project's cache policy as rules of garbage collection.
fn rules(oci: &Table, spec: &ProjectSpec) -> Vec<Value> {
    let mut rules = Vec::new();
    if spec.keep_days > 0 {
        let mut rule = Table::from_iter([("all".to_owned(), Value::Boolean(true))]);
        rule.insert("keepDuration".to_owned(), Value::String(format!("{}d", spec.keep_days)));
        rules.push(Value::Table(rule));
    }
    if spec.keep_gb > 0 {
        let bytes = i64::from(spec.keep_gb).saturating_mul(GB);
        let mut rule = Table::from_iter([("all".to_owned(), Value::Boolean(true))]);
        rule.insert("maxUsedSpace".to_owned(), Value::Integer(bytes));
        if let Some(free) = oci.get("minFreeSpace") {
            rule.insert("minFreeSpace".to_owned(), free.clone());
        }
        rules.push(Value::Table(rule));
    }
    rules
}

/// The table of that name, which whatever else was there gives way to.
fn table<'a>(within: &'a mut Table, name: &str) -> &'a mut Table {
    let value = within.entry(name).or_insert_with(|| Value::Table(Table::new()));
    if !value.is_table() {
        *value = Value::Table(Table::new());
    }
    match value {
        Value::Table(table) => table,
        // Made one above.
        _ => unreachable!("a table"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_sandbox::Isolation;

    use super::*;

    #[test]
    fn a_projects_own_settings_win() {
        let all: Table = r#"
            root = "/elsewhere"
            [grpc]
            address = ["tcp://0.0.0.0:1"]
            [isolation]
            idsBase = 5
            [worker.oci]
            minFreeSpace = "10%"
            [[worker.oci.gcpolicy]]
            keepDuration = "1h"
            [egress]
            mode = "list"
        "#
        .parse()
        .unwrap();
        let resources = Resources { cpus: 2, memory: 1 << 30 };
        let mut spec = plain(resources);
        (spec.keep_gb, spec.keep_days) = (50, 14);
        let config = of_project(&all, &spec, 268_435_456, resources);
        assert!(!config.contains_key("root") && !config.contains_key("grpc"));
        assert_eq!(config["isolation"]["idsBase"].as_integer(), Some(268_435_456));
        assert_eq!(config["isolation"]["memory"].as_integer(), Some(1 << 30));
        assert_eq!(config["egress"]["mode"].as_str(), Some("list"));
        let rules = config["worker"]["oci"]["gcpolicy"].as_array().unwrap();
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[0]["keepDuration"].as_str(), Some("14d"));
        // What the API promises for 50.
        assert_eq!(rules[1]["maxUsedSpace"].as_integer(), Some(53_687_091_200));
        assert_eq!(rules[1]["minFreeSpace"].as_str(), Some("10%"));
        assert_eq!(config["log"]["level"].as_str(), Some("warn"));
        assert_eq!(config["log"]["format"].as_str(), Some("json"));
        assert_eq!(config["otel"]["attributes"]["cofferdam.project"].as_str(), Some("p"));
        assert_eq!(config["isolation"]["level"].as_str(), Some("namespaces"));
    }

    fn plain(resources: Resources) -> ProjectSpec {
        ProjectSpec {
            project: "p".into(),
            slot: 0,
            isolation: Isolation::Namespaces,
            network: None,
            limits: None,
            resources,
            keep_gb: 0,
            keep_days: 0,
        }
    }

    #[test]
    fn walls_of_a_project_stand_within_the_operators() {
        let all: Table = r#"
            [isolation]
            level = "namespaces"
            [egress]
            mode = "public"
            deny = ["*.evil.example"]
            resolvers = ["192.0.2.53"]
            [limits]
            step.pids = 9
        "#
        .parse()
        .unwrap();
        let resources = Resources { cpus: 2, memory: 1 << 30 };
        let own = |text: &str| Some(text.parse::<Table>().unwrap());
        let spec = ProjectSpec {
            isolation: Isolation::Vm,
            network: own(r#"mode = "list"
                allow = ["10.0.0.1"]
                resolvers = ["198.51.100.1"]
                within = { mode = "public" }"#),
            limits: own("step.pids = 50\nwithin.step.pids = 100"),
            ..plain(resources)
        };
        let config = of_project(&all, &spec, 1, resources);
        assert_eq!(config["isolation"]["level"].as_str(), Some("vm"));
        let egress = config["egress"].as_table().unwrap();
        assert_eq!(egress["mode"].as_str(), Some("list"));
        assert_eq!(egress["resolvers"][0].as_str(), Some("192.0.2.53"));
        assert_eq!(egress["within"]["deny"][0].as_str(), Some("*.evil.example"));
        assert_eq!(config["limits"]["step"]["pids"].as_integer(), Some(50));
        assert_eq!(config["limits"]["within"]["step"]["pids"].as_integer(), Some(9));
        let alone = of_project(&Table::new(), &spec, 1, resources);
        assert!(alone["egress"]["within"].as_table().unwrap().is_empty(), "the default holds");
        assert!(alone["limits"].get("within").is_none());
    }

    #[test]
    fn past_builds_have_a_part_of_the_caches_size() {
        let resources = Resources { cpus: 2, memory: 1 << 30 };
        let most = |all: &str, keep_gb: u32| {
            let spec = ProjectSpec { keep_gb, ..plain(resources) };
            let config = of_project(&all.parse::<Table>().unwrap(), &spec, 1, resources);
            config["history"]["maxBytes"].clone()
        };
        assert_eq!(most("", 5).as_integer(), Some(536_870_910));
        assert_eq!(most("history.maxAge = 60", 500).as_integer(), Some(2 << 30));
        assert_eq!(most("history.maxBytes = '9GB'", 5).as_str(), Some("9GB"));
    }

    #[test]
    fn without_a_policy_nothing_is_collected_for_it() {
        let resources = Resources { cpus: 2, memory: 1 << 30 };
        let spec = plain(resources);
        let config = of_project(&Table::new(), &spec, 1, resources);
        assert!(config["worker"]["oci"].get("gcpolicy").is_none());
        assert!(config.get("history").is_none());
        let odd: Table = "isolation = 3".parse().unwrap();
        assert!(of_project(&odd, &spec, 1, resources)["isolation"].is_table());
    }
}
