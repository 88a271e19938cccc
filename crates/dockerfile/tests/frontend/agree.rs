//! Agreement with BuildKit: each line of `testdata/agree.jsonl` is a Dockerfile with attributes, and
//! the digests, names, lines and image configurations that BuildKit's frontend gives for them.
//!
//! Equal digests mean equal ops to the byte. `AGREE` names another file of that form; when its ops
//! are written out there, a failure shows what differs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use cofferdam_digest::Digest;
use cofferdam_dockerfile::{BuildError, Built};
use cofferdam_graph::{Limits, Vertex, encode_op, load};
use cofferdam_wire::pb;
use serde_json::{Value, json};

use crate::support::{Memory, dockerfile};

/// Where this frontend is meant to differ, and why.
const DIFFERENT: &[(&str, &str)] = &[
    ("e_argexp", "no warning about the variable that is an error already"),
    ("e_require", "no warning about the variable that is an error already"),
    ("e_attr", "platform errors have our own words"),
    ("e_mode", "symbolic modes have our own words"),
    ("e_mode2", "symbolic modes have our own words"),
    ("e_mode3", "symbolic modes have our own words"),
    ("e_onb", "errors of triggers name the line, too"),
    ("mounttarget", "a tmpfs needs nothing of the context"),
    ("e_platbad", "platform errors have our own words"),
];

#[test]
fn ops_and_configurations_are_those_of_buildkit() {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/agree.jsonl");
    let file = std::env::var_os("AGREE").map_or(default, PathBuf::from);
    let text = std::fs::read_to_string(file).unwrap();
    let mut report = String::new();
    let (mut wrong, mut count) = (0, 0);
    for line in text.lines() {
        let mut case: Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap().to_owned();
        // On purpose: an image's history does not show what its author wrote into URLs.
        if case["want"]["meta"].is_object() {
            let meta = case["want"]["meta"].to_string();
            let meta = cofferdam_graph::without_credentials(&meta).into_owned();
            case["want"]["meta"] = serde_json::from_str(&meta).unwrap();
        }
        if DIFFERENT.iter().any(|(known, _)| *known == name) {
            continue;
        }
        count += 1;
        let mut differences = Vec::new();
        compare(&case, &mut differences);
        if !differences.is_empty() {
            wrong += 1;
            writeln!(report, "== {name}").unwrap();
            for difference in differences {
                writeln!(report, "   {difference}").unwrap();
            }
        }
    }
    assert!(count > 100, "only {count} cases");
    assert!(wrong == 0, "{wrong} of {count} differ\n{report}");
}

fn memory(case: &Value) -> Memory {
    let mut memory = dockerfile("");
    memory.images.clear();
    memory.files.clear();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for (path, content) in case["files"].as_object().unwrap() {
        memory.files.insert(path.clone(), text(content).into_bytes());
    }
    for (reference, config) in case["images"].as_object().unwrap() {
        memory.images.insert(reference.clone(), config.to_string());
    }
    for (key, value) in case["attrs"].as_object().unwrap() {
        memory.attrs.insert(key.clone(), text(value));
    }
    memory
}

fn compare(case: &Value, differences: &mut Vec<String>) {
    let want = &case["want"];
    let memory = memory(case);
    match (memory.run(), want["error"].as_str()) {
        (Err(error), Some(message)) => compare_error(&error, message, &want["lines"], differences),
        (Err(error), None) => differences.push(format!("fails: {error}")),
        (Ok(_), Some(message)) => differences.push(format!("should fail: {message}")),
        (Ok(built), None) => compare_built(&built, want, differences),
    }
    let list = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(|item| item.as_str().unwrap().to_owned())
            .collect()
    };
    // What else was asked by the time of an error is a matter of chance.
    if want["error"].is_null() {
        let mut looked_up = memory.looked_up.lock().unwrap().clone();
        looked_up.sort();
        difference("look-ups", &json!(looked_up), &json!(list(&want["looks"])), differences);
    }
    let (mut warnings, mut wanted) = (memory.warnings(), list(&want["warns"]));
    warnings.sort();
    wanted.sort();
    difference("warnings", &json!(warnings), &json!(wanted), differences);
}

fn difference(what: &str, own: &Value, wanted: &Value, differences: &mut Vec<String>) {
    if own != wanted {
        differences.push(format!("{what}:\n      own    {own}\n      wanted {wanted}"));
    }
}

fn compare_error(error: &BuildError, message: &str, lines: &Value, differences: &mut Vec<String>) {
    if error.to_string() != message {
        differences.push(format!("error:\n      own    {error}\n      wanted {message}"));
    }
    let own: Vec<Vec<i32>> = error
        .sources()
        .iter()
        .map(|(_, ranges)| ranges.iter().map(|range| range.start.line).collect())
        .collect();
    // Where it names no line, a line of ours does no harm.
    if !lines.is_null() {
        difference("lines", &json!(own), lines, differences);
    }
}

fn compare_built(built: &Built, want: &Value, differences: &mut Vec<String>) {
    let mut refs: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for reference in &built.refs {
        let key = if built.single { String::new() } else { reference.platform.clone() };
        refs.insert(key, reference.definition.as_ref().map(ops).unwrap_or_default());
    }
    let empty = serde_json::Map::new();
    for (key, wanted) in want["refs"].as_object().unwrap_or(&empty) {
        let own = refs.remove(key).unwrap_or_default();
        let wanted: Vec<&Value> = wanted.as_array().into_iter().flatten().collect();
        compare_ops(&own, &wanted, differences);
    }
    if !refs.is_empty() {
        differences.push(format!("more results: {:?}", refs.keys()));
    }
    let meta: serde_json::Map<String, Value> = built
        .metadata
        .iter()
        .map(|(key, bytes)| {
            let text = || Value::from(String::from_utf8_lossy(bytes).into_owned());
            (key.clone(), serde_json::from_slice(bytes).unwrap_or_else(|_| text()))
        })
        .collect();
    let wanted = want["meta"].as_object().unwrap_or(&empty);
    let keys: std::collections::BTreeSet<&String> = meta.keys().chain(wanted.keys()).collect();
    for key in keys {
        let (own, wanted) = (meta.get(key), wanted.get(key));
        let (mut own, mut wanted) = (own.cloned().map(plain), wanted.cloned().map(plain));
        // The definition that loads the Dockerfile has other bytes, see `go_bytes`.
        for value in [&mut own, &mut wanted].into_iter().flatten() {
            if let Some(sources) =
                value.get_mut("sources").filter(|_| key.as_str() == "result.json")
            {
                *sources = json!(sources.as_array().map(Vec::len));
            }
        }
        difference(key, &json!(own), &json!(wanted), differences);
    }
}

/// Without the nulls that only one of the two writes.
fn plain(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null() && *value != json!([]))
            .map(|(key, value)| (key, plain(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(list) => list.into_iter().map(plain).collect::<Vec<_>>().into(),
        other => other,
    }
}

fn compare_ops(own: &[Value], wanted: &[&Value], differences: &mut Vec<String>) {
    let digest = |op: &Value| op["digest"].as_str().unwrap().to_owned();
    // The last op only names the result.
    let wanted = &wanted[..wanted.len().saturating_sub(1)];
    let known: BTreeMap<String, &Value> = wanted.iter().map(|op| (digest(op), *op)).collect();
    let mut seen = std::collections::BTreeSet::new();
    for op in own {
        seen.insert(digest(op));
        let Some(wanted) = known.get(&digest(op)) else {
            differences.push(format!("op not wanted: {op}"));
            continue;
        };
        for key in ["name", "command", "ignoreCache", "group", "weak", "caps"] {
            difference(&format!("{key} of {}", op["name"]), &op[key], &wanted[key], differences);
        }
        // Images that only a mount names have no lines there.
        if !wanted["lines"].is_null() {
            let sorted = |value: &Value| {
                let mut lines: Vec<i64> =
                    value.as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
                lines.sort_unstable();
                json!(lines)
            };
            let what = format!("lines of {}", op["name"]);
            difference(&what, &sorted(&op["lines"]), &sorted(&wanted["lines"]), differences);
        }
    }
    for op in wanted.iter().filter(|op| !seen.contains(&digest(op))) {
        differences.push(format!("op missing: {op}"));
    }
}

/// The bytes of an op as Go writes them: the kind of the op last.
fn go_bytes(mut op: pb::Op) -> Vec<u8> {
    let kind = op.op.take();
    let mut bytes = encode_op(&op);
    bytes.extend(encode_op(&pb::Op { op: kind, ..Default::default() }));
    bytes
}

fn ops(definition: &pb::Definition) -> Vec<Value> {
    let graph = load(definition, &Limits::default()).unwrap();
    let mut digests: BTreeMap<String, Digest> = BTreeMap::new();
    let mut ops = Vec::new();
    for vertex in graph.vertices() {
        let mut op = vertex.op.clone();
        for input in &mut op.inputs {
            input.digest = digests[&input.digest].to_string();
        }
        let digest = Digest::of(go_bytes(op));
        digests.insert(vertex.digest.to_string(), digest);
        ops.push(describe(vertex, digest));
    }
    ops
}

fn describe(vertex: &Vertex, digest: Digest) -> Value {
    let metadata = &vertex.metadata;
    let lines: Vec<i32> = vertex
        .sources
        .iter()
        .flat_map(|source| source.ranges.iter().map(|range| range.start.line))
        .collect();
    let mut caps: Vec<&String> = metadata.caps.keys().collect();
    caps.sort();
    let mut op = json!({
        "digest": digest, "caps": caps,
        "name": metadata.description.get("llb.customname").cloned().unwrap_or_default(),
        "op": serde_json::to_value(&vertex.op).unwrap(),
    });
    let mut set = |key: &str, value: Value, present: bool| {
        if present {
            op[key] = value;
        }
    };
    let command = metadata.description.get("com.docker.dockerfile.v1.command");
    set("command", json!(command), command.is_some_and(|text| !text.is_empty()));
    set("ignoreCache", json!(true), metadata.ignore_cache);
    set("group", json!(metadata.progress_group.name), metadata.progress_group.is_set());
    set("weak", json!(true), metadata.progress_group.weak);
    set("lines", json!(lines), !lines.is_empty());
    op
}
