//! Figures for Prometheus. Totals only: nothing here names an organization, project, build or step.
//!
//! Every figure is declared in [`table`], with all values that its label can have: what a tenant says never becomes one, so their
//! number is bounded. `docs/server.md` has the same list, and a test compares the two.

mod calls;
mod figure;
mod process;
mod table;

use std::time::Duration;

use cofferdam_fleet::{Fleet, Observed};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub(crate) use self::calls::{Calls, answered, counted};
pub(crate) use self::figure::ALL;
use self::figure::Kind;
pub(crate) use self::process::measure;
pub(crate) use self::table::*;

/// How often samples become totals when nobody asks for them.
const UPKEEP: Duration = Duration::from_secs(10);

/// Installs the recorder of this process; what it says is served at `/metrics`. Every figure is there from the beginning.
pub(crate) fn install() -> Result<PrometheusHandle, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for figure in FIGURES {
        if let Kind::Histogram(buckets) = figure.kind {
            builder = builder.set_buckets_for_metric(Matcher::Full(figure.name.into()), buckets)?;
        }
    }
    let handle = builder.install_recorder()?;
    FIGURES.iter().for_each(|figure| figure.begin());
    process::begin();
    Ok(handle)
}

/// Keeps the memory of samples small; for as long as the server runs.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// Counts what happens to the builders of a fleet.
pub(crate) fn observe(fleet: &Fleet) {
    fleet.observe(|what| match what {
        Observed::Room(waited) => QUEUE_SECONDS.observe(ALL, waited.as_secs_f64()),
        Observed::Started(took) => {
            BUILDER_STARTS.count("started", 1);
            BUILDER_START_SECONDS.observe(ALL, took.as_secs_f64());
        }
        Observed::NotStarted => BUILDER_STARTS.count("failed", 1),
        Observed::Ended { told: true } => BUILDER_ENDS.count("told", 1),
        Observed::Ended { told: false } => BUILDER_ENDS.count("died", 1),
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_documented_list_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/server.md");
        let text = std::fs::read_to_string(path).unwrap();
        let block = text.split("<!-- metrics:begin -->").nth(1).unwrap();
        let block = block.split("<!-- metrics:end -->").next().unwrap();
        let documented: Vec<&str> =
            block.lines().filter(|line| line.starts_with("| `")).map(str::trim_end).collect();
        let declared: Vec<String> = FIGURES.iter().map(|figure| figure.row()).collect();
        assert_eq!(documented, declared, "to be documented:\n{}", declared.join("\n"));
    }

    #[test]
    fn figures_are_named_as_prometheus_has_them() {
        let mut names = BTreeSet::new();
        for figure in FIGURES {
            let name = figure.name;
            assert!(names.insert(name), "{name} is there twice");
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(name.bytes().all(plain), "{name}");
            let is_counter = matches!(figure.kind, Kind::Counter);
            assert_eq!(is_counter, name.ends_with("_total"), "{name}");
            if let Kind::Histogram(buckets) = figure.kind {
                assert!(buckets.is_sorted() && buckets.len() <= 16, "{name}");
            }
            let values = figure.label.map(|(_, values)| values).unwrap_or_default();
            assert!(values.len() <= 20, "{name} has too many values");
            let several: BTreeSet<_> = values.iter().collect();
            assert_eq!(several.len(), values.len(), "{name} has a value twice");
        }
    }

    #[test]
    fn a_value_that_is_not_declared_becomes_none() {
        assert_eq!(BUILDS_ENDED.known("failed"), Some("failed"));
        assert_eq!(BUILDS_ENDED.known("anything a tenant says"), None);
        assert_eq!(BUILDS_BEGUN.known("anything"), None);
    }
}
