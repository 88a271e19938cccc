//! Exporters: what becomes of a build's result.
//!
//! One module per kind: `image` (registry), `oci` and `docker` (archive or the client's content
//! store), `tar` and `local` (plain files). Each gets finished trees and metadata and reports on
//! a vertex of its own. Exporting is the builder's own code: credentials are asked of the
//! client's session when a registry wants them, and nothing a step could see ever holds one.

mod annotations;
mod archive;
mod attested;
mod attributes;
mod beside;
pub(crate) mod blocks;
mod files;
mod image;
pub(crate) mod layers;
mod push;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_image::Platform;
use cofferdam_solver::{Status, VertexLog};

use self::annotations::Annotations;
pub(crate) use self::attributes::{Attributes, Kind, compression, flag};
pub(crate) use self::push::push_blobs_of;
use crate::attest::Ready;
use crate::context::Context;
use crate::failure::Failure;
use crate::history::Recording;
use crate::pieces::Pieces;
use crate::snapshot::Snapshot;

/// Finished trees with what the frontend says about them.
#[derive(Clone, Default)]
pub(crate) struct Output {
    /// The trees.
    pub(crate) refs: Refs,
    /// Metadata of the result.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    /// What is stated about it, by platform.
    pub(crate) attestations: BTreeMap<String, Vec<Ready>>,
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
    /// Platform id as metadata keys have it.
    pub(crate) id: String,
    /// The platform.
    pub(crate) platform: Platform,
    /// The files.
    pub(crate) tree: Pieces,
    /// The same, as the solver gave it; `None` is scratch.
    pub(crate) snapshot: Option<Snapshot>,
    /// The image config, when the frontend made one.
    pub(crate) config: Option<Vec<u8>>,
    /// What is stated about it.
    pub(crate) attestations: Vec<Ready>,
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
    /// The build's record.
    pub(crate) recording: Recording,
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
        let mut output = output.clone();
        output.metadata.extend(self.attributes.metadata.clone());
        let output = &output;
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

#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PlatformList {
    #[serde(default)]
    platforms: Vec<PlatformEntry>,
}

#[derive(serde::Deserialize)]
struct PlatformEntry {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "Platform", default)]
    platform: Platform,
}

/// The parts of an output, in the order the frontend gives platforms.
async fn parts(output: &Output) -> Result<Vec<Part>, Failure> {
    let entries = entries(output)?;
    let snapshots: Vec<Option<Snapshot>> = match &output.refs {
        Refs::Single(_) if entries.len() > 1 => {
            return Err(Failure::invalid(
                "cannot export multiple platforms without multi-platform enabled",
            ));
        }
        Refs::Single(snapshot) => vec![snapshot.clone()],
        Refs::Map(map) => entries
            .iter()
            .map(|(id, _)| {
                let found = map.iter().find(|(known, _)| known == id);
                let missing = || Failure::invalid(format!("failed to find ref for ID {id}"));
                found.map(|(_, snapshot)| snapshot.clone()).ok_or_else(missing)
            })
            .collect::<Result<_, _>>()?,
    };
    let mut parts = Vec::with_capacity(entries.len());
    for ((id, platform), snapshot) in entries.into_iter().zip(snapshots) {
        let own = output.metadata.get(&format!("{CONFIG_KEY}/{id}"));
        let config = own.or_else(|| output.metadata.get(CONFIG_KEY)).cloned();
        let tree = match &snapshot {
            Some(snapshot) => snapshot.pieces().await?,
            None => Pieces::default(),
        };
        let attestations = output.attestations.get(&id).cloned().unwrap_or_default();
        parts.push(Part { id, platform, tree, snapshot, config, attestations });
    }
    Ok(parts)
}

/// Ids and platforms of an output.
pub(crate) fn entries(output: &Output) -> Result<Vec<(String, Platform)>, Failure> {
    let Some(bytes) = output.metadata.get(PLATFORMS_KEY) else {
        if matches!(&output.refs, Refs::Map(map) if !map.is_empty()) {
            return Err(Failure::invalid(
                "unable to export multiple refs, missing platforms mapping",
            ));
        }
        let platform = platform_of_config(output)?;
        return Ok(vec![(platform.to_string(), platform)]);
    };
    let list: PlatformList = match bytes.is_empty() {
        true => PlatformList { platforms: Vec::new() },
        false => serde_json::from_slice::<Option<PlatformList>>(bytes)
            .map_err(|error| {
                Failure::invalid(format!("failed to parse platforms of the result: {error}"))
            })?
            .unwrap_or_default(),
    };
    if list.platforms.is_empty() {
        return Err(Failure::invalid("invalid empty platforms index for exporter"));
    }
    let checked = list.platforms.into_iter().map(|entry| {
        if entry.id.is_empty() {
            return Err(Failure::invalid("invalid empty platform key for exporter"));
        }
        let platform = entry.platform;
        if platform.os.is_empty() || platform.architecture.is_empty() {
            let PlatformName(name) = PlatformName::of(&platform);
            return Err(Failure::invalid(format!("invalid platform value {name} for exporter")));
        }
        Ok((entry.id, platform.normalized()))
    });
    checked.collect()
}

/// A platform with all of its fields, for messages.
struct PlatformName(String);

impl PlatformName {
    fn of(platform: &Platform) -> Self {
        let Platform { architecture, os, os_version, os_features, variant } = platform;
        Self(format!("{{{architecture} {os} {os_version} {os_features:?} {variant}}}"))
    }
}

/// The platform that a result without a list has: what its config says, else this builder's.
fn platform_of_config(output: &Output) -> Result<Platform, Failure> {
    let Some(config) = output.metadata.get(CONFIG_KEY) else { return Ok(Platform::host()) };
    let config: Option<Platform> = serde_json::from_slice(config)
        .map_err(|error| Failure::invalid(format!("invalid image config: {error}")))?;
    let platform = config.unwrap_or_default();
    if platform.os.is_empty() != platform.architecture.is_empty() {
        return Err(Failure::invalid(
            "invalid image config: os and architecture must be specified together",
        ));
    }
    if platform.os.is_empty() { Ok(Platform::host()) } else { Ok(platform.normalized()) }
}
