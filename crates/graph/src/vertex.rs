//! The loaded graph: vertices that share their inputs.
//!
//! Values here never change after loading. Dropping and printing must not recurse over inputs,
//! because a graph may be a single chain as long as [`Limits::ops`](crate::Limits::ops).

use std::fmt;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_wire::pb;

use crate::credentials::without_credentials;
use crate::platform::default_platform;

/// Description key by which a client names a vertex for display.
const CUSTOM_NAME: &str = "llb.customname";

/// A validated graph, acyclic by construction.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    pub(crate) target: Option<Edge>,
    pub(crate) vertices: Vec<Arc<Vertex>>,
}

impl Graph {
    /// The graph of nothing: an empty file tree.
    #[must_use]
    pub fn scratch() -> Self {
        Self::default()
    }

    /// The output that the definition asks for; `None` is scratch.
    #[must_use]
    pub fn target(&self) -> Option<&Edge> {
        self.target.as_ref()
    }

    /// All vertices that the target needs, inputs before their consumers.
    pub fn vertices(&self) -> impl Iterator<Item = &Arc<Vertex>> {
        self.vertices.iter()
    }
}

/// One output of one vertex.
#[derive(Clone)]
pub struct Edge {
    /// The vertex that makes the output.
    pub vertex: Arc<Vertex>,
    /// Which of its outputs; checked against the vertex's output count where that is known.
    pub output: usize,
}

impl fmt::Debug for Edge {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.vertex.digest, self.output)
    }
}

/// One op with what the definition says about it.
pub struct Vertex {
    /// SHA-256 of the op's bytes exactly as they arrived.
    pub digest: Digest,
    /// What the op's input indexes refer to, in the op's order.
    pub inputs: Vec<Edge>,
    /// The decoded op. Its enums are known values and its indexes are in range.
    pub op: pb::Op,
    /// The definition's metadata for the op; default when there is none.
    pub metadata: pb::OpMetadata,
    /// The platform that the op names, in normal form; `None` when it names none.
    pub platform: Option<pb::Platform>,
    /// Where in the frontend's sources the op comes from, in the definition's order.
    pub sources: Vec<SourceRange>,
    pub(crate) derived_name: String,
}

impl Vertex {
    /// The name for display, without credentials: the client's, else one derived from the op.
    #[must_use]
    pub fn name(&self) -> String {
        let given = self.metadata.description.get(CUSTOM_NAME);
        without_credentials(given.unwrap_or(&self.derived_name)).into_owned()
    }

    /// Whether the client wants the op to run even when its result is known.
    #[must_use]
    pub fn ignore_cache(&self) -> bool {
        self.metadata.ignore_cache
    }

    /// Whether the result may appear in an exported cache.
    #[must_use]
    pub fn export_cache(&self) -> bool {
        self.metadata.export_cache.as_option().is_none_or(|export| export.Value)
    }

    /// The platform to run for: the op's own, else this machine's.
    #[must_use]
    pub fn effective_platform(&self) -> pb::Platform {
        self.platform.clone().unwrap_or_else(default_platform)
    }
}

impl fmt::Debug for Vertex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Vertex")
            .field("digest", &self.digest)
            .field("name", &self.name())
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

impl Drop for Vertex {
    fn drop(&mut self) {
        // The derived drop would recurse once per vertex of a chain.
        let mut orphans = std::mem::take(&mut self.inputs);
        while let Some(edge) = orphans.pop() {
            if let Some(mut vertex) = Arc::into_inner(edge.vertex) {
                orphans.append(&mut vertex.inputs);
            }
        }
    }
}

/// A piece of a frontend's source text that an op was made from.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceRange {
    /// The source file, shared between all vertices that point into it.
    pub info: Arc<pb::SourceInfo>,
    /// Lines and columns in it; lines start at 1.
    pub ranges: Vec<pb::Range>,
}
