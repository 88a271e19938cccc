//! The lists: an organization's projects, a project's builds.

use axum::extract::{Path, Query, State};
use chrono::Utc;
use cofferdam_access::{Action, Resource};
use cofferdam_pages::{BuildsPage, Pager, ProjectView, ProjectsPage};
use cofferdam_records::PageRequest;
use http::StatusCode;
use serde::Deserialize;

use super::session::Visitor;
use super::views::{build_view, project_ref};
use super::{Answer, Refused, Shared, page};

#[derive(Deserialize)]
pub(super) struct PageQuery {
    page: Option<String>,
}

pub(super) async fn projects(
    State(api): Shared,
    visitor: Visitor,
    Query(query): Query<PageQuery>,
) -> Answer {
    let resource = Resource::Organization(None);
    let (grant, viewer) = visitor.authorize(&api, Action::ListProjects, resource).await?;
    let request = PageRequest { size: None, token: query.page.as_deref() };
    let found = api.records.projects(&grant.organization, None, request).await;
    let found = found.map_err(|error| Refused::failed(&viewer, &error))?;
    let projects = found.items.iter().map(|project| ProjectView {
        project: project_ref(project),
        region: project.region.clone(),
        created_at: project.created_at,
    });
    let html = ProjectsPage {
        viewer,
        projects: projects.collect(),
        pager: Pager { continued: query.page.is_some(), next: found.next },
        now: Utc::now(),
    };
    Ok(page(StatusCode::OK, html.render()))
}

pub(super) async fn builds(
    State(api): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Answer {
    let resource = Resource::Project(&id);
    let (grant, viewer) = visitor.authorize(&api, Action::ListBuilds, resource).await?;
    let project = grant.project.ok_or_else(|| Refused::missing(&viewer, &visitor.path))?;
    let request = PageRequest { size: None, token: query.page.as_deref() };
    let found = api.records.builds(&id, request).await;
    let found = found.map_err(|error| Refused::failed(&viewer, &error))?;
    let html = BuildsPage {
        viewer,
        project: project_ref(&project),
        builds: found.items.iter().map(build_view).collect(),
        pager: Pager { continued: query.page.is_some(), next: found.next },
        now: Utc::now(),
    };
    Ok(page(StatusCode::OK, html.render()))
}
