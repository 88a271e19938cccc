//! A definition as a list of steps, inputs before their consumers, and where each comes from.

use std::collections::{BTreeMap, HashMap};

use buffa::Message as _;
use cofferdam_digest::Digest;
use cofferdam_graph::{Limits, LoadError};
use cofferdam_image::Descriptor;
use cofferdam_wire::pb;
use serde::Serialize;
use serde_json::Value;

use crate::llb;

/// Layers by step and output: `step1:0`, each a list of chains.
pub type Layers = BTreeMap<String, Vec<Vec<Descriptor>>>;

/// The steps of a build.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BuildConfig {
    #[serde(rename = "llbDefinition", skip_serializing_if = "Vec::is_empty")]
    definition: Vec<BuildStep>,
    #[serde(rename = "digestMapping", skip_serializing_if = "BTreeMap::is_empty")]
    mapping: BTreeMap<String, String>,
    #[serde(skip)]
    order: Vec<Digest>,
}

#[derive(Debug, Clone, Serialize)]
struct BuildStep {
    id: String,
    op: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    inputs: Vec<String>,
}

/// Where steps come from.
#[derive(Debug, Clone, Serialize)]
pub struct SourceMap {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    locations: BTreeMap<String, Value>,
    infos: Vec<SourceInfo>,
}

#[derive(Debug, Clone, Serialize)]
struct SourceInfo {
    #[serde(skip_serializing_if = "String::is_empty")]
    filename: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    language: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(flatten)]
    config: BuildConfig,
}

/// A definition that has no steps to tell.
#[derive(Debug, thiserror::Error)]
pub enum StepsError {
    /// Not a graph.
    #[error("failed to load LLB")]
    Load(#[source] LoadError),
    /// An op that cannot be read.
    #[error("failed to parse llb proto op")]
    Parse(#[source] buffa::DecodeError),
    /// An input that is not there.
    #[error("failed to find input {0}")]
    Input(String),
}

impl BuildConfig {
    /// The ops by the number of their step.
    #[must_use]
    pub fn order(&self) -> &[Digest] {
        &self.order
    }
}

/// The steps of a definition, and where they come from.
///
/// # Errors
/// The definition is no graph.
pub fn describe(
    definition: &pb::Definition,
) -> Result<(BuildConfig, Option<SourceMap>), StepsError> {
    let config = steps(definition)?;
    let Some(source) = definition.Source.as_option().filter(|source| !source.infos.is_empty())
    else {
        return Ok((config, None));
    };
    let infos = source.infos.iter().map(|info| {
        let config = match info.definition.as_option() {
            Some(definition) => steps(definition)?,
            None => BuildConfig::default(),
        };
        Ok(SourceInfo {
            filename: info.filename.clone(),
            language: info.language.clone(),
            data: llb::base64(&info.data),
            config,
        })
    });
    let infos = infos.collect::<Result<_, StepsError>>()?;
    let locations = source.locations.iter().filter_map(|(digest, locations)| {
        Some((config.mapping.get(digest)?.clone(), llb::locations(locations)))
    });
    let map = SourceMap { locations: locations.collect(), infos };
    Ok((config, Some(map)))
}

fn steps(definition: &pb::Definition) -> Result<BuildConfig, StepsError> {
    if definition.def.is_empty() {
        return Ok(BuildConfig::default());
    }
    // Checks what is walked below: counts, cycles, inputs.
    cofferdam_graph::load(definition, &Limits::default()).map_err(StepsError::Load)?;
    let mut ops = HashMap::new();
    let mut last = Digest::of([]);
    for bytes in &definition.def {
        last = Digest::of(bytes);
        ops.insert(last, pb::Op::decode_from_slice(bytes).map_err(StepsError::Parse)?);
    }
    let order = inputs_first(&ops, last)?;
    let numbers: HashMap<Digest, usize> =
        order.iter().enumerate().map(|(number, digest)| (*digest, number)).collect();
    let mut definition = Vec::with_capacity(order.len());
    for (number, digest) in order.iter().enumerate() {
        let Some(op) = ops.get(digest) else { continue };
        let mut inputs = Vec::with_capacity(op.inputs.len());
        for input in &op.inputs {
            let from = numbers.get(&parse(&input.digest)?).copied().unwrap_or_default();
            inputs.push(format!("step{from}:{}", input.index));
        }
        definition.push(BuildStep { id: format!("step{number}"), op: llb::op(op), inputs });
    }
    let mapping = order
        .iter()
        .enumerate()
        .map(|(number, digest)| (digest.to_string(), format!("step{number}")))
        .collect();
    Ok(BuildConfig { definition, mapping, order })
}

fn parse(digest: &str) -> Result<Digest, StepsError> {
    Digest::parse(digest).map_err(|_| StepsError::Input(digest.chars().take(100).collect()))
}

/// Digests below and including `last`, inputs before their consumers, each once.
fn inputs_first(ops: &HashMap<Digest, pb::Op>, last: Digest) -> Result<Vec<Digest>, StepsError> {
    let mut seen = std::collections::HashSet::from([last]);
    let mut order = Vec::new();
    let mut stack = vec![(last, 0)];
    while let Some((digest, next)) = stack.pop() {
        let op = ops.get(&digest).ok_or_else(|| StepsError::Input(digest.to_string()))?;
        match op.inputs.get(next) {
            None => order.push(digest),
            Some(input) => {
                stack.push((digest, next + 1));
                let below = parse(&input.digest)?;
                if seen.insert(below) {
                    stack.push((below, 0));
                }
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_graph::{Assembler, Output};
    use serde_json::json;

    use super::*;

    fn definition() -> pb::Definition {
        let mut assembler = Assembler::new();
        let source = pb::SourceOp {
            identifier: "https://u:p@h/x".to_owned(),
            attrs: std::iter::once(("local.session".to_owned(), "secret".to_owned())).collect(),
            ..Default::default()
        };
        let source = pb::Op { op: Some(source.into()), ..Default::default() };
        let source = assembler.add(source, pb::OpMetadata::default(), None);
        let action = pb::FileAction {
            input: 0,
            secondaryInput: -1,
            action: Some(
                pb::FileActionMkDir { path: "/d".to_owned(), ..Default::default() }.into(),
            ),
            ..Default::default()
        };
        let file = pb::FileOp { actions: vec![action], ..Default::default() };
        let file = pb::Op {
            op: Some(file.into()),
            inputs: vec![Output::new(source, 0).input()],
            ..Default::default()
        };
        let info = pb::SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: b"FROM https://u:p@h/x".to_vec(),
            ..Default::default()
        };
        let info = assembler.add_source_info(info);
        let file = assembler.add(file, pb::OpMetadata::default(), Some((info, Vec::new())));
        assembler.finish(&Output::new(file, 0))
    }

    #[test]
    fn steps_come_in_order_without_credentials() {
        let (config, map) = describe(&definition()).unwrap();
        let value = serde_json::to_value(&config).unwrap();
        let steps = &value["llbDefinition"];
        assert_eq!(steps.as_array().unwrap().len(), 3);
        let source = json!({ "Op": { "source": { "identifier": "https://xxxxx:xxxxx@h/x" } } });
        assert_eq!(steps[0]["op"], source);
        assert_eq!(steps[1]["inputs"], json!(["step0:0"]));
        let action = json!({ "input": 0, "secondaryInput": -1, "output": 0,
            "Action": { "mkdir": { "path": "/d" } } });
        assert_eq!(steps[1]["op"]["Op"]["file"]["actions"], json!([action]));
        assert_eq!(steps[2]["inputs"], json!(["step1:0"]));
        let map = serde_json::to_value(map.unwrap()).unwrap();
        assert_eq!(map["infos"][0]["filename"], "Dockerfile");
        let text = llb::base64(b"FROM https://xxxxx:xxxxx@h/x");
        assert_eq!(map["infos"][0]["data"], text);
        assert!(map["locations"]["step1"].is_object());
        assert!(!value.to_string().contains("secret"));
    }

    #[test]
    fn nonsense_is_an_error() {
        let definition = pb::Definition { def: vec![vec![0xff]], ..Default::default() };
        assert!(describe(&definition).is_err());
        assert!(describe(&pb::Definition::default()).unwrap().0.order().is_empty());
    }
}
