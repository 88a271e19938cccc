//! A provenance on its way: what is known when a build is done, and what is known when its result
//! was exported.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use cofferdam_digest::Digest;
use cofferdam_dockerfile::git_fragment;
use cofferdam_graph::Vertex;
use cofferdam_image::{Descriptor, Platform};
use cofferdam_provenance::{
    Capture, Layers, Mode, Predicate, ProvenanceOptions, Version, describe,
};
use cofferdam_solver::Job;
use cofferdam_store::Tree;
use cofferdam_wire::pb::__buffa::oneof::op::Op;
use serde_json::Value;

use crate::context::Context;
use crate::error_details;
use crate::failure::Failure;
use crate::gateway::bridge::{Bridge, Reference};
use crate::pieces::{Piece, Pieces};
use crate::runtime::OpRuntime;
use crate::snapshot::Snapshot;
use crate::source::image::platform_of;

/// The built-in frontend that says its version.
const DOCKERFILE: &str = "dockerfile.v0";

/// A provenance that is written when it is asked for.
pub(crate) struct Creator {
    context: Arc<Context>,
    job: Arc<Job<OpRuntime>>,
    predicate: Predicate,
    version: Version,
    /// Whose layers are told, by the number of their step.
    steps: Vec<Digest>,
    /// Images among the steps: nobody may have needed their files.
    images: HashMap<Digest, (Digest, Platform)>,
}

impl Creator {
    /// The provenance of `reference`, made of `capture`.
    pub(crate) fn new(
        bridge: &Bridge,
        reference: &Reference,
        capture: &Capture,
        options: &ProvenanceOptions,
        compatibility: i64,
    ) -> Result<Self, Failure> {
        let mut predicate = Predicate::new(capture, &git_fragment).map_err(Failure::of)?;
        if options.complete_materials && !predicate.is_complete() {
            return Err(error_details::incomplete_materials(&capture.sources.locals));
        }
        let (invocation, started) = bridge.asked.beginning();
        predicate.platform = Platform::host().to_string();
        predicate.builder_id.clone_from(&options.builder_id);
        predicate.metadata.invocation_id = invocation;
        predicate.metadata.started = Some(started);
        predicate.metadata.reproducible = options.reproducible;
        predicate
            .set_environment(bridge.context.config.provenance_env.clone())
            .map_err(Failure::of)?;
        let mut steps = Vec::new();
        match options.mode {
            Mode::Min => predicate.scrub(),
            Mode::Max => {
                let (config, source) = describe(&reference.definition).map_err(Failure::of)?;
                steps = config.order().to_vec();
                predicate.build_config = Some(config);
                predicate.metadata.source = source;
            }
        }
        if predicate.frontend() == DOCKERFILE {
            crate::worker::DOCKERFILE_VERSION.clone_into(&mut predicate.dockerfile_version);
        }
        predicate.set_compatibility(compatibility);
        let (context, job) = (Arc::clone(&bridge.context), Arc::clone(&bridge.job));
        let images = if steps.is_empty() { HashMap::new() } else { images(&job, reference) };
        Ok(Self { context, job, predicate, version: options.version, steps, images })
    }

    /// What kind of predicate it is.
    pub(crate) const fn predicate_type(&self) -> &'static str {
        self.version.predicate_type()
    }

    /// The predicate, finished now.
    pub(crate) async fn predicate(&self) -> Result<Value, Failure> {
        let mut predicate = self.predicate.clone();
        predicate.metadata.finished = Some(Utc::now());
        predicate.metadata.layers = self.layers().await?;
        Ok(predicate.to_json(self.version))
    }

    /// The packed layers of each step's outputs, as far as they were packed.
    async fn layers(&self) -> Result<Layers, Failure> {
        let mut layers = Layers::new();
        for (number, digest) in self.steps.iter().enumerate() {
            let outputs = self.outputs(digest);
            if outputs.is_empty()
                && let Some((root, platform)) = self.images.get(digest)
                && let Some(chain) = self.context.layers_of_image(*root, platform).await?
                && !chain.is_empty()
            {
                layers.insert(format!("step{number}:0"), vec![chain]);
            }
            for (output, snapshot) in outputs.into_iter().enumerate() {
                let Some(snapshot) = snapshot.filter(Snapshot::is_immutable) else { continue };
                if is_unpacked(&snapshot) {
                    continue;
                }
                let pieces = snapshot.pieces().await?;
                if let Some(chain) = packed(&pieces) {
                    layers.insert(format!("step{number}:{output}"), vec![chain]);
                }
            }
        }
        Ok(layers)
    }

    /// What a step made: in this build, or before.
    fn outputs(&self, digest: &Digest) -> Vec<Option<Snapshot>> {
        if let Some(outputs) = self.job.outputs(digest) {
            return outputs;
        }
        let known = self.job.names(digest);
        let trees = known.iter().find_map(|name| Some(self.context.store.record(name)?.1));
        trees.into_iter().flatten().map(|tree| Some(Snapshot::committed(tree))).collect()
    }
}

/// What the images in a graph turned out to be.
fn images(job: &Job<OpRuntime>, reference: &Reference) -> HashMap<Digest, (Digest, Platform)> {
    let image = |vertex: &Arc<Vertex>| {
        let Some(Op::Source(source)) = &vertex.op.op else { return None };
        let is_image = ["docker-image://", "oci-layout://"];
        if !is_image.iter().any(|scheme| source.identifier.starts_with(scheme)) {
            return None;
        }
        let root = Digest::parse(&job.note(&vertex.digest)??).ok()?;
        Some((vertex.digest, (root, platform_of(&vertex.effective_platform()))))
    };
    reference.graph().vertices().filter_map(image).collect()
}

/// Whether the uppermost layer is known to be here and not packed: of most steps it is, and then nobody looks at those below.
fn is_unpacked(snapshot: &Snapshot) -> bool {
    let tree = snapshot.known_tree();
    tree.as_ref().and_then(Tree::top).is_some_and(|top| top.info().blobs.is_empty())
}

/// Descriptors of a tree's layers when all of them are packed.
fn packed(pieces: &Pieces) -> Option<Vec<Descriptor>> {
    let descriptor = |piece: &Piece| match piece {
        Piece::There(absent) => Some(absent.remote.descriptor.clone()),
        Piece::Here(layer) => {
            let info = layer.info();
            let known = info.blobs.first()?;
            let mut descriptor = Descriptor::new(&known.media_type, known.digest, known.size);
            descriptor.annotations.clone_from(&known.annotations);
            Some(descriptor)
        }
    };
    let chain: Vec<Descriptor> = pieces.iter().map(descriptor).collect::<Option<_>>()?;
    (!chain.is_empty()).then_some(chain)
}
