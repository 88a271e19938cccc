//! A build's page, for its project's people and for whoever has its share URL, and the whole logs behind it.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::Utc;
use cofferdam_access::{Action, Resource};
use cofferdam_pages::{
    Audience, BuildPage, ConnectionView, LogLine, LogView, MAX_LOG_LINES, MAX_OTHER_CONNECTIONS,
    MAX_STEPS, StepView, Viewer,
};
use cofferdam_records::{Build, ConnectionRecord, PageRequest, Project, RecordsError, Step};
use http::StatusCode;
use serde::Deserialize;

use super::session::Visitor;
use super::views::{build_view, connection_view, project_ref};
use super::{Answer, Refused, Shared, text_headers};
use crate::api::Api;

/// Most connections that a page's tables are made from.
const MAX_CONNECTIONS: i32 = 5000;
/// Lines that are read from a log at a time.
const LOG_PAGE: i32 = 10_000;
/// Most such reads for one step of a page; logs are bounded in bytes, so more are not needed.
const MAX_LOG_PAGES: usize = 100;

#[derive(Deserialize)]
pub(super) struct RefreshQuery {
    refresh: Option<String>,
}

pub(super) async fn page_of(
    api: &Api,
    audience: Audience,
    project: &Project,
    build: &Build,
    refresh: bool,
    log_path: impl Fn(u64) -> String,
) -> Result<String, RecordsError> {
    let size = i32::try_from(MAX_STEPS).ok();
    let found = api.records.steps(&build.id, PageRequest { size, token: None }).await?;
    let request = PageRequest { size: Some(MAX_CONNECTIONS), token: None };
    let connections = api.records.connections(&build.id, request).await?;
    let mut of_steps: HashMap<String, Vec<ConnectionRecord>> = HashMap::new();
    for connection in connections.items {
        of_steps.entry(connection.step.clone()).or_default().push(connection);
    }
    let more_steps = found.next.is_some();
    let mut steps = Vec::with_capacity(found.items.len());
    for step in found.items {
        let log = match step.has_logs {
            true => Some(log_view(api, build, &step, &log_path).await?),
            false => None,
        };
        let connections = of_steps.remove(&step.digest).unwrap_or_default();
        steps.push(step_view(step, log, connections));
    }
    let others = of_steps.into_values().flatten().take(MAX_OTHER_CONNECTIONS);
    let others: Vec<ConnectionView> = others.map(connection_view).collect();
    let page = BuildPage {
        audience,
        project: project_ref(project),
        build: build_view(build),
        steps,
        more_steps,
        connections: others,
        refresh,
        now: Utc::now(),
    };
    // A build of many steps makes megabytes: that must not hold up other requests.
    match tokio::task::spawn_blocking(move || page.render()).await {
        Ok(html) => Ok(html),
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn step_view(step: Step, log: Option<LogView>, connections: Vec<ConnectionRecord>) -> StepView {
    StepView {
        ordinal: u64::from(step.ordinal),
        digest: step.digest,
        name: step.name,
        started_at: Some(step.started_at),
        completed_at: step.completed_at,
        cached: step.cached,
        error: step.error,
        saved: step.saved,
        log,
        connections: connections.into_iter().map(connection_view).collect(),
    }
}

async fn log_view(
    api: &Api,
    build: &Build,
    step: &Step,
    log_path: impl Fn(u64) -> String,
) -> Result<LogView, RecordsError> {
    let mut view = LogView { full: Some(log_path(u64::from(step.ordinal))), ..LogView::default() };
    // Why a step failed, or what it does now, is at the end of its log; of others the beginning will do.
    let to_the_end = step.error.is_some() || step.completed_at.is_none();
    let size = if to_the_end { Some(LOG_PAGE) } else { i32::try_from(MAX_LOG_LINES).ok() };
    let mut token: Option<String> = None;
    for _ in 0..MAX_LOG_PAGES {
        let request = PageRequest { size, token: token.as_deref() };
        let Some(found) = api.records.logs(&build.id, &step.digest, request).await? else { break };
        for line in found.items {
            view.push_last(LogLine { at: Some(line.at), message: line.message });
        }
        token = found.next;
        if token.is_none() || !to_the_end {
            break;
        }
    }
    view.more = token.is_some();
    Ok(view)
}

pub(super) async fn page(
    State(api): Shared,
    visitor: Visitor,
    Path((project, build)): Path<(String, String)>,
    Query(query): Query<RefreshQuery>,
) -> Answer {
    let (viewer, project, build) = member(&api, &visitor, &project, &build).await?;
    let log_path = |ordinal| cofferdam_pages::step_log_path(&project.id, &build.id, ordinal);
    let audience = Audience::Member(viewer.clone());
    let html = page_of(&api, audience, &project, &build, refreshes(&query), log_path).await;
    let html = html.map_err(|error| Refused::failed(&viewer, &error))?;
    Ok(page_answer(html))
}

pub(super) async fn log(
    State(api): Shared,
    visitor: Visitor,
    Path((project, build, ordinal)): Path<(String, String, u32)>,
) -> Answer {
    let (viewer, _, build) = member(&api, &visitor, &project, &build).await?;
    whole_log(&api, &viewer, &visitor, &build, ordinal).await
}

pub(super) async fn shared(
    State(api): Shared,
    visitor: Visitor,
    Path(secret): Path<String>,
    Query(query): Query<RefreshQuery>,
) -> Answer {
    let (project, build) = by_secret(&api, &visitor, &secret).await?;
    let log_path = |ordinal| cofferdam_pages::shared_log_path(&secret, ordinal);
    let html = page_of(&api, Audience::Shared, &project, &build, refreshes(&query), log_path).await;
    let html = html.map_err(|error| Refused::failed(&Viewer::SignedOut, &error))?;
    Ok(page_answer(html))
}

pub(super) async fn shared_log(
    State(api): Shared,
    visitor: Visitor,
    Path((secret, ordinal)): Path<(String, u32)>,
) -> Answer {
    let (_, build) = by_secret(&api, &visitor, &secret).await?;
    whole_log(&api, &Viewer::SignedOut, &visitor, &build, ordinal).await
}

fn page_answer(html: String) -> Response {
    super::page(StatusCode::OK, html)
}

fn refreshes(query: &RefreshQuery) -> bool {
    query.refresh.as_deref() != Some(cofferdam_pages::REFRESH_OFF)
}

async fn member(
    api: &Api,
    visitor: &Visitor,
    project: &str,
    build: &str,
) -> Result<(Viewer, Project, Build), Refused> {
    let (grant, viewer) = visitor.authorize(api, Action::ReadBuild, Resource::Build(build)).await?;
    match (grant.project, grant.build) {
        (Some(found), Some(build)) if found.id == project => Ok((viewer, found, build)),
        _ => Err(Refused::missing(&viewer, &visitor.path)),
    }
}

/// The build that a share URL opens. Who has the URL needs no token, and no token opens more than the URL does.
async fn by_secret(
    api: &Api,
    visitor: &Visitor,
    secret: &str,
) -> Result<(Project, Build), Refused> {
    let viewer = Viewer::SignedOut;
    let build = api.access.shared(secret).await;
    let build = build.map_err(|denied| visitor.refused(&viewer, &denied))?;
    let project = api.records.project(&build.project).await;
    let project = project.map_err(|error| Refused::failed(&viewer, &error))?;
    let project = project.ok_or_else(|| Refused::missing(&viewer, &visitor.path))?;
    Ok((project, build))
}

/// A step's whole log as text, sent as it is read.
async fn whole_log(
    api: &Api,
    viewer: &Viewer,
    visitor: &Visitor,
    build: &Build,
    ordinal: u32,
) -> Answer {
    let step = api.records.step(&build.id, ordinal).await;
    let step = step.map_err(|error| Refused::failed(viewer, &error))?;
    let step = step.ok_or_else(|| Refused::missing(viewer, &visitor.path))?;
    let state = Some((api.records.clone(), build.id.clone(), step.digest, None::<String>));
    let lines = futures::stream::unfold(state, |state| async {
        let (records, build, digest, token) = state?;
        let request = PageRequest { size: Some(LOG_PAGE), token: token.as_deref() };
        let page = match records.logs(&build, &digest, request).await {
            Ok(page) => page?,
            Err(error) => return Some((Err(error), None)),
        };
        let mut text = String::new();
        for line in page.items {
            text.push_str(line.message.trim_end_matches('\n'));
            text.push('\n');
        }
        let next = page.next.map(|next| (records, build, digest, Some(next)));
        Some((Ok(Bytes::from(text)), next))
    });
    Ok((text_headers(), Body::from_stream(lines)).into_response())
}
