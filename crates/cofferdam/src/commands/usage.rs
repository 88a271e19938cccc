//! `cofferdam usage`: what was built in a window of time, by project, and what is kept of it.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use clap::Args;
use cofferdam_apiclient::{
    ApiClient, ApiError, DiskUse, ErrorCode, PageRequest, ProjectStorage, ProjectUsage, Usage,
    Window,
};
use serde::Serialize;

use crate::paging;
use crate::remote::{self, AnswerArgs, RemoteArgs};
use crate::terminal::{Table, bytes, duration, note, print, print_json};

/// Projects asked for at once.
const PART: i32 = 250;

/// Which window, whose usage.
#[derive(Debug, Clone, Args)]
pub(crate) struct UsageArgs {
    /// First day or moment, YYYY-MM-DD or RFC 3339 [default: the first of this month, UTC]
    #[arg(long, value_name = "WHEN")]
    start: Option<String>,

    /// First day or moment that is not part of it [default: now]
    #[arg(long, value_name = "WHEN")]
    end: Option<String>,

    /// Only this project; neither the environment nor depot.json is looked at
    #[arg(long, value_name = "ID")]
    project: Option<String>,

    #[command(flatten)]
    server: RemoteArgs,

    #[command(flatten)]
    answer: AnswerArgs,
}

/// The answer as a whole.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    window: Window,
    projects: Vec<ProjectUsage>,
    /// What the projects take of the server's disk; absent where the server cannot tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    storage: Option<Vec<ProjectStorage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization: Option<Usage>,
}

/// Carries the command out.
pub(crate) fn run(args: UsageArgs) -> anyhow::Result<ExitCode> {
    let window = window(args.start.as_deref(), args.end.as_deref(), Utc::now())?;
    remote::run(async {
        let client = args.server.connect()?;
        let report = match &args.project {
            Some(project) => Report {
                window,
                projects: vec![client.project_usage(project, window).await?],
                storage: storage(&client, Some(project)).await?,
                organization: None,
            },
            None => of_organization(&client, window).await?,
        };
        if args.answer.json {
            print_json(&report)?;
        } else if report.projects.is_empty() {
            note("No projects.");
        } else {
            print(&words(&report))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn of_organization(client: &ApiClient, window: Window) -> anyhow::Result<Report> {
    let fetch = async |page: PageRequest| client.project_usages(window, page).await;
    let projects = paging::all(PART, fetch).await?;
    let storage = storage(client, None).await?;
    let organization = Some(client.usage(window).await?);
    Ok(Report { window, projects, storage, organization })
}

/// What projects take of the disk. Depot's own service and older servers know only of whole GB of cache, which usage has.
async fn storage(
    client: &ApiClient,
    project: Option<&str>,
) -> anyhow::Result<Option<Vec<ProjectStorage>>> {
    let known = |error: &anyhow::Error| match error.downcast_ref::<ApiError>() {
        Some(error) => error.code() != Some(ErrorCode::Unimplemented),
        None => true,
    };
    let fetch = async |page: PageRequest| client.storage(project, page).await;
    match paging::all(PART, fetch).await {
        Ok(storage) => Ok(Some(storage)),
        Err(error) if !known(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn window(start: Option<&str>, end: Option<&str>, now: DateTime<Utc>) -> anyhow::Result<Window> {
    let month = now.date_naive().with_day(1).unwrap_or_else(|| now.date_naive());
    let start = start.map_or_else(|| Ok(midnight(month)), when)?;
    let end = end.map_or(Ok(now), when)?;
    ensure!(start < end, "the window ends before it begins");
    Ok(Window { start, end })
}

fn when(text: &str) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(midnight(day));
    }
    let moment = DateTime::parse_from_rfc3339(text);
    let moment = moment.with_context(|| {
        format!("invalid moment {text:?}: expected YYYY-MM-DD or YYYY-MM-DDTHH:MM:SSZ")
    })?;
    Ok(moment.to_utc())
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

fn words(report: &Report) -> String {
    let mut table = Table::new(&["PROJECT", "BUILDS", "BUILD TIME", "CACHE", "IMAGES", "LOGS"]);
    for usage in &report.projects {
        let [cache, images, logs] = kept(report.storage.as_deref(), usage);
        table.row([
            usage.project.clone(),
            usage.builds.to_string(),
            duration(f64::from(usage.duration_seconds)),
            cache,
            images,
            logs,
        ]);
    }
    let mut text = table.take();
    let Some(organization) = &report.organization else { return text };
    let saved: f64 =
        organization.builds.iter().map(|usage| f64::from(usage.minutes_saved)).sum::<f64>() * 60.0;
    let builds: i64 = report.projects.iter().map(|usage| i64::from(usage.builds)).sum();
    let spent: f64 = report.projects.iter().map(|usage| f64::from(usage.duration_seconds)).sum();
    text.push_str(&format!(
        "\n{builds} builds took {}; the cache saved {}.\n",
        duration(spent),
        duration(saved)
    ));
    text
}

/// What a project's cache, images and logs take, as far as that is known.
fn kept(storage: Option<&[ProjectStorage]>, usage: &ProjectUsage) -> [String; 3] {
    let unknown = || "-".to_owned();
    let Some(storage) = storage else {
        return [format!("{} GB", usage.cache_gb), unknown(), unknown()];
    };
    let own = storage.iter().find(|storage| storage.project == usage.project);
    let shown = |figure: fn(&ProjectStorage) -> &Option<DiskUse>| {
        own.and_then(|own| figure(own).as_ref()).map_or_else(unknown, |known| bytes(known.bytes))
    };
    [shown(|own| &own.cache), shown(|own| &own.registry), shown(|own| &own.logs)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_apiclient::BuildUsage;

    use super::*;

    #[test]
    fn windows() {
        let now = DateTime::parse_from_rfc3339("2026-05-17T12:00:00Z").unwrap().to_utc();
        let text = |start, end| {
            window(start, end, now)
                .map(|window| format!("{} {}", window.start.to_rfc3339(), window.end.to_rfc3339()))
        };
        assert_eq!(
            text(None, None).unwrap(),
            "2026-05-01T00:00:00+00:00 2026-05-17T12:00:00+00:00"
        );
        assert_eq!(
            text(Some("2026-01-01"), Some("2026-02-01T00:00:00+01:00")).unwrap(),
            "2026-01-01T00:00:00+00:00 2026-01-31T23:00:00+00:00"
        );
        assert!(text(Some("2026-02-01"), Some("2026-01-01")).is_err());
        assert!(text(Some("yesterday"), None).is_err());
    }

    #[test]
    fn a_report_in_words() {
        let usage = |project: &str, builds, duration_seconds| ProjectUsage {
            project: project.into(),
            builds,
            duration_seconds,
            cache_gb: 3,
        };
        let now = Utc::now();
        let organization = Usage {
            builds: vec![BuildUsage {
                project: "shop".into(),
                count: 3,
                minutes_saved: 1.5,
                minutes_billed: 2.0,
            }],
            storage: vec![],
        };
        let mut report = Report {
            window: Window { start: now, end: now },
            projects: vec![usage("n9548n2qqx", 2, 90), usage("b", 1, 5)],
            storage: None,
            organization: Some(organization),
        };
        let text = words(&report);
        assert!(
            text.starts_with("PROJECT     BUILDS  BUILD TIME  CACHE  IMAGES  LOGS\n"),
            "{text}"
        );
        assert!(text.contains("n9548n2qqx  2       1m30s       3 GB   -       -\n"), "{text}");
        assert!(text.ends_with("\n3 builds took 1m35s; the cache saved 1m30s.\n"), "{text}");
        report.storage = Some(vec![ProjectStorage {
            project: "n9548n2qqx".into(),
            cache: Some(DiskUse { bytes: 2_345_678_901, measured_at: Some(now) }),
            registry: Some(DiskUse { bytes: 0, measured_at: Some(now) }),
            logs: None,
        }]);
        let text = words(&report);
        assert!(text.contains("n9548n2qqx  2       1m30s       2.3 GB  0 B     -\n"), "{text}");
        assert!(text.contains("b           1       5.0s        -       -       -\n"), "{text}");
    }
}
