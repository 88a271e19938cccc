//! From a definition to a graph, refusing everything that is not one.
//!
//! The input is written by whoever may start a build. Sizes are bounded before work is done, an
//! op is known by the SHA-256 of its exact bytes, and the walk keeps its own stack. A cycle would
//! need a fixed point of SHA-256; the walk still reports one instead of trusting that.

use std::collections::HashMap;
use std::sync::Arc;

use buffa::DecodeOptions;
use cofferdam_digest::Digest;
use cofferdam_wire::pb;

use crate::capability::is_capability;
use crate::check::{InvalidOp, check, output_count};
use crate::name;
use crate::platform::normalize_platform;
use crate::vertex::{Edge, Graph, SourceRange, Vertex};

/// Deepest nesting of messages. The deepest legitimate op has 6 levels; a definition inside a
/// source file inside a definition adds 3 each.
const MAX_NESTING: u32 = 32;

/// Memory that the repeated elements of one decoded message may take beyond its own bytes.
const MAX_ELEMENT_MEMORY: usize = 32 << 20;

/// What a definition may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Ops in a definition. The largest known Dockerfiles make a few hundred.
    pub ops: usize,
    /// Bytes of all encoded ops together; inline file contents count.
    pub bytes: usize,
    /// Inputs of one op.
    pub inputs: usize,
    /// Mounts of one exec op. Linux allows 100,000 mounts in a namespace.
    pub mounts: usize,
    /// Actions of one file op.
    pub actions: usize,
    /// Places in source files that all ops together may name.
    pub locations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ops: 20_000,
            bytes: 64 << 20,
            inputs: 10_000,
            mounts: 1_000,
            actions: 10_000,
            locations: 200_000,
        }
    }
}

/// A definition that is not a graph.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No ops at all.
    #[error("invalid empty definition")]
    Empty,
    /// Too few different ops: at least one and the terminal are needed.
    #[error("invalid LLB with {0} vertexes")]
    TooFew(usize),
    /// Bytes that are no definition.
    #[error("failed to parse llb definition")]
    ParseDefinition(#[source] buffa::DecodeError),
    /// Bytes that are no op.
    #[error("failed to parse llb proto op")]
    Parse {
        /// Position in the definition.
        position: usize,
        /// What was wrong with the bytes.
        #[source]
        source: buffa::DecodeError,
    },
    /// A negative output index.
    #[error("invalid input {input} output index {index}")]
    OutputIndex {
        /// Position among the op's inputs.
        input: usize,
        /// The index.
        index: i64,
    },
    /// An output that the input op does not have.
    #[error("invalid input {input} output index {index}: {digest} has {outputs} outputs")]
    OutputRange {
        /// Position among the op's inputs.
        input: usize,
        /// The index.
        index: i64,
        /// The op referred to.
        digest: Digest,
        /// How many outputs it has.
        outputs: usize,
    },
    /// An input that is not among the ops.
    #[error("invalid missing input digest {0}")]
    MissingInput(String),
    /// A terminal that names nothing.
    #[error("invalid LLB with no inputs on last vertex")]
    NoTarget,
    /// A last op that is more than a reference to the target.
    #[error("invalid LLB with more than one input on last vertex")]
    Terminal,
    /// An op that needs itself.
    #[error("invalid LLB with a cycle through {0}")]
    Cycle(Digest),
    /// An op that cannot mean anything.
    #[error(transparent)]
    Op(#[from] InvalidOp),
    /// An op that needs a capability unknown here.
    #[error("unknown API capability {0}")]
    Capability(String),
    /// A source location that points outside the source files.
    #[error("invalid source index {index} of {digest}")]
    SourceIndex {
        /// The op.
        digest: Digest,
        /// The index.
        index: i32,
    },
    /// More than the limits allow.
    #[error("invalid LLB with {count} {what}, limit is {limit}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        limit: usize,
    },
}

/// Decodes and loads a definition: [`load`] for bytes, under the same limits.
///
/// # Errors
/// As [`load`], and bytes that are no definition.
pub fn load_bytes(bytes: &[u8], limits: &Limits) -> Result<Graph, LoadError> {
    too_much("bytes", bytes.len(), limits.bytes)?;
    let definition = decoder().decode_from_slice(bytes).map_err(LoadError::ParseDefinition)?;
    load(&definition, limits)
}

/// Decodes a definition without loading it, under the bounds that loading has on one message.
///
/// # Errors
/// Bytes that are no definition.
pub fn decode_definition(bytes: &[u8]) -> Result<pb::Definition, LoadError> {
    decoder().decode_from_slice(bytes).map_err(LoadError::ParseDefinition)
}

/// Checks `definition` and turns it into a graph.
///
/// Ops that the target does not need are dropped, though their references are still checked. The
/// caller adds the words `failed to load LLB`.
///
/// # Errors
/// Anything short of a complete, meaningful graph within `limits`.
pub fn load(definition: &pb::Definition, limits: &Limits) -> Result<Graph, LoadError> {
    if definition.def.is_empty() {
        return Err(LoadError::Empty);
    }
    too_much("ops", definition.def.len(), limits.ops)?;
    too_much("bytes", definition.def.iter().map(Vec::len).sum(), limits.bytes)?;
    let mut ops = decode_ops(definition)?;
    resolve_inputs(&mut ops)?;
    if ops.list.len() < 2 {
        return Err(LoadError::TooFew(ops.list.len()));
    }
    let target = target_of(&ops.list[ops.terminal])?;
    let order = order_from(target.0, &ops)?;
    let sources = Sources::new(definition, limits)?;
    build(ops, &order, target, definition, &sources, limits)
}

pub(crate) fn decoder() -> DecodeOptions {
    DecodeOptions::new()
        .with_recursion_limit(MAX_NESTING)
        .with_element_memory_limit(MAX_ELEMENT_MEMORY)
}

fn too_much(what: &'static str, count: usize, limit: usize) -> Result<(), LoadError> {
    if count > limit {
        return Err(LoadError::TooMuch { what, count, limit });
    }
    Ok(())
}

/// A decoded op whose inputs are positions in the list of ops.
struct Decoded {
    digest: Digest,
    op: pb::Op,
    inputs: Vec<(usize, i64)>,
}

struct Ops {
    list: Vec<Decoded>,
    by_digest: HashMap<Digest, usize>,
    terminal: usize,
}

fn decode_ops(definition: &pb::Definition) -> Result<Ops, LoadError> {
    let mut ops = Ops { list: Vec::new(), by_digest: HashMap::new(), terminal: 0 };
    for (position, bytes) in definition.def.iter().enumerate() {
        let digest = Digest::of(bytes);
        if let Some(known) = ops.by_digest.get(&digest) {
            ops.terminal = *known;
            continue;
        }
        let op: pb::Op = decoder()
            .decode_from_slice(bytes)
            .map_err(|source| LoadError::Parse { position, source })?;
        ops.terminal = ops.list.len();
        ops.by_digest.insert(digest, ops.terminal);
        ops.list.push(Decoded { digest, op, inputs: Vec::new() });
    }
    Ok(ops)
}

fn resolve_inputs(ops: &mut Ops) -> Result<(), LoadError> {
    for decoded in &mut ops.list {
        for (position, input) in decoded.op.inputs.iter().enumerate() {
            if input.index < 0 {
                return Err(LoadError::OutputIndex { input: position, index: input.index });
            }
            let found = Digest::parse(&input.digest)
                .ok()
                .and_then(|digest| ops.by_digest.get(&digest))
                // The terminal is a note about the graph, not part of it.
                .filter(|found| **found != ops.terminal)
                .ok_or_else(|| LoadError::MissingInput(input.digest.chars().take(100).collect()))?;
            decoded.inputs.push((*found, input.index));
        }
    }
    Ok(())
}

fn target_of(terminal: &Decoded) -> Result<(usize, i64), LoadError> {
    match terminal.inputs.as_slice() {
        [] => Err(LoadError::NoTarget),
        [target] if terminal.op.op.is_none() => Ok(*target),
        _ => Err(LoadError::Terminal),
    }
}

/// Positions of all ops that `target` needs, inputs first.
fn order_from(target: usize, ops: &Ops) -> Result<Vec<usize>, LoadError> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; ops.list.len()];
    let mut order = Vec::new();
    let mut stack = vec![(target, 0)];
    marks[target] = Mark::Open;
    while let Some((position, next)) = stack.pop() {
        let Some((input, _)) = ops.list[position].inputs.get(next) else {
            marks[position] = Mark::Done;
            order.push(position);
            continue;
        };
        stack.push((position, next + 1));
        match marks[*input] {
            Mark::Done => {}
            Mark::Open => return Err(LoadError::Cycle(ops.list[*input].digest)),
            Mark::New => {
                marks[*input] = Mark::Open;
                stack.push((*input, 0));
            }
        }
    }
    Ok(order)
}

/// The definition's source files and what points into them.
struct Sources<'a> {
    infos: Vec<Arc<pb::SourceInfo>>,
    source: Option<&'a pb::Source>,
}

impl<'a> Sources<'a> {
    fn new(definition: &'a pb::Definition, limits: &Limits) -> Result<Self, LoadError> {
        let Some(source) = definition.Source.as_option() else {
            return Ok(Self { infos: Vec::new(), source: None });
        };
        too_much("source files", source.infos.len(), limits.ops)?;
        let count = source.locations.values().map(|of| of.locations.len()).sum();
        too_much("source locations", count, limits.locations)?;
        Ok(Self {
            infos: source.infos.iter().cloned().map(Arc::new).collect(),
            source: Some(source),
        })
    }

    fn of(&self, digest: Digest) -> Result<Vec<SourceRange>, LoadError> {
        let Some(found) = self.source.and_then(|source| source.locations.get(&digest.to_string()))
        else {
            return Ok(Vec::new());
        };
        let range = |location: &pb::Location| {
            let index = location.sourceIndex;
            let info = usize::try_from(index).ok().and_then(|index| self.infos.get(index));
            let info = info.ok_or(LoadError::SourceIndex { digest, index })?;
            Ok(SourceRange { info: Arc::clone(info), ranges: location.ranges.clone() })
        };
        found.locations.iter().map(range).collect()
    }
}

fn build(
    ops: Ops,
    order: &[usize],
    target: (usize, i64),
    definition: &pb::Definition,
    sources: &Sources<'_>,
    limits: &Limits,
) -> Result<Graph, LoadError> {
    let mut list: Vec<Option<Decoded>> = ops.list.into_iter().map(Some).collect();
    let mut built: Vec<Option<Arc<Vertex>>> = vec![None; list.len()];
    let mut vertices = Vec::with_capacity(order.len());
    for position in order {
        let Some(decoded) = list[*position].take() else { continue };
        check(&decoded.op, limits)?;
        let inputs = edges(&decoded.inputs, &built)?;
        let metadata =
            definition.metadata.get(&decoded.digest.to_string()).cloned().unwrap_or_default();
        if let Some(name) = metadata.caps.keys().find(|name| !is_capability(name)) {
            return Err(LoadError::Capability(name.chars().take(100).collect()));
        }
        let names: Vec<String> = inputs.iter().map(|edge| edge.vertex.name()).collect();
        let vertex = Arc::new(Vertex {
            digest: decoded.digest,
            inputs,
            platform: decoded.op.platform.as_option().map(normalize_platform),
            sources: sources.of(decoded.digest)?,
            derived_name: name::derive(&decoded.op, &names),
            op: decoded.op,
            metadata,
        });
        built[*position] = Some(Arc::clone(&vertex));
        vertices.push(vertex);
    }
    let target = edges(&[target], &built)?.pop();
    Ok(Graph { target, vertices })
}

fn edges(inputs: &[(usize, i64)], built: &[Option<Arc<Vertex>>]) -> Result<Vec<Edge>, LoadError> {
    let mut edges = Vec::with_capacity(inputs.len());
    for (input, (position, index)) in inputs.iter().enumerate() {
        // The order puts inputs first, so they are there.
        let Some(vertex) = &built[*position] else { continue };
        let outputs = output_count(&vertex.op);
        let output = usize::try_from(*index).ok().filter(|output| *output < outputs).ok_or(
            LoadError::OutputRange { input, index: *index, digest: vertex.digest, outputs },
        )?;
        edges.push(Edge { vertex: Arc::clone(vertex), output });
    }
    Ok(edges)
}
