//! Exporters: what becomes of a build's result.
//!
//! One module per kind: `image` (registry), `oci` and `docker` (archive or the client's content
//! store), `tar` and `local` (plain files). Each gets finished trees and metadata and reports on
//! a vertex of its own. Exporting is the builder's own code: credentials are asked of the
//! client's session when a registry wants them, and nothing a step could see ever holds one.

mod archive;
mod attributes;
mod files;
mod image;
pub(crate) mod layers;
mod push;

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_image::Platform;
use cofferdam_solver::{Status, VertexLog};

pub(crate) use self::attributes::{Attributes, Kind};
pub(crate) use self::push::push_blobs_of;
use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::{Snapshot, Tree};

/// Finished trees with what the frontend says about them.
#[derive(Clone, Default)]
pub(crate) struct Output {
    /// The trees.
    pub(crate) refs: Refs,
    /// Metadata of the result.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
}

/// One tree or one per platform.
#[derive(Clone)]
pub(crate) enum Refs {
    /// A result that is one tree; `None` is scratch.
    Single(Option<Snapshot>),
    /// A result with a tree for each platform id.
    Map(Vec<(String, Option<Snapshot>)>),
}

impl Default for Refs {
    fn default() -> Self {
        Self::Single(None)
    }
}

/// One platform's part of an output.
pub(crate) struct Part {
    /// Platform id as metadata keys have it; empty for a single result.
    pub(crate) id: String,
    /// The platform.
    pub(crate) platform: Platform,
    /// The files.
    pub(crate) tree: Tree,
    /// The image config, when the frontend made one.
    pub(crate) config: Option<Vec<u8>>,
}

/// What every exporter works with.
pub(crate) struct Export {
    /// The builder's parts.
    pub(crate) context: Arc<Context>,
    /// Sessions of the client.
    pub(crate) sessions: Vec<String>,
    /// Which of the request's exporters this is.
    pub(crate) index: usize,
    /// What the client asked for.
    pub(crate) attributes: Attributes,
    /// The exporter's vertex.
    pub(crate) log: VertexLog,
}

/// What an exporter tells the client.
pub(crate) type Response = BTreeMap<String, String>;

pub(crate) const CONFIG_KEY: &str = "containerimage.config";
const PLATFORMS_KEY: &str = "refs.platforms";

/// The vertex of exporter `index` in a session.
pub(crate) fn vertex_digest(session: &str, index: usize) -> Digest {
    Digest::of(format!("{session}-export-{index}"))
}

impl Export {
    /// Runs the exporter.
    pub(crate) async fn run(&self, output: &Output) -> Result<Response, Failure> {
        self.log.start();
        let result = self.dispatch(output).await;
        match &result {
            Ok(_) => self.log.complete(),
            Err(failure) => self.log.fail(failure.message()),
        }
        result
    }

    async fn dispatch(&self, output: &Output) -> Result<Response, Failure> {
        let parts = parts(output).await?;
        match self.attributes.kind {
            Kind::Image => {
                let names = image::names(self, output).join(" ");
                let push = push::export(self, output, &parts);
                self.context.online.during(&self.log, &names, push).await
            }
            Kind::Oci | Kind::Docker => archive::export(self, output, &parts).await,
            Kind::Tar => files::export_tar(self, output, &parts).await,
            Kind::Local => files::export_local(self, output, &parts).await,
        }
    }

    /// Reports a piece of the exporter's work.
    pub(crate) async fn step<T>(
        &self,
        name: impl Into<String>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let status = Status::begin(name, "");
        self.log.status(status.clone());
        let result = work.await;
        self.log.status(status.done());
        result
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PlatformList {
    platforms: Vec<PlatformEntry>,
}

#[derive(serde::Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Platform")]
    platform: Platform,
}

/// The parts of an output, in the order the frontend gives platforms.
async fn parts(output: &Output) -> Result<Vec<Part>, Failure> {
    let listed = platforms(output)?;
    match &output.refs {
        Refs::Single(snapshot) => {
            let listed = listed.into_iter().next();
            let config = output.metadata.get(CONFIG_KEY).cloned().or_else(|| {
                let id = listed.as_ref().map(|entry| entry.id.as_str())?;
                output.metadata.get(&format!("{CONFIG_KEY}/{id}")).cloned()
            });
            let platform = listed.map_or_else(Platform::host, |entry| entry.platform);
            let tree = tree(snapshot.as_ref()).await?;
            Ok(vec![Part { id: String::new(), platform, tree, config }])
        }
        Refs::Map(map) => {
            if listed.is_empty() && !map.is_empty() {
                return Err(Failure::invalid(
                    "unable to export multiple refs, missing platforms mapping",
                ));
            }
            let mut parts = Vec::with_capacity(map.len());
            for entry in listed {
                let snapshot = map
                    .iter()
                    .find(|(id, _)| *id == entry.id)
                    .map(|(_, snapshot)| snapshot)
                    .ok_or_else(|| Failure::invalid(format!("no ref for platform {}", entry.id)))?;
                let config = output.metadata.get(&format!("{CONFIG_KEY}/{}", entry.id)).cloned();
                let tree = tree(snapshot.as_ref()).await?;
                parts.push(Part { id: entry.id, platform: entry.platform, tree, config });
            }
            Ok(parts)
        }
    }
}

async fn tree(snapshot: Option<&Snapshot>) -> Result<Tree, Failure> {
    match snapshot {
        Some(snapshot) => snapshot.tree().await,
        None => Ok(Tree::scratch()),
    }
}

fn platforms(output: &Output) -> Result<Vec<PlatformEntry>, Failure> {
    let Some(bytes) = output.metadata.get(PLATFORMS_KEY) else { return Ok(Vec::new()) };
    let list: PlatformList = serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("failed to parse {PLATFORMS_KEY}: {error}")))?;
    if list.platforms.is_empty() {
        return Err(Failure::invalid("invalid empty platforms index for exporter"));
    }
    Ok(list.platforms)
}
