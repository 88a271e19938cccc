//! What a request says about its build, without anything that opens a door.
//!
//! A record outlives the build and is read by whoever may list it, so user names and passwords are taken out of addresses, and of
//! cache backends only those attributes are kept that say where a cache is. Values that no person wrote are cut.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cofferdam_graph::without_credentials;
use cofferdam_wire::moby::buildkit::v1 as wire;
use cofferdam_wire::opentelemetry::proto::common::v1 as common;
use cofferdam_wire::opentelemetry::proto::common::v1::__buffa::oneof::any_value::Value as Kind;
use cofferdam_wire::opentelemetry::proto::trace::v1 as otel;
use serde_json::Value;

/// Longest value that is kept: a Dockerfile name or a build argument is shorter.
const MAX_VALUE: usize = 16 << 10;
/// Longest message of an error.
const MAX_ERROR: usize = 64 << 10;
/// All attributes together; records are listed by the dozen and sent whole.
const MAX_ATTRIBUTES: usize = 512 << 10;
/// Exporters of one record; a build with more is refused.
const MAX_EXPORTERS: usize = 100;
/// Attributes of cache backends that say where a cache is, and none that lets one in.
const CACHE_PLACES: &[&str] =
    &["ref", "tag", "digest", "src", "dest", "scope", "bucket", "region", "name", "mode", "type"];
/// Ends of names whose values let one in, as command lines have them: clients put theirs into a span.
const SECRETS: &[&str] = &["key", "key_id", "token", "password", "secret"];
/// Attributes that describe cache backends.
const CACHES: &[&str] = &["cache-imports", "cache-exports"];

/// Attributes as a record has them.
pub(super) fn attributes<'a, Kept: Default + Extend<(String, String)>>(
    attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Kept {
    let mut room = MAX_ATTRIBUTES;
    within(attributes, &mut room)
}

/// Attributes as a record has them, as far as there is room.
fn within<'a, Kept: Default + Extend<(String, String)>>(
    attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
    room: &mut usize,
) -> Kept {
    let mut kept = Kept::default();
    for (key, value) in attributes {
        let value = match CACHES.contains(&key.as_str()) {
            true => cache_places(value),
            false => text(value),
        };
        let size = key.len().saturating_add(value.len());
        if value.len() <= MAX_VALUE && size <= *room {
            *room -= size;
            kept.extend([(key.clone(), value)]);
        }
    }
    kept
}

/// Exporters as a record has them.
pub(super) fn exporters<'a>(
    exporters: impl IntoIterator<Item = &'a wire::Exporter>,
) -> Vec<wire::Exporter> {
    let mut room = MAX_ATTRIBUTES;
    let one = |exporter: &wire::Exporter| wire::Exporter {
        Type: name(&exporter.Type),
        Attrs: within(&exporter.Attrs, &mut room),
        ..wire::Exporter::default()
    };
    exporters.into_iter().take(MAX_EXPORTERS).map(one).collect()
}

/// A text without credentials in its addresses.
pub(super) fn text(value: &str) -> String {
    let address = odd_address(value);
    without_credentials(address.as_deref().unwrap_or(value)).into_owned()
}

/// A text that is one address, whose user information has in it what ends an address inside of a text.
fn odd_address(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once("://")?;
    let is_scheme = scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    let end = rest.find(|c: char| c.is_whitespace() || "/?#".contains(c)).unwrap_or(rest.len());
    let (user, host) = rest[..end].rsplit_once('@')?;
    let odd = is_scheme && user.contains(['"', '\'', '<', '>', '\\', '`']);
    odd.then(|| format!("{scheme}://xxxxx:xxxxx@{host}{}", &rest[end..]))
}

/// A name as a record has it.
pub(super) fn name(value: &str) -> String {
    cut(text(value), MAX_VALUE)
}

/// The message of an error as a record has it.
pub(super) fn error(value: &str) -> String {
    cut(text(value), MAX_ERROR)
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

/// Bytes that may be a text.
fn bytes(value: &[u8]) -> Vec<u8> {
    let lossy = String::from_utf8_lossy(value);
    match without_credentials(&lossy) {
        // What has none stays as it is, text or not.
        Cow::Borrowed(_) => value.to_vec(),
        Cow::Owned(hidden) => hidden.into_bytes(),
    }
}

/// A status response as a record has it. What steps print stays: it is what they print.
pub(super) fn status(response: &mut wire::StatusResponse) {
    for vertex in &mut response.vertexes {
        vertex.name = name(&vertex.name);
        vertex.error = name(&vertex.error);
        if let Some(group) = vertex.progressGroup.as_option_mut() {
            group.name = name(&group.name);
        }
    }
    for status in &mut response.statuses {
        status.ID = name(&status.ID);
        status.name = name(&status.name);
    }
    for warning in &mut response.warnings {
        warning.short = bytes(&warning.short);
        for line in &mut warning.detail {
            *line = bytes(line);
        }
        warning.url = name(&warning.url);
        if let Some(info) = warning.info.as_option_mut() {
            info.filename = name(&info.filename);
            info.data = bytes(&info.data);
            // How the file was come by; an address inside of an operation cannot be put in other words.
            let ops = info.definition.as_option().map(|definition| &definition.def);
            if ops.is_some_and(|ops| ops.iter().any(|op| has_credentials(op))) {
                info.definition = buffa::MessageField::none();
            }
        }
    }
}

/// A detail of an error as a record has it; none of one that has credentials and no form that is known.
pub(super) fn detail(value: &Bytes) -> Option<Bytes> {
    if let Ok(mut json) = serde_json::from_slice(value) {
        in_json(&mut json);
        return Some(json.to_string().into());
    }
    (bytes(value) == value[..]).then(|| value.clone())
}

fn in_json(value: &mut Value) {
    match value {
        Value::String(found) => *found = text(found),
        Value::Array(list) => list.iter_mut().for_each(in_json),
        Value::Object(map) => {
            // As of a warning.
            if map.get("definition").is_some_and(|definition| !is_harmless(definition)) {
                map.remove("definition");
            }
            for (key, value) in map.iter_mut() {
                let plain = value.as_str().filter(|_| key == "data");
                match plain.and_then(|text| STANDARD.decode(text).ok()) {
                    Some(plain) => *value = Value::String(STANDARD.encode(bytes(&plain))),
                    None => in_json(value),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether nothing that is encoded in a definition has credentials.
fn is_harmless(definition: &Value) -> bool {
    let Some(ops) = definition.get("def").and_then(Value::as_array) else {
        return definition.is_null();
    };
    ops.iter().all(|op| {
        let op = op.as_str().and_then(|op| STANDARD.decode(op).ok());
        op.is_some_and(|op| !has_credentials(&op))
    })
}

fn has_credentials(bytes: &[u8]) -> bool {
    matches!(without_credentials(&String::from_utf8_lossy(bytes)), Cow::Owned(_))
}

/// Spans as a record and a collector have them: whoever made them knows nothing of what must not be told.
pub(super) fn spans(sent: &mut otel::ResourceSpans) {
    if let Some(resource) = sent.resource.as_option_mut() {
        pairs(&mut resource.attributes);
    }
    for of_scope in &mut sent.scope_spans {
        if let Some(scope) = of_scope.scope.as_option_mut() {
            pairs(&mut scope.attributes);
        }
        of_scope.spans.iter_mut().for_each(span);
    }
}

fn span(span: &mut otel::Span) {
    span.name = text(&span.name);
    pairs(&mut span.attributes);
    for event in &mut span.events {
        event.name = text(&event.name);
        pairs(&mut event.attributes);
    }
    for link in &mut span.links {
        pairs(&mut link.attributes);
    }
    if let Some(status) = span.status.as_option_mut() {
        status.message = text(&status.message);
    }
}

fn pairs(list: &mut [common::KeyValue]) {
    for pair in list {
        if let Some(value) = pair.value.as_option_mut() {
            any(value);
        }
    }
}

fn any(value: &mut common::AnyValue) {
    match &mut value.value {
        Some(Kind::StringValue(found)) => *found = settings(&text(found)),
        Some(Kind::BytesValue(found)) => *found = bytes(found),
        Some(Kind::ArrayValue(list)) => list.values.iter_mut().for_each(any),
        Some(Kind::KvlistValue(list)) => pairs(&mut list.values),
        _ => {}
    }
}

/// A text without the values of settings that let one in, such as those of `type=s3,secret_access_key=…`.
fn settings(value: &str) -> String {
    let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | '\'' | ';' | '&');
    let one = |piece: &str| {
        let Some((name, rest)) = piece.split_once('=') else { return piece.to_owned() };
        let lower = name.to_ascii_lowercase();
        let opens = SECRETS.iter().any(|end| lower.ends_with(end));
        let end = &rest[rest.trim_end_matches(separators).len()..];
        if opens { format!("{name}=xxxxx{end}") } else { piece.to_owned() }
    };
    value.split_inclusive(separators).map(one).collect()
}

fn cache_places(value: &str) -> String {
    let Ok(Value::Array(mut list)) = serde_json::from_str(value) else { return String::new() };
    for entry in &mut list {
        if let Some(Value::Object(attrs)) = entry.get_mut("Attrs") {
            attrs.retain(|key, _| CACHE_PLACES.contains(&key.as_str()));
        }
        in_json(entry);
    }
    Value::Array(list).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn redacted(key: &str, value: &str) -> String {
        let list = [(key.to_owned(), value.to_owned())];
        let kept: BTreeMap<_, _> = attributes(list.iter().map(|(key, value)| (key, value)));
        kept.get(key).cloned().unwrap_or_default()
    }

    #[test]
    fn addresses_lose_their_users() {
        let context = redacted("context", "https://bob:secret@example.com/app.git#main");
        assert_eq!(context, "https://xxxxx:xxxxx@example.com/app.git#main");
        assert_eq!(redacted("context", "https://a:p@ss@h/x"), "https://xxxxx:xxxxx@h/x");
        let proxy = redacted("build-arg:HTTP_PROXY", "a HTTP://t0ken@proxy:1 b");
        assert_eq!(proxy, "a HTTP://xxxxx@proxy:1 b");
        assert_eq!(redacted("filename", "path/to@Dockerfile"), "path/to@Dockerfile");
        assert_eq!(redacted("context", "https://h/a?m=x@y"), "https://h/a?m=x@y");
        assert_eq!(redacted("context", "https://a:it's@h/x"), "https://xxxxx:xxxxx@h/x");
        let image = "docker-image://docker.io/library/a@sha256:0";
        assert_eq!(redacted("context:a", image), image);
    }

    #[test]
    fn caches_keep_their_place_alone() {
        let text =
            r#"[{"Type":"s3","Attrs":{"bucket":"b","secret_access_key":"secret","token":"t"}}]"#;
        let kept = redacted("cache-imports", text);
        assert!(
            kept.contains("\"bucket\":\"b\"")
                && !kept.contains("secret")
                && !kept.contains("token")
        );
        assert!(!redacted("cache-imports", "not a list: secret").contains("secret"));
    }

    #[test]
    fn command_lines_in_spans_lose_what_lets_one_in() {
        let said = "type=s3,bucket=b,access_key_id=AKIA,secret_access_key=a/b=,mode=max";
        assert_eq!(
            settings(said),
            "type=s3,bucket=b,access_key_id=xxxxx,secret_access_key=xxxxx,mode=max"
        );
        assert_eq!(settings("build-arg:TOKEN=x y"), "build-arg:TOKEN=xxxxx y");
        assert_eq!(settings("--password=p"), "--password=xxxxx");
        assert_eq!(settings("no settings, at all"), "no settings, at all");
        let string = |text: &str| common::AnyValue {
            value: Some(Kind::StringValue(text.to_owned())),
            ..common::AnyValue::default()
        };
        let mut value = string(said);
        any(&mut value);
        assert_eq!(value, string(&settings(said)));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        assert_eq!(redacted("build-arg:A", &"x".repeat(MAX_VALUE + 1)), "");
        let list: Vec<(String, String)> =
            (0..100).map(|number| (number.to_string(), "x".repeat(MAX_VALUE))).collect();
        let kept: BTreeMap<_, _> = attributes(list.iter().map(|(key, value)| (key, value)));
        assert!(kept.values().map(String::len).sum::<usize>() <= MAX_ATTRIBUTES);
    }

    #[test]
    fn exporters_and_names_are_bounded_too() {
        let attrs = [("a".to_owned(), "x".repeat(MAX_VALUE))];
        let one = wire::Exporter {
            Type: "x".repeat(2 * MAX_VALUE),
            Attrs: attrs.into_iter().collect(),
            ..wire::Exporter::default()
        };
        let kept = exporters(&vec![one; 2 * MAX_EXPORTERS]);
        assert_eq!(kept.len(), MAX_EXPORTERS);
        assert_eq!(kept[0].Type.len(), MAX_VALUE);
        let bytes: usize = kept.iter().flat_map(|one| one.Attrs.values()).map(String::len).sum();
        assert!(bytes > 0 && bytes <= MAX_ATTRIBUTES, "{bytes}");
        assert_eq!(error(&"é".repeat(MAX_ERROR)).len(), MAX_ERROR);
        // Cut off behind the user, there would be no address any more to see.
        let long = format!("{}://u:p@h", "x".repeat(MAX_VALUE - 6));
        assert!(!name(&long).contains("u:p"));
    }

    #[test]
    fn warnings_and_details_lose_credentials_inside_of_files_as_well() {
        let file = b"ADD https://u:secret@h/x /".to_vec();
        let info = cofferdam_wire::pb::SourceInfo { data: file.clone(), ..Default::default() };
        let mut response = wire::StatusResponse {
            warnings: vec![wire::VertexWarning {
                short: file.clone(),
                detail: vec![file.clone(), vec![0xff]],
                info: buffa::MessageField::some(info),
                ..wire::VertexWarning::default()
            }],
            ..wire::StatusResponse::default()
        };
        status(&mut response);
        let warning = &response.warnings[0];
        let hidden = b"ADD https://xxxxx:xxxxx@h/x /".to_vec();
        assert_eq!(warning.short, hidden);
        assert_eq!(warning.detail, [hidden.clone(), vec![0xff]]);
        assert_eq!(warning.info.data, hidden);

        let source = serde_json::json!({
            "info": { "data": STANDARD.encode(&file), "definition": { "def": [STANDARD.encode(&file)] } },
            "ranges": [{ "start": { "line": 1 } }],
            "said": ["of https://u:secret@h/x"],
        });
        let kept = detail(&source.to_string().into()).unwrap_or_default();
        let kept: Value = serde_json::from_slice(&kept).unwrap_or_default();
        assert_eq!(kept["info"], serde_json::json!({ "data": STANDARD.encode(&hidden) }));
        assert_eq!(kept["ranges"], source["ranges"]);
        assert_eq!(kept["said"][0], "of https://xxxxx:xxxxx@h/x");
        let op = STANDARD.encode(b"\x0a\x05local://context");
        let harmless = serde_json::json!({ "definition": { "def": [op] } });
        let kept = detail(&harmless.to_string().into()).unwrap_or_default();
        assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap_or_default(), harmless);
        let other = Bytes::from_static(b"\x00\x01 nothing");
        assert_eq!(detail(&other), Some(other));
        assert_eq!(detail(&Bytes::from_static(b"\x00 http://u:p@h/")), None);
    }
}
