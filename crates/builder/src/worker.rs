//! What this builder says about itself: worker record, platforms, version.

use std::collections::BTreeMap;
use std::sync::Arc;

use buffa::MessageField;
use cofferdam_graph::{default_platform, normalize_platform, parse_platform};
use cofferdam_store::{Document, Store};
use cofferdam_wire::moby::buildkit::v1::types::{BuildkitVersion, GCPolicy, WorkerRecord};
use cofferdam_wire::pb;

use crate::collect;
use crate::config::Config;
use crate::failure::Failure;

const LABEL_PREFIX: &str = "org.mobyproject.buildkit.worker.";
/// Names the wall around this builder's steps.
const ISOLATION_LABEL: &str = "cofferdam.isolation";
/// The BuildKit release whose protocol and features clients may expect.
pub(crate) const COMPATIBLE_VERSION: &str = "v0.31.0";

/// The builder as clients list it.
#[derive(Clone)]
pub(crate) struct Worker {
    id: String,
    labels: BTreeMap<String, String>,
    /// Rules of garbage collection.
    rules: Vec<GCPolicy>,
    /// Platforms, the machine's own first.
    pub(crate) platforms: Vec<pb::Platform>,
}

impl Worker {
    /// The worker of this store; its id survives restarts. Inside a runtime.
    pub(crate) fn open(store: &Arc<Store>, config: &Config) -> Result<Self, Failure> {
        let known = store.document("worker", "id").map_err(Failure::store)?;
        let id = match known.and_then(|document| String::from_utf8(document.bytes).ok()) {
            Some(id) => id,
            None => {
                let id = random_id()?;
                remember(Arc::clone(store), &id);
                id
            }
        };
        let mut labels: BTreeMap<String, String> = [
            ("executor", "cofferdam"),
            ("snapshotter", "overlayfs"),
            ("network", "gate"),
            ("oci.process-mode", "sandbox"),
            ("selinux.enabled", "false"),
        ]
        .into_iter()
        .map(|(key, value)| (format!("{LABEL_PREFIX}{key}"), value.to_owned()))
        .collect();
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        labels.insert(format!("{LABEL_PREFIX}hostname"), hostname);
        labels.extend(config.worker.oci.labels.clone());
        // Not for configuration to say: clients rely on it.
        labels.insert(ISOLATION_LABEL.to_owned(), config.isolation.level.name().to_owned());
        let mut platforms = vec![default_platform()];
        for text in &config.worker.oci.platforms {
            let platform = parse_platform(text).map_err(Failure::of)?;
            let platform = normalize_platform(&platform);
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        let disk = collect::disk_size(store);
        let rules =
            collect::rules(config).iter().map(|rule| collect::to_wire(rule, disk)).collect();
        Ok(Self { id, labels, rules, platforms })
    }

    /// The record for `ListWorkers` and `Ping`.
    pub(crate) fn record(&self) -> WorkerRecord {
        WorkerRecord {
            ID: self.id.clone(),
            Labels: self.labels.clone().into_iter().collect(),
            platforms: self.platforms.clone(),
            GCPolicy: self.rules.clone(),
            BuildkitVersion: MessageField::some(version()),
            ..WorkerRecord::default()
        }
    }

    /// Whether any of `filters` (`label==value` or a bare id) matches; none match everything.
    pub(crate) fn matches(&self, filters: &[String]) -> bool {
        filters.is_empty()
            || filters.iter().any(|filter| {
                filter.split(',').all(|term| match term.split_once("==") {
                    Some((key, value)) => {
                        let key = key.trim_start_matches("labels.").trim_matches('"');
                        let value = value.trim_matches('"');
                        (key == "id" && value == self.id)
                            || self.labels.get(key).is_some_and(|label| label == value)
                    }
                    None => self.id.starts_with(term),
                })
            })
    }
}

/// The edition of the Dockerfile language that the built-in frontend has, in BuildKit's numbering.
pub(crate) const DOCKERFILE_VERSION: &str = "1.26.0";

/// The version clients are told.
pub(crate) fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "cofferdam".to_owned(),
        version: COMPATIBLE_VERSION.to_owned(),
        revision: env!("CARGO_PKG_VERSION").to_owned(),
        dockerfileVersion: DOCKERFILE_VERSION.to_owned(),
        ..BuildkitVersion::default()
    }
}

/// Writes a new id down. Nobody waits for that: should it be lost with the machine's power, the worker has another one the next time.
fn remember(store: Arc<Store>, id: &str) {
    let document = Document { key: "id".into(), bytes: id.into(), blobs: Vec::new() };
    tokio::task::spawn_blocking(move || {
        if let Err(error) = store.put_document("worker", &document) {
            tracing::warn!(error = &error as &dyn std::error::Error, "the worker's id is not kept");
        }
    });
}

/// Random text for ids.
pub(crate) fn random_id() -> Result<String, Failure> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(Failure::of)?;
    Ok(hex::encode(bytes))
}
