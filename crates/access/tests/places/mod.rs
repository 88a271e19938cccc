//! What the tests share: records in a directory of their own, tokens of all kinds, and an issuer of JWTs on loopback.

#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod issuer;
pub(crate) mod jobs;

use chrono::{DateTime, Utc};
use cofferdam_access::{TokenKind, mint};
use cofferdam_records::{
    Build, CachePolicy, NewBuild, NewProject, NewToken, Project, Records, Token,
};

/// Records that go with the value.
pub(crate) struct Place {
    pub(crate) records: Records,
    _directory: tempfile::TempDir,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        Self { records, _directory: directory }
    }

    pub(crate) async fn organization(&self, name: &str) -> String {
        self.records.create_organization(name).await.unwrap().id
    }

    pub(crate) async fn project(&self, organization: &str, name: &str) -> Project {
        let new = NewProject {
            organization: organization.to_owned(),
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
            organization: project.organization.clone(),
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        self.records.create_build(new).await.unwrap()
    }

    /// A token of an organization.
    pub(crate) async fn organization_token(&self, kind: TokenKind, organization: &str) -> Made {
        self.token(kind, organization, None, None, None, None).await
    }

    /// A token of a project.
    pub(crate) async fn project_token(&self, kind: TokenKind, project: &Project) -> Made {
        self.token(kind, &project.organization, Some(project), None, None, None).await
    }

    /// A token of a build.
    pub(crate) async fn build_token(&self, project: &Project, build: &Build) -> Made {
        let (kind, organization) = (TokenKind::Build, &project.organization);
        self.token(kind, organization, Some(project), Some(build), None, None).await
    }

    pub(crate) async fn token(
        &self,
        kind: TokenKind,
        organization: &str,
        project: Option<&Project>,
        build: Option<&Build>,
        parent: Option<&Token>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Made {
        let (secret, hash) = mint(kind);
        let new = NewToken {
            kind,
            organization: organization.to_owned(),
            project: project.map(|project| project.id.clone()),
            build: build.map(|build| build.id.clone()),
            parent: parent.map(|parent| parent.id.clone()),
            description: "test".to_owned(),
            hash,
            expires_at,
        };
        Made { secret, token: self.records.create_token(new).await.unwrap() }
    }
}

/// A token and its secret.
pub(crate) struct Made {
    pub(crate) secret: String,
    pub(crate) token: Token,
}
