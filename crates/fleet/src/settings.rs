//! The configuration of one project's builder: what the operator wrote for all, and over it what is the project's own.

use toml::{Table, Value};

use crate::spec::{ProjectSpec, Resources};

/// Processes and threads of a builder and all its steps; some thousand make a large compilation, many more a fork bomb.
const PIDS: i64 = 32_768;
/// Bytes of the unit that cache policies count in.
const GB: i64 = 1_000_000_000;

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
    let isolation = table(&mut config, "isolation");
    isolation.insert("idsBase".to_owned(), Value::Integer(first_id.into()));
    isolation.insert("cpus".to_owned(), Value::Integer(resources.cpus.into()));
    let memory = i64::try_from(resources.memory).unwrap_or(i64::MAX);
    isolation.insert("memory".to_owned(), Value::Integer(memory));
    isolation.entry("pids").or_insert(Value::Integer(PIDS));
    table(&mut config, "log").entry("level").or_insert_with(|| Value::String("warn".to_owned()));
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
        let spec =
            ProjectSpec { project: "p".into(), slot: 0, resources, keep_gb: 50, keep_days: 14 };
        let config = of_project(&all, &spec, 268_435_456, resources);
        assert!(!config.contains_key("root") && !config.contains_key("grpc"));
        assert_eq!(config["isolation"]["idsBase"].as_integer(), Some(268_435_456));
        assert_eq!(config["isolation"]["memory"].as_integer(), Some(1 << 30));
        assert_eq!(config["egress"]["mode"].as_str(), Some("list"));
        let rules = config["worker"]["oci"]["gcpolicy"].as_array().unwrap();
        assert_eq!(rules.len(), 3);
        assert_eq!(rules[0]["keepDuration"].as_str(), Some("14d"));
        assert_eq!(rules[1]["maxUsedSpace"].as_integer(), Some(50_000_000_000));
        assert_eq!(rules[1]["minFreeSpace"].as_str(), Some("10%"));
        assert_eq!(config["log"]["level"].as_str(), Some("warn"));
    }

    #[test]
    fn without_a_policy_nothing_is_collected_for_it() {
        let resources = Resources { cpus: 2, memory: 1 << 30 };
        let spec =
            ProjectSpec { project: "p".into(), slot: 0, resources, keep_gb: 0, keep_days: 0 };
        let config = of_project(&Table::new(), &spec, 1, resources);
        assert!(config["worker"]["oci"].get("gcpolicy").is_none());
        let odd: Table = "isolation = 3".parse().unwrap();
        assert!(of_project(&odd, &spec, 1, resources)["isolation"].is_table());
    }
}
