//! Deterministic encoding: equal messages give equal bytes, in every process.
//!
//! Generated code writes protobuf maps in hash order, which changes from run to run, and an op's
//! digest is its name. So the messages that hold maps are written here by hand: fields by number,
//! map entries sorted by key, unknown fields last. All other messages go through generated code.
//! The only nesting that is followed is a definition inside a source file inside a definition,
//! whose depth the decoder limits.

use std::collections::HashMap;

use buffa::encoding::{Tag, WireType, encode_varint};
use buffa::types::{encode_bool, encode_int64};
use buffa::{EncodeSink, Message};
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op as Kind;

/// The bytes of `op`; the op's digest is taken of these.
#[must_use]
pub fn encode_op(op: &pb::Op) -> Vec<u8> {
    let (field, payload) = match &op.op {
        Some(Kind::Source(source)) => (3, encode_source(source)),
        Some(Kind::Build(build)) => (5, encode_build(build)),
        _ => return op.encode_to_vec(),
    };
    let mut out = Vec::new();
    for input in &op.inputs {
        put_bytes(1, &input.encode_to_vec(), &mut out);
    }
    put_bytes(field, &payload, &mut out);
    put_message(10, op.platform.as_option(), &mut out);
    put_message(11, op.constraints.as_option(), &mut out);
    op.__buffa_unknown_fields.write_to(&mut out);
    out
}

/// The bytes of `definition`, with its metadata and locations in digest order.
#[must_use]
pub fn encode_definition(definition: &pb::Definition) -> Vec<u8> {
    let mut out = Vec::new();
    for op in &definition.def {
        put_bytes(1, op, &mut out);
    }
    put_map(2, &definition.metadata, &mut out, encode_metadata);
    if let Some(source) = definition.Source.as_option() {
        put_bytes(3, &encode_sources(source), &mut out);
    }
    definition.__buffa_unknown_fields.write_to(&mut out);
    out
}

fn encode_source(source: &pb::SourceOp) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(1, &source.identifier, &mut out);
    put_text_map(2, &source.attrs, &mut out);
    source.__buffa_unknown_fields.write_to(&mut out);
    out
}

fn encode_build(build: &pb::BuildOp) -> Vec<u8> {
    let mut out = Vec::new();
    if build.builder != 0 {
        Tag::new(1, WireType::Varint).encode(&mut out);
        encode_int64(build.builder, &mut out);
    }
    put_map(2, &build.inputs, &mut out, Message::encode_to_vec);
    if let Some(definition) = build.def.as_option() {
        put_bytes(3, &encode_definition(definition), &mut out);
    }
    put_text_map(4, &build.attrs, &mut out);
    build.__buffa_unknown_fields.write_to(&mut out);
    out
}

fn encode_metadata(metadata: &pb::OpMetadata) -> Vec<u8> {
    let mut out = Vec::new();
    put_flag(1, metadata.ignore_cache, &mut out);
    put_text_map(2, &metadata.description, &mut out);
    put_message(4, metadata.export_cache.as_option(), &mut out);
    for (name, enabled) in sorted(&metadata.caps) {
        let mut entry = Vec::new();
        put_bytes(1, name.as_bytes(), &mut entry);
        Tag::new(2, WireType::Varint).encode(&mut entry);
        encode_bool(*enabled, &mut entry);
        put_bytes(5, &entry, &mut out);
    }
    put_message(6, metadata.progress_group.as_option(), &mut out);
    put_message(7, metadata.linux_resources.as_option(), &mut out);
    metadata.__buffa_unknown_fields.write_to(&mut out);
    out
}

fn encode_sources(sources: &pb::Source) -> Vec<u8> {
    let mut out = Vec::new();
    put_map(1, &sources.locations, &mut out, Message::encode_to_vec);
    for info in &sources.infos {
        let mut payload = Vec::new();
        put_string(1, &info.filename, &mut payload);
        if !info.data.is_empty() {
            put_bytes(2, &info.data, &mut payload);
        }
        if let Some(definition) = info.definition.as_option() {
            put_bytes(3, &encode_definition(definition), &mut payload);
        }
        put_string(4, &info.language, &mut payload);
        info.__buffa_unknown_fields.write_to(&mut payload);
        put_bytes(2, &payload, &mut out);
    }
    sources.__buffa_unknown_fields.write_to(&mut out);
    out
}

fn sorted<V, S>(map: &HashMap<String, V, S>) -> Vec<(&String, &V)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

fn put_map<V, S>(
    field: u32,
    map: &HashMap<String, V, S>,
    out: &mut Vec<u8>,
    encode: impl Fn(&V) -> Vec<u8>,
) {
    for (key, value) in sorted(map) {
        let mut entry = Vec::new();
        put_bytes(1, key.as_bytes(), &mut entry);
        put_bytes(2, &encode(value), &mut entry);
        put_bytes(field, &entry, out);
    }
}

fn put_text_map<S>(field: u32, map: &HashMap<String, String, S>, out: &mut Vec<u8>) {
    put_map(field, map, out, |value| value.clone().into_bytes());
}

fn put_message<M: Message>(field: u32, message: Option<&M>, out: &mut Vec<u8>) {
    if let Some(message) = message {
        put_bytes(field, &message.encode_to_vec(), out);
    }
}

fn put_string(field: u32, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        put_bytes(field, text.as_bytes(), out);
    }
}

fn put_flag(field: u32, value: bool, out: &mut Vec<u8>) {
    if value {
        Tag::new(field, WireType::Varint).encode(out);
        encode_bool(value, out);
    }
}

fn put_bytes(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
    Tag::new(field, WireType::LengthDelimited).encode(out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn many<M: FromIterator<(String, String)>>(prefix: &str) -> M {
        (0..40).map(|n| (format!("{prefix}{n}"), format!("value {n}"))).collect()
    }

    #[test]
    fn equal_ops_have_equal_bytes_whatever_the_map_order() {
        let op = || pb::Op {
            inputs: vec![pb::Input { digest: "sha256:0".into(), index: 3, ..Default::default() }],
            op: Some(Kind::from(pb::SourceOp {
                identifier: "local://context".into(),
                attrs: many("local."),
                ..Default::default()
            })),
            platform: buffa::MessageField::some(crate::default_platform()),
            ..Default::default()
        };
        let bytes = encode_op(&op());
        for _ in 0..20 {
            assert_eq!(encode_op(&op()), bytes);
        }
        assert_eq!(pb::Op::decode_from_slice(&bytes).unwrap(), op());
    }

    #[test]
    fn definitions_with_every_field_survive_and_are_stable() {
        let definition = || {
            let metadata = pb::OpMetadata {
                ignore_cache: true,
                description: many("d"),
                caps: (0..20).map(|n| (format!("cap{n}"), n % 2 == 0)).collect(),
                export_cache: buffa::MessageField::some(pb::ExportCache::default()),
                progress_group: buffa::MessageField::some(pb::ProgressGroup {
                    id: "group".into(),
                    weak: true,
                    ..Default::default()
                }),
                linux_resources: buffa::MessageField::some(pb::LinuxResources {
                    memory: 7,
                    ..Default::default()
                }),
                ..Default::default()
            };
            let inner = pb::Definition { def: vec![vec![1, 2]], ..Default::default() };
            pb::Definition {
                def: vec![vec![], vec![9]],
                metadata: (0..20).map(|n| (format!("sha256:{n}"), metadata.clone())).collect(),
                Source: buffa::MessageField::some(pb::Source {
                    locations: (0..20)
                        .map(|n| (format!("sha256:{n}"), pb::Locations::default()))
                        .collect(),
                    infos: vec![pb::SourceInfo {
                        filename: "Dockerfile".into(),
                        data: b"FROM scratch".to_vec(),
                        definition: buffa::MessageField::some(inner),
                        language: "Dockerfile".into(),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let bytes = encode_definition(&definition());
        assert_eq!(encode_definition(&definition()), bytes);
        assert_eq!(pb::Definition::decode_from_slice(&bytes).unwrap(), definition());
        let op = pb::Op {
            op: Some(Kind::from(pb::BuildOp {
                builder: -1,
                inputs: std::iter::once(("a".into(), pb::BuildInput::default())).collect(),
                def: buffa::MessageField::some(definition()),
                attrs: many("x"),
                ..Default::default()
            })),
            ..Default::default()
        };
        assert_eq!(pb::Op::decode_from_slice(&encode_op(&op)).unwrap(), op);
        assert_eq!(encode_op(&op.clone()), encode_op(&op));
    }
}
