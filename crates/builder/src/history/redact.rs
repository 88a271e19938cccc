//! What a request says about its build, without anything that opens a door.
//!
//! A record outlives the build and is read by whoever may list it, so user names and passwords are taken out of addresses, and of
//! cache backends only those attributes are kept that say where a cache is. Values that no person wrote are cut.

use std::sync::LazyLock;

use cofferdam_wire::moby::buildkit::v1 as wire;
use regex::Regex;
use serde_json::Value;

/// Longest value that is kept: a Dockerfile name or a build argument is shorter.
const MAX_VALUE: usize = 16 << 10;
/// All attributes together; records are listed by the dozen and sent whole.
const MAX_ATTRIBUTES: usize = 512 << 10;
/// Attributes of cache backends that say where a cache is, and none that lets one in.
const CACHE_PLACES: &[&str] =
    &["ref", "tag", "digest", "src", "dest", "scope", "bucket", "region", "name", "mode", "type"];
/// Attributes that describe cache backends.
const CACHES: &[&str] = &["cache-imports", "cache-exports"];

/// User information of an address inside a text.
static USER: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s?#]*@").ok());

/// Attributes as a record has them.
pub(super) fn attributes<'a, Kept: Default + Extend<(String, String)>>(
    attributes: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Kept {
    let mut room = MAX_ATTRIBUTES;
    let mut kept = Kept::default();
    for (key, value) in attributes {
        let value = match CACHES.contains(&key.as_str()) {
            true => cache_places(value),
            false => text(value),
        };
        let size = key.len().saturating_add(value.len());
        if value.len() <= MAX_VALUE && size <= room {
            room -= size;
            kept.extend([(key.clone(), value)]);
        }
    }
    kept
}

/// An exporter as a record has it.
pub(super) fn exporter(exporter: &wire::Exporter) -> wire::Exporter {
    wire::Exporter {
        Type: text(&exporter.Type),
        Attrs: attributes(&exporter.Attrs),
        ..wire::Exporter::default()
    }
}

/// A text without user information in its addresses.
pub(super) fn text(value: &str) -> String {
    match &*USER {
        Some(user) => user.replace_all(value, "${1}xxxxx@").into_owned(),
        None => String::new(),
    }
}

fn cache_places(value: &str) -> String {
    let Ok(Value::Array(mut list)) = serde_json::from_str(value) else { return String::new() };
    for entry in &mut list {
        if let Some(Value::Object(attrs)) = entry.get_mut("Attrs") {
            attrs.retain(|key, _| CACHE_PLACES.contains(&key.as_str()));
        }
    }
    text(&Value::Array(list).to_string())
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
        assert_eq!(context, "https://xxxxx@example.com/app.git#main");
        assert_eq!(redacted("context", "https://a:p@ss@h/x"), "https://xxxxx@h/x");
        let proxy = redacted("build-arg:HTTP_PROXY", "a HTTP://t0ken@proxy:1 b");
        assert_eq!(proxy, "a HTTP://xxxxx@proxy:1 b");
        assert_eq!(redacted("filename", "path/to@Dockerfile"), "path/to@Dockerfile");
        assert_eq!(redacted("context", "https://h/a?m=x@y"), "https://h/a?m=x@y");
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
    fn what_is_kept_is_bounded() {
        assert_eq!(redacted("build-arg:A", &"x".repeat(MAX_VALUE + 1)), "");
        let list: Vec<(String, String)> =
            (0..100).map(|number| (number.to_string(), "x".repeat(MAX_VALUE))).collect();
        let kept: BTreeMap<_, _> = attributes(list.iter().map(|(key, value)| (key, value)));
        assert!(kept.values().map(String::len).sum::<usize>() <= MAX_ATTRIBUTES);
    }
}
