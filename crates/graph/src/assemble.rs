//! Writing graphs: what a frontend uses to turn its instructions into a definition.
//!
//! Equal ops collapse into one, as their digests are equal. The order of a finished definition
//! depends only on the order of calls, so equal frontends give equal definitions.

use std::collections::{HashMap, HashSet};

use buffa::MessageField;
use cofferdam_digest::Digest;
use cofferdam_wire::pb;

use crate::encode::encode_op;
use crate::load::{Limits, LoadError, load};

/// One output of an op that an [`Assembler`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Output {
    /// The op.
    pub digest: Digest,
    /// Which of its outputs.
    pub index: i64,
}

impl Output {
    /// Output `index` of the op `digest`.
    #[must_use]
    pub const fn new(digest: Digest, index: i64) -> Self {
        Self { digest, index }
    }

    /// The form in which another op names this output as its input.
    #[must_use]
    pub fn input(&self) -> pb::Input {
        pb::Input { digest: self.digest.to_string(), index: self.index, ..Default::default() }
    }
}

/// Collects ops and writes definitions of them.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    ops: Vec<Assembled>,
    by_digest: HashMap<Digest, usize>,
    infos: Vec<pb::SourceInfo>,
}

#[derive(Debug, Clone)]
struct Assembled {
    digest: Digest,
    bytes: Vec<u8>,
    inputs: Vec<Digest>,
    metadata: pb::OpMetadata,
    locations: Vec<pb::Location>,
}

/// Whether two files are one. A client that sends a graph back writes the metadata of the definition
/// that the file was read by anew.
fn is_same(one: &pb::SourceInfo, other: &pb::SourceInfo) -> bool {
    let head = |info: &pb::SourceInfo| info.definition.as_option()?.def.last().cloned();
    one.filename == other.filename
        && one.language == other.language
        && one.data == other.data
        && head(one) == head(other)
}

impl Assembler {
    /// An assembler without ops.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `op`, whose inputs are already set through [`Output::input`], and returns its digest.
    ///
    /// `locations` is an index from [`Assembler::add_source_info`] with the ranges the op comes
    /// from. An op that is there already keeps its metadata, extended by what is new here.
    pub fn add(
        &mut self,
        op: pb::Op,
        metadata: pb::OpMetadata,
        locations: Option<(usize, Vec<pb::Range>)>,
    ) -> Digest {
        let bytes = encode_op(&op);
        let inputs = op.inputs.iter().filter_map(|input| Digest::parse(&input.digest).ok());
        let locations = locations.into_iter().map(|(index, ranges)| location(index, ranges));
        self.insert(Assembled {
            digest: Digest::of(&bytes),
            bytes,
            inputs: inputs.collect(),
            metadata,
            locations: locations.collect(),
        })
    }

    /// Adds a source file that locations can point into; equal files collapse.
    pub fn add_source_info(&mut self, info: pb::SourceInfo) -> usize {
        if let Some(known) = self.infos.iter().position(|known| is_same(known, &info)) {
            return known;
        }
        self.infos.push(info);
        self.infos.len() - 1
    }

    /// Whether an op is here.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.by_digest.contains_key(digest)
    }

    /// Takes over another definition, with its ops byte for byte, metadata and locations.
    ///
    /// `None` means that the definition is empty, which is scratch.
    ///
    /// # Errors
    /// A definition that [`load`] refuses under default limits.
    pub fn import(&mut self, definition: &pb::Definition) -> Result<Option<Output>, LoadError> {
        if definition.def.is_empty() {
            return Ok(None);
        }
        let graph = load(definition, &Limits::default())?;
        let bytes: HashMap<Digest, &Vec<u8>> =
            definition.def.iter().map(|bytes| (Digest::of(bytes), bytes)).collect();
        for vertex in graph.vertices() {
            let Some(bytes) = bytes.get(&vertex.digest) else { continue };
            let locations = vertex
                .sources
                .iter()
                .map(|source| {
                    let index = self.add_source_info((*source.info).clone());
                    location(index, source.ranges.clone())
                })
                .collect();
            self.insert(Assembled {
                digest: vertex.digest,
                bytes: (*bytes).clone(),
                inputs: vertex.inputs.iter().map(|edge| edge.vertex.digest).collect(),
                metadata: vertex.metadata.clone(),
                locations,
            });
        }
        Ok(graph.target().and_then(|edge| {
            Some(Output::new(edge.vertex.digest, i64::try_from(edge.output).ok()?))
        }))
    }

    /// The definition of `target`: the ops it needs, then the terminal that names it.
    #[must_use]
    pub fn finish(&self, target: &Output) -> pb::Definition {
        let needed = self.needed(target);
        let terminal = pb::Op { inputs: vec![target.input()], ..Default::default() };
        let mut definition = pb::Definition::default();
        let mut sources = pb::Source::default();
        let mut renumbered = HashMap::new();
        for op in self.ops.iter().filter(|op| needed.contains(&op.digest)) {
            definition.def.push(op.bytes.clone());
            definition.metadata.insert(op.digest.to_string(), op.metadata.clone());
            let locations: Vec<_> = op
                .locations
                .iter()
                .filter_map(|location| self.renumber(location, &mut sources, &mut renumbered))
                .collect();
            if !locations.is_empty() {
                let locations = pb::Locations { locations, ..Default::default() };
                sources.locations.insert(op.digest.to_string(), locations);
            }
        }
        definition.def.push(encode_op(&terminal));
        if !sources.infos.is_empty() {
            definition.Source = MessageField::some(sources);
        }
        definition
    }

    fn insert(&mut self, op: Assembled) -> Digest {
        let digest = op.digest;
        if let Some(known) = self.by_digest.get(&digest) {
            let known = &mut self.ops[*known];
            merge_metadata(&mut known.metadata, op.metadata);
            for location in op.locations {
                if !known.locations.contains(&location) {
                    known.locations.push(location);
                }
            }
        } else {
            self.by_digest.insert(digest, self.ops.len());
            self.ops.push(op);
        }
        digest
    }

    fn needed(&self, target: &Output) -> HashSet<Digest> {
        let mut needed = HashSet::new();
        let mut stack = vec![target.digest];
        while let Some(digest) = stack.pop() {
            if !needed.insert(digest) {
                continue;
            }
            if let Some(position) = self.by_digest.get(&digest) {
                stack.extend(&self.ops[*position].inputs);
            }
        }
        needed
    }

    /// Moves a location to the numbering of a finished definition, which holds only used files.
    fn renumber(
        &self,
        location: &pb::Location,
        sources: &mut pb::Source,
        renumbered: &mut HashMap<i32, i32>,
    ) -> Option<pb::Location> {
        let old = location.sourceIndex;
        let new = if let Some(new) = renumbered.get(&old) {
            *new
        } else {
            let info = self.infos.get(usize::try_from(old).ok()?)?;
            let new = i32::try_from(sources.infos.len()).ok()?;
            sources.infos.push(info.clone());
            renumbered.insert(old, new);
            new
        };
        Some(pb::Location { sourceIndex: new, ..location.clone() })
    }
}

fn location(index: usize, ranges: Vec<pb::Range>) -> pb::Location {
    // Out of range of the wire type means out of range of the list: dropped when finishing.
    let index = i32::try_from(index).unwrap_or(i32::MAX);
    pb::Location { sourceIndex: index, ranges, ..Default::default() }
}

/// Extends `known` by `other`: wishes add up, and what was said first stays.
fn merge_metadata(known: &mut pb::OpMetadata, other: pb::OpMetadata) {
    known.ignore_cache |= other.ignore_cache;
    for (key, value) in other.description {
        known.description.entry(key).or_insert(value);
    }
    known.caps.extend(other.caps);
    if known.export_cache.is_unset() {
        known.export_cache = other.export_cache;
    }
    if known.progress_group.is_unset() {
        known.progress_group = other.progress_group;
    }
    if known.linux_resources.is_unset() {
        known.linux_resources = other.linux_resources;
    }
}
