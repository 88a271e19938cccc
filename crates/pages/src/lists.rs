//! The list of projects and the list of a project's builds.
//!
//! Page tokens go into links and are never looked into.

use askama::Template;
use chrono::{DateTime, Utc};

use crate::build::{BuildView, Summary};
use crate::format;
use crate::frame::{Frame, ProjectRef, Viewer, document};
use crate::paths;
use crate::text::{Markup, plain, shown};

#[derive(Template)]
#[template(path = "projects.html")]
struct ProjectsTemplate {
    frame: Frame,
    rows: Vec<ProjectRow>,
    links: Links,
}

struct ProjectRow {
    path: String,
    name: Markup,
    id: Markup,
    region: Markup,
    created: String,
    created_machine: String,
    created_ago: String,
}

#[derive(Template)]
#[template(path = "builds.html")]
struct BuildsTemplate {
    frame: Frame,
    project: Markup,
    project_id: Markup,
    projects: &'static str,
    rows: Vec<BuildRow>,
    links: Links,
}

struct BuildRow {
    path: String,
    build: Summary,
}

/// The links below a list.
struct Links {
    first: Option<String>,
    next: Option<String>,
}

impl Pager {
    fn links(&self, path: &str) -> Links {
        Links {
            first: self.continued.then(|| path.to_owned()),
            next: self.next.as_deref().map(|token| paths::with_page(path, token)),
        }
    }
}

/// Where a page stands in its list. Lists only go forward; the way back is the browser's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pager {
    /// Whether this page was reached with a page token: a link to the beginning is offered.
    pub continued: bool,
    /// The token of the next page, if there is one.
    pub next: Option<String>,
}

/// A project in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectView {
    /// Its id and name.
    pub project: ProjectRef,
    /// The region it was created for.
    pub region: String,
    /// When it was created.
    pub created_at: DateTime<Utc>,
}

/// The projects of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectsPage {
    /// Who looks at the page.
    pub viewer: Viewer,
    /// The projects of this page, in the order they are shown.
    pub projects: Vec<ProjectView>,
    /// The pages before and after.
    pub pager: Pager,
    /// The time of the request, for ages.
    pub now: DateTime<Utc>,
}

impl ProjectsPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        let row = |view: &ProjectView| ProjectRow {
            path: paths::project_path(&view.project.id),
            name: shown(&view.project.name),
            id: shown(&view.project.id),
            region: shown(&view.region),
            created: format::moment(view.created_at),
            created_machine: format::machine(view.created_at),
            created_ago: format::ago(view.created_at, self.now),
        };
        document(&ProjectsTemplate {
            frame: Frame::new("Projects", &self.viewer),
            rows: self.projects.iter().map(row).collect(),
            links: self.pager.links(paths::PROJECTS),
        })
    }
}

/// The builds of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildsPage {
    /// Who looks at the page.
    pub viewer: Viewer,
    /// The project.
    pub project: ProjectRef,
    /// The builds of this page, in the order they are shown.
    pub builds: Vec<BuildView>,
    /// The pages before and after.
    pub pager: Pager,
    /// The time of the request, for ages and the durations of running builds.
    pub now: DateTime<Utc>,
}

impl BuildsPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        let path = paths::project_path(&self.project.id);
        let row = |build: &BuildView| BuildRow {
            path: paths::build_path(&self.project.id, &build.id),
            build: Summary::new(build, self.now),
        };
        document(&BuildsTemplate {
            frame: Frame::new(&plain(&self.project.name), &self.viewer),
            project: shown(&self.project.name),
            project_id: shown(&self.project.id),
            projects: paths::PROJECTS,
            rows: self.builds.iter().map(row).collect(),
            links: self.pager.links(&path),
        })
    }
}
