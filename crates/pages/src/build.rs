//! The page of a build, for its project's people and for those with its share URL.
//!
//! The shared page differs by what it leaves out: navigation, and every id or command that leads
//! further than this one build.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::frame::{ProjectRef, Viewer};
use crate::network::ConnectionView;
use crate::step::StepView;

mod layout;
mod status;
mod summary;

pub use status::Status;
pub(crate) use summary::Summary;

/// The most steps a page shows. A document of more is too slow to open.
pub const MAX_STEPS: usize = 1_000;
/// The most connections of no known step that are worth handing to a page.
pub const MAX_OTHER_CONNECTIONS: usize = 1_000;

/// A build by itself, without its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildView {
    /// Its id.
    pub id: String,
    /// How it stands.
    pub status: Status,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What was run, such as `build` or `bake`; `None`: not known.
    pub command: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it started, if it did.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended, if it did.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many steps the cache answered.
    pub cached_steps: u64,
    /// How many steps there are.
    pub total_steps: u64,
    /// The time that the cache saved.
    pub saved: Duration,
}

/// For whom a build's page is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audience {
    /// Somebody who may see the project.
    Member(Viewer),
    /// Whoever has the share URL: no navigation, no ids that lead further, and a word on it.
    Shared,
}

/// A build with its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildPage {
    /// For whom the page is.
    pub audience: Audience,
    /// The project of the build.
    pub project: ProjectRef,
    /// The build.
    pub build: BuildView,
    /// Its steps in the order in which they appeared. At most [`MAX_STEPS`] are shown.
    pub steps: Vec<StepView>,
    /// Whether there are steps after the last of `steps`.
    pub more_steps: bool,
    /// Connections of no step that is in `steps`.
    pub connections: Vec<ConnectionView>,
    /// Whether the page of a running build loads itself again every few seconds; `false` where
    /// the query says so ([`crate::REFRESH_FIELD`]).
    pub refresh: bool,
    /// The time of the request: where the bars of running steps end.
    pub now: DateTime<Utc>,
}

#[cfg(test)]
mod tests;
