//! Definitions with errors in them, made by chance: whatever they are, they are loaded or refused.

use buffa::Message;
use cofferdam_digest::Digest;
use cofferdam_graph::{Limits, encode_definition, encode_op, load, load_bytes};
use cofferdam_wire::pb;

use crate::sample;

/// A small generator with a fixed seed, so that failures repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let position = self.below(bytes.len());
            match self.below(5) {
                _ if bytes.is_empty() => return,
                0 => bytes.truncate(position),
                1 => bytes[position] ^= 1 << self.below(8),
                2 => bytes[position] = u8::try_from(self.below(256)).unwrap(),
                3 => bytes.insert(position, u8::try_from(self.below(256)).unwrap()),
                _ => {
                    let end = position + self.below(bytes.len() - position);
                    let part = bytes[position..end].to_vec();
                    bytes.splice(position..position, part);
                }
            }
        }
    }
}

/// Ops whose references follow the mutated digests, so that mutations reach the checks.
fn relinked(definition: &pb::Definition, random: &mut Random) -> pb::Definition {
    let mut renamed = std::collections::HashMap::new();
    let mut changed = definition.clone();
    let victim = random.below(changed.def.len());
    for (position, bytes) in changed.def.iter_mut().enumerate() {
        let before = Digest::of(&*bytes).to_string();
        if let Ok(mut op) = pb::Op::decode_from_slice(bytes) {
            for input in &mut op.inputs {
                if let Some(after) = renamed.get(&input.digest) {
                    input.digest.clone_from(after);
                }
            }
            *bytes = encode_op(&op);
        }
        if position == victim {
            random.mutate(bytes);
        }
        renamed.insert(before, Digest::of(&*bytes).to_string());
    }
    changed
}

#[test]
fn mutated_definitions_never_panic() {
    let definition = sample();
    let bytes = encode_definition(&definition);
    let mut random = Random(0x5eed_c0ff_e4da_1234);
    let (mut loaded, mut refused) = (0, 0);
    for round in 0..6_000 {
        let result = if round % 2 == 0 {
            let mut bytes = bytes.clone();
            random.mutate(&mut bytes);
            load_bytes(&bytes, &Limits::default())
        } else {
            load(&relinked(&definition, &mut random), &Limits::default())
        };
        match result {
            Ok(graph) => {
                loaded += 1;
                for vertex in graph.vertices() {
                    let _ = (vertex.name(), vertex.effective_platform(), format!("{vertex:?}"));
                }
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().is_empty());
            }
        }
    }
    assert!(loaded > 100 && refused > 1_000, "{loaded} loaded, {refused} refused");
}
