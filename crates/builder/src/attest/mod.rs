//! Attestations about results: what frontends state, bills of materials that scanners make, and
//! provenance that the builder itself writes.
//!
//! A frontend's attestation is a promise (a graph) until it is solved; exporters get them ready to
//! be read. Whatever was written in a sandbox is bounded before it is parsed, and only the builder
//! states where something comes from.

mod sbom;
mod spdx;
mod statements;
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use cofferdam_image::Platform;
use cofferdam_provenance::{Capture, Mode, PREDICATE_SPDX, ProvenanceOptions, Requested, Subject};
use cofferdam_wire::moby::buildkit::v1::SolveRequest;
use serde_json::Value;

pub(crate) use self::sbom::scans;
pub(crate) use self::spdx::add_layers;
pub(crate) use self::statements::{Budget, statements};
pub(crate) use self::wire::{from_wire, to_wire};
use crate::export::{Output, entries};
use crate::failure::Failure;
use crate::gateway::bridge::{Answer, Bridge, Reference};
use crate::history::IN_TOTO;
use crate::provenance::{Creator, gather};
use crate::snapshot::Snapshot;

/// Why an attestation was made.
const REASON: &str = "reason";
/// Name of the scan of the result itself among those of a bundle.
pub(crate) const SBOM_CORE: &str = "sbom-core";
/// Says that an attestation belongs into images only.
const INLINE_ONLY: &str = "inline-only";

/// What somebody states about a result; `C` is where it is found.
#[derive(Clone)]
pub(crate) struct Attestation<C> {
    /// A directory of statements, not one predicate.
    pub(crate) bundle: bool,
    /// What exporters are told of it.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    /// The file or directory.
    pub(crate) path: String,
    /// What is stated.
    pub(crate) predicate_type: String,
    /// What it is about; nothing stands for the result.
    pub(crate) subjects: Vec<About>,
    /// Where it is found.
    pub(crate) content: C,
}

/// What an attestation is about.
#[derive(Clone)]
pub(crate) enum About {
    /// The result, also under this name unless that is empty.
    Result(String),
    /// Something else.
    Other(Subject),
}

/// An attestation in a graph.
pub(crate) type Promised = Attestation<Option<Arc<Reference>>>;
/// An attestation that can be read.
pub(crate) type Ready = Attestation<Content>;

/// Where an attestation is found.
#[derive(Clone)]
pub(crate) enum Content {
    /// Nowhere.
    None,
    /// Among these files.
    Files(Snapshot),
    /// Written when it is asked for.
    Provenance(Arc<Creator>),
    /// Here.
    Predicate(Arc<Value>),
}

impl<C> Attestation<C> {
    /// The same with its content elsewhere.
    pub(crate) fn with<D>(self, content: D) -> Attestation<D> {
        Attestation {
            bundle: self.bundle,
            metadata: self.metadata,
            path: self.path,
            predicate_type: self.predicate_type,
            subjects: self.subjects,
            content,
        }
    }

    /// Whether it belongs into images only.
    pub(crate) fn is_inline_only(&self) -> bool {
        self.metadata.get(INLINE_ONLY).is_some_and(|value| value == b"true")
    }
}

/// What a request wants to be attested.
pub(crate) fn requested(request: &SolveRequest) -> Result<Requested, Failure> {
    let attrs = request.FrontendAttrs.iter();
    let attrs = attrs.map(|(key, value)| (key.clone(), value.clone())).collect();
    Requested::parse(&attrs).map_err(|error| Failure::invalid(error.to_string()))
}

/// What provenance is written with, whatever it is about.
pub(crate) struct Attester<'a> {
    /// The build.
    pub(crate) bridge: &'a Arc<Bridge>,
    /// What its frontend answered.
    pub(crate) answer: &'a Answer,
    /// Newest behaviour of builders that was asked for.
    compatibility: i64,
    /// What each platform's result was made of; gathered once, so that the record and the image say the same.
    gathered: OnceLock<Vec<Gathered>>,
}

/// What one platform's result was made of.
struct Gathered {
    id: String,
    reference: Arc<Reference>,
    capture: Capture,
}

impl<'a> Attester<'a> {
    /// For the results of a build.
    pub(crate) const fn new(
        bridge: &'a Arc<Bridge>,
        answer: &'a Answer,
        compatibility: i64,
    ) -> Self {
        Self { bridge, answer, compatibility, gathered: OnceLock::new() }
    }
}

impl Attester<'_> {
    /// Adds what was requested to `output`.
    pub(crate) async fn attest(
        &self,
        requested: &Requested,
        request: &SolveRequest,
        output: &mut Output,
    ) -> Result<(), Failure> {
        if let Some(sbom) = &requested.sbom
            && !has_sbom(output)
        {
            let no_cache = request.FrontendAttrs.get("no-cache").is_some_and(String::is_empty);
            self.scan(sbom, !no_cache, output).await?;
        }
        if let Some(options) = &requested.provenance {
            for (id, creator) in self.creators(options, output)? {
                let attestation = provenance(options, Arc::new(creator));
                output.attestations.entry(id).or_default().push(attestation);
            }
        }
        Ok(())
    }

    /// The provenance of each platform's result.
    fn creators(
        &self,
        options: &ProvenanceOptions,
        output: &Output,
    ) -> Result<Vec<(String, Creator)>, Failure> {
        let gathered = match self.gathered.get() {
            Some(gathered) => gathered,
            None => {
                let gathered = self.gather(output)?;
                self.gathered.get_or_init(|| gathered)
            }
        };
        let create = |Gathered { id, reference, capture }: &Gathered| {
            let creator =
                Creator::new(self.bridge, reference, capture, options, self.compatibility);
            creator.map(|creator| (id.clone(), creator))
        };
        gathered.iter().map(create).collect()
    }

    fn gather(&self, output: &Output) -> Result<Vec<Gathered>, Failure> {
        let platforms = entries(output)?;
        let all: Vec<Platform> = platforms.iter().map(|(_, platform)| platform.clone()).collect();
        let results: Vec<Arc<Reference>> = self.answer.references().collect();
        let mut gathered = Vec::with_capacity(platforms.len());
        for (id, platform) in platforms {
            let Some(reference) = self.answer.reference_for(&id) else { continue };
            let platform = self.answer.is_map().then_some(&platform);
            if let Some(capture) = gather(self.bridge, &reference, &results, &all, platform) {
                gathered.push(Gathered { id, reference, capture });
            }
        }
        Ok(gathered)
    }

    /// Puts the whole provenance into the build's record, whoever asked for one.
    pub(crate) async fn record(
        &self,
        requested: &Requested,
        output: &Output,
    ) -> Result<(), Failure> {
        let recording = self.bridge.context.recording_of(self.bridge.job.id());
        if !recording.is_on() {
            return Ok(());
        }
        let builder_id = requested.provenance.as_ref().map(|options| options.builder_id.clone());
        let options = ProvenanceOptions {
            mode: Mode::Max,
            builder_id: builder_id.unwrap_or_default(),
            ..ProvenanceOptions::default()
        };
        for (id, creator) in self.creators(&options, output)? {
            let predicate = creator.predicate().await?;
            let bytes = serde_json::to_vec_pretty(&predicate).map_err(Failure::internal)?;
            let descriptor = recording.keep(IN_TOTO, bytes).await?;
            let id = if self.answer.is_map() { id.as_str() } else { "" };
            recording.attestation(id, creator.predicate_type(), &descriptor);
        }
        Ok(())
    }
}

fn has_sbom(output: &Output) -> bool {
    output.attestations.values().flatten().any(|known| known.predicate_type == PREDICATE_SPDX)
}

fn provenance(options: &ProvenanceOptions, creator: Arc<Creator>) -> Ready {
    let inline_only = options.inline_only.to_string();
    Attestation {
        bundle: false,
        metadata: BTreeMap::from([
            (REASON.to_owned(), b"provenance".to_vec()),
            (INLINE_ONLY.to_owned(), inline_only.into_bytes()),
        ]),
        path: options.filename.clone(),
        predicate_type: creator.predicate_type().to_owned(),
        subjects: Vec::new(),
        content: Content::Provenance(creator),
    }
}
