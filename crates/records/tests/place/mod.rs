//! What the tests of records share: records in a directory of their own, with one organization, and what builds are made of.

use std::time::Duration;

use chrono::Utc;
use cofferdam_records::{
    Build, CachePolicy, LogEntry, NewBuild, NewProject, PageRequest, Project, Records, StepUpdate,
};
use tempfile::TempDir;

pub(crate) const ALL: PageRequest<'static> = PageRequest { size: None, token: None };

/// Records that go with the value.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) records: Records,
    pub(crate) organization: String,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).await.unwrap();
        let organization = records.create_organization("acme").await.unwrap().id;
        Self { dir, records, organization }
    }

    pub(crate) async fn project(&self, name: &str) -> Project {
        let new = NewProject {
            organization: self.organization.clone(),
            name: name.to_owned(),
            region: "us-east-1".to_owned(),
            cache: CachePolicy { keep_gb: 50, keep_days: 14 },
            hardware: 1,
        };
        self.records.create_project(new).await.unwrap()
    }

    pub(crate) async fn build(&self, project: &Project) -> Build {
        let new = NewBuild {
            id: None,
            project: project.id.clone(),
            organization: self.organization.clone(),
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        self.records.create_build(new).await.unwrap()
    }
}

pub(crate) fn step(digest: &str, completed: bool) -> StepUpdate {
    StepUpdate {
        digest: digest.to_owned(),
        name: format!("RUN {digest}"),
        started_at: Utc::now(),
        completed_at: completed.then(Utc::now),
        cached: false,
        error: None,
        saved: Duration::ZERO,
        inputs: vec!["sha256:in".to_owned()],
    }
}

pub(crate) fn chunk(step: &str, message: &[u8]) -> LogEntry {
    LogEntry { step: step.to_owned(), stream: 1, at: Utc::now(), message: message.to_vec() }
}
