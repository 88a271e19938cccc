//! `cofferdam builds show`: one build, its steps side by side in time, its connections.

use anyhow::Context;
use chrono::Utc;
use cofferdam_apiclient::{
    ApiClient, ApiError, Build, BuildPlace, ErrorCode, NetworkConnection, PageRequest, Step,
};
use cofferdam_client::text;
use serde::Serialize;

use super::{PART, list, network, steps, waterfall};
use crate::paging;
use crate::terminal::{Style, moment, print, print_json, seconds};

/// The answer as a whole.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    build: Build,
    project: String,
    url: String,
    steps: Vec<Step>,
    /// Nothing when the server knows of none, and before the build had a builder.
    #[serde(skip_serializing_if = "Option::is_none")]
    isolation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Vec<NetworkConnection>>,
}

/// Prints a build.
pub(super) async fn show(
    client: &ApiClient,
    id: &str,
    network: bool,
    json: bool,
) -> anyhow::Result<()> {
    let build = client.build(id).await?;
    let BuildPlace { project, url } = client.build_place(id).await?;
    let steps = steps(client, &project, id).await.context("list the build's steps")?;
    let connections = if network {
        let fetch = async |page: PageRequest| client.connections(id, page).await;
        Some(paging::all(PART, fetch).await.context("list the build's connections")?)
    } else {
        None
    };
    let isolation = isolation(client, id).await.context("read the build's isolation")?;
    let report = Report { build, project, url, steps, isolation, connections };
    if json {
        return print_json(&report);
    }
    let style = Style::of_stdout();
    let mut text = describe(&report);
    if !report.steps.is_empty() {
        text.push('\n');
        text.push_str(&waterfall::draw(&report.steps, Utc::now(), style));
        text.push_str(&failures(&report.steps));
    }
    if let Some(connections) = &report.connections {
        text.push('\n');
        text.push_str(&network::table(connections, &report.steps));
    }
    print(&text)?;
    Ok(())
}

async fn isolation(client: &ApiClient, id: &str) -> Result<Option<String>, ApiError> {
    match client.build_isolation(id).await {
        Ok(level) => Ok(Some(level).filter(|level| !level.is_empty())),
        Err(error) if error.code() == Some(ErrorCode::Unimplemented) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the step begins that says which flow of buildpacks ran, and why.
const FLOW: &str = "[flow] ";

fn describe(report: &Report) -> String {
    let build = &report.build;
    let mut lines = vec![
        ("build", build.id.clone()),
        ("project", report.project.clone()),
        ("status", build.status.name().to_owned()),
        ("created", moment(build.created_at)),
        ("took", seconds(build.duration_seconds)),
    ];
    if let Some(cached) = list::cached(build) {
        let saved = build.saved_seconds.filter(|saved| *saved > 0);
        let saved = saved.map(|saved| format!(", which saved about {}", seconds(Some(saved))));
        lines.push(("cached steps", format!("{cached}{}", saved.unwrap_or_default())));
    }
    if let Some(isolation) = &report.isolation {
        lines.push(("isolation", isolation.clone()));
    }
    if let Some(flow) = report.steps.iter().find_map(|step| step.name.strip_prefix(FLOW)) {
        lines.push(("flow", flow.to_owned()));
    }
    if !report.url.is_empty() {
        lines.push(("page", report.url.clone()));
    }
    lines.iter().map(|(key, value)| format!("{key:<13} {}\n", text::single_line(value))).collect()
}

/// Why steps failed.
fn failures(steps: &[Step]) -> String {
    let failed = steps.iter().enumerate().filter_map(|(index, step)| {
        let error = step.error.as_ref()?;
        Some(format!("\nStep {}: {}\n", index + 1, text::lines(error)))
    });
    failed.collect()
}

#[cfg(test)]
mod tests {
    use cofferdam_apiclient::BuildStatus;

    use super::*;

    fn report() -> Report {
        let build = Build {
            id: "b1".into(),
            status: BuildStatus::Failed,
            created_at: None,
            started_at: None,
            finished_at: None,
            duration_seconds: Some(7),
            saved_seconds: Some(75),
            cached_steps: Some(1),
            total_steps: Some(2),
        };
        let step = Step {
            digest: "sha256:aa".into(),
            name: "[1/1] RUN x".into(),
            started_at: None,
            completed_at: None,
            cached: false,
            error: Some("exit code: 3\n\x1b]0;gone\x07 more".into()),
            has_logs: false,
        };
        Report {
            build,
            project: "p".into(),
            url: "http://h/builds/b1\x1b[2J".into(),
            steps: vec![step],
            isolation: None,
            connections: None,
        }
    }

    #[test]
    fn a_build_in_words() {
        let text = describe(&report());
        assert_eq!(
            text,
            "build         b1\nproject       p\nstatus        failed\ncreated       -\ntook          7s\n\
             cached steps  1/2, which saved about 1m15s\npage          http://h/builds/b1[2J\n"
        );
    }

    #[test]
    fn the_flow_is_said_with_its_reason() {
        let mut report = report();
        report.steps[0].name = "[flow] untrusted (analyze, detect): x was added\x1b[2J".into();
        let text = describe(&report);
        assert!(
            text.contains("flow          untrusted (analyze, detect): x was added[2J\n"),
            "{text}"
        );
    }

    #[test]
    fn failures_name_their_step() {
        assert_eq!(failures(&report().steps), "\nStep 1: exit code: 3\n]0;gone more\n");
    }

    #[test]
    fn json_is_flat() {
        let value = serde_json::to_value(report()).unwrap_or_default();
        assert_eq!(value["id"], "b1");
        assert_eq!(value["status"], "failed");
        assert_eq!(value["steps"][0]["name"], "[1/1] RUN x");
        assert!(value.get("connections").is_none());
    }
}
