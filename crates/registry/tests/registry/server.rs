//! A registry that listens, with two projects and tokens of several kinds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use base64::Engine as _;
use cofferdam_records::{CachePolicy, NewProject, PageRequest, Records};
use cofferdam_registry::{
    Authorize, Limits, Operation, Permit, Refusal, Registry, RegistryOptions,
};
use tokio_util::sync::CancellationToken;

use crate::fixture::Image;
use crate::http1::{self, Reply};

/// May do everything in the first project.
pub(crate) const OWNER: &str = "owner-token";
/// May pull from the first project and nothing else.
pub(crate) const READER: &str = "reader-token";
/// May pull and push, not delete, in the first project.
pub(crate) const WRITER: &str = "writer-token";
/// May do everything in the second project.
pub(crate) const STRANGER: &str = "stranger-token";

/// Tokens, what each may do, and whether it was revoked.
struct Tokens(HashMap<&'static str, (String, Vec<Operation>, CancellationToken)>);

#[async_trait]
impl Authorize for Tokens {
    async fn identify(&self, token: Option<&str>) -> Result<(), Refusal> {
        self.find(token).map(drop)
    }

    async fn authorize(
        &self,
        token: Option<&str>,
        operation: Operation,
        project: &str,
    ) -> Result<Permit, Refusal> {
        let (own, operations, revoked) = self.find(token)?;
        if own != project {
            return Err(Refusal::NotFound);
        }
        if !operations.contains(&operation) {
            return Err(Refusal::Forbidden("this takes another kind of token".to_owned()));
        }
        Ok(Permit { revoked: Some(revoked.clone()), held: None })
    }
}

impl Tokens {
    fn find(
        &self,
        token: Option<&str>,
    ) -> Result<&(String, Vec<Operation>, CancellationToken), Refusal> {
        let token = token.ok_or_else(|| Refusal::Unauthenticated("log in".to_owned()))?;
        let found = self.0.get(token).filter(|(_, _, revoked)| !revoked.is_cancelled());
        found.ok_or_else(|| Refusal::Unauthenticated("unknown token".to_owned()))
    }
}

/// Where a server has its files.
#[derive(Clone)]
pub(crate) enum Place {
    /// A directory that goes with the last server in it.
    Temporary(Arc<tempfile::TempDir>),
    /// A directory that somebody else removes.
    Kept(PathBuf),
}

impl Place {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(path) => path,
        }
    }
}

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) records: Records,
    /// The first project.
    pub(crate) project: String,
    /// The second project.
    pub(crate) other: String,
    revoked: HashMap<&'static str, CancellationToken>,
    serving: tokio::task::JoinHandle<()>,
    pub(crate) dir: Place,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::beside(Place::Temporary(Arc::new(tempfile::tempdir().unwrap())), limits).await
    }

    /// In a directory that may hold the projects of an earlier server.
    pub(crate) async fn beside(dir: Place, limits: Limits) -> Self {
        let records = Records::open(dir.path()).await.unwrap();
        let organizations = records.organizations().await.unwrap();
        let organization = match organizations.into_iter().next() {
            Some(organization) => organization.id,
            None => create(&records).await,
        };
        let page = PageRequest { size: None, token: None };
        let projects = records.projects(&organization, None, page).await.unwrap().items;
        let id =
            |name: &str| projects.iter().find(|project| project.name == name).unwrap().id.clone();
        Self::serve(dir, records, id("first"), id("second"), limits).await
    }

    async fn serve(
        dir: Place,
        records: Records,
        project: String,
        other: String,
        limits: Limits,
    ) -> Self {
        let registry = open(dir.path(), &records, limits);
        let all = vec![Operation::Pull, Operation::Push, Operation::Delete];
        let tokens: HashMap<_, _> = [
            (OWNER, &project, all.clone()),
            (READER, &project, vec![Operation::Pull]),
            (WRITER, &project, vec![Operation::Pull, Operation::Push]),
            (STRANGER, &other, all),
        ]
        .into_iter()
        .map(|(token, project, rights)| {
            (token, (project.clone(), rights, CancellationToken::new()))
        })
        .collect();
        let revoked =
            tokens.iter().map(|(token, (_, _, revoked))| (*token, revoked.clone())).collect();
        let router = registry.router(Arc::new(Tokens(tokens)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, registry, records, project, other, revoked, serving, dir }
    }

    /// Ends this server and starts another on the same files.
    pub(crate) async fn restart(self, limits: Limits) -> Self {
        let (records, dir) = (self.records.clone(), self.dir.clone());
        let (project, other) = (self.project.clone(), self.other.clone());
        drop(self);
        Self::serve(dir, records, project, other, limits).await
    }

    pub(crate) fn revoke(&self, token: &str) {
        self.revoked[token].cancel();
    }

    /// `<host>/<first project><below>`.
    pub(crate) fn name(&self, below: &str) -> String {
        format!("{}/{}{below}", self.addr, self.project)
    }

    /// A path below the first project, as its owner.
    pub(crate) async fn ask(
        &self,
        method: &str,
        below: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        self.ask_as(OWNER, method, &format!("/v2/{}{below}", self.project), headers, body).await
    }

    /// Any path, with any token.
    pub(crate) async fn ask_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let authorization = format!("Bearer {token}");
        let mut headers = headers.to_vec();
        headers.push(("authorization", &authorization));
        http1::send(self.addr, method, path, &headers, body.into()).await
    }

    /// A GET below the first project, as its owner.
    pub(crate) async fn get(&self, below: &str) -> Reply {
        self.ask("GET", below, &[], Body::empty()).await
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = crate::fixture::sha256(bytes);
        let below = format!("{repository}/blobs/uploads/?digest={digest}");
        self.ask("POST", &below, &[], bytes.to_vec()).await.expect(201);
        digest
    }

    /// Pushes an image by a tag or by its digest.
    pub(crate) async fn push(&self, repository: &str, image: &Image, reference: &str) -> String {
        self.push_blob(repository, &image.config).await;
        self.push_blob(repository, &image.layer).await;
        self.push_manifest(repository, &image.manifest, reference).await.expect(201);
        image.digest()
    }

    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        manifest: &[u8],
        reference: &str,
    ) -> Reply {
        let inside: serde_json::Value = serde_json::from_slice(manifest).unwrap();
        let media_type = inside["mediaType"].as_str().expect("a media type");
        let below = format!("{repository}/manifests/{reference}");
        self.ask("PUT", &below, &[("content-type", media_type)], manifest.to_vec()).await
    }

    /// Files below the first project's directory whose path holds `part`.
    pub(crate) fn files(&self, part: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.dir.path().join("registry").join(&self.project), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part));
        found
    }
}

/// An organization with two projects.
async fn create(records: &Records) -> String {
    let organization = records.create_organization("organization").await.unwrap().id;
    for name in ["first", "second"] {
        let project = NewProject {
            organization: organization.clone(),
            name: name.to_owned(),
            region: "eu".to_owned(),
            cache: CachePolicy { keep_gb: 50, keep_days: 14 },
            hardware: 0,
        };
        records.create_project(project).await.unwrap();
    }
    organization
}

pub(crate) fn open(dir: &Path, records: &Records, limits: Limits) -> Registry {
    let (records, registry, trash) = (records.clone(), dir.join("registry"), dir.join("trash"));
    Registry::open(RegistryOptions { records, dir: registry, trash, limits }).unwrap()
}

pub(crate) fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// The value of an `Authorization` header with a user name and a password.
pub(crate) fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}
