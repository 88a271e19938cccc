//! The level of isolation that a build demands: asked of the builder itself, before anything is sent to it.
//!
//! A builder that does not say how it isolates builds has no level that could be enough: servers and builders that know nothing of
//! levels ignore what they do not understand.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use cofferdam_client::Client;
use cofferdam_sandbox::Isolation;

/// Label of a builder's worker that names its level.
const LABEL: &str = "cofferdam.isolation";

/// Refuses a builder that is weaker than `demanded`.
pub(super) async fn check(client: &Client, demanded: Option<Isolation>) -> anyhow::Result<()> {
    let Some(demanded) = demanded else { return Ok(()) };
    let control = client.control();
    let answer = control.list_workers(Default::default()).await;
    let answer = answer.context("ask the builder for its level of isolation")?.into_owned();
    if answer.record.is_empty() {
        bail!("the builder has no worker: --isolation {demanded} cannot be had there");
    }
    for worker in answer.record {
        let labels: BTreeMap<String, String> = worker.Labels.into_iter().collect();
        enough(labels.get(LABEL).map(String::as_str), demanded)?;
    }
    Ok(())
}

fn enough(label: Option<&str>, demanded: Isolation) -> anyhow::Result<()> {
    let Some(label) = label else {
        bail!(
            "the builder does not say how it isolates builds, so --isolation {demanded} cannot be had there"
        );
    };
    let level: Isolation = label.parse().context("read the builder's level of isolation")?;
    if level < demanded {
        bail!(
            "the builder isolates builds by {level}, which is weaker than --isolation {demanded}: use a builder started with --isolation {demanded}"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_equal_or_stronger_builder_is_enough() {
        let message = |label, demanded| enough(label, demanded).err().map(|e| e.to_string());
        assert_eq!(message(Some("gvisor"), Isolation::Gvisor), None);
        assert_eq!(message(Some("vm"), Isolation::Gvisor), None);
        let weak = message(Some("namespaces"), Isolation::Vm).unwrap_or_default();
        assert!(weak.contains("namespaces") && weak.contains("--isolation vm"), "{weak}");
        assert!(message(None, Isolation::Namespaces).is_some());
        assert!(message(Some("perfect"), Isolation::Namespaces).is_some());
    }
}
