//! Messages as JSON, in the form that Go clients read them: field names of the wire, empty fields
//! left out, bytes in base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_wire::pb;
use serde_json::{Map, Value, json};

use crate::lines::Lines;

/// An OCI platform.
pub(super) fn platform(platform: &pb::Platform) -> Value {
    let mut map = Map::new();
    map.insert("architecture".to_owned(), platform.Architecture.clone().into());
    map.insert("os".to_owned(), platform.OS.clone().into());
    for (key, value) in [("os.version", &platform.OSVersion), ("variant", &platform.Variant)] {
        if !value.is_empty() {
            map.insert(key.to_owned(), value.clone().into());
        }
    }
    if !platform.OSFeatures.is_empty() {
        map.insert("os.features".to_owned(), platform.OSFeatures.clone().into());
    }
    Value::Object(map)
}

/// Lines of source 0; one range per line.
pub(super) fn location(lines: Lines) -> Value {
    let position = |line: u32| json!({ "line": line });
    let ranges: Vec<Value> = lines
        .each()
        .map(|line| json!({ "start": position(line), "end": position(line) }))
        .collect();
    json!({ "ranges": ranges })
}

/// Bytes.
pub(super) fn base64(bytes: &[u8]) -> Value {
    STANDARD.encode(bytes).into()
}

/// A source file with the definition that loads it.
pub(super) fn source_info(info: &pb::SourceInfo) -> Value {
    let mut map = Map::new();
    map.insert("filename".to_owned(), info.filename.clone().into());
    map.insert("data".to_owned(), base64(&info.data));
    if let Some(loaded) = info.definition.as_option() {
        map.insert("definition".to_owned(), definition(loaded));
    }
    map.insert("language".to_owned(), info.language.clone().into());
    Value::Object(map)
}

fn definition(definition: &pb::Definition) -> Value {
    let ops: Vec<Value> = definition.def.iter().map(|op| base64(op)).collect();
    let metadata: Map<String, Value> = definition
        .metadata
        .iter()
        .map(|(digest, metadata)| {
            let mut map = Map::new();
            if !metadata.description.is_empty() {
                map.insert("description".to_owned(), json!(metadata.description));
            }
            if !metadata.caps.is_empty() {
                map.insert("caps".to_owned(), json!(metadata.caps));
            }
            (digest.clone(), Value::Object(map))
        })
        .collect();
    json!({ "def": ops, "metadata": metadata })
}
