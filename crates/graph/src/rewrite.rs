//! The same graph with other sources: what a policy converts.
//!
//! An op that changes has other bytes and so another digest, and so have all that build upon it. Everything else keeps the bytes it
//! came with. What the definition says about an op (metadata, places in source files) follows it to its new name.

use std::collections::HashMap;

use cofferdam_digest::Digest;
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op as Kind;

use crate::encode::encode_op;
use crate::vertex::Graph;

/// The definition of `graph`, which was loaded from `definition`, with `sources` in place of the source ops of these digests. Ops
/// that the target does not need are left out.
#[must_use]
pub fn with_sources(
    graph: &Graph,
    definition: &pb::Definition,
    sources: &HashMap<Digest, pb::SourceOp>,
) -> pb::Definition {
    let bytes: HashMap<Digest, &Vec<u8>> =
        definition.def.iter().map(|bytes| (Digest::of(bytes), bytes)).collect();
    let mut renamed: HashMap<Digest, Digest> = HashMap::new();
    let mut rewritten = pb::Definition::default();
    let mut locations = HashMap::new();
    for vertex in graph.vertices() {
        let source = sources.get(&vertex.digest);
        let moved = vertex.inputs.iter().any(|edge| renamed.contains_key(&edge.vertex.digest));
        let encoded = match (source, moved, bytes.get(&vertex.digest)) {
            (None, false, Some(bytes)) => (*bytes).clone(),
            _ => encode_op(&changed(&vertex.op, source, &renamed)),
        };
        let digest = Digest::of(&encoded);
        if digest != vertex.digest {
            renamed.insert(vertex.digest, digest);
        }
        rewritten.def.push(encoded);
        let (old, new) = (vertex.digest.to_string(), digest.to_string());
        if let Some(metadata) = definition.metadata.get(&old) {
            rewritten.metadata.insert(new.clone(), metadata.clone());
        }
        let known = definition.Source.as_option().and_then(|source| source.locations.get(&old));
        if let Some(known) = known {
            locations.insert(new, known.clone());
        }
    }
    if let Some(source) = definition.Source.as_option() {
        rewritten.Source = buffa::MessageField::some(pb::Source {
            locations: locations.into_iter().collect(),
            infos: source.infos.clone(),
            ..Default::default()
        });
    }
    if let Some(target) = graph.target() {
        let digest = target.vertex.digest;
        let digest = renamed.get(&digest).copied().unwrap_or(digest);
        let index = i64::try_from(target.output).unwrap_or_default();
        let input = pb::Input { digest: digest.to_string(), index, ..Default::default() };
        rewritten.def.push(encode_op(&pb::Op { inputs: vec![input], ..Default::default() }));
    }
    rewritten
}

fn changed(
    op: &pb::Op,
    source: Option<&pb::SourceOp>,
    renamed: &HashMap<Digest, Digest>,
) -> pb::Op {
    let mut op = op.clone();
    if let (Some(Kind::Source(place)), Some(source)) = (&mut op.op, source) {
        **place = source.clone();
    }
    for input in &mut op.inputs {
        let new = Digest::parse(&input.digest).ok().and_then(|old| renamed.get(&old));
        if let Some(new) = new {
            input.digest = new.to_string();
        }
    }
    op
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Assembler, Limits, Output, load};

    fn definition() -> pb::Definition {
        let mut assembler = Assembler::new();
        let source = |name: &str| {
            let source = pb::SourceOp { identifier: name.to_owned(), ..Default::default() };
            pb::Op { op: Some(source.into()), ..Default::default() }
        };
        let mut metadata = pb::OpMetadata::default();
        metadata.description.insert("llb.customname".to_owned(), "first".to_owned());
        let first = assembler.add(source("docker-image://first"), metadata, None);
        let second =
            assembler.add(source("docker-image://second"), pb::OpMetadata::default(), None);
        let input = |digest: Digest| pb::Input { digest: digest.to_string(), ..Default::default() };
        let merge = |inputs: Vec<pb::Input>| {
            let inputs_of = (0..inputs.len())
                .map(|index| pb::MergeInput { input: index as i64, ..Default::default() });
            let merge = pb::MergeOp { inputs: inputs_of.collect(), ..Default::default() };
            pb::Op { inputs, op: Some(merge.into()), ..Default::default() }
        };
        let both = assembler.add(
            merge(vec![input(first), input(second)]),
            pb::OpMetadata::default(),
            None,
        );
        assembler.finish(&Output::new(both, 0))
    }

    #[test]
    fn what_builds_upon_a_changed_source_follows_and_the_rest_stays() {
        let definition = definition();
        let graph = load(&definition, &Limits::default()).unwrap();
        let named = |graph: &Graph, name: &str| {
            let found = graph.vertices().find(|vertex| vertex.name() == name);
            found.unwrap().digest
        };
        let other =
            pb::SourceOp { identifier: "docker-image://other".into(), ..Default::default() };
        let sources = HashMap::from([(named(&graph, "first"), other)]);
        let rewritten = with_sources(&graph, &definition, &sources);
        let again = load(&rewritten, &Limits::default()).unwrap();
        assert_eq!(again.vertices().count(), 3);
        assert_ne!(named(&again, "first"), named(&graph, "first"));
        let second = |graph: &Graph| {
            let names: Vec<Digest> = graph
                .vertices()
                .filter(|vertex| vertex.inputs.is_empty() && vertex.name().contains("second"))
                .map(|vertex| vertex.digest)
                .collect();
            names
        };
        assert_eq!(second(&again), second(&graph));
        assert_ne!(again.target().unwrap().vertex.digest, graph.target().unwrap().vertex.digest);
    }

    #[test]
    fn without_changes_the_graph_is_the_same() {
        let definition = definition();
        let graph = load(&definition, &Limits::default()).unwrap();
        let same = with_sources(&graph, &definition, &HashMap::new());
        let again = load(&same, &Limits::default()).unwrap();
        assert_eq!(again.target().unwrap().vertex.digest, graph.target().unwrap().vertex.digest);
    }
}
